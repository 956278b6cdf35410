//! Steps: what a plan consists of, how people read them, how they are taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use headgate_nft::Change;
use serde::{Deserialize, Serialize};

use crate::compile::Desired;
use crate::compile::routing::METRIC_V6;
use crate::state::{Address, Fit, Knob, KnobValue, LinkState, Neighbour, Route, RoutingRule, State};
use crate::tunnel::Device;
use crate::upper::{self, Upper};
use crate::{ethtool, knob};

/// What is to be done, in this order: knobs, links, VLANs, bonds and VRFs, tunnels, addresses, routes, routing rules and neighbours
/// that are added, the ruleset, then removals.
///
/// So a virtual address is there before the rules that answer on it, and goes after them; and what is most likely refused is
/// tried before anything that carries traffic has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
}

/// One step. `Display` is a line of `headgate plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a knob.
    Knob {
        /// As in [`crate::state::Knob::path`].
        path: String,
        /// What was found; `None`: the file is not there.
        was: Option<KnobValue>,
        /// What is wanted.
        want: KnobValue,
        /// Which values that are read back will do.
        fit: Fit,
    },
    /// Set an interface up or down.
    LinkUp {
        /// Kernel name.
        link: String,
        /// The new state.
        up: bool,
    },
    /// Set the MTU of an interface.
    LinkMtu {
        /// Kernel name.
        link: String,
        /// Found, bytes.
        was: u32,
        /// Wanted, bytes.
        want: u32,
    },
    /// Make a VLAN, bond or VRF, set up.
    AddUpper {
        /// Kernel name.
        name: String,
        /// What it is.
        upper: Upper,
    },
    /// Make a VLAN, bond or VRF anew: the kernel changes little of one that is there. What it carries goes with it, and comes
    /// back with the next plan.
    ReplaceUpper {
        /// Kernel name.
        name: String,
        /// Found.
        was: Upper,
        /// Wanted.
        want: Upper,
    },
    /// Give an interface to a bond or VRF, or take it away from ours.
    Master {
        /// Kernel name.
        link: String,
        /// Found.
        was: Option<String>,
        /// Wanted.
        want: Option<String>,
    },
    /// Make a tunnel device.
    AddTunnel(Device),
    /// Add an address and announce it (gratuitous ARP, unsolicited neighbour advertisement).
    AddAddress(Address),
    /// Add a route.
    AddRoute(Route),
    /// Add a routing rule.
    AddRule(RoutingRule),
    /// Add a neighbour.
    AddNeighbour(Neighbour),
    /// Give a neighbour another MAC address.
    ReplaceNeighbour {
        /// Found.
        was: Neighbour,
        /// Wanted, of the same address on the same interface.
        want: Neighbour,
    },
    /// One netlink transaction.
    Ruleset(Vec<Change>),
    /// Remove a neighbour.
    RemoveNeighbour(Neighbour),
    /// Remove a routing rule.
    RemoveRule(RoutingRule),
    /// Remove a route.
    RemoveRoute(Route),
    /// Remove an address.
    RemoveAddress(Address),
    /// Remove a tunnel device.
    RemoveTunnel(Device),
    /// Remove a VLAN, bond or VRF.
    RemoveUpper {
        /// Kernel name.
        name: String,
        /// What it is.
        upper: Upper,
    },
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It had the value already.
    Kept,
    /// Done; knobs have been read back.
    Set,
    /// This machine does not have it.
    Unsupported,
    /// The kernel said no, and why.
    Refused(String),
    /// Done, then taken back because a later step failed.
    Returned,
    /// Not tried because an earlier step failed.
    Skipped,
}

/// A step as it is printed and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepView {
    /// `knob`, `link`, `add-link`, `add-tunnel`, `add-address`, `add-route`, `add-rule`, `add-neighbour`, `ruleset`,
    /// `remove-neighbour`, `remove-rule`, `remove-route`, `remove-address`, `remove-tunnel` or `remove-link`.
    pub kind: String,
    /// One line.
    pub text: String,
    /// The changes of a ruleset, in nft(8)'s words.
    pub details: Vec<String>,
}

