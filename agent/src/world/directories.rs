//! Directories of small files, read whole and in part, by trees of three simulated agents: what the origin is asked for.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder_proto::wire::RequestId;

use super::{World, content};
use crate::fs::{Fh, Fs, Ino};
use crate::origin::sim::Asked;
use crate::runtime::sim::SimRng;

const FILES: usize = 400;
const LEN: usize = 30_000;

async fn world(seed: u64) -> World {
    let world = World::new(seed).await;
    (0..FILES).for_each(|number| drop(world.put(&format!("d/{number:03}"), LEN)));
    world.origin.set_latency(Duration::from_millis(20));
    world
}

fn shuffled(seed: u64) -> Vec<usize> {
    let rng = SimRng::new(seed);
    let mut order: Vec<usize> = (0..FILES).collect();
    for last in (1..FILES).rev() {
        order.swap(last, usize::try_from(rng.below(last as u64 + 1)).expect("small"));
    }
    order
}

async fn look(fs: &Fs, parent: Ino, name: &str) -> Ino {
    let entry = match fs.lookup_now(parent, OsStr::new(name)) {
        Some(entry) => entry,
        None => fs.lookup(parent, OsStr::new(name)).await,
    };
    entry.expect("there").attr.ino
}

async fn read(fs: &Arc<Fs>, number: usize) {
    let dir = look(fs, Ino::ROOT, "d").await;
    let name = format!("{number:03}");
    let ino = look(fs, dir, &name).await;
    let (fh, request) = (Fh(number as u64 + 1), RequestId(number as u64));
    fs.open(ino, fh).await.expect("opens");
    let bytes = match fs.read_now(request, fh, 0, 1 << 20).expect("reads") {
        Some(parts) => parts,
        None => fs.read(request, fh, 0, 1 << 20).await.expect("reads"),
    };
    assert!(bytes.into_bytes() == content(&format!("d/{name}"), LEN), "{name}");
    fs.release(fh);
}

/// Four readers share `order`, each with a pause between two files.
async fn read_all(world: &World, order: &[usize]) {
    let fs = &world.node(0).fs;
    join_all((0..4).map(|reader| async move {
        for number in order.iter().skip(reader).step_by(4) {
            read(fs, *number).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }))
    .await;
}

fn heads(world: &World) -> u64 {
    let asked = world.origin.asked();
    asked.iter().filter(|(asked, _)| matches!(asked, Asked::Head(_))).map(|(_, count)| count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_shuffled_reader_of_a_directory_gets_the_rest_before_it_asks() {
    let world = world(41).await;
    let began = world.now();
    read_all(&world, &shuffled(3)).await;
    let took = world.now() - began;
    assert_eq!(world.gets(), FILES as u64, "each chunk once");
    assert!(heads(&world) <= 40, "{} HEADs: the listing is at hand", heads(&world));
    // One by one they would take a hundred rounds of 22 ms.
    assert!(took < Duration::from_millis(1_300), "{took:?}");
    let swept = world.node(0).fs.swept();
    assert!(swept.files > 200, "{swept:?}");
    let again = world.gets();
    read_all(&world, &shuffled(4)).await;
    assert_eq!(world.gets(), again);
}

#[tokio::test(start_paused = true)]
async fn who_reads_a_few_files_makes_little_waste_and_it_is_counted() {
    let world = world(42).await;
    read_all(&world, &shuffled(5)[..12]).await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(world.gets() <= 12 * 5, "{} GETs for 12 files", world.gets());
    // The next read finds that the directory had fallen silent.
    read(&world.node(0).fs, 0).await;
    let swept = world.node(0).fs.swept();
    assert!(swept.files > 0 && swept.wasted > 0, "{swept:?}");
}
