//! Named objects and flowtables as values, and what only the kernel knows: counts and expiry.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::expr::{Limit, ObjectKind};
use crate::model::{Data, Family};

/// A named object of a table. Changing one deletes it and adds it with all that refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// Packets and bytes; the counts are the kernel's ([`crate::Socket::counters`]).
    Counter,
    /// A connection tracking helper, for rules that flows pass before they are confirmed.
    Helper {
        /// The kernel's name: `ftp`, `tftp`, `sip`…
        helper: Arc<str>,
        /// `IPPROTO_*`: 6 or 17.
        protocol: u8,
        /// [`Family::Inet`] is both, which reads back as the one that the helper has when it has only one.
        family: Family,
    },
    /// Where an `external` tunnel device sends a packet; in netdev tables.
    Tunnel(Tunnel),
    /// Options of a SYN proxy.
    Synproxy {
        /// Largest segment that is told to the client, bytes.
        mss: u16,
        /// Window scale that is told to the client, 0 to 14.
        wscale: u8,
        /// Offer time stamps.
        timestamp: bool,
        /// Offer selective acknowledgements.
        sack: bool,
    },
    /// Only observed: an object that this model has no words for. Adding it is left out.
    Foreign,
}

/// The outer header of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tunnel {
    /// The key of GRE; IPIP does not send it.
    pub id: u32,
    /// Outer source; the family of `destination`, or the kernel refuses the object.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// Outer time to live.
    pub ttl: u8,
    /// GRE without a checksum, as backends without `csum` want it.
    pub zero_checksum: bool,
}

/// `flowtable NAME { hook ingress priority P; devices = { … }; }`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flowtable {
    /// `priority`; lower runs earlier.
    pub priority: i32,
    /// At whose ingress flows are looked up.
    pub devices: BTreeSet<Arc<str>>,
    /// `counter`: flows on the fast path are still counted in their conntrack entries.
    pub counters: bool,
    /// `flags offload`: into the devices themselves, which must all be able to.
    pub hardware: bool,
}

impl Flowtable {
    /// Whether this flowtable can become `new` without being deleted: the kernel adds and removes devices and changes the
    /// counting (`nft_flowtable_update`, net/netfilter/nf_tables_api.c).
    pub fn can_become(&self, new: &Self) -> bool {
        self.priority == new.priority && self.hardware == new.hardware
    }
}

/// What a counter has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub packets: u64,
    pub bytes: u64,
}

/// An element as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ElementState {
    /// In maps only.
    pub data: Option<Data>,
    /// Shown by nft(8).
    pub comment: Option<Arc<str>>,
    /// Milliseconds until it goes away; `None` stays.
    pub expires_ms: Option<u64>,
    /// What it has counted.
    pub counter: Option<Counts>,
    /// The limit that it has for itself.
    pub limit: Option<Limit>,
}

impl Object {
    /// Its kind; `None` of a foreign one.
    pub fn kind(&self) -> Option<ObjectKind> {
        Some(match self {
            Self::Counter => ObjectKind::Counter,
            Self::Helper { .. } => ObjectKind::Helper,
            Self::Tunnel(_) => ObjectKind::Tunnel,
            Self::Synproxy { .. } => ObjectKind::Synproxy,
            Self::Foreign => return None,
        })
    }
}
