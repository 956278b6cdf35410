//! VLANs, bonds and VRFs that the box makes.

use std::time::{Duration, Instant};

use headgate_image::netns::veth;
use headgate_tests::lab::{Lab, said};
use headgate_tests::server::{Connection, Server};

const DEADLINE: Duration = Duration::from_secs(60);

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "no {what} within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn links(lab: &Lab) -> String {
    lab.gate.ip(&["-d", "-o", "link"]).unwrap()
}

fn has(lab: &Lab, name: &str) -> bool {
    lab.gate.ip(&["link", "show", name]).is_ok()
}

fn pings(lab: &Lab, to: &str) -> bool {
    lab.gate.run(&format!("ping -c 1 -W 1 {to}")).is_ok()
}

/// Applying again would change nothing.
fn nothing_to_do(lab: &Lab) {
    let planned = lab.headgate(&["plan"]).unwrap();
    assert_eq!(planned.status.code(), Some(0), "{}", said(&planned));
}

fn vlan(id: u16) -> String {
    format!(
        "[network.interfaces.backend]
[network.vlans.v7]
parent = \"backend\"
id = {id}
mtu = 1400
addresses = [\"172.16.7.1/24\", \"2001:db8:7::1/64\"]
[network.vlans.inner]
parent = \"v7\"
id = 70
addresses = [\"172.16.70.1/24\"]
[farms.web]
listen = \"172.16.1.1:80\"
backends.b.address = \"172.16.7.11:80\"
"
    )
}

#[test]
#[ignore = "in the guest"]
fn vlans_are_made_kept_and_removed_and_those_of_others_left_alone() {
    let mut lab = Lab::new("vlan").unwrap();
    for id in ["7", "8"] {
        let name = format!("v{id}");
        lab.backends.ip(&["link", "add", "link", "eth0", "name", &name, "type", "vlan", "id", id]).unwrap();
        lab.backends.ip(&["address", "add", &format!("172.16.{id}.11/24"), "dev", &name]).unwrap();
        lab.backends.ip(&["link", "set", &name, "up"]).unwrap();
    }
    lab.backends.ip(&["address", "add", "172.16.7.11/24", "dev", "v8"]).unwrap();
    lab.backends.ip(&["link", "add", "link", "v7", "name", "v70", "type", "vlan", "id", "70"]).unwrap();
    lab.backends.ip(&["address", "add", "172.16.70.11/24", "dev", "v70"]).unwrap();
    lab.backends.ip(&["link", "set", "v70", "up"]).unwrap();
    // Somebody else's.
    lab.gate.ip(&["link", "add", "link", "backend", "name", "theirs", "type", "vlan", "id", "9"]).unwrap();
    let server = Server::start(&lab.backends, "b", "172.16.7.11:80".parse().unwrap()).unwrap();
    lab.configure(&vlan(7)).unwrap();
    lab.start().unwrap();
    nothing_to_do(&lab);
    let found = lab.gate.ip(&["-d", "link", "show", "v7"]).unwrap();
    assert!(
        found.contains("vlan protocol 802.1Q id 7") && found.contains("mtu 1400") && found.contains("18535"),
        "{found}"
    );
    assert!(pings(&lab, "172.16.70.11"), "a VLAN in a VLAN");
    let service = "172.16.1.1:80".parse().unwrap();
    let connect = |lab: &Lab| Connection::open(&lab.client, service).unwrap().is_ok();
    assert!(connect(&lab));
    // A crash and another daemon change nothing.
    let before = lab.gate.ip(&["-o", "link", "show", "v7"]).unwrap();
    lab.crash().unwrap();
    lab.start().unwrap();
    nothing_to_do(&lab);
    assert_eq!(lab.gate.ip(&["-o", "link", "show", "v7"]).unwrap(), before, "another device");
    // Somebody takes it away, and the one within with it.
    lab.gate.ip(&["link", "delete", "v7"]).unwrap();
    let since = Instant::now();
    wait_for("VLAN", || has(&lab, "inner") && connect(&lab));
    println!("both VLANs and the farm are back after {:.1} s", since.elapsed().as_secs_f64());
    // Another number.
    lab.backends.ip(&["address", "delete", "172.16.7.11/24", "dev", "v7"]).unwrap();
    lab.configure(&vlan(8)).unwrap();
    let applied = lab.headgate_ok(&["apply"]).unwrap();
    assert!(applied.contains("make v7 anew: VLAN 8 of backend (was VLAN 7 of backend)"), "{applied}");
    assert!(pings(&lab, "172.16.7.11"));
    nothing_to_do(&lab);
    // What the kernel refuses is taken back: no interface carries two VLANs with one number.
    let twice =
        format!("{}[network.vlans.twice]\nparent = \"backend\"\nid = 9\n", vlan(8).replace("172.16.1.1", "172.16.1.2"));
    lab.configure(&twice).unwrap();
    let refused = lab.headgate(&["apply"]).unwrap();
    assert!(refused.status.code() == Some(3) && said(&refused).contains("make twice: VLAN 9"), "{}", said(&refused));
    assert!(!has(&lab, "twice") && pings(&lab, "172.16.7.11"));
    // One that is there is used and never removed.
    let foreign = "[network.vlans.theirs]\nparent = \"backend\"\nid = 9\naddresses = [\"172.16.9.1/24\"]\n";
    lab.configure(foreign).unwrap();
    let applied = said(&lab.headgate(&["apply"]).unwrap());
    assert!(applied.contains("interface theirs is there and not headgate's"), "{applied}");
    assert!(has(&lab, "theirs") && !has(&lab, "v7") && !has(&lab, "inner"), "{}", links(&lab));
    nothing_to_do(&lab);
    lab.configure(&vlan(7)).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    lab.stop().unwrap();
    assert!(has(&lab, "v7"));
    lab.headgated(&["--flush"]).unwrap();
    assert!(has(&lab, "theirs") && !has(&lab, "v7") && !has(&lab, "inner"), "{}", links(&lab));
    drop(server);
}

fn bond(mode: &str, more: &str) -> String {
    format!(
        "[network.bonds.b0]
members = [\"m0\", \"m1\"]
mode = \"{mode}\"
addresses = [\"172.16.5.1/24\", \"2001:db8:5::1/64\"]
{more}
[network.vlans.v5]
parent = \"b0\"
id = 5
addresses = [\"172.16.55.1/24\"]
"
    )
}

#[test]
#[ignore = "in the guest"]
fn bonds_carry_on_with_one_member_and_change_their_mode() {
    let mut lab = Lab::new("bond").unwrap();
    for number in 0..2 {
        veth((&lab.gate, &format!("m{number}")), (&lab.backends, &format!("p{number}"))).unwrap();
    }
    let far = |lab: &Lab, mode: &str| {
        let _ = lab.backends.ip(&["link", "delete", "far"]);
        lab.backends.ip(&["link", "add", "far", "type", "bond", "mode", mode, "miimon", "100"]).unwrap();
        for port in ["p0", "p1"] {
            lab.backends.ip(&["link", "set", port, "down"]).unwrap();
            lab.backends.ip(&["link", "set", port, "master", "far"]).unwrap();
        }
        lab.backends.ip(&["link", "set", "far", "up"]).unwrap();
        lab.backends.ip(&["address", "add", "172.16.5.11/24", "dev", "far"]).unwrap();
    };
    far(&lab, "active-backup");
    lab.once(&bond("active-backup", "")).unwrap();
    lab.start().unwrap();
    nothing_to_do(&lab);
    wait_for("way", || pings(&lab, "172.16.5.11"));
    lab.gate.ip(&["link", "set", "m0", "nomaster"]).unwrap();
    wait_for("member", || lab.gate.ip(&["-o", "link", "show", "m0"]).unwrap().contains("master b0"));
    lab.crash().unwrap();
    lab.backends.ip(&["link", "set", "p0", "down"]).unwrap();
    wait_for("way by the other member", || pings(&lab, "172.16.5.11"));
    lab.backends.ip(&["link", "set", "p0", "up"]).unwrap();
    lab.start().unwrap();
    far(&lab, "802.3ad");
    lab.configure(&bond("802.3ad", "lacp-rate = \"fast\"\nxmit-hash-policy = \"layer2+3\"\nmiimon = \"50ms\""))
        .unwrap();
    let applied = lab.headgate_ok(&["apply"]).unwrap();
    assert!(applied.contains("make b0 anew: bond, mode 802.3ad, miimon 50 ms, lacp-rate fast"), "{applied}");
    nothing_to_do(&lab);
    let found = lab.gate.ip(&["-d", "-o", "link", "show", "b0"]).unwrap();
    for part in ["mode 802.3ad", "miimon 50", "lacp_rate fast", "xmit_hash_policy layer2+3"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    wait_for("way by LACP", || pings(&lab, "172.16.5.11"));
    // A member that leaves has addresses of its own again.
    let one =
        bond("802.3ad", "").replace("\"m0\", ", "") + "[network.interfaces.m0]\naddresses = [\"172.16.6.1/24\"]\n";
    lab.configure(&one).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    nothing_to_do(&lab);
    let m0 = lab.gate.ip(&["-o", "link", "show", "m0"]).unwrap();
    assert!(!m0.contains("master") && m0.contains("UP"), "{m0}");
    lab.configure("").unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    assert!(!has(&lab, "b0") && !has(&lab, "v5") && has(&lab, "m0") && has(&lab, "m1"), "{}", links(&lab));
    // What belongs to somebody else's stays there.
    lab.gate.ip(&["link", "add", "br0", "type", "bridge"]).unwrap();
    lab.gate.ip(&["link", "set", "m0", "master", "br0"]).unwrap();
    lab.configure(&bond("active-backup", "")).unwrap();
    let applied = said(&lab.headgate(&["apply"]).unwrap());
    assert!(applied.contains("interface m0 belongs to br0, which is not headgate's"), "{applied}");
    assert!(lab.gate.ip(&["-o", "link", "show", "m0"]).unwrap().contains("master br0"));
    nothing_to_do(&lab);
}

#[test]
#[ignore = "in the guest"]
fn management_has_a_routing_table_of_its_own() {
    let mut lab = Lab::new("vrf").unwrap();
    veth((&lab.gate, "m0"), (&lab.client, "ops")).unwrap();
    lab.client.ip(&["address", "add", "172.16.2.9/24", "dev", "ops"]).unwrap();
    // The same subnet as that of the backends.
    let text = "[network.vrfs.mgmt]
table = 10
[network.interfaces.m0]
addresses = [\"172.16.2.200/24\"]
vrf = \"mgmt\"
[network.routes.out]
to = \"default\"
via = \"172.16.2.9\"
interface = \"m0\"
table = 10
[farms.web]
listen = \"172.16.1.1:80\"
backends.b.address = \"172.16.2.11:80\"
";
    let server = Server::start(&lab.backends, "b", "172.16.2.11:80".parse().unwrap()).unwrap();
    lab.configure(text).unwrap();
    lab.start().unwrap();
    nothing_to_do(&lab);
    let routes = lab.gate.ip(&["route", "show", "vrf", "mgmt"]).unwrap();
    assert!(routes.contains("default via 172.16.2.9") && routes.contains("172.16.2.0/24"), "{routes}");
    let main = lab.gate.ip(&["route", "show"]).unwrap();
    assert!(!main.contains("m0") && main.contains("172.16.2.0/24 dev backend"), "{main}");
    assert!(lab.client.run("ping -c 1 -W 5 172.16.2.200").is_ok());
    assert!(Connection::open(&lab.client, "172.16.1.1:80".parse().unwrap()).unwrap().is_ok());
    lab.crash().unwrap();
    lab.start().unwrap();
    nothing_to_do(&lab);
    lab.configure(
        &text
            .replace("vrf = \"mgmt\"\n", "")
            .replace("172.16.2.200", "172.16.3.200")
            .replace("[network.vrfs.mgmt]\ntable = 10\n", "")
            .replace("172.16.2.9", "172.16.3.9"),
    )
    .unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    nothing_to_do(&lab);
    assert!(!has(&lab, "mgmt") && lab.gate.ip(&["route", "show"]).unwrap().contains("172.16.3.0/24 dev m0"));
    drop(server);
}

/// The filter sees the VRF, not its interface: what `allow` of that one says is what comes in, and opens nothing elsewhere.
#[test]
#[ignore = "in the guest"]
fn a_vrf_lets_in_what_its_interface_allows() {
    let mut lab = Lab::new("vrf-protect").unwrap();
    veth((&lab.gate, "m0"), (&lab.client, "ops")).unwrap();
    lab.client.ip(&["address", "add", "172.16.3.9/24", "dev", "ops"]).unwrap();
    let servers = ["0.0.0.0:22", "0.0.0.0:23"].map(|at| Server::start(&lab.gate, "box", at.parse().unwrap()).unwrap());
    let text = |allow: &str| {
        format!(
            "[system]
protect = true
[sysctl]
\"net.ipv4.tcp_l3mdev_accept\" = 1
[network.vrfs.mgmt]
table = 10
[network.interfaces.m0]
addresses = [\"172.16.3.200/24\"]
vrf = \"mgmt\"
allow = {allow}
[network.interfaces.service]
addresses = [\"172.16.1.200/24\"]
allow = [\"ping\"]
"
        )
    };
    let connects = |lab: &Lab, to: &str| Connection::open(&lab.client, to.parse().unwrap()).unwrap().is_ok();
    let answers = |lab: &Lab, to: &str| lab.client.run(&format!("ping -c 1 -W 2 {to}")).is_ok();
    lab.configure(&text("[\"tcp/22\"]")).unwrap();
    lab.start().unwrap();
    nothing_to_do(&lab);
    assert!(connects(&lab, "172.16.3.200:22"));
    assert!(!connects(&lab, "172.16.3.200:23") && !answers(&lab, "172.16.3.200"), "{}", listed(&lab));
    assert!(answers(&lab, "172.16.1.200") && !connects(&lab, "172.16.1.200:22"), "{}", listed(&lab));
    lab.configure(&text("[\"ping\", \"tcp/23\"]")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    assert!(connects(&lab, "172.16.3.200:23") && answers(&lab, "172.16.3.200"), "{}", listed(&lab));
    assert!(!connects(&lab, "172.16.3.200:22"), "{}", listed(&lab));
    drop(servers);
}

fn listed(lab: &Lab) -> String {
    lab.nft("list table inet headgate-protect").unwrap()
}
