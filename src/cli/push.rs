//! `mdl push`.

use clap::{Args, ValueEnum};

use super::transfer::{Registry, Transfers};
use super::{Global, write_out};
use crate::diagnostic::Result;
use crate::registry::{self, Client, Flavour};
use crate::store::Name;

/// Brings a model of the store to the registry that its name says. What the registry has already is not sent.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl cp story me/story && mdl push me/story          to Ollama's registry
  mdl cp story ghcr.io/me/story:1 && mdl push ghcr.io/me/story:1
  mdl push --as oci ghcr.io/me/story:1                for skopeo, ORAS and containerd
  mdl push --as modelpack ghcr.io/me/story:1          by the CNCF model specification")]
pub(super) struct Push {
    /// The model
    name: String,

    /// What the manifest is made for [default: as the model is stored]
    #[arg(long = "as", value_enum, value_name = "FLAVOUR")]
    flavour: Option<As>,

    #[command(flatten)]
    registry: Registry,
}

#[derive(Clone, Copy, ValueEnum)]
enum As {
    /// Ollama
    Ollama,
    /// OCI artifacts: layers keep Ollama's types, and say which files they are
    Oci,
    /// The CNCF model specification
    Modelpack,
}

impl Push {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let name = Name::parse(&self.name)?;
        let client = Client::new(self.registry.options(global))?;
        let progress = Transfers::new(global.progress);
        let flavour = self.flavour.map(|f| match f {
            As::Ollama => Flavour::Ollama,
            As::Oci => Flavour::Oci,
            As::Modelpack => Flavour::ModelPack,
        });
        let pushed = registry::block_on(client.push(&global.open_store()?, &name, flavour, &progress));
        progress.end();
        write_out(&format!("{name}\n{}\n", pushed?))
    }
}
