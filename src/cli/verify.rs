//! `mdl verify`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::progress::Shown;
use super::sign::within;
use super::{Global, table, usage, write_out};
use crate::diagnostic::{Diagnostic, Errors, Result, Severity};
use crate::pipeline;
use crate::prompt::Renderer;
use crate::prompt::isolated::ChildCommand;
use crate::signing::statement::Unsigned;
use crate::signing::{self, PublicKey, bundle, files, stored};
use crate::store::Name;
use crate::world::{SystemWorld, read_file};

/// Re-hashes every blob and follows every manifest; names each damage and what to do about it. With a key, says
/// whether a model is what the key's owner signed.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl verify                                     the whole store
  mdl verify story                               one model
  mdl verify --rebuild story/ story              and that it is what its sources give
  mdl verify --key key.pub story                 and that it is signed
  mdl verify --key key.pub ./my-model            a directory, against model.sig")]
pub(super) struct Verify {
    /// Models to verify [default: all, and every blob]; with --key also directories and files
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The public key that must have signed them
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// The signature [default: those in the store for a name, model.sig for a path]
    #[arg(long, value_name = "FILE", requires = "key")]
    signature: Option<PathBuf>,

    /// A path in the directory that is no part of the model; may be repeated
    #[arg(long, value_name = "PATH", requires = "key")]
    ignore: Vec<String>,

    /// Files that were not signed do not matter
    #[arg(long, requires = "key")]
    ignore_unsigned: bool,

    /// Build this Modelfile again, with nothing that an earlier build made: it must come out as its lock says, and be
    /// what the names mean
    #[arg(long, value_name = "PATH", conflicts_with = "key")]
    rebuild: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        if let Some(key) = &self.key {
            let key = PublicKey::read(key)?;
            if self.names.is_empty() {
                return Err(usage("--key: name the models that must be signed"));
            }
            return self.names.iter().try_for_each(|model| self.signed(global, &key, model));
        }
        let names = self.names.iter().map(|n| Name::parse(n)).collect::<Result<Vec<_>>>()?;
        if let Some(path) = &self.rebuild {
            return rebuilt(global, path, &names);
        }
        let report = global.open_store()?.verify(&names, &|_| {})?;
        write_out(&format!(
            "{} models, {} blobs, {}: {}\n",
            report.models,
            report.blobs,
            table::size(report.bytes),
            if report.damage.is_empty() { "all as it should be" } else { "damaged" }
        ))?;
        let (errors, rest): (Vec<Diagnostic>, Vec<Diagnostic>) =
            report.damage.into_iter().partition(|d| d.severity == Severity::Error);
        global.print(&rest);
        if errors.is_empty() { Ok(()) } else { Err(Errors(errors)) }
    }

    fn signed(&self, global: &Global, key: &PublicKey, model: &str) -> Result<()> {
        let path = Path::new(model);
        if path.exists() {
            let signature = self.signature.as_deref().unwrap_or(Path::new("model.sig"));
            let signed = signing::open(&read_file(&SystemWorld, signature, bundle::LIMIT)?, key)?;
            let mut ignore = self.ignore.clone();
            ignore.extend(within(path, signature));
            let found = files::resources(path, &signed.serialization, &ignore)?;
            let unsigned = if self.ignore_unsigned { Unsigned::Ignored } else { Unsigned::Refused };
            let differences = signed.differences(&found, unsigned);
            if !differences.is_empty() {
                return Err(Errors(differences));
            }
        } else {
            let store = global.open_store()?;
            let stored = store.read(&Name::parse(model)?)?;
            match &self.signature {
                Some(file) => {
                    let signature = read_file(&SystemWorld, file, bundle::LIMIT)?;
                    stored::verify_with(&store, &stored, key, &signature)?;
                }
                None => stored::verify(&store, &stored, key)?,
            }
        }
        write_out(&format!("'{model}' is what was signed\n"))
    }
}

/// Builds again, and holds the models to the result.
fn rebuilt(global: &Global, path: &Path, names: &[Name]) -> Result<()> {
    let store = global.open_store()?;
    let renderer = Renderer::in_children(ChildCommand::current()?);
    let progress = Shown::new(global.progress);
    let id = pipeline::rebuild(&SystemWorld, path, &store, &renderer, &progress)?;
    write_out(&format!("{} gives {id} again\n", path.display()))?;
    let mut errors = Vec::new();
    for name in names {
        let model = store.read(name)?;
        match model.id == id {
            true => write_out(&format!("'{}' is that\n", model.name))?,
            false => errors.push(
                Diagnostic::error(format!("`{}` is {}, which is something else", model.name, model.id))
                    .code("not-rebuilt"),
            ),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Errors(errors)) }
}
