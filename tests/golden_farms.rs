//! What farms become: `tests/cases/farms/CASE/config.toml` compiles to `expected.nft`, and the packets of `packets.toml`
//! end where they say. `BLESS=1` writes `expected.nft`; read it before it is committed.
//!
//! The machine is `facts.toml` of the case, or that of all cases. Needs root for two of the tests: nft(8) must take the
//! text, and the kernel must give back what it was given, both in a network namespace of their own.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Seek, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use headgate_config::Config;
use headgate_config::model::Backend;
use headgate_config::types::{BackendName, FarmName};
use headgate_nft::change::between;
use headgate_nft::{Batch, Object, ObjectKind, Reject, Ruleset, Socket};
use headgate_plan::compile::{Desired, compile};
use headgate_plan::facts::Facts;
use headgate_plan::ids::Ids;
use headgate_plan::maps::Place;
use headgate_plan::step::Plan;
use headgate_tests::listing::{without_long_keys, without_tunnels};
use headgate_tests::tracer::{Fate, Origin, Outcome, Packet, trace};
use nix::sched::{CloneFlags, unshare};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Packets {
    packet: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// `tcp 10.0.0.9:4711 -> 172.16.1.1:80`
    is: String,
    /// Names of backends, or one of `untouched`, `dropped`, `reset`, `unreachable`.
    ends: BTreeSet<String>,
    /// Whom the backend sees; default: the client.
    source: Option<IpAddr>,
    /// Whom it may see, when there are several.
    #[serde(default)]
    sources: BTreeSet<IpAddr>,
    /// The packet's mark.
    #[serde(default)]
    mark: u32,
    /// `network` (default) or `box`.
    from: Option<String>,
}

struct Case {
    path: PathBuf,
    config: Config,
    facts: Facts,
}

impl Case {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/farms");
        let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
        paths.sort();
        paths.into_iter().map(|path| Self::load(path, &root)).collect()
    }

    fn load(path: PathBuf, root: &Path) -> Self {
        let loaded = headgate_config::load_files(&[path.join("config.toml")], &path);
        let config = loaded.unwrap_or_else(|problems| panic!("{}:\n{problems}", path.display())).config;
        let own = path.join("facts.toml");
        let facts = if own.exists() { own } else { root.join("facts.toml") };
        let facts =
            toml::from_str(&fs::read_to_string(&facts).unwrap()).unwrap_or_else(|error| panic!("{facts:?}: {error}"));
        Self { path, config, facts }
    }

    fn desired(&self) -> Desired {
        compile(&self.config, &[], &self.facts, &Ids::default())
            .unwrap_or_else(|refused| panic!("{}: {refused:?}", self.path.display()))
    }
}

/// The ruleset, under what else follows from the case.
fn text(desired: &Desired) -> String {
    let mut text = String::new();
    for address in &desired.state.addresses {
        writeln!(text, "# address {} on {}", address.net, address.link).unwrap();
    }
    for route in &desired.state.routes {
        writeln!(text, "# route {route}").unwrap();
    }
    for rule in &desired.state.rules {
        writeln!(text, "# routing rule {rule}").unwrap();
    }
    for neighbour in &desired.state.neighbours {
        writeln!(text, "# neighbour {neighbour}").unwrap();
    }
    for warning in &desired.warnings {
        writeln!(text, "# warning: {warning}").unwrap();
    }
    write!(text, "{}", desired.state.ruleset).unwrap();
    text
}

