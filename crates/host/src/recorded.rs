//! The kernel's answers without a kernel: what the parsers of this crate make of bytes that were recorded, or that nobody
//! ever sent. A parser must not fall over whatever it is given: `headgated` runs as root and for years.

use std::collections::BTreeSet;
use std::io;

use headgate_plan::names::{MARK_ID_MASK, MARK_TAG};

use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::conntrack::Flow;
use crate::conntrack::messages::{self, Attributes};
use crate::netlink::Messages;
use crate::{address, link, route};

/// How much of each kind a dump of rtnetlink said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listed {
    /// Interfaces.
    pub links: usize,
    /// Addresses on them.
    pub addresses: usize,
    /// Unicast routes.
    pub routes: usize,
}

/// The flows in the messages of a dump of connection tracking.
///
/// # Errors
/// A message or an attribute is cut off.
pub fn flows(dump: &[u8]) -> io::Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for message in Messages(dump) {
        flows.extend(messages::decode(Attributes::of(message?.body())?)?);
    }
    Ok(flows)
}

/// The messages that would delete all flows of ours in a dump of connection tracking that are not TCP.
///
/// # Errors
/// As [`flows`].
pub fn deletions(dump: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let marks: BTreeSet<u32> = flows(dump)?.iter().map(|flow| MARK_TAG | flow.mark & MARK_ID_MASK).collect();
    let mut deletions = Vec::new();
    for message in Messages(dump) {
        deletions.extend(messages::deletion(message?.body(), |entry| entry.is_lost(&marks, &BTreeSet::new()))?);
    }
    Ok(deletions)
}

/// The interfaces, addresses and routes in the messages of dumps of rtnetlink; what cannot be decoded is passed over.
///
/// # Errors
/// A message is cut off.
pub fn list(dump: &[u8]) -> io::Result<Listed> {
    let mut listed = Listed::default();
    for message in Messages(dump) {
        match message?.route() {
            Some(RouteNetlinkMessage::NewLink(message)) => listed.links += usize::from(link::decode(message).is_some()),
            Some(RouteNetlinkMessage::NewAddress(message)) => {
                listed.addresses += usize::from(address::decode(&message).is_some());
            }
            Some(RouteNetlinkMessage::NewRoute(message)) => {
                listed.routes += usize::from(route::decode(&message).is_some());
            }
            _ => {}
        }
    }
    Ok(listed)
}

/// What the kernel says to the requests that failed, in order.
///
/// # Errors
/// A message is cut off.
pub fn refusals(answers: &[u8]) -> io::Result<Vec<String>> {
    let errors = Messages(answers).map(|message| Ok(message?.error().err()));
    let errors: io::Result<Vec<_>> = errors.collect();
    Ok(errors?.into_iter().flatten().map(|refusal| refusal.to_string()).collect())
}
