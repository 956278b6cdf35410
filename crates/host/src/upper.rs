//! VLANs, bonds and VRFs: making, listing and removing ours, and giving interfaces to them.

use std::collections::BTreeMap;

use headgate_plan::step::{Outcome, Step};
use headgate_plan::upper::{Bond, LINK_GROUP, Upper};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoVlan, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::Host;
use crate::link::{self, Interface};
use crate::netlink::{Netlink, Refusal, Request};

/// What the kernel lists of a VLAN, bond or VRF, whosever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listed {
    Vlan { id: u16 },
    Bond(Bond),
    Vrf { table: u32 },
}

/// `None`: it is something else.
pub(crate) fn decode(info: &[LinkInfo]) -> Option<Listed> {
    info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => data.iter().find_map(|one| match one {
            InfoVlan::Id(id) => Some(Listed::Vlan { id: *id }),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Vrf(data)) => data.iter().find_map(|one| match one {
            InfoVrf::TableId(table) => Some(Listed::Vrf { table: *table }),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Bond(data)) => Some(Listed::Bond(bond(data))),
        _ => None,
    })
}

fn bond(data: &[InfoBond]) -> Bond {
    let (mut mode, mut miimon, mut rate, mut hash) = (String::new(), 0, String::new(), String::new());
    for one in data {
        match one {
            InfoBond::Mode(found) => mode = found.to_string(),
            InfoBond::MiiMon(found) => miimon = *found,
            InfoBond::AdLacpRate(found) => rate = found.to_string(),
            InfoBond::XmitHashPolicy(found) => hash = found.to_string(),
            _ => {}
        }
    }
    Bond::new(&mode, miimon, &rate, &hash)
}

/// The same with the name of the parent; `None` for what is not ours.
pub(crate) fn ours(interface: &Interface, names: &BTreeMap<u32, &str>) -> Option<Upper> {
    Some(match interface.upper.as_ref().filter(|_| interface.ours)? {
        Listed::Vlan { id } => {
            let parent = interface.parent.and_then(|parent| names.get(&parent)).copied().unwrap_or_default();
            Upper::Vlan { parent: parent.to_owned(), id: *id }
        }
        Listed::Bond(bond) => Upper::Bond(bond.clone()),
        Listed::Vrf { table } => Upper::Vrf { table: *table },
    })
}

/// A request that makes an interface of ours, set up; `parent` is the index of the one that carries it.
fn add(name: &str, upper: &Upper, parent: Option<u32>) -> Request {
    let (kind, data) = match upper {
        Upper::Vlan { id, .. } => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(*id)])),
        Upper::Vrf { table } => (InfoKind::Vrf, InfoData::Vrf(vec![InfoVrf::TableId(*table)])),
        Upper::Bond(bond) => (InfoKind::Bond, InfoData::Bond(bond_data(bond))),
    };
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::Group(LINK_GROUP));
    message.attributes.extend(parent.map(LinkAttribute::Link));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// The words are those that the configuration knows, and the kernel's own.
fn bond_data(bond: &Bond) -> Vec<InfoBond> {
    let mut data = Vec::new();
    data.extend(bond.mode.parse().ok().map(InfoBond::Mode));
    data.push(InfoBond::MiiMon(bond.miimon_ms));
    data.extend(bond.lacp_rate.as_ref().and_then(|rate| rate.parse().ok()).map(InfoBond::AdLacpRate));
    data.extend(bond.xmit_hash_policy.as_ref().and_then(|policy| policy.parse().ok()).map(InfoBond::XmitHashPolicy));
    data
}

/// A request that removes an interface.
pub(crate) fn remove(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

/// Requests that give an interface to a master, or to none.
fn give(link: &Interface, master: Option<&Interface>) -> Vec<Request> {
    let mut requests = Vec::new();
    // A bond takes only what is down (`bond_enslave`), and sets it up itself.
    if master.is_some_and(|master| matches!(master.upper, Some(Listed::Bond(_)))) {
        requests.push(link::set_down(link.index));
    }
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.attributes.push(LinkAttribute::Controller(master.map_or(0, |master| master.index)));
    requests.push(Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 });
    if master.is_none() {
        requests.push(link::set_up(link.index));
    }
    requests
}

