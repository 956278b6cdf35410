//! Bytes that nobody meant well, for every parser of the product: what must hold of them whatever they are.
//!
//! Each function takes any bytes and panics when something does not hold. `fuzz/` gives them what libFuzzer thinks of,
//! `tests/hostile.rs` gives them the seeds and damaged seeds in every run of the tests.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::OnceLock;

use headgate_config::model::{BackendState, FarmState};
use headgate_config::{Config, load_texts};
use headgate_host::recorded;
use headgate_init::modalias;
use headgate_init::modules::Index;
use headgate_nft::wire::{decode_messages, decode_rule, encode_rule};
use headgate_nft::{Batch, Ruleset, Statement, Table, between};
use headgate_plan::compile::{Desired, compile};
use headgate_plan::facts::Facts;
use headgate_plan::ids::Ids;
use headgate_update::disk;
use headgate_update::grubenv::{Block, Slot};

/// A machine with two arms, that of the golden cases.
pub fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| toml::from_str(include_str!("../cases/farms/facts.toml")).expect("a recorded machine"))
}

/// Files of a configuration, each ended by a zero byte: loading them gives a configuration or diagnostics that can be
/// printed. A configuration means the same when it is written down merged, and compiles to a ruleset, or is refused by name;
/// the ruleset's messages say that ruleset.
pub fn configuration(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let named = text.split('\0').enumerate().map(|(n, text)| (PathBuf::from(format!("{n}.toml")), text.to_owned()));
    let loaded = match load_texts(&named.collect::<Vec<_>>()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            assert!(!problems.to_string().is_empty(), "refused without a reason");
            return;
        }
    };
    black_box((loaded.warnings.to_string(), loaded.document.to_toml_with_origins()));
    let merged = loaded.document.to_toml();
    let again = load_texts(&[("merged.toml".into(), merged.clone())]);
    let again = again.unwrap_or_else(|problems| panic!("what was merged is not valid:\n{problems}\n{merged}"));
    assert_eq!(again.document.to_toml(), merged, "what was merged is not what is read");
    match compile(&loaded.config, &[], facts(), &Ids::default()) {
        Ok(desired) => compiled(facts(), &loaded.config, &desired),
        Err(unsupported) => assert!(!unsupported.is_empty(), "refused without a reason"),
    }
}

/// What holds for all that compiles on a machine.
pub fn compiled(machine: &Facts, config: &Config, desired: &Desired) {
    let ruleset = &desired.state.ruleset;
    let changes = between(&Ruleset::default(), ruleset);
    let said = decode_messages(Batch::new(&changes, None).as_bytes());
    assert!(said.as_ref() == Some(ruleset), "the messages say something else\n{ruleset}");
    black_box(ruleset.to_string());
    // The kernel is the memory of the ids; a farm that is off has nothing there to be remembered by.
    let is_off = |farm| config.farms[farm].state == FarmState::Off;
    let remembered = Ids::observe(ruleset);
    assert!(remembered.marks().eq(desired.ids.marks().filter(|(farm, ..)| !is_off(*farm))));
    let again = compile(config, &[], machine, &remembered).expect("it has been compiled before").state.ruleset;
    let changes: Vec<String> = between(ruleset, &again).iter().map(ToString::to_string).collect();
    assert!(changes.is_empty(), "a restart would change what it finds:\n{}", changes.join("\n"));
    for farm in config.farms.values() {
        let fragment = desired.context.farm_fragment(farm, &desired.ids).ruleset;
        assert!(is_part(&fragment, ruleset), "farm {} is not what it is among the others", farm.name);
        let mut drained = (**farm).clone();
        drained.backends.values_mut().for_each(|backend| backend.state = BackendState::Drain);
        black_box(desired.context.farm_change(farm, &drained, &desired.ids));
    }
}

/// Whether every chain and element of `part` is in `whole` as it is there.
fn is_part(part: &Ruleset, whole: &Ruleset) -> bool {
    part.tables.iter().filter(|(_, table)| **table != Table::default()).all(|(id, part)| {
        let Some(whole) = whole.tables.get(id) else { return false };
        let sets = part.sets.iter().all(|(name, set)| {
            let elements = whole.sets.get(name).map(|set| &set.elements);
            set.elements.iter().all(|(key, element)| elements.is_some_and(|all| all.get(key) == Some(element)))
        });
        sets && part.chains.iter().all(|(name, chain)| whole.chains.get(name) == Some(chain))
    })
}

/// Messages of nf_tables, as a dump would bring them: the way from what they say to nothing and back fits, and a rule that
/// was understood is the same when it is sent and read again.
pub fn ruleset_messages(data: &[u8]) {
    let Some(mut ruleset) = decode_messages(data) else { return };
    black_box(ruleset.to_string());
    black_box(Ids::observe(&ruleset));
    for table in ruleset.tables.values() {
        let rules = table.chains.values().flat_map(|chain| &chain.rules);
        for rule in rules.filter(|rule| !matches!(rule.statements[..], [Statement::Unknown { .. }])) {
            assert!(decode_rule(&encode_rule(rule), &table.sets) == *rule, "{rule}");
        }
    }
    // Nobody asks for a table that sleeps.
    ruleset.tables.values_mut().for_each(|table| table.dormant = false);
    let empty = Ruleset::default();
    for (from, to) in [(&empty, &ruleset), (&ruleset, &empty)] {
        let changes = between(from, to);
        black_box(changes.iter().map(ToString::to_string).collect::<Vec<_>>());
        black_box(Batch::new(&changes, None).as_bytes());
        let mut changed = from.clone();
        changed.apply(&changes).expect("what leads from one to the other fits the one");
        assert!(changed == *to, "the changes lead elsewhere");
    }
}

/// Messages of connection tracking and of rtnetlink, as dumps would bring them.
pub fn kernel_messages(data: &[u8]) {
    black_box((recorded::flows(data).ok(), recorded::list(data).ok(), recorded::refusals(data).ok()));
    for deletion in recorded::deletions(data).into_iter().flatten() {
        let length = u32::from_ne_bytes(*deletion.first_chunk().expect("a header"));
        assert_eq!(length as usize, deletion.len());
        recorded::flows(&deletion).expect("what is sent can be read");
    }
}

/// What the appliance reads before there is a configuration: GRUB's environment block, the index of modules, the kernel's
/// command line, aliases of hardware.
pub fn boot_files(data: &[u8]) {
    if let Ok(mut block) = Block::parse(data)
        && let Ok(bytes) = block.to_bytes()
    {
        assert_eq!(Block::parse(&bytes).as_ref(), Ok(&block));
        block.mark_good(Slot::A);
        black_box(block.to_bytes().ok());
    }
    black_box(Block::find(data));
    let text = String::from_utf8_lossy(data);
    if let Ok(index) = Index::parse(&text) {
        black_box(index.wanted("net", &["pci:v00008086d".to_owned()]));
        black_box(index.named("virtio_net"));
    }
    black_box(disk::parameter(&text, "headgate.slot"));
    if let Some((pattern, alias)) = text.split_once('\n') {
        black_box(modalias::matches(pattern, alias));
    }
}
