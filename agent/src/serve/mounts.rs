//! One mount per volume, for as long as the volume is in the list.
//!
//! Compares what is mounted with what should be, when the list or the map changes and once a second (somebody may have
//! unmounted one). Nothing is mounted before the first map: reads would all go to the origin. A mount that fails is
//! tried again, and logged when its error changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder_proto::ids::{Epoch, VolumeId};
use larder_proto::object::EntryName;
use larder_proto::volume::Volume;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::StartError;
use super::below::Bytewise;
use super::parts::Parts;
use crate::fs::{Below, Chunks, Fs, NameRoom, Names, Numbers};
use crate::fuse::{Mount, Ops, Passthrough};
use crate::metrics::Trees;
use crate::origin::Volumes;
use crate::runtime::mounts::Hands;
use crate::runtime::tasks::Pool;
use crate::runtime::{Runtime, mounts as system};

/// How often mounts are looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Mount calls that may wait: one task makes them, one at a time.
const CALLS_MAX: usize = 4;

/// Takes away what an earlier agent of this node left under `folder`; refuses when something else is mounted there.
pub(super) fn clean(folder: &Path) -> Result<(), StartError> {
    for mount in system::mounted()?.into_iter().rev() {
        if mount.at.parent() != Some(folder) {
            continue;
        }
        if !system::is_ours(&mount) {
            return Err(StartError::ForeignMount { at: mount.at, kind: mount.kind });
        }
        tracing::info!(at = %mount.at.display(), "taking away a mount that an earlier agent left");
        system::unmount(&mount.at)?;
        system::remove_mount_point(&mount.at);
    }
    Ok(())
}

/// The node's mounts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mounts {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    folder: PathBuf,
    hands: Hands,
    numbers: Arc<Numbers>,
    names: Arc<dyn Names>,
    chunks: Arc<dyn Chunks>,
    room: Arc<NameRoom>,
    ops: Arc<Ops>,
    passthrough: Passthrough,
    /// Rung when a mount comes or goes.
    news: Arc<Notify>,
    calls: Pool,
    reliefs: Pool,
    /// Nothing once they were taken away for good.
    live: Mutex<Option<BTreeMap<VolumeId, Mount>>>,
    /// The trees of `live`, for those who only look.
    trees: Trees,
    failures: Mutex<BTreeMap<VolumeId, String>>,
    /// Mounts that this process has seen in their place.
    seen: Mutex<BTreeSet<VolumeId>>,
}