/// How much of a ruleset's changes is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Changes of one kind and object are counted where there are more than [`FEW`].
    Summary,
    /// All.
    Full,
}

/// Up to this many elements or objects of a kind are shown one by one.
pub const FEW: usize = 4;

impl Plan {
    /// The steps from what is observed to what is wanted.
    ///
    /// A knob that was not observed is one that this machine does not have, and no step. A link that was not observed is
    /// gone: nothing can be set on it.
    pub fn between(desired: &Desired, observed: &State) -> Self {
        let wanted = &desired.state;
        let mut steps: Vec<Step> = desired.knobs.iter().filter_map(|knob| knob_step(knob, observed)).collect();
        for (name, link) in &wanted.links {
            if let Some(found) = observed.links.get(name) {
                steps.extend(link_steps(name, link, found));
            }
        }
        for (device, link) in &wanted.tunnels {
            let found = observed.tunnels.get(device);
            steps.extend(found.into_iter().flat_map(|found| link_steps(device.name(), link, found)));
        }
        steps.extend(upper_steps(wanted, observed));
        let missing = wanted.tunnels.keys().filter(|device| !observed.tunnels.contains_key(device));
        steps.extend(missing.copied().map(Step::AddTunnel));
        let added = wanted.addresses.difference(&observed.addresses);
        steps.extend(added.cloned().map(Step::AddAddress));
        let missing = |route: &&Route| !observed.routes.iter().any(|found| satisfies(found, route));
        steps.extend(wanted.routes.iter().filter(missing).cloned().map(Step::AddRoute));
        // Behind the routes: where a rule leads there is a way.
        steps.extend(wanted.rules.difference(&observed.rules).cloned().map(Step::AddRule));
        steps.extend(neighbour_steps(wanted, observed));
        let changes = headgate_nft::change::between(&observed.ruleset, &wanted.ruleset);
        if !changes.is_empty() {
            steps.push(Step::Ruleset(changes));
        }
        let stale = |found: &&Neighbour| !wanted.neighbours.iter().any(|want| want.same_place(found));
        steps.extend(observed.neighbours.iter().filter(stale).cloned().map(Step::RemoveNeighbour));
        steps.extend(observed.rules.difference(&wanted.rules).cloned().map(Step::RemoveRule));
        let stale = |found: &&Route| !wanted.routes.iter().any(|route| satisfies(found, route));
        steps.extend(observed.routes.iter().filter(stale).cloned().map(Step::RemoveRoute));
        let removed = observed.addresses.difference(&wanted.addresses);
        steps.extend(removed.cloned().map(Step::RemoveAddress));
        let unwanted = observed.tunnels.keys().filter(|device| !wanted.tunnels.contains_key(device));
        steps.extend(unwanted.copied().map(Step::RemoveTunnel));
        let unwanted = observed.uppers.iter().filter(|(name, _)| !wanted.uppers.contains_key(*name));
        steps.extend(unwanted.map(|(name, upper)| Step::RemoveUpper { name: name.clone(), upper: upper.clone() }));
        Self { steps }
    }

