//! Addresses that the configuration asks to listen on, besides the Unix socket.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Extension;
use axum::middleware::from_fn_with_state;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::access::authenticate;
use super::connection::{Connections, answer};
use super::tls::Tls;
use super::{Api, metrics_router, token_router};
use crate::daemon::engine::{Listen, ListenApi};
use crate::way::Way;

/// An interface that comes late brings its address with it.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Connections at the same time.
const METRICS_CONNECTIONS_MAX: usize = 16;
const API_CONNECTIONS_MAX: usize = 64;

/// What is not listened on, and why; for `status`.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Faults {
    /// One sentence each.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// `None`: all is well with it.
    fn set(&self, what: &'static str, fault: Option<String>) {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = fault else {
            faults.remove(what);
            return;
        };
        if faults.get(what) != Some(&fault) {
            tracing::error!("{fault}");
            faults.insert(what, fault);
        }
    }
}

/// A task that ends with its address.
#[derive(Debug)]
struct Task<T> {
    wanted: T,
    task: JoinHandle<()>,
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps `task` what is wanted.
fn follow<T: Clone + PartialEq>(
    task: &mut Option<Task<T>>,
    wanted: Option<T>,
    start: impl FnOnce(T) -> JoinHandle<()>,
) {
    if task.as_ref().map(|task| &task.wanted) != wanted.as_ref() {
        // The old one first: the new one may want the same port.
        *task = None;
        *task = wanted.map(|wanted| Task { wanted: wanted.clone(), task: start(wanted) });
    }
}

/// Listens on what is wanted, until the task is dropped.
pub async fn run(mut wanted: watch::Receiver<Listen>, api: Api) {
    let (mut metrics_task, mut api_task) = (None, None);
    loop {
        let Listen { metrics, api: tls } = wanted.borrow_and_update().clone();
        if metrics.is_none() {
            api.faults.set("metrics", None);
        }
        if tls.is_none() {
            api.faults.set("api", None);
        }
        follow(&mut metrics_task, metrics, |address| tokio::spawn(serve_metrics(api.clone(), address)));
        follow(&mut api_task, tls, |listen| tokio::spawn(serve_api(api.clone(), listen)));
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn serve_metrics(api: Api, address: SocketAddr) {
    let mut router = metrics_router(api.metrics.clone());
    if !address.ip().is_loopback() {
        router = router.layer(from_fn_with_state(api.tokens.clone(), authenticate));
    }
    let mut connections = Connections::new(METRICS_CONNECTIONS_MAX);
    let each = |stream: TcpStream| {
        let router = router.clone();
        connections.add(|busy| answer(stream, router, None, busy));
    };
    accept("metrics", address, &api.faults, each).await;
}

/// Where the client is and where it came to; `None` when it is gone already.
fn way(stream: &TcpStream) -> Option<Way> {
    Some(Way { client: stream.peer_addr().ok()?.ip(), server: stream.local_addr().ok()? })
}

async fn serve_api(api: Api, listen: ListenApi) {
    let tls = loop {
        match Tls::open(&api.root, listen.certificate.as_deref(), listen.address.ip()) {
            Ok(tls) => break tls,
            Err(error) => api.faults.set("api", Some(format!("api: {}", crate::explain(&error)))),
        }
        tokio::time::sleep(BIND_AGAIN).await;
    };
    tracing::info!(sha256 = tls.fingerprint, "api: this is its certificate");
    let router = token_router(api.clone());
    let mut connections = Connections::new(API_CONNECTIONS_MAX);
    let each = |stream: TcpStream| {
        let (tls, router) = (tls.clone(), router.clone());
        let router = match way(&stream) {
            Some(way) => router.layer(Extension(way)),
            None => router,
        };
        connections.add(|busy| async move {
            if let Some(stream) = tls.accept(stream).await {
                answer(stream, router, None, busy).await;
            }
        });
    };
    accept("api", listen.address, &api.faults, each).await;
}

/// Binds, again and again if need be, and takes connections.
async fn accept(what: &'static str, address: SocketAddr, faults: &Faults, mut each: impl FnMut(TcpStream)) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => faults.set(what, Some(format!("{what}: cannot listen on {address}: {error}"))),
        }
        tokio::time::sleep(BIND_AGAIN).await;
    };
    faults.set(what, None);
    tracing::info!(%address, "{what}: listening");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => each(stream),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// No descriptors are left, most likely: connections that end make room.
pub(super) fn pause_after(error: &std::io::Error) -> impl Future<Output = ()> {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100))
}
