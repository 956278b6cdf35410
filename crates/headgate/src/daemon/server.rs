//! The API: HTTP/1.1 over the Unix socket.
//!
//! Every connection is a task of its own with deadlines, one request each; what it asks for is done by the one thread that
//! owns the kernel. A client that stalls holds a task and a descriptor for some seconds, and nobody up.

mod access;
mod connection;
mod console;
mod front;
mod handlers;
pub mod listeners;
mod operations;
mod tls;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headgate_host::Root;
use headgate_plan::status::{Fence, ServiceStatus};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};

use self::connection::{Connections, answer};
pub use self::front::Front;
use self::listeners::{Faults, pause_after};
use self::operations::OPERATIONS;
use super::caller::Peer;
use super::engine::Handle;
use super::errands::Errands;
use super::feed::Events;
use super::handover::{self, Kept};
use super::metrics::Metrics;
use super::supervise::Supervisor;
use super::tokens::Tokens;
use crate::api::{ApiError, BODY_MAX, ErrorBody, SOCKET};

/// From the head to the last byte of the body.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// Connections at the same time; the socket is root's alone, so this bounds accidents, not attacks. The one that has waited
/// longest without a request makes room for another.
const CONNECTIONS_MAX: usize = 64;
/// Of all listeners, at the same time.
const STREAMS_MAX: usize = 16;

/// What answers are made from.
#[derive(Debug, Clone)]
pub struct Api {
    /// The kernel and the configuration.
    pub engine: Handle,
    /// The supervised processes.
    pub services: Services,
    /// What is not listened on.
    pub faults: Faults,
    /// The figures.
    pub metrics: Metrics,
    /// Who may come in from elsewhere.
    pub tokens: Tokens,
    /// What happens.
    pub events: Events,
    /// Sockets that outlive the program.
    pub kept: Kept,
    /// For what the fence is in the way of.
    errands: Errands,
    /// What of it stands.
    fence: Fence,
    /// No more is taken, and event streams end.
    closing: watch::Receiver<bool>,
    /// Event streams at the same time.
    streams: Arc<Semaphore>,
    /// Where a certificate is, or is made.
    root: Root,
}

impl Api {
    /// Answers from these.
    pub fn new(
        root: Root,
        engine: Handle,
        services: Services,
        (events, kept): (Events, Kept),
        (errands, fence): (Errands, Fence),
    ) -> Self {
        let metrics = Metrics::new(engine.clone(), services.clone());
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let tokens = Tokens::open(root.clone());
        let (faults, closing) = (Faults::default(), watch::Sender::new(false).subscribe());
        Self { engine, services, faults, metrics, tokens, events, kept, errands, fence, closing, streams, root }
    }
}

/// The supervised processes; `None` once they are being stopped.
#[derive(Debug, Clone)]
pub struct Services(pub Arc<Mutex<Option<Supervisor>>>);

impl Services {
    /// How each is.
    pub fn list(&self) -> Vec<crate::service::ServiceStatus> {
        let supervisor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        supervisor.as_ref().map(Supervisor::status).unwrap_or_default()
    }
}

/// A service as the status tells it.
fn summary(service: &crate::service::ServiceStatus) -> ServiceStatus {
    let reason = service.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let restarts = if service.restarts > 0 { format!(", restarted {} times", service.restarts) } else { String::new() };
    ServiceStatus {
        name: service.name.clone(),
        healthy: !service.state.is_fault(),
        state: format!("{}{reason}{restarts}", service.state.word()),
        pid: service.pid.and_then(|pid| i32::try_from(pid).ok()),
    }
}

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", path.display())]
pub struct ListenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Listens on the socket of this root, if none was left open that does, and in place of one that a dead daemon left. The caller
/// holds the daemon's lock, so no living one is behind it.
///
/// # Errors
/// [`ListenError`].
pub fn listen(root: &Path, kept: &Kept) -> Result<(), ListenError> {
    let path = root.join(SOCKET);
    let attempt = || {
        if kept.get(handover::API).is_some() && path.exists() {
            return Ok(());
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Between bind and chmod nobody else may connect. Other threads create no files yet.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = std::os::unix::net::UnixListener::bind(&path);
        nix::sys::stat::umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o660))?;
        kept.keep(handover::API, &listener)
    };
    attempt().map_err(|source| ListenError { path: path.clone(), source })
}

/// Serves until the task is dropped, or nothing more is to be taken and what was taken is done.
async fn serve(listener: UnixListener, api: Api) {
    let mut closing = api.closing.clone();
    let router = router(api).merge(console::routes()).layer(from_fn(access::refuse_other_sites));
    let mut connections = Connections::new(CONNECTIONS_MAX);
    loop {
        tokio::select! {
            () = closed(&mut closing) => return connections.finish().await,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without, it is gone already.
                    if let Ok(peer) = stream.peer_cred() {
                        let peer = Peer { uid: peer.uid(), pid: peer.pid() };
                        connections.add(|busy| answer(stream, router.clone(), Some(peer), busy));
                    }
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

/// Waits until nothing more is to be taken.
async fn closed(closing: &mut watch::Receiver<bool>) {
    // When nobody can say so any more, it is so.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// What anybody may ask for whose scope is large enough.
fn router(api: Api) -> Router {
    let mut router = Router::new();
    for operation in OPERATIONS {
        let scoped = (operation.route)().layer(from_fn_with_state(operation.scope, access::authorize));
        router = router.route(operation.path, scoped);
    }
    router
        .fallback(handlers::nowhere)
        .method_not_allowed_fallback(handlers::nowhere)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// The same for who comes from elsewhere with a token. The console comes without one, and can ask for nothing without one.
pub fn token_router(api: Api) -> Router {
    let tokens = api.tokens.clone();
    router(api).layer(from_fn_with_state(tokens, access::authenticate)).merge(console::routes())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(ErrorBody { error: self })).into_response()
    }
}

/// What `[metrics] listen` answers: nothing but the figures; beyond loopback to tokens only.
fn metrics_router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(|State(metrics): State<Metrics>| async move { handlers::page(&metrics).await }))
        .fallback(handlers::nowhere)
        .method_not_allowed_fallback(handlers::nowhere)
        .with_state(metrics)
}
