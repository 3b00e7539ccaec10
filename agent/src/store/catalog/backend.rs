//! redb's storage over the runtime's disk, with a gate that stops its writes for good.
//!
//! redb makes what it has durable when it is dropped. After a fence, and when a store is dropped without being closed,
//! that would name chunks whose bytes were never synced: the gate turns such a drop into what a crash would leave.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use crate::runtime::disk::File;

/// Open until it is shut; never opens again.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    shut: Arc<AtomicBool>,
}

impl Gate {
    /// No write passes any more.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    fn pass(&self) -> io::Result<()> {
        if self.shut.load(Ordering::Acquire) { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

/// The index file.
pub(super) struct Backend {
    pub file: Arc<dyn File>,
    pub gate: Gate,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let count = self.file.read_at(out, offset)?;
        if count == out.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gate.pass()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.gate.pass()?;
        self.file.write_at(data, offset)
    }
}
