//! `headgate trace`: what happens to single packets.
//!
//! The tables that mark packets are the socket's: the kernel removes them when it is closed, so nothing has to be cleaned up
//! on Ctrl-C, a crash or SIGKILL.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_nft::trace::{Event, Listener, Received, Step};
use headgate_nft::{Rule, Socket, TableId};
use headgate_plan::compile::Desired;
use headgate_plan::follow::{Follow, Scope, table_name};
use headgate_plan::maps::{self, Place};
use headgate_plan::names;
use headgate_plan::story::{Packets, Scene, tell};

use super::args::Trace;
use super::{Answer, CliError, plan};
use crate::steps::printable;

/// Why packets cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No socket.
    #[error("cannot listen to traces")]
    Open(#[from] headgate_nft::OpenError),
    /// The table that marks packets is refused.
    #[error("cannot mark packets to be traced")]
    Mark(#[from] headgate_nft::CommitError),
    /// The rules cannot be read.
    #[error("cannot read the rules that packets pass")]
    Rules(#[from] headgate_nft::DumpError),
    /// The socket failed.
    #[error("cannot receive traces")]
    Receive(#[source] io::Error),
}

pub(super) fn run(root: &Path, trace: &Trace) -> Result<Answer, CliError> {
    let (files, looked) = plan::look(root, trace.output)?;
    let name = &trace.name.farm;
    let farm = files.loaded.config.farms.get(name.as_str());
    let farm = farm.ok_or_else(|| CliError::Usage(format!("there is no farm {name:?} in the configuration")))?;
    let follow = Follow {
        farm,
        client: trace.client,
        scope: if trace.all { Scope::Packets } else { Scope::Openings },
        rate: trace.rate,
        table: table_name(std::process::id()),
        devices: devices(&looked.desired),
    };
    let mut tracer = Tracer::open(&follow).map_err(CliError::Trace)?;
    let links = looked.facts.links.iter().map(|(name, link)| (link.index, name.clone())).collect();
    if !trace.output.json {
        eprintln!("following packets to farm {name}; Ctrl-C ends");
    }
    let deadline = trace.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut told = 0;
    while trace.count.is_none_or(|count| told < count) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        for events in tracer.packets(deadline).map_err(CliError::Trace)? {
            let Tracer { rules, .. } = &tracer;
            let scene = Scene { farm, ids: &looked.desired.ids, rules, links: &links, table: &follow.table };
            let Some(story) = tell(&events, &scene).filter(|_| trace.count.is_none_or(|count| told < count)) else {
                continue;
            };
            told += 1;
            let line = match trace.output.json {
                true => serde_json::to_string(&story).map_err(CliError::Json)?,
                false => printable(&story.to_string()),
            };
            let mut out = io::stdout().lock();
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                // Whoever reads has seen enough.
                return Ok(Answer::good(""));
            }
        }
    }
    Ok(Answer { notes: tracer.notes(told), ..Answer::good("") })
}

/// Where packets of `dsr` farms are taken.
fn devices(desired: &Desired) -> BTreeSet<Arc<str>> {
    let table = |place: Place| desired.state.ruleset.tables.get(&place.table());
    let chains = Place::INGRESS.into_iter().filter_map(|place| table(place)?.chains.get(names::INGRESS)?.base.as_ref());
    chains.flat_map(|base| base.devices.iter().cloned()).collect()
}

/// The kernel's side.
struct Tracer {
    /// Owns the tables that mark packets; they go with it.
    socket: Socket,
    listener: Listener,
    table: Arc<str>,
    packets: Packets,
    begun: Instant,
    rules: BTreeMap<(TableId, u64), (Arc<str>, Rule)>,
    /// When the rules of a table were read.
    read: BTreeMap<TableId, Instant>,
    /// How often the kernel had more to tell than was taken.
    lost: usize,
}

impl Tracer {
    fn open(follow: &Follow<'_>) -> Result<Self, TraceError> {
        let mut tracer = Self {
            socket: Socket::open()?,
            listener: Listener::open()?,
            table: follow.table.clone(),
            packets: Packets::default(),
            begun: Instant::now(),
            rules: BTreeMap::new(),
            read: BTreeMap::new(),
            lost: 0,
        };
        for table in maps::tables() {
            tracer.learn(&table)?;
        }
        tracer.socket.own(&follow.ruleset())?;
        Ok(tracer)
    }

    /// Waits, a moment at most, for packets whose way has ended.
    fn packets(&mut self, deadline: Option<Instant>) -> Result<Vec<Vec<Event>>, TraceError> {
        const MOMENT: Duration = Duration::from_millis(100);
        let left = deadline.map_or(MOMENT, |deadline| deadline.saturating_duration_since(Instant::now()));
        let received = self.listener.receive(left.min(MOMENT)).map_err(TraceError::Receive)?;
        let now = self.begun.elapsed();
        let mut ended = Vec::new();
        match received {
            Received::Events(events) => {
                for event in events {
                    self.know(&event)?;
                    ended.extend(self.packets.push(event, &self.table, now));
                }
            }
            Received::Lost => self.lost += 1,
        }
        ended.extend(self.packets.lost(now));
        Ok(ended)
    }

    /// A rule that is not known was made since its table was read; handles are never given again.
    fn know(&mut self, event: &Event) -> Result<(), TraceError> {
        const SECOND: Duration = Duration::from_secs(1);
        let Step::Rule { handle, .. } = event.step else { return Ok(()) };
        let is_ours = maps::tables().contains(&event.table);
        if !is_ours || self.rules.contains_key(&(event.table.clone(), handle)) {
            return Ok(());
        }
        if self.read.get(&event.table).is_some_and(|read| read.elapsed() < SECOND) {
            return Ok(());
        }
        self.learn(&event.table)
    }

    fn learn(&mut self, table: &TableId) -> Result<(), TraceError> {
        let rules = self.socket.handles(table)?;
        self.rules.extend(rules.into_iter().map(|(handle, rule)| ((table.clone(), handle), rule)));
        self.read.insert(table.clone(), Instant::now());
        Ok(())
    }

    fn notes(&self, told: u64) -> Vec<String> {
        let packets = if told == 1 { "1 packet".to_owned() } else { format!("{told} packets") };
        let lost = (self.lost > 0).then(|| "some steps were lost: the kernel told more than was read".to_owned());
        [packets].into_iter().chain(lost).collect()
    }
}
