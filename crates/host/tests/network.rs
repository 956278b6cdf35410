//! Addresses, routes and links of a real kernel, in network namespaces. Needs root and iproute2.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use headgate_host::announce::Unannounced;
use headgate_host::{Host, Report, Root};
use headgate_plan::compile::Desired;
use headgate_plan::state::{Address, LinkState, MarkMatch, Neighbour, Route, RoutingRule, State};
use headgate_plan::step::{Outcome, Plan, Step};
use support::{Namespace, command, ip};

#[allow(dead_code)]
mod support;

fn host() -> Host {
    Host::open(Root::default()).expect("root, with netlink and nftables")
}

fn address(link: &str, net: &str) -> Address {
    Address { link: link.to_owned(), net: net.parse().expect("an address with its length") }
}

fn route(to: &str, via: Option<&str>) -> Route {
    let via = via.map(|via| via.parse().expect("an address"));
    Route { to: to.parse().expect("a prefix"), via, link: None, source: None, metric: None, table: 254 }
}

fn apply(host: &mut Host, steps: Vec<Step>) -> Report {
    host.apply(Plan { steps })
}

fn outcomes(report: &Report) -> Vec<Outcome> {
    report.steps.iter().map(|(_, outcome)| outcome.clone()).collect()
}

/// What is still to be done for `wanted`.
fn left(host: &mut Host, wanted: &State) -> Vec<Step> {
    let desired = Desired { state: wanted.clone(), ..Desired::default() };
    host.verify(&desired).expect("a working kernel").steps
}

/// Addresses and routes as `ip` shows them.
fn shown() -> String {
    ip("-details address show dev x") + &ip("route show table all") + &ip("-6 route show table all")
}

