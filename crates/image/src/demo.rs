//! `headgate-image demo`: the appliance between two networks, seen from a client.
//!
//! ```text
//!   client 172.16.1.2 ── igb 0 ─ 172.16.1.1:80 [farm web] 172.16.2.1 ─ igb 1 ── backends 172.16.2.11 and .12
//! ```
//! Both networks are namespaces of this machine, the cables are taps, the backends are nginx. Each expectation is a line of
//! the summary, and one that is not met makes the whole a failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::http;
use crate::netns::Namespace;
use crate::nginx::Nginx;
use crate::progress::Progress;
use crate::qemu::{Link, Machine, Options};
use crate::stop::Stop;
use crate::tool::missing;

/// What happens when everything was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// All is taken down.
    End,
    /// The console is on the terminal until Ctrl-C.
    Console,
}

/// The farm's address.
const SERVICE: &str = "172.16.1.1:80";
const BACKENDS: [&str; 2] = ["172.16.2.11:8080", "172.16.2.12:8080"];
const REQUESTS: usize = 40;
/// Two cores translate eight: 30 s is usual, a loaded machine takes three times that.
const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);

/// What the box is told, by fw_cfg.
pub const DROP_IN: &str = r#"# Two networks and one farm.
[network.interfaces.service]
match = { driver = "igb", index = 0 }
addresses = ["172.16.1.1/24"]

[network.interfaces.backend]
match = { driver = "igb", index = 1 }
addresses = ["172.16.2.1/24"]

[farms.web]
mode = "snat"
listen = "172.16.1.1:80"

[farms.web.backends.b1]
address = "172.16.2.11:8080"

[farms.web.backends.b2]
address = "172.16.2.12:8080"
"#;

/// The two networks with what is in them; gone when dropped.
#[derive(Debug)]
pub struct Networks {
    /// Where clients are.
    pub client: Namespace,
    // Before its namespace: fields are dropped in this order.
    _nginx: Nginx,
    /// Where backends are.
    pub backend: Namespace,
}

impl Networks {
    /// Makes them; also the cables for the guest, in the order of its cards.
    pub fn create() -> Result<(Self, Vec<Link>)> {
        let client = Namespace::create("client")?;
        let backend = Namespace::create("backend")?;
        let links = vec![Link::Tap(client.tap("service")?), Link::Tap(backend.tap("backend")?)];
        // The same each time: a box that goes on from a saved state knows its neighbours.
        client.ip(&["link", "set", "service", "address", "52:54:00:48:48:01"])?;
        backend.ip(&["link", "set", "backend", "address", "52:54:00:48:48:02"])?;
        client.ip(&["address", "add", "172.16.1.2/24", "dev", "service"])?;
        let mut listen = Vec::new();
        for address in BACKENDS {
            let address: SocketAddr = address.parse()?;
            backend.ip(&["address", "add", &format!("{}/24", address.ip()), "dev", "backend"])?;
            listen.push(address);
        }
        let nginx = Nginx::start(&backend, &listen)?;
        Ok((Self { client, _nginx: nginx, backend }, links))
    }

    /// Asks the farm until it answers as it should; how long that took.
    pub fn wait_until_served(&self, within: Duration, stop: &Stop) -> Result<Duration> {
        let address = SERVICE.parse()?;
        let started = Instant::now();
        loop {
            let answer = self.client.within(|| http::get(address, Duration::from_secs(1)))?;
            let problem = match answer {
                Ok(http::Response { status: 200, .. }) => return Ok(started.elapsed()),
                Ok(http::Response { status, .. }) => format!("status {status}"),
                Err(error) => format!("{error:#}"),
            };
            stop.check()?;
            ensure!(started.elapsed() < within, "{SERVICE} did not serve within {within:?}; last: {problem}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Sends requests, each over a connection of its own: how often which backend answered.
    pub fn ask(&self, requests: usize) -> Result<BTreeMap<String, usize>> {
        let address = SERVICE.parse()?;
        let mut answers = BTreeMap::new();
        for _ in 0..requests {
            let answer = self.client.within(|| http::get(address, Duration::from_secs(5)))??;
            let name = match answer {
                http::Response { status: 200, backend: Some(backend) } => backend,
                http::Response { status, .. } => format!("no backend, status {status}"),
            };
            *answers.entry(name).or_default() += 1;
        }
        Ok(answers)
    }
}

/// Boots an image between the networks (`options` says which one and how), and tries it. An error when anything is not as
/// it should be.
pub fn run(options: Options, afterwards: Afterwards, progress: &Progress, stop: &Stop) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the demo makes network namespaces and taps: run it as root");
    let (networks, links) = Networks::create()?;
    let directory = tempfile::Builder::new().prefix("headgate-demo-").tempdir()?;
    let drop_ins = vec![write_drop_in(directory.path(), "10-demo.toml", DROP_IN)?];
    let mut machine = Machine::start(Options { links, drop_ins, ..options }, stop)?;
    let tried = attempt(&networks, &mut machine, progress, stop);
    if let Err(error) = &tried {
        eprintln!("\nThe serial port said, before {error:#}:\n{}", machine.transcript());
    }
    let summary = tried?;
    summary.print();
    if afterwards == Afterwards::Console {
        println!("\nThe appliance stays up: its console is here, Ctrl-C ends it.");
        println!("From its client network: ip netns exec {} curl -i http://{SERVICE}/", networks.client.name());
        machine.send("")?;
        machine.attach()?;
    }
    ensure!(summary.all_good(), "not everything was as it should be");
    Ok(())
}

/// Writes a drop-in into a directory.
pub fn write_drop_in(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn attempt(networks: &Networks, machine: &mut Machine, progress: &Progress, stop: &Stop) -> Result<Summary> {
    let mut summary = Summary::default();
    for milestone in ["headgate-grub slot", "initramfs", "slot A mounted", "ready", "headgate> "] {
        machine.expect(milestone, BOOT)?;
        progress.line(&format!("booting: {}", milestone.trim_end()));
    }
    networks.wait_until_served(BOOT, stop)?;
    let boot = machine.uptime().as_secs_f64();
    progress.line(&format!("{SERVICE} serves"));
    summary.note(true, "boot", format!("power-on to the first answer in {boot:.1} s"));

    let answers = networks.ask(REQUESTS)?;
    let shown: Vec<String> = answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
    summary.note(balanced(&answers), "requests", format!("{REQUESTS} sent, answered by {}", shown.join(", ")));

    let started = Instant::now();
    let (mut status, mut code) = machine.console("status", COMMAND)?;
    // Health checks of a box that has just booted need a moment.
    while code != 0 && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(500));
        (status, code) = machine.console("status", COMMAND)?;
    }
    summary.show("headgate status", status);
    summary.note(code == 0, "status", format!("exit status {code}"));
    let (hardware, code) = machine.console("hw show", COMMAND)?;
    summary.show("headgate hw show", hardware);
    summary.note(code == 0, "hardware", format!("exit status {code}"));

    progress.line("load for 5 s");
    let load = load(&networks.client)?;
    stop.check()?;
    summary.note(load.is_clean(), "load", load.to_string());
    Ok(summary)
}

/// Both backends answer, and everything is answered by one of them; a quarter each is what chance may do at worst.
fn balanced(answers: &BTreeMap<String, usize>) -> bool {
    let of_backends: Vec<usize> = BACKENDS.iter().filter_map(|name| answers.get(*name).copied()).collect();
    of_backends.len() == BACKENDS.len()
        && of_backends.iter().sum::<usize>() == REQUESTS
        && of_backends.iter().all(|&count| count >= REQUESTS / 4)
}

/// What wrk says.
#[derive(Debug, PartialEq)]
struct Load {
    requests_per_second: f64,
    latency: String,
    faults: Vec<String>,
}

impl Load {
    fn is_clean(&self) -> bool {
        self.requests_per_second > 0.0 && self.faults.is_empty()
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} requests/s, median latency {}", self.requests_per_second, self.latency)?;
        self.faults.iter().try_for_each(|fault| write!(f, ", {fault}"))
    }
}

