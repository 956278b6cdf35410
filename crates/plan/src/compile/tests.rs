use headgate_config::model::{Backend, BackendState, Dsr, DsrVia, FarmState, Mode, OnEmpty, Scheduler};
use headgate_config::types::{BackendName, Endpoint, FarmName, Listen, Ports, Protocol};
use proptest::prelude::*;

use super::*;
use crate::features::Feature;
use crate::maps::Place;
use crate::samples::{address, backend, config, facts, farm, tcp, web};

fn compiled(config: &Config, ids: &Ids) -> Desired {
    compile(config, &[], &facts(), ids).unwrap()
}

fn table(desired: &Desired) -> &headgate_nft::Table {
    &desired.state.ruleset.tables[&Place::Inet.table()]
}

fn chain(desired: &Desired, name: &str) -> Vec<String> {
    table(desired).chains[name].rules.iter().map(ToString::to_string).collect()
}

fn edit(farm: &Farm, backend: &str, change: impl FnOnce(&mut Backend)) -> Farm {
    let mut farm = farm.clone();
    change(farm.backends.get_mut(backend).unwrap());
    farm
}

#[test]
fn without_farms_there_is_the_guard() {
    let desired = compiled(&config(vec![]), &Ids::default());
    let tables: Vec<String> = desired.state.ruleset.tables.keys().map(ToString::to_string).collect();
    assert_eq!(tables, ["inet headgate-guard"]);
    let off = Farm { state: FarmState::Off, ..web() };
    assert_eq!(compiled(&config(vec![off]), &Ids::default()).state.ruleset, desired.state.ruleset);
}

#[test]
fn a_backend_without_route_takes_no_flows_and_is_told() {
    let far = edit(&web(), "b2", |backend| backend.address.address = address("192.0.2.9"));
    let desired = compiled(&config(vec![far]), &Ids::default());
    assert_eq!(
        desired.warnings,
        [
            "farm web: backend b2 takes no flows: there is no route to 192.0.2.9 that would say from which address to send; \
          add a route, or give source-address"
        ]
    );
    assert_eq!(table(&desired).sets["slots"].elements.len(), 1);
    assert_eq!(table(&desired).sets["targets4"].elements.len(), 2, "its flows and its id live on");
}

