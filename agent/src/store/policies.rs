//! What volumes and the map say, brought to each store: ranks, ages, shares of quotas, pins.
//!
//! Limits change at once. Who is pinned is known by keys, which only the catalog has: after a change each store looks up
//! all its objects, and evicts nobody meanwhile. Each does so by itself: a disk that hangs keeps its own store waiting (it
//! could not evict anyway), and no other one.

use std::sync::Arc;

use larder_proto::volume::Volume;
use tokio::sync::watch;

use super::Stores;
use super::admission::Volumes;
use super::directory::Directory;
use super::index::Limits;
use super::rank::Standing;

/// Objects that are looked up in one step.
const ROWS_AT_ONCE: usize = 1_024;

impl Stores {
    /// From now on the stores keep what `volumes` say, and evict as `standing` says. To be called once; before that,
    /// everything is admitted and every chunk counts as its first owner's.
    pub fn govern(&self, standing: Arc<dyn Standing>, volumes: watch::Receiver<Volumes>) {
        for directory in self.directories.iter() {
            directory.index.lock().stand(standing.clone());
        }
        self.tasks.spawn(self.clone().follow(standing, volumes));
    }

    async fn follow(self, standing: Arc<dyn Standing>, mut volumes: watch::Receiver<Volumes>) {
        let pins: Vec<watch::Sender<Pins>> =
            self.directories.iter().map(|directory| self.follow_pins(directory)).collect();
        let mut epochs = standing.epochs();
        let mut generation = None;
        loop {
            let now = volumes.borrow_and_update().clone();
            let before = self.admission.volumes();
            let repin = pins_differ(&before, &now);
            let freeze = |directory: &Arc<Directory>| directory.index.lock().freeze();
            let frozen: Vec<u64> = if repin { self.directories.iter().map(freeze).collect() } else { Vec::new() };
            self.admission.set(now.clone());
            if generation != Some(standing.generation()) || !Arc::ptr_eq(&before, &now) {
                generation = Some(standing.generation());
                self.limit(standing.as_ref(), &now);
            }
            for (store, frozen) in pins.iter().zip(frozen) {
                store.send_replace(Pins { frozen, volumes: now.clone() });
            }
            tokio::select! { biased;
                changed = volumes.changed() => if changed.is_err() { return },
                Ok(()) = epochs.changed() => {}
            }
        }
    }

    fn limit(&self, standing: &dyn Standing, volumes: &Volumes) {
        let total_bytes: u64 = self.directories.iter().map(|directory| directory.capacity_bytes).sum();
        let (own, all) = standing.share();
        for directory in self.directories.iter() {
            let part = |quota: u64| {
                let node = u128::from(quota) * u128::from(own) / u128::from(all.max(1));
                let store = node * u128::from(directory.capacity_bytes) / u128::from(total_bytes.max(1));
                u64::try_from(store).unwrap_or(u64::MAX)
            };
            let mut index = directory.index.lock();
            for id in index.known_volumes().into_iter().filter(|id| !volumes.contains_key(id)) {
                index.limit(id, Limits::default());
            }
            for (id, volume) in volumes.iter() {
                let keeping = &volume.keeping;
                // Before the first map nobody knows the shares.
                let quota_bytes = if all > 0 { keeping.quota_bytes.map(part) } else { None };
                index.limit(*id, Limits { ttl_s: keeping.ttl.map(|ttl| ttl.as_secs()), quota_bytes });
            }
            drop(index);
            directory.wake.notify_one();
            directory.chores.notify_one();
        }
    }

    /// Looks up who is pinned in one store, on a thread of its own, each time it is told.
    fn follow_pins(&self, directory: &Arc<Directory>) -> watch::Sender<Pins> {
        let (sender, mut receiver) = watch::channel(Pins::default());
        let pool = self.tasks.pool(&format!("pins-{}", directory.name), 1, 1);
        let directory = directory.clone();
        self.tasks.spawn(async move {
            while receiver.changed().await.is_ok() {
                let Pins { frozen, volumes } = receiver.borrow_and_update().clone();
                let store = directory.clone();
                let looked = pool.run(move || repin(&store, &volumes)).await;
                directory.index.lock().thaw(frozen);
                directory.wake.notify_one();
                if !matches!(looked, Ok(true)) {
                    tracing::warn!(store = directory.name, "not every object could be looked up: pins may be missed");
                }
            }
        });
        sender
    }
}

/// What a store is told when pins change.
#[derive(Clone, Default)]
struct Pins {
    /// The freeze that ends once they are looked up.
    frozen: u64,
    volumes: Volumes,
}

/// False when the catalog could not be read.
fn repin(directory: &Directory, volumes: &Volumes) -> bool {
    let mut from = [0; 16];
    loop {
        let Ok(rows) = directory.catalog.objects_from(&from, ROWS_AT_ONCE) else { return false };
        let Some(last) = rows.last() else { return true };
        from = u128::from_be_bytes(*last.object.id().as_bytes()).saturating_add(1).to_be_bytes();
        let pinned = rows.iter().map(|row| {
            let keeping = volumes.get(&row.object.volume()).map(|volume| &volume.keeping);
            (row.object.id(), keeping.is_some_and(|keeping| keeping.pins(row.object.key())))
        });
        let pinned: Vec<_> = pinned.collect();
        let now_s = directory.now_s();
        let mut index = directory.index.lock();
        for (id, pinned) in pinned {
            index.pin(&id, pinned, now_s);
        }
    }
}

fn pins_differ(before: &Volumes, now: &Volumes) -> bool {
    let pins = |volumes: &Volumes| {
        let with_pins = volumes.iter().filter(|(_, volume)| !volume.keeping.pin.is_empty());
        with_pins.map(|(id, volume): (_, &Arc<Volume>)| (*id, volume.keeping.pin.clone())).collect::<Vec<_>>()
    };
    pins(before) != pins(now)
}
