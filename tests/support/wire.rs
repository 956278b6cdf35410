//! The lab for packets that go straight on: every backend is a namespace of its own, since all of them carry the virtual
//! address, and answers the client past the box:
//!
//! ```text
//!   client ── service  box  backend ── switch ──┬── b11
//!      └──────────── eth1 ─────────────┘        ├── b12
//!                                               └── b13
//! ```
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use headgate_image::netns::{Namespace, veth};

use crate::lab::{BACKENDS, Lab, said};
use crate::server::{Connection, Server};

/// Names of servers and how many each has of something.
pub type Counts = BTreeMap<String, usize>;

/// Where the farm is.
pub const VIP: &str = "172.16.1.1:80";
/// The same by IPv6.
pub const VIP_6: &str = "[2001:db8:1::1]:80";

/// An address and port.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The lab, with each backend in a namespace.
#[derive(Debug)]
pub struct Wire {
    // Servers end before their namespaces.
    _servers: Vec<Server>,
    /// One for each number, in that order.
    pub backends: Vec<Namespace>,
    /// Client and box; what was for the backends is the switch.
    pub lab: Lab,
}

impl Wire {
    /// The lab for farms of mode `dsr`.
    pub fn new(label: &str) -> Self {
        Self::with(label, "")
    }

    /// The same for farms that have `extra` among their keys.
    pub fn with(label: &str, extra: &str) -> Self {
        let lab = Lab::new(label).unwrap();
        let switch = &lab.backends;
        switch.ip(&["address", "flush", "dev", "eth0"]).unwrap();
        switch.ip(&["link", "add", "name", "br0", "type", "bridge"]).unwrap();
        switch.ip(&["link", "set", "br0", "up"]).unwrap();
        switch.ip(&["link", "set", "eth0", "master", "br0"]).unwrap();
        veth((&lab.client, "eth1"), (switch, "client")).unwrap();
        switch.ip(&["link", "set", "client", "master", "br0"]).unwrap();
        for address in ["172.16.2.254/24", "2001:db8:2::fe/64"] {
            lab.client.ip(&["address", "add", address, "dev", "eth1", "nodad"]).unwrap();
        }
        // The client sends everything but its own subnets to the box; it takes answers from wherever they come.
        for interface in ["all", "eth0", "eth1"] {
            lab.client.run(&format!("sysctl -qw net.ipv4.conf.{interface}.rp_filter=0")).unwrap();
        }
        let backends = BACKENDS.map(|number| Self::backend(label, switch, number)).into();
        let mut wire = Self { _servers: Vec::new(), backends, lab };
        wire.set_up(extra);
        wire._servers = wire.serve();
        // Without a link-local address an interface asks for no neighbour, and that takes a second.
        let spaces = || [&wire.lab.gate, &wire.lab.client].into_iter().chain(&wire.backends);
        while spaces().any(|space| !space.ip(&["-6", "address", "show", "tentative"]).unwrap().is_empty()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        wire
    }

    fn backend(label: &str, switch: &Namespace, number: u8) -> Namespace {
        let space = Namespace::create(&format!("{label}-{number}")).unwrap();
        let port = format!("b{number}");
        veth((&space, "eth0"), (switch, &port)).unwrap();
        switch.ip(&["link", "set", &port, "master", "br0"]).unwrap();
        for address in [format!("172.16.2.{number}/24"), format!("2001:db8:2::{number}/64")] {
            space.ip(&["address", "add", &address, "dev", "eth0", "nodad"]).unwrap();
        }
        space.ip(&["route", "add", "default", "via", "172.16.2.254"]).unwrap();
        space.ip(&["-6", "route", "add", "default", "via", "2001:db8:2::fe"]).unwrap();
        space
    }

    /// Runs on each backend what `headgate farm backend-setup` prints for its two addresses.
    fn set_up(&self, extra: &str) {
        self.lab.configure(&farm(extra)).unwrap();
        let printed = self.lab.headgate_ok(&["farm", "backend-setup", "web", "--json"]).unwrap();
        let setups: Vec<serde_json::Value> = serde_json::from_str(&printed).unwrap();
        for (space, number) in self.backends.iter().zip(BACKENDS) {
            let names = [format!("b{number}"), format!("c{number}")];
            let own = setups.iter().filter(|setup| names.iter().any(|name| setup["backend"] == **name));
            let commands: Vec<&str> = own
                .flat_map(|setup| setup["commands"].as_array().unwrap())
                .map(|line| line.as_str().unwrap())
                .collect();
            assert!(commands.len() >= 4, "{printed}");
            for command in commands {
                let ran = space.command("sh").args(["-c", command]).output().unwrap();
                assert!(ran.status.success(), "{command}: {}", said(&ran));
            }
        }
    }

    /// A server on the virtual addresses of every backend, named b11, b12, b13.
    fn serve(&self) -> Vec<Server> {
        let each = self.backends.iter().zip(BACKENDS);
        each.flat_map(|(space, number)| [(space, number, VIP), (space, number, VIP_6)])
            .map(|(space, number, vip)| Server::start(space, &format!("b{number}"), at(vip)).unwrap())
            .collect()
    }

    /// Opens connections, all of which are answered.
    pub fn connect(&self, to: &str, times: usize) -> Vec<Connection> {
        let open = || Connection::open(&self.lab.client, at(to)).unwrap().unwrap_or_else(|e| panic!("{to}: {e}"));
        (0..times).map(|_| open()).collect()
    }

    /// How many flows are in a map of theirs.
    pub fn bindings(&self, map: &str) -> usize {
        let listed = self.lab.nft(&format!("list map netdev headgate {map}")).unwrap();
        listed.matches("expires").count()
    }
}

/// Names of servers and how many connections each has; all of them see the client itself.
pub fn counts(connections: &[Connection]) -> Counts {
    let mut counts = Counts::new();
    for connection in connections {
        let client: [IpAddr; 2] = ["172.16.1.10".parse().unwrap(), "2001:db8:1::10".parse().unwrap()];
        assert!(client.contains(&connection.answer.client), "{:?}", connection.answer);
        *counts.entry(connection.answer.server.clone()).or_default() += 1;
    }
    counts
}

/// Each of the connections still leads to its server.
pub fn alive(what: &str, connections: &mut [Connection]) {
    for connection in connections {
        connection.echo("still here").unwrap_or_else(|e| panic!("{what}: {:?}: {e}", connection.answer));
    }
}

/// As [`counts`] has it.
pub fn shares<const N: usize>(pairs: [(&str, usize); N]) -> Counts {
    pairs.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

const ALL: &str = r#"["172.16.1.1:80", "172.16.1.1:80/udp", "[2001:db8:1::1]:80", "[2001:db8:1::1]:80/udp"]"#;

/// A farm of all three backends, in both families.
pub fn farm(extra: &str) -> String {
    let mut text = format!("[farms.web]\nmode = \"dsr\"\nlisten = {ALL}\n{extra}\n");
    for number in BACKENDS {
        text += &format!("[farms.web.backends.b{number}]\naddress = \"172.16.2.{number}\"\n");
        text += &format!("[farms.web.backends.c{number}]\naddress = \"2001:db8:2::{number}\"\n");
    }
    text
}

/// The farm with a state for b12 and c12.
pub fn farm_with(extra: &str, state: &str) -> String {
    let text = farm(extra);
    let text = text.replace("\"172.16.2.12\"", &format!("\"172.16.2.12\"\nstate = \"{state}\""));
    text.replace("\"2001:db8:2::12\"", &format!("\"2001:db8:2::12\"\nstate = \"{state}\""))
}

/// Sends so many bytes to a backend by way of the box, in segments as large as the kernel makes them; what arrived must be
/// what was sent.
pub fn upload(wire: &Wire, extra: &str, to: &str, bytes: usize) {
    let to = SocketAddr::new(at(to).ip(), 80);
    let port = to.port() + 1;
    let farm = farm(extra).replace(":80", ":81").replace("[farms.web", "[farms.upload");
    wire.lab.once(&[self::farm(extra), farm].concat()).unwrap();
    let sinks: Vec<_> = wire
        .backends
        .iter()
        .map(|space| {
            let listener = space.within(|| TcpListener::bind((to.ip(), port))).unwrap().unwrap();
            listener.set_nonblocking(true).unwrap();
            std::thread::spawn(move || sink(&listener))
        })
        .collect();
    let mut stream = wire.lab.client.within(|| TcpStream::connect((to.ip(), port))).unwrap().unwrap();
    let block: Vec<u8> = (0..65_536_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut sent, mut digest) = (0, DIGEST);
    while sent < bytes {
        stream.write_all(&block).unwrap();
        digest = digested(digest, &block);
        sent += block.len();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(u64::from_le_bytes(answer), digest, "what arrived is not what was sent");
    assert_eq!(sinks.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1);
}

const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn digested(digest: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(digest, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Takes one connection to its end, or gives up after ten seconds; how many it took.
fn sink(listener: &TcpListener) -> usize {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if Instant::now() > deadline => return 0,
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    stream.set_nonblocking(false).unwrap();
    let (mut digest, mut buffer) = (DIGEST, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            length => digest = digested(digest, &buffer[..length]),
        }
    }
    stream.write_all(&digest.to_le_bytes()).unwrap();
    1
}
