//! Opens the real origin of a volume: one set of connections, one pool for local directories, for the whole agent.

use std::sync::Arc;

use larder_proto::volume::{Origin as Place, Volume};
use object_store::client::HttpClient;

use super::local::Local;
use super::{Open, Origin, OriginError, azure, http, s3};
use crate::runtime::Runtime;
use crate::runtime::tasks::Pool;

/// Threads that read local directories: they stand for a network, not for a disk's queue.
const LOCAL_THREADS: usize = 4;

/// Calls that may wait for them; above, the origin is throttled.
const LOCAL_QUEUE_MAX: usize = 1_024;

/// Opens real origins. Install a rustls provider before making one.
pub struct RealOrigins {
    client: HttpClient,
    local: Pool,
}

impl RealOrigins {
    /// Connections and threads, none of them used yet.
    pub fn new(runtime: &Runtime) -> Result<Self, OriginError> {
        let local = runtime.tasks.pool("local-origin", LOCAL_THREADS, LOCAL_QUEUE_MAX);
        Ok(Self { client: http::client()?, local })
    }
}

impl Open for RealOrigins {
    fn open(&self, volume: &Volume) -> Result<Arc<dyn Origin>, OriginError> {
        match &volume.origin {
            Place::S3(place) => s3::open(self.client.clone(), place),
            Place::Azure(place) => azure::open(self.client.clone(), place),
            Place::Local { path } => Ok(Arc::new(Local::new(path, self.local.clone()))),
        }
    }
}
