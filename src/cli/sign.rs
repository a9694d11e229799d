//! `mdl sign`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, write_out};
use crate::diagnostic::{Diagnostic, Result};
use crate::pipeline;
use crate::signing::{PrivateKey, files, seal, stored};
use crate::store::Name;

/// Signs a model: one of the store, a directory or a file. The signature is a Sigstore bundle in the format of OpenSSF
/// Model Signing, which `model_signing verify key` reads. Keys are P-256, P-384, P-521 or ed25519, in PEM.
#[derive(Args)]
#[command(after_help = "\
Examples:
  openssl ecparam -name prime256v1 -genkey -noout -out key.pem; openssl ec -in key.pem -pubout -out key.pub
  mdl sign --key key.pem story                          kept in the store beside the model
  mdl sign --key key.pem ./my-model                     writes model.sig
  mdl verify --key key.pub story")]
pub(super) struct Sign {
    /// The model: a path if there is a file or directory of this name, else a name of the store
    #[arg(value_name = "NAME|PATH")]
    model: String,

    /// The private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Where the signature is written [default: the store for a name, model.sig for a path]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,

    /// A path in the directory that is no part of the model; may be repeated
    #[arg(long, value_name = "PATH")]
    ignore: Vec<String>,
}

impl Sign {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let key = PrivateKey::read(&self.key)?;
        let model = Path::new(&self.model);
        if model.exists() {
            let to = self.signature.unwrap_or_else(|| PathBuf::from("model.sig"));
            let mut ignore = self.ignore;
            ignore.extend(within(model, &to));
            let statement = files::statement(model, &ignore)?;
            write(&to, &seal(&statement, &key)?)?;
            return write_out(&format!("signed {} files: {}\n", statement.resources.len(), to.display()));
        }
        let store = global.open_store()?;
        let model = store.read(&Name::parse(&self.model)?)?;
        let bytes = stored::sign(&store.writer()?, &model, &key)?;
        if let Some(to) = &self.signature {
            write(to, &bytes)?;
        }
        write_out(&format!("signed '{}'\n", model.name))
    }
}

/// Where `file` lies in the directory `model`: a signature signs all but itself.
pub(super) fn within(model: &Path, file: &Path) -> Option<String> {
    let absolute = |path: &Path| {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(dir.canonicalize().ok()?.join(path.file_name()?))
    };
    let inside = absolute(file)?;
    let inside = inside.strip_prefix(model.canonicalize().ok()?).ok()?;
    (!inside.as_os_str().is_empty()).then(|| inside.to_string_lossy().into_owned())
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    pipeline::write_file(to, |out| out.write_all(bytes).map_err(|e| Diagnostic::io("write", to, &e).into()))
}
