//! Reading files of mounts the way a scenario needs it: past the kernel's page cache, with errors as errno.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    crate::sigv4::sha256_hex(bytes)
}

/// Opens a file and drops its clean pages from the kernel's cache, so that reads ask the agent.
pub fn open_uncached(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(file)
}

/// The whole file, asked of the agent.
pub fn read_uncached(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_uncached(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a directory.
pub fn list(path: &Path) -> io::Result<BTreeSet<String>> {
    let name = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    std::fs::read_dir(path)?.map(name).collect()
}

/// The errno of a failed call.
///
/// # Panics
/// If the error didn't come from the kernel.
pub fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_else(|| panic!("not from the kernel: {error}")))
}
