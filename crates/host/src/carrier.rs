//! Carriers that come, and the neighbours that were asked for in vain before.
//!
//! A request for a MAC address that leaves by an interface without carrier is lost, and the kernel asks again a second later
//! (`retrans_time_ms`; RFC 1122, 2.3.2.1, wants no more than one a second for an address). A port needs up to three seconds to
//! find its partner, and clients send meanwhile: of what a box needs from its start to its first packet, that second was the
//! longest part that nothing happened in. So an address that is still asked for is asked for once more as soon as the carrier is
//! there; the packets that wait for it go on waiting.

use std::collections::BTreeSet;
use std::io;

use nix::libc;
use rtnetlink::packet_core::NLM_F_REPLACE;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::sys::Socket;

use crate::link;
use crate::netlink::{Messages, Netlink, RECEIVE_BUFFER_BYTES, Request};

/// `NETLINK_ROUTE`, and its group `RTNLGRP_LINK` with the messages `RTM_NEWLINK` and `RTM_DELLINK`
/// (include/uapi/linux/rtnetlink.h).
const NETLINK_ROUTE: isize = 0;
const LINKS: u32 = 1;
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
/// `IFF_LOWER_UP` (include/uapi/linux/if.h).
const HAS_CARRIER: u32 = 1 << 16;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Came {
    /// Names of the interfaces that have a carrier now.
    pub links: Vec<String>,
    /// How many neighbours were asked for again.
    pub asked: usize,
}

/// Who has a carrier, followed by the kernel's messages, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Carriers {
    messages: Socket,
    requests: Netlink,
    /// Indices of interfaces.
    present: BTreeSet<u32>,
    buffer: Vec<u8>,
}

impl Carriers {
    /// Subscribes, and looks who has one now.
    ///
    /// # Errors
    /// There is no such socket, or interfaces cannot be listed.
    pub fn open() -> io::Result<Self> {
        let mut messages = Socket::new(NETLINK_ROUTE)?;
        messages.bind_auto()?;
        messages.add_membership(LINKS)?;
        let mut requests = Netlink::open_route()?;
        // Behind the subscription: what changes in between is told.
        let present = with_carrier(&mut requests)?;
        Ok(Self { messages, requests, present, buffer: vec![0; RECEIVE_BUFFER_BYTES] })
    }

    /// Waits until carriers come, and has the neighbours asked for again that are asked for there.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn follow(&mut self) -> io::Result<Came> {
        let came = loop {
            let came = self.wait()?;
            if !came.is_empty() {
                break came;
            }
        };
        let asked = ask_again(&mut self.requests, &came)?;
        let known = link::list(&mut self.requests)?.into_values();
        let links = known.filter(|found| came.contains(&found.index)).map(|found| found.name).collect();
        Ok(Came { links, asked })
    }

    /// Waits for a change of interfaces; whose carrier came.
    fn wait(&mut self) -> io::Result<BTreeSet<u32>> {
        let mut unfilled = self.buffer.as_mut_slice();
        let mut came = BTreeSet::new();
        match self.messages.recv(&mut unfilled, 0) {
            // A message that is cut off says enough with its beginning.
            Ok(length) => {
                for message in Messages(&self.buffer[..length]).flatten() {
                    let Some((index, flags)) = interface(message.body()) else { continue };
                    let has = message.kind() == NEW_LINK && flags & HAS_CARRIER != 0;
                    match message.kind() {
                        NEW_LINK | DELETED_LINK if !has => drop(self.present.remove(&index)),
                        NEW_LINK if self.present.insert(index) => drop(came.insert(index)),
                        _ => {}
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Messages were lost.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                let now = with_carrier(&mut self.requests)?;
                came = &now - &self.present;
                self.present = now;
            }
            Err(error) => return Err(error),
        }
        Ok(came)
    }
}

fn with_carrier(netlink: &mut Netlink) -> io::Result<BTreeSet<u32>> {
    Ok(link::list(netlink)?.into_values().filter(|found| found.carrier).map(|found| found.index).collect())
}

/// Index and flags of `struct ifinfomsg`.
fn interface(body: &[u8]) -> Option<(u32, u32)> {
    let number = |from: usize| Some(u32::from_ne_bytes(*body.get(from..)?.first_chunk()?));
    Some((number(4)?, number(8)?))
}

/// Two messages for each: the first forgets that it is asked for, without which the second, that somebody wants it (`NTF_USE`,
/// which `neigh_add` turns into `neigh_event_send`), would be told to wait for the timer.
fn ask_again(netlink: &mut Netlink, links: &BTreeSet<u32>) -> io::Result<usize> {
    let listed = netlink.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
    let unanswered: Vec<NeighbourMessage> = listed
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
            _ => None,
        })
        .filter(|neighbour| {
            neighbour.header.state == NeighbourState::Incomplete && links.contains(&neighbour.header.ifindex)
        })
        .collect();
    let requests = unanswered.iter().filter_map(address).flat_map(|forgotten| {
        let mut wanted = forgotten.clone();
        wanted.header.flags = NeighbourFlags::Use;
        [forgotten, wanted]
            .map(|message| Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_REPLACE })
    });
    // One that was answered or given up meanwhile needs nothing.
    netlink.request(requests.collect())?;
    Ok(unanswered.len())
}

/// A message that names this neighbour and says nothing of it.
fn address(found: &NeighbourMessage) -> Option<NeighbourMessage> {
    let mut message = NeighbourMessage::default();
    message.header.family = found.header.family;
    message.header.ifindex = found.header.ifindex;
    message.header.state = NeighbourState::None;
    let is_address = |attribute: &&NeighbourAttribute| {
        matches!(attribute, NeighbourAttribute::Destination(NeighbourAddress::Inet(_) | NeighbourAddress::Inet6(_)))
    };
    message.attributes.push(found.attributes.iter().find(is_address)?.clone());
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_an_interface_says_nothing() {
        for length in 0..12 {
            assert_eq!(interface(&vec![1; length]), None);
        }
        assert_eq!(interface(&[0, 0, 1, 0, 7, 0, 0, 0, 0x43, 0, 1, 0, 0, 0, 0, 0]), Some((7, 0x1_0043)));
    }
}