impl Mounts {
    /// No mounts yet, in `folder`.
    pub(super) fn new(
        (folder, hands): (PathBuf, Hands),
        numbers: Arc<Numbers>,
        parts: &Parts,
        news: Arc<Notify>,
    ) -> Self {
        let runtime = parts.ground.runtime.clone();
        let inner = Inner {
            folder,
            hands,
            numbers,
            names: Arc::new(parts.names.clone()),
            chunks: Arc::new(Bytewise { cache: parts.cache.clone(), stores: parts.ground.stores.clone() }),
            room: parts.room.clone(),
            ops: parts.ops.clone(),
            passthrough: parts.ground.passthrough.clone(),
            news,
            calls: runtime.tasks.pool("mounts", 1, CALLS_MAX),
            reliefs: runtime.tasks.pool("reliefs", 1, 1),
            runtime,
            live: Mutex::new(Some(BTreeMap::new())),
            trees: Trees::default(),
            failures: Mutex::default(),
            seen: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn trees(&self) -> Trees {
        self.inner.trees.clone()
    }

    pub(super) fn start(&self, volumes: watch::Receiver<Volumes>, epoch: watch::Receiver<Epoch>) {
        self.inner.runtime.tasks.spawn(look_after(self.inner.clone(), volumes, epoch));
    }

    /// Takes all mounts away, for good.
    pub(super) async fn stop(&self) {
        let inner = self.inner.clone();
        let unmounted = self.inner.calls.run(move || {
            let live = inner.live.lock().take();
            inner.trees.replace(BTreeMap::new());
            live.into_iter().flatten().for_each(|(_, mount)| inner.take_away(mount));
        });
        let unmounted = unmounted.await;
        if let Err(error) = unmounted {
            tracing::error!(%error, "mounts are left behind; the next start takes them away");
        }
    }
}

async fn look_after(inner: Arc<Inner>, mut volumes: watch::Receiver<Volumes>, mut epoch: watch::Receiver<Epoch>) {
    loop {
        let wanted = volumes.borrow_and_update().clone();
        if *epoch.borrow_and_update() > Epoch(0) {
            let (changed, handle) = (inner.clone(), tokio::runtime::Handle::current());
            let settled = inner.calls.run(move || {
                let _entered = handle.enter();
                changed.settle(&wanted);
            });
            if let Err(error) = settled.await {
                tracing::error!(%error, "mounts can't be looked after");
            }
            inner.relieve();
        }
        tokio::select! { biased;
            changed = volumes.changed() => if changed.is_err() { return },
            changed = epoch.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

impl Inner {
    /// Makes what is mounted equal to what is wanted. Blocks.
    fn settle(&self, wanted: &Volumes) {
        let mut live = self.live.lock();
        let Some(live) = live.as_mut() else { return };
        let missing = self.missing(live);
        let gone: Vec<VolumeId> = live
            .iter()
            .filter(|(id, mount)| !wanted.contains_key(id) || !mount.is_alive() || missing.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for (id, mount) in gone.iter().filter_map(|id| live.remove_entry(id)) {
            match missing.contains(&id) && mount.is_alive() {
                // Who has it elsewhere, such as a pod, is served as before.
                true => tracing::info!(at = %mount.at().display(), "somebody has unmounted it"),
                false => self.take_away(mount),
            }
        }
        for (id, volume) in wanted.iter() {
            match live.get(id) {
                Some(mount) => self.update(mount, volume),
                None => match self.mount(volume) {
                    Ok(mount) => {
                        tracing::info!(volume = %volume.name, at = %mount.at().display(), "mounted");
                        self.failures.lock().remove(id);
                        live.insert(*id, mount);
                    }
                    Err(error) => self.tell(volume, &error),
                },
            }
        }
        self.failures.lock().retain(|id, _| wanted.contains_key(id));
        let before = self.trees.current().keys().copied().collect::<Vec<VolumeId>>();
        self.trees.replace(live.iter().map(|(id, mount)| (*id, mount.fs().clone())).collect());
        if !live.keys().eq(&before) {
            self.news.notify_one();
        }
    }

    /// Mounts that somebody has taken from their places, but not from everywhere: the kernel still sends their requests.
    fn missing(&self, live: &BTreeMap<VolumeId, Mount>) -> BTreeSet<VolumeId> {
        // Where it can't be read, everything is believed to be there.
        let Ok(mounted) = system::mounted() else { return BTreeSet::new() };
        let is_there = |mount: &Mount| mounted.iter().any(|found| found.at == mount.at() && system::is_ours(found));
        let there: BTreeSet<VolumeId> = live.iter().filter(|(_, mount)| is_there(mount)).map(|(id, _)| *id).collect();
        // One that was never seen is where this process can't look.
        let seen = std::mem::replace(&mut *self.seen.lock(), there.clone());
        live.keys().filter(|id| seen.contains(id) && !there.contains(id)).copied().collect()
    }

    /// Keeps names within their bound, apart from everything else: the kernel may take its time.
    fn relieve(&self) {
        let live = self.live.lock();
        for mount in live.iter().flat_map(BTreeMap::values).filter(|mount| mount.fs().is_crowded()) {
            let (reliefs, relief) = (self.reliefs.clone(), mount.relief());
            // Full: an earlier relief is still under way, and the next look comes in a second.
            self.runtime.tasks.spawn(async move {
                let _under_way = reliefs.run(move || relief.run()).await;
            });
        }
    }

    fn mount(&self, volume: &Arc<Volume>) -> io::Result<Mount> {
        let name = EntryName::parse(&volume.name).map_err(|_| io::ErrorKind::InvalidInput)?;
        let at = self.folder.join(name.as_str());
        if matches!(self.hands, Hands::Own) {
            if let Some(mount) = system::mounted_at(&at)? {
                let why = format!("{} is mounted at {} already", mount.kind, at.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
            }
            self.runtime.disk.create_dir_all(&at)?;
        }
        let backings = self.passthrough.connection();
        let below = Below {
            names: self.names.clone(),
            chunks: self.chunks.clone(),
            numbers: self.numbers.clone(),
            backings: backings.clone(),
            room: self.room.clone(),
        };
        let fs = Arc::new(Fs::new(self.runtime.clone(), volume.clone(), below));
        let mount = Mount::new(&self.runtime, fs, backings, (&at, &self.hands), self.ops.clone())?;
        // A mounter of an earlier version gives pods nothing; everything else goes on.
        if let Err(error) = self.hands.offer(&at, &volume.namespace) {
            tracing::warn!(volume = %volume.name, namespace = %volume.namespace, %error, "pods can't be given the volume");
        }
        Ok(mount)
    }

    fn tell(&self, volume: &Volume, error: &io::Error) {
        let text = error.to_string();
        let told = self.failures.lock().insert(volume.id, text.clone());
        if told.as_ref() != Some(&text) {
            tracing::error!(volume = %volume.name, namespace = %volume.namespace, %error, "the volume can't be mounted");
        }
    }

    fn update(&self, mount: &Mount, volume: &Arc<Volume>) {
        let before = mount.fs().volume();
        if Arc::ptr_eq(&before, volume) {
            return;
        }
        mount.fs().set_volume(volume.clone());
        if before.read_ahead_bytes != volume.read_ahead_bytes
            && let Err(error) = self.hands.set_read_ahead(mount.at(), volume.read_ahead_bytes)
        {
            tracing::warn!(volume = %volume.name, %error, "the kernel's read-ahead can't be changed");
        }
    }

    fn take_away(&self, mount: Mount) {
        let at = mount.at().to_owned();
        match mount.unmount() {
            Ok(()) => {
                self.hands.remove_mount_point(&at);
                tracing::info!(at = %at.display(), "unmounted");
            }
            Err(error) => tracing::error!(at = %at.display(), %error, "the mount can't be taken away"),
        }
    }
}
