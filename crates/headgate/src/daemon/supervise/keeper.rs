//! The life of one service: wait for those before it, run, decide, back off, run again, until something else is wanted.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headgate_config::model::{Ready, Restart, Service};
use headgate_config::types::ServiceName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::instance::Instance;
use super::ledger::{Ledger, Named};
use super::policy::{Exit, Next, decide};
use crate::service::ServiceState;

/// How long a service waits for one that it comes `after` to be up; then it starts all the same. A box whose ssh waits for ever for a
/// broken exporter would be worse than one that starts it too early.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two attempts to reach a service, and what it grows to; how long one attempt may take.
const READY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const READY_ATTEMPT: Duration = Duration::from_secs(1);

/// What a keeper is to bring about.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Run(Arc<Run>),
    /// Once those that depend on it are stopped.
    Stop(Vec<watch::Receiver<Report>>),
}

/// A service and what it waits for.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) service: Service,
    pub(super) after: Vec<(ServiceName, watch::Receiver<Report>)>,
    /// Set when it waits for the network.
    pub(super) network: Option<watch::Receiver<bool>>,
}

/// What a keeper tells: the status without the figures of its processes.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) state: ServiceState,
    pub(super) reason: Option<String>,
    pub(super) pid: Option<i32>,
    /// Milliseconds since 1970.
    pub(super) since: u64,
    pub(super) restarts: u64,
    pub(super) last_exit: Option<String>,
    /// Milliseconds since 1970.
    pub(super) next_start: Option<u64>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            state: ServiceState::Waiting,
            reason: None,
            pid: None,
            since: unix_ms(),
            restarts: 0,
            last_exit: None,
            next_start: None,
        }
    }

    /// Whether those after it may start; `None`: not yet.
    fn lets_others_start(&self) -> Option<bool> {
        match self.state {
            ServiceState::Up | ServiceState::Done => Some(true),
            ServiceState::Failed if self.next_start.is_none() => Some(false),
            ServiceState::Stopped => Some(false),
            _ => None,
        }
    }
}

/// What all keepers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ledger: Mutex<Ledger>,
    /// True once nothing of a supervisor before us is left.
    pub(super) alone: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no code panics while it holds the ledger")
    }
}

/// Something else is wanted: leave what you are doing.
struct Changed;

/// The task of one service.
pub(super) struct Keeper {
    pub(super) name: ServiceName,
    pub(super) shared: Arc<Shared>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) report: watch::Sender<Report>,
    /// Short runs in a row.
    attempts: u32,
    started_before: bool,
}

impl Keeper {
    pub(super) fn new(
        name: ServiceName,
        shared: Arc<Shared>,
        wanted: watch::Receiver<Wanted>,
        report: watch::Sender<Report>,
    ) -> Self {
        Self { name, shared, wanted, report, attempts: 0, started_before: false }
    }

    /// Until the supervisor drops its end of `wanted`.
    pub(super) async fn keep(mut self) {
        let mut alone = self.shared.alone.clone();
        // Closed: nobody will ever sweep, so there is nothing to wait for.
        let _ = alone.wait_for(|alone| *alone).await;
        while self.wanted.has_changed().is_ok() {
            let wanted = self.wanted.borrow_and_update().clone();
            match wanted {
                Wanted::Run(run) => {
                    let Err(Changed) = self.run(&run).await else { continue };
                }
                Wanted::Stop(_) => {
                    self.set(ServiceState::Stopped, None);
                    let _ = self.wanted.changed().await;
                }
            }
        }
    }

    /// One run and what follows it: `Ok` when it is time for the next one. No process is left in either case.
    async fn run(&mut self, run: &Run) -> Result<(), Changed> {
        self.wait_for_others(run).await?;
        let (exit, uptime) = match self.start(&run.service) {
            Ok(instance) => self.attend(instance, run).await?,
            Err(exit) => (exit, Duration::ZERO),
        };
        // The policy may have changed during the run.
        let service = match &*self.wanted.borrow() {
            Wanted::Run(run) => run.service.clone(),
            Wanted::Stop(_) => return Err(Changed),
        };
        self.settle(&service, &exit, uptime).await
    }

