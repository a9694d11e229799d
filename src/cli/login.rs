//! `mdl login`, `logout`, `signin` and `signout`.

use std::io::Read as _;

use clap::Args;

use super::transfer::Registry;
use super::{Global, usage, write_out};
use crate::diagnostic::{Diagnostic, Result};
use crate::registry::{self, Client, Key, Options};

/// Logs in to a registry of container images. The password is checked, and kept where Docker keeps it. Without a
/// host this is `mdl signin`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  echo \"$TOKEN\" | mdl login ghcr.io -u me --password-stdin
  mdl login                                     how to connect this machine to Ollama's registry")]
pub(super) struct Login {
    /// The registry's host, with its port if it has one
    host: Option<String>,

    /// Whose login it is
    #[arg(short, long, value_name = "USER", requires = "host")]
    username: Option<String>,

    /// Read the password, or a token in its place, from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,

    #[command(flatten)]
    registry: Registry,
}

/// The most bytes of a password.
const LONGEST: u64 = 64 << 10;

impl Login {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let Some(host) = &self.host else { return Signin {}.run(global) };
        let (Some(user), true) = (&self.username, self.password_stdin) else {
            let how = "a password is read from standard input alone: `-u USER --password-stdin`";
            return Err(usage(how));
        };
        let mut password = String::new();
        std::io::stdin()
            .take(LONGEST)
            .read_to_string(&mut password)
            .map_err(|e| Diagnostic::environment(format!("cannot read standard input: {e}")))?;
        let password = password.trim_end_matches(['\n', '\r']);
        if password.is_empty() {
            return Err(usage("there is no password on standard input"));
        }
        let client = Client::new(self.registry.options(global))?;
        registry::block_on(client.login(host, user, password))?;
        write_out(&format!("logged in to {host} as {user}\n"))
    }
}

/// Forgets the login to a registry. Without a host this is `mdl signout`.
#[derive(Args)]
#[command(after_help = "Example:\n  mdl logout ghcr.io")]
pub(super) struct Logout {
    /// The registry's host
    host: Option<String>,
}

impl Logout {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let Some(host) = &self.host else { return Signout {}.run(global) };
        let text = match registry::logout(&options(), host)? {
            true => format!("logged out of {host}\n"),
            false => format!("there was no login to {host}\n"),
        };
        write_out(&text)
    }
}

/// Says how to connect this machine to Ollama's registry: by a key, which is made where there is none. Nothing is
/// sent.
#[derive(Args)]
#[command(after_help = "Example:\n  mdl signin")]
pub(super) struct Signin {}

impl Signin {
    pub(super) fn run(self, _: &Global) -> Result<()> {
        let key = Key::open(&registry::key_path(&options())?)?;
        let machine = machine();
        write_out(&format!(
            "The key of this machine:\n    {}\n\nTo sign in, navigate to:\n    {}\n",
            key.public()?,
            key.connect_address(&machine)?
        ))
    }
}

/// Says where to disconnect this machine from Ollama's registry. Nothing is sent.
#[derive(Args)]
#[command(after_help = "Example:\n  mdl signout")]
pub(super) struct Signout {}

impl Signout {
    pub(super) fn run(self, _: &Global) -> Result<()> {
        let path = registry::key_path(&options())?;
        write_out(&format!(
            "This machine is known by the key {}.\n\nTo sign out, remove it at:\n    https://ollama.com/settings/keys\n",
            path.display()
        ))
    }
}

fn options() -> Options {
    Options::from_env(&|name| std::env::var_os(name))
}

/// What this machine calls itself.
fn machine() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_else(|_| "mdl".to_owned());
    name
}
