//! Neighbours whose MAC address is known. Ours carry [`NEIGHBOUR_PROTOCOL`] as their `NDA_PROTOCOL`.
//!
//! The kernel keeps one entry for an address on an interface, whoever put it there. It forgets them all when the interface goes
//! down (`neigh_ifdown`), but not when the carrier is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use headgate_plan::names::NEIGHBOUR_PROTOCOL;
use headgate_plan::state::Neighbour;
use headgate_plan::step::Step;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, Request};
use crate::{Host, HostError};

/// An entry that somebody has put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Index of the interface.
    index: u32,
    address: IpAddr,
    /// `None`: the interface has hardware addresses of another length.
    mac: Option<[u8; 6]>,
    ours: bool,
}

impl Listed {
    /// As it is wanted, if it is ours. `names` is of all interfaces.
    pub(crate) fn ours(&self, names: &BTreeMap<u32, &str>) -> Option<Neighbour> {
        let link = (*names.get(&self.index)?).to_owned();
        self.ours.then_some(Neighbour { link, address: self.address, mac: self.mac? })
    }
}

/// All that somebody has put there, of both families.
pub(crate) fn list(netlink: &mut Netlink) -> io::Result<Vec<Listed>> {
    // Without a family the kernel answers for all that it has.
    let messages = netlink.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => decode(&neighbour),
            _ => None,
        })
        .collect())
}

/// `None`: the kernel has found it out by itself. So it has when an entry of ours was removed while packets waited for it: what
/// comes back keeps its protocol (`neigh_delete`).
pub(crate) fn decode(message: &NeighbourMessage) -> Option<Listed> {
    let (mut address, mut mac, mut protocol) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.as_slice().try_into().ok(),
            NeighbourAttribute::Protocol(number) => protocol = Some(*number),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    let marked = protocol == Some(RouteProtocol::Other(NEIGHBOUR_PROTOCOL));
    let others =
        !marked && (permanent || protocol.is_some() || message.header.flags.contains(NeighbourFlags::ExtLearned));
    let ours = marked && permanent;
    (ours || others).then_some(Listed { index: message.header.ifindex, address: address?, mac, ours })
}

impl Host {
    /// Interface and address of the neighbours of others, which no step may overwrite; nobody asks for them where no step adds one.
    pub(crate) fn held_by_others(&mut self, steps: &[Step]) -> Result<BTreeSet<(u32, IpAddr)>, HostError> {
        if !steps.iter().any(|step| matches!(step, Step::AddNeighbour(_) | Step::ReplaceNeighbour { .. })) {
            return Ok(BTreeSet::new());
        }
        let found = list(&mut self.netlink).map_err(HostError::list("neighbours"))?;
        Ok(found.into_iter().filter(|found| !found.ours).map(|found| (found.index, found.address)).collect())
    }
}

/// `index` is that of `neighbour.link`.
fn message(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if neighbour.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(neighbour.address.into()));
    message
}

/// A request that adds a neighbour of ours, in the place of what the kernel found out and of ours. What others hold it would
/// overwrite too: then there is none, but a reason.
pub(crate) fn add(neighbour: &Neighbour, index: u32, held: &BTreeSet<(u32, IpAddr)>) -> Result<Request, String> {
    if held.contains(&(index, neighbour.address)) {
        return Err("another program says what its MAC address is".to_owned());
    }
    let mut message = message(neighbour, index);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(NEIGHBOUR_PROTOCOL)));
    Ok(Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_REPLACE })
}

/// A request that removes the entry of this address on this interface; whose it is the kernel does not ask. Fails with ENOENT when
/// there is none.
pub(crate) fn remove(neighbour: &Neighbour, index: u32) -> Request {
    Request { message: RouteNetlinkMessage::DelNeighbour(message(neighbour, index)), flags: 0 }
}