/// Waits for what another namespace's softirq has to do first.
fn eventually(look: impl Fn() -> String, good: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let last = look();
        if good(&last) {
            return;
        }
        assert!(Instant::now() < deadline, "last seen: {last}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An interface `x` that is up, with its other end `y`.
fn pair() -> Namespace {
    let namespace = Namespace::new();
    namespace.run(|| {
        ip("link add x type veth peer name y");
        // Link-local addresses come up asynchronously and would disturb comparisons.
        ip("link set x addrgenmode none up");
        ip("link set y addrgenmode none up");
    });
    namespace
}

#[test]
fn what_is_added_is_observed_and_can_be_removed() {
    pair().run(|| {
        let mut host = host();
        let addresses = [address("x", "172.16.1.1/24"), address("x", "172.16.1.2/32"), address("x", "2001:db8::1/128")];
        let through = Route { link: Some("x".to_owned()), ..route("10.9.0.0/16", None) };
        let metric = Route { metric: Some(7), ..route("10.8.0.0/16", Some("172.16.1.254")) };
        let source = Route {
            source: Some("172.16.1.2".parse().expect("an address")),
            table: 4000,
            ..route("0.0.0.0/0", Some("172.16.1.254"))
        };
        let routes = [route("0.0.0.0/0", Some("172.16.1.254")), through, metric, source];
        let wanted = State {
            addresses: BTreeSet::from(addresses.clone()),
            routes: BTreeSet::from(routes.clone()),
            ..State::default()
        };
        let steps = addresses.iter().cloned().map(Step::AddAddress).chain(routes.iter().cloned().map(Step::AddRoute));
        let report = apply(&mut host, steps.collect());
        assert_eq!(outcomes(&report), vec![Outcome::Set; 7], "{report:?}");
        assert!(!report.failed());

        assert_eq!(left(&mut host, &wanted), []);

        let steps =
            routes.into_iter().map(Step::RemoveRoute).chain(addresses.into_iter().rev().map(Step::RemoveAddress));
        let report = apply(&mut host, steps.collect());
        assert_eq!(outcomes(&report), vec![Outcome::Set; 7], "{report:?}");
        assert_eq!(host.observe(&wanted).expect("a working kernel"), State::default());
    });
}

#[test]
fn ipv6_routes_are_added_and_observed_as_they_are_wanted() {
    pair().run(|| {
        let mut host = host();
        let net = address("x", "2001:db8:1::1/64");
        let default = route("::/0", Some("2001:db8:1::fe"));
        let source = Route { source: Some(net.net.addr()), ..route("2001:db8:9::/48", Some("2001:db8:1::fe")) };
        let wanted = State {
            addresses: BTreeSet::from([net.clone()]),
            routes: BTreeSet::from([default.clone(), source.clone()]),
            ..State::default()
        };
        let steps = vec![Step::AddAddress(net), Step::AddRoute(default), Step::AddRoute(source)];
        let report = apply(&mut host, steps);
        assert_eq!(outcomes(&report), vec![Outcome::Set; 3], "{report:?}");
        assert_eq!(left(&mut host, &wanted), []);
        assert!(!ip("-6 address show dev x").contains("tentative"), "no duplicate address detection");
    });
}

#[test]
fn what_others_have_is_neither_seen_as_ours_nor_touched() {
    pair().run(|| {
        ip("address add 172.16.1.1/24 dev x");
        ip("address add 172.16.1.3/32 dev x");
        ip("route add 10.1.0.0/16 via 172.16.1.254");
        let mut host = host();
        assert_eq!(host.observe(&State::default()).expect("a working kernel"), State::default());
        let before = shown();

        let report = apply(&mut host, vec![Step::AddAddress(address("x", "172.16.1.3/32"))]);
        assert_eq!(outcomes(&report), [Outcome::Kept], "it is there, and somebody else's");
        let report = apply(&mut host, vec![Step::AddRoute(route("10.1.0.0/16", Some("172.16.1.253")))]);
        assert!(report.failed(), "it would hide another's: {report:?}");
        let report = apply(&mut host, vec![Step::RemoveRoute(route("10.1.0.0/16", Some("172.16.1.254")))]);
        assert_eq!(outcomes(&report), [Outcome::Kept], "the kernel finds none of ours");
        host.flush().expect("nothing to do");
        assert_eq!(shown(), before);
    });
}

#[test]
fn secondaries_of_others_survive_our_first_address() {
    pair().run(|| {
        let mut host = host();
        for link in ["x", "all"] {
            let path = format!("/proc/sys/net/ipv4/conf/{link}/promote_secondaries");
            std::fs::write(path, "0").expect("a sysctl of this namespace");
        }
        apply(&mut host, vec![Step::AddAddress(address("x", "172.16.1.1/24"))]);
        ip("address add 172.16.1.9/24 dev x");
        let report = apply(&mut host, vec![Step::RemoveAddress(address("x", "172.16.1.1/24"))]);
        assert_eq!(outcomes(&report), [Outcome::Set]);
        assert!(ip("address show dev x").contains("172.16.1.9/24"));
        let left = std::fs::read_to_string("/proc/sys/net/ipv4/conf/x/promote_secondaries").expect("the same sysctl");
        assert_eq!(left.trim(), "0");
    });
}

#[test]
fn a_route_is_replaced_by_another_to_the_same_place() {
    for (net, to, old, new) in [
        ("172.16.1.1/24", "10.1.0.0/16", "172.16.1.253", "172.16.1.254"),
        ("2001:db8:1::1/64", "2001:db8:9::/48", "2001:db8:1::fd", "2001:db8:1::fe"),
    ] {
        pair().run(move || {
            let mut host = host();
            let (old, new) = (route(to, Some(old)), route(to, Some(new)));
            apply(&mut host, vec![Step::AddAddress(address("x", net)), Step::AddRoute(old.clone())]);
            let report = apply(&mut host, vec![Step::AddRoute(new.clone()), Step::RemoveRoute(old)]);
            assert_eq!(outcomes(&report), [Outcome::Set, Outcome::Set], "{report:?}");
            let wanted = State { routes: BTreeSet::from([new]), ..State::default() };
            assert_eq!(host.observe(&wanted).expect("a working kernel").routes.len(), 1);
            let kept = [Step::RemoveAddress(address("x", net))];
            assert_eq!(left(&mut host, &wanted), kept);
        });
    }
}

#[test]
fn links_go_up_and_down_and_change_their_mtu() {
    pair().run(|| {
        let mut host = host();
        let wanted =
            State { links: [("x".to_owned(), LinkState { up: false, mtu: Some(1400) })].into(), ..State::default() };
        let down = Step::LinkUp { link: "x".to_owned(), up: false };
        let mtu = Step::LinkMtu { link: "x".to_owned(), was: 1500, want: 1400 };
        let report = apply(&mut host, vec![down, mtu]);
        assert_eq!(outcomes(&report), [Outcome::Set, Outcome::Set]);
        assert_eq!(host.observe(&wanted).expect("a working kernel"), wanted);

        let up = Step::LinkUp { link: "x".to_owned(), up: true };
        let absurd = Step::LinkMtu { link: "x".to_owned(), was: 1400, want: 20 };
        let missing = Step::LinkUp { link: "z".to_owned(), up: true };
        let report = apply(&mut host, vec![absurd, missing, up]);
        assert!(!report.failed(), "a refused link keeps nothing from being done");
        assert_eq!(report.refused().count(), 2, "{report:?}");
        assert_eq!(report.steps[2].1, Outcome::Set);
    });
}

#[test]
fn a_failure_takes_back_what_was_done() {
    pair().run(|| {
        ip("link set x mtu 1500");
        let mut host = host();
        let before = shown();
        let steps = vec![
            Step::LinkMtu { link: "x".to_owned(), was: 1500, want: 1400 },
            Step::AddAddress(address("x", "172.16.1.1/24")),
            Step::AddAddress(address("x", "172.16.1.2/32")),
            Step::AddAddress(address("z", "172.16.1.3/32")),
            Step::AddRoute(route("10.1.0.0/16", Some("172.16.1.254"))),
            Step::RemoveAddress(address("x", "172.16.1.4/32")),
        ];
        let report = apply(&mut host, steps);
        let failure = report.failure.clone().expect("there is no interface z");
        assert_eq!((failure.step, failure.reason.as_str(), failure.stale), (3, "there is no interface z", false));
        let refused = Outcome::Refused("there is no interface z".to_owned());
        let returned = Outcome::Returned;
        assert_eq!(
            outcomes(&report),
            [returned.clone(), returned.clone(), returned.clone(), refused, returned, Outcome::Skipped]
        );
        assert_eq!(shown(), before);
    });
}

#[test]
fn removals_of_what_is_gone_are_no_failure() {
    pair().run(|| {
        let mut host = host();
        let report = apply(
            &mut host,
            vec![
                Step::RemoveRoute(route("10.1.0.0/16", Some("172.16.1.254"))),
                Step::RemoveAddress(address("x", "172.16.1.1/24")),
                Step::RemoveAddress(address("z", "172.16.1.1/24")),
                Step::RemoveAddress(address("x", "2001:db8::1/128")),
            ],
        );
        assert_eq!(outcomes(&report), vec![Outcome::Kept; 4], "{report:?}");
    });
}

#[test]
fn each_of_a_thousand_steps_has_its_own_outcome() {
    pair().run(|| {
        let mut host = host();
        let net = |number: u32| format!("10.0.{}.{}/32", number / 200, number % 200 + 1);
        for number in (0..1000).step_by(3) {
            ip(&format!("address add {} dev x", net(number)));
        }
        let steps: Vec<_> = (0..1000).map(|number| Step::AddAddress(address("x", &net(number)))).collect();
        let report = apply(&mut host, steps);
        for (number, (step, outcome)) in report.steps.iter().enumerate() {
            assert_eq!(*outcome, if number % 3 == 0 { Outcome::Kept } else { Outcome::Set }, "{step:?}");
        }
        assert_eq!(report.announcements[0].sent, 666, "others announce theirs");
        // All refused, which fills the receive buffer with errors.
        let multicast = |number: u32| Step::AddAddress(address("x", &format!("ff0e::{:x}/128", number + 1)));
        let steps: Vec<_> = (0..1000).map(multicast).collect();
        let report = apply(&mut host, steps);
        let reasons: BTreeSet<_> = report.refused().map(|(_, reason)| reason).collect();
        assert_eq!((report.refused().count(), reasons.len()), (1000, 1), "{reasons:?}");
        assert_eq!(host.observe(&State::default()).expect("a working kernel").addresses.len(), 666);
    });
}

#[test]
fn a_dump_is_whole_while_others_change_addresses() {
    let namespace = pair();
    namespace.run(|| {
        let steps: Vec<_> = (0..500_u32)
            .map(|number| Step::AddAddress(address("x", &format!("10.0.{}.{}/32", number / 200, number % 200 + 1))))
            .collect();
        apply(&mut host(), steps);
        let batch: String =
            (0..2000).map(|n| format!("address {} 10.9.9.9/32 dev y\n", ["add", "del"][n % 2])).collect();
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), batch).expect("a temporary file");
        let mut other = std::process::Command::new("ip").arg("-batch").arg(file.path()).spawn().expect("ip");
        let mut host = host();
        while other.try_wait().expect("our child").is_none() {
            assert_eq!(host.observe(&State::default()).expect("a whole dump").addresses.len(), 500);
        }
    });
}

