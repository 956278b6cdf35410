//! `offload`: what becomes of flows that take the short way, and of the flowtable as links come and go.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, Talk};
use headgate_tests::wire::at;
use serde_json::Value;

const VIP: [&str; 2] = ["172.16.1.1:80", "[2001:db8:1::1]:80"];
/// Flows of each protocol and family; with two backends in turn, both have some.
const EACH: usize = 4;
/// For what takes a second or so where nobody else works.
const DEADLINE: Duration = Duration::from_secs(120);

/// A farm of two backends of each family, with these lines for the second ones, if they are to be there.
fn farm(lines: &str, second: Option<&str>) -> String {
    let listen: Vec<String> = VIP.iter().flat_map(|to| [format!("{to}/tcp"), format!("{to}/udp")]).collect();
    let mut text = format!("[farms.web]\nlisten = {listen:?}\noffload = true\n{lines}\n");
    for (number, more) in [(11, Some("")), (12, second)] {
        let Some(more) = more else { continue };
        for (letter, address) in [('b', backend(number, 8080)), ('c', backend6(number, 8080))] {
            text += &format!("[farms.web.backends.{letter}{number}]\naddress = \"{address}\"\n{more}\n");
        }
    }
    text
}

fn lab(label: &str) -> (Lab, Vec<Server>) {
    let lab = Lab::new(label).unwrap();
    let both = |number| [(number, backend(number, 8080)), (number, backend6(number, 8080))];
    let start = |(number, address)| Server::start(&lab.backends, &format!("b{number}"), address).unwrap();
    let servers = [11, 12].into_iter().flat_map(both).map(start).collect();
    (lab, servers)
}

fn apply(lab: &Lab, text: &str) {
    lab.configure(text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
}

/// Waits until something is so, and says how long that took.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("offload: {what}: after {} ms", begin.elapsed().as_millis());
    begin.elapsed()
}

/// Flows of both families and protocols to both backends.
struct Flows {
    tcp: Vec<Connection>,
    udp: Vec<(String, Talk)>,
}

impl Flows {
    /// Opens them, and waits until all of them take the short way.
    fn open(lab: &Lab, what: &str) -> Self {
        let mut flows = Self { tcp: Vec::new(), udp: Vec::new() };
        for to in VIP {
            for _ in 0..EACH {
                flows.tcp.push(Connection::open(&lab.client, at(to)).unwrap().unwrap());
            }
            for _ in 0..EACH {
                let talk = Talk::open(&lab.client, at(to)).unwrap();
                flows.udp.push((talk.ask().unwrap().server, talk));
            }
        }
        let tcp: BTreeSet<&str> = flows.tcp.iter().map(|connection| &*connection.answer.server).collect();
        let udp: BTreeSet<&str> = flows.udp.iter().map(|(server, _)| &**server).collect();
        assert_eq!((tcp.len(), udp.len()), (2, 2), "{what}: flows to both backends");
        let tcp = flows.tcp.iter().map(|connection| connection.local().unwrap().port());
        let ports: Vec<u16> = tcp.chain(flows.udp.iter().map(|(_, talk)| talk.local().unwrap().port())).collect();
        wait(&format!("{what}: all flows take the short way"), || {
            flows.check(what);
            offloaded(lab, &ports)
        });
        flows
    }

    /// All are alive and where they were.
    fn check(&mut self, what: &str) {
        for connection in &mut self.tcp {
            connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {:?}: {e}", connection.answer));
        }
        for (before, talk) in &self.udp {
            let now = talk.ask().unwrap_or_else(|e| panic!("{what}: UDP to {before}: {e}")).server;
            assert_eq!(now, *before, "{what}: UDP moves");
        }
    }

    /// UDP leaves the second backend soon, and what is the first one's stays.
    fn leave(&mut self, what: &str) {
        wait(&format!("{what}: UDP left"), || {
            let servers = self.udp.iter_mut().map(|(before, talk)| {
                let now = talk.ask().unwrap_or_else(|e| panic!("{what}: UDP to {before}: {e}")).server;
                assert!(now == *before || now == "b11", "{what}: UDP moves from {before} to {now}");
                now == "b11"
            });
            // Each is asked, whatever the others say.
            !servers.collect::<Vec<bool>>().contains(&false)
        });
    }

