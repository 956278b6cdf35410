//! What is measured side by side. Each variant has a client, a box and backends of its own, all alive at once; a variant
//! more is a row more in [`VARIANTS`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_image::http;
use headgate_image::netns::{Namespace, veth};
use headgate_image::nginx::Nginx;
use headgate_tests::farms;
use headgate_tests::lab::Lab;
use tempfile::TempDir;

use crate::load::{Load, Way, bulk, datagrams};
use crate::peer::{self, Daemon, Nat, Service};
use crate::processors::Workers;

/// One way for packets.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    /// Its name on the command line and in the tables.
    pub name: &'static str,
    /// Who does it.
    pub engine: Engine,
}

/// Who stands between client and backends.
#[derive(Debug, Clone, Copy)]
pub enum Engine {
    /// Nobody: the box routes, without connection tracking.
    Routing,
    /// The least ruleset that does the work.
    HandWritten(Nat),
    /// nftlb of Debian.
    Nftlb(Nat),
    /// haproxy, in TCP mode.
    Haproxy,
    /// nginx's stream module.
    NginxStream,
    /// Headgate.
    Headgate {
        /// The farm's keys, without its listeners and backends.
        farm: &'static str,
        /// How many other farms are loaded beside it, with four backends each.
        others: u32,
    },
}

/// The variant that the others are compared with.
pub const REFERENCE: &str = "hand-nft-snat";

/// All of them, in the order of the tables.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "routing", engine: Engine::Routing },
    Variant { name: REFERENCE, engine: Engine::HandWritten(Nat::Source) },
    Variant { name: "hand-nft-dnat", engine: Engine::HandWritten(Nat::Destination) },
    Variant { name: "nftlb-snat", engine: Engine::Nftlb(Nat::Source) },
    Variant { name: "nftlb-dnat", engine: Engine::Nftlb(Nat::Destination) },
    Variant { name: "haproxy", engine: Engine::Haproxy },
    Variant { name: "nginx-stream", engine: Engine::NginxStream },
    Variant { name: "headgate-snat", engine: Engine::Headgate { farm: "mode = \"snat\"", others: 0 } },
    Variant { name: "headgate-snat-10000", engine: Engine::Headgate { farm: "mode = \"snat\"", others: 9_999 } },
    Variant { name: "headgate-dnat", engine: Engine::Headgate { farm: "mode = \"dnat\"", others: 0 } },
    Variant { name: "headgate-stateless", engine: Engine::Headgate { farm: STATELESS, others: 0 } },
    Variant { name: DIRECT, engine: Engine::Headgate { farm: "mode = \"dsr\"", others: 0 } },
];

/// Its servers answer past the box.
const DIRECT: &str = "headgate-dsr";
/// Packet by packet: a connection needs a scheduler that always says the same.
const STATELESS: &str = "mode = \"stateless\"\nscheduler = \"hash\"\nhash = [\"source-address\", \"source-port\"]";

impl Engine {
    /// Whether it carries this load at all.
    pub fn carries(self, load: Load) -> bool {
        !matches!((self, load), (Self::Haproxy | Self::NginxStream, Load::Udp))
    }
}

const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 16, 2, 11), Ipv4Addr::new(172, 16, 2, 12)];
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);

/// A variant that runs.
#[derive(Debug)]
pub struct Alive {
    /// Which one.
    pub variant: Variant,
    /// Everybody whose time it takes.
    pub workers: Workers,
    // Fields are dropped in this order: programs before their namespaces.
    _daemon: Option<Daemon>,
    _servers: [Nginx; BACKENDS.len()],
    _sinks: bulk::Sinks,
    lab: Lab,
    _files: TempDir,
}

impl Alive {
    /// Builds it, and asks until it answers.
    pub fn start(variant: Variant, number: usize) -> Result<Self> {
        Self::try_start(variant, number).with_context(|| format!("variant {}", variant.name))
    }

    fn try_start(variant: Variant, number: usize) -> Result<Self> {
        let lab = Lab::new(&format!("d{number}"))?;
        let files = tempfile::Builder::new().prefix("headgate-bench-").tempdir()?;
        datagrams::sink(&lab.backends, "eth0")?;
        if variant.name == DIRECT {
            answer_directly(&lab)?;
        }
        // Where answers go past the box a server has the virtual address itself, and so only one of the two can serve.
        let own = if variant.name == DIRECT { [VIRTUAL, BACKENDS[1]] } else { BACKENDS };
        let [first, second] = own.map(|address| SocketAddr::from((address, crate::load::http::PORT)));
        let servers = [Nginx::start(&lab.backends, &[first])?, Nginx::start(&lab.backends, &[second])?];
        let sinks = bulk::Sinks::start(&lab.backends, &own.map(|address| (address, bulk::PORT).into()))?;
        for space in [&lab.client, &lab.gate, &lab.backends] {
            peer::sysctl(space, &["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"])?;
        }
        let daemon = set_up(variant.engine, &lab, &files)?;
        // A box that has served some minutes of connection per request would otherwise be out of ports for source NAT: two
        // backends, one source address. It is the same for all, and set after whatever the engine itself set; headgated, which
        // would set it back, has it in its configuration.
        peer::sysctl(&lab.gate, &["net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1"])?;
        let workers = Workers::new(&[])?;
        let mut alive =
            Self { variant, workers, _daemon: daemon, _servers: servers, _sinks: sinks, lab, _files: files };
        alive.wait()?;
        // Now all of them have started their workers.
        let spaces = [&alive.lab.client, &alive.lab.gate, &alive.lab.backends];
        let processes = spaces.map(Namespace::pids).into_iter().collect::<Result<Vec<_>>>()?;
        alive.workers = Workers::new(&processes.concat())?;
        Ok(alive)
    }

