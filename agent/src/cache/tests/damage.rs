//! Rot on a disk: no wrong byte is served, and every chunk is right again from a peer or the origin.

use std::path::PathBuf;

use super::*;
use crate::runtime::sim::SimRng;

/// Objects of one chunk each, four blocks long: more than the caches' memory holds, so disks are read.
const OBJECTS: usize = 100;
const BYTES: usize = 256 << 10;

struct Rig {
    world: World,
    chunks: Vec<Chunk>,
    rng: SimRng,
}

/// What was done to the disks.
#[derive(Debug, Default)]
struct Damage {
    faults: u64,
    /// Chunks that had one fault or more.
    chunks: u64,
}

impl Rig {
    async fn new(seed: u64) -> Self {
        let world = World::with_budget(seed, 4 << 20).await;
        let key = |n: usize| format!("d/{n}");
        let chunks: Vec<Chunk> = (0..OBJECTS).map(|n| chunk(&world.put(&key(n), BYTES), 0)).collect();
        for chunk in &chunks {
            read_all(&world, 0, chunk).await.expect("fills");
            copied(&world, chunk).await;
        }
        Self { world, chunks, rng: SimRng::new(seed) }
    }

    fn path(chunk: &Chunk) -> PathBuf {
        let name = chunk.object().id().to_string();
        PathBuf::from("/nvme0/objects").join(&name[..2]).join(&name[2..4]).join(&name)
    }

    fn corrupt(&self) -> u64 {
        (0..3).map(|node| self.world.node(node).stores.debug()[0].counters.corrupt).sum()
    }

    /// Reads everything through a mount's cache, and waits until both copies are right again.
    async fn serve_and_repair(&self, reader: usize) {
        for (n, chunk) in self.chunks.iter().enumerate() {
            let bytes = read_all(&self.world, reader, chunk).await.expect("some place has it");
            assert!(bytes == content(&format!("d/{n}"), BYTES), "a wrong byte was served");
        }
        for (n, chunk) in self.chunks.iter().enumerate() {
            let (lead, second, _) = self.world.roles(chunk);
            for node in [lead, second] {
                self.right_again(n, chunk, node).await;
            }
        }
    }

