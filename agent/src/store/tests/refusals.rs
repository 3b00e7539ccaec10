//! What is not opened, each with one clear line, and nothing changed.

use super::*;
use crate::runtime::disk::Disk;

async fn refused(disk: &SimDisk, config: &StoreConfig, cache_id: &str) -> OpenError {
    let before = disk.paths();
    let pool = BufferPool::new(1 << 20);
    let configs = std::slice::from_ref(config);
    let error = Stores::open(&sim(disk), pool, cache_id, configs, Watermarks::default()).await.err().expect("refused");
    assert_eq!(disk.paths(), before, "nothing was changed");
    assert_eq!(error.to_string().lines().count(), 1);
    error
}

async fn made() -> SimDisk {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 1 << 20).await;
    stores.close().await;
    runtime.tasks.shut_down().await;
    disk
}

#[tokio::test(start_paused = true)]
async fn another_caches_store() {
    let error = refused(&made().await, &config(1 << 20), "default/other").await;
    assert_eq!(
        error.to_string(),
        "store s1: \"/s1\" belongs to cache \"default/demo\", not \"default/other\": give this cache another directory"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_format() {
    let disk = made().await;
    disk.replace_small(Path::new("/s1/larder.json"), br#"{"format":2,"shape":"unknown"}"#).expect("writes");
    let error = refused(&disk, &config(1 << 20), CACHE).await;
    assert!(matches!(error, OpenError::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_label() {
    let disk = made().await;
    disk.replace_small(Path::new("/s1/larder.json"), b"{").expect("writes");
    assert!(matches!(refused(&disk, &config(1 << 20), CACHE).await, OpenError::BadLabel { .. }));
    disk.replace_small(Path::new("/s1/larder.json"), &[b' '; 100_000]).expect("writes");
    assert!(matches!(refused(&disk, &config(1 << 20), CACHE).await, OpenError::BadLabel { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_folder_in_use() {
    let disk = SimDisk::new(1, 1 << 30);
    let _open = open_one(&sim(&disk), 1 << 20).await;
    assert!(matches!(refused(&disk, &config(1 << 20), CACHE).await, OpenError::Locked { .. }));
}

#[tokio::test(start_paused = true)]
async fn more_than_the_disk_has() {
    let disk = SimDisk::new(1, 1 << 20);
    let error = refused(&disk, &config(2 << 20), CACHE).await;
    assert!(matches!(error, OpenError::TooLarge { disk_bytes: 1_048_576, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_file_and_a_folder_of_somebody_else() {
    let disk = SimDisk::new(1, 1 << 30);
    disk.replace_small(Path::new("/s1"), b"a file").expect("writes");
    assert!(matches!(refused(&disk, &config(1 << 20), CACHE).await, OpenError::NotADirectory { .. }));
    let disk = SimDisk::new(1, 1 << 30);
    disk.create_dir_all(Path::new("/s1/objects")).expect("makes");
    let error = refused(&disk, &config(1 << 20), CACHE).await;
    assert!(matches!(&error, OpenError::NotEmpty { found, .. } if found == "objects"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_bad_store_of_two_leaves_the_other_unmade() {
    let disk = SimDisk::new(1, 1 << 20);
    let other = StoreConfig { name: "s2".into(), path: "/s2".into(), capacity_bytes: 2 << 20 };
    let error = open(&sim(&disk), &[config(1 << 19), other]).await.err().expect("refused");
    assert!(error.to_string().starts_with("store s2: "), "{error}");
    assert!(disk.paths().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_index() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = StoreConfig { name: "real".into(), path: dir.path().into(), capacity_bytes: 64 << 20 };
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = open(&runtime, std::slice::from_ref(&config)).await.expect("opens");
    let kept = chunk(&object(1, u64::from(CHUNK)), 0);
    fill(&stores, &kept).await.expect("fills");
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    released(dir.path()).await;
    let path = dir.path().join("index.redb");
    set_format(&path, |format| format + 1);
    let error = open(&Runtime::real(Arc::new(NoNet)), std::slice::from_ref(&config)).await.err().expect("refused");
    assert!(matches!(error, OpenError::NewerIndex { found: 3, .. }), "{error}");
    assert!(!dir.path().join("lost").exists(), "it is left where it is");
    released(dir.path()).await;
    set_format(&path, |format| format - 1);
    let stores = open(&Runtime::real(Arc::new(NoNet)), &[config]).await.expect("its bytes are as they were");
    assert_eq!(look(&stores, &kept).await, Seen::Right);
    stores.close().await;
}

fn set_format(index: &Path, change: impl FnOnce(u64) -> u64) {
    let db = redb::Database::open(index).expect("opens");
    let write = db.begin_write().expect("begins");
    {
        let table: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
        let mut meta = write.open_table(table).expect("is there");
        let format = redb::ReadableTable::get(&meta, "format").expect("reads").expect("is there").value();
        meta.insert("format", change(format)).expect("writes");
    }
    write.commit().expect("commits");
}
