//! New flows follow the numbers of flows: what of it needs the configuration and the ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Farm, Mode, Scheduler};
use headgate_host::conntrack::{Conntrack, Loads, Select};
use headgate_host::{Host, HostError};
use headgate_plan::compile::cap::{self, Tokens};
use headgate_plan::credit::{self, Fullness};
use headgate_plan::maps::Map;
use headgate_plan::status::Counting;

use super::{Engine, Running};

/// How long the maxima of backends hold when nobody says again that they do, in periods, and at least.
const HOLD_PERIODS: u32 = 5;
const HOLD_LEAST: Duration = Duration::from_secs(15);
/// Between reading the counters of tokens and counting flows: a packet that has taken its token is a flow that can be counted
/// when it has left the box, microseconds later.
const SETTLE: Duration = Duration::from_millis(5);

/// What has to be counted, and what was read before.
#[derive(Debug)]
pub struct Count {
    select: Select,
    /// The tokens of backends with a maximum, before the flows are counted.
    tokens: BTreeMap<u32, Given>,
    /// Tokens were handed out so many times.
    round: u64,
}

impl Count {
    /// Counts. This takes a microsecond for each flow.
    ///
    /// # Errors
    /// The kernel's.
    pub fn loads(&self) -> Result<Loads, headgate_host::conntrack::ConntrackError> {
        if !self.tokens.is_empty() {
            std::thread::sleep(SETTLE);
        }
        Conntrack::open()?.loads(self.select)
    }
}

/// A count of flows.
#[derive(Debug)]
pub struct Counted {
    /// What was asked for.
    pub count: Count,
    /// Of the backends that it selects.
    pub loads: Loads,
    /// CPU time that it took.
    pub took: Duration,
    /// When the next one is.
    pub every: Duration,
}

/// The tokens of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    /// What its counter is called.
    comment: Option<Arc<str>>,
    /// What it was given last; 0: nothing.
    had: u32,
    /// What is left of that.
    left: u64,
}

impl Engine {
    /// What has to be counted; `None`: no farm is steered.
    pub fn steered(&mut self) -> Option<Count> {
        let running = self.running.as_ref()?;
        let farms = running.config.farms.values().filter(|farm| is_steered(farm));
        let select = Select::covering(farms.flat_map(|farm| running.desired.ids.marks_of(farm)))?;
        let capped = !maxima(running).is_empty();
        let tokens = if capped { given(&mut self.host) } else { Ok(BTreeMap::new()) };
        match tokens {
            Ok(tokens) => Some(Count { select, tokens, round: self.round }),
            Err(error) => {
                tracing::warn!(error = %crate::explain(&error), "tokens are not counted; max-connections ends soon");
                None
            }
        }
    }

    /// Steers at once: what was applied has a maximum that nobody has counted for yet.
    pub(super) fn steer_now(&mut self) {
        if self.running.as_ref().is_none_or(|running| maxima(running).is_empty()) {
            return;
        }
        let Some(count) = self.steered() else { return };
        match count.loads() {
            Ok(loads) => {
                let counted = Counted { count, loads, took: Duration::ZERO, every: Duration::from_secs(1) };
                self.balance(&counted);
            }
            Err(error) => tracing::warn!(error = %crate::explain(&error), "flows are not counted"),
        }
    }

