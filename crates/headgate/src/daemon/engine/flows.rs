//! `headgate connections`.

use std::collections::BTreeMap;

use headgate_config::types::{BackendName, FarmName};
use headgate_host::conntrack::{self, Conntrack, Ports, Select, Usage};
use headgate_plan::capacity::PortUse;
use headgate_plan::status::Counted;

use super::{Engine, EngineError};
use crate::api::{Connections, Flow, FlowQuery, Flushed};

/// Most flows in one answer: about 20 MB of JSON.
const LIMIT_MAX: usize = 100_000;
const LIMIT: usize = 1000;

type Names<'a> = BTreeMap<u32, (&'a FarmName, &'a BackendName)>;

impl Engine {
    /// Flows of a farm, of one backend of it, or of all.
    ///
    /// # Errors
    /// No such farm or backend, or the kernel's.
    pub fn connections(&self, query: &FlowQuery) -> Result<Connections, EngineError> {
        let marks = self.marks(query)?;
        let mut conntrack = Conntrack::open()?;
        let limit = query.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let mut answer = Connections::default();
        for select in selections(query, &marks) {
            let found = conntrack.flows(select, limit - answer.flows.len())?;
            answer.more |= found.total > found.flows.len() as u64;
            answer.flows.extend(found.flows.iter().map(|flow| told(flow, &marks)));
        }
        answer.flows.sort();
        Ok(answer)
    }

    /// Cuts them.
    ///
    /// # Errors
    /// No such farm or backend, or the kernel's.
    pub fn cut(&self, query: &FlowQuery) -> Result<Flushed, EngineError> {
        let marks = self.marks(query)?;
        let mut conntrack = Conntrack::open()?;
        let loads = conntrack.loads(Select::Ours)?;
        for &mark in marks.keys() {
            conntrack.delete(Select::Mark(mark), None)?;
        }
        let flows = marks.keys().filter_map(|mark| loads.get(mark)).map(|load| load.active + load.ended).sum();
        tracing::info!(farm = query.farm, backend = query.backend, flows, "flows were cut");
        Ok(Flushed { flows })
    }

    /// What the kernel counts; nothing of what cannot be asked.
    pub(super) fn counted(&mut self) -> Counted {
        let counted = self.host.counted().unwrap_or_else(|error| {
            tracing::warn!(error = %crate::explain(&error), "counters are not read");
            Counted::default()
        });
        let usage = usage();
        let ports = usage.ports.into_iter().map(|(Ports { source, backend, protocol: number }, used)| PortUse {
            used,
            source,
            backend,
            protocol: protocol(number),
        });
        let active = usage.loads.into_iter().map(|(mark, load)| (mark, load.active));
        Counted { active: active.collect(), ports: ports.collect(), ..counted }
    }

    /// The ct marks that a query means.
    fn marks(&self, query: &FlowQuery) -> Result<Names<'_>, EngineError> {
        let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
        let wanted = |name: &str, want: &Option<String>| want.as_ref().is_none_or(|want| want == name);
        let marks = running.desired.ids.marks().filter(|(farm, backend, _)| {
            wanted(farm.as_str(), &query.farm) && wanted(backend.as_str(), &query.backend)
        });
        let marks: Names<'_> = marks.map(|(farm, backend, mark)| (mark, (farm, backend))).collect();
        match (&query.farm, &query.backend) {
            (Some(farm), backend) if marks.is_empty() => Err(EngineError::NotFound(match backend {
                Some(backend) => format!("backend {backend} of farm {farm}"),
                None => format!("farm {farm}"),
            })),
            _ => Ok(marks),
        }
    }
}

/// Our flows; none when connection tracking cannot be asked.
fn usage() -> Usage {
    let usage = Conntrack::open().and_then(|mut conntrack| conntrack.usage(Select::Ours));
    usage.unwrap_or_else(|error| {
        tracing::warn!(error = %crate::explain(&error), "flows are not counted");
        Usage::default()
    })
}

/// One dump for everything, or one for each backend that is meant: the kernel compares the marks.
fn selections(query: &FlowQuery, marks: &Names<'_>) -> Vec<Select> {
    match (&query.farm, &query.backend) {
        (None, None) => vec![Select::Ours],
        _ => marks.keys().copied().map(Select::Mark).collect(),
    }
}

fn told(flow: &conntrack::Flow, marks: &Names<'_>) -> Flow {
    // A flow can outlive its backend.
    let name = marks.get(&(flow.mark & !0x00f0_0000));
    let (farm, backend) = name.map_or(("?", "?"), |(farm, backend)| (farm.as_str(), backend.as_str()));
    Flow {
        farm: farm.to_owned(),
        backend: backend.to_owned(),
        protocol: protocol(flow.protocol),
        client: flow.original.source.to_string(),
        service: flow.original.destination.to_string(),
        endpoint: flow.reply.source.to_string(),
        state: flow.state.clone(),
        offloaded: flow.offloaded,
        timeout: u32::try_from(flow.timeout.as_secs()).ok(),
    }
}

/// The name of an IP protocol, or its number.
pub fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}
