//! What holds for every ruleset.

#[allow(dead_code)]
mod samples;

use headgate_nft::wire::{decode_messages, decode_rule, encode_rule};
use headgate_nft::*;
use proptest::prelude::*;
use samples::arbitrary::{any_ruleset, particular};

/// Refuses what the kernel would refuse besides: deleting what something refers to, and referring to nothing.
fn is_legal(ruleset: &Ruleset, change: &Change) -> Result<(), String> {
    let refers = |table: &TableId, wanted: Reference<'_>, except: Option<&str>| {
        let table = &ruleset.tables[table];
        let mut found = false;
        for (_, chain) in table.chains.iter().filter(|(name, _)| Some(&***name) != except) {
            for statement in chain.rules.iter().flat_map(|rule| &rule.statements) {
                statement.references(&mut |reference| found |= reference == wanted);
            }
        }
        found | table.sets.values().any(|set| set.elements.values().any(|one| points_to(set, one) == Some(wanted)))
    };
    let exists = |table: &TableId, reference: Reference<'_>| match reference {
        Reference::Set(name) => ruleset.tables[table].sets.contains_key(name),
        Reference::Chain(name) => ruleset.tables[table].chains.contains_key(name),
        Reference::Object(kind, object) => ruleset.tables[table].objects.contains_key(&(kind, object.into())),
        Reference::Flowtable(name) => ruleset.tables[table].flowtables.contains_key(name),
    };
    let legal = match change {
        Change::DeleteSet { table, set } => !refers(table, Reference::Set(set), None),
        Change::DeleteChain { table, chain } => !refers(table, Reference::Chain(chain), Some(chain)),
        Change::AddRule { table, rule, .. } => {
            let mut all = true;
            for statement in &rule.statements {
                statement.references(&mut |reference| all &= exists(table, reference));
            }
            all
        }
        Change::DeleteObject { table, kind, object } => !refers(table, Reference::Object(*kind, object), None),
        Change::DeleteFlowtable { table, flowtable } => !refers(table, Reference::Flowtable(flowtable), None),
        Change::DeleteDevices { table, flowtable, devices } => {
            devices.is_subset(&ruleset.tables[table].flowtables[flowtable].devices)
        }
        Change::AddElements { table, definition, elements, .. } => elements
            .iter()
            .filter_map(|(_, element)| points_to(definition, element))
            .all(|reference| exists(table, reference)),
        _ => true,
    };
    if legal { Ok(()) } else { Err(change.to_string()) }
}

fn points_to<'a>(set: &Set, element: &'a Element) -> Option<Reference<'a>> {
    match (element.data.as_ref()?, &set.data) {
        (Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)), _) => Some(Reference::Chain(chain)),
        (Data::Object(object), Some(SetData::Objects(kind))) => Some(Reference::Object(*kind, object)),
        _ => None,
    }
}