#[test]
fn facts_tell_foreign_addresses_from_ours() {
    pair().run(|| {
        ip("address add 172.16.1.1/24 dev x");
        ip("route add default via 172.16.1.254 src 172.16.1.1 metric 5");
        ip("route add 10.7.0.0/16 nexthop via 172.16.1.254 dev x nexthop via 172.16.1.253 dev x");
        let mut host = host();
        apply(
            &mut host,
            vec![
                Step::AddAddress(address("x", "172.16.1.2/32")),
                Step::AddRoute(route("10.1.0.0/16", Some("172.16.1.254"))),
            ],
        );
        let facts = host.facts().expect("a working kernel");
        let x = &facts.links["x"];
        assert!(x.up && !x.loopback && x.mtu == 1500 && x.mac.len() == 17, "{x:?}");
        let v4: Vec<_> = x.addresses.iter().filter(|found| found.net.addr().is_ipv4()).collect();
        assert_eq!(v4.len(), 2);
        assert!(v4.iter().all(|found| found.ours == (found.net.prefix_len() == 32)), "{v4:?}");
        assert!(facts.links["lo"].loopback);
        let default = facts.routes.iter().find(|route| route.to.prefix_len() == 0).expect("the default route");
        let spread = facts.routes.iter().find(|route| route.to == "10.7.0.0/16".parse().expect("a prefix"));
        assert_eq!(spread.expect("it is there").via, Some("172.16.1.254".parse().expect("an address")));
        assert_eq!((default.metric, default.link.as_str()), (5, "x"));
        assert_eq!(default.source, Some("172.16.1.1".parse().expect("an address")));
        assert!(!facts.routes.iter().any(|route| route.to == "10.1.0.0/16".parse().expect("a prefix")), "ours is not");
    });
}

