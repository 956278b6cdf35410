//! How long 10,000 addresses take to be added, announced, observed and removed, in a network namespace of its own.
//!
//! `cargo run --release -p headgate-host --example addresses [COUNT [COUNT6]]`, as root. The kernel walks lists of all
//! addresses for each one that comes or goes, so that the cost is quadratic: 1,000 IPv6 addresses unless told otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use headgate_host::{Host, Root};
use headgate_plan::state::{Address, State};
use headgate_plan::step::{Plan, Step};
use ipnet::IpNet;
use support::{Namespace, ip};

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

fn main() {
    let count = |position, default| {
        std::env::args().nth(position).map_or(default, |count| count.parse().expect("how many addresses"))
    };
    let (count4, count6) = (count(1, 10_000), count(2, 1_000));
    Namespace::new().run(move || {
        ip("link add x type veth peer name y");
        ip("link set x up");
        ip("link set y up");
        let v4 = |number: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + number)));
        let v6 =
            |number: u32| IpNet::from(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(number) + 1))));
        measure("IPv4", &addresses(count4, v4));
        measure("IPv6", &addresses(count6, v6));
    });
}

fn addresses(count: u32, net: impl Fn(u32) -> IpNet) -> Vec<Address> {
    (0..count).map(|number| Address { link: "x".to_owned(), net: net(number) }).collect()
}

fn measure(family: &str, addresses: &[Address]) {
    let mut host = Host::open(Root::default()).expect("root");
    let count = addresses.len();

    let steps = addresses.iter().cloned().map(Step::AddAddress).collect();
    let started = Instant::now();
    let report = host.apply(Plan { steps });
    println!("{family}: {count} added and announced in {:?}", started.elapsed());
    assert!(!report.failed(), "{:?}", report.failure);
    let sent: usize = report.announcements.iter().map(|announcement| announcement.sent).sum();
    assert_eq!(sent, count, "{:?}", report.announcements);

    let started = Instant::now();
    host.announce(addresses).expect("the interface is there");
    println!("{family}: {count} announced in {:?}", started.elapsed());

    let started = Instant::now();
    let observed = host.observe(&State::default()).expect("a working kernel");
    println!("{family}: {count} observed in {:?}", started.elapsed());
    assert_eq!(observed.addresses.len(), count);

    let steps = addresses.iter().cloned().map(Step::RemoveAddress).collect();
    let started = Instant::now();
    let report = host.apply(Plan { steps });
    println!("{family}: {count} removed in {:?}", started.elapsed());
    assert_eq!(report.refused().count(), 0);
}
