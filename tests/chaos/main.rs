//! Chaos: one fault after the other under load, for as long as it is asked for, and what that costs, counted.
//!
//! While clients talk to four farms, backends die and return, links flap, addresses change, configurations reload, the
//! supervisor is killed, its clock jumps, its disk fills, its memory is short, its sockets overflow, a foreign tool removes our
//! tables or holds the generation of the ruleset. No answer may come from a server that is not of the farm; no connection
//! of a farm whose servers live may end, but where the fault itself cuts it; and when it is over, the kernel has what a fresh
//! load of the same files gives it.
//!
//! Each fault once in every run of the tests; `HEADGATE_CHAOS=600` goes on for so many seconds (`make test-chaos`),
//! `HEADGATE_SEED=N` takes another order.
#![allow(missing_docs, clippy::unwrap_used)]

mod faults;
mod load;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6};
use headgate_tests::listing::settled;
use headgate_tests::server::Server;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use faults::{Cost, FAULTS, Fault, Noticed};
use load::{Churn, Steady, Tally};

/// Far longer than anything here takes on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for the daemon's state: a disk that is easily full.
const STATE: &str = "size=1m";

/// The lab, its servers and its clients.
struct Chaos {
    lab: Lab,
    /// Servers that nobody touches: the farms `steady` and `steady6`.
    _kept: Vec<Server>,
    /// Servers of the farm `churn`, by their number; a fault may end one.
    mortal: BTreeMap<u8, Server>,
    steady: Steady,
    churn: Churn,
    /// Counts faults, for what differs from one to the next.
    number: u64,
    /// Of the configuration that was written last.
    weight: u64,
}

