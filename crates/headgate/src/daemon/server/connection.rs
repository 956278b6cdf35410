//! Connections: how many at once, and for how long.
//!
//! Each is a task of its own with deadlines and one request. When there are too many, the one goes that has waited longest
//! without a request: a client that only holds its connection open keeps nobody out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use crate::daemon::caller::Peer;

/// From the connection to the last byte of the request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// From the connection to the last byte of the answer.
const WHOLE_DEADLINE: Duration = Duration::from_secs(60);
/// How long the last requests may take when nothing more is taken, and who has not asked for anything yet.
const LAST_DEADLINE: Duration = Duration::from_secs(10);
const LAST_IDLE_DEADLINE: Duration = Duration::from_secs(1);
/// Between looks whether they are done.
const LAST_PAUSE: Duration = Duration::from_millis(5);
/// Names and values of a head, bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Lines of a head.
const HEADERS_MAX: usize = 64;

/// Those of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    /// Oldest first.
    live: VecDeque<Live>,
}

#[derive(Debug)]
struct Live {
    task: AbortHandle,
    busy: Busy,
}

/// How far a connection is. Handlers find it among the extensions of the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy {
    /// The head of the request is there, and whoever sent it may ask for it.
    served: Arc<AtomicBool>,
    /// Its answer goes on until the client goes.
    streams: Arc<AtomicBool>,
}

impl Busy {
    /// Is not cut any more to make room for others.
    pub(super) fn serve(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// Has no deadline any more.
    pub(super) fn stream(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }
}

impl Connections {
    /// At most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, live: VecDeque::new() }
    }

    /// Runs the task of a connection, if there is room or can be made.
    pub(super) fn add<F>(&mut self, task: impl FnOnce(Busy) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.live.retain(|live| !live.task.is_finished());
        if self.live.len() >= self.most {
            let Some(idle) = self.live.iter().position(|live| !live.busy.is_served()) else {
                tracing::debug!("too many requests at once: a connection was refused");
                return;
            };
            if let Some(live) = self.live.remove(idle) {
                live.task.abort();
            }
        }
        let busy = Busy::default();
        let task = tokio::spawn(task(busy.clone())).abort_handle();
        self.live.push_back(Live { task, busy });
    }

    /// Waits until all are done, or have had their time.
    pub(super) async fn finish(self) {
        let begin = Instant::now();
        while begin.elapsed() < LAST_DEADLINE {
            let patient = begin.elapsed() < LAST_IDLE_DEADLINE;
            if !self.live.iter().any(|live| !live.task.is_finished() && (patient || live.busy.is_served())) {
                return;
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for live in &self.live {
            live.task.abort();
        }
    }
}

/// Answers the one request of a connection.
pub(super) async fn answer<S>(stream: S, router: Router, peer: Option<Peer>, busy: Busy)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let known = busy.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            known.serve();
            request.extensions_mut().insert(peer);
        }
        request.extensions_mut().insert(known.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = match tokio::time::timeout(WHOLE_DEADLINE, &mut connection).await {
        Ok(ended) => ended,
        Err(_) if busy.is_streaming() => connection.await,
        Err(_) => {
            tracing::debug!("a connection was cut at its deadline");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %crate::explain(&error), "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_longest_without_a_request_makes_room_and_who_is_served_stays() {
        let mut connections = Connections::new(2);
        let alive = Arc::new(AtomicBool::new(true));
        let held = Arc::clone(&alive);
        connections.add(|busy| async move {
            busy.serve();
            std::future::pending::<()>().await;
            drop(held);
        });
        tokio::task::yield_now().await;
        for _ in 0..50 {
            connections.add(|_| std::future::pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(connections.live.len(), 2);
        assert_eq!(Arc::strong_count(&alive), 2, "the one that is served was not cut");
        // All are served: the newest is refused.
        connections.add(|busy| async move {
            busy.serve();
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        let last = connections.live.back().map(|live| live.task.id());
        connections.add(|_| std::future::pending());
        assert_eq!(connections.live.back().map(|live| live.task.id()), last);
        drop(connections);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
