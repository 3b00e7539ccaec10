//! Looks for clusters' folders, and serves each on a thread of its own; another serves the node's CSI plugin.
//!
//! A folder is a cluster's when its name is a UUID; everything else is passed over. Folders are made by the kubelet, for
//! the agents' hostPath. A cluster's thread serves one agent at a time: the next one waits in the socket's backlog.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod listener;
mod mounts;
mod offers;
mod plugin;
mod session;
mod stores;
mod targets;

use offers::Offers;

/// How often new folders are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Clusters of one node; more are left alone.
const CLUSTERS_MAX: usize = 64;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clusters' folders are.
    pub run: PathBuf,
    /// Below these, stores may be made.
    pub allowed_prefixes: Vec<PathBuf>,
    /// The CSI plugin's socket; without it there are no pods' volumes.
    pub plugin: Option<PathBuf>,
    /// The kubelet's folder, as the kubelet names it.
    pub kubelet: PathBuf,
}

/// Serves for ever.
pub fn run(settings: Settings) -> io::Result<Infallible> {
    std::fs::create_dir_all(&settings.run)?;
    mounts::take_away_below(&settings.run)?;
    let offers = Offers::default();
    serve_plugin(&settings, &offers)?;
    let mut served: BTreeSet<OsString> = BTreeSet::new();
    loop {
        for folder in clusters(&settings.run)? {
            let Some(name) = folder.file_name().map(OsString::from) else { continue };
            if served.len() >= CLUSTERS_MAX || !served.insert(name) {
                continue;
            }
            let (allowed, offers) = (settings.allowed_prefixes.clone(), offers.clone());
            std::thread::Builder::new().name("cluster".into()).spawn(move || {
                // A folder whose socket fails is one that people changed; the others go on.
                if let Err(error) = session::serve(&folder, &allowed, &offers) {
                    eprintln!("larder-mounter: {}: {error}", folder.display());
                }
            })?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A plugin that can't be served is asked for in vain, and says so; agents are served all the same.
fn serve_plugin(settings: &Settings, offers: &Offers) -> io::Result<()> {
    let Some(socket) = settings.plugin.clone() else { return Ok(()) };
    let (kubelet, offers) = (settings.kubelet.clone(), offers.clone());
    std::thread::Builder::new().name("plugin".into()).spawn(move || {
        if let Err(error) = plugin::serve(&socket, &kubelet, &offers) {
            eprintln!("larder-mounter: {}: {error}", socket.display());
        }
    })?;
    Ok(())
}

fn clusters(run: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(run)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name().to_str().is_some_and(is_cluster) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Whether a name is a UUID as clusters' are written: lower case, with hyphens.
pub fn is_cluster(name: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match hyphens.contains(&at) {
            true => byte == b'-',
            false => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_a_uuid() {
        assert!(is_cluster("75f83916-399c-5d55-ab38-eab123e3805f"));
        for name in [
            "",
            "..",
            "75F83916-399c-5d55-ab38-eab123e3805f",
            "75f83916-399c-5d55-ab38-eab123e3805",
            "75f83916x399c-5d55-ab38-eab123e3805f",
        ] {
            assert!(!is_cluster(name), "{name}");
        }
    }
}
