//! What is brought for a directory's sake: only what owners keep, within the room for names, once more when it is read anew.

use larder_proto::glob::Glob;

use super::*;

/// So many that the listing fits into its part of the rig's room.
const FILES: usize = 45;

fn put(rig: &Rig, dir: &str, files: usize, size: u64) {
    rig.tree.put("", dir, Looked::Dir);
    (0..files).for_each(|number| rig.tree.put(dir, &format!("f{number:03}"), file("v1", size)));
}

/// Reads files of a directory from their beginning, with a pause in which what is begun can go on.
async fn read(rig: &Rig, dir: &str, files: impl IntoIterator<Item = usize>) {
    let dir = look(rig, Ino::ROOT, dir).await.expect("found").attr.ino;
    for number in files {
        let ino = look(rig, dir, &format!("f{number:03}")).await.expect("found").attr.ino;
        rig.fs.open(ino, Fh(9)).await.expect("opens");
        rig.fs.read_now(REQUEST, Fh(9), 0, 10).expect("reads");
        rig.fs.release(Fh(9));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn kept(rig: &Rig, key: &str) -> usize {
    rig.chunks.kept.lock().iter().filter(|kept| kept.as_str() == key).count()
}

fn keeping(rig: &Rig, keeping: Keeping) {
    let volume = Volume { keeping, ..(*rig.fs.volume()).clone() };
    rig.fs.set_volume(Arc::new(volume));
}

#[tokio::test(start_paused = true)]
async fn what_owners_would_not_keep_is_not_brought() {
    let usual = rig(Freshness::Within(FRESH));
    put(&usual, "d", FILES, 100);
    read(&usual, "d", 0..20).await;
    assert!(usual.chunks.kept.lock().len() > 20, "by default the rest is brought");
    let glob = |pattern: &str| Glob::parse(pattern).expect("a pattern");
    for nothing in [
        Keeping { after_reads: 1, ..Keeping::default() },
        Keeping { exclude: vec![glob("d/*")], ..Keeping::default() },
        Keeping { max_object_bytes: Some(99), ..Keeping::default() },
    ] {
        let rig = rig(Freshness::Within(FRESH));
        put(&rig, "d", FILES, 100);
        keeping(&rig, nothing.clone());
        read(&rig, "d", 0..FILES).await;
        assert!(rig.chunks.kept.lock().is_empty(), "{nothing:?}");
    }
    let some = rig(Freshness::Within(FRESH));
    put(&some, "d", FILES, 100);
    keeping(&some, Keeping { exclude: vec![glob("d/f*1")], ..Keeping::default() });
    read(&some, "d", 0..20).await;
    let kept = some.chunks.kept.lock().clone();
    assert!(kept.len() > 15 && kept.iter().all(|key| !key.ends_with('1')), "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn owners_that_keep_nothing_are_asked_once() {
    let rig = rig(Freshness::Within(FRESH));
    put(&rig, "d", FILES, 100);
    rig.chunks.keeps_nothing.store(true, Ordering::Relaxed);
    read(&rig, "d", 0..8).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = rig.chunks.kept.lock().len();
    assert!((8..FILES).contains(&asked), "{asked}");
    read(&rig, "d", 8..FILES).await;
    assert_eq!(rig.chunks.kept.lock().len(), asked);
    assert_eq!(rig.fs.swept().files, asked as u64, "what was asked for stays counted");
}

#[tokio::test(start_paused = true)]
async fn names_of_a_sweep_take_room_and_give_it_back() {
    let rig = rig(Freshness::Within(FRESH));
    put(&rig, "d", FILES, 100);
    put(&rig, "large", 60, 100);
    let names = || rig.fs.below.room.used_bytes() / room::NAME_BYTES;
    read(&rig, "d", 0..20).await;
    assert!(names() >= 2 * FILES, "known and swept: {}", names());
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(names() < 2 * FILES, "its directory fell silent: {}", names());
    let brought = rig.chunks.kept.lock().len();
    read(&rig, "large", 0..60).await;
    assert_eq!(rig.chunks.kept.lock().len(), brought, "more names than one listing may take");
    assert!(rig.fs.below.room.used_bytes() <= rig.fs.below.room.bytes_max());
}

/// A second epoch over a directory whose files have left the stores meanwhile.
#[tokio::test(start_paused = true)]
async fn a_directory_that_is_read_again_is_swept_again() {
    let rig = rig(Freshness::Within(FRESH));
    put(&rig, "d", FILES, 100);
    read(&rig, "d", 0..FILES).await;
    assert_eq!(kept(&rig, "d/f040"), 1);
    read(&rig, "d", 0..FILES).await;
    assert_eq!(kept(&rig, "d/f040"), 2, "the second time too");
    assert_eq!(rig.fs.swept().wasted, 0);
}