/// `weight` is what reloads change.
fn configuration(weight: u64) -> String {
    format!(
        "[farms.steady]
listen = [\"172.16.1.1:80\", \"172.16.1.1:80/udp\"]
backends.s11.address = \"172.16.2.11:8080\"
backends.s12.address = \"172.16.2.12:8080\"
backends.s12.weight = {weight}

[farms.steady6]
mode = \"dnat\"
listen = \"[2001:db8:1::1]:80\"
backends.x11.address = \"[2001:db8:2::11]:8080\"
backends.x12.address = \"[2001:db8:2::12]:8080\"
backends.x12.weight = {weight}

[farms.churn]
listen = [\"172.16.1.2:80\", \"172.16.1.2:80/udp\"]
backends.c11.address = \"172.16.2.11:9090\"
backends.c12.address = \"172.16.2.12:9090\"
backends.c13.address = \"172.16.2.13:9090\"
backends.c13.weight = {weight}
[farms.churn.health]
type = \"tcp\"
interval = \"200ms\"
timeout = \"200ms\"
rise = 1
fall = 2
"
    )
}

impl Chaos {
    fn begin() -> Self {
        let mut lab = Lab::new("chaos").unwrap();
        // A flap must not cost the box the addresses of its own networks: an administrator's setting, not ours.
        lab.gate.run("sysctl -qw net.ipv6.conf.all.keep_addr_on_down=1").unwrap();
        faults::clock::install(&mut lab);
        let kept = [
            ("s11", backend(11, 8080)),
            ("s12", backend(12, 8080)),
            ("x11", backend6(11, 8080)),
            ("x12", backend6(12, 8080)),
        ];
        let kept = kept.map(|(name, address)| Server::start(&lab.backends, name, address).unwrap()).into();
        let state = lab.root().join("var");
        std::fs::create_dir_all(&state).unwrap();
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some(STATE)).unwrap();
        let mortal = [11, 12, 13].map(|number| (number, mortal(&lab, number))).into();
        lab.configure(&configuration(1)).unwrap();
        lab.start().unwrap();
        let steady = Steady::begin(&lab).unwrap();
        let churn = Churn::begin(&lab).unwrap();
        Self { lab, _kept: kept, mortal, steady, churn, number: 0, weight: 1 }
    }

    /// Waits until new connections to the farm `churn` succeed, by all of its servers; how long that took.
    fn recovered(&self, what: &str) -> Duration {
        let started = Instant::now();
        loop {
            if load::serves_everywhere(&self.lab) {
                return started.elapsed();
            }
            assert!(started.elapsed() < PATIENCE, "{what}: the farm did not recover");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn mortal(lab: &Lab, number: u8) -> Server {
    Server::start(&lab.backends, &format!("c{number}"), backend(number, 9090)).unwrap()
}

/// Our table as nft(8) lists it, word by word; elements come in no certain order, and counters count. A set that had to be larger
/// once keeps its size.
fn listed(lab: &Lab) -> Vec<String> {
    let text = settled(&lab.nft("--stateless list table inet headgate").unwrap());
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("size "));
    let words = lines.flat_map(str::split_whitespace).map(|word| word.trim_matches(',').to_owned());
    let mut words: Vec<String> = words.collect();
    words.sort_unstable();
    words
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What all times of one fault came to.
#[derive(Default)]
struct Row {
    times: u32,
    mended: Duration,
    recovered: Duration,
    cut: usize,
    lost: usize,
    tally: Tally,
}

impl Row {
    fn add(&mut self, cost: &Cost, recovered: Duration, lost: usize, tally: &Tally) {
        self.times += 1;
        self.mended = self.mended.max(cost.mended);
        self.recovered = self.recovered.max(recovered);
        match cost.cuts {
            true => self.cut += lost,
            false => self.lost += lost,
        }
        self.tally.add(tally);
    }
}

/// Steps of Knuth's generator: an order of faults that the seed fixes.
fn shuffled(seed: &mut u64) -> Vec<&'static Fault> {
    let mut faults: Vec<&Fault> = FAULTS.iter().collect();
    for last in (1..faults.len()).rev() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        faults.swap(last, (*seed >> 33) as usize % (last + 1));
    }
    faults
}

#[test]
fn faults_under_load_cost_what_they_must_and_nothing_stays() {
    // The small disk is a mount, which nobody else shall see and which goes with this thread.
    unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).unwrap();
    let mut seed = number("HEADGATE_SEED").unwrap_or(1);
    let long = Duration::from_secs(number("HEADGATE_CHAOS").unwrap_or(0));
    println!("HEADGATE_SEED={seed}");
    let mut chaos = Chaos::begin();
    chaos.recovered("the beginning");
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut noticed = Vec::new();
    let started = Instant::now();
    loop {
        for fault in shuffled(&mut seed) {
            chaos.number += 1;
            // Who waits for an answer since the fault before is not of this one.
            chaos.churn.rest();
            let cost = (fault.act)(&mut chaos);
            let recovered = chaos.recovered(fault.name);
            let lost = chaos.steady.check();
            let tally = chaos.churn.rest();
            println!("{:6.1} s {}: {lost} lost, {tally}", started.elapsed().as_secs_f64(), fault.name);
            if fault.noticed == Noticed::Never && tally.failed > 0 {
                noticed.push(format!("{}: {tally}", fault.name));
            }
            rows.entry(fault.name).or_default().add(&cost, recovered, lost, &tally);
            chaos.steady.refill(&chaos.lab).unwrap();
        }
        if started.elapsed() >= long {
            break;
        }
    }
    report(&rows);
    let (churned, steady_wrong) = (chaos.churn.end(), chaos.steady.wrong());
    let wrong: u64 = rows.values().map(|row| row.tally.wrong).sum::<u64>() + churned.wrong + steady_wrong;
    assert_eq!(wrong, 0, "answers from servers that are not the farm's");
    assert_eq!(rows.values().map(|row| row.lost).sum::<usize>(), 0, "connections that no fault cut");
    assert!(rows.values().all(|row| row.tally.answered > 0), "there was no load");
    assert!(noticed.is_empty(), "clients noticed what they must not: {noticed:?}");

    chaos.steady.end();
    let left = listed(&chaos.lab);
    chaos.lab.stop().unwrap();
    chaos.lab.gate.run("nft flush ruleset").unwrap();
    chaos.lab.once(&std::fs::read_to_string(chaos.lab.root().join("etc/headgate/headgate.toml")).unwrap()).unwrap();
    assert_eq!(left, listed(&chaos.lab), "a fresh load is something else");
}

fn report(rows: &BTreeMap<&str, Row>) {
    println!("\n{:<42} times  mended   served   lost  cut  answered  failed  wrong", "fault (longest times, sums)");
    for (name, row) in rows {
        println!(
            "{name:<42} {:5} {:5} ms {:5} ms {:5} {:5} {:9} {:7} {:6}",
            row.times,
            row.mended.as_millis(),
            row.recovered.as_millis(),
            row.lost,
            row.cut,
            row.tally.answered,
            row.tally.failed,
            row.tally.wrong
        );
    }
}
