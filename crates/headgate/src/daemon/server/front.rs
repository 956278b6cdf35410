//! All that listens, together: it can be closed without anybody being refused, and opened again.

use std::io;
use std::os::unix::net::UnixListener;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Api, listeners, serve};
use crate::daemon::engine::Listen;
use crate::daemon::handover;

/// See the module. Dropped, it takes what it serves along.
#[derive(Debug)]
pub struct Front {
    api: Api,
    listen: watch::Receiver<Listen>,
    /// Of the thread that serves.
    queue: Handle,
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Front {
    /// Serves what [`listen`](super::listen) has left open, and on the addresses that are wanted, in the thread of `queue`.
    ///
    /// # Errors
    /// The Unix socket cannot be used.
    pub fn open(mut api: Api, listen: watch::Receiver<Listen>, queue: Handle) -> io::Result<Self> {
        let there = queue.enter();
        let closing = watch::Sender::new(false);
        api.closing = closing.subscribe();
        let socket = api.kept.get(handover::API).ok_or(io::ErrorKind::NotFound)?;
        let socket = tokio::net::UnixListener::from_std(UnixListener::from(socket))?;
        let tasks =
            vec![tokio::spawn(listeners::run(listen.clone(), api.clone())), tokio::spawn(serve(socket, api.clone()))];
        drop(there);
        Ok(Self { api, listen, queue, closing, tasks })
    }

    /// Takes no more connections, and waits for those that are there, within bounds. Who comes from now on waits in the queue of
    /// the socket.
    pub async fn close(&mut self) {
        self.closing.send_replace(true);
        for task in self.tasks.drain(..) {
            // One that panicked has said so.
            let _ = task.await;
        }
    }

    /// Goes on after [`close`](Self::close).
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(self.api.clone(), self.listen.clone(), self.queue.clone())?;
        Ok(())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
