//! Connection tracking helpers: what the kernel has for protocols that open further connections.

use std::sync::Arc;

pub use headgate_config::model::{Helper, Word};
use headgate_config::types::Protocol;
use headgate_nft::{Family, Object};

use crate::names::IpVersion;

/// One protocol and the families that the kernel's helper is for (`net/netfilter/nf_conntrack_*.c`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The object's name: `ftp-tcp`. All farms share it.
    pub name: Arc<str>,
    /// The object.
    pub object: Object,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// IPv4 alone, or both.
    pub families: &'static [IpVersion],
}

/// What a helper consists of.
pub fn variants(helper: Helper) -> Vec<Variant> {
    use Protocol::{Tcp, Udp};
    let (protocols, families): (&[Protocol], &'static [IpVersion]) = match helper {
        Helper::Ftp => (&[Tcp], &IpVersion::ALL),
        Helper::Pptp => (&[Tcp], &[IpVersion::V4]),
        Helper::Sip => (&[Tcp, Udp], &IpVersion::ALL),
        Helper::Snmp => (&[Udp], &[IpVersion::V4]),
        Helper::Tftp => (&[Udp], &IpVersion::ALL),
    };
    let variant = |&protocol: &Protocol| {
        let family = if families.len() > 1 { Family::Inet } else { Family::Ip };
        let number = protocol.number()?;
        let object = Object::Helper { helper: helper.word().into(), protocol: number, family };
        Some(Variant { name: format!("{}-{protocol}", helper.word()).into(), object, protocol, families })
    };
    protocols.iter().filter_map(variant).collect()
}

/// The module that translates what the protocol says of addresses. The kernel loads the helper's own by itself, but not this one.
pub fn nat_module(helper: Helper) -> &'static str {
    match helper {
        Helper::Ftp => "nf_nat_ftp",
        Helper::Pptp => "nf_nat_pptp",
        Helper::Sip => "nf_nat_sip",
        Helper::Snmp => "nf_nat_snmp_basic",
        Helper::Tftp => "nf_nat_tftp",
    }
}
