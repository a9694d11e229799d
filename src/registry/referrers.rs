//! What is kept beside a model, signatures and provenance, goes with it.
//!
//! Each document is a manifest that names the model's as its subject, and registries list those (OCI distribution
//! specification 1.1, "Listing Referrers"). One that does not gets, and is asked for, an index under the tag
//! `sha256-<digest of the subject>`, as the specification has it. Ollama's registry knows neither.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::auth::Login;
use super::failure::misbehaved;
use super::http::Ask;
use super::manifest::{OCI_INDEX, OCI_MANIFEST};
use super::session::Session;
use super::upload::{Source, Upload};
use super::{Progress, blocking};
use crate::archive::attached::{self, Attachment, Beside};
use crate::diagnostic::{Errors, Result};
use crate::store::{Digest, Layer, Store, Stored};

/// The most documents of one model that are fetched.
const MOST: usize = 100;

/// The most bytes of a model's documents together.
const ALL: u64 = 64 << 20;

/// How registries say that they do not know what is asked for: in many ways.
const REFUSALS: &[&str] = &["not-in-registry", "registry-denied", "registry-misbehaves", "registry-fails"];

/// The header by which a registry says that it lists a manifest with its subject.
const LISTED: &str = "oci-subject";

/// Brings what is kept beside a model, whose manifest the registry has, to the registry; how many documents.
///
/// # Errors
/// A document cannot be read; the registry refuses or cannot be reached.
pub(super) async fn push(
    session: &Session,
    store: &Store,
    model: &Stored,
    progress: &dyn Progress,
) -> Result<usize> {
    if matches!(session.login().await?, Login::Key) {
        return Ok(0);
    }
    let (opened, wanted) = (store.clone(), model.clone());
    let Beside { descriptors, mut blobs } = blocking(move || attached::of(&opened, &wanted)).await?;
    if descriptors.is_empty() {
        return Ok(0);
    }
    progress.status("pushing signatures and provenance");
    let manifests: Vec<Vec<u8>> = descriptors.iter().filter_map(|d| blobs.remove(&d.digest)).collect();
    for (digest, bytes) in blobs {
        let layer = Layer::new("", digest, bytes.len() as u64);
        let source = Source::Memory(bytes.into());
        Upload { session, progress, layer: &layer, source, mount: None }.send().await?;
    }
    let mut unlisted = Vec::new();
    for bytes in &manifests {
        let digest = Digest::of(bytes);
        let answer = put(session, &digest.to_string(), OCI_MANIFEST, bytes).await?;
        if !answer.headers().contains_key(LISTED) {
            let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
            unlisted.push(json!({
                "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(), "artifactType": said["artifactType"],
            }));
        }
    }
    if !unlisted.is_empty() {
        list(session, &model.id, unlisted).await?;
    }
    Ok(manifests.len())
}