    /// How a load gets through.
    pub fn way(&self) -> Way<'_> {
        let addresses = match self.variant.engine {
            Engine::Routing => BACKENDS.map(IpAddr::from).to_vec(),
            _ => vec![VIRTUAL.into()],
        };
        Way { client: &self.lab.client, backends: &self.lab.backends, addresses }
    }

    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for address in self.way().with_port(crate::load::http::PORT) {
            loop {
                match self.lab.client.within(|| http::get(address, Duration::from_secs(1)))? {
                    Ok(http::Response { status: 200, .. }) => break,
                    answer => ensure!(Instant::now() < deadline, "{address} does not serve: {answer:?}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// A way past the box for answers, and the virtual address on the servers.
fn answer_directly(lab: &Lab) -> Result<()> {
    veth((&lab.client, "eth1"), (&lab.backends, "eth1"))?;
    lab.client.ip(&["address", "add", "172.16.3.10/24", "dev", "eth1"])?;
    lab.backends.ip(&["address", "add", "172.16.3.11/24", "dev", "eth1"])?;
    lab.backends.ip(&["address", "add", &format!("{VIRTUAL}/32"), "dev", "lo"])?;
    lab.backends.ip(&["route", "add", "172.16.1.0/24", "via", "172.16.3.10", "dev", "eth1"])?;
    for (space, device) in [(&lab.client, "eth1"), (&lab.backends, "eth0")] {
        let filters = ["all", device].map(|name| format!("net.ipv4.conf.{name}.rp_filter=0"));
        peer::sysctl(space, &filters.each_ref().map(String::as_str))?;
    }
    Ok(())
}

/// What all of them do.
fn service() -> Service {
    Service {
        address: VIRTUAL,
        tcp: vec![crate::load::http::PORT, bulk::PORT],
        udp: vec![datagrams::PORT],
        backends: BACKENDS.to_vec(),
        source: Ipv4Addr::new(172, 16, 2, 1),
    }
}

fn set_up(engine: Engine, lab: &Lab, files: &TempDir) -> Result<Option<Daemon>> {
    if !matches!(engine, Engine::Routing | Engine::Headgate { .. }) {
        lab.gate.ip(&["address", "add", &format!("{VIRTUAL}/32"), "dev", "service"])?;
    }
    match engine {
        Engine::Routing => {}
        Engine::HandWritten(nat) => peer::nft(&lab.gate, &service().hand_written(nat))?,
        Engine::Nftlb(nat) => peer::nftlb(&lab.gate, files.path(), &service().nftlb(nat))?,
        Engine::Haproxy => {
            let file = files.path().join("haproxy.cfg");
            std::fs::write(&file, service().haproxy())?;
            return Daemon::start(lab.gate.command("haproxy").args(["-db", "-q", "-f"]).arg(file)).map(Some);
        }
        Engine::NginxStream => {
            let file = files.path().join("nginx.conf");
            std::fs::write(&file, service().nginx_stream(files.path()))?;
            return Daemon::start(lab.gate.command("nginx").arg("-c").arg(file)).map(Some);
        }
        Engine::Headgate { farm, others } => {
            if others > 0 {
                lab.gate.ip(&["address", "add", "10.255.255.254/8", "dev", "service"])?;
            }
            lab.once(&configuration(farm, others))?;
        }
    }
    Ok(None)
}

/// One farm that is like [`service`], and others.
fn configuration(farm: &str, others: u32) -> String {
    let service = service();
    let listeners = [("tcp", &service.tcp), ("udp", &service.udp)];
    let listen: Vec<String> = listeners
        .iter()
        .flat_map(|(protocol, ports)| ports.iter().map(move |port| format!("\"{VIRTUAL}:{port}/{protocol}\"")))
        .collect();
    let backends: String = service
        .backends
        .iter()
        .enumerate()
        .map(|(index, address)| format!("[farms.web.backends.b{index}]\naddress = \"{address}\"\n"))
        .collect();
    let knob = "[sysctl]\n\"net.netfilter.nf_conntrack_tcp_timeout_time_wait\" = 1\n";
    format!("{knob}[farms.web]\n{farm}\nlisten = [{}]\n{backends}{}", listen.join(", "), farms::generate(others, 4))
}
