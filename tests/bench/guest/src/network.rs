//! Three namespaces in a row, made anew for each variant: tables, flows and addresses of the last one are gone.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::frame::Mac;
use crate::plan::{self, Reach};

/// The client's port.
pub const CLIENT: Mac = [2, 0, 0, 0, 0, 0x11];
/// The balancer's port towards the client.
pub const FRONT: Mac = [2, 0, 0, 0, 0, 0x12];
/// The balancer's port towards the backend.
pub const BACK: Mac = [2, 0, 0, 0, 0, 0x21];
/// The backend's port.
pub const BACKEND: Mac = [2, 0, 0, 0, 0, 0x22];

const LINKS: &str = "\
link add c0 address 02:00:00:00:00:11 netns c type veth peer name l0 address 02:00:00:00:00:12 netns l
link add l1 address 02:00:00:00:00:21 netns l type veth peer name b0 address 02:00:00:00:00:22 netns b
";
/// Neighbours are permanent: no ARP in the middle of a measurement.
const ADDRESSES: [(Place, &str); 3] = [
    (
        Place::Client,
        "address add 10.0.1.2/24 dev c0\nlink set lo up\nlink set c0 up\n\
         neighbour replace 10.0.1.1 lladdr 02:00:00:00:00:12 dev c0 nud permanent\nroute add default via 10.0.1.1\n",
    ),
    (
        Place::Balancer,
        "address add 10.0.1.1/24 dev l0\naddress add 10.0.2.1/24 dev l1\nlink set lo up\nlink set l0 up\nlink set l1 up\n\
         neighbour replace 10.0.1.2 lladdr 02:00:00:00:00:11 dev l0 nud permanent\n\
         neighbour replace 10.0.2.11 lladdr 02:00:00:00:00:22 dev l1 nud permanent\n\
         neighbour replace 10.0.2.12 lladdr 02:00:00:00:00:22 dev l1 nud permanent\n\
         route add 10.1.0.0/16 via 10.0.1.2\n",
    ),
    (
        Place::Backend,
        "address add 10.0.2.11/24 dev b0\naddress add 10.0.2.12/24 dev b0\nlink set lo up\nlink set b0 up\n\
         neighbour replace 10.0.2.1 lladdr 02:00:00:00:00:21 dev b0 nud permanent\n\
         neighbour replace 10.0.2.3 lladdr 02:00:00:00:00:21 dev b0 nud permanent\nroute add default via 10.0.2.1\n",
    ),
];
/// The way back that does not touch the balancer.
const DIRECT_LINK: &str = "link add c1 netns c type veth peer name b1 netns b\n";
const DIRECT: [(Place, &str); 2] = [
    (Place::Client, "address add 10.0.3.2/24 dev c1\nlink set c1 up\n"),
    (
        Place::Backend,
        "address add 10.0.3.1/24 dev b1\nlink set b1 up\nroute add 10.0.1.0/24 via 10.0.3.2\n\
         route add local 10.9.0.0/16 dev lo\n",
    ),
];

/// A namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where packets begin.
    Client,
    /// What is measured.
    Balancer,
    /// Where packets end.
    Backend,
}

impl Place {
    const ALL: [Self; 3] = [Self::Client, Self::Balancer, Self::Backend];

    fn name(self) -> &'static str {
        match self {
            Self::Client => "c",
            Self::Balancer => "l",
            Self::Backend => "b",
        }
    }
}

/// The namespaces of one variant; they are gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    handles: [File; 3],
    home: File,
}

impl Network {
    /// Makes namespaces, links, addresses and routes.
    pub fn create(reach: Reach) -> Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        for place in Place::ALL {
            run(&["ip", "netns", "add", place.name()], "")?;
        }
        let handles = [0, 1, 2].map(|at: usize| File::open(Path::new("/run/netns").join(Place::ALL[at].name())));
        let [client, balancer, backend] = handles;
        let network = Self { handles: [client?, balancer?, backend?], home };
        network.settings()?;
        batch(None, LINKS)?;
        for (place, text) in ADDRESSES {
            batch(Some(place), text)?;
        }
        if reach == Reach::Direct {
            batch(None, DIRECT_LINK)?;
            for (place, text) in DIRECT {
                batch(Some(place), text)?;
            }
        }
        let sink = match reach {
            Reach::Balancer => (Place::Balancer, "l0"),
            Reach::Backend | Reach::Direct => (Place::Backend, "b0"),
        };
        for (place, device) in [sink, (Place::Client, "c0")] {
            drop_at_ingress(place, device)?;
        }
        Ok(network)
    }

    /// Enters a namespace with the calling thread.
    pub fn enter(&self, place: Place) -> Result<()> {
        let handle = &self.handles[place as usize];
        setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", place.name()))
    }

    /// Packets that a device has received so far.
    pub fn received(&self, place: Place, device: &str) -> Result<u64> {
        self.enter(place)?;
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
        let count =
            line.and_then(|line| line.split_whitespace().nth(1)).with_context(|| format!("no device {device}"))?;
        Ok(count.parse()?)
    }

    /// Before there are devices, so that `default` is theirs.
    fn settings(&self) -> Result<()> {
        for place in Place::ALL {
            self.enter(place)?;
            for (key, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
                // Neighbour discovery and router solicitations come at times of their own.
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                // A network card has checked the checksum already; veth has not.
                ("netfilter/nf_conntrack_checksum", "0"),
            ] {
                let path = format!("/proc/sys/net/{key}");
                std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET);
        for place in Place::ALL {
            let _ = run(&["ip", "netns", "delete", place.name()], "");
        }
    }
}

/// Runs a variant's command in the balancer's namespace.
pub fn command(command: &plan::Command) -> Result<()> {
    let line: Vec<&str> = command.line.iter().map(String::as_str).collect();
    run(&[&["ip", "netns", "exec", Place::Balancer.name()], line.as_slice()].concat(), &command.input)
}

/// Packets that have come through end here, before they are received: what is behind this is the end's, not the way's.
fn drop_at_ingress(place: Place, device: &str) -> Result<()> {
    let rules = format!(
        "table netdev sink {{\nchain ingress {{\ntype filter hook ingress device {device} priority 0\n\
         ip protocol udp drop\n}}\n}}\n"
    );
    run(&["ip", "netns", "exec", place.name(), "nft", "-f", "-"], &rules)
}

fn batch(place: Option<Place>, text: &str) -> Result<()> {
    match place {
        Some(place) => run(&["ip", "-n", place.name(), "-batch", "-"], text),
        None => run(&["ip", "-batch", "-"], text),
    }
}

/// Runs a program to its end.
pub(crate) fn run(line: &[&str], input: &str) -> Result<()> {
    let text = line.join(" ");
    let mut command = Command::new(line[0]);
    // The kernel starts its first process without a path.
    command
        .args(&line[1..])
        .env("PATH", "/sbin:/usr/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {text}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails before it has read everything says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