/// Interfaces by name, listed again when one is asked for that was made since.
struct Known<'a> {
    netlink: &'a mut Netlink,
    interfaces: BTreeMap<String, Interface>,
}

impl<'a> Known<'a> {
    fn new(netlink: &'a mut Netlink, interfaces: BTreeMap<String, Interface>) -> Self {
        Self { netlink, interfaces }
    }

    fn find(&mut self, name: &str) -> Result<Interface, String> {
        if !self.interfaces.contains_key(name) {
            self.interfaces = link::list(self.netlink).map_err(|error| error.to_string())?;
        }
        self.interfaces.get(name).cloned().ok_or_else(|| format!("there is no interface {name}"))
    }

    fn request(&mut self, requests: Vec<Request>) -> Result<(), String> {
        let results = self.netlink.request(requests).map_err(|error| error.to_string())?;
        results.into_iter().collect::<Result<(), Refusal>>().map_err(|refusal| said(&refusal))
    }

    fn make(&mut self, name: &str, upper: &Upper) -> Result<(), String> {
        let parent = upper.parent().map(|parent| self.find(parent)).transpose()?;
        let made = self.request(vec![add(name, upper, parent.map(|parent| parent.index))]);
        made.map_err(|reason| match (upper, reason.as_str()) {
            // `rtnl_newlink`: the kernel has no such kind, and no module for it.
            (_, NO_KIND) => format!("this kernel has no {}", kind(upper)),
            _ => reason,
        })
    }

    fn replace(&mut self, name: &str, upper: &Upper) -> Result<(), String> {
        let index = self.find(name)?.index;
        self.request(vec![remove(index)])?;
        self.interfaces.remove(name);
        self.make(name, upper)
    }

    fn give(&mut self, link: &str, master: Option<&str>) -> Result<(), String> {
        let link = self.find(link)?;
        let master = master.map(|master| self.find(master)).transpose()?;
        self.request(give(&link, master.as_ref()))
    }
}

impl Host {
    /// VLANs, bonds and VRFs, and who belongs to them, one by one: the next needs the index of the one before. Behind the first
    /// that is refused nothing is tried. `interfaces` are those that are there then.
    pub(crate) fn make(&mut self, steps: &[Step], interfaces: &mut BTreeMap<String, Interface>) -> Vec<Outcome> {
        let mut known = Known::new(&mut self.netlink, std::mem::take(interfaces));
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            let made = match step {
                Step::AddUpper { name, upper } => known.make(name, upper),
                Step::ReplaceUpper { name, want, .. } => known.replace(name, want),
                Step::Master { link, want, .. } => known.give(link, want.as_deref()),
                _ => Err("not to be made".to_owned()),
            };
            match made {
                Ok(()) => outcomes.push(Outcome::Set),
                Err(reason) => {
                    outcomes.push(Outcome::Refused(reason));
                    break;
                }
            }
        }
        outcomes.resize(steps.len(), Outcome::Skipped);
        *interfaces = link::list(&mut self.netlink).unwrap_or_default();
        outcomes
    }
}

const NO_KIND: &str = "no such kind";

fn kind(upper: &Upper) -> &'static str {
    match upper {
        Upper::Vlan { .. } => "VLANs (8021q)",
        Upper::Bond(_) => "bonds (bonding)",
        Upper::Vrf { .. } => "VRFs (vrf)",
    }
}

fn said(refusal: &Refusal) -> String {
    match refusal.errno {
        Errno::EOPNOTSUPP => NO_KIND.to_owned(),
        Errno::EPERM => "CAP_NET_ADMIN is missing".to_owned(),
        _ => refusal.to_string(),
    }
}