#[test]
fn a_neighbour_learns_where_an_address_went() {
    // Two owners and a client on one bridge.
    let (client, one, two) = (Namespace::new(), Namespace::new(), Namespace::new());
    let (first, second) = (one.tid, two.tid);
    client.run(move || {
        ip("link add br0 type bridge");
        for (name, tid) in [("one", first), ("two", second)] {
            ip(&format!("link add {name} type veth peer name x"));
            ip(&format!("link set x netns {tid}"));
            ip(&format!("link set {name} master br0 up"));
        }
        ip("address add 172.16.1.254/24 dev br0");
        ip("address add 2001:db8::fe/64 dev br0 nodad");
        ip("link set br0 up");
    });
    let vips = [address("x", "172.16.1.1/32"), address("x", "2001:db8::1/128")];
    let take = |namespace: &Namespace, port: &'static str, mac: &'static str| {
        let vips = vips.clone();
        namespace.run(move || ip(&format!("link set x address {mac} up")));
        client
            .run(move || eventually(|| ip(&format!("-details link show {port}")), |text| text.contains("forwarding")));
        namespace.run(move || {
            let mut host = host();
            let report = apply(&mut host, vips.map(Step::AddAddress).to_vec());
            assert_eq!(outcomes(&report), vec![Outcome::Set; 2]);
            assert_eq!(report.announcements.len(), 1);
            assert_eq!((report.announcements[0].sent, &report.announcements[0].unsent), (2, &None), "{report:?}");
        });
    };
    let learn = |mac: &'static str| {
        client.run(move || {
            eventually(
                || ip("neighbour show"),
                |all| {
                    let has = |vip: &str| all.lines().any(|line| line.starts_with(vip) && line.contains(mac));
                    has("172.16.1.1 ") && has("2001:db8::1 ")
                },
            );
        });
    };
    take(&one, "one", "02:00:00:00:00:01");
    // An announcement changes an entry, it does not make one.
    client.run(|| {
        ip("neighbour replace 172.16.1.1 lladdr 02:00:00:00:00:01 nud stale dev br0");
        ip("neighbour replace 2001:db8::1 lladdr 02:00:00:00:00:01 nud stale dev br0");
    });
    learn("02:00:00:00:00:01");
    one.run({
        let vips = vips.clone();
        move || {
            let report = apply(&mut host(), vips.map(Step::RemoveAddress).to_vec());
            assert_eq!(outcomes(&report), vec![Outcome::Set; 2]);
        }
    });
    take(&two, "two", "02:00:00:00:00:02");
    learn("02:00:00:00:00:02");
}

