//! Who may speak: the Host and Origin of a request, its key, and what a read-only server does not do.
//!
//! A page of any site can make a browser call this machine. The Host check stops names that were made to
//! point here (DNS rebinding); the Origin check stops pages of other sites.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::app::App;
use super::body::refuse;
use super::error::ApiError;
use crate::diagnostic::{Diagnostic, Result};

/// Origins that may always call: this machine's pages and local applications, as Ollama allows them.
const LOCAL_SCHEMES: &[&str] = &[
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
    "chrome-extension://",
    "moz-extension://",
    "safari-web-extension://",
];

/// Headers that a page may send.
const ALLOWED_HEADERS: &str = "authorization, content-type, user-agent, accept, x-requested-with, x-api-key, \
     anthropic-version, anthropic-beta, openai-beta, x-stainless-lang, x-stainless-package-version, \
     x-stainless-os, x-stainless-arch, x-stainless-retry-count, x-stainless-runtime, \
     x-stainless-runtime-version, x-stainless-async, x-stainless-helper-method, x-stainless-poll-helper, \
     x-stainless-custom-poll-interval, x-stainless-timeout";

/// Paths that need no key: whether the server lives is no secret.
const WITHOUT_KEY: &[&str] = &["/healthz", "/readyz"];

/// Paths that change the store, or send it elsewhere.
const CHANGES: &[(&str, &str)] = &[
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
];

/// Lets a request through, or answers it.
pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let config = &app.config;
    let origin = request.headers().get(header::ORIGIN).cloned();
    if config.is_loopback() && !request.headers().get_all(header::HOST).iter().all(is_local_host) {
        return refuse(request, ApiError::forbidden("this host name is not served")).await;
    }
    if let Some(origin) = &origin
        && !may_call(origin, request.headers(), &config.origins)
    {
        return refuse(request, ApiError::forbidden("this origin may not call")).await;
    }
    let path = request.uri().path();
    let mut response = if request.method() == Method::OPTIONS {
        preflight()
    } else if let Err(error) = authorize(&app, request.headers(), path) {
        refuse(request, error).await
    } else if config.read_only && is_change(request.method(), path) {
        refuse(request, ApiError::forbidden("the server is read-only")).await
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, HEAD, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "43200"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn is_change(method: &Method, path: &str) -> bool {
    let upload = method == Method::POST && path.starts_with("/api/blobs/");
    upload || CHANGES.iter().any(|(m, p)| method == *m && path == *p)
}

/// A name without its port.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or(host),
    }
}

/// True for a Host that can only mean this machine or its network.
fn is_local_host(value: &HeaderValue) -> bool {
    let Ok(host) = value.to_str() else { return false };
    let host = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    if let Ok(ip) = host.parse::<IpAddr>() {
        return match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local(),
        };
    }
    let suffixes = [".localhost", ".local", ".internal"];
    host.is_empty()
        || host == "localhost"
        || suffixes.iter().any(|s| host.ends_with(s))
        || own_name().is_some_and(|name| name == host)
}

/// The machine's name.
fn own_name() -> Option<&'static str> {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let read = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        name.or_else(|| std::env::var("COMPUTERNAME").ok()).map(|n| n.trim().to_ascii_lowercase())
    };
    NAME.get_or_init(read).as_deref().filter(|n| !n.is_empty())
}

/// True for an origin of this machine, of the list, or of the page that this server itself serves.
fn may_call(origin: &HeaderValue, headers: &HeaderMap, allowed: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if allowed.iter().any(|pattern| matches(pattern, origin)) {
        return true;
    }
    if LOCAL_SCHEMES.iter().any(|s| origin.starts_with(s)) {
        return true;
    }
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    if !matches!(scheme, "http" | "https") {
        return false;
    }
    let own = headers.get(header::HOST).is_some_and(|h| h.as_bytes() == host.as_bytes());
    let name = without_port(host);
    own || matches!(name, "localhost" | "127.0.0.1" | "0.0.0.0" | "::1")
}

/// `*` in a pattern stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            if rest.is_empty() {
                return true;
            }
            (0..=tail.len()).any(|i| tail.get(i..).is_some_and(|t| matches(rest, t)))
        }),
    }
}

/// The keys that open the server; none when no key is asked for.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Reads a file with one key a line; blank lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The file cannot be read, has no key, or has one that is too short to be one.
    pub fn read(path: &std::path::Path) -> Result<Keys> {
        let text = std::fs::read_to_string(path).map_err(|e| Diagnostic::io("read", path, &e))?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let mut keys = Vec::new();
        for key in lines {
            if key.len() < 16 {
                return Err(Diagnostic::usage(format!(
                    "{}: a key has fewer than 16 characters",
                    path.display()
                ))
                .help("make one with `openssl rand -hex 32`")
                .into());
            }
            keys.push(Sha256::digest(key).into());
        }
        match keys.is_empty() {
            true => Err(Diagnostic::usage(format!("{} has no key", path.display())).into()),
            false => Ok(Keys(keys)),
        }
    }

    /// True when `key` is one of them. The time does not tell which, or how much of it is right.
    fn contains(&self, key: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        self.0.iter().fold(false, |found, k| found | bool::from(k.ct_eq(&digest)))
    }
}

fn authorize(app: &App, headers: &HeaderMap, path: &str) -> Result<(), ApiError> {
    if app.keys.0.is_empty() || WITHOUT_KEY.contains(&path) || super::page::is_page(path) {
        return Ok(());
    }
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|v| {
        let (scheme, key) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| text(header::HeaderName::from_static("x-api-key")));
    match key {
        Some(key) if app.keys.contains(key) => Ok(()),
        Some(_) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized: this key is not known")),
        None => Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized: a key is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn hosts_of_this_machine() {
        for host in [
            "localhost",
            "localhost:11434",
            "127.0.0.1:1",
            "[::1]:5",
            "10.1.2.3",
            "x.local",
            "a.internal:80",
            "",
        ] {
            assert!(is_local_host(&value(host)), "{host}");
        }
        for host in ["evil.com", "localhost.evil.com", "8.8.8.8", "127.0.0.1.evil.com", "[2001:db8::1]"] {
            assert!(!is_local_host(&value(host)), "{host}");
        }
    }

    #[test]
    fn origins_that_may_call() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, value("models.example:8080"));
        let may = |origin: &str, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|s| (*s).to_owned()).collect();
            may_call(&value(origin), &headers, &allowed)
        };
        for origin in [
            "http://localhost",
            "https://127.0.0.1:3000",
            "app://x",
            "http://[::1]:1",
            "http://models.example:8080",
        ] {
            assert!(may(origin, &[]), "{origin}");
        }
        for origin in [
            "null",
            "https://evil.com",
            "http://localhost.evil.com",
            "ftp://localhost",
            "http://models.example",
        ] {
            assert!(!may(origin, &[]), "{origin}");
        }
        assert!(may("https://a.example.com", &["https://*.example.com"]));
        assert!(!may("https://example.org", &["https://*.example.com"]));
        assert!(may("null", &["*"]));
    }

    #[test]
    fn keys_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, "# ours\n0123456789abcdef\n\nfedcba98765432100\n").unwrap();
        let keys = Keys::read(&path).unwrap();
        assert!(keys.contains("0123456789abcdef") && keys.contains("fedcba98765432100"));
        assert!(!keys.contains("0123456789abcde") && !keys.contains(""));
        std::fs::write(&path, "short\n").unwrap();
        assert!(Keys::read(&path).is_err());
    }
}
