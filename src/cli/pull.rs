//! `mdl pull`.

use clap::Args;

use super::transfer::{Registry, Transfers};
use super::{Global, write_out};
use crate::diagnostic::Result;
use crate::registry::{self, Client};
use crate::store::Name;

/// Brings a model from a registry into the store: Ollama's, or any that holds container images. What is there
/// already is not asked for; what a killed pull brought is kept.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl pull smollm2:135m                          from Ollama's registry
  mdl pull hf.co/ggml-org/models:Q4_K_M
  mdl pull ghcr.io/me/models/story:1
  mdl pull story@sha256:9c2d…                    exactly this one, or an error
  mdl pull --insecure localhost:5000/me/story    a registry without TLS

Logins are Docker's (`mdl login`), or Ollama's key (`mdl signin`). HTTPS_PROXY and NO_PROXY count; certificates of
your own authority are named in MDL_CA_FILE or SSL_CERT_FILE.")]
pub(super) struct Pull {
    /// The model: [HOST/]NAMESPACE/NAME[:TAG], or with @DIGEST
    name: String,

    #[command(flatten)]
    registry: Registry,
}

impl Pull {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let name = Name::parse(&self.name)?;
        let client = Client::new(self.registry.options(global))?;
        let progress = Transfers::new(global.progress);
        let pulled = registry::block_on(client.pull(&global.open_store()?, &name, &progress));
        progress.end();
        let pulled = pulled?;
        write_out(&format!("{}\n{}\n", pulled.name, pulled.id))
    }
}
