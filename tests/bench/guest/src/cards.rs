//! The balancer's namespace between two real network cards, made anew for each variant.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_init::modules::{Index, Loader};
use nix::sched::{CloneFlags, setns};

use crate::network::run;

/// What drives the cards: those of the SNA 7108.
const DRIVER: &str = "igb";
/// The hardware addresses of the cards towards clients and towards backends.
pub const ADDRESSES: [&str; 2] = ["52:54:00:48:47:00", "52:54:00:48:47:01"];
/// What they are called in the namespace, as in [`crate::network`].
const NAMES: [&str; 2] = ["l0", "l1"];
const NAMESPACE: &str = "l";
const SET_UP: &str = "\
address add 10.0.1.1/24 dev l0
address add 10.0.2.1/24 dev l1
link set lo up
link set l0 up
link set l1 up
";
const SETTINGS: [(&str, &str); 8] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    // A connection per request would be out of source ports after some seconds.
    ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
];

/// The namespace; when it is dropped, the kernel takes the cards back.
#[derive(Debug)]
pub struct Cards;

impl Cards {
    /// Waits for the cards, and puts them into a fresh namespace with addresses.
    pub fn create() -> Result<Self> {
        let index = Index::read()?;
        Loader::new(&index).load(DRIVER)?;
        run(&["ip", "netns", "add", NAMESPACE], "")?;
        let cards = Self;
        settings()?;
        for (address, name) in ADDRESSES.into_iter().zip(NAMES) {
            let device = find(address)?;
            run(&["ip", "link", "set", &device, "down"], "")?;
            run(&["ip", "link", "set", &device, "netns", NAMESPACE, "name", name], "")?;
        }
        run(&["ip", "-n", NAMESPACE, "-batch", "-"], SET_UP)?;
        Ok(cards)
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "delete", NAMESPACE], "");
    }
}

/// Before there are devices, so that `default` is theirs.
fn settings() -> Result<()> {
    let home = File::open("/proc/thread-self/ns/net")?;
    setns(File::open(Path::new("/run/netns").join(NAMESPACE))?, CloneFlags::CLONE_NEWNET)?;
    for (key, value) in SETTINGS {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(setns(home, CloneFlags::CLONE_NEWNET)?)
}

/// The name of the card with this address. A card comes back a little after its namespace has gone.
fn find(address: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for device in std::fs::read_dir("/sys/class/net")? {
            let device = device?;
            // A device that is gone again has no address.
            let its = std::fs::read_to_string(device.path().join("address")).unwrap_or_default();
            if its.trim() == address {
                return device.file_name().into_string().ok().context("a device's name is text");
            }
        }
        ensure!(Instant::now() < deadline, "there is no card with the address {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
