//! What a tracked connection takes of the kernel's memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headgate_image::stop::Stop;
use headgate_tests::lab::Lab;

use super::crowd::{self, Crowd};
use crate::peer::{self, Nat, NftlbFarm, NftlbFarms, Service};
use crate::report::{Cell, Table};

/// Kernels allow 262,144 on a machine of some GB.
pub const FLOWS_MAX: u32 = 100_000;

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);
const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 16, 2, 101), Ipv4Addr::new(172, 16, 2, 102)];

/// Between two looks at the slabs, how much they may differ, and how long they get to be still.
const PAUSE: Duration = Duration::from_millis(200);
const STILL: i64 = 256 << 10;
const SETTLING: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Engine {
    HandWritten(Nat),
    Nftlb(Nat),
    Headgate(&'static str),
}

const ENGINES: [(&str, Engine); 6] = [
    ("hand-nft-snat", Engine::HandWritten(Nat::Source)),
    ("hand-nft-dnat", Engine::HandWritten(Nat::Destination)),
    ("nftlb-snat", Engine::Nftlb(Nat::Source)),
    ("nftlb-dnat", Engine::Nftlb(Nat::Destination)),
    ("headgate-snat", Engine::Headgate("snat")),
    ("headgate-dnat", Engine::Headgate("dnat")),
];

/// Measures with so many flows.
pub fn table(flows: u32, stop: &Stop) -> Result<Table> {
    let mut table = Table::new("Memory of a tracked connection", &["engine", "bytes"]).note(format!(
        "What the kernel's slabs nf_conntrack and kmalloc-* grew by with {flows} UDP flows, for each: the entry and what \
         translation hangs on it. Other work on the machine blurs it by some bytes."
    ));
    for (name, engine) in ENGINES {
        stop.check()?;
        let bytes = measure(engine, flows).with_context(|| name.to_owned())?;
        table.rows.push(vec![name.into(), Cell::Number(bytes, 0)]);
    }
    Ok(table)
}

fn measure(engine: Engine, flows: u32) -> Result<f64> {
    let lab = Lab::new("memory")?;
    let crowd = Crowd::gather(&lab, flows, BACKENDS.len())?;
    if !matches!(engine, Engine::Headgate(_)) {
        lab.gate.ip(&["address", "add", &format!("{VIRTUAL}/32"), "dev", "service"])?;
    }
    match engine {
        Engine::HandWritten(nat) => peer::nft(&lab.gate, &service().hand_written(nat))?,
        Engine::Nftlb(nat) => {
            let farm = NftlbFarm::new("crowd", nat, ("udp", VIRTUAL, crowd::PORT.to_string()), &BACKENDS);
            peer::nftlb(&lab.gate, lab.root(), &NftlbFarms { farms: vec![farm] })?;
        }
        Engine::Headgate(mode) => {
            let [first, second] = BACKENDS;
            lab.once(&format!(
                "[farms.crowd]\nmode = \"{mode}\"\nlisten = \"{VIRTUAL}:{}/udp\"\nbackends.a.address = \"{first}\"\n\
                 backends.b.address = \"{second}\"\n",
                crowd::PORT
            ))?;
        }
    }
    let sysctls = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.service.rp_filter=0"];
    peer::sysctl(&lab.gate, &sysctls)?;
    let before = settled()?;
    crowd.send_unseen(&lab.client, SocketAddr::from((VIRTUAL, crowd::PORT)))?;
    let tracked = lab.gate.run("sysctl -n net.netfilter.nf_conntrack_count")?.trim().parse::<f64>()?;
    Ok((slabs()? - before) as f64 / tracked)
}

fn service() -> Service {
    Service {
        address: VIRTUAL,
        tcp: Vec::new(),
        udp: vec![crowd::PORT],
        backends: BACKENDS.to_vec(),
        source: Ipv4Addr::new(172, 16, 2, 1),
    }
}

/// [`slabs`] once they are still: what a namespace had that is gone is freed behind everybody's back, an RCU grace period
/// and a work queue later, and would be counted against the flows that come.
fn settled() -> Result<i64> {
    let (mut last, mut still) = (slabs()?, 0);
    for _ in 0..SETTLING.as_millis() / PAUSE.as_millis() {
        std::thread::sleep(PAUSE);
        let now = slabs()?;
        still = if (now - last).abs() < STILL { still + 1 } else { 0 };
        last = now;
        if still == 5 {
            return Ok(now);
        }
    }
    bail!("the kernel's slabs did not settle within {} s: is the machine busy?", SETTLING.as_secs())
}

/// Bytes of objects in use.
fn slabs() -> Result<i64> {
    let text = std::fs::read_to_string("/proc/slabinfo").context("cannot read /proc/slabinfo")?;
    let object = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let ours = name == "nf_conntrack" || name.starts_with("kmalloc-");
        let (active, size) = (words.next()?.parse::<i64>().ok()?, words.nth(1)?.parse::<i64>().ok()?);
        ours.then_some(active * size)
    };
    Ok(text.lines().filter_map(object).sum())
}
