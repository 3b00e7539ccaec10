//! FUSE mounts, made, tuned, found and taken away by system calls only; for the mounter, and for agents that are root.
//!
//! Nothing here touches a mount (no stat, no open below it): a FUSE mount whose agent is this process, or is gone,
//! would block. What is mounted where is read from /proc/self/mountinfo; no helper program is run.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What `mount` shows as the file system's type.
const KIND: &str = "fuse.larder";

/// The largest read the kernel sends.
const READ_BYTES_MAX: u32 = 1024 * 1024;

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// `major:minor` of the file system, as /sys/class/bdi names it.
    pub device: String,
    /// Where it is mounted.
    pub at: PathBuf,
    /// The file system's type, `fuse.larder` for ours.
    pub kind: String,
    /// Whether nothing can be written there.
    pub is_read_only: bool,
}

/// Everything that is mounted in this process's namespace, in order of mounting.
pub fn mounted() -> io::Result<Vec<Mounted>> {
    Ok(parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// What lies on top at `at`, if anything is mounted exactly there.
pub fn mounted_at(at: &Path) -> io::Result<Option<Mounted>> {
    Ok(mounted()?.into_iter().rfind(|mount| mount.at == at))
}

/// Whether a mount is one of ours, alive or left behind by an agent that died.
pub fn is_ours(mount: &Mounted) -> bool {
    mount.kind == KIND
}

/// Mounts a new read-only FUSE file system at `at` and returns its connection; the kernel's first request (INIT) is
/// waiting on it. Needs root and /dev/fuse. The caller unmounts.
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

/// Shows at `to` what is mounted at `from`, with the same options.
pub fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)?)
}

/// Takes the topmost mount at `at` away, at once for new users; those who have files open keep them until they close
/// them or the connection ends. Links in the last component aren't followed.
pub fn unmount(at: &Path) -> io::Result<()> {
    Ok(umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Sets how far the kernel reads ahead on a mount. INIT can't go above 128 KiB; only this can.
pub fn set_read_ahead(mount: &Mounted, bytes: u64) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mount.device), (bytes / 1024).to_string())
}

fn parse_mountinfo(text: &str) -> Vec<Mounted> {
    text.lines().filter_map(parse_line).collect()
}

/// `id parent major:minor root mount-point options... - type source super-options` (proc(5)).
fn parse_line(line: &str) -> Option<Mounted> {
    let (head, tail) = line.split_once(" - ")?;
    let mut fields = head.split(' ').skip(2);
    let device = fields.next()?.to_owned();
    let at = unescape(fields.nth(1)?);
    let is_read_only = fields.next()?.split(',').any(|option| option == "ro");
    let kind = tail.split(' ').next()?.to_owned();
    Some(Mounted { device, at, kind, is_read_only })
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok()));
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
97 22 0:54 / /d/my\\040mnt/data ro,nosuid,nodev,noatime - fuse.larder larder ro,user_id=0\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 2);
        let ours = &mounts[1];
        assert_eq!((ours.device.as_str(), ours.at.as_path()), ("0:54", Path::new("/d/my mnt/data")));
        assert!(is_ours(ours) && !is_ours(&mounts[0]));
        assert!(ours.is_read_only && !mounts[0].is_read_only);
    }

    #[test]
    fn foreign_lines_are_left_out() {
        assert_eq!(parse_mountinfo("\n1 2\nx y - z\n"), Vec::new());
        assert_eq!(parse_mountinfo("nonsense"), Vec::new());
    }
}
