//! What is measured: one table. A new option of the data plane is one more line in [`OPTIONS`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use headgate_bench_guest::plan::{Command, Phase, Reach, Targets, Variant};

use super::peers::{self, Peer};

/// The first of the virtual addresses, at port 80 for TCP and UDP.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The backends, at port 80.
pub(super) const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 2, 11), Ipv4Addr::new(10, 0, 2, 12)];
/// Many farms.
pub(super) const MANY: u32 = 10_000;

/// Sending alone, up to where the balancer would receive: subtracted from every figure of a packet.
pub(super) const NULL: &str = "null@1";
/// The balancer as a router: subtracted from every figure of a TCP connection, which holds both ends.
pub(super) const ROUTE: &str = "route@1";

const ALL: &[Phase] = &[Phase::Original, Phase::Reply, Phase::New, Phase::Tcp];
/// Replies do not come back through the balancer, or there is only one balancer to send to.
const ONE_WAY: &[Phase] = &[Phase::Original, Phase::New, Phase::Tcp];
const PACKETS: &[Phase] = &[Phase::Original, Phase::Reply, Phase::New];

/// A farm's mode, and how far its packets go.
struct Mode {
    name: &'static str,
    toml: &'static str,
    reach: Reach,
    phases: &'static [Phase],
    /// Whether it is measured with [`MANY`] farms too.
    many: bool,
}

/// The modes.
const MODES: &[Mode] = &[
    Mode { name: "snat", toml: "mode = \"snat\"\n", reach: Reach::Backend, phases: ALL, many: true },
    Mode { name: "dnat", toml: "mode = \"dnat\"\n", reach: Reach::Backend, phases: ALL, many: true },
    // Packet by packet: a connection needs a scheduler that always says the same. Two of these farms cannot share a backend.
    Mode {
        name: "stateless",
        toml: "mode = \"stateless\"\nscheduler = \"hash\"\nhash = [\"source-address\", \"source-port\"]\n",
        reach: Reach::Backend,
        phases: ALL,
        many: false,
    },
    Mode { name: "dsr", toml: "mode = \"dsr\"\n", reach: Reach::Direct, phases: ONE_WAY, many: true },
];

/// An option of a farm in a mode, for its price.
struct Setting {
    /// Behind the name of the mode: `snat+random`.
    name: &'static str,
    mode: &'static str,
    toml: &'static str,
}

/// Packets and bytes of each backend, both directions.
const BYTES: &str = "[metrics]\ntraffic = \"bytes\"\n";

/// What follows the keys of the one farm; a table of its own may end it, since the tables of its backends come behind.
const OPTIONS: &[Setting] = &[
    Setting { name: "random", mode: "snat", toml: "scheduler = \"random\"\n" },
    Setting { name: "hash", mode: "snat", toml: "scheduler = \"hash\"\n" },
    Setting { name: "maglev", mode: "snat", toml: "scheduler = \"maglev\"\n" },
    Setting { name: "source-address", mode: "snat", toml: "source-addresses = [\"10.0.2.1\"]\n" },
    Setting { name: "source-pool", mode: "snat", toml: "source-addresses = [\"10.0.2.1\", \"10.0.2.3\"]\n" },
    Setting { name: "persistence", mode: "snat", toml: "persistence.timeout = \"5m\"\n" },
    Setting { name: "mark", mode: "snat", toml: "mark = 5\n" },
    // So high that nobody is refused.
    Setting { name: "new-connections", mode: "snat", toml: "limits.new-connections = \"1000000/second\"\n" },
    Setting {
        name: "new-connections-total",
        mode: "snat",
        toml: "limits.new-connections-total = \"1000000/second\"\n",
    },
    Setting { name: "connections-per-client", mode: "snat", toml: "limits.connections-per-client = 100000\n" },
    Setting { name: "strict-tcp", mode: "snat", toml: "limits.strict-tcp = true\n" },
    Setting { name: "tcp-resets", mode: "snat", toml: "limits.tcp-resets = \"1000000/second\"\n" },
    Setting { name: "ban", mode: "snat", toml: "limits.new-connections = \"1000000/second\"\nlimits.ban = \"1m\"\n" },
    Setting {
        name: "policies",
        mode: "snat",
        toml: "policies = [\"bad\"]\n[policies.bad]\naction = \"deny\"\nelements = [\"192.0.2.0/24\", \"198.51.100.0/24\"]\n",
    },
    // Nobody listens: what the kernel does by itself.
    Setting { name: "queue", mode: "snat", toml: "queue = 5\n" },
    Setting { name: "log", mode: "snat", toml: "log = [\"new\", \"denied\"]\n" },
    Setting { name: "syn-proxy", mode: "snat", toml: "limits.syn-proxy = true\n" },
    Setting { name: "bytes", mode: "snat", toml: BYTES },
    Setting { name: "bytes", mode: "dnat", toml: BYTES },
    Setting { name: "bytes", mode: "stateless", toml: BYTES },
    Setting { name: "bytes", mode: "dsr", toml: BYTES },
    Setting { name: "log", mode: "dsr", toml: "log = [\"new\"]\n" },
    Setting { name: "offload", mode: "snat", toml: "offload = true\n" },
    Setting { name: "offload", mode: "dnat", toml: "offload = true\n" },
];

/// What a row is, for the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Subtracted from others.
    Base,
    /// A mode of Headgate.
    Mode,
    /// A mode of Headgate with one option; the row that it is compared with.
    Option(String),
    /// Somebody else.
    Peer,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Without the number of farms.
    name: String,
    /// What it is.
    pub(super) kind: Kind,
    /// Farms, or services of a peer.
    pub(super) farms: u32,
    contents: Contents,
    reach: Reach,
    phases: &'static [Phase],
}

