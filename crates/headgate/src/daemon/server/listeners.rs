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
use super::{Api, closed, metrics_router, token_router};
use crate::daemon::engine::{Listen, ListenApi};
use crate::daemon::handover::{Kept, named};
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

/// Listens on what is wanted, until the task is dropped, or nothing more is to be taken and what was taken is done.
pub async fn run(mut wanted: watch::Receiver<Listen>, api: Api) {
    let (mut metrics_task, mut api_task): (Option<Task<SocketAddr>>, Option<Task<ListenApi>>) = (None, None);
    let mut closing = api.closing.clone();
    loop {
        let Listen { metrics, api: tls } = wanted.borrow_and_update().clone();
        if metrics.is_none() {
            api.faults.set("metrics", None);
        }
        if tls.is_none() {
            api.faults.set("api", None);
        }
        let addresses: Vec<SocketAddr> = metrics.into_iter().chain(tls.as_ref().map(|tls| tls.address)).collect();
        api.kept.retain(&addresses);
        follow(&mut metrics_task, metrics, |address| tokio::spawn(serve_metrics(api.clone(), address)));
        follow(&mut api_task, tls, |listen| tokio::spawn(serve_api(api.clone(), listen)));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = closed(&mut closing) => break,
        }
    }
    let tasks = [metrics_task.as_mut().map(|task| &mut task.task), api_task.as_mut().map(|task| &mut task.task)];
    for task in tasks.into_iter().flatten() {
        // One that panicked has said so.
        let _ = task.await;
    }
}

async fn serve_metrics(api: Api, address: SocketAddr) {
    let mut router = metrics_router(api.metrics.clone());
    if !address.ip().is_loopback() {
        router = router.layer(from_fn_with_state(api.tokens.clone(), authenticate));
    }
    let each = move |connections: &mut Connections, stream: TcpStream| {
        let router = router.clone();
        connections.add(|busy| answer(stream, router, None, busy));
    };
    accept("metrics", address, &api, (Connections::new(METRICS_CONNECTIONS_MAX), each)).await;
}

/// Where the client is and where it came to; `None` when it is gone already. A socket of `[::]` has both families.
fn way(stream: &TcpStream) -> Option<Way> {
    let server = stream.local_addr().ok()?;
    let server = SocketAddr::new(server.ip().to_canonical(), server.port());
    Some(Way { client: stream.peer_addr().ok()?.ip().to_canonical(), server })
}

async fn serve_api(api: Api, listen: ListenApi) {
    let mut closing = api.closing.clone();
    let tls = loop {
        let (root, certificate, address) = (api.root.clone(), listen.certificate.clone(), listen.address.ip());
        match api.errands.block(move || Tls::open(&root, certificate.as_deref(), address)).await {
            None => return,
            Some(Ok(tls)) => break tls,
            Some(Err(error)) => api.faults.set("api", Some(format!("api: {}", crate::explain(&error)))),
        }
        tokio::select! {
            () = tokio::time::sleep(BIND_AGAIN) => {}
            () = closed(&mut closing) => return,
        }
    };
    tracing::info!(sha256 = tls.fingerprint, "api: this is its certificate");
    let router = token_router(api.clone());
    let each = |connections: &mut Connections, stream: TcpStream| {
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
    accept("api", listen.address, &api, (Connections::new(API_CONNECTIONS_MAX), each)).await;
}

/// Binds, again and again if need be, and takes connections until nothing more is to be taken.
async fn accept(
    what: &'static str,
    address: SocketAddr,
    api: &Api,
    (mut connections, each): (Connections, impl Fn(&mut Connections, TcpStream)),
) {
    let mut closing = api.closing.clone();
    let listener = loop {
        match bind(address, &api.kept).await {
            Ok(listener) => break listener,
            Err(error) => api.faults.set(what, Some(format!("{what}: cannot listen on {address}: {error}"))),
        }
        tokio::select! {
            () = tokio::time::sleep(BIND_AGAIN) => {}
            () = closed(&mut closing) => return,
        }
    };
    api.faults.set(what, None);
    tracing::info!(%address, "{what}: listening");
    loop {
        tokio::select! {
            () = closed(&mut closing) => return connections.finish().await,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => each(&mut connections, stream),
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

/// Listens, on the socket of the program before if it has left one; the next program shall find it too.
async fn bind(address: SocketAddr, kept: &Kept) -> std::io::Result<TcpListener> {
    if let Some(left) = kept.get(&named(&address)) {
        return TcpListener::from_std(std::net::TcpListener::from(left));
    }
    let listener = TcpListener::bind(address).await?;
    kept.keep(&named(&address), &listener)?;
    Ok(listener)
}

/// No descriptors are left, most likely: connections that end make room.
pub(super) fn pause_after(error: &std::io::Error) -> impl Future<Output = ()> {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100))
}
