//! The build caches that `mdl build` shares with other machines.

use std::sync::Arc;

use clap::Args;

use super::{Global, usage};
use crate::bucket::{self, Bucket};
use crate::codegen::{Shared, Shares};
use crate::diagnostic::{Diagnostic, Result};

/// Where tensors come from, and where they go.
#[derive(Args)]
pub(super) struct CacheArgs {
    /// Look here for tensors that others have made: a folder, s3://BUCKET/PREFIX, gs://…, az://…; with
    /// credentials and AWS_ENDPOINT_URL as the providers' tools read them. What is not as promised is made again
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["emit", "dry_run"])]
    cache_from: Option<String>,

    /// Put tensors here for others
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["emit", "dry_run"])]
    cache_to: Option<String>,
}

impl CacheArgs {
    /// Opens both, or the one that both are.
    pub(super) fn open(&self, global: &Global) -> Result<Caches> {
        let open = |place: &str| {
            if global.offline && bucket::is_remote(place) {
                return Err(usage(format!("the cache {place} is in a network, and `--offline` forbids it")));
            }
            Ok(Arc::new(Bucket::open(place)?))
        };
        let from = self.cache_from.as_deref().map(open).transpose()?;
        let to = match &self.cache_to {
            to if *to == self.cache_from => from.clone(),
            to => to.as_deref().map(open).transpose()?,
        };
        Ok(Caches { from, to })
    }
}

/// The caches of a build; both may be the same one.
pub(super) struct Caches {
    from: Option<Arc<Bucket>>,
    to: Option<Arc<Bucket>>,
}

impl Caches {
    /// As a build takes them.
    pub(super) fn shares(&self) -> Shares<'_> {
        let from = self.from.as_deref().map(|b| b as &dyn Shared);
        let to = self.to.as_deref().map(|b| b as &dyn Shared);
        Shares { from, to }
    }

    /// What there is to say of them.
    pub(super) fn take_notes(&self) -> Vec<Diagnostic> {
        self.from.iter().chain(&self.to).flat_map(|b| b.take_notes()).collect()
    }
}
