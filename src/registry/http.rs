//! Requests: redirects followed by hand, bodies bounded, connections that bring nothing given up.

use std::future::Future;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LOCATION,
};
use reqwest::{Method, Response, Url};

use super::failure::{Failure, authority, broken, misbehaved, shown, unanswered};
use super::guard::{self, PublicOnly};
use super::session::Session;
use super::{Client, Options};
use crate::diagnostic::{Diagnostic, Result};

/// Makes the body of a request, anew for each try.
pub(super) type MakeBody = Arc<dyn Fn() -> reqwest::Body + Send + Sync>;

/// A request.
pub(super) struct Ask {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<MakeBody>,
    /// Whether a redirect is followed; else it is the answer.
    pub redirects: bool,
    /// How long the answer may take to begin, where not as usual.
    pub patience: Option<Duration>,
}

impl Ask {
    /// A request without a body. GET and HEAD follow redirects.
    pub fn new(method: Method, url: Url) -> Ask {
        let redirects = method == Method::GET || method == Method::HEAD;
        Ask { method, url, headers: HeaderMap::new(), body: None, redirects, patience: None }
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: &str) -> Ask {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// Sets what to log in with, for this request alone.
    pub fn authorization(mut self, value: HeaderValue) -> Ask {
        self.headers.insert(AUTHORIZATION, value);
        self
    }

    /// A body as forms send it.
    pub fn form(self, text: String) -> Ask {
        self.header(CONTENT_TYPE, "application/x-www-form-urlencoded").bytes(text.into())
    }

    /// A small body.
    pub fn bytes(mut self, bytes: Bytes) -> Ask {
        self.body = Some(Arc::new(move || bytes.clone().into()));
        self
    }
}

/// The connections: those to hosts that the user named, and those to public addresses alone.
pub(super) struct Connections {
    named: reqwest::Client,
    public: reqwest::Client,
}

impl Connections {
    /// Reads certificates, prepares connections.
    ///
    /// # Errors
    /// The file of certificates cannot be read.
    pub fn new(options: &Options) -> Result<Connections> {
        static PROVIDER: Once = Once::new();
        // Fails only where there is one already.
        PROVIDER.call_once(|| drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default()));
        let certificates = match &options.ca_file {
            Some(path) => {
                let pem = std::fs::read(path).map_err(|e| Diagnostic::io("read", path, &e))?;
                let all = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|all| !all.is_empty());
                all.ok_or_else(|| {
                    Diagnostic::error("no certificates in PEM format")
                        .in_file(path, "")
                        .code("ca-file")
                        .help("MDL_CA_FILE names a file of certificates of authorities to trust")
                })?
            }
            None => Vec::new(),
        };
        let build = |public: bool, system: bool| {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("mdl/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(options.limits.connect);
            builder = match system {
                true => builder.tls_certs_merge(certificates.clone()),
                false => builder.tls_certs_only(certificates.clone()),
            };
            if public {
                builder = builder.dns_resolver(PublicOnly { proxies: Arc::new(options.proxies.clone()) });
            }
            builder.build()
        };
        // A machine without certificates can still speak to a registry without TLS.
        let build = |public| -> Result<reqwest::Client> {
            let built =
                build(public, true).or_else(|e| if options.insecure { build(public, false) } else { Err(e) });
            Ok(built.map_err(|e| {
                Diagnostic::environment(format!("cannot prepare secure connections: {e}"))
                    .code("registry-tls")
                    .help(
                        "install the system's certificates (ca-certificates), or name a file in MDL_CA_FILE",
                    )
            })?)
        };
        Ok(Connections { named: build(false)?, public: build(true)? })
    }
}

