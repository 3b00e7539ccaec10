//! What lies where in `--dir`.
//!
//! ```text
//! up.lock                 held while `larder up` runs
//! larder.sock             where the other commands find it
//! authority/              CA, last signed map, node ids
//! <node>/agent.yaml       the agent's configuration
//! <node>/token            what it joins with (0600)
//! <node>/agent.log        what it logs
//! <node>/agent/           its state: key, certificate, map, start counter
//! <node>/<store>/         a store's cache; survives `down`
//! <node>/mnt/<volume>/    a mount
//! ```

use std::path::{Path, PathBuf};

/// The folder of one local cluster.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `root`, which must be absolute: mounts are found by their path.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Held by the running `larder up`.
    pub fn lock(&self) -> PathBuf {
        self.root.join("up.lock")
    }

    /// Where commands are taken.
    pub fn socket(&self) -> PathBuf {
        self.root.join("larder.sock")
    }

    /// The authority's state.
    pub fn authority(&self) -> PathBuf {
        self.root.join("authority")
    }

    /// The CA certificate agents trust.
    pub fn trust(&self) -> PathBuf {
        self.root.join("trust.pem")
    }

    /// Everything of one node.
    pub fn node(&self, node: &str) -> NodeFolder {
        NodeFolder { root: self.root.join(node) }
    }
}

/// The folder of one node.
#[derive(Clone, Debug)]
pub struct NodeFolder {
    root: PathBuf,
}

impl NodeFolder {
    /// Names a store can't have, because something else lies there.
    pub const TAKEN: [&str; 5] = ["agent", "agent.yaml", "agent.log", "token", "mnt"];

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The agent's configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("agent.yaml")
    }

    /// The join token.
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.root.join("agent.log")
    }

    /// The agent's state folder.
    pub fn state(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// Written by the agent when it serves.
    pub fn ready(&self) -> PathBuf {
        self.state().join("ready.json")
    }

    /// A store.
    pub fn store(&self, store: &str) -> PathBuf {
        self.root.join(store)
    }

    /// The parent of the mounts.
    pub fn mounts(&self) -> PathBuf {
        self.root.join("mnt")
    }
}
