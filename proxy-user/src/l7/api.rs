// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reconfigure API: docker-flow-proxy's paths, check order, status codes and JSON.
//!
//! It runs on a runtime of its own. A change is in force when it answers; that it is kept is waited for, but not for
//! long. Nothing here can make a worker wait.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::metrics::Counters;
use super::params::Params;
use super::peers::{self, Peers};
use super::settings::Settings;
use super::spec::ServiceSpec;
use super::state::Keeper;
use super::stats::view::View;
use super::table::Table;
use super::{labels, limits, tls};

mod answer;
mod certs;
mod copy;
mod guard;
mod reconfigure;
mod views;

use answer::{Answer, TEXT, moved, plain, respond};
use guard::Caller;
pub use guard::Guard;

const PREFIX: &str = "/v1/docker-flow-proxy/";
/// Every path that is served, without the slash that is redirected away.
const ROUTES: [&str; 13] = [
    "/v1/docker-flow-proxy/reconfigure",
    "/v1/docker-flow-proxy/remove",
    "/v1/docker-flow-proxy/reload",
    "/v1/docker-flow-proxy/config",
    "/v1/docker-flow-proxy/ping",
    "/v1/docker-flow-proxy/successfulinitreload",
    "/v1/docker-flow-proxy/cert",
    "/v1/docker-flow-proxy/certs",
    "/v1/docker-flow-proxy/metrics",
    "/v1/test",
    "/v2/test",
    "/metrics",
    peers::COPY,
];

/// What the API works on.
pub struct Api {
    /// The one writer is whoever holds the lock; nothing is awaited while it is held.
    pub table: Mutex<Table>,
    /// Where the table is kept.
    pub keeper: Keeper,
    /// All replicas.
    pub peers: Peers,
    /// Of all workers.
    pub counters: Vec<Arc<Counters>>,
    /// Fixed at start.
    pub settings: Settings,
    /// Certificates.
    pub certs: Arc<tls::Store>,
    /// Who may call.
    pub guard: Guard,
    /// A listener has answered.
    pub listener_answered: AtomicBool,
    /// What is known of the labels.
    pub labels: labels::State,
    /// What is counted, in rows.
    pub view: Arc<View>,
}

/// Accepts connections for as long as it is polled.
pub async fn serve(api: Arc<Api>, listener: TcpListener) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept on the API");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        tokio::spawn(serve_one(api.clone(), stream, peer));
    }
}

/// One connection, over TLS where that is set.
async fn serve_one(api: Arc<Api>, stream: TcpStream, peer: SocketAddr) {
    let Some(tls) = &api.settings.admin.tls else {
        return speak(api, stream, peer, false).await;
    };
    let accept = TlsAcceptor::from(tls.server.clone()).accept(stream);
    match tokio::time::timeout(limits::API_HANDSHAKE_TIME_MAX, accept).await {
        Ok(Ok(stream)) => {
            let is_verified = stream.get_ref().1.peer_certificates().is_some();
            speak(api, stream, peer, is_verified).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake on the API"),
        Err(_) => tracing::debug!("no TLS handshake on the API in time"),
    }
}

async fn speak<T>(api: Arc<Api>, stream: T, peer: SocketAddr, is_verified: bool)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(api.handle(request, peer, is_verified).await) }
    });
    let conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .max_buf_size(limits::API_BODY_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = conn.await {
        tracing::debug!(%error, "API connection");
    }
}

impl Api {
    async fn handle(&self, request: Request<Incoming>, peer: SocketAddr, is_verified: bool) -> Answer {
        let path = request.uri().path();
        let caller = Caller {
            ip: peer.ip(),
            is_verified,
        };
        if let Err(denied) = self.guard.check(caller, path, request.headers()) {
            return denied.answer();
        }
        if let Some(path) = path.strip_suffix('/').filter(|path| ROUTES.contains(path)) {
            return moved(path, request.uri().query());
        }
        if !ROUTES.contains(&path) {
            return plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into());
        }
        let params = Params::parse(request.uri().query().unwrap_or_default());
        let ok = ServiceSpec::default();
        match path.strip_prefix(PREFIX).unwrap_or(path) {
            "reconfigure" => {
                let (parts, body) = request.into_parts();
                match reconfigure::read_form(&parts, body).await {
                    Ok(form) => {
                        let params = params.with_form(&form);
                        self.reconfigure(params, &parts.method, parts.uri.path()).await
                    }
                    Err(message) => respond(StatusCode::BAD_REQUEST, message, &ok),
                }
            }
            "remove" => self.remove(&params, request.method(), path).await,
            "reload" => self.reload(&params).await,
            "config" => self.config(&params),
            "ping" => respond(StatusCode::OK, "", &ok),
            "successfulinitreload" => {
                // Never 200 without a listener.
                let answered = self.listener_answered.load(Relaxed);
                let status = if answered {
                    StatusCode::OK
                } else {
                    StatusCode::INTERNAL_SERVER_ERROR
                };
                plain(status, TEXT, String::new())
            }
            peers::COPY => self.copy(),
            "/v1/test" => respond(StatusCode::OK, "Test v1", &ok),
            "/v2/test" => respond(StatusCode::OK, "Test v2", &ok),
            "/metrics" => self.metrics(),
            "cert" if request.method() != Method::PUT => {
                plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new())
            }
            "cert" => {
                let (parts, body) = request.into_parts();
                self.put_certificate(&params, parts.uri.path(), body).await
            }
            "certs" => self.certificates(peer.ip()).await,
            "metrics" => self.csv(&params, path).await,
            _ => plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
        }
    }

    /// A panic while the lock was held cannot leave the table half changed: entries are inserted whole.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the table is kept. What it returns is what the caller should know: nothing when it is.
    pub(super) async fn keep(&self) -> String {
        self.kept(|table| self.keeper.keep(table.kept())).await
    }

    /// The same after a change of one service, which costs less.
    async fn keep_change(&self, name: &str) -> String {
        self.kept(|table| match self.keeper.wants_all() {
            true => self.keeper.keep(table.kept()),
            false => self.keeper.keep_change(table.kept_of(name)),
        })
        .await
    }

    async fn kept(&self, keep: impl FnOnce(&Table) -> oneshot::Receiver<Result<(), String>>) -> String {
        if !self.keeper.is_persistent() {
            return String::new();
        }
        // Under the table's lock, so that an older state cannot be queued behind a newer one.
        let kept = keep(&self.table());
        match tokio::time::timeout(limits::STATE_WAIT_MAX, kept).await {
            Ok(Ok(Ok(()))) => String::new(),
            Ok(Ok(Err(error))) => format!("In force, but it would not survive a restart: {error}"),
            Ok(Err(_)) => "In force, but it would not survive a restart".into(),
            Err(_) => {
                tracing::warn!("the state file is slow; the routes are in force and will be kept later");
                "In force, but not on disk yet".into()
            }
        }
    }
}
