//! What a read waits for when the net is cut in the middle of everything, silently, in every direction: on simulated
//! time, where nothing is late because a machine is busy. Names are asked for anew, and bytes are on two nodes.

use std::ffi::OsStr;
use std::time::Duration;

use larder_proto::object::ChunkIndex;
use larder_proto::wire::RequestId;

use super::{World, content, until};
use crate::fs::{Fh, Fs, Ino};

/// The promise of docs/FAULTS.md, row 8.
const STALL: Duration = Duration::from_secs(2);

/// Less than all files together: what is read again comes from peers.
const MEMORY_BYTES: u64 = 256 << 10;

const FILES: usize = 24;
const FILE: usize = 40_000;

/// Longer than the volume's freshness, and than idle connections live.
const FORGETS: Duration = Duration::from_secs(61);

/// How a cut begins: with connections that are in use, or without any.
#[derive(Clone, Copy, Debug)]
enum Before {
    Busy,
    Idle,
}

/// Which words don't arrive.
#[derive(Clone, Copy, Debug)]
enum Which {
    ToOne,
    FromOne,
    BothWays,
    Everybodys,
}

impl Which {
    fn happen(self, world: &World, one: usize) {
        for other in (0..3).filter(|other| *other != one) {
            match self {
                Self::ToOne => world.cut(other, one),
                Self::FromOne => world.cut(one, other),
                Self::BothWays => world.isolate(one),
                Self::Everybodys => world.isolate(other),
            }
        }
    }
}

fn key(number: usize) -> String {
    format!("d{}/f{number}", number % 5)
}

async fn read(fs: &Fs, number: usize, fh: u64) {
    let (dir, name) = (format!("d{}", number % 5), format!("f{number}"));
    let dir = look(fs, Ino::ROOT, &dir).await;
    let ino = look(fs, dir, &name).await;
    let fh = Fh(fh);
    fs.open(ino, fh).await.expect("opens");
    let len = u32::try_from(FILE).expect("small");
    let bytes = match fs.read_now(RequestId(fh.0), fh, 0, len).expect("no error") {
        Some(parts) => parts,
        None => fs.read(RequestId(fh.0), fh, 0, len).await.expect("no error"),
    };
    assert_eq!(bytes.into_bytes(), content(&key(number), FILE));
    fs.release(fh);
    fs.forget(ino, 1);
    fs.forget(dir, 1);
}

async fn look(fs: &Fs, parent: Ino, name: &str) -> Ino {
    let entry = match fs.lookup_now(parent, OsStr::new(name)) {
        Some(entry) => entry,
        None => fs.lookup(parent, OsStr::new(name)).await,
    };
    entry.expect("it exists").attr.ino
}

/// The longest that a file of all took, from its name to its bytes, after the cut, on any node.
async fn longest(seed: u64, before: Before, which: Which) -> Duration {
    let world = World::planned(seed, MEMORY_BYTES, 3).await;
    world.origin.set_latency(Duration::from_millis(20));
    let objects: Vec<_> = (0..FILES).map(|number| world.put(&key(number), FILE)).collect();
    let mut handle = 0;
    for number in 0..FILES {
        handle += 1;
        read(&world.node(0).fs, number, handle).await;
    }
    let map = world.current();
    until("there are two copies of each", || {
        objects.iter().all(|object| {
            let chunk = object.chunk(ChunkIndex(0)).expect("it isn't empty");
            map.owners(chunk.slot()).iter().all(|id| world.node(id.0 as usize - 1).stores.has(&chunk.id()))
        })
    })
    .await;
    tokio::time::sleep(FORGETS).await;
    if let Before::Busy = before {
        for number in 0..FILES / 2 {
            handle += 1;
            read(&world.node(number % 3).fs, number, handle).await;
        }
    }
    which.happen(&world, usize::try_from(seed % 3).expect("small"));
    let mut longest = Duration::ZERO;
    for number in 0..FILES * 3 {
        handle += 1;
        let began = world.now();
        read(&world.node(number % 3).fs, number / 3, handle).await;
        longest = longest.max(world.now() - began);
    }
    assert!(world.net.cut_short() > 0, "{which:?}: nobody met the cut");
    longest
}

#[test]
fn a_silent_cut_holds_a_read_for_two_seconds_at_most() {
    for which in [Which::ToOne, Which::FromOne, Which::BothWays, Which::Everybodys] {
        for before in [Before::Busy, Before::Idle] {
            let mut most = Duration::ZERO;
            for seed in 1..=3 {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
                let longest = runtime.expect("a runtime").block_on(longest(seed, before, which));
                assert!(longest <= STALL, "{which:?}, {before:?}, seed {seed}: {longest:?}");
                most = most.max(longest);
            }
            println!("{which:?}, {before:?}: the longest read took {most:?}");
        }
    }
}