    /// TCP of the second backend is reset soon, and what is the first one's stays.
    fn reset(&mut self, what: &str) {
        for connection in &mut self.tcp {
            let server = connection.answer.server.clone();
            if server == "b11" {
                connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {server}: {e}"));
                continue;
            }
            wait(&format!("{what}: TCP reset"), || match connection.echo("anybody") {
                Ok(()) => false,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
                    true
                }
            });
        }
    }
}

/// Whether the flows from these ports of the client all take the short way. conntrack(8) says it sooner than we do, where each
/// instruction is translated.
fn offloaded(lab: &Lab, ports: &[u16]) -> bool {
    let listed = ["ipv4", "ipv6"].map(|family| lab.gate.run(&format!("conntrack -L -f {family}")).unwrap());
    let short: Vec<&str> =
        listed.iter().flat_map(|text| text.lines()).filter(|line| line.contains("[OFFLOAD]")).collect();
    ports.iter().all(|port| short.iter().any(|line| line.contains(&format!(" sport={port} dport=80 "))))
}

/// The table of the contract for a backend's states, row by row, under flows that connection tracking does not see any more.
#[test]
#[ignore = "in the guest"]
fn offloaded_flows_stay_and_leave_as_the_state_of_their_backend_says() {
    let (mut lab, _servers) = lab("offst");
    for mode in ["snat", "dnat"] {
        let lines = format!("mode = {mode:?}");
        let both = farm(&lines, Some(""));
        lab.configure(&both).unwrap();
        lab.start().unwrap();
        for (row, second) in
            [("drain", Some("state = \"drain\"")), ("down", Some("state = \"down\"")), ("removed", None)]
        {
            let what = format!("{mode}: {row}");
            apply(&lab, &both);
            let mut flows = Flows::open(&lab, &what);
            apply(&lab, &farm(&lines, second));
            match row {
                "drain" => flows.check(&what),
                _ => flows.leave(&what),
            }
            for connection in &mut flows.tcp {
                connection.echo("alive").unwrap_or_else(|e| panic!("{what}: {:?}: {e}", connection.answer));
            }
        }
        apply(&lab, &both);
        let what = format!("{mode}: flush");
        let mut flows = Flows::open(&lab, &what);
        for name in ["b12", "c12"] {
            lab.headgate_ok(&["backend", "drain", "web", name]).unwrap();
            let cut = lab.headgate_ok(&["connections", "web", name, "--flush", "--json"]).unwrap();
            let cut: Value = serde_json::from_str(&cut).unwrap();
            assert!(cut["flows"].as_u64().unwrap() >= 4, "{what}: {cut}");
            assert_eq!(lab.headgate_ok(&["connections", "web", name]).unwrap(), "no flows\n", "{what}");
        }
        flows.reset(&what);
        flows.leave(&what);
        for name in ["b12", "c12"] {
            lab.headgate_ok(&["backend", "up", "web", name]).unwrap();
        }
        let lines = format!("{lines}\nhealth = {{ type = \"none\", on-fail = \"reset\" }}");
        let what = format!("{mode}: down with reset");
        apply(&lab, &farm(&lines, Some("")));
        let mut flows = Flows::open(&lab, &what);
        apply(&lab, &farm(&lines, Some("state = \"down\"")));
        flows.reset(&what);
        flows.leave(&what);
        lab.stop().unwrap();
    }
}

/// The devices of the flowtable, as nft(8) lists them.
fn devices(lab: &Lab) -> BTreeSet<String> {
    let listed = lab.nft("list flowtables inet").unwrap();
    let inside = listed.split_once("devices = {").and_then(|(_, rest)| rest.split_once('}'));
    let names = inside.map(|(names, _)| names).unwrap_or_default().split(',');
    names.map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty()).collect()
}

