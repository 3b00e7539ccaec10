//! How long a store of a million objects takes to open, and what it costs in memory: `cargo run --profile demo -p
//! larder-agent --example million -- DIR [OBJECTS]`.
//!
//! The first run makes the catalog (through the store itself, with files of one block); the next ones open it, print the
//! times and the resident memory, and leave it as it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use larder_agent::runtime::Runtime;
use larder_agent::runtime::disk::{AlignedBuf, BufferPool};
use larder_agent::runtime::net::{BoxIo, Carries, ConnectError, Identity, Lane, Listener, Net, PlainListener};
use larder_agent::store::{Giver, StoreConfig, Stores, Watermarks};
use larder_proto::checksum::block_crcs;
use larder_proto::ids::VolumeId;
use larder_proto::object::{ChunkIndex, ChunkSize, Object, ObjectKey, Version};

struct NoNet;

#[async_trait]
impl Net for NoNet {
    async fn connect(&self, _: std::net::SocketAddr, _: &Identity, _: Lane, _: Carries) -> Result<BoxIo, ConnectError> {
        Err(ConnectError::Io(std::io::ErrorKind::Unsupported.into()))
    }

    async fn listen(&self, _: std::net::SocketAddr) -> std::io::Result<Box<dyn Listener>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn listen_plain(&self, _: std::net::SocketAddr) -> std::io::Result<Box<dyn PlainListener>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn object(n: u64) -> anyhow::Result<Arc<Object>> {
    let key = ObjectKey::parse(&format!("datasets/images/part-{:04}/object-{n:08}.jpg", n / 1000))?;
    let version = Version::of_etag("9b2cf535f27731c974343645a3985328").ok_or_else(|| anyhow::anyhow!("a version"))?;
    let chunk_size = ChunkSize::new(4 << 20).ok_or_else(|| anyhow::anyhow!("4 MiB"))?;
    let volume = VolumeId::from_bytes([7; 16]);
    Object::new(volume, key, version, 4096, chunk_size).ok_or_else(|| anyhow::anyhow!("small"))
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn fill(stores: &Stores, n: u64) -> anyhow::Result<()> {
    let object = object(n)?;
    let chunk = object.chunk(ChunkIndex(0)).ok_or_else(|| anyhow::anyhow!("one chunk"))?;
    let Ok(reservation) = stores.reserve(&chunk, Giver::Node).await else { return Ok(()) };
    let mut page = AlignedBuf::unpooled(4096);
    page.put(&[u8::try_from(n % 251)?; 4096]);
    let bytes: Bytes = page.freeze();
    let crcs = block_crcs(object.id(), 0, &bytes);
    reservation.write(0, bytes).await?;
    Ok(reservation.commit(crcs).await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or_else(|| anyhow::anyhow!("which folder?"))?);
    let objects: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let runtime = Runtime::real(Arc::new(NoNet));
    let config = StoreConfig { name: "m".into(), path, capacity_bytes: 20 << 30 };
    let before = resident_mib();
    let began = Instant::now();
    let stores =
        Stores::open(&runtime, BufferPool::new(32 << 20), "default/demo", &[config], Watermarks::default()).await?;
    let opened = began.elapsed();
    let known = stores.status()[0].objects;
    println!("{known} objects: opened in {opened:?}; resident {before} MiB before, {} MiB after", resident_mib());
    if known < objects {
        let began = Instant::now();
        for first in (known..objects).step_by(512) {
            let many = (first..objects.min(first + 512)).map(|n| fill(&stores, n));
            futures::future::try_join_all(many).await?;
        }
        println!("{} objects made in {:?}", objects - known, began.elapsed());
    } else {
        let began = Instant::now();
        while stores.debug()[0].counters.swept == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        println!("files looked at in {:?}; resident {} MiB", began.elapsed(), resident_mib());
    }
    stores.close().await;
    Ok(())
}
