//! One blob, from a registry into the store.
//!
//! Parts come side by side and are written where they belong; every few seconds the disk is asked what it surely has,
//! and that is recorded. Behind the parts, in the order of the file, follows the hash: over the bytes as the file has
//! them, so that it covers what an earlier, killed download left there. The blob gets its name when the digest is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, Semaphore};

use super::failure::{Failure, authority, clean, misbehaved};
use super::http::{Ask, Flow, check_encoding};
use super::session::Session;
use super::{Progress, blocking};
use crate::diagnostic::{Diagnostic, Result};
use crate::store::{Blob, Digest, Layer, Partial, Writer};

/// Bytes that are gathered before they are written.
const PIECE: usize = 1 << 20;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(60);

/// How long to wait before looking again whether somebody else's download is done.
const LOOK: Duration = Duration::from_millis(50);

/// Blobs above this are remembered as whole: a later use would hash them again.
const LARGE: u64 = 1 << 20;

/// Progress beyond this makes a part's failures count anew.
const FURTHER: u64 = 4 << 20;

/// What a transfer shares.
pub(super) struct Transfer<'a> {
    pub session: &'a Session,
    pub writer: Arc<Writer>,
    pub progress: &'a dyn Progress,
    pub connections: &'a Semaphore,
}

struct Part {
    start: u64,
    end: u64,
    done: AtomicU64,
}

impl Part {
    fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }
}

impl Transfer<'_> {
    /// Makes sure that the store has this blob, whole.
    ///
    /// # Errors
    /// The registry does not send it, or something else.
    pub async fn fetch(&self, layer: &Layer) -> Result<()> {
        let part = self.session.client.options.limits.part(layer.size);
        let (digest, size) = (layer.digest, layer.size);
        let mut dropped = false;
        loop {
            let writer = self.writer.clone();
            if let Some(blob) = blocking(move || writer.store().find_whole_blob(&digest)).await? {
                self.tell(layer, blob.size);
                return self.check_size(layer, &blob);
            }
            let writer = self.writer.clone();
            let Some(partial) = blocking(move || writer.partial(&digest, size, part)).await? else {
                let store = self.writer.store();
                self.tell(layer, store.partly_there(&digest).unwrap_or_default());
                tokio::time::sleep(LOOK).await;
                continue;
            };
            // Its download may have ended between the look and the lock.
            if self.writer.store().find_blob(&digest)?.is_some_and(|b| b.size == size) {
                let store = self.writer.store().clone();
                if blocking(move || store.find_whole_blob(&digest)).await?.is_some() {
                    partial.discard();
                    continue;
                }
            }
            let resumed = partial.done().iter().any(|n| *n > 0);
            let download = Download::new(self, layer, partial, part);
            match download.run().await? {
                Ok(()) => return Ok(()),
                // What was there may be damaged; that is found out once, and not in a loop.
                Err(_) if resumed && !dropped => dropped = true,
                Err(is) => {
                    let host = authority(&self.session.base);
                    let why = format!(
                        "digest mismatch, file must be downloaded again: want {digest}, got {is} from {host}"
                    );
                    return Err(misbehaved(why).into());
                }
            }
        }
    }

    fn check_size(&self, layer: &Layer, blob: &Blob) -> Result<()> {
        match blob.size == layer.size {
            true => Ok(()),
            false => Err(misbehaved(format!(
                "the manifest from {} says that {} has {} bytes; it has {}",
                authority(&self.session.base),
                layer.digest,
                layer.size,
                blob.size
            ))
            .into()),
        }
    }

    fn tell(&self, layer: &Layer, done: u64) {
        self.progress.transfer(&format!("pulling {}", layer.digest.short()), &layer.digest, layer.size, done);
    }
}

struct Download<'a> {
    transfer: &'a Transfer<'a>,
    layer: &'a Layer,
    asked: String,
    partial: Arc<Partial>,
    parts: Vec<Part>,
    /// Rung when bytes were written.
    written: Notify,
}

