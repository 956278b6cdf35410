//! Carrying out a plan, and taking it back when a step on which others rely fails.
//!
//! Knobs, links, VLANs, bonds, VRFs, added addresses, routes, routing rules and neighbours come first; the ruleset, one transaction, is
//! the point of no return; removals follow it. When an address, a route or the ruleset fails, what was done before is taken back in reverse order, so that
//! a machine is never left between two configurations. A knob or link that the kernel refuses, and a removal that fails, stop
//! nothing: the first must not keep a balancer from serving, the last is found and tried again by the next plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use headgate_nft::{Change, ElementState, Key};
use headgate_plan::knob::CPU_WAKE_UP;
use headgate_plan::maps::Map;
use headgate_plan::state::{Address, KnobValue, Route};
use headgate_plan::step::{Outcome, Plan, Step};
use nix::errno::Errno;

use crate::announce::{self, Announcement, Unannounced};
use crate::link::{self, Interface};
use crate::netlink::{Refusal, Request};
use crate::route::Beside;
use crate::wakeup::WakeUp;
use crate::{Host, HostError, address, knob, neighbour, route, rule, tunnel, upper};

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Every step of the plan, in its order.
    pub steps: Vec<(Step, Outcome)>,
    /// The announcements of added addresses, by interface.
    pub announcements: Vec<Announcement>,
    /// Knobs that were given back their original values, by path; only a flush does that.
    pub restored: Vec<(String, Outcome)>,
    /// What made the rest be taken back; `None`: the plan was carried out.
    pub failure: Option<Failure>,
}

/// Why a plan was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which step, counted from 0.
    pub step: usize,
    /// What the kernel said.
    pub reason: String,
    /// Somebody changed nftables after [`Host::observe`]: observe and plan again.
    pub stale: bool,
}

impl Report {
    /// The plan was not carried out; what had been done was taken back.
    pub fn failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Added addresses on interfaces that took no announcement, most often because they had just been set up and have no
    /// carrier yet: to be announced again ([`Host::announce`]) a few seconds later.
    pub fn unannounced(&self) -> impl Iterator<Item = &Address> {
        let later = |unsent: &(usize, Unannounced)| unsent.1 != Unannounced::NoNeighbours;
        let links = self.announcements.iter().filter(move |found| found.unsent.as_ref().is_some_and(later));
        let links: Vec<&str> = links.map(|found| found.link.as_str()).collect();
        self.steps.iter().filter_map(move |step| match step {
            (Step::AddAddress(address), Outcome::Set) if links.contains(&address.link.as_str()) => Some(address),
            _ => None,
        })
    }

    /// Steps that the kernel refused; without [`failed`](Self::failed) these are knobs, links and removals.
    pub fn refused(&self) -> impl Iterator<Item = (&Step, &str)> {
        self.steps.iter().filter_map(|(step, outcome)| match outcome {
            Outcome::Refused(reason) => Some((step, reason.as_str())),
            _ => None,
        })
    }
}

/// Steps of one kind are sent to the kernel together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prepare,
    Make,
    Add,
    Ruleset,
    Remove,
}

/// A step that is done by writing a value; the descriptor of [`CPU_WAKE_UP`] is held instead.
fn turn(step: &Step) -> Option<knob::Turn<'_>> {
    match step {
        Step::Knob { path, want, fit, .. } if path != CPU_WAKE_UP => Some(knob::Turn { path, want, fit: *fit }),
        _ => None,
    }
}

fn phase(step: &Step) -> Phase {
    match step {
        Step::Knob { .. } | Step::LinkUp { .. } | Step::LinkMtu { .. } => Phase::Prepare,
        Step::AddUpper { .. } | Step::ReplaceUpper { .. } | Step::Master { .. } => Phase::Make,
        Step::AddTunnel(_)
        | Step::AddAddress(_)
        | Step::AddRoute(_)
        | Step::AddRule(_)
        | Step::AddNeighbour(_)
        | Step::ReplaceNeighbour { .. } => Phase::Add,
        Step::Ruleset(_) => Phase::Ruleset,
        Step::RemoveNeighbour(_)
        | Step::RemoveRule(_)
        | Step::RemoveRoute(_)
        | Step::RemoveAddress(_)
        | Step::RemoveTunnel(_)
        | Step::RemoveUpper { .. } => Phase::Remove,
    }
}

