use headgate_config::model::{Backend, BackendState};

use super::*;
use crate::compile::compile;
use crate::ids::Ids;
use crate::samples::{backend, config, facts, farm, tcp, web};
use crate::state::{Knob, KnobValue};

fn edit(farm: &Farm, backend: &str, change: impl FnOnce(&mut Backend)) -> Farm {
    let mut farm = farm.clone();
    change(farm.backends.get_mut(backend).unwrap());
    farm
}

fn named(name: &str, farm: Farm) -> Farm {
    Farm { name: FarmName::new(name).unwrap(), ..farm }
}

/// The status of a machine that has all that is wanted.
fn status(config: &Config) -> Status {
    let desired = compile(config, &[], &facts(), &Ids::default()).unwrap();
    let observed = desired.state.clone();
    Status::new(Sources {
        config,
        desired: &desired,
        observed: &observed,
        counted: &Counted::default(),
        knobs: &BTreeMap::new(),
        services: &[],
        generation: Some(7),
        last_error: None,
    })
}

#[test]
fn all_is_well() {
    let status = status(&config(vec![web()]));
    assert!(status.healthy(), "{status:#?}");
    let farm = &status.farms[0];
    assert_eq!((farm.health, farm.usable, farm.total), (FarmHealth::Serving, 2, 2));
    assert_eq!(farm.listen, ["172.16.1.1:80/tcp"]);
    assert_eq!(farm.backends[0].address, "172.16.2.11:8080");
}

#[test]
fn the_worst_is_first() {
    let one_less = edit(&web(), "b1", |backend| backend.state = BackendState::Down);
    let none_left = edit(&one_less, "b2", |backend| backend.weight = 0);
    let farms = vec![
        named("a-off", Farm { state: FarmState::Off, ..web() }),
        named("b-good", web()),
        named("c-degraded", one_less),
        named("d-empty", none_left),
        named("e-down", Farm { state: FarmState::Down, ..web() }),
    ];
    let status = status(&config(farms));
    let order: Vec<(&str, FarmHealth, usize)> =
        status.farms.iter().map(|farm| (farm.name.as_str(), farm.health, farm.usable)).collect();
    assert_eq!(
        order,
        [
            ("d-empty", FarmHealth::Down, 0),
            ("e-down", FarmHealth::Down, 2),
            ("c-degraded", FarmHealth::Degraded, 1),
            ("b-good", FarmHealth::Serving, 2),
            ("a-off", FarmHealth::Off, 2),
        ]
    );
    assert!(!status.healthy());
    let standings: Vec<Standing> = status.farms[0].backends.iter().map(|backend| backend.standing).collect();
    assert_eq!(standings, [Standing::Down, Standing::Draining]);
    assert_eq!(status.farms[1].backends[0].standing, Standing::Idle);
}

#[test]
fn spares_are_usable_and_wait() {
    let spare = edit(&web(), "b2", |backend| backend.priority = 2);
    let status = status(&config(vec![spare]));
    let standings: Vec<Standing> = status.farms[0].backends.iter().map(|backend| backend.standing).collect();
    assert_eq!(standings, [Standing::Serving, Standing::Spare]);
    assert!(status.healthy());
}

#[test]
fn half_a_farm_is_degraded() {
    let both = farm(
        "both",
        vec![tcp("172.16.1.1", 80), tcp("2001:db8:1::80", 80)],
        vec![backend("b4", "172.16.2.11", 80), backend("b6", "2001:db8:2::11", 80)],
    );
    let no_six = edit(&both, "b6", |backend| backend.state = BackendState::Drain);
    let no_four = edit(&no_six, "b4", |backend| backend.state = BackendState::Drain);
    let health = |farm: Farm| status(&config(vec![farm])).farms[0].health;
    assert_eq!([both, no_six, no_four].map(health), [FarmHealth::Serving, FarmHealth::Degraded, FarmHealth::Down]);
}

