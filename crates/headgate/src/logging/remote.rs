//! Between whoever logs, on any thread, and the task that sends the log elsewhere: a queue with an end, in which nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::record::Record;

/// Records that wait at most, of at most [`super::record::RECORD_MAX`] bytes each.
const WAITING: usize = 1024;

#[derive(Debug, Default)]
struct Gate {
    closed: AtomicBool,
    lost: AtomicU64,
}

/// The end into which the process logs.
#[derive(Debug)]
pub(super) struct Tap {
    gate: Arc<Gate>,
    queue: Sender<Record>,
}

/// The end from which the records are sent. Without it they are not even made.
#[derive(Debug)]
pub struct Records {
    gate: Arc<Gate>,
    queue: Receiver<Record>,
    /// The first one, until it is sent.
    first: Option<Record>,
}

/// Both ends. It is open: what is logged before the configuration says where to is kept until then.
pub(super) fn queue() -> (Tap, Records) {
    let (sender, receiver) = channel(WAITING);
    let gate = Arc::new(Gate::default());
    (Tap { gate: Arc::clone(&gate), queue: sender }, Records { gate, queue: receiver, first: None })
}

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if self.gate.closed.load(Ordering::Relaxed) {
            return;
        }
        match self.queue.try_reserve() {
            Ok(room) => room.send(Record::new(event)),
            Err(TrySendError::Full(_)) => drop(self.gate.lost.fetch_add(1, Ordering::Relaxed)),
            Err(TrySendError::Closed(_)) => self.gate.closed.store(true, Ordering::Relaxed),
        }
    }
}

impl Records {
    /// From now on records are made and kept.
    pub fn open(&mut self) {
        self.gate.closed.store(false, Ordering::Relaxed);
    }

    /// From now on none are, and those that wait are forgotten.
    pub fn shut(&mut self) {
        self.gate.closed.store(true, Ordering::Relaxed);
        self.first = None;
        while self.queue.try_recv().is_ok() {}
        self.take_lost();
    }

    /// No more come: [`Records::first`] ends with those that wait.
    pub fn end(&mut self) {
        self.queue.close();
    }

    /// The one to be sent next, once there is one; it stays the first until [`Records::sent`]. `None`: there will be none.
    pub async fn first(&mut self) -> Option<&Record> {
        if self.first.is_none() {
            self.first = self.queue.recv().await;
        }
        self.first.as_ref()
    }

    /// The first one is on its way.
    pub fn sent(&mut self) {
        self.first = None;
    }

    /// How many found no room since this was asked last.
    pub fn take_lost(&mut self) -> u64 {
        self.gate.lost.swap(0, Ordering::Relaxed)
    }
}
