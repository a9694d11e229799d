//! Registries: models pulled and pushed, from Ollama's and from any that holds container images.
//!
//! | file | what it holds |
//! |---|---|
//! | [`pull`], [`manifest`], [`download`] | a model, its manifest, one blob |
//! | [`push`], [`flavour`], [`upload`] | a model, the manifests that others read, one blob |
//! | [`referrers`] | signatures and provenance, which go with a model |
//! | [`session`], [`auth`], [`challenge`] | one repository and the login to it |
//! | [`login`], [`docker`], [`key`] | logging in, Docker's logins, Ollama's key |
//! | [`http`], [`guard`] | requests, redirects, which addresses may be spoken to |
//! | [`limits`], [`failure`] | what a registry may cost, as one table; what goes wrong, in words |
//!
//! A registry is not trusted: what it sends is bounded before it is read and hashed before it has a name, and
//! where it sends us is looked at before we go there.

mod auth;
mod challenge;
mod docker;
mod download;
mod failure;
mod flavour;
mod guard;
mod http;
mod key;
mod limits;
mod login;
mod manifest;
mod pull;
mod push;
mod referrers;
mod session;
mod upload;

pub use flavour::Flavour;
pub use key::Key;
pub use limits::Limits;
pub use login::{key_path, logout};

use std::collections::HashSet;
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::diagnostic::{Diagnostic, Result};
use crate::store::Digest;

/// The registries that know users by Ollama's key, where no login of Docker's says otherwise.
const KEY_HOSTS: &[&str] = &["registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co"];

/// How registries are spoken to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Speak plain HTTP.
    pub insecure: bool,
    /// Speak to nobody.
    pub offline: bool,
    /// Hosts of token services that may have the user's login, whatever registry names them.
    pub allow_realms: Vec<String>,
    /// Certificates of authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Docker's file of logins.
    pub docker_config: Option<PathBuf>,
    /// The key that Ollama's registry knows the user by.
    pub key: Option<PathBuf>,
    /// Registries that take that key.
    pub key_hosts: Vec<String>,
    /// Hosts of the proxies that the environment names.
    pub proxies: HashSet<String>,
    /// What a registry may cost.
    pub limits: Limits,
}

impl Options {
    /// What the environment says; `env` reads a variable.
    pub fn from_env(env: &dyn Fn(&str) -> Option<OsString>) -> Options {
        let path = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = path("HOME").or_else(|| path("USERPROFILE"));
        let below = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let more = env("MDL_KEY_REGISTRIES").and_then(|v| v.into_string().ok()).unwrap_or_default();
        let more = more.split(',').map(|h| h.trim().to_ascii_lowercase()).filter(|h| !h.is_empty());
        Options {
            offline: is_offline(env),
            ca_file: path("MDL_CA_FILE"),
            docker_config: path("DOCKER_CONFIG")
                .map(|dir| dir.join("config.json"))
                .or_else(|| below(".docker/config.json")),
            key: below(".ollama/id_ed25519"),
            key_hosts: KEY_HOSTS.iter().map(|h| (*h).to_owned()).chain(more).collect(),
            proxies: guard::proxies(env),
            ..Options::default()
        }
    }
}

/// Whether the environment says that no network is to be used; `env` reads a variable.
pub fn is_offline(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    env("MDL_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0")
}

/// Speaks to registries.
pub struct Client {
    options: Options,
    connections: http::Connections,
    key: OnceCell<Arc<Key>>,
}

impl Client {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn new(options: Options) -> Result<Arc<Client>> {
        let connections = http::Connections::new(&options)?;
        Ok(Arc::new(Client { options, connections, key: OnceCell::new() }))
    }

    /// The user's key for Ollama's registry; made where there is none.
    async fn key(&self) -> Result<Arc<Key>> {
        let open = async {
            let path = self.options.key.clone().ok_or_else(|| {
                Diagnostic::environment("there is no home directory, and so no key for Ollama's registry")
                    .code("key")
            })?;
            blocking(move || Key::open(&path)).await.map(Arc::new)
        };
        self.key.get_or_try_init(|| open).await.cloned()
    }
}

/// Hears how far a transfer is, from any thread.
pub trait Progress: Send + Sync {
    /// What is done now, in Ollama's words.
    fn status(&self, status: &str);

    /// How far a blob is: `completed` of `total` bytes. `status` is `pulling` or `pushing` and its short digest.
    fn transfer(&self, status: &str, digest: &Digest, total: u64, completed: u64);
}

/// Runs a transfer to its end, for callers that have no runtime.
///
/// # Errors
/// As `work`; or the system has no thread to spare.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Diagnostic::environment(format!("cannot start a transfer: {e}")))?;
    runtime.block_on(work)
}

/// Does what waits for the disk beside the threads that wait for the network.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Diagnostic::environment("a transfer broke off: internal error").into()))
}
