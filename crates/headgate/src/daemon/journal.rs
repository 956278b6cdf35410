//! `log`: what the kernel tells of new flows and refused packets, as lines of our own log.
//!
//! The group is listened to only while some farm logs. Rules hold a rate of their own, so the kernel builds few messages; here
//! all farms share another, so that a thousand farms do not fill a disk. What was left out is counted and said.

use std::time::Duration;

use headgate_host::packet_log::{Heard, PacketLog, Told};
use headgate_plan::logged::Logged;
use headgate_plan::names::LOG_GROUP;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use super::engine::{Engine, Handle};

/// Lines in a second, of all farms together.
const LINES: u32 = 100;
/// How often it is said what was left out; also the pause before the group is tried again.
const PERIOD: Duration = Duration::from_secs(10);

/// Who a line is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whose {
    /// The farm; its id when nobody has that name any more.
    pub farm: String,
    /// The backend of a new flow.
    pub backend: Option<String>,
}

/// Listens while `wanted`, until the engine is gone.
pub async fn run(engine: Handle, mut wanted: watch::Receiver<bool>) {
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let open = PacketLog::open(LOG_GROUP).map_err(|error| crate::explain(&error));
        let opened = open.and_then(|log| {
            // SAFETY: the descriptor is the log's own from its opening to its end, and the log moves into the `AsyncFd`.
            let registered = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) };
            registered.map_err(|error| error.to_string())
        });
        match opened {
            Ok(log) => listen(&engine, log, &mut wanted).await,
            Err(error) => {
                tracing::warn!(error, "nothing of what farms log is heard");
                tokio::time::sleep(PERIOD).await;
            }
        }
        if wanted.has_changed().is_err() {
            return;
        }
    }
}

/// Until nobody logs any more.
async fn listen(engine: &Handle, mut log: AsyncFd<PacketLog>, wanted: &mut watch::Receiver<bool>) {
    let mut allowance = Allowance::new(Instant::now());
    let mut tick = tokio::time::interval(PERIOD);
    tracing::debug!("listening to what farms log");
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() || !*wanted.borrow() { break },
            _ = tick.tick() => allowance.confess(),
            ready = log.readable_mut() => {
                let Ok(mut ready) = ready else { break };
                match ready.get_inner_mut().receive() {
                    Ok(Heard::Packets(told)) if told.is_empty() => ready.clear_ready(),
                    Ok(Heard::Packets(told)) => tell(engine, told, &mut allowance).await,
                    Ok(Heard::Lost) => allowance.lost += 1,
                    Err(error) => {
                        tracing::warn!(%error, "nothing of what farms log is heard any more");
                        break;
                    }
                }
            }
        }
    }
    allowance.confess();
}

async fn tell(engine: &Handle, told: Vec<Told>, allowance: &mut Allowance) {
    let read = told.into_iter().filter_map(|told| Some((Logged::parse(&told.prefix)?, told)));
    let now = Instant::now();
    let lines: Vec<(Logged, Told)> = read.filter(|_| allowance.takes(now)).collect();
    if lines.is_empty() {
        return;
    }
    let asked: Vec<Logged> = lines.iter().map(|(logged, _)| *logged).collect();
    let Ok(whose) = engine.call(move |engine: &mut Engine| engine.whose(&asked)).await else { return };
    for ((logged, told), whose) in lines.iter().zip(whose) {
        line(*logged, told, &whose);
    }
}

fn line(logged: Logged, told: &Told, whose: &Whose) {
    let (client, destination) = (end(told.source), end(told.destination));
    let protocol = super::engine::protocol(told.protocol);
    let farm = &whose.farm;
    match logged {
        Logged::New(_) | Logged::Local(_) => {
            let backend = whose.backend.as_deref();
            tracing::info!(farm, backend, client, destination, protocol, "new flow");
        }
        Logged::Denied(_, reason) => {
            tracing::info!(farm, reason = reason.word(), client, destination, protocol, "denied");
        }
        Logged::Over(_, reason) => {
            tracing::info!(farm, reason = reason.word(), client, destination, protocol, "over its limit, not denied");
        }
    }
}

/// An address, with its port where there is one.
fn end((address, port): (std::net::IpAddr, u16)) -> String {
    match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    }
}

/// What may be said, and what was not.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
    silenced: u64,
    /// How often the kernel threw messages away because the daemon was slow.
    lost: u64,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: LINES, since: now, silenced: 0, lost: 0 }
    }

    fn takes(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.left, self.since) = (LINES, now);
        }
        let takes = self.left > 0;
        if takes {
            self.left -= 1
        } else {
            self.silenced += 1
        }
        takes
    }

    fn confess(&mut self) {
        let (silenced, lost) = (std::mem::take(&mut self.silenced), std::mem::take(&mut self.lost));
        if silenced > 0 {
            tracing::warn!(lines = silenced, "more flows and refusals were to be logged than are in a second");
        }
        if lost > 0 {
            tracing::warn!(
                times = lost,
                "the kernel had more to tell of flows and refusals than was read; some are missing"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_lines_in_a_second_and_the_rest_is_counted() {
        let mut allowance = Allowance::new(Instant::now());
        let taken = (0..LINES + 50).filter(|_| allowance.takes(Instant::now())).count();
        assert_eq!((taken, allowance.silenced), (LINES as usize, 50));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(allowance.takes(Instant::now()));
        allowance.confess();
        assert_eq!(allowance.silenced, 0);
    }

    #[test]
    fn an_end_has_a_port_where_its_protocol_has_one() {
        let six = "2001:db8::1".parse().expect("an address");
        assert_eq!((end((six, 0)).as_str(), end((six, 80)).as_str()), ("2001:db8::1", "[2001:db8::1]:80"));
    }
}
