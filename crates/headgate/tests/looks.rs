//! What the daemon does while it compares the kernel with what it should be. Needs root; fails without.

mod support;

use std::fmt::Write;
use std::net::TcpListener;

use support::namespace::Namespace;

/// An address of the box, which the daemon adds.
const HERE: &str = "172.16.2.254";
/// The backends that turn: ports of the box itself. One that has fallen before has to pass more probes, so each falls only once.
const BACKENDS: std::ops::Range<u16> = 7001..7061;
/// So many farms take some tenths of a second to compare.
const FARMS: u32 = 400;

fn farms() -> String {
    let mut text = String::from(
        "[defaults.farm.address]\nmanage = \"never\"\n[farms.turning]\nlisten = \"172.16.1.1:81\"\n\
         health = { type = \"tcp\", interval = \"100ms\", timeout = \"100ms\", fall = 1, rise = 1 }\n",
    );
    for port in BACKENDS {
        let _ = writeln!(text, "backends.b{port}.address = \"{HERE}:{port}\"");
    }
    for farm in 0..FARMS {
        let _ = write!(text, "[farms.f{farm}]\nlisten = \"10.0.{}.{}:80\"\n", farm / 250, farm % 250 + 1);
        for backend in 1..=4 {
            let _ = writeln!(text, "backends.b{backend}.address = \"172.16.2.{backend}:8080\"");
        }
    }
    text
}

/// Whether some backend turned after a comparison had begun and before it ended.
fn has_turned_meanwhile(log: &str) -> bool {
    let mut looks = false;
    log.lines().any(|line| {
        looks = line.contains("a comparison with the kernel begins") || looks && !line.contains("the comparison ends");
        looks && line.contains("in the kernel")
    })
}

#[test]
fn a_backend_that_turns_does_not_wait_for_a_comparison() {
    let ns = Namespace::new(&farms());
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    let mut listeners: Vec<TcpListener> =
        BACKENDS.map(|port| ns.within(|| TcpListener::bind(("0.0.0.0", port))).unwrap()).collect();
    let daemon = ns.start_after("export HEADGATE_LOG=debug", ns.tree.root());
    let log = || ns.tree.read("log");
    let probed = || {
        let farm = ns.headgate(&["farm", "show", "turning", "--json"]).exits(0).out;
        let farm: serde_json::Value = serde_json::from_str(&farm).expect("JSON");
        let backends = farm["backends"].as_array().expect("a list").clone();
        backends.iter().all(|backend| backend["health"]["state"] == "up")
    };
    ns.wait_for("health of every backend", probed);
    let mut fallen = 0;
    while !has_turned_meanwhile(&log()) {
        drop(listeners.pop().expect("a turn during a comparison, before all have turned"));
        fallen += 1;
        // An address that comes and goes, and a commit of somebody else: the daemon compares.
        for verb in ["add", "delete"] {
            ns.run("ip", &["address", verb, "10.9.9.9/32", "dev", "lo"]).exits(0);
        }
        ns.run("nft", &["add table inet foreign; delete table inet foreign"]).exits(0);
        ns.wait_for("turn", || log().matches("in the kernel").count() >= fallen);
    }
    // Nothing that was found meanwhile was taken for somebody else's change.
    assert!(!log().contains("not as it was left"), "{}", log());
    assert_eq!(daemon.terminate(), Some(0));
}
