//! Everything that would change a ReadOnly volume is EROFS, and changes nothing.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use larder_tests::harness::{Cluster, SOON, VolumeSpec, errno, within};
use larder_tests::stub::StubS3;
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

type Try = (&'static str, fn(&Path) -> io::Result<()>);

fn file(root: &Path) -> std::path::PathBuf {
    root.join("dir/file")
}

fn set_times(path: &Path) -> io::Result<()> {
    let time = TimeSpec::new(1, 0);
    Ok(utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::FollowSymlink)?)
}

fn set_attribute(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: three pointers to bytes that live until the call returns, and the length of the second.
    let done = unsafe { libc::setxattr(path.as_ptr(), c"user.note".as_ptr(), c"x".as_ptr().cast(), 1, 0) };
    Errno::result(done).map_err(io::Error::from).map(drop)
}

fn remove_attribute(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: two strings that live until the call returns.
    let done = unsafe { libc::removexattr(path.as_ptr(), c"user.note".as_ptr()) };
    Errno::result(done).map_err(io::Error::from).map(drop)
}

const TRIES: [Try; 23] = [
    ("open for writing", |root| File::options().write(true).open(file(root)).map(drop)),
    ("open for reading and writing", |root| File::options().read(true).write(true).open(file(root)).map(drop)),
    ("open for appending", |root| File::options().append(true).open(file(root)).map(drop)),
    ("open and truncate", |root| File::options().write(true).truncate(true).open(file(root)).map(drop)),
    ("create", |root| File::create_new(root.join("new")).map(drop)),
    ("create below a directory", |root| File::create(root.join("dir/new")).map(drop)),
    ("O_TMPFILE", |root| File::options().write(true).custom_flags(libc::O_TMPFILE).open(root.join("dir")).map(drop)),
    ("mkdir", |root| fs::create_dir(root.join("new"))),
    ("rmdir", |root| fs::remove_dir(root.join("empty"))),
    ("unlink", |root| fs::remove_file(file(root))),
    ("rename", |root| fs::rename(file(root), root.join("dir/other"))),
    ("rename over a file", |root| fs::rename(file(root), root.join("dir/second"))),
    ("rename a directory", |root| fs::rename(root.join("dir"), root.join("dir2"))),
    ("truncate", |root| Ok(nix::unistd::truncate(&file(root), 1)?)),
    ("chmod", |root| fs::set_permissions(file(root), Permissions::from_mode(0o777))),
    ("chmod of a directory", |root| fs::set_permissions(root.join("dir"), Permissions::from_mode(0o777))),
    ("chown", |root| chown(file(root), Some(1), Some(1))),
    ("utimens", |root| set_times(&file(root))),
    ("link", |root| fs::hard_link(file(root), root.join("dir/link"))),
    ("symlink", |root| symlink("file", root.join("dir/link"))),
    ("mknod", |root| Ok(mknod(&root.join("fifo"), SFlag::S_IFIFO, Mode::S_IRWXU, 0)?)),
    ("setxattr", |root| set_attribute(&file(root))),
    ("removexattr", |root| remove_attribute(&file(root))),
];

/// W1. `ReadOnly` volumes give EROFS.
#[test]
fn everything_that_writes_is_erofs() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("dir/file", "content");
    stub.put("dir/second", "other content");
    stub.put("empty/", "");
    let before = stub.keys();
    let cluster = Cluster::builder().nodes(1).replicas(1).volume(VolumeSpec::s3("data", &stub)).up();
    let root = cluster.mount("n1", "data");
    let outcomes = within(SOON, "23 tries to write", move || {
        TRIES.map(|(what, attempt)| (what, attempt(&root).map_err(|e| errno(&e))))
    });
    let wrong: Vec<_> = outcomes.into_iter().filter(|(_, outcome)| *outcome != Err(Errno::EROFS)).collect();
    assert!(wrong.is_empty(), "not EROFS: {wrong:?}");
    assert_eq!(stub.keys(), before);
    assert_eq!(cluster.read("n1", "data", "dir/file").unwrap(), b"content");
}
