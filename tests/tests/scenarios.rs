//! Scenarios over real processes: `larder up`, its agents, mounts of the kernel, and the origin double.
//!
//! One program, because linking is most of what a test file costs. Each test has a cluster of its own; at most two run
//! at a time. They need root, /dev/fuse, and the programs (`cargo build --workspace --bins`).

mod scenarios {
    mod azure;
    mod bad_input;
    mod bad_origins;
    mod bytes;
    mod changes;
    mod crowds;
    mod deaths;
    mod directories;
    mod disks;
    mod docs_true;
    mod drains;
    mod flights;
    mod freshness;
    mod growth;
    mod guests;
    mod keeping;
    mod leftovers;
    mod local_mode;
    mod memory;
    mod min_nodes;
    mod names;
    mod origin_faults;
    mod partitions;
    mod passthrough;
    mod programs;
    mod read_only;
    mod requests;
    mod restarts;
    mod semantics_quoted;
    mod sizes;
    mod stores;
    mod zones;
}
