//! One blob, from the store to a registry: nothing where it is there already, a mount where another repository of the
//! registry has it, else in chunks.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use md5::{Digest as _, Md5};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Login;
use super::failure::{Failure, authority, misbehaved};
use super::http::{Ask, target};
use super::session::Session;
use super::{Progress, blocking};
use crate::diagnostic::{Diagnostic, Result};
use crate::store::Layer;

/// Bytes that are read from the disk at once.
const PIECE: usize = 1 << 18;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(60);

/// A body that ends of itself: its time is watched elsewhere.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where an upload to Ollama's registry goes on, where that is not where a chunk goes.
const NEXT: &str = "docker-upload-location";

/// Where a blob's bytes are.
#[derive(Clone)]
pub(super) enum Source {
    /// In a file.
    File(PathBuf),
    /// In memory.
    Memory(Bytes),
}

/// What an upload needs.
pub(super) struct Upload<'a> {
    pub session: &'a Session,
    pub progress: &'a dyn Progress,
    pub layer: &'a Layer,
    pub source: Source,
    /// A repository of the same registry that may have the blob.
    pub mount: Option<String>,
}

impl Upload<'_> {
    /// Makes sure that the registry has the blob.
    ///
    /// # Errors
    /// The registry refuses, or does not answer.
    pub async fn send(&self) -> Result<()> {
        self.tell(0);
        let there = self.session.persist(async || self.is_there().await).await?;
        if !there {
            let limits = &self.session.client.options.limits;
            let mut tries = 0;
            loop {
                match self.begin().await {
                    Ok(()) => break,
                    Err(Failure::Passing(_, asked)) if tries < limits.retries => {
                        tries += 1;
                        tokio::time::sleep(limits.pause_after(tries, asked)).await;
                    }
                    Err(failure) => return Err(failure.into_errors()),
                }
            }
        }
        self.tell(self.layer.size);
        Ok(())
    }

    fn tell(&self, done: u64) {
        let digest = &self.layer.digest;
        self.progress.transfer(&format!("pushing {}", digest.short()), digest, self.layer.size, done);
    }

    fn asked(&self) -> String {
        format!("the upload of the blob {} of {}", self.layer.digest.short(), self.session.asked())
    }

    async fn is_there(&self) -> Result<bool, Failure> {
        let url = self.session.url(&format!("blobs/{}", self.layer.digest))?;
        match self.session.send(&Ask::new(Method::HEAD, url), &self.asked()).await {
            Ok(_) => Ok(true),
            Err(Failure::Lasting(errors)) if errors.0.iter().any(|d| d.code == "not-in-registry") => {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn begin(&self) -> Result<(), Failure> {
        let mut url = self.session.url("blobs/uploads/")?;
        if let Some(from) = &self.mount {
            url.query_pairs_mut()
                .append_pair("mount", &self.layer.digest.to_string())
                .append_pair("from", from);
        }
        let ask = Ask::new(Method::POST, url).header(CONTENT_LENGTH, "0");
        let response = self.session.send(&ask, &self.asked()).await?;
        match response.status() {
            // Mounted.
            StatusCode::CREATED => return Ok(()),
            StatusCode::ACCEPTED => {}
            status => return Err(self.strange(&response, status).into()),
        }
        let mut next = self.next(&response)?;
        let signed = matches!(self.session.login().await?, Login::Key);
        let chunk = self.session.client.options.limits.chunk.max(1);
        let mut sums = Vec::new();
        let mut start = 0;
        while start < self.layer.size {
            let end = start.saturating_add(chunk).min(self.layer.size);
            if signed {
                sums.push(self.sum(start, end).await?);
            }
            next = self.chunk(next, start, end, signed).await?;
            start = end;
        }
        let mut pairs = next.query_pairs_mut();
        pairs.append_pair("digest", &self.layer.digest.to_string());
        if signed {
            // As the store behind Ollama's registry names what came in parts.
            let all = sums.iter().fold(Md5::new(), |md5, sum| md5.chain_update(sum)).finalize();
            let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
            pairs.append_pair("etag", &format!("{hex}-{}", sums.len()));
        }
        drop(pairs);
        let mut ask = Ask::new(Method::PUT, next).header(CONTENT_LENGTH, "0");
        ask.patience = Some(self.session.client.options.limits.commit);
        self.session.send(&ask, &self.asked()).await.map(drop)
    }

    /// Sends a chunk; where the upload goes on.
    async fn chunk(&self, url: Url, start: u64, end: u64, signed: bool) -> Result<Url, Failure> {
        let mut ask = self.body(Method::PATCH, url, start, end).await?;
        ask = ask.header(CONTENT_RANGE, &format!("{start}-{}", end - 1));
        if signed {
            ask = ask.header(HeaderName::from_static("x-redirect-uploads"), "1");
        }
        let response = self.watched(&ask, start).await?;
        let next = self.next(&response)?;
        if response.status() == StatusCode::TEMPORARY_REDIRECT {
            let to = target(response.url(), response.headers())?;
            let ask = self.body(Method::PUT, to, start, end).await?;
            let _ = self.watched(&ask, start).await?;
            return Ok(next);
        }
        if response.status().is_redirection() {
            return Err(self.strange(&response, response.status()).into());
        }
        // What the registry says that it has, where it says so.
        let has = response
            .headers()
            .get(RANGE)
            .and_then(|v| v.to_str().ok()?.rsplit_once('-')?.1.parse::<u64>().ok());
        match has.filter(|last| last.saturating_add(1) != end) {
            None => Ok(next),
            Some(last) => Err(Failure::passing(misbehaved(format!(
                "{} took {} of {end} bytes of the blob {}",
                authority(&self.session.base),
                last.saturating_add(1),
                self.layer.digest.short()
            )))),
        }
    }

    async fn body(&self, method: Method, url: Url, start: u64, end: u64) -> Result<Ask> {
        let mut ask = Ask::new(method, url)
            .header(CONTENT_LENGTH, &(end - start).to_string())
            .header(CONTENT_TYPE, "application/octet-stream");
        ask.patience = Some(LONG);
        Ok(ask)
    }

    /// Sends a request with the bytes from `start`, as long as they leave and are answered in time.
    async fn watched(&self, ask: &Ask, start: u64) -> Result<Response, Failure> {
        let length = ask.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
        let sent = Arc::new(AtomicU64::new(0));
        let (source, counter) = (self.source.clone(), sent.clone());
        let body = move || {
            counter.store(0, Ordering::Release);
            read(source.clone(), start, length, counter.clone())
        };
        let ask = Ask {
            body: Some(Arc::new(body)),
            headers: ask.headers.clone(),
            url: ask.url.clone(),
            method: ask.method.clone(),
            ..*ask
        };
        let asked = self.asked();
        let limits = &self.session.client.options.limits;
        let watch = async {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                tokio::time::sleep(TICK).await;
                let now = sent.load(Ordering::Acquire);
                self.tell(start.saturating_add(now).min(self.layer.size));
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                let patience = if now >= length { limits.commit } else { limits.stall };
                if since.elapsed() > patience {
                    let why =
                        format!("{} takes nothing for {} s", authority(&ask.url), patience.as_secs_f64());
                    return Failure::passing(Diagnostic::environment(why).code("registry-stalled"));
                }
            }
        };
        tokio::select! {
            response = self.session.send(&ask, &asked) => response,
            failure = watch => Err(failure),
        }
    }

    /// Where the answer says that the upload goes on.
    fn next(&self, response: &Response) -> Result<Url> {
        let mut headers = response.headers().clone();
        if let Some(next) = headers.get(NEXT).cloned() {
            headers.insert(LOCATION, next);
        }
        target(response.url(), &headers)
    }

    fn strange(&self, response: &Response, status: StatusCode) -> Diagnostic {
        let host = authority(response.url());
        misbehaved(format!("{host} answers {} to a request for {}", status.as_u16(), self.asked()))
    }

    async fn sum(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        let source = self.source.clone();
        blocking(move || {
            let mut md5 = Md5::new();
            let mut at = start;
            while at < end {
                let piece = piece(&source, at, end - at)?;
                at = at.saturating_add(piece.len() as u64);
                md5.update(&piece);
            }
            Ok(md5.finalize().to_vec())
        })
        .await
    }
}

/// At most `most` bytes from `at`.
fn piece(source: &Source, at: u64, most: u64) -> Result<Bytes> {
    let length = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
    match source {
        Source::Memory(bytes) => {
            let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Ok(bytes.slice(start..start.saturating_add(length).min(bytes.len())))
        }
        Source::File(path) => {
            let read = || {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(at))?;
                let mut bytes = vec![0; length];
                file.read_exact(&mut bytes)?;
                Ok(Bytes::from(bytes))
            };
            read().map_err(|e: std::io::Error| Diagnostic::io("read", path, &e).into())
        }
    }
}

/// A body of `length` bytes from `start`, counted as they leave.
fn read(source: Source, start: u64, length: u64, counter: Arc<AtomicU64>) -> reqwest::Body {
    let pieces = stream::unfold(start, move |at| {
        let (source, counter) = (source.clone(), counter.clone());
        let left = start.saturating_add(length).saturating_sub(at);
        async move {
            if left == 0 {
                return None;
            }
            let read = blocking(move || piece(&source, at, left)).await;
            let next = match &read {
                Ok(piece) => {
                    counter.fetch_add(piece.len() as u64, Ordering::AcqRel);
                    at.saturating_add(piece.len() as u64)
                }
                // An error ends the body.
                Err(_) => start.saturating_add(length),
            };
            Some((read, next))
        }
    });
    reqwest::Body::wrap_stream(pieces)
}
