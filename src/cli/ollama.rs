//! The program under the name `ollama`: its store is Ollama's, and its exit codes are.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{Cli, Interrupted};

/// True where the program was started under the name `ollama`.
pub(super) fn is_on() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_stem().is_some_and(|stem| stem == "ollama"))
}

/// What is answered before any command is read: the version, and help where nothing is asked for.
pub(super) fn answer() -> Option<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            let _ = Cli::command().name("ollama").bin_name("ollama").print_help();
            Some(ExitCode::SUCCESS)
        }
        [one] if one == "-v" || one == "--version" => {
            println!("ollama version is {}", env!("CARGO_PKG_VERSION"));
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}

/// Where Ollama keeps its models: `OLLAMA_MODELS`, else `.ollama/models` at home.
pub(super) fn models() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".ollama/models"));
    set("OLLAMA_MODELS").or_else(home)
}

/// Ollama knows one code for whatever went wrong.
pub(super) fn exit_code(code: u8) -> u8 {
    if code == Interrupted::EXIT_CODE { code } else { code.min(1) }
}