    /// Leaves out what a step of this plan undoes: new queues have new interrupts and begin without steering. The next plan,
    /// made from what is there then, has it.
    pub fn defer_undone(&mut self) {
        let renewed: BTreeSet<String> = self.steps.iter().filter_map(renews_queues).map(str::to_owned).collect();
        if renewed.is_empty() {
            return;
        }
        // The number of an interrupt does not say whose it is: all of them wait.
        let waits = |path: &str| {
            path.starts_with("proc/irq/")
                || renewed.iter().any(|link| path.starts_with(&format!("sys/class/net/{link}/queues/")))
        };
        self.steps.retain(|step| !matches!(step, Step::Knob { path, .. } if waits(path)));
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The plan as it is printed and sent.
    pub fn view(&self, detail: Detail) -> Vec<StepView> {
        self.steps.iter().map(|step| step.view(detail)).collect()
    }
}

fn knob_step(knob: &Knob, observed: &State) -> Option<Step> {
    let found = observed.knobs.get(&knob.path)?;
    (!knob.is_satisfied_by(found)).then(|| Step::Knob {
        path: knob.path.clone(),
        was: Some(found.clone()),
        want: knob.want.clone(),
        fit: knob.fit,
    })
}

fn renews_queues(step: &Step) -> Option<&str> {
    let Step::Knob { path, .. } = step else { return None };
    let (link, setting) = ethtool::of_path(path)?;
    setting.renews_queues().then_some(link)
}

/// VLANs, bonds and VRFs that are missing or other than wanted, each behind what carries it, and who belongs to whom.
fn upper_steps(wanted: &State, observed: &State) -> Vec<Step> {
    let changed = wanted.uppers.iter().filter(|(name, want)| observed.uppers.get(*name) != Some(*want));
    let changed = changed.map(|(name, want)| (name.as_str(), want)).collect();
    let make = |(name, want): (&str, &Upper)| match observed.uppers.get(name) {
        None => Step::AddUpper { name: name.to_owned(), upper: want.clone() },
        Some(was) => Step::ReplaceUpper { name: name.to_owned(), was: was.clone(), want: want.clone() },
    };
    let mut steps: Vec<Step> = upper::in_order(&changed).into_iter().map(make).collect();
    // Who belongs to one that is removed is free when that is.
    let stays = |master: &String| wanted.uppers.contains_key(master) || !observed.uppers.contains_key(master);
    let links: BTreeSet<&String> = wanted.masters.keys().chain(observed.masters.keys()).collect();
    for link in links {
        let (was, want) = (observed.masters.get(link), wanted.masters.get(link));
        if was != want && (want.is_some() || was.is_some_and(stays)) {
            steps.push(Step::Master { link: link.clone(), was: was.cloned(), want: want.cloned() });
        }
    }
    steps
}

/// Neighbours that are missing or have another MAC address.
fn neighbour_steps(wanted: &State, observed: &State) -> Vec<Step> {
    let changed = wanted.neighbours.difference(&observed.neighbours).cloned();
    let step = |want: Neighbour| match observed.neighbours.iter().find(|found| found.same_place(&want)) {
        None => Step::AddNeighbour(want),
        Some(was) => Step::ReplaceNeighbour { was: was.clone(), want },
    };
    changed.map(step).collect()
}

fn link_steps(name: &str, wanted: &LinkState, found: &LinkState) -> Vec<Step> {
    let mut steps = Vec::new();
    if let (Some(want), Some(was)) = (wanted.mtu, found.mtu)
        && want != was
    {
        steps.push(Step::LinkMtu { link: name.to_owned(), was, want });
    }
    if wanted.up != found.up {
        steps.push(Step::LinkUp { link: name.to_owned(), up: wanted.up });
    }
    steps
}

/// Whether a route that the kernel has is the one that is wanted. The kernel fills in what was left open.
fn satisfies(found: &Route, wanted: &Route) -> bool {
    let metric = |route: &Route| route.metric.unwrap_or(if route.to.addr().is_ipv6() { METRIC_V6 } else { 0 });
    found.to == wanted.to
        && found.table == wanted.table
        && found.via == wanted.via
        && metric(found) == metric(wanted)
        && found.source == wanted.source
        && (wanted.link.is_none() || found.link == wanted.link)
}

impl Step {
    /// The step that takes this one back; `None` where there is none: a knob that was not there, and a ruleset, which is
    /// one transaction and takes itself back.
    pub fn inverse(&self) -> Option<Step> {
        Some(match self {
            Self::Knob { path, was, want, fit: _ } => {
                Self::Knob { path: path.clone(), was: Some(want.clone()), want: was.clone()?, fit: Fit::Exact }
            }
            Self::LinkUp { link, up } => Self::LinkUp { link: link.clone(), up: !up },
            Self::LinkMtu { link, was, want } => Self::LinkMtu { link: link.clone(), was: *want, want: *was },
            Self::AddUpper { name, upper } => Self::RemoveUpper { name: name.clone(), upper: upper.clone() },
            Self::RemoveUpper { name, upper } => Self::AddUpper { name: name.clone(), upper: upper.clone() },
            Self::ReplaceUpper { name, was, want } => {
                Self::ReplaceUpper { name: name.clone(), was: want.clone(), want: was.clone() }
            }
            Self::Master { link, was, want } => {
                Self::Master { link: link.clone(), was: want.clone(), want: was.clone() }
            }
            Self::AddTunnel(device) => Self::RemoveTunnel(*device),
            Self::RemoveTunnel(device) => Self::AddTunnel(*device),
            Self::AddAddress(address) => Self::RemoveAddress(address.clone()),
            Self::RemoveAddress(address) => Self::AddAddress(address.clone()),
            Self::AddRoute(route) => Self::RemoveRoute(route.clone()),
            Self::RemoveRoute(route) => Self::AddRoute(route.clone()),
            Self::AddRule(rule) => Self::RemoveRule(rule.clone()),
            Self::RemoveRule(rule) => Self::AddRule(rule.clone()),
            Self::AddNeighbour(neighbour) => Self::RemoveNeighbour(neighbour.clone()),
            Self::RemoveNeighbour(neighbour) => Self::AddNeighbour(neighbour.clone()),
            Self::ReplaceNeighbour { was, want } => Self::ReplaceNeighbour { was: want.clone(), want: was.clone() },
            Self::Ruleset(_) => return None,
        })
    }

