//! What goes wrong with a registry, in words. None has a credential in it: of an address only scheme, host and
//! path are shown, for the query of a signed one is a key.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::guard::Forbidden;
use crate::diagnostic::{Diagnostic, Errors};

/// The most characters that are shown of a registry's own words.
const SHOWN: usize = 300;

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another time it may succeed, perhaps after the pause that was asked for.
    Passing(Errors, Option<Duration>),
    /// It would fail again.
    Lasting(Errors),
}

impl Failure {
    /// What to tell.
    pub fn into_errors(self) -> Errors {
        match self {
            Failure::Passing(errors, _) | Failure::Lasting(errors) => errors,
        }
    }

    /// Another time it may succeed.
    pub fn passing(diagnostic: Diagnostic) -> Failure {
        Failure::Passing(diagnostic.into(), None)
    }
}

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Failure {
        Failure::Lasting(errors)
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Failure {
        Failure::Lasting(diagnostic.into())
    }
}

/// A registry's words for a terminal and a log: no control characters, and not too many.
pub(super) fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown: String = text.trim().chars().take(SHOWN).collect();
    if text.trim().chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown.replace(steers, "\u{FFFD}")
}

/// An address without what may be a key.
pub(super) fn shown(url: &Url) -> String {
    clean(&format!("{}://{}{}", url.scheme(), authority(url), url.path()))
}

/// Host, and port where it is not the scheme's.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What a registry did that it may not do.
pub(super) fn misbehaved(what: impl Into<String>) -> Diagnostic {
    Diagnostic::error(what).code("registry-misbehaves").help("nothing was given a name in the store")
}

/// A request that was not answered.
pub(super) fn unanswered(url: &Url, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut cause: &(dyn std::error::Error + 'static) = &error;
    let mut tls = false;
    loop {
        tls |= cause.is::<tokio_rustls::rustls::Error>();
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return forbidden.diagnose(url).into();
        }
        // An error of the system has another in it that is not its source.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inner.map(|e| e as &(dyn std::error::Error + 'static)).or_else(|| cause.source()) {
            Some(next) => cause = next,
            None => break,
        }
    }
    let text = clean(&cause.to_string());
    let host = authority(url);
    if tls {
        return Diagnostic::environment(format!("no secure connection to {host}: {text}"))
            .code("registry-tls")
            .help(
                "if its certificate is one of your own, name the authority's in MDL_CA_FILE or SSL_CERT_FILE",
            )
            .help("a registry without TLS is reached with `--insecure`")
            .into();
    }
    let what = if error.is_timeout() { "it does not answer in time".to_owned() } else { text };
    Failure::passing(
        Diagnostic::environment(format!("cannot reach {host}: {what}")).code("registry-unreachable"),
    )
}

/// A body that did not come to its end.
pub(super) fn broken(url: &Url, error: reqwest::Error) -> Failure {
    let text = match unanswered(url, error).into_errors().0.pop() {
        Some(why) => why.message.rsplit_once(": ").map_or(String::new(), |(_, text)| format!(": {text}")),
        None => String::new(),
    };
    let why = format!("the connection to {} broke{text}", authority(url));
    Failure::passing(Diagnostic::environment(why).code("registry-unreachable"))
}

/// A status that is no success. `asked` is what was asked for, such as "the manifest of `story:latest`".
pub(super) fn refused(
    url: &Url,
    asked: &str,
    status: StatusCode,
    body: &str,
    after: Option<Duration>,
) -> Failure {
    let said = said(body);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let host = authority(url);
    let answer = format!("{host} answers {} to a request for {asked}{said}", status.as_u16());
    match status {
        StatusCode::NOT_FOUND => {
            Diagnostic::error(format!("{host} does not have {asked}{said}")).code("not-in-registry").into()
        }
        StatusCode::UNAUTHORIZED => denied(url, asked).into(),
        StatusCode::FORBIDDEN => Diagnostic::error(answer)
            .code("registry-denied")
            .help(format!("your account may not do this; `mdl login {host}` changes the account"))
            .into(),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Passing(Diagnostic::environment(answer).code("registry-busy").into(), after)
        }
        s if s.is_server_error() => {
            Failure::Passing(Diagnostic::environment(answer).code("registry-fails").into(), after)
        }
        _ => misbehaved(answer).into(),
    }
}

/// Nobody may do this without another account.
pub(super) fn denied(url: &Url, asked: &str) -> Diagnostic {
    let host = authority(url);
    Diagnostic::error(format!("unauthorized: access denied: {host} refuses {asked} to this account"))
        .code("registry-denied")
        .help("the name may be misspelt: registries often answer so where there is nothing")
        .help(format!("or log in: `mdl login {host}`; to Ollama's registry, `mdl signin`"))
}

/// What an error's body says: the fields that registries use, else its text.
fn said(body: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let text = json.as_ref().and_then(|json| {
        let first = json.get("errors").and_then(|e| e.get(0)).unwrap_or(json);
        let field = |name: &str| first.get(name).and_then(|v| v.as_str()).filter(|s| !s.is_empty());
        field("message").or_else(|| field("error")).or_else(|| field("code"))
    });
    match text {
        Some(text) => clean(text),
        // A page for a browser tells nobody anything here.
        None if body.trim_start().starts_with('<') => String::new(),
        None => clean(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_harmless() {
        assert_eq!(clean("\x1b[31mred\r\n\u{202e}x"), "\u{FFFD}[31mred\u{FFFD}\u{FFFD}\u{FFFD}x");
        assert_eq!(clean(&"é".repeat(1000)).chars().count(), SHOWN + 1);
        for (body, text) in [
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "no"),
            (r#"{"errors":[{"code":"DENIED","message":""}]}"#, "DENIED"),
            (r#"{"error":"file does not exist"}"#, "file does not exist"),
            (r#"{"errors":[]}"#, r#"{"errors":[]}"#),
            (" <html>", ""),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(said(body), text, "{body}");
        }
    }

    #[test]
    fn a_signed_address_is_not_shown() {
        let url = Url::parse("https://u:p@cdn.example:8443/a/b?X-Amz-Signature=secret#f").unwrap();
        assert_eq!(shown(&url), "https://cdn.example:8443/a/b");
    }
}
