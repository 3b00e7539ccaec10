//! Which volumes have an origin here: follows the list that the operator sends.
//!
//! A volume's origin lives as long as the volume is in the list; changed credentials reach it with the next request.
//! Looked up when asked for, so there is no task and nothing to wait for.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_proto::ids::VolumeId;
use larder_proto::volume::Volume;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Origin, OriginError, VolumeOrigin};
use crate::runtime::Runtime;

/// The volumes of this cluster as the operator last said.
pub type Volumes = Arc<BTreeMap<VolumeId, Arc<Volume>>>;

/// Makes the origin of a volume: the real one, or a simulated one.
pub trait Open: Send + Sync {
    /// The origin, not asked yet. An error here is a volume that can't work until it is mended.
    fn open(&self, volume: &Volume) -> Result<Arc<dyn Origin>, OriginError>;
}

/// All origins. Cheap to clone.
#[derive(Clone)]
pub struct Origins(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    volumes: watch::Receiver<Volumes>,
    open: Arc<dyn Open>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    of: Volumes,
    origins: BTreeMap<VolumeId, (Arc<Volume>, Arc<VolumeOrigin>)>,
}

impl Origins {
    /// Origins made by `open` for the volumes of the list.
    pub fn new(runtime: Runtime, volumes: watch::Receiver<Volumes>, open: Arc<dyn Open>) -> Self {
        Self(Arc::new(Inner { runtime, volumes, open, known: Mutex::default() }))
    }

    /// The volume, as it is now.
    pub fn volume(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.0.volumes.borrow().get(&id).cloned()
    }

    /// The volume's origin; `None` when there is no such volume (any more), or its origin can't be made (logged once).
    pub fn get(&self, id: VolumeId) -> Option<Arc<VolumeOrigin>> {
        let volumes = self.0.volumes.borrow().clone();
        let mut known = self.0.known.lock();
        if !Arc::ptr_eq(&known.of, &volumes) {
            known.origins.retain(|id, _| volumes.contains_key(id));
            known.of = volumes.clone();
        }
        let volume = volumes.get(&id)?;
        match known.origins.get_mut(&id) {
            Some((seen, origin)) => {
                if !Arc::ptr_eq(seen, volume) {
                    origin.replace(self.open(volume));
                    *seen = volume.clone();
                }
                Some(origin.clone())
            }
            None => {
                let origin = Arc::new(VolumeOrigin::new(&self.0.runtime, self.open(volume)));
                known.origins.insert(id, (volume.clone(), origin.clone()));
                Some(origin)
            }
        }
    }

    /// Every volume's origin that was asked for so far, in the order of ids.
    pub fn all(&self) -> Vec<(VolumeId, Arc<VolumeOrigin>)> {
        self.0.known.lock().origins.iter().map(|(id, (_, origin))| (*id, origin.clone())).collect()
    }

    fn open(&self, volume: &Volume) -> Result<Arc<dyn Origin>, OriginError> {
        self.0.open.open(volume).inspect_err(|error| {
            tracing::error!(volume = %volume.name, namespace = %volume.namespace, %error, "the volume's origin can't be used");
        })
    }
}
