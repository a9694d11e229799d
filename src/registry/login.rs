//! Logging in and out.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Method;

use super::docker::{self, Credential};
use super::failure::Failure;
use super::http::Ask;
use super::session::Session;
use super::{Client, Options, blocking};
use crate::diagnostic::{Diagnostic, Result};
use crate::store::Name;

impl Client {
    /// Tries a login, and keeps it where Docker keeps them.
    ///
    /// # Errors
    /// The registry does not take it or cannot be reached; it cannot be kept.
    pub async fn login(self: &Arc<Self>, host: &str, user: &str, password: &str) -> Result<()> {
        // Any repository: what is asked for is none's.
        let name = Name::parse(&format!("{host}/library/any"))?;
        let session = Session::new(self, &name, "pull")?;
        let credential = Credential::Password { user: user.to_owned(), password: password.to_owned() };
        session.log_in_with(credential);
        let url = session.base.join("v2/").map_err(|e| Diagnostic::error(e.to_string()))?;
        let ask = Ask::new(Method::GET, url);
        let sent = session.send(&ask, "a login").await;
        sent.map(drop).map_err(Failure::into_errors)?;
        let config = config(&self.options)?;
        let (host, user, password) = (host.to_owned(), user.to_owned(), password.to_owned());
        let patience = self.options.limits.helper;
        blocking(move || docker::keep(&config, &host, &user, &password, patience)).await
    }
}

/// Forgets the login to a registry; whether there was one.
///
/// # Errors
/// Docker's file is damaged or cannot be written, or its helper fails.
pub fn logout(options: &Options, host: &str) -> Result<bool> {
    Name::parse(&format!("{host}/library/any"))?;
    docker::forget(&config(options)?, host, options.limits.helper)
}

/// Where the key for Ollama's registry is.
///
/// # Errors
/// There is no home directory.
pub fn key_path(options: &Options) -> Result<PathBuf> {
    let missing =
        || Diagnostic::environment("there is no home directory, and so no key for Ollama's registry");
    Ok(options.key.clone().ok_or_else(|| missing().code("key"))?)
}

fn config(options: &Options) -> Result<PathBuf> {
    let missing = || Diagnostic::environment("there is no home directory, and so no place for logins");
    Ok(options.docker_config.clone().ok_or_else(|| missing().help("name one in DOCKER_CONFIG"))?)
}
