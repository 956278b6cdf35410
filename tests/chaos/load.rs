//! Clients: connections that are kept and talk all the time, and connections that come and go.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use headgate_tests::lab::Lab;
use headgate_tests::server::{Answer, Connection, ask_udp_here};

/// Kept connections for each address.
const KEPT: usize = 20;
const STEADY: [(&str, char); 2] = [("172.16.1.1:80", 's'), ("[2001:db8:1::1]:80", 'x')];
const CHURN: (&str, char) = ("172.16.1.2:80", 'c');
const CHURNING: [&str; 3] = ["c11", "c12", "c13"];
const WORDS: &str = "still there";
/// An answer on a kept connection: TCP asks again 0.2, 0.4, 0.8 … s after a link was down, and the machine is busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// Is this a server of the farm whose servers begin with `initial`?
fn belongs(answer: &Answer, initial: char) -> bool {
    answer.server.starts_with(initial)
}

/// Connections that nobody but a fault may end; a thread talks on them all the time.
pub(crate) struct Steady {
    flows: Arc<Mutex<Vec<Kept>>>,
    lost: Arc<AtomicU64>,
    wrong: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Kept {
    target: usize,
    connection: Connection,
}

impl Steady {
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        let (flows, lost, wrong, stop) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let mut steady = Self { flows, lost, wrong, stop, thread: None };
        steady.refill(lab)?;
        let (flows, lost, stop) = (steady.flows.clone(), steady.lost.clone(), steady.stop.clone());
        steady.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                speak(&flows, &lost);
                std::thread::sleep(Duration::from_millis(50));
            }
        }));
        Ok(steady)
    }

    /// Opens what is missing.
    pub(crate) fn refill(&mut self, lab: &Lab) -> Result<()> {
        let mut flows = self.flows.lock().unwrap();
        for (target, (to, initial)) in STEADY.into_iter().enumerate() {
            for _ in flows.iter().filter(|kept| kept.target == target).count()..KEPT {
                let connection = Connection::open(&lab.client, address(to))??;
                if !belongs(&connection.answer, initial) {
                    self.wrong.fetch_add(1, Ordering::Relaxed);
                }
                flows.push(Kept { target, connection });
            }
        }
        Ok(())
    }

    /// Talks on each once more; how many were lost since the last time.
    pub(crate) fn check(&self) -> usize {
        speak(&self.flows, &self.lost);
        usize::try_from(self.lost.swap(0, Ordering::Relaxed)).unwrap()
    }

    /// Connections that began with a server of another farm.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }
}

fn speak(flows: &Mutex<Vec<Kept>>, lost: &AtomicU64) {
    let mut flows = flows.lock().unwrap();
    let mut ended = Vec::new();
    let said: Vec<io::Result<()>> = flows.iter_mut().map(|kept| kept.connection.say(WORDS)).collect();
    // All together have the time of one: a fault may silence all of them.
    let until = Instant::now() + PATIENCE;
    let mut said = said.into_iter();
    let mut answer = |connection: &mut Connection| {
        said.next().expect("each was spoken to")?;
        connection.be_patient(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(10)))?;
        connection.hear(WORDS)
    };
    flows.retain_mut(|kept| match answer(&mut kept.connection) {
        Ok(()) => true,
        Err(error) => {
            let (to, server) = (STEADY[kept.target].0, &kept.connection.answer.server);
            ended.push(format!("a connection to {to}, at {server}, ended: {error}"));
            false
        }
    });
    if let Some(first) = ended.first() {
        println!("{first}, and {} more", ended.len() - 1);
    }
    lost.fetch_add(ended.len() as u64, Ordering::Relaxed);
}

impl Steady {
    /// Stops talking, and ends the connections.
    pub(crate) fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.end();
    }
}

/// What became of connections and questions.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    /// Refused, cut or without an answer: what a fault may do to those that come while it lasts.
    pub(crate) failed: u64,
    /// Answered by a server that is not the farm's, or that takes no new flows.
    pub(crate) wrong: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.wrong += other.wrong;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, failed, wrong } = self;
        write!(formatter, "{answered} answered, {failed} failed, {wrong} wrong")
    }
}

fn count(tally: &mut Tally, answer: io::Result<Answer>, drained: Option<(&str, Instant)>, began: Instant) {
    let Ok(answer) = answer else {
        tally.failed += 1;
        return;
    };
    let is_drained = drained.is_some_and(|(name, since)| name == answer.server && began > since);
    match belongs(&answer, CHURN.1) && !is_drained {
        true => tally.answered += 1,
        false => tally.wrong += 1,
    }
}

/// Do new connections reach all servers that come and go, and does none fail?
pub(crate) fn serves_everywhere(lab: &Lab) -> bool {
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        match Connection::open(&lab.client, address(CHURN.0)) {
            Ok(Ok(connection)) => seen.insert(connection.answer.server),
            Ok(Err(_)) | Err(_) => return false,
        };
        if CHURNING.iter().all(|name| seen.contains(*name)) {
            return true;
        }
    }
    false
}

/// Connections and questions that come and go.
pub(crate) struct Churn {
    tally: Arc<Mutex<Tally>>,
    /// A server that shall get nothing new from now on.
    drained: Arc<Mutex<Option<(&'static str, Instant)>>>,
    /// What each thread has had an answer to, or waited for in vain.
    asked: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Churn {
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        let (tally, drained, stop) = (Arc::default(), Arc::default(), Arc::default());
        let mut churn = Self { tally, drained, asked: Vec::new(), stop, threads: Vec::new() };
        let kinds: [fn(SocketAddr) -> io::Result<Answer>; 2] =
            [|to| Connection::open_here(to).map(|connection| connection.answer), ask_udp_here];
        for ask in kinds {
            let (tally, drained, stop) = (churn.tally.clone(), churn.drained.clone(), churn.stop.clone());
            let asked: Arc<AtomicU64> = Arc::default();
            churn.asked.push(asked.clone());
            let come_and_go = move || {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = ask(address(CHURN.0));
                    count(&mut tally.lock().unwrap(), answer, *drained.lock().unwrap(), began);
                    asked.fetch_add(1, Ordering::Release);
                    std::thread::sleep(Duration::from_millis(5));
                }
            };
            // A thread begins in the network namespace of the one that starts it.
            churn.threads.push(lab.client.within(|| std::thread::spawn(come_and_go))?);
        }
        Ok(churn)
    }

    /// From now on, until it is told otherwise, an answer from this server to a flow that begins is wrong.
    pub(crate) fn shall_avoid(&self, server: Option<&'static str>) {
        *self.drained.lock().unwrap() = server.map(|name| (name, Instant::now()));
    }

    /// What happened since the last time, up to all that has been asked by now.
    pub(crate) fn rest(&self) -> Tally {
        let now: Vec<u64> = self.asked.iter().map(|asked| asked.load(Ordering::Acquire)).collect();
        while self.asked.iter().zip(&now).any(|(asked, then)| asked.load(Ordering::Acquire) == *then) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.take()
    }

    fn take(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap())
    }

    /// Stops; what happened since the last time.
    pub(crate) fn end(&mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.take()
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
