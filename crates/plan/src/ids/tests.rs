use std::sync::Arc;

use headgate_config::model::{Farm, FarmState, HashField, Mode, Scheduler};
use proptest::prelude::*;

use super::*;
use crate::compile::compile;
use crate::samples::{backend, config, facts, farm, tcp, web};

fn compiled(config: &Config, ids: &Ids) -> (Ruleset, Ids) {
    let desired = compile(config, &[], &facts(), ids).unwrap();
    (desired.state.ruleset, desired.ids)
}

#[test]
fn the_kernel_is_the_memory() {
    let config = config(vec![web(), farm("dns", vec![tcp("172.16.1.53", 53)], vec![backend("d1", "172.16.2.53", 53)])]);
    let (ruleset, ids) = compiled(&config, &Ids::default());
    let observed = Ids::observe(&ruleset);
    assert_eq!(observed.marks().collect::<Vec<_>>(), ids.marks().collect::<Vec<_>>());
    assert_eq!(compiled(&config, &observed).0, ruleset, "a restart changes nothing");
}

/// Of farms that are no longer there as well, whose names the configuration does not have.
#[test]
fn a_copy_is_the_same() {
    let farms = vec![web(), farm("dns", vec![tcp("172.16.1.53", 53)], vec![backend("d1", "172.16.2.53", 53)])];
    let (_, ids) = compiled(&config(farms.clone()), &Ids::default());
    for known in [farms.clone(), vec![web()], Vec::new()] {
        let config = config(known.iter().map(Farm::copied).collect());
        assert!(known.iter().all(|farm| *config.farms[&farm.name] == *farm));
        assert_eq!(ids.copied(&config), ids);
    }
}

/// Its chain refuses and names no slot, but what its backends still answer does.
#[test]
fn a_stateless_farm_that_refuses_is_known_again() {
    let stateless = Farm {
        mode: Mode::Stateless,
        state: FarmState::Down,
        ..farm("b", vec![tcp("172.16.1.2", 80)], vec![backend("b1", "172.16.2.12", 80)])
    };
    let both =
        config(vec![farm("a", vec![tcp("172.16.1.1", 80)], vec![backend("a1", "172.16.2.11", 80)]), stateless.clone()]);
    let (_, ids) = compiled(&both, &Ids::default());
    // Its number is not the first that a daemon without a memory would give it.
    let config = config(vec![stateless]);
    let (ruleset, ids) = compiled(&config, &ids);
    assert_eq!(Ids::observe(&ruleset).farm(&FarmName::new("b").unwrap()), ids.farm(&FarmName::new("b").unwrap()));
    assert_eq!(compiled(&config, &Ids::observe(&ruleset)).0, ruleset, "a restart changes nothing");
}

#[test]
fn farms_that_hash_are_known_again_by_their_slots() {
    let fields = vec![HashField::SourceAddress];
    for scheduler in [Scheduler::Hash { fields: fields.clone(), slots: 7 }, Scheduler::Maglev { fields, slots: 7 }] {
        let dns = farm("dns", vec![tcp("172.16.1.53", 53)], vec![backend("d1", "172.16.2.53", 53)]);
        let both = config(vec![dns, Farm { scheduler, ..web() }]);
        let (ruleset, _) = compiled(&both, &Ids::default());
        assert_eq!(compiled(&both, &Ids::observe(&ruleset)).0, ruleset, "a restart moves nobody");
    }
}

#[test]
fn an_id_that_becomes_free_is_not_given_out_in_the_same_step() {
    let mut ids = Ids::default();
    ids.assign(&config(vec![web()]));
    let freed: BTreeSet<u32> = ids.marks().map(|(_, _, mark)| mark).collect();
    let other = farm("other", vec![tcp("172.16.1.9", 80)], vec![backend("b1", "172.16.2.11", 80)]);
    ids.assign(&config(vec![other]));
    let given: BTreeSet<u32> = ids.marks().map(|(_, _, mark)| mark).collect();
    assert_eq!(given.len(), 1);
    assert!(freed.is_disjoint(&given), "{freed:?} {given:?}");
}

#[test]
fn ids_wrap_around_and_find_what_is_free() {
    let mut ids = Ids { last_backend: names::MARK_ID_MASK - 1, ..Ids::default() };
    let backends = ["a", "b", "c"].map(|name| backend(name, "172.16.2.11", 80));
    ids.assign(&config(vec![farm("web", vec![tcp("172.16.1.1", 80)], backends.into())]));
    let marks: Vec<u32> = ids.marks().map(|(_, _, mark)| mark & names::MARK_ID_MASK).collect();
    assert_eq!(marks, [names::MARK_ID_MASK, 1, 2]);
    assert_eq!(free_after(5, 5, &mut (1..=5).collect()), None);
    assert_eq!(free_after(0, 5, &mut BTreeSet::new()), Some(1));
}

