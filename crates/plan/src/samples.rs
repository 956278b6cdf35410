//! Configurations and machines for the tests of this crate, in few words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use headgate_config::Config;
use headgate_config::model::{
    AcceptRa, Backend, BackendState, Farm, FarmState, Interface, InterfaceAddress, ManageAddress, Mode, OnEmpty,
    OnFail, Origin, Scheduler,
};
use headgate_config::types::{BackendName, Endpoint, FarmName, Listen, Ports, Protocol, Role};
use ipnet::IpNet;

use crate::facts::{Facts, Link, LinkAddress};

pub(crate) fn origin() -> Origin {
    Origin { file: Arc::new(PathBuf::from("headgate.toml")), line: 1, column: 1 }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A TCP listener on one port.
pub(crate) fn tcp(ip: &str, port: u16) -> Listen {
    Listen { address: address(ip), ports: Ports::One(port), protocol: Protocol::Tcp }
}

pub(crate) fn backend(name: &str, ip: &str, port: u16) -> Backend {
    Backend {
        name: BackendName::new(name).unwrap(),
        origin: origin(),
        address: Endpoint { address: address(ip), port: Some(port) },
        weight: 1,
        priority: 1,
        state: BackendState::Up,
        max_connections: None,
        mark: None,
        source_address: None,
    }
}

/// An `snat` farm.
pub(crate) fn farm(name: &str, listen: Vec<Listen>, backends: Vec<Backend>) -> Farm {
    Farm {
        name: FarmName::new(name).unwrap(),
        origin: origin(),
        mode: Mode::Snat,
        listen,
        scheduler: Scheduler::RoundRobin,
        state: FarmState::Up,
        on_empty: OnEmpty::Reject,
        source_addresses: Vec::new(),
        offload: false,
        mark: None,
        helper: None,
        policies: Vec::new(),
        log: Vec::new(),
        queue: None,
        address_interface: None,
        address_manage: ManageAddress::Auto,
        persistence: None,
        limits: None,
        health: None,
        on_fail: OnFail::Drain,
        dsr: None,
        backends: backends.into_iter().collect(),
    }
}

/// `web`: 172.16.1.1:80 → b1, b2.
pub(crate) fn web() -> Farm {
    let backends = vec![backend("b1", "172.16.2.11", 8080), backend("b2", "172.16.2.12", 8080)];
    farm("web", vec![tcp("172.16.1.1", 80)], backends)
}

pub(crate) fn config(farms: Vec<Farm>) -> Config {
    Config { farms: farms.into_iter().map(|farm| (farm.name.clone(), Arc::new(farm))).collect(), ..Config::default() }
}

pub(crate) fn interface(role: &str, addresses: &[&str]) -> Interface {
    Interface {
        role: Role::new(role).unwrap(),
        origin: origin(),
        matching: None,
        addresses: addresses.iter().map(|text| InterfaceAddress::Static(net(text))).collect(),
        mtu: None,
        accept_ra: AcceptRa::No,
        vrf: None,
        allow: None,
    }
}

pub(crate) fn link(index: u32, addresses: &[&str]) -> Link {
    let addresses = addresses.iter().map(|text| LinkAddress { net: net(text), ours: false }).collect();
    Link { index, up: true, mtu: 1500, addresses, ..Link::default() }
}

/// Two interfaces: `eth0` with 172.16.1.254/24, `eth1` with 172.16.2.1/24, and both with an IPv6 subnet.
pub(crate) fn facts() -> Facts {
    let links = BTreeMap::from([
        ("lo".to_owned(), Link { loopback: true, ..link(1, &["127.0.0.1/8", "::1/128"]) }),
        ("eth0".to_owned(), link(2, &["172.16.1.254/24", "2001:db8:1::fe/64", "fe80::1/64"])),
        ("eth1".to_owned(), link(3, &["172.16.2.1/24", "fe80::2/64", "2001:db8:2::1/64"])),
    ]);
    Facts { links, ..Facts::default() }
}