#[test]
fn an_address_without_a_place_and_a_backend_without_route_are_seen() {
    let lost = Farm { listen: vec![tcp("192.0.2.1", 80)], ..web() };
    let found = status(&config(vec![lost]));
    assert_eq!(found.farms[0].health, FarmHealth::Degraded);
    assert_eq!(found.farms[0].unplaced, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    let far = edit(&web(), "b2", |backend| backend.address.address = "192.0.2.9".parse().unwrap());
    let found = status(&config(vec![far]));
    assert_eq!(found.farms[0].backends[1].standing, Standing::Unroutable);
    assert_eq!(found.farms[0].health, FarmHealth::Degraded);
}

#[test]
fn flows_are_counted_by_mark() {
    let config = config(vec![web()]);
    let desired = compile(&config, &[], &facts(), &Ids::default()).unwrap();
    let mark = |name: &str| desired.ids.mark(&web().name, &BackendName::new(name).unwrap()).unwrap();
    let active = BTreeMap::from([(mark("b1"), 3), (mark("b2"), 4), (0, 99)]);
    let new = BTreeMap::from([(mark("b1"), 30), (mark("b2"), 40), (0, 99)]);
    let traffic = BTreeMap::from([(mark("b1"), Traffic { packets: 5, bytes: 500 })]);
    let refused = ["ban", "new-connections"].map(|reason| (names::refused_counter(&web().name, reason), 8));
    let other = names::refused_counter(&FarmName::new("web2").unwrap(), "ban");
    let refused = refused.into_iter().chain([(other, 9)]).collect();
    let farm = FarmStatus::new(&web(), &desired, &Counted { active, new, traffic, refused, ports: Vec::new() });
    assert_eq!((farm.flows, farm.backends[0].flows, farm.backends[1].flows), (7, 3, 4));
    assert_eq!((farm.new_flows, farm.backends[0].new_flows), (70, 30));
    assert_eq!((farm.traffic, farm.backends[1].traffic), (Some(Traffic { packets: 5, bytes: 500 }), None));
    assert_eq!(farm.refused, BTreeMap::from([("ban".to_owned(), 8), ("new-connections".to_owned(), 8)]));
}

#[test]
fn drift_knobs_services_and_errors_are_told() {
    let config = config(vec![web()]);
    let mut desired = compile(&config, &[], &facts(), &Ids::default()).unwrap();
    let knob = |path: &str| Knob {
        path: path.to_owned(),
        want: KnobValue::Int(1),
        fit: crate::state::Fit::Exact,
        why: String::new(),
        origin: None,
    };
    desired.knobs = ["good", "stubborn", "changed", "absent"].map(knob).into();
    let mut observed = desired.state.clone();
    observed.addresses.clear();
    observed.knobs = [("good", 1), ("stubborn", 0), ("changed", 0)]
        .map(|(path, value)| (path.to_owned(), KnobValue::Int(value)))
        .into();
    let outcomes = BTreeMap::from([("stubborn".to_owned(), Outcome::Refused("the kernel kept 0".to_owned()))]);
    let service = |name: &str, healthy| ServiceStatus {
        name: name.to_owned(),
        healthy,
        state: "running".to_owned(),
        pid: Some(1),
    };
    let status = Status::new(Sources {
        config: &config,
        desired: &desired,
        observed: &observed,
        counted: &Counted::default(),
        knobs: &outcomes,
        services: &[service("a", true), service("z", false)],
        generation: None,
        last_error: Some("web.toml is not valid"),
    });
    assert!(!status.healthy());
    assert_eq!(status.knobs, KnobCounts { kept: 1, different: 2, unsupported: 1 });
    assert_eq!(status.refused["stubborn"], "the kernel kept 0 (is 0, should be 1)");
    let drift: Vec<&str> = status.drift.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(drift, ["set /changed to 1 (was 0)", "add address 172.16.1.1/32 to eth0 and announce it"]);
    assert_eq!(status.services[0].name, "z");
    assert_eq!(status.last_error.as_deref(), Some("web.toml is not valid"));
}
