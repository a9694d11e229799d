//! `mdl serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Global, usage};
use crate::diagnostic::Result;
use crate::runtime::kv::KvType;
use crate::server;
use crate::server::config::{self, Config, LogFormat};
use crate::signing::PublicKey;

/// Serves the models of the store over HTTP: the Ollama, OpenAI and Anthropic APIs, and a page for a
/// browser. Every option that has a variable `MDL_X` also takes it from `OLLAMA_X`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl serve                                          on http://127.0.0.1:11434
  mdl serve --host 0.0.0.0:8080 --api-keys-file keys for other machines, who need a key
  mdl serve --host unix:/run/mdl.sock
  mdl serve --preload story --read-only              ready once `story` is loaded; the store stays as it is")]
pub(super) struct Serve {
    /// Where to listen: HOST, HOST:PORT or unix:PATH [default: $MDL_HOST, else 127.0.0.1:11434]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,

    /// An origin whose pages may call, beyond this machine's; may be repeated, `*` stands for any text
    /// [default: $MDL_ORIGINS]
    #[arg(long = "origin", value_name = "ORIGIN")]
    origins: Vec<String>,

    /// Ask for one of the keys in this file, one a line [default: $MDL_API_KEYS_FILE]
    #[arg(long, value_name = "FILE")]
    api_keys_file: Option<PathBuf>,

    /// Serve everyone who can reach a public address, without keys
    #[arg(long)]
    public: bool,

    /// A certificate chain in PEM: serve HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Turn off create, copy, delete, pull and push
    #[arg(long)]
    read_only: bool,

    /// Load no model that was not signed with this public key; may be repeated: any of them will do
    #[arg(long, value_name = "FILE")]
    require_signature: Vec<PathBuf>,

    /// Load this model and keep it; the server is ready after that; may be repeated
    #[arg(long, value_name = "NAME")]
    preload: Vec<String>,

    /// Sequences that a model computes at once [default: $MDL_NUM_PARALLEL, else 4]
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,

    /// The context where neither model nor request says one [default: $MDL_CONTEXT_LENGTH, else 4096]
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<u64>,

    /// How keys and values are stored: f16, q8_0, q4_0 [default: $MDL_KV_CACHE_TYPE, else f16]
    #[arg(long, value_name = "TYPE")]
    kv_cache_type: Option<String>,

    /// Requests that may wait [default: $MDL_MAX_QUEUE, else 512]
    #[arg(long, value_name = "N")]
    max_queue: Option<usize>,

    /// How logs are written
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,

    #[command(flatten)]
    limits: LimitArgs,
}

/// What a request may cost.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Bytes of a JSON body [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    limit_body: Option<usize>,

    /// Connections at once [default: 2048]
    #[arg(long, value_name = "N")]
    limit_connections: Option<usize>,

    /// Seconds for a request's headers [default: 10]
    #[arg(long, value_name = "SECONDS")]
    limit_header_time: Option<u64>,

    /// Seconds without a byte of a body [default: 30]
    #[arg(long, value_name = "SECONDS")]
    limit_body_idle: Option<u64>,

    /// Seconds that a client may leave what is sent to it unread [default: 60]
    #[arg(long, value_name = "SECONDS")]
    limit_write_idle: Option<u64>,

    /// Seconds for running requests when the server is told to stop [default: 25]
    #[arg(long, value_name = "SECONDS")]
    limit_drain: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

impl Serve {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        server::serve(global.open_store()?, self.config(global)?)
    }

    fn config(self, global: &Global) -> Result<Config> {
        let mut config = Config::from_env(&|name| std::env::var(name).ok())?;
        if let Some(host) = &self.host {
            config.address = config::parse_address(host).map_err(|why| usage(format!("--host: {why}")))?;
        }
        if let Some(kv) = &self.kv_cache_type {
            let unknown = || usage(format!("--kv-cache-type: `{kv}` is none of f16, q8_0, q4_0"));
            config.kv_cache_type = Some(KvType::parse(kv).ok_or_else(unknown)?);
        }
        config.origins.extend(self.origins);
        config.api_keys_file = self.api_keys_file.or(config.api_keys_file);
        config.public = self.public;
        config.tls = self.tls_cert.zip(self.tls_key);
        config.read_only = self.read_only;
        config.offline = global.offline;
        config.preload = self.preload;
        let keys = self.require_signature.iter().map(|file| PublicKey::read(file));
        config.require_signature = keys.collect::<Result<_>>()?;
        config.parallel = self.parallel.unwrap_or(config.parallel).clamp(1, 256);
        config.context_length = self.context_length.filter(|n| *n > 0).or(config.context_length);
        config.compute = global.compute();
        config.log_format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        let limits = &mut config.limits;
        limits.queue = self.max_queue.unwrap_or(limits.queue);
        let given = self.limits;
        limits.body = given.limit_body.unwrap_or(limits.body);
        limits.connections = given.limit_connections.unwrap_or(limits.connections).max(1);
        let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
        limits.header_time = seconds(given.limit_header_time, limits.header_time);
        limits.body_idle = seconds(given.limit_body_idle, limits.body_idle);
        limits.write_idle = seconds(given.limit_write_idle, limits.write_idle);
        limits.drain = seconds(given.limit_drain, limits.drain);
        Ok(config)
    }
}