impl Host {
    /// Carries out a plan made from what [`Host::observe`] returned last.
    pub fn apply(&mut self, plan: Plan) -> Report {
        self.writes += 1;
        let mut report = Report::default();
        let mut steps = plan.steps;
        let mut interfaces = match link::list(&mut self.netlink) {
            Ok(interfaces) => interfaces,
            Err(error) => {
                report.fail(0, &HostError::list("interfaces")(error));
                report.steps.extend(steps.into_iter().map(|step| (step, Outcome::Skipped)));
                return report;
            }
        };
        let mut displaced = Vec::new();
        while !steps.is_empty() && report.failure.is_none() {
            let current = phase(&steps[0]);
            let end = steps.iter().position(|step| phase(step) != current).unwrap_or(steps.len());
            let rest = steps.split_off(end);
            let start = report.steps.len();
            let outcomes = match current {
                Phase::Prepare => self.prepare_all(&steps, &interfaces),
                Phase::Make => self.make(&steps, &mut interfaces),
                Phase::Add => {
                    displaced.extend(self.displace(&steps, &rest, &interfaces));
                    self.change(&steps, &rest, &interfaces)
                }
                Phase::Ruleset => steps.iter().map(|step| self.ruleset(step, &mut report)).collect(),
                Phase::Remove => self.remove(&steps, &interfaces),
            };
            report.steps.extend(steps.into_iter().zip::<Vec<Outcome>>(outcomes));
            if matches!(current, Phase::Make | Phase::Add | Phase::Ruleset) {
                report.fail_on_refusal(start);
            }
            steps = rest;
        }
        if report.failure.is_some() {
            report.steps.extend(steps.into_iter().map(|step| (step, Outcome::Skipped)));
            self.take_back(&mut report, &displaced);
        } else {
            report.announcements = self.announce_added(&report.steps);
        }
        report
    }

    /// Knobs and links. Knobs that follow each other are turned together.
    fn prepare_all(&mut self, steps: &[Step], interfaces: &BTreeMap<String, Interface>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(steps.len());
        for run in steps.chunk_by(|one, other| turn(one).is_some() && turn(other).is_some()) {
            let turns: Vec<knob::Turn<'_>> = run.iter().filter_map(turn).collect();
            match turns.is_empty() {
                true => outcomes.extend(run.iter().map(|step| self.prepare(step, interfaces))),
                false => outcomes.extend(knob::write_all(&self.root, &turns)),
            }
        }
        outcomes
    }

