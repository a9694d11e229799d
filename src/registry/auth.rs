//! From a challenge to what goes into the header Authorization.
//!
//! Two protocols. Registries of container images take what Docker's `config.json` holds, or give a token to anyone.
//! Ollama's registry knows users by a key: the request for a token is signed. A registry says where the token service
//! is, so that where credentials go is checked here: a signed request to the registry's own host alone, a password
//! to hosts under its registrable domain, and to others only if the user allows them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::docker::Credential;
use super::failure::{Failure, authority, clean, misbehaved, refused, shown};
use super::http::Ask;
use super::session::Session;
use crate::diagnostic::{Diagnostic, Result};

/// What a token service answers.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// How a registry is logged in to.
pub(super) enum Login {
    /// By the user's key.
    Key,
    /// By what Docker's file holds, if anything.
    Docker(Option<Credential>),
}

/// The header for the requests that follow.
///
/// # Errors
/// The challenge leads where credentials may not go, or the service refuses.
pub(super) async fn answer(session: &Session, challenge: &Challenge) -> Result<HeaderValue, Failure> {
    let login = session.login().await?;
    let text = match (challenge, login) {
        (Challenge::Basic, Login::Docker(Some(Credential::Password { user, password }))) => {
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        }
        (Challenge::Basic, _) => return Err(super::failure::denied(&session.base, session.asked()).into()),
        (Challenge::Bearer { realm, service, scope }, login) => {
            let realm = check_realm(session, realm, matches!(login, Login::Key))?;
            let scope = scope.clone().unwrap_or_else(|| session.scope());
            format!("Bearer {}", token(session, realm, service.as_deref(), &scope, login).await?)
        }
    };
    secret(&text).map_err(Failure::from)
}

/// A header that no log shows.
fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| misbehaved("the registry's token has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where tokens come from, if a request for one may go there.
fn check_realm(session: &Session, realm: &str, signed: bool) -> Result<Url> {
    let base = &session.base;
    let host = authority(base);
    let refuse = |why: &str| {
        Diagnostic::error(format!("{host} sends for a token to {}, {why}", clean(realm)))
            .code("registry-realm")
            .help("nothing was sent there")
    };
    let url = Url::parse(realm).map_err(|_| refuse("which is no address"))?;
    let refuse = |why: &str| {
        let name = url.host_str().unwrap_or_default();
        Diagnostic::error(format!("{host} sends for a token to {}, {why}", shown(&url)))
            .code("registry-realm")
            .help("nothing was sent there")
            .help(format!("if {} may have your login, say `--allow-realm {name}`", clean(name)))
    };
    match url.scheme() {
        "https" => {}
        "http" if base.scheme() == "http" => {}
        _ => return Err(refuse("which is not encrypted").into()),
    }
    if session.is_allowed(&url) {
        return Ok(url);
    }
    let near = match signed {
        true => authority(&url) == host && url.scheme() == base.scheme(),
        false => same_domain(base, &url),
    };
    match near {
        true => Ok(url),
        false if signed => Err(refuse("another host than its own").into()),
        false => Err(refuse("a host of another domain").into()),
    }
}

/// Whether two hosts are one, or are under one registrable domain.
fn same_domain(a: &Url, b: &Url) -> bool {
    let (Some(a_host), Some(b_host)) = (a.host(), b.host()) else { return false };
    let registrable = |name: &str| psl::domain_str(name).map(str::to_ascii_lowercase);
    match (a_host, b_host) {
        (url::Host::Domain(x), url::Host::Domain(y)) => {
            x.eq_ignore_ascii_case(y) || registrable(x).is_some_and(|x| Some(x) == registrable(y))
        }
        (x, y) => x == y,
    }
}

async fn token(
    session: &Session,
    realm: Url,
    service: Option<&str>,
    scope: &str,
    login: Login,
) -> Result<String, Failure> {
    let mut url = realm;
    let mut ask = match login {
        Login::Key => {
            let mut nonce = [0; 16];
            getrandom::fill(&mut nonce)
                .map_err(|e| Diagnostic::environment(format!("the system has no random numbers: {e}")))?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            query(&mut url, service, scope.split(' '));
            url.query_pairs_mut()
                .append_pair("ts", &now.to_string())
                .append_pair("nonce", &URL_SAFE_NO_PAD.encode(nonce));
            let key = session.client.key().await?;
            let header = key.authorize("GET", url.as_str())?;
            Ask::new(Method::GET, url).authorization(secret(&header)?)
        }
        Login::Docker(Some(Credential::Identity(refresh))) => {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "mdl")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", scope)
                .append_pair("refresh_token", &refresh)
                .finish();
            Ask::new(Method::POST, url).form(form)
        }
        Login::Docker(credential) => {
            query(&mut url, service, scope.split(' '));
            let ask = Ask::new(Method::GET, url);
            match credential {
                Some(Credential::Password { user, password }) => {
                    let pair = STANDARD.encode(format!("{user}:{password}"));
                    ask.authorization(secret(&format!("Basic {pair}"))?)
                }
                _ => ask,
            }
        }
    };
    ask.redirects = false;
    let url = ask.url.clone();
    let asked = "a token";
    let limits = &session.client.options.limits;
    let work = async {
        let response = session.client.once(session, &ask).await?;
        let status = response.status();
        let limit = if status.is_success() { limits.token } else { limits.error };
        let body = session.client.read(response, limit, asked).await;
        if !status.is_success() {
            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            return Err(refused(&url, asked, status, &body, None));
        }
        body
    };
    let body = session.client.within(limits.small, &url, work).await?;
    let token: Option<Token> = serde_json::from_slice(&body).ok();
    let text = token.map(|t| if t.token.is_empty() { t.access_token } else { t.token }).unwrap_or_default();
    match text.is_empty() {
        true => {
            Err(misbehaved(format!("{} answers to a request for a token without one", authority(&url)))
                .into())
        }
        false => Ok(text),
    }
}

fn query<'a>(url: &mut Url, service: Option<&str>, scopes: impl Iterator<Item = &'a str>) {
    let mut pairs = url.query_pairs_mut();
    if let Some(service) = service {
        pairs.append_pair("service", service);
    }
    for scope in scopes.filter(|s| !s.is_empty()) {
        pairs.append_pair("scope", scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_those_that_can_be_registered() {
        let same = |a: &str, b: &str| {
            same_domain(
                &Url::parse(&format!("https://{a}/")).unwrap(),
                &Url::parse(&format!("https://{b}/")).unwrap(),
            )
        };
        for (a, b, is) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("ghcr.io", "ghcr.io", true),
            ("registry.example.co.uk", "auth.example.co.uk", true),
            ("a.co.uk", "b.co.uk", false),
            ("mine.github.io", "yours.github.io", false),
            ("registry.example.com", "example.com.evil.net", false),
            ("registry.example.com", "evilexample.com", false),
            ("127.0.0.1", "10.0.0.1", false),
            ("127.0.0.1:5000", "127.0.0.1:5001", true),
            ("localhost", "localhost", true),
            ("registry.localhost", "evil.localhost", false),
            ("[::1]", "[::1]", true),
            ("1.2.3.4", "5.2.3.4", false),
        ] {
            assert_eq!(same(a, b), is, "{a} {b}");
        }
    }
}