proptest! {
    #[test]
    fn nothing_changes_between_equals(ruleset in any_ruleset()) {
        prop_assert_eq!(between(&ruleset, &ruleset), []);
    }

    #[test]
    fn changes_lead_there_and_each_is_legal(a in any_ruleset(), b in any_ruleset()) {
        for (from, to) in [(&a, &b), (&b, &a), (&Ruleset::default(), &a), (&a, &Ruleset::default())] {
            let mut current = from.clone();
            for change in between(from, to) {
                is_legal(&current, &change).map_err(TestCaseError::fail)?;
                current.apply(&[change]).map_err(|error| TestCaseError::fail(error.to_string()))?;
            }
            prop_assert_eq!(&current, to);
        }
    }

    #[test]
    fn a_rule_comes_back_from_its_encoding(ruleset in any_ruleset()) {
        for table in ruleset.tables.values() {
            for rule in table.chains.values().flat_map(|chain| &chain.rules) {
                prop_assert_eq!(&decode_rule(&encode_rule(rule), &table.sets), rule);
            }
        }
    }

    /// The transaction that makes a ruleset of nothing says that ruleset and nothing else.
    #[test]
    fn a_ruleset_comes_back_from_its_messages(ruleset in any_ruleset()) {
        let changes = between(&Ruleset::default(), &ruleset);
        let batch = Batch::new(&changes, Some(7));
        prop_assert_eq!(decode_messages(batch.as_bytes()), Some(ruleset));
    }

    #[test]
    fn broken_messages_are_read_without_harm(
        ruleset in any_ruleset(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let changes = between(&Ruleset::default(), &ruleset);
        let mut bytes = Batch::new(&changes, None).as_bytes().to_vec();
        for (place, byte) in places {
            let at = place.index(bytes.len());
            bytes[at] = byte;
            let _ = decode_messages(&bytes);
        }
        let _ = decode_messages(&bytes[..end.index(bytes.len())]);
    }

    #[test]
    fn a_particular_statement_comes_back_from_its_encoding(statements in prop::collection::vec(particular(), 1..4)) {
        let rule = Rule { statements, comment: None };
        prop_assert_eq!(decode_rule(&encode_rule(&rule), &Default::default()), rule);
    }

    #[test]
    fn broken_encodings_are_read_without_harm(
        ruleset in any_ruleset(),
        particular in prop::collection::vec(particular(), 1..4),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        decode_rule(&noise, &Default::default());
        let particular = Rule { statements: particular, comment: None };
        for table in ruleset.tables.values() {
            for rule in table.chains.values().flat_map(|chain| &chain.rules).chain([&particular]) {
                let mut bytes = encode_rule(rule);
                let at = place.index(bytes.len());
                bytes[at] = byte;
                decode_rule(&bytes, &table.sets);
                bytes.truncate(at);
                decode_rule(&bytes, &table.sets);
            }
        }
    }

    #[test]
    fn merging_fragments_gives_the_whole(a in any_ruleset()) {
        // Each chain and each element in a fragment of its own.
        let mut whole = Ruleset::default();
        for (id, table) in &a.tables {
            for (name, set) in &table.sets {
                let mut fragments = vec![set.without_elements()];
                fragments.extend(set.elements.iter().map(|(key, element)| Set {
                    elements: [(key.clone(), element.clone())].into(),
                    ..set.without_elements()
                }));
                for fragment in fragments {
                    let table = Table { sets: [(name.clone(), fragment)].into(), ..Table::default() };
                    whole.merge(Ruleset { tables: [(id.clone(), table)].into() });
                }
            }
            for (name, chain) in &table.chains {
                let table = Table { chains: [(name.clone(), chain.clone())].into(), ..Table::default() };
                whole.merge(Ruleset { tables: [(id.clone(), table)].into() });
            }
        }
        for (id, table) in &a.tables {
            for (name, object) in &table.objects {
                let table = Table { objects: [(name.clone(), object.clone())].into(), ..Table::default() };
                whole.merge(Ruleset { tables: [(id.clone(), table)].into() });
            }
            for (name, flowtable) in &table.flowtables {
                let table = Table { flowtables: [(name.clone(), flowtable.clone())].into(), ..Table::default() };
                whole.merge(Ruleset { tables: [(id.clone(), table)].into() });
            }
        }
        prop_assert_eq!(whole, a);
    }
}

#[test]
fn the_change_of_one_backend_is_two_messages() {
    let old = samples::product();
    let mut new = old.clone();
    let table = new.tables.values_mut().next().unwrap();
    let element = table.sets.get_mut("targets4").unwrap().elements.values_mut().next().unwrap();
    element.data = samples::value(&[10, 2, 0, 99, 0, 80, 0, 0]);
    let changes = between(&old, &new);
    let text: Vec<String> = changes.iter().map(Change::to_string).collect();
    assert_eq!(
        text,
        [
            "delete element inet hgtest targets4 { 0x48000001 }",
            "add element inet hgtest targets4 { 0x48000001 comment \"web/b1\" : 10.2.0.99 . 80 }"
        ]
    );
    assert_eq!(Batch::new(&changes, Some(7)).messages(), 2);
}

/// Elements of the packet path that a dump brings are passed over, as the socket does not ask for them.
#[test]
fn elements_of_dynamic_sets_are_not_read() {
    let whole = samples::product();
    let mut filled = whole.clone();
    let table = filled.tables.values_mut().next().unwrap();
    let flows = table.sets.get_mut("flows").unwrap();
    flows.dynamic = false;
    flows.elements.extend([samples::element(&[10, 9, 8, 7], None, samples::value(&[5, 0, 0, 0]), None)]);
    let definition = Box::new(flows.without_elements());
    let elements: Vec<_> = std::mem::take(&mut flows.elements).into_iter().collect();
    let mut changes = between(&Ruleset::default(), &whole);
    let id = TableId::inet("hgtest");
    changes.push(Change::AddElements { table: id, set: samples::name("flows"), definition, elements });
    assert_eq!(decode_messages(Batch::new(&changes, None).as_bytes()), Some(whole));
}

/// What was read with the first definition would be of another shape than the second.
#[test]
fn a_set_that_is_made_twice_is_no_ruleset() {
    let whole = samples::product();
    let mut changes = between(&Ruleset::default(), &whole);
    let made = changes.iter().find(|change| matches!(change, Change::AddSet { .. })).cloned();
    changes.push(made.unwrap());
    assert_eq!(decode_messages(Batch::new(&changes, None).as_bytes()), None);
}

#[test]
fn fragments_change_only_what_they_hold() {
    let old = samples::product();
    let fragment = |with_chain: bool| {
        let mut fragment = Ruleset::default();
        let table = fragment.tables.entry(TableId::inet("hgtest")).or_default();
        let whole = &old.tables[&TableId::inet("hgtest")];
        let mut services = whole.sets["services4"].clone();
        services.elements.retain(|_, element| with_chain && element.data == samples::to_chain("farm-off"));
        table.sets.insert(samples::name("services4"), services);
        if with_chain {
            table.chains.insert(samples::name("farm-off"), whole.chains["farm-off"].clone());
        }
        fragment
    };
    let changes = between(&fragment(true), &fragment(false));
    let mut new = old.clone();
    new.apply(&changes).unwrap();
    assert_eq!(changes.len(), 2);
    new.apply(&between(&fragment(false), &fragment(true))).unwrap();
    assert_eq!(new, old);
}

#[test]
fn what_was_only_observed_is_not_sent() {
    let table = TableId::inet("t");
    let unknown = Rule { statements: vec![Statement::Unknown { name: samples::name("limit") }], comment: None };
    let foreign = BaseChain { kind: ChainKind::Foreign, hook: Hook::Input, priority: 0, devices: Default::default() };
    let changes = [
        Change::AddRule { table: table.clone(), chain: samples::name("c"), rule: unknown },
        Change::AddChain { table, chain: samples::name("c"), base: Some(foreign) },
    ];
    assert!(Batch::new(&changes, None).is_empty());
}