    async fn right_again(&self, n: usize, chunk: &Chunk, node: usize) {
        let stores = &self.world.node(node).stores;
        let whole = ByteRange::at(0, BYTES as u64);
        for _ in 0..10_000 {
            match stores.read(chunk, whole).await.expect("a sane disk").map(|bytes| bytes.verify()) {
                Some(Ok((bytes, _))) => {
                    assert!(bytes == content(&format!("d/{n}"), BYTES));
                    return;
                }
                // Nobody had asked this copy yet: somebody does now.
                Some(Err(_)) => stores.drop_chunk(chunk),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("node {node} never got object {n} back");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_flipped_bits_serve_no_wrong_byte_and_are_repaired() {
    let rig = Rig::new(31).await;
    let mut damage = Damage::default();
    let (mut round, mut both) = (0, 0);
    let (gets, bytes_before) = (rig.world.gets(), rig.corrupt());
    while damage.faults < 10_000 {
        for chunk in &rig.chunks {
            let (lead, second, _) = rig.world.roles(chunk);
            // Every fifth round both copies rot: only the origin has the bytes then.
            let disks = if round % 5 == 4 { vec![lead, second] } else { vec![lead] };
            both += u64::from(disks.len() == 2);
            for node in disks {
                let mut hit = false;
                for _ in 0..4 {
                    let (offset, bit) = (rig.rng.below(BYTES as u64), rig.rng.below(8));
                    let flipped =
                        rig.world.disk(node).flip(&Rig::path(chunk), offset, u8::try_from(bit).expect("0 to 7"));
                    assert!(flipped, "the chunk is on the disk");
                    hit = true;
                    damage.faults += 1;
                }
                damage.chunks += u64::from(hit);
            }
        }
        rig.serve_and_repair(round % 3).await;
        round += 1;
    }
    println!("{damage:?}, {both} of both copies; GETs {}", rig.world.gets() - gets);
    assert!(damage.faults >= 10_000);
    let caught = rig.corrupt() - bytes_before;
    // Two flips of one bit are none: at most a handful of chunks.
    assert!(caught <= damage.chunks && caught >= damage.chunks - 5, "{caught} of {}", damage.chunks);
    assert!(rig.world.gets() - gets >= 50, "the origin repaired what neither copy nor memory had");
    assert!(rig.world.gets() - gets <= both, "and nothing else");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_misdirected_blocks_serve_no_wrong_byte_and_are_repaired() {
    let rig = Rig::new(32).await;
    let mut damage = Damage::default();
    let before = rig.corrupt();
    for round in 0..10 {
        for (n, chunk) in rig.chunks.iter().enumerate() {
            let (lead, _, _) = rig.world.roles(chunk);
            let disk = rig.world.disk(lead);
            let page = |rng: &SimRng| rng.below(BYTES as u64 / 4096) * 4096;
            let to = (Rig::path(chunk), page(&rig.rng));
            // From another object on this disk, or from elsewhere in this one.
            let others = (0..OBJECTS).map(|step| &rig.chunks[(n + step + round) % OBJECTS]);
            let done = others.into_iter().any(|other| {
                let from = (Rig::path(other), page(&rig.rng));
                disk.misdirect((&from.0, from.1), (&to.0, to.1))
            });
            assert!(done, "some page went astray");
            damage.faults += 1;
            damage.chunks += 1;
        }
        rig.serve_and_repair(round % 3).await;
    }
    assert_eq!(damage.faults, 1_000);
    assert_eq!(rig.corrupt() - before, damage.chunks, "each was caught");
}

/// Chunks that share their owners: a node that owns one has the whole object.
const MANY: usize = 4;

#[tokio::test(start_paused = true)]
async fn a_bad_bit_in_a_file_that_the_kernel_had_brings_all_of_it_again() {
    let world = World::with_budget(33, 16 << 20).await;
    let len = MANY * CHUNK as usize;
    let keys: Vec<String> = (0..3).map(|n| format!("large/{n}")).collect();
    let objects: Vec<Arc<Object>> = keys.iter().map(|key| world.put(key, len)).collect();
    let all = |object: &Arc<Object>| (0..MANY).map(|index| chunk(object, index as u32)).collect::<Vec<_>>();
    for object in &objects {
        for chunk in all(object) {
            read_all(&world, 0, &chunk).await.expect("fills");
            copied(&world, &chunk).await;
        }
    }
    let gets = world.gets();
    for (key, object) in keys.iter().zip(&objects) {
        let (lead, _, reader) = world.roles(&chunk(object, 0));
        let stores = &world.node(lead).stores;
        assert!(stores.verify(object).await.expect("reads"), "every byte is right");
        let passed = stores.pass(&object.id()).await.expect("it is whole");
        assert!(world.disk(lead).flip(&Rig::path(&chunk(object, 0)), 2 * CHUNK + 5, 1));
        // The block is asked for where it rots.
        let range = ByteRange::at(0, 65_536);
        let read = stores.read(&chunk(object, 2), range).await.expect("a sane disk").expect("is here");
        assert!(read.verify().is_err(), "the fault was hit");
        stores.drop_chunk(&chunk(object, 2));
        assert!(!stores.has(&chunk(object, 0).id()), "a file that the kernel has leaves whole");
        until("all of it is here again", || stores.object_complete(&object.id())).await;
        let mut bytes = Vec::new();
        for chunk in all(object) {
            let read = stores.read(&chunk, ByteRange::at(0, CHUNK)).await.expect("a sane disk").expect("is here");
            bytes.extend_from_slice(&read.verify().expect("right").0);
        }
        assert!(bytes == content(key, len));
        assert!(
            read_all(&world, reader, &chunk(object, 2)).await.expect("read")
                == bytes[2 * CHUNK as usize..][..CHUNK as usize]
        );
        assert!(stores.verify(object).await.expect("reads"));
        stores.pass(&object.id()).await.expect("the kernel may have it again");
        drop(passed);
        until("all of it is counted", || world.node(lead).cache.snapshot().repaired >= MANY as u64).await;
    }
    assert_eq!(world.gets(), gets, "from memory and the other owner");
}