#[test]
fn an_address_without_a_carrier_is_announced_later() {
    pair().run(|| {
        ip("link set y down");
        let mut host = host();
        let vip = address("x", "172.16.1.1/32");
        let loopback = Address { link: "lo".to_owned(), ..address("x", "172.16.1.2/32") };
        let report = apply(&mut host, vec![Step::AddAddress(vip.clone()), Step::AddAddress(loopback)]);
        assert_eq!(outcomes(&report), [Outcome::Set, Outcome::Set], "the addresses are in place all the same");
        let unsent: Vec<_> = report.announcements.iter().filter_map(|found| found.unsent).collect();
        assert_eq!(unsent, [(1, Unannounced::NoNeighbours), (1, Unannounced::Down)]);
        let later: Vec<_> = report.unannounced().collect();
        assert_eq!(later, [&vip], "nobody is ever told on lo");

        ip("link set y up");
        let announced = host.announce(later).expect("the interface is there");
        assert_eq!((announced[0].sent, announced[0].unsent), (1, None));
    });
}

#[test]
fn an_ipv6_address_changes_its_prefix_length() {
    pair().run(|| {
        let mut host = host();
        let (old, new) = (address("x", "2001:db8::1/64"), address("x", "2001:db8::1/48"));
        apply(&mut host, vec![Step::AddAddress(old.clone())]);
        eventually(shown, |all| all.contains("local 2001:db8::1"));
        let before = shown();

        let failing = Step::AddAddress(address("z", "172.16.1.1/32"));
        let (add, remove) = (Step::AddAddress(new.clone()), Step::RemoveAddress(old.clone()));
        let report = apply(&mut host, vec![add.clone(), failing, remove.clone()]);
        assert!(report.failed());
        // A worker of the kernel adds the local route a moment after the address (addrconf_dad_work).
        eventually(shown, |after| after == before);

        let report = apply(&mut host, vec![add, remove]);
        assert_eq!(outcomes(&report), [Outcome::Set, Outcome::Kept]);
        let wanted = State { addresses: BTreeSet::from([new]), ..State::default() };
        assert_eq!(left(&mut host, &wanted), []);
    });
}

#[test]
fn a_jammed_interface_holds_nobody_up() {
    pair().run(|| {
        command("tc", "qdisc replace dev x root tbf rate 8kbit burst 2000 limit 3000");
        let vips: Vec<_> = (1..=250).map(|number| address("x", &format!("172.16.1.{number}/32"))).collect();
        let started = Instant::now();
        let report = apply(&mut host(), vips.into_iter().map(Step::AddAddress).collect());
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        assert_eq!(outcomes(&report), vec![Outcome::Set; 250]);
        let announcement = &report.announcements[0];
        assert_eq!(announcement.unsent, Some((250 - announcement.sent, Unannounced::Late)), "{announcement:?}");
        assert!((10..200).contains(&announcement.sent), "{announcement:?}");
    });
}

fn rule(priority: u32, from: &str, to: &str, mark: Option<(u32, u32)>) -> RoutingRule {
    let net = |text: &str| text.parse().expect("a prefix");
    let mark = mark.map(|(value, mask)| MarkMatch { value, mask });
    RoutingRule { priority, from: net(from), to: net(to), mark, link: None, table: 4000 }
}

#[test]
fn routing_rules_are_observed_as_they_were_added_and_those_of_others_stay() {
    pair().run(|| {
        let mut host = host();
        let shown = || ip("rule show") + &ip("-6 rule show");
        // The same in all but who added it, before ours and behind.
        ip("rule add priority 100 from 10.0.0.0/8 lookup 4000");
        ip("rule add priority 103 fwmark 0/0xff lookup 4000 protocol static");
        let before = shown();
        let (all, all6) = ("0.0.0.0/0", "::/0");
        let rules = [
            rule(100, "10.0.0.0/8", all, None),
            rule(101, all, "10.9.0.0/16", Some((0x10, 0xf0))),
            RoutingRule { link: Some("x".to_owned()), table: 7, ..rule(102, all, all, Some((u32::MAX, u32::MAX))) },
            rule(103, all, all, Some((0, 0xff))),
            rule(32767, all, all, Some((1, 1))),
            rule(u32::MAX, "2001:db8::/32", "2001:db8:1::1/128", None),
            RoutingRule { link: Some("lo".to_owned()), ..rule(100, all6, all6, None) },
        ];
        let wanted = State { rules: BTreeSet::from(rules.clone()), ..State::default() };
        let steps = || rules.iter().cloned().map(Step::AddRule);
        let report = apply(&mut host, steps().collect());
        assert_eq!(outcomes(&report), vec![Outcome::Set; rules.len()], "{report:?}");
        assert_eq!(left(&mut host, &wanted), [], "{}", shown());
        assert_eq!(host.observe(&State::default()).expect("a working kernel").rules.len(), rules.len());

        let report = apply(&mut host, vec![Step::RemoveRule(rules[3].clone()), Step::RemoveRule(rules[3].clone())]);
        assert_eq!(outcomes(&report), [Outcome::Set, Outcome::Kept], "it is another's that is left: {}", shown());
        // What comes before a step that fails is taken back.
        let report =
            apply(&mut host, vec![Step::AddRule(rules[3].clone()), Step::AddAddress(address("z", "172.16.1.1/32"))]);
        assert!(report.failed() && report.steps[0].1 == Outcome::Returned, "{report:?}");
        assert_eq!(left(&mut host, &wanted), [Step::AddRule(rules[3].clone())]);

        host.flush().expect("a working kernel");
        assert_eq!(shown(), before);
    });
}

