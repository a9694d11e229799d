//! `mdl save` and `mdl load`.

use std::path::PathBuf;

use clap::Args;

use super::progress::Shown;
use super::{Global, table, write_out};
use crate::archive::{self, Wanted};
use crate::diagnostic::Result;
use crate::pipeline;
use crate::signing::PublicKey;
use crate::store::Name;
use crate::world::SystemWorld;

/// Writes models to one file, which `mdl load` reads: a tar of an OCI image layout, with manifests as the store has
/// them. The same models give the same bytes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl save story -o story.tar
  mdl save story smollm2:q4 -o models.tar        blobs that both have are in it once")]
pub(super) struct Save {
    /// The models
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Save {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let names = self.names.iter().map(|n| Name::parse(n)).collect::<Result<Vec<_>>>()?;
        let store = global.open_store()?;
        let progress = Shown::new(global.progress);
        let saved = pipeline::write_file(&self.output, |out| archive::save(&store, &names, out, &progress))?;
        for (name, id) in &saved.models {
            write_out(&format!("saved '{name}' {id}\n"))?;
        }
        eprintln!("wrote {} ({})", self.output.display(), table::size(saved.bytes));
        Ok(())
    }
}

/// Reads the models of a file that `mdl save` wrote, or another tool that writes OCI image layouts as a tar. Every
/// digest and size is checked before a model has its name.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl load story.tar
  mdl load story.tar -t mine:v2          under another name
  mdl load --require-signature key.pub story.tar")]
pub(super) struct Load {
    /// The file
    #[arg(value_name = "FILE")]
    path: PathBuf,

    /// What to call the model, if there is one
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]")]
    tag: Option<String>,

    /// Load no model that was not signed with this public key; may be repeated: any of them will do
    #[arg(long, value_name = "FILE")]
    require_signature: Vec<PathBuf>,
}

impl Load {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let name = self.tag.as_deref().map(Name::parse).transpose()?;
        let keys =
            self.require_signature.iter().map(|file| PublicKey::read(file)).collect::<Result<Vec<_>>>()?;
        let wanted = Wanted { name: name.as_ref(), keys: &keys };
        let store = global.open_store()?;
        let progress = Shown::new(global.progress);
        for loaded in archive::load(&SystemWorld, &self.path, &store, wanted, &progress)? {
            write_out(&format!("loaded '{}' {}\n", loaded.name, loaded.id))?;
        }
        Ok(())
    }
}
