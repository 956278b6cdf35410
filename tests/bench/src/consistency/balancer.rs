//! A farm of some backends, by a scheduler of ours or by nftlb's hash, whose backends can leave and come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use headgate_tests::lab::Lab;

use super::crowd::{self, Crowd, Placement};
use crate::peer::{self, Daemon, Nat, NftlbFarm, NftlbFarms};

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 1);

/// Who picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picker {
    /// A farm of ours with these keys.
    Headgate(&'static str),
    /// nftlb's `hash` over the source address.
    NftlbHash,
}

impl Picker {
    /// Whether it is to send a client's new flow where the one before went.
    pub fn remembers(self) -> bool {
        !matches!(self, Self::Headgate(keys) if !keys.contains("hash"))
    }
}

/// A lab with a farm and its crowd. Dropped in this order.
#[derive(Debug)]
pub struct Balancer {
    picker: Picker,
    crowd: Crowd,
    nftlb: Option<Daemon>,
    lab: Lab,
}

impl Balancer {
    /// Builds it; there is no farm yet.
    pub fn new(picker: Picker, clients: u32, backends: usize) -> Result<Self> {
        let lab = Lab::new("crowd")?;
        let crowd = Crowd::gather(&lab, clients, backends)?;
        Ok(Self { picker, crowd, nftlb: None, lab })
    }

    /// The farm has the backends with a weight; the others are gone.
    pub fn balance(&mut self, weights: &[u32]) -> Result<()> {
        match self.picker {
            Picker::Headgate(keys) => self.lab.once(&farm(keys, weights))?,
            Picker::NftlbHash => self.nftlb(weights)?,
        }
        // After whatever set it: the first flows must still be known at the end.
        let forward = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.service.rp_filter=0"];
        let flows = ["net.netfilter.nf_conntrack_udp_timeout=600"];
        peer::sysctl(&self.lab.gate, &[&forward[..], &flows[..]].concat())?;
        // As in the crowd: the box must be a known neighbour.
        self.lab.client.run(&format!("ping -q -c 1 -W 2 {VIRTUAL}")).map(drop)
    }

    /// A packet of every client's flow of this phase; who got it.
    pub fn place(&self, phase: u16) -> Result<Placement> {
        self.crowd.send(&self.lab.client, SocketAddr::from((VIRTUAL, crowd::PORT)), phase)
    }

    /// The first time its daemon, then its API: as its operators do, and a restart would forget every flow.
    fn nftlb(&mut self, weights: &[u32]) -> Result<()> {
        let backends: Vec<Ipv4Addr> = (0..weights.len()).map(crowd::backend).collect();
        let farm = NftlbFarm::new("crowd", Nat::Destination, ("udp", VIRTUAL, crowd::PORT.to_string()), &backends);
        let farms = NftlbFarms { farms: vec![farm.by_source(weights)] };
        if self.nftlb.is_none() {
            self.lab.gate.ip(&["address", "add", &format!("{VIRTUAL}/32"), "dev", "service"])?;
            let file = self.lab.root().join("nftlb.json");
            std::fs::write(&file, serde_json::to_string(&farms)?)?;
            self.nftlb = Some(Daemon::start(&mut peer::nftlb_daemon(&self.lab.gate, &file))?);
            let started = Instant::now();
            while self.lab.nft("list map ip nftlb nat-proto-services").is_err() {
                ensure!(started.elapsed() < Duration::from_secs(10), "nftlb does not start");
                std::thread::sleep(Duration::from_millis(20));
            }
            return Ok(());
        }
        peer::nftlb_api(&self.lab.gate, "POST", "/farms", &serde_json::to_string(&farms)?)
    }
}

fn farm(keys: &str, weights: &[u32]) -> String {
    let backend = |(number, weight): (usize, &u32)| {
        let address = crowd::backend(number);
        format!("[farms.crowd.backends.b{number}]\naddress = \"{address}\"\nweight = {weight}\n")
    };
    let backends: String = weights.iter().enumerate().filter(|(_, weight)| **weight > 0).map(backend).collect();
    let port = crowd::PORT;
    format!("[farms.crowd]\nmode = \"dnat\"\nlisten = \"{VIRTUAL}:{port}/udp\"\n{keys}\n{backends}")
}