fn load(client: &Namespace) -> Result<Load> {
    let url = format!("http://{SERVICE}/");
    let output = client
        .command("wrk")
        .args(["-t", "2", "-c", "16", "-d", "5s", "--latency", &url])
        .output()
        .map_err(|error| missing("wrk", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}{text}", String::from_utf8_lossy(&output.stderr));
    parse_load(&text).with_context(|| format!("wrk said something else than usual:\n{text}"))
}

fn parse_load(text: &str) -> Option<Load> {
    let value = |name: &str| text.lines().find_map(|line| Some(line.trim().strip_prefix(name)?.trim().to_owned()));
    let faults =
        text.lines().map(str::trim).filter(|line| line.starts_with("Socket errors:") || line.starts_with("Non-2xx"));
    Some(Load {
        requests_per_second: value("Requests/sec:")?.parse().ok()?,
        latency: value("50%")?,
        faults: faults.map(str::to_owned).collect(),
    })
}

/// What is printed at the end.
#[derive(Debug, Default)]
struct Summary {
    notes: Vec<(bool, &'static str, String)>,
    shown: Vec<(&'static str, String)>,
}

impl Summary {
    fn note(&mut self, good: bool, what: &'static str, text: String) {
        self.notes.push((good, what, text));
    }

    fn show(&mut self, title: &'static str, text: String) {
        self.shown.push((title, text));
    }

    fn all_good(&self) -> bool {
        !self.notes.is_empty() && self.notes.iter().all(|(good, ..)| *good)
    }

    fn print(&self) {
        for (title, text) in &self.shown {
            println!("\n── {title}\n{text}");
        }
        println!("\n── what was tried");
        for (good, what, text) in &self.notes {
            println!("{}  {what:<9} {text}", if *good { "ok  " } else { "FAIL" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
        list.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn both_backends_must_answer_and_nothing_else_may() {
        let [one, two] = BACKENDS;
        assert!(balanced(&answers(&[(one, 20), (two, 20)])));
        assert!(balanced(&answers(&[(one, 28), (two, 12)])));
        assert!(!balanced(&answers(&[(one, 40)])));
        assert!(!balanced(&answers(&[(one, 39), (two, 1)])));
        assert!(!balanced(&answers(&[(one, 20), (two, 19), ("no backend, status 502", 1)])));
        assert!(!balanced(&answers(&[])));
    }

    #[test]
    fn faults_under_load_are_faults() {
        let clean = "  Latency Distribution\n     50%    2.39ms\n     99%    9.1ms\nRequests/sec:   5303.10\nTransfer/sec: 1MB\n";
        let load = parse_load(clean).unwrap();
        assert!(load.is_clean());
        assert_eq!(load.to_string(), "5303 requests/s, median latency 2.39ms");
        for fault in ["  Socket errors: connect 0, read 3, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 7\n"] {
            assert!(!parse_load(&format!("{fault}{clean}")).unwrap().is_clean(), "{fault}");
        }
        assert!(!parse_load(&clean.replace("5303.10", "0.00")).unwrap().is_clean());
        assert_eq!(parse_load("unable to connect"), None);
    }

    #[test]
    fn nothing_tried_is_no_success() {
        let mut summary = Summary::default();
        assert!(!summary.all_good());
        summary.note(true, "a", String::new());
        assert!(summary.all_good());
        summary.note(false, "b", String::new());
        assert!(!summary.all_good());
    }
}
