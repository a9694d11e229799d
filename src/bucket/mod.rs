//! A build cache that is shared: a folder, or a bucket of S3, Google Cloud Storage or Azure.
//!
//! ```text
//! 1/keys/<key>              the digest and the length of an expression's value, as text
//! 1/blobs/sha256/<digest>   the value
//! ```
//!
//! Credentials come from the environment, as the providers' own tools read them, and are never part of an address.

mod cache;

use std::path::Path as FilePath;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::diagnostic::{Diagnostic, Result};

/// A cache that is open.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// What it is called in messages.
    shown: String,
    runtime: tokio::runtime::Runtime,
    /// It has failed once: it is not asked again, since each question would take its time.
    failed: AtomicBool,
    notes: Mutex<Vec<Diagnostic>>,
}

/// The schemes of addresses, and what they stand for.
const SCHEMES: &[(&str, Kind)] = &[
    ("s3", Kind::S3),
    ("s3a", Kind::S3),
    ("gs", Kind::Google),
    ("az", Kind::Azure),
    ("azure", Kind::Azure),
    ("abfs", Kind::Azure),
    ("abfss", Kind::Azure),
];

#[derive(Clone, Copy)]
enum Kind {
    S3,
    Google,
    Azure,
}

/// True for what is read over the network.
pub fn is_remote(place: &str) -> bool {
    place.contains("://") && !place.starts_with("file://")
}

impl Bucket {
    /// Opens the cache at `place`: `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, or a folder, which is made.
    ///
    /// # Errors
    /// Usage: there is no such kind of place, or it has credentials in it. The folder cannot be made, or what the
    /// environment says of a bucket cannot be read.
    pub fn open(place: &str) -> Result<Bucket> {
        let (store, prefix) =
            if is_remote(place) { remote(place)? } else { (folder(place)?, Path::default()) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| Diagnostic::environment(format!("cannot start threads: {e}")))?;
        Ok(Bucket {
            store,
            prefix,
            shown: place.to_owned(),
            runtime,
            failed: AtomicBool::new(false),
            notes: Mutex::default(),
        })
    }

    /// Takes what there is to say of it so far: that it failed, that something in it is not to be used.
    pub fn take_notes(&self) -> Vec<Diagnostic> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: Diagnostic) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }
}

fn folder(place: &str) -> Result<Arc<dyn ObjectStore>> {
    let path = FilePath::new(place.strip_prefix("file://").unwrap_or(place));
    std::fs::create_dir_all(path).map_err(|e| Diagnostic::io("make the folder", path, &e))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|e| unusable(place, &e))?;
    Ok(Arc::new(store))
}

fn remote(place: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let wrong = |why: &str| {
        let d = Diagnostic::usage(format!("{why} in the address of the cache")).code("cache-address");
        d.help("write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a folder")
    };
    let url = Url::parse(place).map_err(|e| wrong(&e.to_string()))?;
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("there is more than a bucket and a path").into());
    }
    let kind = SCHEMES.iter().find(|(scheme, _)| *scheme == url.scheme());
    let (_, kind) = kind.ok_or_else(|| wrong(&format!("`{}` is no kind of bucket", url.scheme())))?;
    let prefix = Path::from_url_path(url.path()).map_err(|e| wrong(&e.to_string()))?;
    // Fails only where another part of the program was first, which chooses the same.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(10))
        .with_timeout(Duration::from_secs(300));
    let retry =
        RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
    let failed = |e: object_store::Error| unusable(place, &e);
    // Options of the client would replace what the environment says of plain HTTP.
    let plain = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|v| matches!(v.as_str(), "1" | "true"));
    let store: Arc<dyn ObjectStore> = match kind {
        Kind::S3 => Arc::new(
            AmazonS3Builder::from_env()
                .with_client_options(client.with_allow_http(plain))
                .with_retry(retry)
                .with_url(place)
                .build()
                .map_err(failed)?,
        ),
        Kind::Google => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_client_options(client)
                .with_retry(retry)
                .with_url(place)
                .build()
                .map_err(failed)?,
        ),
        Kind::Azure => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_client_options(client)
                .with_retry(retry)
                .with_url(place)
                .build()
                .map_err(failed)?,
        ),
    };
    Ok((store, prefix))
}

fn unusable(place: &str, error: &object_store::Error) -> Diagnostic {
    Diagnostic::environment(format!("cannot use the build cache {place}: {error}"))
        .code("cache")
        .help("the variables that the provider's own tools read say where it is and who may use it")
}