/// Fetches what a registry has about the model with this manifest: documents of the kinds that are kept, each with the
/// digest and size that its manifest states. A registry that has none, or knows no such thing, gives none.
///
/// # Errors
/// The registry cannot be reached, or sends what it should not.
pub(super) async fn fetch(session: &Session, id: &Digest) -> Result<Vec<(Attachment, Vec<u8>)>> {
    let mut documents = Vec::new();
    let mut total = 0u64;
    if matches!(session.login().await?, Login::Key) {
        return Ok(documents);
    }
    let asked = format!("what is known about {}", session.asked());
    let limit = session.client.options.limits.manifest;
    let listed = match get(session, &format!("referrers/{id}"), OCI_INDEX, &asked, REFUSALS).await? {
        Some(index) => Some(index),
        None => get(session, &format!("manifests/{}", tag(id)), OCI_INDEX, &asked, REFUSALS).await?,
    };
    for digest in listed.map(|index| digests(&index)).unwrap_or_default() {
        let Some(bytes) =
            get(session, &format!("manifests/{digest}"), OCI_MANIFEST, &asked, REFUSALS).await?
        else {
            continue;
        };
        held(&digest, &bytes, None)?;
        let attachment =
            attached::parse(&bytes).map_err(|_| misbehaved(format!("{digest} is no manifest")))?;
        let Some(attachment) = attachment.flatten().filter(|a| a.subject == *id) else { continue };
        let layer = &attachment.layer;
        let (digest, size) = (layer.digest, layer.size);
        total = total.saturating_add(size);
        if size > limit || total > ALL {
            let most = format!("at most {limit} are read of one, and {ALL} of all");
            return Err(misbehaved(format!("{digest}, of {asked}, has {size} bytes; {most}")).into());
        }
        let bytes = get(session, &format!("blobs/{digest}"), "*/*", &asked, REFUSALS).await?;
        let bytes = bytes.ok_or_else(|| misbehaved(format!("{digest}, of {asked}, is missing")))?;
        held(&digest, &bytes, Some(size))?;
        documents.push((attachment, bytes));
    }
    Ok(documents)
}

/// The digests of an index, as many as are looked at.
fn digests(index: &[u8]) -> Vec<Digest> {
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    let entries = index["manifests"].as_array().cloned().unwrap_or_default();
    entries.iter().filter_map(|e| e["digest"].as_str()?.parse().ok()).take(MOST).collect()
}

fn held(digest: &Digest, bytes: &[u8], size: Option<u64>) -> Result<()> {
    if Digest::of(bytes) == *digest && size.is_none_or(|size| size == bytes.len() as u64) {
        return Ok(());
    }
    Err(misbehaved(format!("digest mismatch: the registry sends for {digest} what it is not")).into())
}

/// The tag of the index of what is about a manifest, where a registry makes no list itself.
fn tag(id: &Digest) -> String {
    id.file_name()
}

/// Adds to the index of what is about a manifest.
async fn list(session: &Session, id: &Digest, entries: Vec<Value>) -> Result<()> {
    let asked = format!("what is known about {}", session.asked());
    // What is there and cannot be read must not be lost.
    let former =
        get(session, &format!("manifests/{}", tag(id)), OCI_INDEX, &asked, &["not-in-registry"]).await?;
    let index: Value = former.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let mut all = index["manifests"].as_array().cloned().unwrap_or_default();
    for entry in entries {
        if !all.iter().any(|e| e["digest"] == entry["digest"]) {
            all.push(entry);
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": all}).to_string();
    put(session, &tag(id), OCI_INDEX, index.as_bytes()).await.map(drop)
}

async fn put(session: &Session, reference: &str, media_type: &str, bytes: &[u8]) -> Result<Response> {
    let url = session.url(&format!("manifests/{reference}"))?;
    let ask = Ask::new(Method::PUT, url).header(CONTENT_TYPE, media_type).bytes(bytes.to_vec().into());
    let asked = format!("the upload of what is known about {}", session.asked());
    session.persist(async || session.send(&ask, &asked).await).await
}

/// Something small; `None` where the registry refuses to have it, in one of these ways.
async fn get(
    session: &Session,
    rest: &str,
    accept: &str,
    asked: &str,
    refusals: &[&str],
) -> Result<Option<Vec<u8>>> {
    let limit = session.client.options.limits.manifest;
    let url = session.url(rest)?;
    let ask = Ask::new(Method::GET, url.clone()).header(ACCEPT, accept);
    let client = &session.client;
    let work = async || {
        let work = async {
            let response = session.send(&ask, asked).await?;
            client.read(response, limit, asked).await
        };
        client.within(client.options.limits.small, &url, work).await
    };
    let refuses = |errors: &Errors| errors.0.iter().all(|d| refusals.contains(&d.code));
    match session.persist(work).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(errors) if refuses(&errors) => Ok(None),
        Err(errors) => Err(errors),
    }
}