#[derive(Debug, Clone)]
enum Contents {
    Farms { mode: &'static str, option: &'static str },
    Peer(&'static Peer),
    Rules(String),
}

/// All rows, in the order in which they are measured.
pub(super) fn all() -> Vec<Row> {
    let mut rows: Vec<Row> = peers::PEERS.iter().map(|peer| Row::peer(peer, 1)).collect();
    rows.extend(MODES.iter().map(|mode| mode.row(1)));
    for setting in OPTIONS {
        let mode =
            MODES.iter().find(|mode| mode.name == setting.mode).expect("an option's mode is in the table of modes");
        let base = mode.row(1);
        let contents = Contents::Farms { mode: mode.toml, option: setting.toml };
        let name = format!("{}+{}", mode.name, setting.name);
        rows.push(Row { name, kind: Kind::Option(base.name()), contents, ..base });
    }
    let counted = Row::peer(&peers::COUNTED, 1);
    rows.push(Row { kind: Kind::Option(format!("{}@1", peers::UNCOUNTED)), ..counted });
    // Last: what ten thousand farms leave behind in the kernel's allocator is in nobody's way.
    rows.extend(MODES.iter().filter(|mode| mode.many).map(|mode| mode.row(MANY)));
    rows.extend(peers::PEERS.iter().filter(|peer| peer.many).map(|peer| Row::peer(peer, MANY)));
    rows
}

impl Mode {
    fn row(&self, farms: u32) -> Row {
        Row {
            name: self.name.to_owned(),
            kind: Kind::Mode,
            farms,
            contents: Contents::Farms { mode: self.toml, option: "" },
            reach: self.reach,
            phases: self.phases,
        }
    }
}

impl Row {
    fn peer(peer: &'static Peer, farms: u32) -> Self {
        let phases = match (peer.reach, peer.tcp) {
            (Reach::Backend, true) => ALL,
            (Reach::Backend, false) => PACKETS,
            (Reach::Direct, _) => ONE_WAY,
            (Reach::Balancer, _) => &[Phase::Original, Phase::New],
        };
        let kind =
            if [NULL, ROUTE].contains(&format!("{}@{farms}", peer.name).as_str()) { Kind::Base } else { Kind::Peer };
        Self { name: peer.name.to_owned(), kind, farms, contents: Contents::Peer(peer), reach: peer.reach, phases }
    }

    /// Rules from a file.
    pub(super) fn own(name: &str, rules: String) -> Self {
        let contents = Contents::Rules(rules);
        Self { name: name.to_owned(), kind: Kind::Peer, farms: 1, contents, reach: Reach::Backend, phases: ALL }
    }

    /// With the number of farms.
    pub(super) fn name(&self) -> String {
        format!("{}@{}", self.name, self.farms)
    }

    /// Whether it is meant by a name with or without the number of farms.
    pub(super) fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.name() == name
    }

    /// Whether others are compared with it.
    pub(super) fn is_base(&self) -> bool {
        self.kind == Kind::Base
    }

    /// Whether it wants IPVS, which the kernel of a production image has not.
    pub(super) fn is_ipvs(&self) -> bool {
        self.name.starts_with("ipvs-")
    }

    /// For the guest.
    pub(super) fn variant(&self) -> Variant {
        let targets = Targets { first: VIP, count: self.farms };
        let (files, commands, targets) = match &self.contents {
            Contents::Rules(rules) => (BTreeMap::new(), peers::nft(rules), targets),
            Contents::Farms { mode, option } => {
                let file = ("/etc/headgate/headgate.toml".to_owned(), farms(self.farms, mode, option));
                let once = Command { line: vec!["headgated".to_owned(), "--once".to_owned()], input: String::new() };
                (BTreeMap::from([file]), vec![once], targets)
            }
            Contents::Peer(peer) => {
                let straight = Targets { first: BACKENDS[0], count: 1 };
                let targets = if peer.virtual_addresses { targets } else { straight };
                (BTreeMap::new(), (peer.commands)(self.farms), targets)
            }
        };
        Variant { name: self.name(), files, commands, targets, phases: self.phases.to_vec(), reach: self.reach }
    }
}

/// The configuration of farms that differ in their address.
fn farms(count: u32, mode: &str, option: &str) -> String {
    let targets = Targets { first: VIP, count };
    let mut text = String::new();
    for number in 0..count {
        let address = targets.address(number);
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "[farms.f{number}]\nlisten = [\"{address}:80/tcp\", \"{address}:80/udp\"]\naddress.interface = \"l0\"\n{mode}{option}"
        );
        for (backend, address) in BACKENDS.iter().enumerate() {
            let _ = write!(text, "[farms.f{number}.backends.b{backend}]\naddress = \"{address}:80\"\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_option_is_compared_with_a_row() {
        let rows = all();
        let names: BTreeSet<String> = rows.iter().map(Row::name).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            if let Kind::Option(base) = &row.kind {
                assert!(names.contains(base), "{base}");
            }
        }
        assert!([NULL, ROUTE].iter().all(|&name| names.contains(name)));
    }

    #[test]
    fn every_configuration_is_one_that_headgate_takes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("headgate.toml");
        for row in all() {
            for text in row.variant().files.values() {
                std::fs::write(&file, text).unwrap();
                if let Err(problems) = headgate_config::load_files(std::slice::from_ref(&file), directory.path()) {
                    panic!("{}: {problems}", row.name());
                }
            }
        }
    }
}