    /// A knob or a link.
    fn prepare(&mut self, step: &Step, interfaces: &BTreeMap<String, Interface>) -> Outcome {
        let (link, request): (_, fn(u32, &Step) -> Request) = match step {
            Step::Knob { path, want: KnobValue::Int(micros), .. } if path == CPU_WAKE_UP => {
                return self.hold_wake_up(*micros);
            }
            Step::Knob { path, want, fit, .. } => {
                return knob::write(&self.root, knob::Turn { path, want, fit: *fit });
            }
            Step::LinkUp { link, .. } | Step::LinkMtu { link, .. } => (link, link_request),
            _ => return Outcome::Skipped,
        };
        let Some(interface) = interfaces.get(link) else {
            return Outcome::Refused(no_interface(link));
        };
        match self.netlink.request(vec![request(interface.index, step)]).map(|mut results| results.remove(0)) {
            Ok(Ok(())) => Outcome::Set,
            Ok(Err(refusal)) => Outcome::Refused(refusal.to_string()),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    /// Takes the descriptor that limits the sleep of CPUs; the one before goes once the new one holds.
    fn hold_wake_up(&mut self, micros: i64) -> Outcome {
        let Ok(micros) = i32::try_from(micros) else { return Outcome::Refused("not a time".to_owned()) };
        match WakeUp::hold(micros) {
            Ok(held) => {
                self.wake_up = Some(held);
                Outcome::Set
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Outcome::Unsupported,
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    /// Removes what `rest` removes and what is in the way of `steps`: IPv6 lets an interface have an address only once, so
    /// that one whose prefix length changes has to go before it comes. Returns the steps that bring them back.
    fn displace(&mut self, steps: &[Step], rest: &[Step], interfaces: &BTreeMap<String, Interface>) -> Vec<Step> {
        let coming: BTreeSet<(&str, IpAddr)> = steps
            .iter()
            .filter_map(|step| match step {
                Step::AddAddress(Address { link, net }) if net.addr().is_ipv6() => Some((link.as_str(), net.addr())),
                _ => None,
            })
            .collect();
        let going = |step: &&Step| match step {
            Step::RemoveAddress(Address { link, net }) => coming.contains(&(link.as_str(), net.addr())),
            _ => false,
        };
        let going: Vec<Step> = rest.iter().filter(going).cloned().collect();
        let outcomes = self.remove(&going, interfaces);
        let gone = going.iter().zip(outcomes).filter(|(_, outcome)| *outcome == Outcome::Set);
        gone.filter_map(|(step, _)| step.inverse()).collect()
    }

    /// Added tunnels, addresses, routes, routing rules and neighbours, in one go. `rest` is what follows: a route that it removes may be replaced.
    fn change(&mut self, steps: &[Step], rest: &[Step], interfaces: &BTreeMap<String, Interface>) -> Vec<Outcome> {
        if let Some(reason) = too_old(self.kernel, steps) {
            return vec![Outcome::Refused(reason); steps.len()];
        }
        let replaced: Vec<&Route> = rest
            .iter()
            .filter_map(|step| match step {
                Step::RemoveRoute(route) => Some(route),
                _ => None,
            })
            .collect();
        let held = match self.held_by_others(steps) {
            Ok(held) => held,
            Err(error) => return vec![Outcome::Refused(crate::explain(&error)); steps.len()],
        };
        self.send(steps, |step| match step {
            Step::AddTunnel(device) => Ok(tunnel::add(*device)),
            Step::AddAddress(Address { link, net }) => Ok(address::add(index(interfaces, link)?, *net)),
            Step::AddRoute(route) => {
                let beside =
                    if replaced.iter().any(|other| same_place(route, other)) { Beside::Ours } else { Beside::Refuse };
                Ok(route::add(route, route_index(interfaces, route)?, beside))
            }
            Step::AddRule(rule) => Ok(rule::add(rule)),
            Step::AddNeighbour(want) | Step::ReplaceNeighbour { want, .. } => {
                neighbour::add(want, index(interfaces, &want.link)?, &held)
            }
            _ => Err("not an addition".to_owned()),
        })
    }

    /// Removed neighbours, routing rules, routes, addresses, tunnels, VLANs, bonds and VRFs.
    fn remove(&mut self, steps: &[Step], interfaces: &BTreeMap<String, Interface>) -> Vec<Outcome> {
        let promotion = self.promote_secondaries(steps);
        let outcomes = self.send(steps, |step| match step {
            Step::RemoveRoute(route) => Ok(route::remove(route, route_index(interfaces, route)?)),
            Step::RemoveRule(rule) => Ok(rule::remove(rule)),
            Step::RemoveNeighbour(neighbour) => Ok(neighbour::remove(neighbour, index(interfaces, &neighbour.link)?)),
            Step::RemoveAddress(Address { link, net }) => Ok(address::remove(index(interfaces, link)?, *net)),
            Step::RemoveTunnel(device) => Ok(tunnel::remove(*device)),
            // Its name may be another's by now.
            Step::RemoveUpper { name, .. } => {
                let found = interfaces.get(name).filter(|found| found.ours && found.upper.is_some());
                found.map(|found| upper::remove(found.index)).ok_or_else(|| no_interface(name))
            }
            _ => Err("not a removal".to_owned()),
        });
        for path in promotion {
            if let Err(error) = self.root.write_machine(&path, "0") {
                tracing::warn!(%error, path, "sysctl stays changed");
            }
        }
        outcomes
    }

    /// Makes the kernel keep the other addresses of a subnet when its first one, ours, is removed. Returns the files to
    /// set back to 0.
    fn promote_secondaries(&self, steps: &[Step]) -> Vec<String> {
        let mut changed = Vec::new();
        for step in steps {
            let Step::RemoveAddress(Address { link, net }) = step else { continue };
            let path = format!("proc/sys/net/ipv4/conf/{link}/promote_secondaries");
            if !address::has_secondaries(*net) || changed.contains(&path) {
                continue;
            }
            let off = self.root.read_machine(&path).is_ok_and(|text| text.trim() == "0");
            if off && self.root.write_machine(&path, "1").is_ok() {
                changed.push(path);
            }
        }
        changed
    }

    /// Sends one request for each step for which there is one.
    fn send(&mut self, steps: &[Step], request: impl Fn(&Step) -> Result<Request, String>) -> Vec<Outcome> {
        let mut requests = Vec::with_capacity(steps.len());
        let impossible: Vec<Option<String>> =
            steps.iter().map(|step| request(step).map(|request| requests.push(request)).err()).collect();
        let mut results = match self.netlink.request(requests) {
            Ok(results) => results.into_iter(),
            // Which of them were carried out is not known; the next observation tells.
            Err(error) => return vec![Outcome::Refused(error.to_string()); steps.len()],
        };
        let settled = steps.iter().zip(impossible).map(|(step, impossible)| match impossible {
            // What was on an interface that is gone is gone with it.
            Some(_) if phase(step) == Phase::Remove => Outcome::Kept,
            Some(reason) => Outcome::Refused(reason),
            None => settle(step, results.next().expect("request() returns a result for each request")),
        });
        settled.collect()
    }

    /// The one transaction, and before it one that brings the sets which must be whole when packets meet them.
    fn exchange(&mut self, changes: &[Change]) -> Result<(), HostError> {
        let Some((first, second)) = headgate_nft::ahead(changes) else {
            return self.commit(changes, self.generation);
        };
        self.commit(&first, self.generation)?;
        // Ours has counted it up by one: another number is somebody else's commit.
        self.commit(&second, self.generation.map(|generation| generation.wrapping_add(1)))
    }

    fn ruleset(&mut self, step: &Step, report: &mut Report) -> Outcome {
        let Step::Ruleset(changes) = step else { return Outcome::Skipped };
        if report.failed() {
            return Outcome::Skipped;
        }
        let begun = Instant::now();
        match self.exchange(changes) {
            Ok(()) => {
                self.first_commit.get_or_insert_with(|| (begun, Instant::now()));
                Outcome::Set
            }
            Err(error) => {
                let reason = crate::explain(&error);
                let stale = error.is_stale();
                report.failure = Some(Failure { step: report.steps.len(), reason: reason.clone(), stale });
                Outcome::Refused(reason)
            }
        }
    }

    /// Takes back in reverse order what was done before the failure, and puts back what was displaced for it.
    fn take_back(&mut self, report: &mut Report, displaced: &[Step]) {
        let mut interfaces = link::list(&mut self.netlink).unwrap_or_default();
        for (step, outcome) in report.steps.iter_mut().rev().filter(|(_, outcome)| *outcome == Outcome::Set) {
            let Some(inverse) = step.inverse() else { continue };
            let result = match phase(&inverse) {
                Phase::Prepare => self.prepare(&inverse, &interfaces),
                Phase::Make => self.make(std::slice::from_ref(&inverse), &mut interfaces).remove(0),
                Phase::Remove => self.remove(std::slice::from_ref(&inverse), &interfaces).remove(0),
                // Only a neighbour that was changed: additions are taken back by removals.
                Phase::Add => self.change(std::slice::from_ref(&inverse), &[], &interfaces).remove(0),
                Phase::Ruleset => continue,
            };
            match result {
                Outcome::Refused(reason) => tracing::error!(?step, reason, "step could not be taken back"),
                _ => *outcome = Outcome::Returned,
            }
        }
        for (step, outcome) in displaced.iter().zip(self.change(displaced, &[], &interfaces)) {
            if let Outcome::Refused(reason) = outcome {
                tracing::error!(?step, reason, "step could not be taken back");
            }
        }
    }

    /// Tells the neighbours about the addresses that were added, interface by interface: last of all, when the ruleset is
    /// ready for the traffic that this draws.
    fn announce_added(&mut self, steps: &[(Step, Outcome)]) -> Vec<Announcement> {
        let added = steps.iter().filter_map(|step| match step {
            (Step::AddAddress(address), Outcome::Set) => Some(address),
            _ => None,
        });
        self.announce(added).unwrap_or_else(|error| {
            tracing::warn!(%error, "added addresses are not announced");
            Vec::new()
        })
    }

    /// Announces addresses that are in place. Frames get lost, and an interface that was just set up may have no carrier
    /// yet: RFC 5227 asks for two announcements 2 s apart, RFC 4861 for up to three; the caller has the time, we do not.
    ///
    /// # Errors
    /// [`HostError::List`]. What became of each announcement is no error.
    pub fn announce<'a>(
        &mut self,
        addresses: impl IntoIterator<Item = &'a Address>,
    ) -> Result<Vec<Announcement>, HostError> {
        let mut by_link: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for Address { link, net } in addresses {
            by_link.entry(link).or_default().push(net.addr());
        }
        if by_link.is_empty() {
            return Ok(Vec::new());
        }
        let interfaces = link::list(&mut self.netlink).map_err(HostError::list("interfaces"))?;
        let known = by_link.iter().filter_map(|(link, addresses)| Some((interfaces.get(*link)?, addresses)));
        Ok(known.map(|(interface, addresses)| announce::announce(interface, addresses)).collect())
    }

    /// Commits changes of our tables at once, as the fast path of one backend's change does. The transaction is whole or
    /// not at all, and names an object that is not there any more as its error, so nothing is read back.
    ///
    /// # Errors
    /// [`HostError::Commit`].
    pub fn commit_ruleset(&mut self, changes: &[Change]) -> Result<(), HostError> {
        self.commit(changes, None)
    }

    /// The elements of one of our sets, as they are now.
    ///
    /// # Errors
    /// [`HostError::Dump`].
    pub fn elements(&mut self, map: Map) -> Result<Vec<(Key, ElementState)>, HostError> {
        self.nft.elements(&map.place().table(), &map.name()).map_err(HostError::Dump)
    }
}

impl Report {
    fn fail(&mut self, step: usize, error: &HostError) {
        self.failure = Some(Failure { step, reason: crate::explain(error), stale: false });
    }

    /// The first refused step from `start` on is the failure, unless there is one already.
    fn fail_on_refusal(&mut self, start: usize) {
        let refused = self.steps.iter().enumerate().skip(start).find_map(|(step, (_, outcome))| match outcome {
            Outcome::Refused(reason) => Some(Failure { step, reason: reason.clone(), stale: false }),
            _ => None,
        });
        if self.failure.is_none() {
            self.failure = refused;
        }
    }
}

/// Why no address can be added, when it cannot.
fn too_old(kernel: (u32, u32), steps: &[Step]) -> Option<String> {
    let adds = steps.iter().any(|step| matches!(step, Step::AddAddress(_)));
    (adds && kernel < address::FIRST_KERNEL).then(|| {
        let (major, minor) = kernel;
        format!(
            "Linux {major}.{minor} does not keep who added an address (5.18 does), so it could never be removed again: \
             add it by the system's own network configuration and set address.manage = \"never\""
        )
    })
}

fn link_request(index: u32, step: &Step) -> Request {
    match step {
        Step::LinkMtu { want, .. } => link::set_mtu(index, *want),
        Step::LinkUp { up: false, .. } => link::set_down(index),
        _ => link::set_up(index),
    }
}

fn no_interface(link: &str) -> String {
    format!("there is no interface {link}")
}

fn index(interfaces: &BTreeMap<String, Interface>, link: &str) -> Result<u32, String> {
    interfaces.get(link).map(|interface| interface.index).ok_or_else(|| no_interface(link))
}

fn route_index(interfaces: &BTreeMap<String, Interface>, route: &Route) -> Result<Option<u32>, String> {
    route.link.as_deref().map(|link| index(interfaces, link)).transpose()
}

/// The kernel lets only one of the two in unless told otherwise.
fn same_place(one: &Route, other: &Route) -> bool {
    let metric = |route: &Route| route.metric.unwrap_or(route::default_metric(route.to));
    one.to.trunc() == other.to.trunc() && one.table == other.table && metric(one) == metric(other)
}

/// What an answer of the kernel means for a step.
fn settle(step: &Step, result: Result<(), Refusal>) -> Outcome {
    let Err(refusal) = result else { return Outcome::Set };
    match (step, refusal.errno) {
        // Somebody else added it since we looked: it is there, and it is his.
        (Step::AddAddress(_), Errno::EEXIST) => Outcome::Kept,
        (Step::AddRoute(_), Errno::EEXIST) => {
            Outcome::Refused("another program has a route to the same destination with the same metric".to_owned())
        }
        (Step::AddRoute(_), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => {
            Outcome::Refused("no interface reaches the gateway".to_owned())
        }
        // `fib_nl_newrule`: a kernel without IPv6, or without policy routing. Who has no packets of a family misses no rule of it.
        (Step::AddRule(_) | Step::AddNeighbour(_), Errno::EAFNOSUPPORT) => Outcome::Unsupported,
        (Step::RemoveRule(_) | Step::RemoveNeighbour(_), Errno::ENOENT) => Outcome::Kept,
        // Routes go with the address that was their source or with their interface.
        (Step::RemoveRoute(_), Errno::ESRCH | Errno::ENODEV) => Outcome::Kept,
        (Step::RemoveTunnel(_) | Step::RemoveUpper { .. }, Errno::ENODEV) => Outcome::Kept,
        (Step::RemoveAddress(_), Errno::EADDRNOTAVAIL | Errno::ENODEV) => Outcome::Kept,
        (_, Errno::EPERM) => Outcome::Refused("CAP_NET_ADMIN is missing".to_owned()),
        _ => Outcome::Refused(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_given_no_addresses() {
        let net = "172.16.1.1/32".parse().expect("an address");
        let add = [Step::AddAddress(Address { link: "eth0".to_owned(), net })];
        assert!(too_old((5, 17), &add).is_some_and(|reason| reason.starts_with("Linux 5.17 does not keep")));
        assert_eq!(too_old((5, 18), &add), None);
        assert_eq!(too_old((6, 1), &add), None);
        assert_eq!(too_old((5, 17), &[]), None, "routes have their protocol since long");
    }
}
