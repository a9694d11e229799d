//! Reading models: from a name to its manifest and configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ConfigV2, Digest, MANIFEST_LIMIT, Manifest, Name, Store, durable};
use crate::diagnostic::{Diagnostic, Location, Result};
use crate::world::{SystemWorld, World};

/// A model in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name, spelled as the store spells it.
    pub name: Name,
    /// Its identity: the digest of the manifest's bytes.
    pub id: Digest,
    /// What it is made of.
    pub manifest: Manifest,
    /// The manifest's bytes, as they are on the disk.
    pub bytes: Vec<u8>,
    /// The manifest's file.
    pub path: PathBuf,
    /// When the manifest was written.
    pub modified: SystemTime,
}

impl Store {
    /// `name` as the store spells it: each of its parts that is there in another case takes that
    /// case. The name need not be in the store.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn spelling(&self, name: &Name) -> Result<Name> {
        let mut dir = self.manifests_dir();
        let mut parts = name.parts();
        for part in &mut parts {
            if !there(&dir.join(&*part))? {
                match other_spelling(&dir, part)? {
                    Some(other) => *part = other,
                    None => break,
                }
            }
            dir.push(&*part);
        }
        let [host, namespace, model, tag] = &parts;
        Name::from_parts(host, namespace, model, tag).map_err(|why| Diagnostic::error(why).into())
    }

    /// The model with this name, in whatever case; `None` if there is none. A name with a digest is the model
    /// of that identity, whatever its tag.
    ///
    /// # Errors
    /// Its manifest is invalid or cannot be read, or has another digest than the name says.
    pub fn find(&self, name: &Name) -> Result<Option<Stored>> {
        let name = self.spelling(name)?;
        let path = self.manifest_path(&name);
        let Some(digest) = name.digest() else { return self.read_manifest(name, &path) };
        match self.read_manifest(name.clone(), &path)? {
            Some(stored) if stored.id != digest => Err(Diagnostic::error(format!(
                "invalid manifest: it is {}, not what its name says",
                stored.id
            ))
            .in_file(path, "")
            .code("invalid-manifest")
            .help(format!("remove it with `mdl rm {name}`, then pull it again"))
            .into()),
            Some(stored) => Ok(Some(stored)),
            None => self.find_tagged(&name, &path, &digest),
        }
    }

    /// The tag of the model at `path` whose manifest has this digest.
    fn find_tagged(&self, name: &Name, path: &Path, digest: &Digest) -> Result<Option<Stored>> {
        let Some(dir) = path.parent() else { return Ok(None) };
        let Ok(entries) = fs::read_dir(dir) else { return Ok(None) };
        let mut tags: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        tags.sort_unstable();
        for tag in tags {
            let path = dir.join(&tag);
            let same = |bytes: &Vec<u8>| Digest::of(bytes) == *digest;
            if !read_bytes(&path).ok().flatten().as_ref().is_some_and(same) {
                continue;
            }
            let [host, namespace, model, _] = name.parts();
            if let Ok(found) = Name::from_parts(&host, &namespace, &model, &tag) {
                return self.read_manifest(found, &path);
            }
        }
        Ok(None)
    }

    /// The model with this name, in whatever case.
    ///
    /// # Errors
    /// There is none; its manifest is invalid or cannot be read.
    pub fn read(&self, name: &Name) -> Result<Stored> {
        match self.find(name)? {
            Some(stored) => Ok(stored),
            None => Err(self.no_such_model(name).into()),
        }
    }

    /// A model's configuration; the default one if it has none.
    ///
    /// # Errors
    /// Its blob is missing, of another size, or no configuration.
    pub fn config(&self, model: &Stored) -> Result<ConfigV2> {
        let Some(layer) = &model.manifest.config else { return Ok(ConfigV2::default()) };
        let bytes = self.read_layer(&model.name, layer, MANIFEST_LIMIT)?;
        ConfigV2::parse(&bytes).map_err(|mut errors| {
            for d in &mut errors.0 {
                d.location = Some(Location::File { path: self.blob_path(&layer.digest), place: None });
            }
            errors
        })
    }

    pub(super) fn manifest_path(&self, name: &Name) -> PathBuf {
        self.manifests_dir().join(name.path())
    }

    /// The manifest at `path`, which says what `name` is.
    pub(super) fn read_manifest(&self, name: Name, path: &Path) -> Result<Option<Stored>> {
        let read = || -> Result<Option<(Vec<u8>, Manifest)>> {
            let Some(bytes) = read_bytes(path)? else { return Ok(None) };
            let manifest = Manifest::parse(&bytes)?;
            Ok(Some((bytes, manifest)))
        };
        let Some((bytes, manifest)) = read().map_err(|mut errors| {
            for d in errors.0.iter_mut().filter(|d| d.code == "invalid-manifest") {
                d.location = Some(Location::File { path: path.to_owned(), place: None });
                d.help.push(format!("build or pull `{name}` again, or remove it with `mdl rm {name}`"));
            }
            errors
        })?
        else {
            return Ok(None);
        };
        let modified = fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some(Stored { name, id: Digest::of(&bytes), manifest, bytes, path: path.to_owned(), modified }))
    }

    pub(super) fn no_such_model(&self, name: &Name) -> Diagnostic {
        let missing =
            Diagnostic::error(format!("there is no model `{name}` in the store {}", self.root().display()))
                .code("unknown-model");
        let wanted = name.to_string();
        let likeness = strsim::normalized_damerau_levenshtein;
        let names = self.tree().map(|t| t.files).unwrap_or_default().into_iter().filter_map(|f| f.name.ok());
        let nearest = names
            .map(|n| (if n.differs_in_tag(name) { 1.0 } else { likeness(&wanted, &n.to_string()) }, n))
            .filter(|(likeness, _)| *likeness >= 0.6)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((_, nearest)) => missing.help(format!("there is `{nearest}`")),
            None => missing.help("`mdl list` shows what there is"),
        }
    }
}