    /// The step as it is printed and sent; see [`Plan::view`].
    pub fn view(&self, detail: Detail) -> StepView {
        let details = match (self, detail) {
            (Self::Ruleset(changes), Detail::Full) => changes.iter().map(|change| change.to_string()).collect(),
            (Self::Ruleset(changes), Detail::Summary) => summary(changes),
            _ => Vec::new(),
        };
        StepView { kind: self.kind().to_owned(), text: self.to_string(), details }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Knob { .. } => "knob",
            Self::LinkUp { .. } | Self::LinkMtu { .. } | Self::Master { .. } => "link",
            Self::AddUpper { .. } | Self::ReplaceUpper { .. } => "add-link",
            Self::RemoveUpper { .. } => "remove-link",
            Self::AddTunnel(_) => "add-tunnel",
            Self::RemoveTunnel(_) => "remove-tunnel",
            Self::AddAddress(_) => "add-address",
            Self::AddRoute(_) => "add-route",
            Self::AddRule(_) => "add-rule",
            Self::AddNeighbour(_) | Self::ReplaceNeighbour { .. } => "add-neighbour",
            Self::RemoveNeighbour(_) => "remove-neighbour",
            Self::RemoveRule(_) => "remove-rule",
            Self::Ruleset(_) => "ruleset",
            Self::RemoveRoute(_) => "remove-route",
            Self::RemoveAddress(_) => "remove-address",
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Knob { path, was: Some(was), want, .. } => {
                write!(f, "set {} to {want} (was {was})", knob::name(path))
            }
            Self::Knob { path, was: None, want, .. } => write!(f, "set {} to {want} (not there)", knob::name(path)),
            Self::LinkUp { link, up } => write!(f, "set {link} {}", if *up { "up" } else { "down" }),
            Self::LinkMtu { link, was, want } => write!(f, "set the MTU of {link} to {want} (was {was})"),
            Self::AddUpper { name, upper } => write!(f, "make {name}: {upper}"),
            Self::ReplaceUpper { name, was, want } => write!(f, "make {name} anew: {want} (was {was})"),
            Self::RemoveUpper { name, upper } => write!(f, "remove {name}: {upper}"),
            Self::Master { link, was: None, want: Some(want) } => write!(f, "give {link} to {want}"),
            Self::Master { link, was: Some(was), want: Some(want) } => {
                write!(f, "give {link} to {want} (was of {was})")
            }
            Self::Master { link, was: Some(was), want: None } => write!(f, "take {link} from {was}"),
            Self::Master { link, was: None, want: None } => write!(f, "leave {link} to nobody"),
            Self::AddTunnel(device) => write!(f, "make tunnel device {} ({})", device.name(), device.kind()),
            Self::RemoveTunnel(device) => write!(f, "remove tunnel device {}", device.name()),
            Self::AddAddress(Address { link, net }) => write!(f, "add address {net} to {link} and announce it"),
            Self::RemoveAddress(Address { link, net }) => write!(f, "remove address {net} from {link}"),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
            Self::AddRule(rule) => write!(f, "add routing rule {rule}"),
            Self::RemoveRule(rule) => write!(f, "remove routing rule {rule}"),
            Self::AddNeighbour(neighbour) => write!(f, "add neighbour {neighbour}"),
            Self::ReplaceNeighbour { was, want } => write!(f, "change neighbour {want} (was {})", was.mac_text()),
            Self::RemoveNeighbour(neighbour) => write!(f, "remove neighbour {neighbour}"),
            Self::Ruleset(changes) => write_counts(f, changes),
        }
    }
}

