//! A model as the programs that read a registry want it: as Ollama writes it, as an OCI image with a type of its own,
//! or by the CNCF model specification. The blobs are the same; the manifest and the configuration differ.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::manifest::OCI_MANIFEST;
use crate::diagnostic::{Diagnostic, Result};
use crate::store::{Digest, Layer, Manifest, Store, Stored, TITLE, file_of, media, modelpack};

/// What the manifest is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Ollama.
    Ollama,
    /// Programs that handle OCI artifacts: skopeo, ORAS, containerd.
    Oci,
    /// Programs of the CNCF model specification.
    ModelPack,
}

/// The type of the artifact, for those that show it.
const ARTIFACT: &str = "application/vnd.mdl.model.v1";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What is to be pushed.
pub(super) struct Package {
    /// The manifest.
    pub bytes: Vec<u8>,
    /// What it is.
    pub media_type: String,
    /// The blobs of the store that it needs.
    pub layers: Vec<Layer>,
    /// The configuration, where it is not one of those.
    pub config: Option<Vec<u8>>,
}

/// Packs a stored model; as it is stored where no flavour is asked for.
///
/// # Errors
/// Its configuration cannot be read, or it has a layer that the flavour has no place for.
pub(super) fn pack(store: &Store, model: &Stored, flavour: Option<Flavour>) -> Result<Package> {
    let stored = model.manifest.media_type();
    match flavour {
        Some(Flavour::Ollama) if stored != media::MANIFEST => ollama(store, model),
        Some(Flavour::Oci) => oci(store, model),
        Some(Flavour::ModelPack) => model_pack(store, model),
        None | Some(Flavour::Ollama) => Ok(Package {
            bytes: model.bytes.clone(),
            media_type: stored.to_owned(),
            layers: model.manifest.blobs().cloned().collect(),
            config: None,
        }),
    }
}

fn ollama(store: &Store, model: &Stored) -> Result<Package> {
    let config = store.config(model)?.to_bytes()?;
    let layer = Layer::new(media::CONFIG, Digest::of(&config), config.len() as u64);
    let bytes = Manifest::new(layer, model.manifest.layers.clone()).to_bytes()?;
    Ok(package(bytes, media::MANIFEST, model, config))
}

fn package(bytes: Vec<u8>, media_type: &str, model: &Stored, config: Vec<u8>) -> Package {
    let layers = model.manifest.layers.clone();
    Package { bytes, media_type: media_type.to_owned(), layers, config: Some(config) }
}

/// An image manifest whose layers keep their types, and say which files they are.
fn oci(store: &Store, model: &Stored) -> Result<Package> {
    let mut config = serde_json::to_value(store.config(model)?).map_err(unwritable)?;
    let digests = model.manifest.layers.iter().map(|l| l.digest);
    if let Some(config) = config.as_object_mut() {
        config
            .insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": digests.collect::<Vec<_>>()}));
    }
    let mut files = Files::default();
    let layers: Vec<Value> = model
        .manifest
        .layers
        .iter()
        .map(|l| {
            let file = files.next(&l.media_type).map_or_else(|| l.digest.hex(), |(file, _)| file);
            json!({"mediaType": l.media_type, "digest": l.digest, "size": l.size, "annotations": {TITLE: file}})
        })
        .collect();
    image(ARTIFACT, OCI_CONFIG, &config, layers, model)
}

fn model_pack(store: &Store, model: &Stored) -> Result<Package> {
    let config = store.config(model)?;
    let digests: Vec<Digest> = model.manifest.layers.iter().map(|l| l.digest).collect();
    let json = json!({
        "descriptor": {"family": config.model_family, "name": model.name.model()},
        "modelfs": {"type": "layers", "diffIds": digests},
        "config": {
            "architecture": "transformer", "format": config.model_format,
            "paramSize": config.model_type, "quantization": config.file_type,
        },
    });
    let mut files = Files::default();
    let mut layers = Vec::new();
    for layer in &model.manifest.layers {
        let (file, kind) = files.next(&layer.media_type).ok_or_else(|| {
            Diagnostic::error(format!(
                "`{}` has a layer of the type {}, for which the CNCF model specification has no place",
                model.name, layer.media_type
            ))
            .code("unsupported")
            .help("`--as oci` keeps the types of layers")
        })?;
        layers.push(json!({
            "mediaType": kind, "digest": layer.digest, "size": layer.size,
            "annotations": {modelpack::FILE: file, TITLE: file},
        }));
    }
    image(modelpack::MANIFEST, modelpack::CONFIG, &json, layers, model)
}

fn image(artifact: &str, kind: &str, config: &Value, layers: Vec<Value>, model: &Stored) -> Result<Package> {
    let config = serde_json::to_vec(config).map_err(unwritable)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact,
        "config": {"mediaType": kind, "digest": Digest::of(&config), "size": config.len()},
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&manifest).map_err(unwritable)?;
    Ok(package(bytes, OCI_MANIFEST, model, config))
}

fn unwritable(e: serde_json::Error) -> Diagnostic {
    Diagnostic::error(format!("cannot be written as JSON: {e}"))
}

/// Names of files, counted by role.
#[derive(Default)]
struct Files(HashMap<String, usize>);

impl Files {
    fn next(&mut self, media_type: &str) -> Option<(String, &'static str)> {
        let number = self.0.entry(media_type.to_owned()).or_default();
        let file = file_of(media_type, *number);
        *number += 1;
        file
    }
}