#[test]
fn rulesets_are_as_written() {
    let mut wrong = Vec::new();
    for case in Case::all() {
        let path = case.path.join("expected.nft");
        let text = text(&case.desired());
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            wrong.push(format!("{} should be:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nread it, then BLESS=1", wrong.join("\n"));
}

#[test]
fn packets_end_where_they_say() {
    for case in Case::all() {
        let path = case.path.join("packets.toml");
        let packets: Packets = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let desired = case.desired();
        for expected in packets.packet {
            let packet = packet(&expected);
            let local = local_addresses(&case, &desired);
            let outcomes = trace(&desired.state.ruleset, &packet, &local).unwrap();
            let ends: BTreeSet<String> =
                outcomes.iter().map(|outcome| end(&case.config, &desired, &packet, outcome)).collect();
            assert_eq!(ends, expected.ends, "{}: {}", path.display(), expected.is);
            let mut sources = expected.sources;
            if sources.is_empty() {
                sources.insert(expected.source.unwrap_or(packet.source.ip()));
            }
            let seen: BTreeSet<IpAddr> = outcomes.iter().map(|outcome| outcome.source.ip()).collect();
            assert_eq!(seen, sources, "{}: {}", path.display(), expected.is);
            for outcome in outcomes {
                // A packet that is sent on has ended with its backend's mark.
                let mark = if matches!(outcome.fate, Fate::Forwarded(_)) { 0 } else { outcome.mark };
                assert_eq!(mark, expected.mark, "{}: {}", path.display(), expected.is);
            }
        }
    }
}

fn local_addresses(case: &Case, desired: &Desired) -> Vec<IpAddr> {
    let found = case.facts.links.values().flat_map(|link| &link.addresses).map(|address| address.net.addr());
    found.chain(desired.state.addresses.iter().map(|address| address.net.addr())).collect()
}

fn packet(expected: &Expected) -> Packet {
    let fields: Vec<&str> = expected.is.split(' ').collect();
    let [protocol, source, "->", destination] = fields[..] else { panic!("{}: PROTOCOL FROM -> TO", expected.is) };
    let protocol = match protocol {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        other => panic!("{other}: which protocol?"),
    };
    let read = |text: &str| {
        let with_port = text.parse::<SocketAddr>();
        with_port.unwrap_or_else(|_| SocketAddr::new(text.parse().unwrap_or_else(|_| panic!("{text}: an address")), 0))
    };
    let origin = match expected.from.as_deref() {
        None | Some("network") => Origin::Network,
        Some("box") => Origin::Box,
        Some(other) => panic!("{other}: from where?"),
    };
    Packet { source: read(source), destination: read(destination), protocol, origin, interface: 1 }
}

/// The backend by its ct mark, whose address the packet must have, or what else became of it.
fn end(config: &Config, desired: &Desired, packet: &Packet, outcome: &Outcome) -> String {
    match outcome.fate {
        Fate::Dropped => "dropped".to_owned(),
        Fate::Refused(Reject::TcpReset) => "reset".to_owned(),
        Fate::Refused(Reject::PortUnreachable) => "unreachable".to_owned(),
        Fate::Passed if outcome.untracked => {
            let backends = config.farms.values().flat_map(|farm| farm.backends.values());
            let at = |backend: &&Backend| {
                let port = backend.address.port.unwrap_or(packet.destination.port());
                outcome.destination == SocketAddr::new(backend.address.address, port)
            };
            backends.into_iter().find(at).expect("where an untracked packet goes is a backend").name.to_string()
        }
        Fate::Forwarded(address) => {
            assert_eq!(outcome.destination, packet.destination, "a packet that is sent on is not translated");
            let marks = desired.ids.marks();
            let (farm, name, _) = marks.into_iter().find(|(_, _, mark)| *mark == outcome.mark).unwrap();
            let next = if address.is_unspecified() { behind_tunnel(desired, farm, name) } else { address };
            assert_eq!(next, config.farms[farm].backends[name].address.address);
            name.to_string()
        }
        Fate::Passed if outcome.ct_mark == 0 => {
            assert_eq!(outcome.destination, packet.destination, "translated without a mark");
            "untouched".to_owned()
        }
        Fate::Passed => {
            let marks = desired.ids.marks();
            let (farm, name, _) = marks.into_iter().find(|(_, _, mark)| *mark == outcome.ct_mark).unwrap();
            let backend = &config.farms[farm].backends[name];
            let port = backend.address.port.unwrap_or(packet.destination.port());
            assert_eq!(outcome.destination, SocketAddr::new(backend.address.address, port));
            name.to_string()
        }
    }
}

/// Where the outer header of a backend's packets leads.
fn behind_tunnel(desired: &Desired, farm: &FarmName, backend: &BackendName) -> IpAddr {
    let name = (ObjectKind::Tunnel, format!("{farm}/{backend}").into());
    let object = &desired.state.ruleset.tables[&Place::Tunnels.table()].objects[&name];
    let Object::Tunnel(tunnel) = object else { panic!("{farm}/{backend}: {object:?}") };
    tunnel.destination
}

#[test]
fn nft_takes_the_text() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for case in Case::all() {
        file.as_file_mut().set_len(0).unwrap();
        file.rewind().unwrap();
        let listed = without_long_keys(&without_tunnels(&text(&case.desired())));
        file.write_all(listed.as_bytes()).unwrap();
        let output =
            Command::new("unshare").args(["--net", "nft", "--check", "--file"]).arg(file.path()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: (needs root, unshare and nft)\n{complaint}", case.path.display());
    }
}

/// From nothing to the case, and from each case to the next: the kernel has what was wanted, and nothing is left to do.
#[test]
fn the_kernel_gives_back_what_it_was_given() {
    let steps = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: it makes a network namespace");
        let mut socket = Socket::open().unwrap();
        let mut observed = Ruleset::default();
        for case in Case::all() {
            // With what the kernel remembers, as after a restart onto another configuration.
            let desired = compile(&case.config, &[], &case.facts, &Ids::observe(&observed)).unwrap();
            let changes = between(&observed, &desired.state.ruleset);
            socket
                .commit(&Batch::new(&changes, None))
                .unwrap_or_else(|error| panic!("{}: {error}", case.path.display()));
            observed = socket.dump(&headgate_plan::maps::tables()).unwrap();
            assert_eq!(observed, desired.state.ruleset, "{}", case.path.display());
            let again = compile(&case.config, &[], &case.facts, &Ids::observe(&observed)).unwrap();
            let mut state = again.state.clone();
            state.ruleset = observed.clone();
            assert_eq!(Plan::between(&again, &state), Plan::default(), "{}", case.path.display());
        }
    };
    thread::spawn(steps).join().unwrap();
}