    /// Moves the slots of all steered farms and hands out tokens, in one commit. A commit that is refused is left to the next
    /// comparison with the kernel, which is against what was wanted here.
    pub fn balance(&mut self, counted: &Counted) {
        // Tokens were handed out meanwhile, by a change of the configuration: this count knows nothing of them.
        if counted.count.round != self.round {
            return;
        }
        let Some(running) = &mut self.running else { return };
        let flows: BTreeMap<u32, u64> = counted.loads.iter().map(|(&mark, load)| (mark, load.active)).collect();
        let maxima = maxima(running);
        let flows_of = |mark: &u32| flows.get(mark).copied().unwrap_or(0);
        let desired = &mut running.desired;
        let is_full = |(mark, most): (&u32, &u32)| {
            let was = if desired.ids.is_full(*mark) { Fullness::Full } else { Fullness::Open };
            credit::is_full(*most, flows_of(mark), was)
        };
        let full: BTreeSet<u32> = maxima.iter().filter(|entry| is_full(*entry)).map(|(mark, _)| *mark).collect();
        let mut changes = Vec::new();
        let mut farms = 0;
        for farm in running.config.farms.values().filter(|farm| is_steered(farm)) {
            changes.extend(desired.context.steer(farm, &mut desired.ids, &flows, &full));
            farms += 1;
        }
        let tokens = tokens(&maxima, flows_of, &counted.count.tokens);
        let hold = (counted.every * HOLD_PERIODS).max(HOLD_LEAST);
        let capped: Vec<u32> = maxima.keys().copied().collect();
        changes.extend(cap::grant(&tokens, &capped, milliseconds(hold)));
        self.counting = (farms > 0).then(|| Counting {
            farms,
            flows: flows.values().sum(),
            took_ms: milliseconds(counted.took),
            every_ms: milliseconds(counted.every),
        });
        if changes.is_empty() {
            return;
        }
        self.round += 1;
        match self.host.commit_ruleset(&changes) {
            Ok(()) => tracing::debug!(changes = changes.len(), "new flows go where fewer are"),
            Err(error) => {
                tracing::info!(error = %crate::explain(&error), "slots were not moved; looking at everything");
                self.watch();
            }
        }
    }
}

/// What the backends have of tokens, by ct mark: the kernel knows, whoever gave them.
fn given(host: &mut Host) -> Result<BTreeMap<u32, Given>, HostError> {
    let caps = host.elements(Map::Caps)?.into_iter();
    let caps: BTreeMap<u32, u32> = caps.filter_map(|(key, cap)| Some((mark(&key.start)?, cap.limit?.burst))).collect();
    let counters = host.elements(Map::Admitted)?.into_iter().filter_map(|(key, counter)| {
        let mark = mark(&key.start)?;
        let had = caps.get(&mark).copied().unwrap_or(0);
        let taken = counter.counter.map_or(0, |counts| counts.packets);
        Some((mark, Given { comment: counter.comment, had, left: u64::from(had).saturating_sub(taken) }))
    });
    Ok(counters.collect())
}

/// The tokens of each backend with a maximum that is to have others than it has.
fn tokens(maxima: &BTreeMap<u32, u32>, flows_of: impl Fn(&u32) -> u64, given: &BTreeMap<u32, Given>) -> Vec<Tokens> {
    let tokens = maxima.iter().filter_map(|(&mark, &most)| {
        let Given { comment, had, left } = given.get(&mark)?;
        let gets = credit::next(most, flows_of(&mark), *left)?;
        (gets > 0 || *had > 0).then(|| Tokens { mark, comment: comment.clone(), had: *had, gets })
    });
    tokens.collect()
}

fn mark(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().map(u32::from_ne_bytes).ok()
}

/// The backends with a maximum, by ct mark.
fn maxima(running: &Running) -> BTreeMap<u32, u32> {
    let farms = running.config.farms.values().filter(|farm| is_carried(farm));
    let backends = farms.flat_map(|farm| farm.backends.values().map(move |backend| (farm, backend)));
    backends
        .filter_map(|(farm, backend)| {
            let most = backend.max_connections?;
            Some((running.desired.ids.mark(&farm.name, &backend.name)?, most))
        })
        .collect()
}

/// Its new flows depend on how many there are.
fn is_steered(farm: &Farm) -> bool {
    let has_maximum = || farm.backends.values().any(|backend| backend.max_connections.is_some());
    is_carried(farm) && (farm.scheduler == Scheduler::LeastConnections || has_maximum())
}

/// Its flows are in connection tracking, under its backends' marks.
fn is_carried(farm: &Farm) -> bool {
    matches!(farm.mode, Mode::Snat | Mode::Dnat) && farm.state != headgate_config::model::FarmState::Off
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
