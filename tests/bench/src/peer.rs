//! The others: programs that balance, with configurations that do the same as ours and no more.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use headgate_image::netns::Namespace;
use headgate_image::tool;
use serde::Serialize;

use crate::http;

/// A service: an address, and what it listens to.
#[derive(Debug, Clone)]
pub struct Service {
    /// The virtual address.
    pub address: Ipv4Addr,
    /// TCP ports; the backends have the same.
    pub tcp: Vec<u16>,
    /// UDP ports; the backends have the same.
    pub udp: Vec<u16>,
    /// Who serves.
    pub backends: Vec<Ipv4Addr>,
    /// The box's own address in the network of the backends, for source NAT.
    pub source: Ipv4Addr,
}

/// How a packet filter hands packets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Backends see the box.
    Source,
    /// Backends see the client, and answer through the box.
    Destination,
}

impl Service {
    /// The least that an expert would write for nft(8): one map, one rule per service.
    pub fn hand_written(&self, nat: Nat) -> String {
        let ports = [("tcp", &self.tcp), ("udp", &self.udp)];
        let elements: Vec<String> = ports
            .iter()
            .flat_map(|(protocol, ports)| ports.iter().map(move |port| (protocol, port)))
            .map(|(protocol, port)| format!("{} . {protocol} . {port} : goto web", self.address))
            .collect();
        let backends: Vec<String> =
            self.backends.iter().enumerate().map(|(index, address)| format!("{index} : {address}")).collect();
        let source = match nat {
            Nat::Source => format!(
                " chain source {{\n  type nat hook postrouting priority srcnat;\n  ct status dnat snat to {}\n }}\n",
                self.source
            ),
            Nat::Destination => String::new(),
        };
        format!(
            "table ip hand {{
 map services {{
  type ipv4_addr . inet_proto . inet_service : verdict
  elements = {{ {} }}
 }}
 chain web {{
  dnat to numgen inc mod {} map {{ {} }}
 }}
 chain destination {{
  type nat hook prerouting priority dstnat;
  ip daddr . ip protocol . th dport vmap @services
 }}
{source}}}
",
            elements.join(", "),
            self.backends.len(),
            backends.join(", ")
        )
    }

    /// For nftlb(8): a farm for each protocol.
    pub fn nftlb(&self, nat: Nat) -> NftlbFarms {
        let farm = |name: &str, protocol, ports: &[u16]| {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            NftlbFarm::new(name, nat, (protocol, self.address, ports.join(",")), &self.backends)
        };
        NftlbFarms { farms: vec![farm("web", "tcp", &self.tcp), farm("datagrams", "udp", &self.udp)] }
    }

    /// For haproxy(1); it does not know UDP.
    pub fn haproxy(&self) -> String {
        let mut text =
            "global\n maxconn 4000\n nbthread 2\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
                        timeout server 60s\n"
                .to_owned();
        for port in &self.tcp {
            // Writing to a String does not fail.
            let _ = writeln!(text, "listen port{port}\n bind {}:{port}\n balance roundrobin", self.address);
            for (index, backend) in self.backends.iter().enumerate() {
                let _ = writeln!(text, " server s{index} {backend}:{port}");
            }
        }
        text
    }

    /// For nginx's stream module, TCP only: a UDP session of nginx is no flow.
    pub fn nginx_stream(&self, directory: &Path) -> String {
        let directory = directory.display();
        let mut text = format!(
            "load_module modules/ngx_stream_module.so;\ndaemon off;\nuser root;\nworker_processes 2;\n\
             pid {directory}/pid;\nerror_log {directory}/log;\n\
             events {{ worker_connections 8192; }}\nstream {{\n"
        );
        for port in &self.tcp {
            let servers: String = self.backends.iter().map(|backend| format!("server {backend}:{port}; ")).collect();
            let _ = writeln!(text, " upstream port{port} {{ {servers}}}");
            let _ = writeln!(text, " server {{ listen {}:{port} reuseport; proxy_pass port{port}; }}", self.address);
        }
        text + "}\n"
    }
}

/// What nftlb(8) reads. It takes keys in their order: a farm's name must come before what is said about the farm.
#[derive(Debug, Clone, Serialize)]
pub struct NftlbFarms {
    /// In the order in which they are loaded, one transaction each.
    pub farms: Vec<NftlbFarm>,
}

