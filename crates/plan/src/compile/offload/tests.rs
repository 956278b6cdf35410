use headgate_config::model::{Farm, Mode};
use headgate_config::types::FarmName;
use headgate_nft::Change;
use headgate_nft::change::between;

use crate::compile::{Desired, compile};
use crate::facts::{Facts, Link};
use crate::ids::Ids;
use crate::maps::Place;
use crate::samples::{config, facts, web};

fn compiled(offload: bool, facts: &Facts) -> Desired {
    compile(&config(vec![Farm { offload, mode: Mode::Snat, ..web() }]), &[], facts, &Ids::default()).unwrap()
}

fn with_flowtables() -> Facts {
    let mut facts = facts();
    facts.flowtable = true;
    facts.links.values_mut().for_each(|link| link.up = true);
    facts
}

#[test]
fn flows_of_a_farm_that_asks_take_the_short_way() {
    let desired = compiled(true, &with_flowtables());
    let table = &desired.state.ruleset.tables[&Place::Inet.table()];
    let rules: Vec<String> = table.chains["forward"].rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["ct mark & 0xff000000 == 0x48000000 flow add @fast"]);
    assert_eq!(table.sets["offloaded"].elements.len(), web().backends.len());
    let names = facts().links.into_iter().filter(|(_, link)| !link.loopback).map(|(name, _)| name);
    assert!(table.flowtables["fast"].devices.iter().map(|name| name.to_string()).eq(names));
    assert_eq!(desired.warnings, Vec::<String>::new());
}

#[test]
fn where_a_farm_does_not_ask_every_flow_is_looked_up() {
    let ask = |name: &str, offload| Farm { name: FarmName::new(name).unwrap(), offload, mode: Mode::Snat, ..web() };
    let farms = vec![ask("fast", true), ask("slow", false)];
    let desired = compile(&config(farms), &[], &with_flowtables(), &Ids::default()).unwrap();
    let table = &desired.state.ruleset.tables[&Place::Inet.table()];
    let rules: Vec<String> = table.chains["forward"].rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["ct mark @offloaded flow add @fast"]);
    assert_eq!(table.sets["offloaded"].elements.len(), web().backends.len());
}

#[test]
fn who_does_not_ask_pays_nothing() {
    let desired = compiled(false, &with_flowtables());
    let table = &desired.state.ruleset.tables[&Place::Inet.table()];
    assert!(table.flowtables.is_empty() && !table.chains.contains_key("forward"));
}

#[test]
fn a_kernel_without_flowtables_serves_all_the_same() {
    let with = compiled(true, &Facts { flowtable: false, ..with_flowtables() });
    assert_eq!(with.warnings, ["farm web: offload has no effect: this kernel has no flowtables"]);
    assert_eq!(with.state.ruleset, compiled(false, &with_flowtables()).state.ruleset);
    let mut dark = with_flowtables();
    dark.links.values_mut().for_each(|link| link.up = false);
    assert_eq!(compiled(true, &dark).warnings, ["farm web: offload has no effect: no interface is up"]);
}

/// What a change of the machine's links changes in the kernel.
fn changes(before: &Facts, after: &Facts) -> Vec<Change> {
    let [old, new] = [before, after].map(|facts| compiled(true, facts).state.ruleset);
    between(&old, &new)
}

fn with_link(name: &str, up: bool) -> Facts {
    let mut facts = with_flowtables();
    facts.links.insert(name.to_owned(), Link { index: 99, up, ..Link::default() });
    facts
}

#[test]
fn a_link_that_comes_or_goes_is_a_device_more_or_less_and_nothing_else() {
    let (without, with) = (with_flowtables(), with_link("late", true));
    let come = changes(&without, &with);
    let [Change::AddFlowtable { value, .. }] = &come[..] else { panic!("{come:#?}") };
    assert!(value.devices.contains("late"));
    let gone = changes(&with, &without);
    let [Change::DeleteDevices { devices, .. }] = &gone[..] else { panic!("{gone:#?}") };
    assert_eq!(*devices, ["late".into()].into());
    assert_eq!(changes(&with, &with_link("late", false)), gone, "what is down is as good as gone");
    assert_eq!(changes(&with_link("late", false), &with), come);
    let renamed = changes(&with, &with_link("later", true));
    assert!(matches!(&renamed[..], [Change::DeleteDevices { .. }, Change::AddFlowtable { .. }]), "{renamed:#?}");
}
