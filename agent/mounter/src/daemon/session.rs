//! One cluster's folder: its socket, and one agent at a time on it. What an agent mounted ends with its connection.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use larder_mounter::{AGENT, AGENT_USER, MOUNTS, Reply, Request, SOCKET, receive, send};

use super::offers::Offers;
use super::{listener, mounts, stores};

/// Volumes of one cluster.
const MOUNTS_MAX: usize = 1_024;

/// What an agent asked for, or why it isn't done.
type Done = io::Result<Option<OwnedFd>>;

/// Makes the folder's parts, then serves agents for ever.
pub fn serve(folder: &Path, allowed: &[PathBuf], offers: &Offers) -> io::Result<()> {
    let agents = folder.join(AGENT);
    make(&agents, 0o700)?;
    chown(&agents, Some(AGENT_USER), Some(AGENT_USER))?;
    make(&folder.join(MOUNTS), 0o755)?;
    let listener = listener::open(&folder.join(SOCKET), AGENT_USER)?;
    let cluster = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    loop {
        let agent = listener::accept(&listener);
        eprintln!("larder-mounter: {cluster}: an agent is here");
        let mut session = Session { folder, cluster: &cluster, allowed, offers, mounted: Vec::new() };
        if let Err(error) = session.converse(&agent) {
            eprintln!("larder-mounter: {cluster}: the agent's connection: {error}");
        }
        session.end();
    }
}

fn make(folder: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // A link here would lead elsewhere what is meant for this folder.
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

struct Session<'a> {
    folder: &'a Path,
    cluster: &'a str,
    allowed: &'a [PathBuf],
    offers: &'a Offers,
    mounted: Vec<PathBuf>,
}

impl Session<'_> {
    fn converse(&mut self, agent: &OwnedFd) -> io::Result<()> {
        while let Some((bytes, _unasked)) = receive(agent)? {
            let done = match Request::decode(&bytes) {
                Ok(request) => self.answer(request),
                Err(malformed) => Err(io::Error::other(malformed)),
            };
            match done {
                Ok(descriptor) => {
                    send(agent, &Reply::Done.encode(), descriptor.as_ref().map(|descriptor| descriptor.as_fd()))?;
                }
                Err(error) => {
                    let refused = Reply::Refused { errno: error.raw_os_error().unwrap_or(0), why: error.to_string() };
                    send(agent, &refused.encode(), None)?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Done {
        match request {
            Request::Prepare { host_path, is_mount_point } => {
                stores::prepare(Path::new(&host_path), is_mount_point, self.cluster, self.allowed)
                    .map_err(io::Error::other)?;
                Ok(None)
            }
            Request::Mount { name } => self.mount(&name).map(Some),
            Request::Unmount { name } => {
                let at = self.known(&name)?;
                self.offers.withdraw(&at);
                mounts::take_away(&at)?;
                self.mounted.retain(|mounted| *mounted != at);
                Ok(None)
            }
            Request::ReadAhead { name, bytes } => {
                mounts::read_ahead(&self.known(&name)?, bytes)?;
                Ok(None)
            }
            Request::Offer { name, namespace } => {
                self.offers.make(&self.known(&name)?, format!("{namespace}/{name}"));
                Ok(None)
            }
        }
    }

    fn mount(&mut self, name: &str) -> io::Result<OwnedFd> {
        let at = self.at(name)?;
        if self.mounted.len() >= MOUNTS_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if mounts::is_mounted(&at)? {
            // Somebody unmounted ours, and a new one is asked for; or the agent has lost count.
            self.offers.withdraw(&at);
            mounts::take_away(&at)?;
        }
        make(&at, 0o755)?;
        let connection = larder_mounter::mounts::make(&at)?;
        self.mounted.retain(|mounted| *mounted != at);
        self.mounted.push(at);
        Ok(connection)
    }

    /// Where a volume of this name is mounted. A name is one component: nothing outside can be meant.
    fn at(&self, name: &str) -> io::Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_name = !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && name.bytes().all(plain);
        if is_name { Ok(self.folder.join(MOUNTS).join(name)) } else { Err(io::ErrorKind::InvalidFilename.into()) }
    }

    fn known(&self, name: &str) -> io::Result<PathBuf> {
        let at = self.at(name)?;
        if self.mounted.contains(&at) { Ok(at) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// The agent is gone: readers get ENOTCONN, and the next agent mounts anew.
    fn end(&self) {
        for at in self.mounted.iter().rev() {
            self.offers.withdraw(at);
            if let Err(error) = mounts::take_away(at) {
                eprintln!("larder-mounter: {}: {error}", at.display());
            }
        }
        eprintln!("larder-mounter: {}: the agent is gone; {} mounts are taken away", self.cluster, self.mounted.len());
    }
}
