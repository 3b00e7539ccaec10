//! A disk of a node's own: a file system in a file, that can end before it should, or lose its power.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use super::patience::MINUTE;
use super::run::run;

/// What is lost is lost: no journal either. (`EXT4_GOING_FLAGS_NOLOGFLUSH`.)
const WITHOUT_THE_JOURNAL: u32 = 2;

nix::ioctl_read!(
    /// `EXT4_IOC_SHUTDOWN` of fs/ext4/ext4.h: `_IOR('X', 125, __u32)`.
    shut_down,
    b'X',
    125,
    u32
);

/// An ext4 in a file. Unmounted on drop.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes it in `image` and mounts it at `at`, both of which are created.
    ///
    /// # Panics
    /// Unless this is root, with mkfs.ext4.
    pub(super) fn new(image: &Path, at: &Path, mebibytes: u64) -> Disk {
        std::fs::create_dir_all(at).expect("the folder is ours");
        File::create(image).and_then(|file| file.set_len(mebibytes << 20)).expect("the folder is ours");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image), MINUTE).ok();
        let disk = Disk { image: image.to_owned(), at: at.to_owned() };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at), MINUTE).ok();
    }

    /// Everything is an error from now on, and what was not synced is gone.
    ///
    /// # Panics
    /// When something can still be written.
    pub fn lose_power(&self) {
        let root = File::open(&self.at).expect("it is mounted");
        let mut how = WITHOUT_THE_JOURNAL;
        // SAFETY: the kernel reads one u32 from `how`, and writes none.
        unsafe { shut_down(root.as_raw_fd(), &raw mut how) }.expect("ext4 can be shut down by root");
        std::fs::write(self.at.join("proof"), "x").expect_err("nothing can be written without power");
    }

    /// Power is back. Nobody may have a file of it open.
    ///
    /// # Panics
    /// When somebody has.
    pub fn return_power(&self) {
        umount2(&self.at, MntFlags::empty()).expect("nobody uses it");
        self.mount();
    }

    /// It ends in the middle from now on: what lies behind is an I/O error.
    pub fn cut(&self, mebibytes: u64) {
        OpenOptions::new()
            .write(true)
            .open(&self.image)
            .and_then(|image| image.set_len(mebibytes << 20))
            .expect("ours");
        // What the kernel has in memory needs no disk.
        std::fs::write("/proc/sys/vm/drop_caches", "1").expect("root may");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed may have left an agent on it.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}
