//! Changes of a real kernel's links, addresses, routes and settings of NICs. Needs root, iproute2 and ethtool.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd};

use headgate_host::monitor::{Monitor, Subject};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::{Namespace, command, ip};

#[allow(dead_code)]
mod support;

/// What changed by a command: the kernel tells it before the command ends.
fn changed(monitor: &mut Monitor, arguments: &str) -> BTreeSet<Subject> {
    ip(arguments);
    monitor.take().expect("a working socket")
}

fn is_readable(monitor: &Monitor) -> bool {
    // SAFETY: the descriptor is the monitor's, which outlives this borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(monitor.as_raw_fd()) };
    poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], PollTimeout::ZERO).expect("poll") == 1
}

#[test]
fn links_addresses_and_routes_are_told_apart() {
    Namespace::new().run(|| {
        let mut monitor = Monitor::network().expect("a socket");
        assert_eq!(monitor.take().expect("a working socket"), BTreeSet::new());
        assert!(!is_readable(&monitor));
        let has = |changed: BTreeSet<Subject>, subject| assert!(changed.contains(&subject), "{changed:?}");
        has(changed(&mut monitor, "link add x type veth peer name y"), Subject::Links);
        has(changed(&mut monitor, "link set y up"), Subject::Links);
        has(changed(&mut monitor, "link set x up"), Subject::Links);
        has(changed(&mut monitor, "link set dev y name z"), Subject::Links);
        has(changed(&mut monitor, "address add 172.16.1.1/24 dev x"), Subject::Addresses);
        has(changed(&mut monitor, "address add 2001:db8::1/64 dev x nodad"), Subject::Addresses);
        assert_eq!(changed(&mut monitor, "route add 10.0.0.0/8 via 172.16.1.2"), [Subject::Routes].into());
        has(changed(&mut monitor, "-6 route add 2001:db8:1::/48 via 2001:db8::2"), Subject::Routes);
        assert_eq!(changed(&mut monitor, "rule add fwmark 1 lookup 100"), [Subject::Rules].into());
        assert_eq!(changed(&mut monitor, "-6 rule add fwmark 1 lookup 100"), [Subject::Rules].into());
        assert_eq!(changed(&mut monitor, "rule del fwmark 1"), [Subject::Rules].into());
        has(changed(&mut monitor, "link set x down"), Subject::Links);
        has(changed(&mut monitor, "link del x"), Subject::Links);
    });
}

#[test]
fn other_namespaces_are_not_told() {
    let (here, there) = (Namespace::new(), Namespace::new());
    let mut monitor = here.run(|| Monitor::network().expect("a socket"));
    there.run(|| drop(ip("link add x type veth peer name y")));
    assert_eq!(monitor.take().expect("a working socket"), BTreeSet::new());
}

#[test]
fn what_was_lost_counts_as_changed() {
    Namespace::new().run(|| {
        let mut monitor = Monitor::network().expect("a socket");
        ip("link add x type veth peer name y");
        ip("link set y up");
        ip("link set x up");
        // More messages than the socket's buffer holds.
        let routes: String = (0..4000).map(|n| format!("route add 10.{}.{}.0/24 dev x\n", n / 250, n % 250)).collect();
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), routes).expect("write");
        command("ip", &format!("-batch {}", file.path().display()));
        assert!(is_readable(&monitor));
        let all = BTreeSet::from([Subject::Links, Subject::Addresses, Subject::Routes, Subject::Rules]);
        assert_eq!(monitor.take().expect("a working socket"), all);
        assert_eq!(monitor.take().expect("a working socket"), BTreeSet::new());
        assert!(changed(&mut monitor, "address add 172.16.1.1/24 dev x").contains(&Subject::Addresses));
    });
}

#[test]
fn settings_of_nics_are_told() {
    let (here, there) = (Namespace::new(), Namespace::new());
    let told = here.run(|| {
        ip("link add x numrxqueues 4 numtxqueues 4 type veth peer name y");
        let mut monitor = Monitor::settings().expect("a socket");
        for change in ["-L x rx 2 tx 2", "-K x gro on", "-K x gro off", "-L x rx 4 tx 4"] {
            command("ethtool", change);
            assert!(is_readable(&monitor), "{change}");
            assert_eq!(monitor.take().expect("a working socket"), BTreeSet::from([Subject::Settings]), "{change}");
            assert_eq!(monitor.take().expect("a working socket"), BTreeSet::new());
        }
        ip("address add 172.16.1.1/24 dev x");
        command("ethtool", "-l x");
        assert_eq!(monitor.take().expect("a working socket"), BTreeSet::new(), "nothing was set");
        monitor
    });
    let mut monitor = told;
    there.run(|| {
        ip("link add x numrxqueues 4 numtxqueues 4 type veth peer name y");
        command("ethtool", "-L x rx 2 tx 2");
    });
    assert_eq!(monitor.take().expect("a working socket"), BTreeSet::new(), "of another namespace");
}