fn neighbour(address: &str, last: u8) -> Neighbour {
    let address = address.parse().expect("an address");
    Neighbour { link: "x".to_owned(), address, mac: [2, 0, 0, 0, 0, last] }
}

#[test]
fn neighbours_are_observed_as_they_were_added_and_those_of_others_stay() {
    pair().run(|| {
        let mut host = host();
        ip("address add 172.16.1.254/24 dev x");
        ip("neighbour add 172.16.1.66 lladdr 02:00:00:00:00:66 dev x nud permanent");
        ip("neighbour add 172.16.1.67 lladdr 02:00:00:00:00:67 dev x nud stale protocol zebra");
        // What the kernel has found out is nobody's.
        ip("neighbour add 172.16.1.11 lladdr 02:00:00:00:00:99 dev x nud stale");
        let shown = || ip("neighbour show dev x nud all");
        let three = [neighbour("172.16.1.11", 1), neighbour("172.16.1.12", 2), neighbour("2001:db8::11", 3)];
        let wanted = State { neighbours: BTreeSet::from(three.clone()), ..State::default() };
        assert_eq!(left(&mut host, &wanted).len(), 3);
        let report = apply(&mut host, three.iter().cloned().map(Step::AddNeighbour).collect());
        assert_eq!(outcomes(&report), vec![Outcome::Set; 3], "{report:?}");
        assert_eq!(left(&mut host, &wanted), [], "{}", shown());
        assert!(shown().contains("172.16.1.11 lladdr 02:00:00:00:00:01 PERMANENT proto 72"), "{}", shown());

        // Another says otherwise, and it is still ours.
        ip("neighbour replace 172.16.1.11 lladdr 02:00:00:00:00:98 dev x nud permanent");
        let was = Neighbour { mac: [2, 0, 0, 0, 0, 0x98], ..three[0].clone() };
        let replace = Step::ReplaceNeighbour { was, want: three[0].clone() };
        assert_eq!(left(&mut host, &wanted), std::slice::from_ref(&replace));
        // What comes before a step that fails is taken back, also where something was.
        let fails = Step::AddAddress(address("z", "172.16.1.1/32"));
        let report = apply(&mut host, vec![replace.clone(), fails]);
        assert!(report.failed() && report.steps[0].1 == Outcome::Returned, "{report:?}");
        assert_eq!(left(&mut host, &wanted), std::slice::from_ref(&replace));
        assert_eq!(outcomes(&apply(&mut host, vec![replace])), [Outcome::Set]);
        // No more than what was found out.
        ip("neighbour change 172.16.1.11 dev x nud stale");
        assert_eq!(left(&mut host, &wanted), [Step::AddNeighbour(three[0].clone())], "{}", shown());

        for address in ["172.16.1.66", "172.16.1.67"] {
            let report = apply(&mut host, vec![Step::AddNeighbour(neighbour(address, 1))]);
            let reason = "another program says what its MAC address is".to_owned();
            assert_eq!(outcomes(&report), [Outcome::Refused(reason)], "{address}");
        }
        let gone = || Step::RemoveNeighbour(three[1].clone());
        assert_eq!(outcomes(&apply(&mut host, vec![gone(), gone()])), [Outcome::Set, Outcome::Kept]);

        host.flush().expect("a working kernel");
        assert_eq!(host.observe(&State::default()).expect("a working kernel").neighbours, BTreeSet::new());
        assert!(shown().contains("172.16.1.66 lladdr 02:00:00:00:00:66 PERMANENT"), "{}", shown());
        assert!(shown().contains("172.16.1.67 lladdr 02:00:00:00:00:67 STALE proto zebra"), "{}", shown());
    });
}