impl<'a> Download<'a> {
    fn new(transfer: &'a Transfer<'a>, layer: &'a Layer, partial: Partial, part: u64) -> Download<'a> {
        let mut parts = Vec::new();
        for (i, done) in partial.done().iter().enumerate() {
            let start = (i as u64).saturating_mul(part);
            parts.push(Part {
                start,
                end: start.saturating_add(part).min(layer.size),
                done: AtomicU64::new(*done),
            });
        }
        let asked = format!("the blob {} of {}", layer.digest.short(), transfer.session.asked());
        Download { transfer, layer, asked, partial: Arc::new(partial), parts, written: Notify::new() }
    }

    /// Downloads what is missing and gives the blob its name, or says which digest the bytes have.
    async fn run(self) -> Result<std::result::Result<(), Digest>> {
        let outcome = {
            let fetch = async {
                let pending: FuturesUnordered<_> = self.parts.iter().map(|p| self.part(p)).collect();
                pending.try_collect::<Vec<()>>().await.map(drop)
            };
            let work = async { tokio::try_join!(fetch, self.hash()).map(|((), digest)| digest) };
            tokio::select! {
                digest = work => digest,
                failed = self.keep_records() => Err(failed),
                () = self.keep_telling() => Err(Diagnostic::environment("the download ended by itself").into()),
            }
        };
        if outcome.is_err() {
            // What came is kept for the next try, as far as the disk has it.
            let _ = self.record().await;
        }
        let digest = outcome?;
        self.transfer.tell(self.layer, self.done());
        let Download { transfer, layer, partial, .. } = self;
        if digest != layer.digest {
            partial.discard();
            return Ok(Err(digest));
        }
        let writer = transfer.writer.clone();
        blocking(move || {
            let blob = partial.finish()?;
            if blob.size > LARGE {
                writer.remember_whole(&blob);
            }
            Ok(())
        })
        .await?;
        Ok(Ok(()))
    }

    fn done(&self) -> u64 {
        self.parts.iter().map(Part::done).fold(0, u64::saturating_add)
    }

    /// Downloads what a part lacks.
    async fn part(&self, part: &Part) -> Result<()> {
        let limits = &self.transfer.session.client.options.limits;
        let mut tries = 0;
        let mut before = part.done();
        while part.done() < part.len() {
            let result = {
                let closed = |_| Diagnostic::environment("the download has ended");
                let _one = self.transfer.connections.acquire().await.map_err(closed)?;
                self.stretch(part).await
            };
            match result {
                Ok(()) => {}
                Err(Failure::Lasting(errors)) => return Err(errors),
                Err(Failure::Passing(errors, asked)) => {
                    if part.done().saturating_sub(before) >= FURTHER {
                        (tries, before) = (0, part.done());
                    }
                    tries += 1;
                    if tries > limits.retries {
                        return Err(errors);
                    }
                    tokio::time::sleep(limits.pause_after(tries, asked)).await;
                }
            }
        }
        Ok(())
    }

    /// One request, for all that a part lacks.
    async fn stretch(&self, part: &Part) -> Result<(), Failure> {
        let session = self.transfer.session;
        let (from, to) = (part.start + part.done(), part.end);
        let whole = from == 0 && to == self.layer.size;
        let url = session.url(&format!("blobs/{}", self.layer.digest))?;
        let mut ask = Ask::new(Method::GET, url);
        if !whole {
            ask = ask.header(RANGE, &format!("bytes={from}-{}", to - 1));
        }
        let response = session.send(&ask, &self.asked).await?;
        let host = authority(response.url());
        check_encoding(&response, &self.asked)?;
        self.check_range(&response, from, to, whole)?;
        if let Some(length) = response.content_length().filter(|n| *n != to - from) {
            let kind = if length > to - from { "longer" } else { "shorter" };
            return Err(misbehaved(format!(
                "{host} sends {length} bytes of {}, {kind} than the {} that it should be",
                self.asked,
                to - from
            ))
            .into());
        }
        let mut flow = Flow::new(&session.client, response);
        let mut gathered = BytesMut::new();
        let (mut since, soon) = (Instant::now(), session.client.options.limits.record);
        let result = loop {
            match flow.next().await {
                Ok(Some(piece)) => {
                    let missing = part.len() - part.done() - gathered.len() as u64;
                    if piece.len() as u64 > missing {
                        break Err(misbehaved(format!(
                            "{host} sends more bytes of {} than it has",
                            self.asked
                        ))
                        .into());
                    }
                    gathered.extend_from_slice(&piece);
                    // What comes slowly is not kept in memory until a kill loses it.
                    if gathered.len() >= PIECE || since.elapsed() >= soon {
                        since = Instant::now();
                        self.write(part, gathered.split()).await?;
                    }
                }
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        self.write(part, gathered).await?;
        result?;
        match part.done() == part.len() {
            true => Ok(()),
            false => Err(Failure::passing(misbehaved(format!(
                "{host} ends {} after {} of {} bytes",
                self.asked,
                part.start + part.done(),
                self.layer.size
            )))),
        }
    }

    /// Whether the answer is the part that was asked for.
    fn check_range(&self, response: &Response, from: u64, to: u64, whole: bool) -> Result<()> {
        let host = authority(response.url());
        let asked = &self.asked;
        match (response.status(), whole) {
            (StatusCode::OK, true) => Ok(()),
            (StatusCode::OK, false) => {
                Err(misbehaved(format!("{host} sends all of {asked} instead of the part that was asked for"))
                    .into())
            }
            (StatusCode::PARTIAL_CONTENT, _) => {
                let range =
                    response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or("nothing");
                let wanted = format!("bytes {from}-{}/{}", to - 1, self.layer.size);
                let open = format!("bytes {from}-{}/*", to - 1);
                match range.eq_ignore_ascii_case(&wanted) || range.eq_ignore_ascii_case(&open) {
                    true => Ok(()),
                    false => Err(misbehaved(format!(
                        "{host} sends `{}` of {asked} instead of `{wanted}`",
                        clean(range)
                    ))
                    .into()),
                }
            }
            (status, _) => {
                Err(misbehaved(format!("{host} answers {} to a request for {asked}", status.as_u16())).into())
            }
        }
    }

    async fn write(&self, part: &Part, bytes: BytesMut) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let partial = self.partial.clone();
        let at = part.start + part.done();
        let len = bytes.len() as u64;
        blocking(move || partial.write_at(at, &bytes)).await?;
        part.done.fetch_add(len, Ordering::AcqRel);
        self.written.notify_one();
        Ok(())
    }

    /// How far the file is without a gap.
    fn unbroken(&self) -> u64 {
        let mut end = 0;
        for part in &self.parts {
            end = part.start + part.done();
            if part.done() < part.len() {
                break;
            }
        }
        end
    }

    /// Hashes the file behind the parts.
    async fn hash(&self) -> Result<Digest> {
        let mut sha = Sha256::new();
        let mut at = 0;
        while at < self.layer.size {
            let to = self.unbroken();
            if to == at {
                self.written.notified().await;
                continue;
            }
            let partial = self.partial.clone();
            sha = blocking(move || {
                let mut piece = vec![0; PIECE];
                while at < to {
                    let n = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
                    let piece = piece.get_mut(..n).unwrap_or_default();
                    partial.read_at(at, piece)?;
                    sha.update(&*piece);
                    at += n as u64;
                }
                Ok(sha)
            })
            .await?;
            at = to;
        }
        Ok(Digest::from_bytes(sha.finalize().into()))
    }

    async fn record(&self) -> Result<()> {
        let partial = self.partial.clone();
        let done: Vec<u64> = self.parts.iter().map(Part::done).collect();
        blocking(move || partial.record(&done)).await
    }

    /// Records what the disk has, again and again; returns where that fails.
    async fn keep_records(&self) -> crate::diagnostic::Errors {
        let mut last = self.done();
        loop {
            tokio::time::sleep(self.transfer.session.client.options.limits.record).await;
            let now = self.done();
            if now == last {
                continue;
            }
            last = now;
            if let Err(errors) = self.record().await {
                return errors;
            }
        }
    }

    async fn keep_telling(&self) {
        loop {
            self.transfer.tell(self.layer, self.done());
            tokio::time::sleep(TICK).await;
        }
    }
}
