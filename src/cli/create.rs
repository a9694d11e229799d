//! `mdl create`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};

use super::Global;
use super::build::Build;
use crate::diagnostic::{Diagnostic, Result};
use crate::store::Name;

/// Makes a model of a Modelfile: `mdl build` with Ollama's arguments.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl create story                        of ./Modelfile, else of the weights in this directory
  mdl create story -f story.modelfile -q q4_K_M")]
pub(super) struct Create {
    /// The model's name
    #[arg(value_name = "NAME")]
    name: String,

    /// The Modelfile [default: ./Modelfile; where there is none, the weights in this directory]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A quantization, such as q4_K_M [default: the types of the source]
    #[arg(short, long, value_name = "LEVEL")]
    quantize: Option<String>,
}

/// The arguments of `mdl build`, to be read as if they had been typed.
#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    build: Build,
}

impl Create {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        Name::parse(&self.name)?;
        let mut arguments: Vec<OsString> = vec!["build".into(), format!("--tag={}", self.name).into()];
        arguments.extend(self.quantize.map(|level| format!("--quantize={level}").into()));
        arguments.push("--".into());
        arguments.push(self.file.unwrap_or_else(|| PathBuf::from(".")).into_os_string());
        let typed = Typed::try_parse_from(arguments);
        typed.map_err(|e| Diagnostic::usage(e.to_string()))?.build.run(global)
    }
}