#[test]
#[ignore = "in the guest"]
fn an_offload_device_is_followed_as_links_come_and_go() {
    let (mut lab, _servers) = lab("offdev");
    lab.configure(&farm("", Some(""))).unwrap();
    lab.start().unwrap();
    let ours = ["backend", "service"];
    let with = |more: &[&str]| -> BTreeSet<String> { ours.iter().chain(more).map(|name| (*name).to_owned()).collect() };
    wait("the first devices", || devices(&lab) == with(&[]));
    let mut flows = Flows::open(&lab, "devices");
    let steps: [(&str, &[&str], &[&str]); 9] = [
        ("comes, down", &["link", "add", "third", "type", "dummy"], &[]),
        ("up", &["link", "set", "third", "up"], &["third"]),
        ("down", &["link", "set", "third", "down"], &[]),
        ("up again", &["link", "set", "third", "up"], &["third"]),
        ("renamed", &["link", "set", "third", "name", "fourth"], &["fourth"]),
        ("down again", &["link", "set", "fourth", "down"], &[]),
        ("renamed while down", &["link", "set", "fourth", "name", "fifth"], &[]),
        ("up as another", &["link", "set", "fifth", "up"], &["fifth"]),
        ("gone", &["link", "delete", "fifth"], &[]),
    ];
    for (what, command, expected) in steps {
        lab.gate.ip(command).unwrap();
        wait(&format!("device {what}"), || devices(&lab) == with(expected));
        flows.check(what);
    }
    // The way to the backends itself: what is out of the flowtable goes the long way, and comes back to the short one.
    lab.gate.ip(&["link", "set", "backend", "down"]).unwrap();
    wait("the backends' link down", || devices(&lab) == ["service".to_owned()].into());
    lab.gate.ip(&["link", "set", "backend", "up"]).unwrap();
    lab.gate.ip(&["address", "replace", "2001:db8:2::1/64", "dev", "backend", "nodad"]).unwrap();
    wait("the backends' link up", || devices(&lab) == with(&[]));
    while !lab.gate.ip(&["-6", "address", "show", "tentative"]).unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut again = Flows::open(&lab, "devices are back");
    again.check("devices are back");
    flows.check("devices are back");
}

/// What an offloaded flow sends passes no rule, so no counter of a rule sees it.
#[test]
#[ignore = "in the guest"]
fn offloaded_packets_are_counted_until_the_short_way_begins() {
    let (mut lab, _servers) = lab("offcnt");
    lab.configure(&format!("{}[metrics]\ntraffic = \"bytes\"\n", farm("", None))).unwrap();
    lab.start().unwrap();
    for to in VIP {
        let before = shown(&lab);
        let talk = Talk::open(&lab.client, at(to)).unwrap();
        talk.ask().unwrap();
        wait("it takes the short way", || {
            talk.ask().unwrap();
            offloaded(&lab, &[talk.local().unwrap().port()])
        });
        let listed: Value = serde_json::from_str(&lab.headgate_ok(&["connections", "web", "--json"]).unwrap()).unwrap();
        assert_eq!(listed["flows"][0]["offloaded"], true, "{listed}");
        let begun = shown(&lab);
        (0..50).for_each(|_| drop(talk.ask().unwrap()));
        let after = shown(&lab);
        println!(
            "offload: counted {before:?} before, {begun:?} begun, {after:?} after 100 more packets; in the entry:"
        );
        println!("{}", lab.gate.run("conntrack -L -p udp").unwrap());
        // One comes the long way when its route has changed meanwhile, and begins the short one again.
        assert!(after.1 - begun.1 < 10, "{to}: packets of the short way are counted: {begun:?}, {after:?}");
        assert!((1..=6).contains(&(begun.1 - before.1)), "{to}: {before:?}, {begun:?}");
        assert_eq!(begun.0 - before.0, 1, "{to}: one flow");
        lab.headgate_ok(&["connections", "web", "--flush"]).unwrap();
    }
}

/// New flows and packets of the farm.
fn shown(lab: &Lab) -> (u64, u64) {
    let farm: Value = serde_json::from_str(&lab.headgate_ok(&["farm", "show", "web", "--json"]).unwrap()).unwrap();
    (farm["new-flows"].as_u64().unwrap(), farm["traffic"]["packets"].as_u64().unwrap_or_default())
}
