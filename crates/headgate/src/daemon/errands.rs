//! What a thread behind the fence has somebody else do: start a program, read or write a file.
//!
//! A fence is for good, and children inherit it. So programs are started, and files opened, by the thread that signals and services
//! are for, which has none. Only what is written here in the source can be asked for, with the configuration's own words: no
//! request of a stranger names a program or a path.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Whoever has this can send the thread on errands that made it.
#[derive(Debug, Clone)]
pub struct Errands {
    thread: Handle,
    /// Each errand listens, for as long as it is under way.
    under_way: Arc<watch::Sender<()>>,
}

/// One that is under way; dropped, it is given up.
#[derive(Debug)]
pub struct Errand<T>(JoinHandle<Option<T>>);

impl Errands {
    /// For the calling thread, which runs an event queue.
    pub fn here() -> Self {
        Self { thread: Handle::current(), under_way: Arc::new(watch::Sender::new(())) }
    }

    /// Has a future run there.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Errand<T> {
        self.send(async { Some(work.await) })
    }

    /// Has something done that blocks. Given up, it is done all the same.
    pub fn block<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Errand<T> {
        // The thread for it is made by who asks for one: not before it is there, or it would have the fence, too.
        self.send(async { tokio::task::spawn_blocking(work).await.ok() })
    }

    fn send<T: Send + 'static>(&self, work: impl Future<Output = Option<T>> + Send + 'static) -> Errand<T> {
        let under_way = self.under_way.subscribe();
        Errand(self.thread.spawn(async move {
            // Dropped behind the work.
            let _under_way = under_way;
            work.await
        }))
    }

    /// Waits until none is under way, those included that were given up.
    pub async fn done(&self) {
        self.under_way.closed().await;
    }
}

/// `None`: the daemon goes down.
impl<T> Future for Errand<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(context).map(|done| done.ok().flatten())
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// Another thread, with an event queue of its own.
    fn elsewhere<T: Send>(work: impl Future<Output = T> + Send) -> T {
        let queue = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::scope(|scope| scope.spawn(|| queue.block_on(work)).join().unwrap())
    }

    /// Says so when it is dropped.
    struct Ends(Arc<AtomicBool>);

    impl Drop for Ends {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(20));
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn errands_are_done_by_who_is_sent_and_end_with_who_waits() {
        let errands = Errands::here();
        let here = std::thread::current().id();
        let ended = Arc::new(AtomicBool::new(false));
        let (sent, seen) = (errands.clone(), Arc::clone(&ended));
        let asker = tokio::task::spawn_blocking(move || {
            elsewhere(async move {
                assert_eq!(sent.run(async { std::thread::current().id() }).await, Some(here));
                assert_eq!(sent.block(|| 7).await, Some(7));
                let ends = Ends(seen);
                let given_up = sent.run(async move {
                    let _ends = ends;
                    std::future::pending::<()>().await;
                });
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(given_up);
                sent.done().await;
            });
        });
        asker.await.unwrap();
        assert!(ended.load(Ordering::SeqCst), "what was given up has ended when it is said to have");
    }
}
