//! One repository of one registry, spoken to under one login.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::{Mutex, OnceCell};

use super::auth::{self, Login};
use super::challenge;
use super::docker::{self, Credential};
use super::failure::{Failure, denied, refused};
use super::guard::Named;
use super::http::{Ask, same_origin};
use super::{Client, blocking};
use crate::diagnostic::{Diagnostic, Kind, Result};
use crate::store::Name;

/// Where Docker's registry really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// A repository, and what was agreed on with its registry.
pub(super) struct Session {
    pub client: std::sync::Arc<Client>,
    /// The registry's address.
    pub base: Url,
    /// The registry as the name has it.
    host: String,
    repository: String,
    /// What tokens must allow.
    actions: &'static str,
    asked: String,
    named: Named,
    allowed: Named,
    authorization: Mutex<Option<HeaderValue>>,
    credential: OnceCell<Option<Credential>>,
}

impl Session {
    /// To pull (`"pull"`) or push (`"pull,push"`) this model.
    ///
    /// # Errors
    /// The name has the scheme `http`, and nobody said `--insecure`; its host is no host.
    pub fn new(client: &std::sync::Arc<Client>, name: &Name, actions: &'static str) -> Result<Session> {
        let options = &client.options;
        if options.offline {
            return Err(Diagnostic::error(format!(
                "`{name}` is at a registry, and the network is not to be used"
            ))
            .code("offline")
            .help("`--offline` is given, or MDL_OFFLINE set")
            .into());
        }
        let scheme = match (name.scheme(), options.insecure) {
            (Some("http"), false) => {
                return Err(Diagnostic::usage("insecure protocol http")
                    .code("insecure")
                    .help("the registry would be spoken to without encryption; `--insecure` allows it")
                    .into());
            }
            (Some("https"), _) | (_, false) => "https",
            (_, true) => "http",
        };
        let host = match name.host().to_ascii_lowercase().as_str() {
            "docker.io" | "index.docker.io" => DOCKER_HUB.to_owned(),
            _ => name.host().to_owned(),
        };
        let base = Url::parse(&format!("{scheme}://{host}/")).map_err(|e| {
            let mut wrong = Diagnostic::error(format!("`{host}` is not a registry's host: {e}"));
            wrong.kind = Kind::Usage;
            wrong.code("invalid-name")
        })?;
        let mut named = Named::default();
        named.add(&base);
        let mut allowed = Named::default();
        for realm in &options.allow_realms {
            named.add_text(realm);
            allowed.add_text(realm);
        }
        Ok(Session {
            client: client.clone(),
            base,
            host: name.host().to_owned(),
            repository: format!("{}/{}", name.namespace(), name.model()),
            actions,
            asked: format!("`{name}`"),
            named,
            allowed,
            authorization: Mutex::new(None),
            credential: OnceCell::new(),
        })
    }

    /// The address of something of the repository.
    ///
    /// # Errors
    /// None that names and digests allow.
    pub fn url(&self, rest: &str) -> Result<Url> {
        let path = format!("v2/{}/{rest}", self.repository);
        let url = self.base.join(&path);
        Ok(url.map_err(|e| Diagnostic::error(format!("`{path}` is no path of a registry: {e}")))?)
    }

    /// What this is about, for messages.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// What a token must allow, where the registry does not say.
    pub fn scope(&self) -> String {
        format!("repository:{}:{}", self.repository, self.actions)
    }

    /// Whether the user named the host of this address.
    pub fn is_named(&self, url: &Url) -> bool {
        self.named.has(url)
    }

    /// Whether the user allowed to log in at the host of this address.
    pub fn is_allowed(&self, url: &Url) -> bool {
        self.allowed.has(url)
    }

    /// Logs in with this, whatever is kept.
    pub fn log_in_with(&self, credential: Credential) {
        // Nothing is there yet: a session is new.
        let _ = self.credential.set(Some(credential));
    }

    /// How to log in.
    ///
    /// # Errors
    /// Docker's file is damaged, or its helper fails.
    pub async fn login(&self) -> Result<Login> {
        let find = async {
            let options = &self.client.options;
            let Some(path) = options.docker_config.clone() else { return Ok(None) };
            let (host, patience) = (self.host.clone(), options.limits.helper);
            blocking(move || docker::find(&path, &host, patience)).await
        };
        let credential = self.credential.get_or_try_init(|| find).await?.clone();
        let host = self.host.to_ascii_lowercase();
        Ok(match credential {
            None if self.client.options.key_hosts.contains(&host) => Login::Key,
            credential => Login::Docker(credential),
        })
    }

    /// Sends a request, logs in where that is asked for, and refuses an answer that is no success. `asked` says
    /// what is asked for, such as "the manifest of `story`".
    ///
    /// # Errors
    /// There is no answer, or not the one that was asked for.
    pub async fn send(&self, ask: &Ask, asked: &str) -> Result<Response, Failure> {
        let mut tried = false;
        loop {
            let login = self.authorization.lock().await.clone();
            let mut request = Ask {
                headers: ask.headers.clone(),
                url: ask.url.clone(),
                method: ask.method.clone(),
                body: ask.body.clone(),
                ..*ask
            };
            // An upload may go on at another address, which has a login of its own in it.
            if let Some(value) = &login
                && same_origin(&ask.url, &self.base)
            {
                request.headers.insert(AUTHORIZATION, value.clone());
            }
            let response = self.client.once(self, &request).await?;
            let status = response.status();
            if status.is_success() || status.is_redirection() && !ask.redirects {
                return Ok(response);
            }
            let own = same_origin(response.url(), &self.base);
            if status == StatusCode::UNAUTHORIZED && own {
                match challenge::of(response.headers()).filter(|_| !tried) {
                    Some(challenge) => {
                        tried = true;
                        self.renew(login.as_ref(), &challenge).await?;
                        continue;
                    }
                    None => return Err(denied(&self.base, asked).into()),
                }
            }
            let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            let url = response.url().clone();
            let limits = &self.client.options.limits;
            let read = self.client.read(response, limits.error, asked);
            let body = self.client.within(limits.answer, &url, read).await.unwrap_or_default();
            let body = String::from_utf8_lossy(&body);
            return Err(refused(&url, asked, status, &body, after.map(Duration::from_secs)));
        }
    }

    /// Logs in, unless another request has done so since `former` was found to be refused.
    async fn renew(
        &self,
        former: Option<&HeaderValue>,
        challenge: &challenge::Challenge,
    ) -> Result<(), Failure> {
        let mut authorization = self.authorization.lock().await;
        if authorization.as_ref() == former {
            *authorization = Some(auth::answer(self, challenge).await?);
        }
        Ok(())
    }

    /// Does something small, again where that may help.
    ///
    /// # Errors
    /// As `work` in its last try.
    pub async fn persist<T>(&self, work: impl AsyncFn() -> Result<T, Failure>) -> Result<T> {
        let limits = &self.client.options.limits;
        let mut tries = 0;
        loop {
            match work().await {
                Err(Failure::Passing(_, asked)) if tries < limits.small_retries => {
                    tries += 1;
                    tokio::time::sleep(limits.pause_after(tries, asked)).await;
                }
                other => return other.map_err(Failure::into_errors),
            }
        }
    }
}