/// A farm of nftlb.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NftlbFarm {
    name: String,
    family: &'static str,
    mode: &'static str,
    protocol: &'static str,
    scheduler: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sched_param: Option<&'static str>,
    virtual_addr: Ipv4Addr,
    virtual_ports: String,
    state: &'static str,
    backends: Vec<NftlbBackend>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
struct NftlbBackend {
    name: String,
    ip_addr: Ipv4Addr,
    /// Empty: that of the farm.
    #[serde(skip_serializing_if = "String::is_empty")]
    port: String,
    weight: String,
    priority: &'static str,
    state: &'static str,
}

impl NftlbFarm {
    /// A farm that serves all its backends in turn; `listen` is protocol, address and ports as nftlb writes them.
    pub fn new(name: &str, nat: Nat, listen: (&'static str, Ipv4Addr, String), backends: &[Ipv4Addr]) -> Self {
        let (protocol, virtual_addr, virtual_ports) = listen;
        let backend = |(index, &ip_addr): (usize, &Ipv4Addr)| NftlbBackend {
            name: format!("b{index}"),
            ip_addr,
            port: String::new(),
            weight: "1".to_owned(),
            priority: "1",
            state: "up",
        };
        Self {
            name: name.to_owned(),
            family: "ipv4",
            mode: match nat {
                Nat::Source => "snat",
                Nat::Destination => "dnat",
            },
            protocol,
            scheduler: "rr",
            sched_param: None,
            virtual_addr,
            virtual_ports,
            state: "up",
            backends: backends.iter().enumerate().map(backend).collect(),
        }
    }

    /// The same, but a hash of the source address picks, and a backend of weight 0 is down.
    #[must_use]
    pub fn by_source(mut self, weights: &[u32]) -> Self {
        self.scheduler = "hash";
        self.sched_param = Some("srcip");
        for (backend, weight) in self.backends.iter_mut().zip(weights) {
            // It knows no weight 0.
            backend.weight = (*weight).max(1).to_string();
            backend.state = if *weight > 0 { "up" } else { "down" };
        }
        self
    }

    /// The same with backends that listen on this port.
    #[must_use]
    pub fn to_port(mut self, port: u16) -> Self {
        for backend in &mut self.backends {
            backend.port = port.to_string();
        }
        self
    }
}

/// A program in the background; it ends when this is dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM: nginx and haproxy take their workers along.
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Loads rules into a namespace with `nft -f`.
pub fn nft(space: &Namespace, rules: &str) -> Result<()> {
    tool::run_with_input(space.command("nft").args(["-f", "/dev/stdin"]), rules.as_bytes()).map(drop)
}

/// Has nftlb load a configuration into a namespace, and end.
pub fn nftlb(space: &Namespace, directory: &Path, configuration: &NftlbFarms) -> Result<()> {
    let file = directory.join("nftlb.json");
    std::fs::write(&file, serde_json::to_string(configuration)?)?;
    let output = nftlb_once(space, &file).output().context("cannot start nftlb: `make deps` installs it")?;
    ensure!(output.status.success(), "nftlb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// nftlb's API wants one.
const KEY: &str = "benchmark";
const NFTLB_API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5555);

/// `nftlb` that loads a file and takes changes afterwards; errors only, on standard error.
pub fn nftlb_daemon(space: &Namespace, file: &Path) -> Command {
    let mut command = space.command("nftlb");
    // It prints its key.
    command.args(["-l", "3", "-L", "2", "-k", KEY, "-c"]).arg(file).stdout(Stdio::null());
    command
}

/// Whether the daemon listens yet.
pub fn nftlb_answers(space: &Namespace) -> Result<()> {
    Ok(space.within(|| TcpStream::connect(NFTLB_API))?.map(drop)?)
}

/// Asks the daemon for a change.
pub fn nftlb_api(space: &Namespace, method: &str, path: &str, body: &str) -> Result<()> {
    http::exchange_with_key(space.within(|| TcpStream::connect(NFTLB_API))??, KEY, (method, path, body))
}

/// Settings of the kernel in a namespace, as sysctl(8) takes them.
pub fn sysctl(space: &Namespace, settings: &[&str]) -> Result<()> {
    tool::run(space.command("sysctl").arg("-qw").args(settings)).map(drop)
}

/// `nftlb` that loads a file and ends; errors only, on standard error.
pub fn nftlb_once(space: &Namespace, file: &Path) -> Command {
    let mut command = space.command("nftlb");
    command.args(["-e", "-l", "3", "-L", "2", "-c"]).arg(file);
    command
}
