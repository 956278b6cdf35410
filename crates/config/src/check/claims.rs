//! Farms that claim the same: listeners, and the backends of stateless farms.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Checker;
use super::farm::Written;
use crate::diagnostic::Report;
use crate::model::{Farm, FarmState, Mode};
use crate::tree::Span;
use crate::types::{FarmName, Listen, Ports, Protocol};

pub(super) fn check(
    checker: &mut Checker<'_>,
    farms: &BTreeMap<FarmName, Arc<Farm>>,
    written: &BTreeMap<FarmName, Written<'_>>,
) {
    listeners(checker, farms, written);
    stateless(checker, farms, written);
    twins(checker, farms, written);
}

struct Claim<'a> {
    listen: Listen,
    span: Span,
    farm: &'a FarmName,
}

/// An exact port beats a range, a range beats `*`, `*` beats `any`: only equals of one of these levels conflict. Sorted by
/// address, protocol and first port, each claim need only be held against the one that reaches farthest before it.
fn listeners(
    checker: &mut Checker<'_>,
    farms: &BTreeMap<FarmName, Arc<Farm>>,
    written: &BTreeMap<FarmName, Written<'_>>,
) {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for (farm, written) in written {
        // What is not in the data plane claims nothing: two farms may take turns on one address.
        if farms.get(farm).is_some_and(|farm| farm.state == FarmState::Off) {
            continue;
        }
        claims.extend(written.listen.iter().map(|&(listen, span)| Claim { listen, span, farm }));
    }
    let level = |claim: &Claim<'_>| match claim.listen.ports {
        Ports::One(_) => 0,
        Ports::Range(..) => 1,
        Ports::All => 2,
    };
    claims.sort_by_key(|claim| {
        (claim.listen.address, claim.listen.protocol, level(claim), reach(claim.listen.ports).0, claim.span)
    });
    let group = |claim: &Claim<'_>| (claim.listen.address, claim.listen.protocol, level(claim));
    for same in claims.chunk_by(|a, b| group(a) == group(b)) {
        let mut farthest = 0;
        for at in 1..same.len() {
            let (_, end) = reach(same[farthest].listen.ports);
            let (begin, own_end) = reach(same[at].listen.ports);
            if begin <= end {
                conflict(checker, &same[farthest], &same[at]);
            }
            if own_end > end {
                farthest = at;
            }
        }
    }
}

/// First and last port.
fn reach(ports: Ports) -> (u16, u16) {
    match ports {
        Ports::One(port) => (port, port),
        Ports::Range(first, last) => (first, last),
        Ports::All => (0, u16::MAX),
    }
}

fn conflict(checker: &mut Checker<'_>, a: &Claim<'_>, b: &Claim<'_>) {
    let (first, second) = if a.span <= b.span { (a, b) } else { (b, a) };
    let claimed = if first.listen == second.listen {
        second.listen.to_string()
    } else {
        format!("{}, which overlaps {}", second.listen, first.listen)
    };
    let message = match first.farm == second.farm {
        true => format!("farm {} listens twice on {claimed}", second.farm),
        false => format!("farms {} and {} both listen on {claimed}", first.farm, second.farm),
    };
    let report = Report::error(second.span, message).note(first.span, format!("farm {} listens here", first.farm));
    checker.push(report.help("one of them needs another address, port or protocol"));
}

/// One way to a backend.
struct Path {
    ports: Ports,
    protocol: Protocol,
    stateless: bool,
    span: Span,
    farm: FarmName,
}

impl Path {
    fn meets(&self, other: &Path) -> bool {
        let protocol =
            self.protocol == other.protocol || self.protocol == Protocol::Any || other.protocol == Protocol::Any;
        let ((a, b), (c, d)) = (reach(self.ports), reach(other.ports));
        protocol && a <= d && c <= b
    }
}

/// The way back from a backend of a stateless farm is found by the backend's address and port alone, so these must be its own.
fn stateless(
    checker: &mut Checker<'_>,
    farms: &BTreeMap<FarmName, Arc<Farm>>,
    written: &BTreeMap<FarmName, Written<'_>>,
) {
    let is_stateless = |farm: &&Arc<Farm>| farm.mode == Mode::Stateless && farm.state != FarmState::Off;
    let mut paths: BTreeMap<IpAddr, Vec<Path>> = BTreeMap::new();
    let addresses = farms.values().filter(is_stateless).flat_map(|farm| farm.backends.values());
    paths.extend(addresses.map(|backend| (backend.address.address, Vec::new())));
    if paths.is_empty() {
        return;
    }
    for (name, farm) in farms.iter().filter(|(_, farm)| !matches!(farm.state, FarmState::Off)) {
        let Some(written) = written.get(name) else { continue };
        for (backend, fields) in written.fields.named("backends") {
            let Some(backend) = farm.backends.get(backend) else { continue };
            let Some(known) = paths.get_mut(&backend.address.address) else { continue };
            let span = fields.span_of("address");
            for listen in
                farm.listen.iter().filter(|listen| listen.address.is_ipv4() == backend.address.address.is_ipv4())
            {
                let ports = backend.address.port.map_or(listen.ports, Ports::One);
                let stateless = farm.mode == Mode::Stateless;
                let path = Path { ports, protocol: listen.protocol, stateless, span, farm: name.clone() };
                if let Some(other) = known.iter().find(|other| (other.stateless || stateless) && other.meets(&path)) {
                    shared(checker, other, &path);
                    break;
                }
                known.push(path);
            }
        }
    }
}

fn shared(checker: &mut Checker<'_>, first: &Path, second: &Path) {
    let message = match first.farm == second.farm {
        true => format!("stateless farm {} has two ways to one backend port", second.farm),
        false => {
            let stateless = if first.stateless { &first.farm } else { &second.farm };
            format!("farms {} and {} share a backend port, and {stateless} is stateless", first.farm, second.farm)
        }
    };
    let mut report = Report::error(second.span, message);
    if first.span != second.span {
        report = report.note(first.span, format!("farm {} uses it here", first.farm));
    }
    checker
        .push(report.help("its answers could belong to either; give the stateless one a port or address of its own"));
}

/// Two backends of one farm with one address: their flows cannot be told apart.
fn twins(checker: &mut Checker<'_>, farms: &BTreeMap<FarmName, Arc<Farm>>, written: &BTreeMap<FarmName, Written<'_>>) {
    for (name, farm) in farms {
        let mut seen = BTreeMap::new();
        for (backend, fields) in written.get(name).into_iter().flat_map(|written| written.fields.named("backends")) {
            let Some(endpoint) = farm.backends.get(backend).map(|backend| backend.address) else { continue };
            let span = fields.span_of("address");
            if let Some(&first) = seen.get(&endpoint) {
                let message = format!("backend {backend} has the same address and port as another of farm {name}");
                let report = Report::warning(span, message).note(first, "the other");
                checker.push(report.help("their flows are counted together; raise the weight of one instead"));
            }
            seen.entry(endpoint).or_insert(span);
        }
    }
}