    async fn wait_for_others(&mut self, run: &Run) -> Result<(), Changed> {
        if let Some(mut network) = run.network.clone() {
            self.wait(format!("waits for {NETWORK}"), async move { drop(network.wait_for(|up| *up).await) }).await?;
        }
        let deadline = Instant::now() + PATIENCE;
        for (name, report) in &run.after {
            let mut report = report.clone();
            let settled = async move {
                match report.wait_for(|report| report.lets_others_start().is_some()).await {
                    Ok(report) => report.lets_others_start() == Some(true),
                    Err(_) => false,
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match self.wait(format!("waits for {name}"), timeout(left, settled)).await? {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(service = %self.name, after = %name, "starts although the service before it does not run")
                }
                Err(_) => {
                    tracing::warn!(service = %self.name, after = %name, "starts although the service before it is not up after {PATIENCE:?}")
                }
            }
        }
        Ok(())
    }

    /// Waits in the open: `status` shows for what, and a change of plan ends it.
    async fn wait<T>(&mut self, reason: String, what: impl Future<Output = T>) -> Result<T, Changed> {
        tokio::pin!(what);
        // What is there already is not worth a state.
        if let Some(done) = futures_now(what.as_mut()).await {
            return Ok(done);
        }
        self.set(ServiceState::Waiting, Some(reason));
        tokio::select! {
            done = what => Ok(done),
            _ = self.wanted.changed() => Err(Changed),
        }
    }

    fn start(&mut self, service: &Service) -> Result<Instance, Exit> {
        if std::mem::replace(&mut self.started_before, true) {
            self.report.send_modify(|report| report.restarts += 1);
        }
        let mark = self.shared.ledger().mark(&self.name);
        match Instance::spawn(service, &mark) {
            Ok(instance) => {
                let leader = Named { pid: instance.pid(), start: instance.start };
                self.shared.ledger().add(&self.name, leader, service.stop_timeout);
                self.report.send_modify(|report| report.pid = Some(instance.pid()));
                tracing::info!(service = %self.name, pid = instance.pid(), "started");
                Ok(instance)
            }
            Err(error) => Err(Exit::NotStarted(crate::explain(&error))),
        }
    }

    /// Stays with a running service: until it ends by itself, or has been stopped because something else is wanted.
    async fn attend(&mut self, instance: Instance, run: &Run) -> Result<(Exit, Duration), Changed> {
        let mut service = run.service.clone();
        let mut up = false;
        self.set(ServiceState::Starting, service.ready.map(|Ready::Tcp(address)| format!("waits for tcp {address}")));
        loop {
            tokio::select! {
                () = instance.ended() => {
                    let uptime = instance.uptime();
                    let exit = self.end(instance, &service).await;
                    return Ok((exit, uptime));
                }
                () = answers(service.ready), if !up => {
                    up = true;
                    self.set(ServiceState::Up, None);
                    if service.ready.is_some() {
                        tracing::info!(service = %self.name, pid = instance.pid(), "answers");
                    }
                }
                _ = self.wanted.changed() => {
                    let wanted = self.wanted.borrow().clone();
                    match wanted {
                        // What only says how to treat it is taken over in passing.
                        Wanted::Run(new) if new.service.command == service.command => {
                            up = up && new.service.ready == service.ready;
                            service = new.service.clone();
                        }
                        Wanted::Run(_) => {}
                        Wanted::Stop(dependents) => stopped(dependents).await,
                    }
                    if self.must_go(&service) {
                        self.end(instance, &service).await;
                        self.attempts = 0;
                        return Err(Changed);
                    }
                }
            }
        }
    }

    fn must_go(&self, service: &Service) -> bool {
        match &*self.wanted.borrow() {
            Wanted::Run(run) => run.service.command != service.command || self.wanted.has_changed().is_err(),
            Wanted::Stop(_) => true,
        }
    }

    /// Ends a run and all that it left behind.
    async fn end(&mut self, instance: Instance, service: &Service) -> Exit {
        self.set(ServiceState::Stopping, None);
        let pid = instance.pid();
        let exit = instance.stop(service.stop_timeout).await;
        self.shared.ledger().remove(&self.name);
        let exit = exit.unwrap_or_else(|| Exit::NotStarted(format!("process {pid} does not go even after SIGKILL")));
        tracing::info!(service = %self.name, pid, %exit, "ended");
        self.report.send_modify(|report| {
            report.pid = None;
            report.last_exit = Some(exit.to_string());
        });
        exit
    }

    /// After a run: waits for the time of the next one, or for another wish.
    async fn settle(&mut self, service: &Service, exit: &Exit, uptime: Duration) -> Result<(), Changed> {
        let not_started = match exit {
            Exit::NotStarted(reason) => Some(reason.clone()),
            Exit::Code(_) | Exit::Signal(_) => None,
        };
        match decide(service.restart, service.backoff, exit, uptime, self.attempts) {
            Next::Done => self.set(ServiceState::Done, None),
            Next::Failed => {
                let reason = not_started.unwrap_or_else(|| exit.to_string());
                tracing::error!(service = %self.name, %reason, "failed; it is not started again (restart = \"never\")");
                self.set(ServiceState::Failed, Some(reason));
            }
            Next::Restart { delay, attempts } => {
                self.attempts = attempts;
                tracing::warn!(service = %self.name, %exit, ?uptime, ?delay, "is started again after a pause");
                let state = if not_started.is_some() { ServiceState::Failed } else { ServiceState::BackingOff };
                let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                self.set(state, Some(not_started.unwrap_or_else(|| exit.to_string())));
                self.report.send_modify(|report| report.next_start = Some(report.since.saturating_add(millis)));
                return tokio::select! {
                    () = sleep(delay) => Ok(()),
                    _ = self.wanted.changed() => Err(Changed),
                };
            }
        }
        debug_assert!(service.restart != Restart::Always, "a service that is always started again never settles");
        let _ = self.wanted.changed().await;
        Err(Changed)
    }

    fn set(&self, state: ServiceState, reason: Option<String>) {
        self.report.send_modify(|report| {
            report.state = state;
            report.reason = reason;
            report.since = unix_ms();
            report.next_start = None;
        });
    }
}

/// The word in `after` that means the network step.
pub(super) const NETWORK: &str = "network";

/// Returns when the service answers; at once when nothing must answer.
async fn answers(ready: Option<Ready>) {
    let Some(Ready::Tcp(address)) = ready else { return };
    let mut pause = READY_PAUSE.0;
    while !matches!(timeout(READY_ATTEMPT, TcpStream::connect(address)).await, Ok(Ok(_))) {
        sleep(pause).await;
        pause = (pause * 2).min(READY_PAUSE.1);
    }
}

/// Returns when all of them are stopped, or their keepers are gone.
async fn stopped(reports: Vec<watch::Receiver<Report>>) {
    for mut report in reports {
        let _ = report.wait_for(|report| report.state == ServiceState::Stopped).await;
    }
}

/// The value of a future that is ready at the first look.
async fn futures_now<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Now, milliseconds since 1970.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
