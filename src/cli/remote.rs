//! The commands that ask a running server: `ps`, `stop`.

use std::time::SystemTime;

use clap::Args;

use super::{Global, write_out};
use crate::client::{Client, Place};
use crate::diagnostic::Result;
use crate::terminal::listing;

/// Lists the models in a server's memory.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl ps
  mdl ps --host 10.0.0.7:11434")]
pub(super) struct Ps {
    #[command(flatten)]
    server: Server,
}

/// Takes models out of a server's memory.
#[derive(Args)]
#[command(after_help = "Example:\n  mdl stop story")]
pub(super) struct Stop {
    /// The models
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    server: Server,
}

/// Which server is asked.
#[derive(Args)]
pub(super) struct Server {
    /// Where the server is: HOST, HOST:PORT, http://HOST:PORT or unix:PATH [default: $MDL_HOST, $OLLAMA_HOST,
    /// else this machine]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
}

impl Server {
    fn client(&self) -> Result<Client> {
        let env = |name: &str| std::env::var(name).ok();
        Client::new(Place::find(self.host.as_deref(), &env)?, &env)
    }
}

impl Ps {
    pub(super) fn run(self, _: &Global) -> Result<()> {
        write_out(&listing::running(&self.server.client()?.running()?, SystemTime::now()))
    }
}

impl Stop {
    pub(super) fn run(self, _: &Global) -> Result<()> {
        let client = self.server.client()?;
        self.names.iter().try_for_each(|name| client.stop(name))
    }
}
