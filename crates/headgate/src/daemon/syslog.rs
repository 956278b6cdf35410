//! `[system] syslog`: the log, sent elsewhere as well.
//!
//! A task of its own takes what waits in [`Records`] and waits for the network itself, so that nobody who logs does. While the receiver is
//! away lines wait; those that find no room are counted, and the count is said when there is room again. Over UDP a lost datagram is nobody's
//! to know, except where the other machine answers that nobody listens.

mod link;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headgate_config::model::{Syslog, System};
use headgate_plan::status;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::link::{Link, LinkError};
use crate::logging::remote::Records;

/// The pause before a receiver that is away is tried again, and what it grows to.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the last lines have when the daemon ends.
const LAST: Duration = Duration::from_secs(1);

/// How it goes, for `status` and the metrics.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    to: Option<Syslog>,
    /// Why it is away, and since when.
    away: Option<(String, Instant)>,
    sent: u64,
    lost: u64,
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the words of the status; `None` when the log stays here.
    pub fn told(&self) -> Option<status::Syslog> {
        let seen = self.seen();
        let since = |(_, since): &(String, Instant)| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(status::Syslog {
            to: seen.to?.to_string(),
            error: seen.away.as_ref().map(|(error, _)| error.clone()),
            since_ms: seen.away.as_ref().map(since),
            sent: seen.sent,
            lost: seen.lost,
        })
    }
}

/// The task that sends.
#[derive(Debug)]
pub struct Delivery {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    board: Board,
}

impl Delivery {
    /// Begins to send in the thread of `queue`, to wherever the configuration says from now on.
    pub fn begin(records: Records, system: watch::Receiver<System>, board: Board, queue: &Handle) -> Self {
        let (stop, stopped) = oneshot::channel();
        let carrier = Carrier { records, board: board.clone(), stopped: Some(stopped), unsaid: 0 };
        Self { stop, task: queue.spawn(carrier.run(system)), board }
    }

    /// Sends what waits, if the receiver takes it, and ends.
    pub async fn end(mut self) {
        drop(self.stop);
        let patience = if self.board.seen().away.is_some() { Duration::ZERO } else { LAST };
        if timeout(patience, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

struct Carrier {
    records: Records,
    board: Board,
    /// Ends when the daemon does; `None` once it has.
    stopped: Option<oneshot::Receiver<()>>,
    /// Lost, and not said yet.
    unsaid: u64,
}

impl Carrier {
    async fn run(mut self, mut system: watch::Receiver<System>) {
        loop {
            let to = system.borrow_and_update().syslog;
            *self.board.seen() = Seen { to, ..Seen::default() };
            match to {
                Some(_) => self.records.open(),
                None => self.records.shut(),
            }
            tokio::select! {
                () = self.deliver(to) => return,
                other = system.wait_for(|system| system.syslog != to) => if other.is_err() { return },
            }
        }
    }

    /// Until there are no more records.
    async fn deliver(&mut self, to: Option<Syslog>) {
        let Some(to) = to else { return stopped(&mut self.stopped).await };
        let mut pause = PAUSE;
        loop {
            let done = match Link::open(to).await {
                Ok(mut link) => self.feed(&mut link, &mut pause).await,
                Err(error) => Err(error),
            };
            let Err(error) = done else { return };
            self.is_away(to, &error);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Until there are no more records, or the link breaks. A record stays the first until it is sent.
    async fn feed(&mut self, link: &mut Link, pause: &mut Duration) -> Result<(), LinkError> {
        let mut proven = link.tells_when_it_opens();
        if proven {
            self.is_back(pause);
        }
        loop {
            let record = tokio::select! {
                biased;
                error = link.broken() => return Err(self.refused(link, error)),
                record = self.records.first() => record,
                () = stopped(&mut self.stopped) => {
                    self.records.end();
                    continue;
                }
            };
            let Some(record) = record else { return Ok(()) };
            let bytes = record.bytes(&host(), std::process::id());
            link.send(&bytes).await.map_err(|error| if proven { self.refused(link, error) } else { error })?;
            if !proven {
                link.confirm().await?;
                proven = true;
                self.is_back(pause);
            }
            self.records.sent();
            self.board.seen().sent += 1;
            self.tell_lost();
        }
    }

    /// What is refused of datagrams is the one before, which is lost; what a stream had not delivered nobody knows.
    fn refused(&mut self, link: &Link, error: LinkError) -> LinkError {
        let was_sent = self.board.seen().sent > 0;
        self.unsaid += u64::from(was_sent && !link.tells_when_it_opens());
        error
    }

    fn is_away(&mut self, to: Syslog, error: &LinkError) {
        let why = crate::explain(error);
        let away = self.board.seen().away.replace((why.clone(), Instant::now()));
        match away {
            None => tracing::warn!(%to, reason = why, "the receiver of the log is away; lines wait for it"),
            // It is away since the first time.
            Some((_, since)) => self.board.seen().away = Some((why, since)),
        }
    }

    fn is_back(&mut self, pause: &mut Duration) {
        *pause = PAUSE;
        let away = self.board.seen().away.take();
        if let Some((_, since)) = away {
            tracing::info!(seconds = since.elapsed().as_secs(), "the receiver of the log is back");
        }
    }

    /// Says how many were lost. By way of the log itself, so that both places have it; should there be no room for that either, it is
    /// counted again.
    fn tell_lost(&mut self) {
        self.unsaid += self.records.take_lost();
        if self.unsaid > 0 {
            let lost = std::mem::take(&mut self.unsaid);
            self.board.seen().lost += lost;
            tracing::warn!(lost, "lines of the log did not get to their receiver");
        }
    }
}

/// Until the daemon ends, once.
async fn stopped(stop: &mut Option<oneshot::Receiver<()>>) {
    match stop.as_mut() {
        Some(until) => {
            let _ = until.await;
            *stop = None;
        }
        None => std::future::pending().await,
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
