//! What the daemon does while it compares the kernel with what it should be. Needs root; fails without.

mod support;

use std::fmt::Write;
use std::net::TcpListener;
use std::time::Duration;

use support::namespace::Namespace;

/// The backend that turns: an address of the box itself.
const BACKEND: &str = "172.16.2.254:7001";
/// So many farms take some tenths of a second to compare.
const FARMS: u32 = 400;

fn farms() -> String {
    let mut text = format!(
        "[defaults.farm.address]\nmanage = \"never\"\n[farms.turning]\nlisten = \"172.16.1.1:81\"\n\
         backends.b1.address = \"{BACKEND}\"\n\
         health = {{ type = \"tcp\", interval = \"100ms\", timeout = \"100ms\", fall = 1, rise = 1 }}\n"
    );
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
    let bind = || ns.within(|| TcpListener::bind(BACKEND)).unwrap();
    let mut listener = None;
    let daemon = ns.start_after("export HEADGATE_LOG=debug", ns.tree.root());
    ns.wait_for("turn during a comparison", || {
        listener = match listener.take() {
            Some(_) => None,
            None => Some(bind()),
        };
        // Somebody commits to nftables: the daemon looks whether it was to its tables.
        ns.run("nft", &["add table inet foreign; delete table inet foreign"]).exits(0);
        std::thread::sleep(Duration::from_millis(200));
        has_turned_meanwhile(&ns.tree.read("log"))
    });
    // Nothing that was found meanwhile was taken for somebody else's change.
    assert!(!ns.tree.read("log").contains("not as it was left"), "{}", ns.tree.read("log"));
    drop(listener);
    assert_eq!(daemon.terminate(), Some(0));
}
