//! Pushing a model: its blobs, as far as the registry lacks them, and then its manifest.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::flavour::{self, Flavour, Package};
use super::http::Ask;
use super::session::Session;
use super::upload::{Source, Upload};
use super::{Client, Progress, blocking, referrers};
use crate::diagnostic::{Diagnostic, Result};
use crate::store::{Digest, Layer, Name, Store, media};

impl Client {
    /// Brings a model of the store to its registry, as it is stored or in another flavour; the digest that it has
    /// there. What the registry has is not sent.
    ///
    /// # Errors
    /// There is no such model, or it is damaged; the registry refuses or cannot be reached.
    pub async fn push(
        self: &Arc<Self>,
        store: &Store,
        name: &Name,
        flavour: Option<Flavour>,
        progress: &dyn Progress,
    ) -> Result<Digest> {
        progress.status("retrieving manifest");
        let session = Session::new(self, name, "pull,push")?;
        let (opened, wanted) = (store.clone(), name.clone());
        let (model, Package { bytes, media_type, layers, config }) = blocking(move || {
            let model = opened.read(&wanted)?;
            let package = flavour::pack(&opened, &model, flavour)?;
            Ok((model, package))
        })
        .await?;
        let mut blobs: Vec<(Layer, Source)> = Vec::new();
        let mut seen = HashSet::new();
        for layer in layers.into_iter().filter(|l| seen.insert(l.digest)) {
            let (opened, digest) = (store.clone(), layer.digest);
            let blob = blocking(move || opened.find_whole_blob(&digest)).await?;
            let blob = blob.filter(|b| b.size == layer.size).ok_or_else(|| damaged(name, &layer))?;
            blobs.push((layer, Source::File(blob.path)));
        }
        if let Some(config) = config {
            let layer = Layer::new(media::CONFIG, Digest::of(&config), config.len() as u64);
            blobs.push((layer, Source::Memory(config.into())));
        }
        let uploads = blobs.iter().map(|(layer, source)| Upload {
            session: &session,
            progress,
            layer,
            source: source.clone(),
            mount: mount(name, layer),
        });
        stream::iter(uploads.collect::<Vec<_>>())
            .map(|upload| async move { upload.send().await })
            .buffer_unordered(self.options.limits.blobs.max(1))
            .try_collect::<Vec<()>>()
            .await?;
        progress.status("pushing manifest");
        let id = Digest::of(&bytes);
        let reference = name.digest().map_or_else(|| name.tag().to_owned(), |d| d.to_string());
        let mut ask = Ask::new(Method::PUT, session.url(&format!("manifests/{reference}"))?)
            .header(CONTENT_TYPE, &media_type)
            .bytes(bytes.into());
        ask.patience = Some(self.options.limits.commit);
        let asked = format!("the upload of the manifest of {}", session.asked());
        session.persist(async || session.send(&ask, &asked).await.map(drop)).await?;
        // In another flavour it is another manifest, about which nothing is known.
        if id == model.id {
            referrers::push(&session, store, &model, progress).await?;
        }
        progress.status("success");
        Ok(id)
    }
}

fn damaged(name: &Name, layer: &Layer) -> Diagnostic {
    Diagnostic::error(format!(
        "`{name}` is damaged: its blob {} is missing or not what it should be",
        layer.digest
    ))
    .code("missing-blob")
    .help(format!("`mdl verify {name}` says more"))
}

/// The repository that the layer was taken from, if it is another of the same registry.
fn mount(name: &Name, layer: &Layer) -> Option<String> {
    let from = Name::parse(&layer.from).ok()?;
    let elsewhere = from.namespace() != name.namespace() || from.model() != name.model();
    (from.host().eq_ignore_ascii_case(name.host()) && elsewhere)
        .then(|| format!("{}/{}", from.namespace(), from.model()))
}
