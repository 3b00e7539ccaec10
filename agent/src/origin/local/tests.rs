use std::path::Path;

use super::*;
use crate::runtime::tasks::Tasks;

/// A local origin; its root is made by the test through the runtime's own door.
struct Fixture {
    dir: tempfile::TempDir,
    local: Local,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let local = Local::new(dir.path().to_str().expect("text"), Tasks::inline().pool("test", 1, 1));
        Self { dir, local }
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        use crate::runtime::disk::{Disk, RealDisk};
        let path: &Path = Path::new(path);
        let at = self.dir.path().join(path);
        RealDisk.create_dir_all(at.parent().expect("below the root")).expect("made");
        RealDisk.replace_small(&at, bytes).expect("written");
    }

    async fn read(&self, path: &str, version: &Version, range: ByteRange) -> Result<Vec<u8>, OriginError> {
        let key = ObjectKey::parse(path).expect("plain");
        let mut pieces = self.local.get(&key, version, range).await?;
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    async fn info(&self, path: &str) -> Option<ObjectInfo> {
        self.local.head(&ObjectKey::parse(path).expect("plain")).await.expect("answers")
    }
}

#[tokio::test]
async fn names_that_trouble_urls_are_plain_files() {
    let fixture = Fixture::new();
    let names = ["a%20b", "c d", "e+f", "g#1", "h?", "tab\t", "é", "~", "back\\slash", "*"];
    for name in names {
        fixture.write(&format!("dir/{name}"), name.as_bytes());
    }
    let dir = DirPath::parse("dir").expect("plain");
    let mut seen = Vec::new();
    let mut from = None;
    loop {
        let page = fixture.local.list(&dir, from.as_ref(), 3).await.expect("listed");
        assert!(page.files.len() <= 3);
        for (name, info) in &page.files {
            let path = format!("dir/{}", name.as_str());
            let bytes = fixture.read(&path, &info.version, ByteRange::at(0, info.size)).await.expect("read");
            assert_eq!(bytes, name.as_str().as_bytes());
            assert_eq!(fixture.info(&path).await.as_ref(), Some(info));
            seen.push(name.as_str().to_owned());
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    seen.sort();
    let mut expected = names.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_file_that_changed_is_not_read() {
    let fixture = Fixture::new();
    fixture.write("f", b"one");
    let old = fixture.info("f").await.expect("there");
    fixture.write("f", b"two");
    let range = ByteRange::at(0, 3);
    assert_eq!(fixture.read("f", &old.version, range).await, Err(OriginError::Changed));
    let new = fixture.info("f").await.expect("there");
    assert_eq!(fixture.read("f", &new.version, range).await.expect("read"), b"two");
    assert_eq!(fixture.read("f", &new.version, ByteRange::at(0, 4)).await, Err(OriginError::Changed), "too short");
    assert_eq!(fixture.read("g", &new.version, range).await, Err(OriginError::NotFound));
    assert_eq!(fixture.info("f/x").await, None, "below a file is nothing");
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let fixture = Fixture::new();
    fixture.write("d/e/f", b"");
    let list = async |dir: &str| fixture.local.list(&DirPath::parse(dir).expect("plain"), None, 10).await;
    assert_eq!(list("d").await.expect("listed").dirs.len(), 1);
    assert!(!list("d/e").await.expect("listed").is_empty());
    assert!(list("nothing").await.expect("listed").is_empty());
    assert!(list("d/e/f").await.expect("listed").is_empty());
    let missing = Local::new("/nonexistent/larder", Tasks::inline().pool("test", 1, 1));
    assert_eq!(missing.list(&DirPath::root(), None, 10).await, Err(OriginError::NoSuchBucket));
    assert_eq!(missing.head(&ObjectKey::parse("f").expect("plain")).await, Err(OriginError::NoSuchBucket));
}