#[test]
fn what_is_not_ours_is_passed_over() {
    let (ruleset, ids) = compiled(&config(vec![web()]), &Ids::default());
    let known: Vec<_> = ids.marks().collect();
    let elements = &ruleset.tables[&Place::Inet.table()].sets["targets4"].elements;
    let element = elements.values().next().unwrap();
    let with = |mark: u32, comment: Option<&str>| {
        let mut ruleset = ruleset.clone();
        let table = ruleset.tables.get_mut(&Place::Inet.table()).unwrap();
        let key = headgate_nft::Key { start: mark.to_ne_bytes().as_slice().into(), end: None };
        let element = headgate_nft::Element { comment: comment.map(Arc::from), ..element.clone() };
        table.sets.get_mut("targets4").unwrap().elements.insert(key, element);
        Ids::observe(&ruleset)
    };
    for comment in [None, Some("no slash"), Some("web/"), Some("/b1"), Some("we b/b1"), Some("a/b/c")] {
        assert_eq!(with(names::MARK_TAG | 100, comment).marks().collect::<Vec<_>>(), known, "{comment:?}");
    }
    for mark in [7, names::MARK_TAG, names::MARK_TAG | 0x10_0007] {
        assert_eq!(with(mark, Some("web/b9")).marks().collect::<Vec<_>>(), known, "{mark:#x}");
    }
    assert_eq!(with(names::MARK_TAG | 100, Some("web/b9")).marks().count(), known.len() + 1);
}

#[test]
fn sizes_have_room_and_do_not_flap() {
    let mut ids = Ids::default();
    assert_eq!(
        [0, 1, 512, 513, 768, 769, 1021, 40_000, 49_152, 49_153, usize::MAX].map(|count| ids.size(
            Place::Inet,
            &"slots".into(),
            count
        )),
        [1024, 1024, 1024, 1536, 1536, 2048, 2048, 98_304, 98_304, 131_072, 1 << 31]
    );
    ids.sizes.insert((Place::Inet, "slots".into()), 2048);
    assert_eq!(ids.size(Place::Inet, &"slots".into(), 100), 2048, "what suffices stays");
    assert_eq!(ids.size(Place::Inet, &"slots".into(), 2048), 2048, "up to the last element");
    assert_eq!(ids.size(Place::Inet, &"slots".into(), 2049), 6144);
    ids.sizes.insert((Place::Inet, "slots".into()), 131_072);
    assert_eq!(ids.size(Place::Inet, &"slots".into(), 10), 1024, "what is absurdly large does not");
    assert_eq!(ids.size(Place::Inet, &"other".into(), 10), 1024);
}

proptest! {
    /// Whatever is edited: ids are unique, those that stay keep theirs, and a restart in between changes nothing.
    #[test]
    fn ids_are_stable(edits in prop::collection::vec((0usize..6, 0usize..6, any::<bool>()), 1..60)) {
        let mut configured = [[false; 6]; 6];
        let mut ids = Ids::default();
        for (f, b, restart) in edits {
            configured[f][b] = !configured[f][b];
            let farms = configured.iter().enumerate().filter(|(_, backends)| backends.contains(&true)).map(|(f, backends)| {
                let backends = (0..6).filter(|&b| backends[b]).map(|b| backend(&format!("b{b}"), "172.16.2.11", 80));
                farm(&format!("f{f}"), vec![tcp("172.16.1.1", 80 + f as u16)], backends.collect())
            });
            let config = config(farms.collect());
            let before: BTreeMap<_, _> =
                ids.marks().map(|(farm, backend, mark)| ((farm.clone(), backend.clone()), mark)).collect();
            let (ruleset, assigned) = compiled(&config, &ids);
            let after: BTreeMap<_, _> =
                assigned.marks().map(|(farm, backend, mark)| ((farm.clone(), backend.clone()), mark)).collect();
            let unique: BTreeSet<u32> = after.values().copied().collect();
            prop_assert_eq!(unique.len(), after.len());
            for (who, mark) in &after {
                match before.get(who) {
                    Some(old) => prop_assert_eq!(old, mark),
                    None => prop_assert!(!before.values().any(|old| old == mark)),
                }
            }
            ids = if restart { Ids::observe(&ruleset) } else { assigned };
        }
    }
}
