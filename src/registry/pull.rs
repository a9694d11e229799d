//! Pulling a model: its manifest, its blobs, and then its name.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::download::Transfer;
use super::session::Session;
use super::{Client, Progress, blocking, manifest, referrers};
use crate::archive::attached;
use crate::diagnostic::Result;
use crate::store::{Digest, Layer, Name, Published, Store};

impl Client {
    /// Brings a model from its registry into the store. Blobs that are there are not asked for.
    ///
    /// Dropped, it leaves nothing under a model's or blob's name, and goes on where it was when it is called again.
    ///
    /// # Errors
    /// The registry cannot be reached, does not have the model, or sends what it should not; the disk refuses. The
    /// name is what it was.
    pub async fn pull(
        self: &Arc<Self>,
        store: &Store,
        name: &Name,
        progress: &dyn Progress,
    ) -> Result<Published> {
        progress.status("pulling manifest");
        let session = Session::new(self, name, "pull")?;
        let fetched = manifest::fetch(&session, name).await?;
        let opened = store.clone();
        let writer = Arc::new(blocking(move || opened.writer()).await?);
        {
            let limits = &self.options.limits;
            let connections = Semaphore::new(limits.connections.max(1));
            let transfer =
                Transfer { session: &session, writer: writer.clone(), progress, connections: &connections };
            let mut seen = HashSet::new();
            // The configuration comes last, as with Ollama: lists of progress begin with what takes long.
            let manifest = &fetched.manifest;
            let layers: Vec<&Layer> =
                manifest.layers.iter().chain(&manifest.config).filter(|l| seen.insert(l.digest)).collect();
            stream::iter(layers)
                .map(|layer| transfer.fetch(layer))
                .buffer_unordered(limits.blobs.max(1))
                .try_collect::<Vec<()>>()
                .await?;
        }
        let about = referrers::fetch(&session, &Digest::of(&fetched.bytes)).await?;
        progress.status("verifying sha256 digest");
        progress.status("writing manifest");
        let name = name.clone();
        let published = blocking(move || {
            attached::keep(&writer, &about)?;
            let published = writer.publish_manifest(&name, &fetched.bytes);
            // The blobs of the former model can be removed once nobody writes.
            drop(writer);
            published
        })
        .await?;
        if !published.replaced.is_empty() {
            progress.status("removing unused layers");
            let (store, replaced) = (store.clone(), published.replaced.clone());
            // The model is there: that old blobs are too is no failure.
            let _ = blocking(move || store.prune(&replaced)).await;
        }
        progress.status("success");
        Ok(published)
    }
}