impl Client {
    /// Sends a request, once; follows its redirects. A login goes to the registry's own address alone.
    pub(super) async fn once(&self, session: &Session, ask: &Ask) -> Result<Response, Failure> {
        let limits = &self.options.limits;
        let mut url = ask.url.clone();
        for _ in 0..=limits.redirects {
            let own = same_origin(&url, &ask.url);
            let named = session.is_named(&url);
            if !named {
                guard::check_literal(&url)?;
            }
            let client = if named { &self.connections.named } else { &self.connections.public };
            let mut headers = ask.headers.clone();
            // What is unpacked here could be a bomb; models do not get smaller by it.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if !own {
                headers.remove(AUTHORIZATION);
            }
            let mut request = client.request(ask.method.clone(), url.clone()).headers(headers);
            if let Some(make) = &ask.body {
                request = request.body(make());
            }
            let patience = ask.patience.unwrap_or(limits.answer).saturating_add(limits.connect);
            let response = match tokio::time::timeout(patience, request.send()).await {
                Ok(sent) => sent.map_err(|e| unanswered(&url, e))?,
                Err(_) => return Err(silent(&url, patience)),
            };
            if !ask.redirects || !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = target(&url, response.headers())?;
        }
        Err(misbehaved(format!("{} leads from one address to the next without end", authority(&ask.url)))
            .into())
    }

    /// The whole body of a small answer.
    pub(super) async fn read(&self, response: Response, limit: u64, asked: &str) -> Result<Vec<u8>, Failure> {
        let url = response.url().clone();
        let host = authority(&url);
        check_encoding(&response, asked)?;
        let long = || Failure::from(misbehaved(format!("{host} sends more than {limit} bytes for {asked}")));
        if response.content_length().is_some_and(|n| n > limit) {
            return Err(long());
        }
        let mut flow = Flow::new(self, response);
        let mut body = Vec::new();
        while let Some(piece) = flow.next().await? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(long());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Gives up what takes too long as a whole.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        url: &Url,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(silent(url, limit)))
    }
}

fn silent(url: &Url, limit: Duration) -> Failure {
    let seconds = limit.as_secs_f64();
    let why = format!("{} does not answer within {seconds} s", authority(url));
    Failure::passing(Diagnostic::environment(why).code("registry-unreachable"))
}

/// Refuses a body that would have to be unpacked.
///
/// # Errors
/// It would.
pub(super) fn check_encoding(response: &Response, asked: &str) -> Result<()> {
    let mut encodings = response.headers().get_all(CONTENT_ENCODING).iter();
    match encodings.all(|e| e.as_bytes().eq_ignore_ascii_case(b"identity") || e.is_empty()) {
        true => Ok(()),
        false => {
            let host = authority(response.url());
            Err(misbehaved(format!("{host} sends {asked} packed, which nobody asked for")).into())
        }
    }
}

/// Where a redirect leads, if it may be followed.
pub(super) fn target(from: &Url, headers: &HeaderMap) -> Result<Url> {
    let refuse = |what: String| {
        Diagnostic::error(format!("{} leads to {what}", authority(from)))
            .code("registry-redirect")
            .help("it was not followed")
    };
    let text = headers.get(LOCATION).and_then(|v| v.to_str().ok());
    let text = text.ok_or_else(|| refuse("another address and does not say which".to_owned()))?;
    let url = from.join(text).map_err(|_| refuse("what is no address".to_owned()))?;
    match (from.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => Ok(url),
        ("https", "http") => Err(refuse(format!("{}, which is not encrypted", shown(&url))).into()),
        (_, scheme) => Err(refuse(format!("an address of the kind `{scheme}:`")).into()),
    }
}

/// Whether two addresses are of the same scheme, host and port.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// The pieces of a body, as long as they come fast enough.
pub(super) struct Flow {
    response: Response,
    stall: Duration,
    least: u64,
    since: Instant,
    bytes: u64,
}

impl Flow {
    pub fn new(client: &Client, response: Response) -> Flow {
        let limits = &client.options.limits;
        let least = (limits.least_rate as f64 * limits.stall.as_secs_f64()) as u64;
        Flow { response, stall: limits.stall, least, since: Instant::now(), bytes: 0 }
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let next = tokio::time::timeout(self.stall, self.response.chunk()).await;
            let slow = self.since.elapsed() >= self.stall;
            match next {
                Ok(Ok(Some(piece))) if piece.is_empty() && !slow => {}
                Ok(Ok(Some(piece))) => {
                    self.bytes = self.bytes.saturating_add(piece.len() as u64);
                    if slow && self.bytes < self.least {
                        return Err(self.stalled());
                    }
                    if slow {
                        (self.since, self.bytes) = (Instant::now(), 0);
                    }
                    return Ok(Some(piece));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(e)) => return Err(broken(self.response.url(), e)),
                Err(_) => return Err(self.stalled()),
            }
        }
    }

    fn stalled(&self) -> Failure {
        let host = authority(self.response.url());
        let why = format!("{host} sends next to nothing for {} s", self.stall.as_secs_f64());
        Failure::passing(Diagnostic::environment(why).code("registry-stalled"))
    }
}
