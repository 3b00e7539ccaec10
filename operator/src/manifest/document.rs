//! One YAML document: read, recognised, checked, entered under its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_crds::{Kind, Violation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::lines::{self, Lines};
use super::secret::SecretData;
use super::{Manifest, Mistake, ObjectName, Placed};

/// A manifest is written by hand; 4 MiB is 30 times the largest seen.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where a document stands.
#[derive(Clone)]
pub struct Place {
    file: Arc<PathBuf>,
    lines: Arc<Lines>,
    object: String,
}

impl Place {
    /// A mistake at `field` of this document.
    pub fn mistake(&self, field: &str, message: impl Into<String>) -> Mistake {
        Mistake {
            file: self.file.as_ref().clone(),
            line: self.lines.of(field),
            object: self.object.clone(),
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// A document that is YAML, and not yet more.
pub struct Document {
    place: Place,
    value: Value,
}

/// The documents of a file, each read or with its mistakes; empty ones are left out.
pub fn read_file(file: &Path) -> Result<Vec<Result<Document, Vec<Mistake>>>, Mistake> {
    let of_file = |message: String| Mistake::of_file(file, message);
    let metadata = std::fs::metadata(file).map_err(|e| of_file(format!("can't read the file: {e}")))?;
    if metadata.is_dir() {
        return Err(of_file("this is a directory: name the YAML files in it".into()));
    }
    let size = metadata.len();
    if size > FILE_BYTES_MAX {
        return Err(of_file(format!("the file is {size} bytes; a manifest is at most {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(file).map_err(|e| of_file(format!("can't read the file: {e}")))?;
    Ok(read_text(&Arc::new(file.to_owned()), &text))
}

fn read_text(file: &Arc<PathBuf>, text: &str) -> Vec<Result<Document, Vec<Mistake>>> {
    let mut lines = lines::of_documents(text).into_iter();
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let lines = Arc::new(lines.next().unwrap_or_default());
        let place = Place { file: file.clone(), lines, object: String::new() };
        match serde_yaml::Value::deserialize(document).map_err(|e| (e.location(), e.to_string())).and_then(to_json) {
            Ok(Value::Null) => {}
            Ok(value) => documents.push(Ok(Document { place, value })),
            Err((location, message)) => {
                let mut mistake = place.mistake("", format!("not valid YAML: {message}"));
                mistake.line = location.map_or(mistake.line.max(1), |at| at.line());
                documents.push(Err(vec![mistake]));
                // After a syntax error the parser can't know where the next document begins.
                break;
            }
        }
    }
    documents
}

fn to_json(value: serde_yaml::Value) -> Result<Value, (Option<serde_yaml::Location>, String)> {
    serde_json::to_value(value).map_err(|e| (None, e.to_string()))
}

impl Document {
    /// Checks the document as its kind, and enters it into the manifest.
    pub fn enter(mut self, manifest: &mut Manifest) -> Result<(), Vec<Mistake>> {
        let text = |pointer: &str| self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let namespace = Some(text("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let name = ObjectName { namespace, name: text("/metadata/name") };
        self.place.object = match name.name.as_str() {
            "" => kind.clone(),
            _ => format!("{kind} {name}"),
        };
        match (api_version.as_str(), kind.as_str()) {
            ("larder.dev/v1alpha1", "CacheCluster") => {
                let placed = self.check(Kind::CacheCluster)?;
                insert(&mut manifest.clusters, name, placed)
            }
            ("larder.dev/v1alpha1", "CacheVolume") => {
                let placed = self.check(Kind::CacheVolume)?;
                insert(&mut manifest.volumes, name, placed)
            }
            ("v1", "Secret") => {
                let object = SecretData::read(&self.value).map_err(|violations| self.mistakes(violations))?;
                let placed = Placed { object, value: Value::Null, place: self.place };
                insert(&mut manifest.secrets, name, placed)
            }
            _ => Err(vec![self.unknown_kind(&api_version, &kind)]),
        }
    }

    fn check<T: DeserializeOwned>(self, kind: Kind) -> Result<Placed<T>, Vec<Mistake>> {
        let value = larder_crds::check(kind, &self.value, None).map_err(|violations| self.mistakes(violations))?;
        let object = serde_json::from_value(value.clone()).map_err(|e| vec![self.place.mistake("", e.to_string())])?;
        Ok(Placed { object, value, place: self.place })
    }

    fn mistakes(&self, violations: Vec<Violation>) -> Vec<Mistake> {
        violations.into_iter().map(|v| self.place.mistake(&v.path, v.message)).collect()
    }

    fn unknown_kind(mut self, api_version: &str, kind: &str) -> Mistake {
        self.place.object = String::new();
        let known = "larder up takes CacheCluster and CacheVolume of larder.dev/v1alpha1, and Secret of v1";
        let version = match kind {
            "CacheCluster" | "CacheVolume" => Some("larder.dev/v1alpha1"),
            "Secret" => Some("v1"),
            _ => None,
        };
        match (api_version, kind, version) {
            ("", _, _) => self.place.mistake("apiVersion", format!("Required value: {known}")),
            (_, "", _) => self.place.mistake("kind", format!("Required value: {known}")),
            (_, _, Some(version)) => {
                let message = format!("Invalid value: {api_version:?}: the apiVersion of a {kind} must be {version}");
                self.place.mistake("apiVersion", message)
            }
            (_, _, None) => self.place.mistake("kind", format!("no kind \"{kind}\" in \"{api_version}\": {known}")),
        }
    }
}

fn insert<T>(
    objects: &mut std::collections::BTreeMap<ObjectName, Placed<T>>,
    name: ObjectName,
    placed: Placed<T>,
) -> Result<(), Vec<Mistake>> {
    if let Some(first) = objects.get(&name) {
        let earlier = first.mistake("metadata.name", "");
        let message = format!("the name is taken by the document at {}:{}", earlier.file.display(), earlier.line);
        return Err(vec![placed.mistake("metadata.name", message)]);
    }
    objects.insert(name, placed);
    Ok(())
}
