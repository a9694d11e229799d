//! Sockets: connections within limits, TLS, and an end that lets answers finish.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::app::App;
use super::config::{Address, Config};
use crate::diagnostic::{Diagnostic, Result};

/// A connection of any kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

enum Listener {
    Tcp(Vec<TcpListener>),
    Unix(UnixListener),
}

/// Listens until the process is told to stop, then waits for what runs.
///
/// # Errors
/// The address cannot be listened on, or the certificate cannot be read.
pub async fn serve(router: Router, app: Arc<App>) -> Result<()> {
    let tls = app.config.tls.as_ref().map(|(chain, key)| acceptor(chain, key)).transpose()?;
    let listener = bind(&app.config).await?;
    announce(&app.config, &listener, tls.is_some());
    super::operations::preload(&app);
    let limits = app.config.limits;
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(limits.header_count)
        .max_buf_size(limits.headers);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut told = std::pin::pin!(told_to_stop());
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            () = &mut told => break,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut told => break,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                // Too many open files, or a client that has gone: what waits can be served later.
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let (router, http, tls, watcher) = (router.clone(), http.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _permit = permit;
            let stream: Box<dyn Stream> = match tls {
                None => stream,
                Some(tls) => match tokio::time::timeout(limits.header_time, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Box::new(stream),
                    _ => return,
                },
            };
            let service =
                hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    router.clone().oneshot(request.map(axum::body::Body::new) as Request)
                });
            let connection = http.serve_connection(TokioIo::new(stream), service);
            if let Err(e) = watcher.watch(connection).await {
                tracing::debug!(error = %e, "a connection ended");
            }
        });
    }
    if let Address::Unix(path) = &app.config.address {
        let _ = std::fs::remove_file(path);
    }
    drop(listener);
    tracing::info!("stopping: running requests may end");
    app.drain();
    let stop = async {
        tokio::time::sleep(limits.drain).await;
        app.stop();
        // Time for the last event of each answer.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    };
    tokio::select! {
        () = graceful.shutdown() => {}
        () = stop => {}
        () = told_to_stop() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

async fn bind(config: &Config) -> Result<Listener> {
    match &config.address {
        Address::Tcp(host, port) => {
            let failed = |e: std::io::Error| {
                let what = format!("cannot listen on {host}:{port}: {e}");
                Diagnostic::environment(what).help("choose another address with `--host HOST:PORT`")
            };
            let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(failed)?;
            let mut listeners = Vec::new();
            for address in addresses {
                listeners.push(TcpListener::bind(address).await.map_err(failed)?);
                // A name may stand for both loopbacks; a port of 0 is one port.
                if *port == 0 {
                    break;
                }
            }
            Ok(Listener::Tcp(listeners))
        }
        Address::Unix(path) => {
            let failed = |e| Diagnostic::io("listen on", path, &e);
            if is_stale(path).await {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Ok(Listener::Unix(UnixListener::bind(path).map_err(failed)?))
        }
    }
}

/// True for a socket that nobody listens on any more.
async fn is_stale(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket && tokio::net::UnixStream::connect(path).await.is_err()
}

async fn accept(listener: &Listener) -> std::io::Result<Box<dyn Stream>> {
    match listener {
        Listener::Tcp(all) => {
            let waits = all.iter().map(|l| Box::pin(l.accept()));
            let (accepted, _, _) = futures_util::future::select_all(waits).await;
            let (stream, _) = accepted?;
            // A client that has gone already is noticed later.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream))
        }
        Listener::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
    }
}

fn announce(config: &Config, listener: &Listener, tls: bool) {
    let scheme = if tls { "https" } else { "http" };
    match listener {
        Listener::Tcp(all) => {
            for address in all.iter().filter_map(|l| l.local_addr().ok()) {
                tracing::info!("listening on {scheme}://{address}");
            }
        }
        Listener::Unix(_) => tracing::info!("listening on a unix socket"),
    }
    if !config.is_loopback() && config.api_keys_file.is_none() {
        tracing::warn!(
            "everyone who can reach this address can use and change its models: no key is asked for"
        );
    }
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor> {
    let unreadable = |path: &Path, why: String| {
        Diagnostic::usage(format!("{}: {why}", path.display())).code("tls-certificate")
    };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| unreadable(chain, e.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, e.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(certificates, private))
        .map_err(|e| unreadable(chain, e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Resolves on Ctrl-C or SIGTERM.
async fn told_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            let _ = interrupt.await;
            return;
        };
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}
