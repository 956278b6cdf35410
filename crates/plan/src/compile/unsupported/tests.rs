use std::time::Duration;

use headgate_config::model::{Dsr, DsrVia, FarmState, HashField, LimitAction, Limits, LogEvent, Mode, Scheduler};
use headgate_config::types::Rate;

use super::*;
use crate::samples::{address, config, web};

fn sentences(config: &Config) -> Vec<String> {
    find(config).iter().map(ToString::to_string).collect()
}

/// The sentences about `web` with one change.
fn with_farm(change: impl FnOnce(&mut Farm)) -> Vec<String> {
    let mut farm = web();
    change(&mut farm);
    sentences(&config(vec![farm]))
}

fn with(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = config(vec![web()]);
    change(&mut config);
    sentences(&config)
}

fn rate(count: u32, seconds: u64, burst: Option<u32>) -> Option<Rate> {
    Some(Rate { count, per: Duration::from_secs(seconds), burst })
}

#[test]
fn what_is_supported_is_not_told() {
    assert_eq!(with_farm(|_| ()), [""; 0]);
    assert_eq!(with_farm(|farm| farm.scheduler = Scheduler::Random), [""; 0]);
    assert_eq!(with_farm(|farm| farm.source_addresses = vec![address("10.0.0.1"), address("2001:db8::1")]), [""; 0]);
    assert_eq!(with_farm(|farm| farm.limits = Some(Limits::default())), [""; 0]);
    assert_eq!(with(|config| config.system.hostname = Some("lb1".to_owned())), [""; 0]);
    assert_eq!(with(|config| config.system.protect = Some(true)), [""; 0]);
}

#[test]
fn modes_and_schedulers() {
    let mode = |mode| with_farm(|farm| farm.mode = mode);
    assert_eq!(mode(Mode::Stateless), [""; 0]);
    assert_eq!(mode(Mode::Local), [""; 0]);
    let dsr = |via| {
        with_farm(|farm| {
            farm.mode = Mode::Dsr;
            farm.dsr = Some(Dsr { via, interface: None });
        })
    };
    assert_eq!(dsr(DsrVia::L2), [""; 0]);
    assert_eq!(dsr(DsrVia::Gre), [""; 0]);
    let told = with_farm(|farm| {
        farm.mode = Mode::Dsr;
        farm.dsr = Some(Dsr { via: DsrVia::L2, interface: None });
        farm.log = vec![LogEvent::New, LogEvent::Denied];
        farm.mark = Some(16);
        farm.limits = Some(Limits { strict_tcp: true, ..Limits::default() });
    });
    assert_eq!(told, ["not supported yet: farms.web.mark = 0x10"]);
    let scheduler = |scheduler| with_farm(|farm| farm.scheduler = scheduler);
    let plain = vec![HashField::SourceAddress, HashField::DestinationPort];
    let macs = vec![HashField::SourceAddress, HashField::SourceMac];
    assert_eq!(scheduler(Scheduler::Hash { fields: plain.clone(), slots: 32768 }), [""; 0]);
    assert_eq!(scheduler(Scheduler::Maglev { fields: plain, slots: 1021 }), [""; 0]);
    assert_eq!(scheduler(Scheduler::Hash { fields: macs.clone(), slots: 1021 }), [""; 0]);
    assert_eq!(scheduler(Scheduler::Maglev { fields: macs, slots: 1021 }), [""; 0]);
    assert!(scheduler(Scheduler::LeastConnections).is_empty());
}

#[test]
fn limits() {
    let limits = Limits {
        new_connections: rate(200, 1, Some(400)),
        new_connections_total: rate(50_000, 60, None),
        connections_per_client: Some(100),
        tcp_resets: rate(10, 86_400, None),
        strict_tcp: true,
        syn_proxy: true,
        ban: Some(Duration::from_secs(120)),
        action: LimitAction::Reject,
    };
    assert_eq!(with_farm(|farm| farm.limits = Some(limits)), [""; 0]);
}

#[test]
fn a_farm_that_is_off_is_told_as_well() {
    let told = with_farm(|farm| {
        farm.state = FarmState::Off;
        farm.mode = Mode::Stateless;
        farm.mark = Some(3);
    });
    assert_eq!(told, ["not supported yet: farms.web.mark = 0x3"]);
}

#[test]
fn more_farms_than_ids() {
    let config = config((0..=FARMS_MAX).map(|n| Farm { name: name(n), ..web() }).collect());
    assert_eq!(sentences(&config), ["not supported yet: farms = { … 65280 farms, 65279 at most … }"]);
}

fn name(n: usize) -> headgate_config::types::FarmName {
    headgate_config::types::FarmName::new(&format!("f{n}")).unwrap()
}
