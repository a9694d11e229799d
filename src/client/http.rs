//! Requests to a server: an answer whole, or line by line.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value as Json;
use tokio::runtime::Runtime;

use super::place::Place;
use crate::diagnostic::{Diagnostic, Result};
use crate::server::STORE_HEADER;

/// The most bytes of an answer, and of a line of one.
const LIMIT: usize = 64 << 20;

/// How long a server may take to be found at all.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a server of this machine may take to say that it is there.
const PROBE: Duration = Duration::from_millis(500);

/// How often a wait looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// Speaks to one server.
pub struct Client {
    place: Place,
    key: Option<String>,
    http: reqwest::Client,
    runtime: Runtime,
}

impl Client {
    /// A client of the server at a place, with the key of `MDL_API_KEY` or `OLLAMA_API_KEY`.
    ///
    /// # Errors
    /// The system gives no socket or no thread.
    pub fn new(place: Place, env: &dyn Fn(&str) -> Option<String>) -> Result<Client> {
        let failed =
            |e: &dyn std::fmt::Display| Diagnostic::environment(format!("cannot start a client: {e}"));
        // Another part of the program may have named one.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("mdl/", env!("CARGO_PKG_VERSION")));
        if place.loopback {
            builder = builder.no_proxy();
        }
        if let Some(path) = &place.socket {
            #[cfg(unix)]
            {
                builder = builder.unix_socket(path.as_path());
            }
            #[cfg(not(unix))]
            return Err(failed(&format!("there are no sockets such as {}", path.display())).into());
        }
        let http = builder.build().map_err(|e| failed(&e))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let key = ["MDL_API_KEY", "OLLAMA_API_KEY"].iter().find_map(|name| env(name));
        let key = key.map(|k| k.trim().to_owned()).filter(|k| !k.is_empty());
        Ok(Client { place, key, http, runtime: runtime.map_err(|e| failed(&e))? })
    }

    /// Where the server is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// An answer as JSON.
    ///
    /// # Errors
    /// No server answers, or it refuses.
    pub fn get(&self, path: &str) -> Result<Json> {
        self.runtime.block_on(self.whole(self.request(Method::GET, path)))
    }

    /// The answer to a JSON document.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: &Json) -> Result<Json> {
        self.runtime.block_on(self.whole(self.request(Method::POST, path).json(body)))
    }

    /// The lines of an answer, each given to `line`. Ends early, and tells the server so, once `cancelled` is set: false
    /// then.
    ///
    /// # Errors
    /// As [`Client::get`], also in the middle; or `line` fails.
    pub fn lines(
        &self,
        path: &str,
        body: &Json,
        cancelled: &AtomicBool,
        line: &mut dyn FnMut(Json) -> Result<()>,
    ) -> Result<bool> {
        let request = self.request(Method::POST, path).json(body);
        self.runtime.block_on(async {
            let given_up = async {
                while !cancelled.load(Ordering::Relaxed) {
                    tokio::time::sleep(TICK).await;
                }
            };
            tokio::select! {
                read = self.read_lines(request, line) => read.map(|()| true),
                () = given_up => Ok(false),
            }
        })
    }

    /// What the server of this machine calls its store; `None` where no server answers at once, or it does not say.
    pub fn store_identity(&self) -> Option<String> {
        let request = self.request(Method::GET, "/api/version").timeout(PROBE);
        // Its clock is the runtime's.
        let response = self.runtime.block_on(async { request.send().await }).ok()?;
        Some(response.headers().get(STORE_HEADER)?.to_str().ok()?.to_owned())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.place.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|e| self.lost(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await.unwrap_or_default();
        let told = serde_json::from_slice::<Json>(&body).ok();
        let told = told.as_ref().and_then(|j| j["error"].as_str());
        let message = match told {
            Some(told) => told.to_owned(),
            None => format!("the server at {} answered {status}", self.place.shown()),
        };
        Err(refusal(status.as_u16(), message).into())
    }

    async fn whole(&self, request: RequestBuilder) -> Result<Json> {
        let response = self.send(request).await?;
        let body = self.body(response).await?;
        if body.is_empty() {
            return Ok(Json::Null);
        }
        serde_json::from_slice(&body).map_err(|e| self.malformed(&e).into())
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.lost(&e))? {
            if body.len() + chunk.len() > LIMIT {
                return Err(self.malformed(&format!("more than {LIMIT} bytes")).into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn read_lines(
        &self,
        request: RequestBuilder,
        line: &mut dyn FnMut(Json) -> Result<()>,
    ) -> Result<()> {
        let mut response = self.send(request).await?;
        let mut held: Vec<u8> = Vec::new();
        loop {
            let chunk = response.chunk().await.map_err(|e| self.lost(&e))?;
            let ended = chunk.is_none();
            held.extend_from_slice(&chunk.unwrap_or_default());
            while let Some(end) = held.iter().position(|b| *b == b'\n') {
                let rest = held.split_off(end + 1);
                self.line(&std::mem::replace(&mut held, rest), line)?;
            }
            if held.len() > LIMIT {
                return Err(self.malformed(&format!("a line of more than {LIMIT} bytes")).into());
            }
            if ended {
                return self.line(&held, line);
            }
        }
    }

    fn line(&self, bytes: &[u8], line: &mut dyn FnMut(Json) -> Result<()>) -> Result<()> {
        if bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        let value: Json = serde_json::from_slice(bytes).map_err(|e| self.malformed(&e))?;
        match value["error"].as_str() {
            Some(told) => Err(refusal(500, told.to_owned()).into()),
            None => line(value),
        }
    }

    /// No answer, or no end of one.
    fn lost(&self, e: &reqwest::Error) -> Diagnostic {
        let place = self.place.shown();
        if e.is_connect() {
            return Diagnostic::environment(format!("could not connect to a server at {place}"))
                .code("no-server")
                .help("start one with `mdl serve`, or name another with MDL_HOST");
        }
        let mut cause: &dyn std::error::Error = e;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Diagnostic::environment(format!("the server at {place} was lost: {cause}")).code("server-lost")
    }

    fn malformed(&self, why: &dyn std::fmt::Display) -> Diagnostic {
        let message =
            format!("the server at {} does not speak as mdl and Ollama do: {why}", self.place.shown());
        Diagnostic::environment(message).code("server-malformed")
    }
}

/// What a server refuses; a status from 400 to 499 means that the request is to blame.
fn refusal(status: u16, message: String) -> Diagnostic {
    let refused = match status {
        400..500 => Diagnostic::error(message),
        _ => Diagnostic::environment(message),
    };
    match status {
        401 => refused.code("server-unauthorized").help("name a key with MDL_API_KEY"),
        404 => refused.code("server-not-found"),
        _ => refused.code("server-refused"),
    }
}
