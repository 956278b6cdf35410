//! How long one backend's change takes to be committed in a map of 40,000 slots, in a network namespace of its own.
//!
//! `cargo run --release -p headgate-host --example one_backend`, as root.

use std::time::{Duration, Instant};

use headgate_host::{Host, Root};
use headgate_nft::{Data, Datatype, Element, Key, Ruleset, Set, SetData, Table, TableId, between};
use headgate_plan::compile::Desired;
use headgate_plan::names::{MARK_TAG, TABLE};
use headgate_plan::state::State;
use support::Namespace;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

const SLOTS: u32 = 40_000;
const CHANGES: u32 = 2_000;

fn slot(number: u32, backend: u32) -> (Key, Element) {
    let key = Key { start: number.to_ne_bytes().as_slice().into(), end: None };
    let data = Data::Value((MARK_TAG | backend).to_ne_bytes().as_slice().into());
    (key, Element { data: Some(data), ..Element::default() })
}

/// The table with some slots, all of them or only those that a change is about.
fn ruleset(elements: impl Iterator<Item = (Key, Element)>) -> Ruleset {
    let slots = Set {
        key: vec![Datatype::Mark],
        data: Some(SetData::Value(vec![Datatype::Mark])),
        size: Some(65_536),
        elements: elements.collect(),
        ..Set::default()
    };
    let table = Table { sets: [("slots".into(), slots)].into(), ..Table::default() };
    Ruleset { tables: [(TableId::inet(TABLE), table)].into() }
}

fn main() {
    Namespace::new().run(|| {
        let ruleset = ruleset((0..SLOTS).map(|number| slot(number, number % 4)));
        let desired = Desired { state: State { ruleset, ..State::default() }, ..Desired::default() };

        let mut host = Host::open(Root::default()).expect("root");
        let plan = host.verify(&desired).expect("a working kernel");
        let started = Instant::now();
        let report = host.apply(plan);
        println!("{SLOTS} slots committed in {:?}", started.elapsed());
        assert!(!report.failed(), "{:?}", report.failure);

        let mut times: Vec<Duration> = (0..CHANGES).map(|change| change_one(&mut host, change)).collect();
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        println!("one slot: median {:?}, 90 % {:?}, 99 % {:?}, worst {:?}", at(50), at(90), at(99), at(100));
    });
}

/// Moves a slot to another backend and returns how long that took.
fn change_one(host: &mut Host, change: u32) -> Duration {
    let number = change * 17 % SLOTS;
    let started = Instant::now();
    let before = ruleset(std::iter::once(slot(number, number % 4)));
    let after = ruleset(std::iter::once(slot(number, 5)));
    host.commit_ruleset(&between(&before, &after)).expect("the slot is there");
    started.elapsed()
}