/// The bytes of a manifest's file; `None` where there is none.
pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |e: &io::Error| durable::failed("read the manifest", path, e);
    let file = match SystemWorld.open(path) {
        Ok(file) => file,
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(None),
            io::ErrorKind::IsADirectory | io::ErrorKind::InvalidData => {
                return Err(Diagnostic::error("invalid manifest: it is not a regular file")
                    .in_file(path, "")
                    .code("invalid-manifest")
                    .into());
            }
            _ => return Err(failed(&e).into()),
        },
    };
    let len = file.len();
    if len > MANIFEST_LIMIT {
        let message = format!("invalid manifest: it has {len} bytes; at most {MANIFEST_LIMIT} are read");
        return Err(Diagnostic::error(message).code("invalid-manifest").into());
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).map_err(|e| failed(&e))?;
    Ok(Some(bytes))
}

/// The bytes of a manifest that is to be replaced or removed; `None` if there is none or it cannot
/// be one.
pub(super) fn former_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    match read_bytes(path) {
        Err(errors) if errors.0.iter().all(|d| d.code == "invalid-manifest") => Ok(None),
        other => other,
    }
}

/// Whether something is at `path`.
pub(super) fn there(path: &Path) -> Result<bool> {
    match path.try_exists() {
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(false),
        other => Ok(other.map_err(|e| durable::failed("look at", path, &e))?),
    }
}

/// The first entry of `dir` that is `part` in another case.
fn other_spelling(dir: &Path, part: &str) -> Result<Option<String>> {
    let failed = |e: io::Error| durable::failed("read the directory", dir, &e);
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other.map_err(failed)?,
    };
    let mut first: Option<String> = None;
    for entry in entries {
        let entry = entry.map_err(failed)?.file_name();
        let Some(entry) = entry.to_str().filter(|e| e.eq_ignore_ascii_case(part)) else { continue };
        if first.as_deref().is_none_or(|f| entry < f) {
            first = Some(entry.to_owned());
        }
    }
    Ok(first)
}