#[test]
fn where_nothing_can_be_rejected_at_ingress_it_is_dropped_and_told_once() {
    let mut direct = Farm { mode: Mode::Dsr, ..web() };
    direct.dsr = Some(Dsr { via: DsrVia::L2, interface: None });
    direct.backends.values_mut().for_each(|backend| backend.state = BackendState::Down);
    let refusal = |facts: &Facts| {
        let desired = compile(&config(vec![direct.clone()]), &[], facts, &Ids::default()).unwrap();
        let rules = &desired.state.ruleset.tables[&Place::Netdev.table()].chains["farm4-web"].rules;
        (rules.iter().map(ToString::to_string).collect::<Vec<_>>(), desired.warnings)
    };
    let (rules, warnings) = refusal(&facts());
    assert!(rules.iter().any(|rule| rule.contains("reject")) && warnings.is_empty(), "{rules:?} {warnings:?}");
    let lacking_features = BTreeSet::from([Feature::RejectAtIngress]);
    let (rules, warnings) = refusal(&Facts { lacking_features, ..facts() });
    assert_eq!(rules, ["drop"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("cannot reject at ingress"), "{warnings:?}");
}

#[test]
fn a_backend_of_no_consequence_is_told() {
    let tiny = edit(&web(), "b1", |backend| backend.weight = 65535);
    let desired = compiled(&config(vec![tiny]), &Ids::default());
    assert_eq!(
        desired.warnings,
        ["farm web: backend b2 takes no flows: its weight of 1 is too small for one of 4096 slots"]
    );
}

#[test]
fn the_host_name_is_a_knob() {
    let mut config = config(vec![]);
    config.system.hostname = Some("lb1".to_owned());
    let desired = compiled(&config, &Ids::default());
    assert_eq!(desired.state.knobs["proc/sys/kernel/hostname"], KnobValue::Text("lb1".to_owned()));
}

#[test]
fn names_are_resolved_by_whom_the_configuration_names_or_else_the_lease() {
    let known: Vec<IpAddr> = (1..=4).map(|last| address(&format!("192.0.2.{last}"))).collect();
    let resolvers_of = |named: &[IpAddr], of_leases: &[IpAddr], appliance| {
        let mut config = config(vec![]);
        config.system.dns_servers = named.to_vec();
        resolvers(&config, &Facts { appliance, ..facts() }, of_leases.to_vec())
    };
    assert_eq!(resolvers_of(&known[..1], &known[1..], true), known[..1]);
    assert_eq!(resolvers_of(&[], &known, true), known[..3], "a resolver asks no fourth");
    assert!(resolvers_of(&known[..1], &known, false).is_empty(), "a server has its own");
    let mut config = config(vec![]);
    config.system.dns_servers = known[..1].to_vec();
    assert!(compiled(&config, &Ids::default()).warnings.contains(&NO_RESOLVER.to_owned()));
}

#[test]
fn a_farm_that_grows_keeps_its_maps() {
    let small = compiled(&config(vec![web()]), &Ids::default());
    let many = |count: usize| {
        let farms = (0..count).map(|n| {
            let backends = vec![backend("b", "172.16.2.11", 80)];
            farm(&format!("f{n}"), vec![tcp("172.16.1.1", 1000 + n as u16)], backends)
        });
        config(farms.collect())
    };
    let size = |desired: &Desired| table(desired).sets["services4"].size;
    let grown = compiled(&many(900), &Ids::observe(&small.state.ruleset));
    assert_eq!((size(&small), size(&grown)), (Some(1024), Some(1024)), "a farm more is not another map");
    let large = compiled(&many(1100), &Ids::observe(&grown.state.ruleset));
    assert_eq!(size(&large), Some(3072));
    let shrunk = compiled(&many(900), &Ids::observe(&large.state.ruleset));
    assert_eq!(size(&shrunk), Some(3072), "nor is a farm less");
    // What a running daemon knows of its own is what the kernel would have told it.
    let again = compiled(&many(900), &compiled(&many(500), &Ids::default()).ids);
    assert_eq!(size(&again), Some(1024), "one farm's elements came to those of a map that was made for less");
}

#[test]
fn a_change_of_one_backend_is_a_few_changes() {
    let ids = compiled(&config(vec![web()]), &Ids::default()).ids;
    let context = compiled(&config(vec![web()]), &ids).context;
    let drained = edit(&web(), "b2", |backend| backend.state = BackendState::Drain);
    let changes = context.farm_change(&web(), &drained, &ids).unwrap();
    let texts: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:#?}");
    assert_eq!(context.farm_change(&web(), &web(), &ids), Some(Vec::new()));
}

#[test]
fn a_drain_under_maglev_writes_moved_slots_only() {
    let scheduler = Scheduler::Maglev { fields: vec![headgate_config::model::HashField::SourceAddress], slots: 1021 };
    let before = Farm { scheduler, ..web() };
    let after = edit(&before, "b1", |backend| backend.state = BackendState::Drain);
    let desired = compiled(&config(vec![before.clone()]), &Ids::default());
    let changes = desired.context.farm_change(&before, &after, &desired.ids).unwrap();
    let written: usize = changes
        .iter()
        .map(|change| match change {
            Change::DeleteElements { set, elements, .. } | Change::AddElements { set, elements, .. } => {
                assert_eq!(&**set, "slots");
                elements.len()
            }
            other => panic!("more than slots: {other:?}"),
        })
        .sum();
    assert!((1..2 * 1021).contains(&written), "{written} elements deleted and added of 1021");
}

#[test]
fn what_is_more_than_one_farm_is_left_to_the_whole() {
    let ids = compiled(&config(vec![web()]), &Ids::default()).ids;
    let context = compiled(&config(vec![web()]), &ids).context;
    let other = [
        Farm { listen: vec![tcp("172.16.1.1", 81)], ..web() },
        Farm { state: FarmState::Off, ..web() },
        Farm { name: FarmName::new("other").unwrap(), ..web() },
        Farm { mode: Mode::Dnat, ..web() },
        edit(&web(), "b1", |backend| backend.address.port = None),
    ];
    for farm in other {
        assert_eq!(context.farm_change(&web(), &farm, &ids), None, "{farm:?}");
    }
}

#[test]
fn a_farm_is_shown_without_the_rest() {
    let desired = compiled(&config(vec![web()]), &Ids::default());
    let fragment = desired.context.farm_fragment(&web(), &desired.ids);
    let table = &fragment.ruleset.tables[&Place::Inet.table()];
    let sets: Vec<&str> = table.sets.keys().map(AsRef::as_ref).collect();
    assert_eq!(sets, ["services4", "slots", "sources4", "targets4"]);
    let chains: Vec<&str> = table.chains.keys().map(AsRef::as_ref).collect();
    assert_eq!(chains, ["farm4-web"]);
}

#[test]
fn sctp_and_all_protocols_have_rules() {
    let listen = |ports, protocol| Listen { address: address("172.16.1.1"), ports, protocol };
    let farm =
        Farm { listen: vec![listen(Ports::One(80), Protocol::Sctp), listen(Ports::All, Protocol::Any)], ..web() };
    let desired = compiled(&config(vec![farm]), &Ids::default());
    assert_eq!(
        chain(&desired, "dispatch"),
        [
            "meta nfproto ipv4 ip daddr . meta l4proto . th dport vmap @services4",
            "meta nfproto ipv4 ip daddr vmap @protocols4",
            "accept",
        ]
    );
}

/// A farm in any state that the tests of changes go through.
fn any_farm() -> impl Strategy<Value = Farm> {
    let any_backend = (0usize..4, 0u16..4, 1u32..3, prop::sample::select(vec![true, false]), 0usize..3);
    let header = (0usize..3, any::<bool>(), any::<bool>(), any::<bool>());
    (header, prop::collection::vec(any_backend, 1..6)).prop_map(|((state, random, drop, dnat), backends)| {
        let backends = backends.into_iter().enumerate().map(|(n, (host, weight, priority, v6, state))| {
            let ip = if v6 { format!("2001:db8:2::{}", host + 1) } else { format!("172.16.2.{}", host + 1) };
            let state = [BackendState::Up, BackendState::Drain, BackendState::Down][state];
            Backend { weight, priority, state, ..backend(&format!("b{n}"), &ip, 8000 + n as u16) }
        });
        Farm {
            state: [FarmState::Up, FarmState::Down, FarmState::Off][state],
            scheduler: if random { Scheduler::Random } else { Scheduler::RoundRobin },
            on_empty: if drop { OnEmpty::Drop } else { OnEmpty::Reject },
            mode: if dnat { Mode::Dnat } else { Mode::Snat },
            ..farm("web", vec![tcp("172.16.1.1", 80), tcp("2001:db8:1::80", 80)], backends.collect())
        }
    })
}

proptest! {
    /// The change of one farm and the difference of the wholes are the same thing.
    #[test]
    fn one_farm_alone_or_with_all_is_the_same(old in any_farm(), new in any_farm()) {
        let other = farm("other", vec![tcp("172.16.1.2", 80)], vec![backend("b", "172.16.2.99", 80)]);
        let before = compiled(&config(vec![old.clone(), other.clone()]), &Ids::default());
        let mut ids = before.ids.clone();
        ids.assign_farm(&new);
        if let Some(changes) = before.context.farm_change(&old, &new, &ids) {
            let mut ruleset = before.state.ruleset;
            ruleset.apply(&changes).unwrap();
            prop_assert_eq!(ruleset, compiled(&config(vec![new, other]), &ids).state.ruleset);
        }
    }

    /// What is compiled against what it left in the kernel is itself.
    #[test]
    fn a_second_time_changes_nothing(farm in any_farm()) {
        let config = config(vec![farm]);
        let first = compiled(&config, &Ids::default());
        let second = compiled(&config, &Ids::observe(&first.state.ruleset));
        prop_assert!(crate::step::Plan::between(&second, &first.state).is_empty());
    }
}

#[test]
fn a_backend_that_keeps_the_port_is_in_another_map() {
    let mut farm = web();
    let name = BackendName::new("b3").unwrap();
    let address = Endpoint { address: address("172.16.2.13"), port: None };
    farm.backends.insert(Backend { name, address, ..backend("b3", "172.16.2.13", 1) });
    let desired = compiled(&config(vec![farm]), &Ids::default());
    let sizes = ["targets4", "hosts4", "slots"].map(|set| table(&desired).sets[set].elements.len());
    assert_eq!(sizes, [2, 1, 3]);
    assert_eq!(desired.state.ruleset.tables.len(), 2);
}
