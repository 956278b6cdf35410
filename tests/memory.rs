//! What the daemon keeps in memory behind a configuration, and behind many of them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use headgate_tests::farms;
use headgate_tests::lab::Lab;

const FARMS: u32 = 1500;
/// What may stay for the farms, bytes. They take 1.8 kB each, what they were made of on the way ten times as much; each arena of
/// malloc(3) has up to 1 MB more, and each of six threads may have one: nothing is trimmed of another thread's that is in use.
const MOST: u64 = FARMS as u64 * 1800 + 6_000_000;

/// It compares the kernel with the farms meanwhile, now and then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory that is the daemon's own and not a file's, bytes.
fn anonymous(lab: &Lab) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.process().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Waits until no more than the farms is left above what there is without farms.
fn settles(lab: &Lab, without: u64) {
    let begun = Instant::now();
    while anonymous(lab).saturating_sub(without) > MOST {
        let seen = anonymous(lab);
        assert!(begun.elapsed() < PATIENCE, "{seen} bytes, {without} without farms");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_many_farms_took_on_the_way_is_given_back() {
    let text = |port: &str| {
        let farms = farms::generate(FARMS, 4).replace(":8080", port);
        format!("[defaults.farm.address]\nmanage = \"never\"\n[defaults.farm.health]\ntype = \"none\"\n{farms}")
    };
    let mut lab = Lab::new("memory").unwrap();
    lab.gate.ip(&["address", "add", "172.31.255.254/12", "dev", "backend"]).unwrap();
    lab.configure("").unwrap();
    lab.start().unwrap();
    let without = anonymous(&lab);
    lab.stop().unwrap();
    lab.configure(&text(":8080")).unwrap();
    lab.start().unwrap();
    settles(&lab, without);
    for port in [":8081", ":8080", ":8081"] {
        lab.configure(&text(port)).unwrap();
        lab.headgate_ok(&["apply"]).unwrap();
        settles(&lab, without);
    }
}
