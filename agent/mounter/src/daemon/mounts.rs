//! FUSE mounts, made and taken away by system calls only, never touched, found in /proc/self/mountinfo.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const KIND: &str = "fuse.larder";

/// The largest read the kernel sends.
const READ_BYTES_MAX: u32 = 1024 * 1024;

/// Mounts a new read-only file system on an empty folder; returns its connection.
pub fn make(at: &Path) -> io::Result<OwnedFd> {
    let device: OwnedFd = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={READ_BYTES_MAX}",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME | MsFlags::MS_RDONLY;
    mount(Some("larder"), at, Some(KIND), flags, Some(options.as_str()))?;
    Ok(device)
}

/// Takes the topmost mount at `at` away, at once for new users, and its folder.
pub fn take_away(at: &Path) -> io::Result<()> {
    umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    // It stays when somebody else has mounted there; nothing is lost by it.
    let _stays = fs::remove_dir(at);
    Ok(())
}

/// Takes away every mount of ours below `folder`: their agent is gone, and reading them would hang or fail.
pub fn take_away_below(folder: &Path) -> io::Result<()> {
    for (at, _) in ours()?.into_iter().rev().filter(|(at, _)| at.starts_with(folder)) {
        take_away(&at)?;
    }
    Ok(())
}

/// Sets how far the kernel reads ahead on the mount at `at`.
pub fn read_ahead(at: &Path, bytes: u64) -> io::Result<()> {
    let mounts = ours()?;
    let (_, device) = mounts.iter().rfind(|(mounted, _)| mounted == at).ok_or(io::ErrorKind::NotFound)?;
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), (bytes / 1024).to_string())
}

/// Whether something of ours is mounted at `at`.
pub fn is_mounted(at: &Path) -> io::Result<bool> {
    Ok(ours()?.iter().any(|(mounted, _)| mounted == at))
}

/// Where ours are mounted, and the `major:minor` of each.
fn ours() -> io::Result<Vec<(PathBuf, String)>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

/// `id parent major:minor root mount-point options... - type source super-options` (proc(5)). The paths of ours have
/// nothing that is written in octal.
fn parse(line: &str) -> Option<(PathBuf, String)> {
    let (head, tail) = line.split_once(" - ")?;
    if tail.split(' ').next() != Some(KIND) {
        return None;
    }
    let mut fields = head.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    Some((PathBuf::from(fields.nth(1)?), device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ours_are_seen() {
        let line = "97 22 0:54 / /run/larder/c/mnt/data ro,nosuid - fuse.larder larder ro,user_id=0";
        assert_eq!(parse(line), Some((PathBuf::from("/run/larder/c/mnt/data"), "0:54".into())));
        assert_eq!(parse("22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"), None);
        assert_eq!(parse("nonsense"), None);
    }
}
