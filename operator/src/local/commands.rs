//! The commands that ask a running `larder up`: get, status, map, drain, undrain, down.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use larder_crds::Kind;
use serde_json::Value;

use super::cluster::Wish;
use super::folder::Folder;
use super::socket::{Answer, AskError, Request, ask};
use super::{leftovers, lock};
use crate::print::{self, Width};

/// How long `larder up` may take to end once its agents are stopped.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// Why a command did not do what it was told: lines for the user.
#[derive(Debug)]
pub struct Refusal {
    /// One line per mistake.
    pub lines: Vec<String>,
}

impl Refusal {
    /// A refusal of one line.
    pub fn new(line: impl std::fmt::Display) -> Self {
        Self { lines: vec![line.to_string()] }
    }
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// kubectl's table.
    Table,
    /// With the columns of lower priority.
    Wide,
    /// A JSON list.
    Json,
    /// A YAML list.
    Yaml,
}

/// The folder as an absolute path, links resolved: mounts are found by their path.
pub fn folder(dir: &Path) -> Result<Folder, Refusal> {
    let absolute = match dir.canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(dir).map_err(|e| Refusal::new(format!("--dir {}: {e}", dir.display())))?
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Refusal::new(AskError::NotAllowed { dir: dir.to_owned() }));
        }
        Err(e) => return Err(Refusal::new(format!("--dir {}: {e}", dir.display()))),
    };
    Ok(Folder::new(absolute))
}

/// Asks, and turns what isn't done into lines.
pub async fn request(folder: &Folder, request: &Request) -> Result<Value, Refusal> {
    match ask(&folder.socket(), folder.root(), request).await {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Refused(lines)) => Err(Refusal { lines }),
        Err(error) => Err(Refusal::new(error)),
    }
}

/// `larder get KIND [NAME]`.
pub async fn get(dir: &Path, kind: &str, name: Option<&str>, format: Format) -> Result<(), Refusal> {
    let Some(kind) = Kind::from_word(kind) else {
        return Err(Refusal::new(format!("no kind \"{kind}\": cc (CacheCluster), cv (CacheVolume) or cn (CacheNode)")));
    };
    let objects = objects(&request(&folder(dir)?, &Request::Objects).await?, kind, name);
    if let (Some(name), true) = (name, objects.is_empty()) {
        return Err(Refusal::new(format!("{}.larder.dev \"{name}\" not found", kind.plural())));
    }
    if objects.is_empty() && matches!(format, Format::Table | Format::Wide) {
        eprintln!("No resources found.");
        return Ok(());
    }
    println!("{}", render(kind, objects, format)?);
    Ok(())
}

fn objects(all: &Value, kind: Kind, name: Option<&str>) -> Vec<Value> {
    let wanted = |object: &&Value| {
        let named = object.pointer("/metadata/name").and_then(Value::as_str);
        object.get("kind").and_then(Value::as_str) == Some(kind.name()) && (name.is_none() || name == named)
    };
    all.as_array().into_iter().flatten().filter(wanted).cloned().collect()
}

fn render(kind: Kind, objects: Vec<Value>, format: Format) -> Result<String, Refusal> {
    let crd = serde_json::to_value(larder_crds::definition(kind)).map_err(Refusal::new)?;
    let list = || serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
    Ok(match format {
        Format::Table => print::table(&crd, &objects, Width::Normal, Timestamp::now()),
        Format::Wide => print::table(&crd, &objects, Width::Wide, Timestamp::now()),
        Format::Json => serde_json::to_string_pretty(&list()).map_err(Refusal::new)?,
        Format::Yaml => serde_yaml::to_string(&list()).map_err(Refusal::new)?.trim_end().to_owned(),
    })
}

/// `larder status`: every kind's table, then what is wrong.
pub async fn status(dir: &Path) -> Result<(), Refusal> {
    let folder = folder(dir)?;
    let all = request(&folder, &Request::Objects).await?;
    for kind in [Kind::CacheCluster, Kind::CacheNode, Kind::CacheVolume] {
        let objects = objects(&all, kind, None);
        if !objects.is_empty() {
            println!("{}\n", render(kind, objects, Format::Wide)?);
        }
    }
    for line in print::problems(all.as_array().map_or(&[], Vec::as_slice)) {
        println!("{line}");
    }
    println!("mounts: {}/<node>/mnt/<volume>", folder.root().display());
    Ok(())
}

/// `larder map`.
pub async fn map(dir: &Path) -> Result<(), Refusal> {
    let map = request(&folder(dir)?, &Request::Map).await?;
    println!("{}", serde_json::to_string_pretty(&map).map_err(Refusal::new)?);
    Ok(())
}

/// `larder drain NODE` and `larder undrain NODE`.
pub async fn wish(dir: &Path, node: &str, wish: Wish) -> Result<(), Refusal> {
    let said = request(&folder(dir)?, &Request::Wish { node: node.to_owned(), wish }).await?;
    println!("{}", said.as_str().unwrap_or("done"));
    Ok(())
}

/// `larder down`: asks the running `up` to stop, waits until it has; where none runs, cleans what it left.
pub async fn down(dir: &Path) -> Result<(), Refusal> {
    let folder = folder(dir)?;
    match ask(&folder.socket(), folder.root(), &Request::Down).await {
        Ok(Answer::Done(_)) => {
            lock::wait_free(&folder.lock(), ENDED_WITHIN).map_err(|error| {
                Refusal::new(format!("the cluster is stopped, but its larder up hasn't ended: {error}"))
            })?;
            println!("stopped; the cache stays in {}", folder.root().display());
            Ok(())
        }
        Ok(Answer::Refused(lines)) => Err(Refusal { lines }),
        Err(AskError::NotUp { .. }) => clean(&folder),
        Err(error) => Err(Refusal::new(error)),
    }
}

fn clean(folder: &Folder) -> Result<(), Refusal> {
    let not_up = || Refusal::new(AskError::NotUp { dir: PathBuf::from(folder.root()) });
    if !folder.lock().exists() {
        return Err(not_up());
    }
    let _lock = lock::take(&folder.lock()).map_err(Refusal::new)?;
    let cleaned = leftovers::clean(folder).map_err(|e| Refusal::new(format!("can't clean up: {e}")))?;
    if cleaned.is_nothing() {
        return Err(not_up());
    }
    println!("{cleaned}");
    Ok(())
}
