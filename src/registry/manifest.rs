//! A model's manifest, fetched: bounded, hashed, and its layers looked at before anything else is asked for.

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap};
use serde::Deserialize;

use super::failure::{Failure, authority, clean, misbehaved};
use super::http::Ask;
use super::limits::Limits;
use super::session::Session;
use crate::diagnostic::{Diagnostic, Result};
use crate::store::{Digest, Manifest, Name, media, modelpack};

/// What manifests of container images are called.
pub(super) const OCI_MANIFEST: &str = media::OCI_MANIFEST;
pub(super) const OCI_INDEX: &str = media::OCI_INDEX;
const DOCKER_INDEX: &str = media::DOCKER_INDEX;

/// The layers that a model may have.
const LAYERS: &[&str] = &[
    media::MODEL,
    media::ADAPTER,
    media::PROJECTOR,
    media::DRAFT,
    media::TEMPLATE,
    media::PROMPT,
    media::SYSTEM,
    media::LICENSE,
    media::PARAMS,
    media::MESSAGES,
    media::TENSOR,
    media::JSON,
    media::EMBED,
    // Files that have no role here, and change no answer.
    modelpack::DOC,
    modelpack::WEIGHT_CONFIG,
];

/// A manifest as the registry has it.
pub(super) struct Fetched {
    /// Its bytes, which are stored as they are.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Fetches the manifest of `name`. An index with one manifest leads to that.
///
/// # Errors
/// There is none; it is too large, has another digest than the name says, or is of no model.
pub(super) async fn fetch(session: &Session, name: &Name) -> Result<Fetched> {
    let wanted = name.digest();
    let reference = wanted.map_or_else(|| name.tag().to_owned(), |d| d.to_string());
    let bytes = get(session, name, &reference, wanted).await?;
    let index: Option<Index> = serde_json::from_slice(&bytes).ok();
    let Some(entries) = index.filter(|i| is_index(&i.media_type)).and_then(|i| i.manifests) else {
        return checked(session, name, bytes);
    };
    let digest = only(session, name, &entries)?;
    if wanted.is_some() {
        return Err(Diagnostic::error(format!("`{name}` is an index of manifests, not one"))
            .code("registry-index")
            .help(format!("name the manifest that it leads to, {digest}"))
            .into());
    }
    let bytes = get(session, name, &digest.to_string(), Some(digest)).await?;
    checked(session, name, bytes)
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX | "")
}

/// The one manifest of an index; attestations beside it do not count.
fn only(session: &Session, name: &Name, entries: &[Entry]) -> Result<Digest> {
    let counts = |e: &&Entry| {
        let attests = e.annotations.as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"));
        !attests && matches!(e.media_type.as_str(), OCI_MANIFEST | media::MANIFEST)
    };
    let mut found = entries.iter().filter(counts);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.digest),
        (None, _) => Err(misbehaved(format!(
            "{} has an index without a manifest for `{name}`",
            authority(&session.base)
        ))
        .into()),
        (Some(first), Some(_)) => {
            Err(Diagnostic::error(format!("`{name}` is an index of several manifests"))
                .code("registry-index")
                .help(format!("name one by its digest, such as {}", first.digest))
                .into())
        }
    }
}

async fn get(session: &Session, name: &Name, reference: &str, wanted: Option<Digest>) -> Result<Vec<u8>> {
    let asked = format!("the manifest of `{name}`");
    let url = session.url(&format!("manifests/{reference}"))?;
    let mut ask = Ask::new(Method::GET, url.clone());
    for media_type in [media::MANIFEST, OCI_MANIFEST, OCI_INDEX, DOCKER_INDEX] {
        ask = ask.header(ACCEPT, media_type);
    }
    let limits = &session.client.options.limits;
    let host = authority(&url);
    session
        .persist(async || {
            let work = async {
                let response = session.send(&ask, &asked).await?;
                let stated = stated(response.headers());
                let bytes = session.client.read(response, limits.manifest, &asked).await?;
                let is = Digest::of(&bytes);
                match wanted.or(stated).filter(|wanted| *wanted != is) {
                    None => Ok(bytes),
                    Some(wanted) => Err(Failure::from(misbehaved(format!(
                        "digest mismatch: {host} sends for {asked} what is {is} and not {wanted}"
                    )))),
                }
            };
            session.client.within(limits.small, &url, work).await
        })
        .await
}

/// The digest that the registry itself states.
fn stated(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The manifest, if it is of a model.
fn checked(session: &Session, name: &Name, bytes: Vec<u8>) -> Result<Fetched> {
    let host = authority(&session.base);
    let manifest = Manifest::parse(&bytes).map_err(|errors| {
        let why: Vec<String> = errors.0.iter().map(|d| clean(&d.message)).collect();
        misbehaved(format!("{host} sends for `{name}` an {}", why.join("; ")))
    })?;
    check(&host, name, &manifest, &session.client.options.limits)?;
    Ok(Fetched { bytes, manifest })
}

/// Refuses layers that would be left out without a word, and sizes that are not a model's.
fn check(host: &str, name: &Name, manifest: &Manifest, limits: &Limits) -> Result<()> {
    if let Some(layer) = manifest.layers.iter().find(|l| !LAYERS.contains(&l.media_type.as_str())) {
        return Err(Diagnostic::error(format!(
            "`{name}` of {host} has a layer of the type `{}`, which is none of a model's",
            clean(&layer.media_type)
        ))
        .code("registry-media-type")
        .help("it may be a container image, or need a newer version of mdl")
        .into());
    }
    let config = manifest.config.iter().map(|c| (c, limits.manifest));
    let layers = manifest.layers.iter().map(|l| (l, limits.blob));
    for (layer, limit) in config.chain(layers) {
        if layer.size > limit {
            return Err(misbehaved(format!(
                "`{name}` of {host} has a blob of {} bytes; at most {limit} are read of a {}",
                layer.size,
                if limit == limits.manifest { "configuration" } else { "layer" },
            ))
            .into());
        }
    }
    let mut sizes = std::collections::HashMap::new();
    for layer in manifest.blobs() {
        if sizes.insert(layer.digest, layer.size).is_some_and(|size| size != layer.size) {
            return Err(misbehaved(format!("`{name}` of {host} has two sizes for {}", layer.digest)).into());
        }
    }
    Ok(())
}
