//! What is kept beside a model goes with it: signatures, provenance, a bill of materials.
//!
//! Each is a manifest of its own that names the model's as its `subject`, as OCI's referrers do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layout::{Descriptor, MEDIA_MANIFEST};
use super::tar::refused;
use crate::diagnostic::{Diagnostic, Result};
use crate::signing::{PublicKey, stored};
use crate::store::{Digest, Document, Store, Stored, Writer, to_go_json};

/// What may be attached, by its type.
const KINDS: &[(&str, Kind)] = &[
    ("application/vnd.dev.sigstore.bundle.v0.3+json", Kind::Signature),
    ("application/vnd.in-toto+json", Kind::Document(Document::Statement)),
    ("application/vnd.cyclonedx+json", Kind::Document(Document::Bom)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signature,
    Document(Document),
}

/// The most signatures of one model; the store reads no more.
const MOST_SIGNATURES: usize = 64;

/// A configuration that says nothing.
const EMPTY: &[u8] = b"{}";
const MEDIA_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The manifest of something that is attached.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attached {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    subject: Descriptor,
}

/// What is kept beside a model, for an archive.
pub struct Beside {
    /// The descriptors of its manifests.
    pub descriptors: Vec<Descriptor>,
    /// The blobs that carry it.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

/// All that is kept beside a model.
pub fn of(store: &Store, model: &Stored) -> Result<Beside> {
    let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
    for (media_type, kind) in KINDS {
        match kind {
            Kind::Signature => all.extend(store.signatures(&model.id)?.into_iter().map(|s| (*media_type, s))),
            Kind::Document(document) => {
                all.extend(store.document(&model.id, *document)?.map(|bytes| (*media_type, bytes)));
            }
        }
    }
    let mut blobs = BTreeMap::new();
    let mut descriptors = Vec::new();
    let subject = Descriptor::new(model.manifest.media_type(), &model.bytes);
    for (media_type, bytes) in all {
        let manifest = to_go_json(&Attached {
            schema_version: 2,
            media_type: MEDIA_MANIFEST.to_owned(),
            artifact_type: media_type.to_owned(),
            config: Descriptor::new(MEDIA_EMPTY, EMPTY),
            layers: vec![Descriptor::new(media_type, &bytes)],
            subject: subject.clone(),
        })?;
        descriptors.push(Descriptor::new(MEDIA_MANIFEST, &manifest));
        for blob in [EMPTY.to_vec(), bytes, manifest] {
            blobs.insert(Digest::of(&blob), blob);
        }
    }
    descriptors.sort_by_key(|d| d.digest);
    Ok(Beside { descriptors, blobs })
}

/// Something that is attached to a model.
pub struct Attachment {
    /// The digest of the model's manifest.
    pub subject: Digest,
    /// What carries it.
    pub layer: Descriptor,
    kind: Kind,
}

/// What a manifest says that it is: `None` for one that is attached to nothing; inside, `None` for one of a type that
/// nothing is done with here.
pub fn parse(bytes: &[u8]) -> Result<Option<Option<Attachment>>> {
    #[derive(Deserialize)]
    struct Manifest {
        subject: Option<serde_json::Value>,
    }
    let any: Manifest =
        serde_json::from_slice(bytes).map_err(|e| refused(&format!("a manifest in it: {e}")))?;
    if any.subject.is_none() {
        return Ok(None);
    }
    let attached: Attached = serde_json::from_slice(bytes)
        .map_err(|e| refused(&format!("a manifest with a subject in it: {e}")))?;
    let [layer] = attached.layers.as_slice() else { return Ok(Some(None)) };
    let media_type =
        if attached.artifact_type.is_empty() { &layer.media_type } else { &attached.artifact_type };
    let kind = KINDS.iter().find(|(name, _)| name == media_type).map(|(_, kind)| *kind);
    let layer = layer.clone();
    Ok(Some(kind.map(|kind| Attachment { subject: attached.subject.digest, layer, kind })))
}

/// Fails where no signature, of the archive or of the store, is of this model and by one of these keys. That its blobs have
/// their digests was checked before.
pub fn require_signature(
    store: &Store,
    model: &Stored,
    attached: &[(Attachment, Vec<u8>)],
    keys: &[PublicKey],
) -> Result<()> {
    let brought = attached.iter().filter(|(a, _)| a.kind == Kind::Signature && a.subject == model.id);
    let kept = store.signatures(&model.id)?;
    let signatures: Vec<&[u8]> =
        brought.map(|(_, bytes)| bytes.as_slice()).chain(kept.iter().map(Vec::as_slice)).collect();
    let signed = |key: &PublicKey| signatures.iter().any(|bytes| stored::covers(model, key, bytes).is_ok());
    if keys.iter().any(signed) {
        return Ok(());
    }
    let why = match signatures.len() {
        0 => "it has no signature".to_owned(),
        n => format!("its signatures ({n}) are by other keys, or of something else"),
    };
    Err(Diagnostic::error(format!("`{}` is not signed with a key that is required: {why}", model.name))
        .code("not-signed")
        .help("nothing was loaded")
        .into())
}

/// Keeps what was attached to models that are about to be published. Documents that are here already stay: they are of a
/// build that was made here, perhaps.
pub fn keep(writer: &Writer, attached: &[(Attachment, Vec<u8>)]) -> Result<()> {
    let store = writer.store();
    for (attachment, bytes) in attached {
        let model = &attachment.subject;
        match attachment.kind {
            Kind::Signature => {
                if store.signatures(model)?.len() >= MOST_SIGNATURES {
                    return Err(refused("too many signatures of one model are in it").into());
                }
                writer.add_signature(model, bytes)?;
            }
            Kind::Document(document) => {
                if store.document(model, document)?.is_none() {
                    store.keep_document(model, document, bytes)?;
                }
            }
        }
    }
    Ok(())
}
