//! The YAML people write, read as strictly as the API server would: `larder up` takes what `kubectl apply` takes.
//!
//! A file holds any number of documents. Unknown kinds and fields, wrong types, broken rules, two documents of one
//! name and references to what isn't there are refused together, each with file, line and field; nothing is started
//! from a file that has one mistake.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use larder_crds::{CacheCluster, CacheVolume};

mod document;
mod lines;
mod patience;
mod resolve;
mod secret;
pub mod told;

pub use patience::patience;
pub use resolve::{Desired, DesiredVolume, resolve};
pub use secret::SecretData;

/// One mistake, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file it stands in.
    pub file: PathBuf,
    /// Its line, counted from 1; 0 when it is the file as a whole.
    pub line: usize,
    /// The object, as `Kind namespace/name`; empty when the document can't be read that far.
    pub object: String,
    /// The field (`spec.pools[0].name`); empty when it is the document as a whole.
    pub field: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl Mistake {
    /// A mistake of a file as a whole.
    fn of_file(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), line: 0, object: String::new(), field: String::new(), message }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file.display())?,
            line => write!(f, "{}:{line}: ", self.file.display())?,
        }
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace; `default` where the document names none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the files say, checked one document at a time; references are checked by [`resolve`].
#[derive(Default)]
pub struct Manifest {
    /// The files it was read from, in order.
    pub files: Vec<PathBuf>,
    /// The clusters.
    pub clusters: BTreeMap<ObjectName, Placed<CacheCluster>>,
    /// The volumes.
    pub volumes: BTreeMap<ObjectName, Placed<CacheVolume>>,
    /// The Secrets.
    pub secrets: BTreeMap<ObjectName, Placed<SecretData>>,
}

/// An object and where its parts stand.
pub struct Placed<T> {
    /// The object, defaults filled in.
    pub object: T,
    /// The same as it was checked, for comparing it with what comes later.
    pub value: serde_json::Value,
    place: document::Place,
}

impl<T> Placed<T> {
    /// A mistake at `field` of this object.
    pub fn mistake(&self, field: &str, message: impl Into<String>) -> Mistake {
        self.place.mistake(field, message)
    }
}

/// Reads the files in order. All mistakes of all files come together.
pub fn read(files: &[PathBuf]) -> Result<Manifest, Vec<Mistake>> {
    let mut manifest = Manifest { files: files.to_vec(), ..Manifest::default() };
    let mut mistakes = Vec::new();
    for file in files {
        match document::read_file(file) {
            Ok(documents) => {
                for document in documents {
                    mistakes
                        .extend(document.and_then(|document| document.enter(&mut manifest)).err().unwrap_or_default());
                }
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(manifest) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests;