/// `change the ruleset: 2 chains, 12 elements`
fn write_counts(f: &mut fmt::Formatter<'_>, changes: &[Change]) -> fmt::Result {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in changes {
        let (what, count) = match change {
            Change::AddTable(_) | Change::DeleteTable(_) => ("table", 1),
            Change::AddChain { .. } | Change::DeleteChain { .. } => ("chain", 1),
            Change::FlushChain { .. } => ("", 0),
            Change::AddRule { .. } => ("rule", 1),
            Change::AddSet { .. } | Change::DeleteSet { .. } => ("map", 1),
            Change::AddElements { elements, .. } | Change::DeleteElements { elements, .. } => {
                ("element", elements.len())
            }
            Change::AddObject { .. } | Change::DeleteObject { .. } => ("object", 1),
            Change::AddFlowtable { .. } | Change::DeleteFlowtable { .. } | Change::DeleteDevices { .. } => {
                ("flowtable", 1)
            }
        };
        *counts.entry(what).or_default() += count;
    }
    f.write_str("change the ruleset")?;
    let mut separator = ": ";
    for what in ["table", "object", "flowtable", "map", "chain", "rule", "element"] {
        if let Some(count) = counts.get(what) {
            let plural = if *count == 1 { "" } else { "s" };
            write!(f, "{separator}{count} {what}{plural}")?;
            separator = ", ";
        }
    }
    Ok(())
}

/// A line for each kind of change of an object, or the changes themselves where they are few.
fn summary(changes: &[Change]) -> Vec<String> {
    let mut groups: Vec<(String, usize, Vec<&Change>)> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    for change in changes {
        let (label, count) = label(change);
        let at = *index.entry(label.clone()).or_insert_with(|| {
            groups.push((label, 0, Vec::new()));
            groups.len() - 1
        });
        let (_, total, members) = &mut groups[at];
        *total += count;
        members.push(change);
    }
    let lines = groups.into_iter().flat_map(|(label, total, members)| {
        if total <= FEW {
            members.iter().map(|change| change.to_string()).collect()
        } else {
            vec![format!("{label}: {total}")]
        }
    });
    lines.collect()
}

fn label(change: &Change) -> (String, usize) {
    match change {
        Change::AddTable(_) => ("add tables".to_owned(), 1),
        Change::DeleteTable(_) => ("delete tables".to_owned(), 1),
        Change::AddChain { table, .. } => (format!("add chains to table {table}"), 1),
        Change::DeleteChain { table, .. } => (format!("delete chains from table {table}"), 1),
        Change::FlushChain { table, .. } => (format!("flush chains of table {table}"), 1),
        Change::AddRule { table, .. } => (format!("add rules to table {table}"), 1),
        Change::AddSet { table, .. } => (format!("add maps to table {table}"), 1),
        Change::DeleteSet { table, .. } => (format!("delete maps from table {table}"), 1),
        Change::AddElements { table, set, elements, .. } => {
            (format!("add elements to {set} of table {table}"), elements.len())
        }
        Change::DeleteElements { table, set, elements, .. } => {
            (format!("delete elements from {set} of table {table}"), elements.len())
        }
        Change::AddObject { table, kind, .. } => (format!("add {kind} objects to table {table}"), 1),
        Change::DeleteObject { table, kind, .. } => (format!("delete {kind} objects from table {table}"), 1),
        Change::AddFlowtable { table, .. } => (format!("add flowtables to table {table}"), 1),
        Change::DeleteFlowtable { table, .. } => (format!("delete flowtables from table {table}"), 1),
        Change::DeleteDevices { table, flowtable, devices } => {
            (format!("delete devices from flowtable {flowtable} of table {table}"), devices.len())
        }
    }
}

#[cfg(test)]
mod tests;
