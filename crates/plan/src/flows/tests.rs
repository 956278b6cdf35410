use headgate_config::Config;
use headgate_config::model::{Backend, BackendState, Farm, FarmState, OnFail};

use super::*;
use crate::compile::{Desired, compile};
use crate::ids::Ids;
use crate::samples::{address, backend, config, facts, farm, tcp, web};

fn compiled(config: &Config, ids: &Ids) -> Desired {
    compile(config, &[], &facts(), ids).unwrap()
}

fn edited(change: impl FnOnce(&mut Backend)) -> Farm {
    let mut farm = web();
    change(farm.backends.values_mut().next_back().unwrap());
    farm
}

/// Names of the backends that lose flows when `before` becomes `after`, with no memory but the kernel's.
fn losers(before: Vec<Farm>, after: Vec<Farm>) -> Vec<String> {
    let old = compiled(&config(before), &Ids::default());
    let new = compiled(&config(after), &Ids::observe(&old.state.ruleset));
    let marks = lost(&old.state.ruleset, &new.state.ruleset).marks;
    let names = old.ids.marks().filter(|(_, _, mark)| marks.contains(mark));
    names.map(|(farm, backend, _)| format!("{farm}/{backend}")).collect()
}

fn state(state: BackendState) -> Farm {
    edited(|backend| backend.state = state)
}

#[test]
fn what_goes_down_loses_its_flows_from_wherever_it_comes() {
    use BackendState::{Down, Drain, Up};
    for from in [Up, Drain] {
        assert_eq!(losers(vec![state(from)], vec![state(Down)]), ["web/b2"], "{from:?}");
    }
    let spare = edited(|backend| backend.priority = 2);
    let mut down = spare.clone();
    down.backends.values_mut().next_back().unwrap().state = Down;
    assert_eq!(losers(vec![spare], vec![down]), ["web/b2"], "a spare has no slot to lose, and may have flows");
    for (from, to) in [(Down, Down), (Down, Up), (Down, Drain), (Up, Drain), (Drain, Up)] {
        assert!(losers(vec![state(from)], vec![state(to)]).is_empty(), "{from:?} {to:?}");
    }
}

#[test]
fn weights_other_backends_and_farms_that_are_down_lose_nothing() {
    let more = farm("more", vec![tcp("172.16.1.9", 80)], vec![backend("m1", "172.16.2.13", 80)]);
    for after in [
        vec![web()],
        vec![edited(|backend| backend.weight = 0)],
        vec![edited(|backend| backend.priority = 9)],
        vec![Farm { state: FarmState::Down, ..web() }],
        vec![web(), more],
    ] {
        assert!(losers(vec![web()], after).is_empty());
    }
}

#[test]
fn what_goes_or_moves_loses_its_flows() {
    let mut fewer = web();
    fewer.backends.remove("b2");
    assert_eq!(losers(vec![web()], vec![fewer]), ["web/b2"]);
    let moves: [fn(&mut Backend); 3] = [
        |backend| backend.address.address = address("172.16.2.99"),
        |backend| backend.address.port = Some(9),
        |backend| backend.address.port = None,
    ];
    for change in moves {
        assert_eq!(losers(vec![web()], vec![edited(change)]), ["web/b2"]);
    }
    let off = Farm { state: FarmState::Off, ..web() };
    assert_eq!(losers(vec![web()], vec![off]), ["web/b1", "web/b2"]);
    assert_eq!(losers(vec![web()], vec![]), ["web/b1", "web/b2"]);
}

#[test]
fn connections_are_cut_where_the_farm_wants_it() {
    let resets = |on_fail, state| Farm { on_fail, ..self::state(state) };
    let (drain, reset) = (OnFail::Drain, OnFail::Reset);
    let cut = |before: Farm, after: Vec<Farm>| {
        let old = compiled(&config(vec![before]), &Ids::default());
        let new = compiled(&config(after), &Ids::observe(&old.state.ruleset));
        let lost = lost(&old.state.ruleset, &new.state.ruleset);
        assert!(lost.cut.is_subset(&lost.marks));
        lost.cut.len()
    };
    use BackendState::{Down, Drain, Up};
    assert_eq!(cut(resets(reset, Up), vec![resets(reset, Down)]), 1);
    assert_eq!(cut(resets(drain, Up), vec![resets(reset, Down)]), 1, "the new configuration decides");
    assert_eq!(cut(resets(reset, Up), vec![resets(drain, Down)]), 0);
    assert_eq!(cut(resets(reset, Up), vec![resets(reset, Drain)]), 0);
    assert_eq!(cut(resets(reset, Down), vec![resets(reset, Down)]), 0, "once");
    let mut fewer = resets(reset, Up);
    fewer.backends.remove("b2");
    assert_eq!(cut(resets(reset, Up), vec![fewer]), 1);
    assert_eq!(cut(resets(reset, Up), vec![]), 2, "the farm is gone, and says nothing more");
}

#[test]
fn one_farms_change_decides_as_the_whole_does() {
    let desired = compiled(&config(vec![web()]), &Ids::default());
    let of = |new: &Farm| desired.context.flows_lost(&web(), new, &desired.ids).marks;
    let mark = desired.ids.marks().last().unwrap().2;
    assert_eq!(of(&state(BackendState::Down)), BTreeSet::from([mark]));
    assert!(of(&state(BackendState::Drain)).is_empty());
    assert!(of(&edited(|backend| backend.weight = 7)).is_empty());
}

#[test]
fn what_is_not_ours_and_what_is_not_there_loses_nothing() {
    let down = compiled(&config(vec![state(BackendState::Down)]), &Ids::default()).state.ruleset;
    assert!(lost(&Ruleset::default(), &down).marks.is_empty(), "somebody took the table away");
    let mut bare = compiled(&config(vec![web()]), &Ids::default()).state.ruleset;
    let table = bare.tables.get_mut(&Place::Inet.table()).unwrap();
    for element in table.sets.get_mut("targets4").unwrap().elements.values_mut() {
        element.comment = None;
    }
    assert!(lost(&bare, &Ruleset::default()).marks.is_empty());
}

#[test]
fn the_longest_names_fit_a_comment() {
    let name = "n".repeat(headgate_config::types::NAME_MAX);
    let farm = headgate_config::types::FarmName::new(&name).unwrap();
    let backend = headgate_config::types::BackendName::new(&name).unwrap();
    let comment = names::backend_comment(&farm, &backend);
    assert_eq!(headgate_nft::model::comment(&comment), *comment);
    assert_eq!(names::backend_of_comment(&comment), Some((farm, backend)));
}

/// What `after` opens when `before` ran: protocols and destinations, and whether they are taken.
fn opens(before: Vec<Farm>, after: Vec<Farm>) -> impl Fn(u8, &str) -> bool {
    let ids = Ids::default();
    let [old, new] = [before, after].map(|farms| compiled(&config(farms), &ids).state.ruleset);
    let opened = lost(&old, &new).opened;
    move |protocol, destination| opened.take(protocol, destination.parse().unwrap())
}

#[test]
fn what_a_farm_begins_to_listen_on_is_opened_and_nothing_else() {
    let listening =
        |listen: &[&str]| Farm { listen: listen.iter().map(|text| text.parse().unwrap()).collect(), ..web() };
    let listens = ["172.16.1.1:53/udp", "172.16.1.2:5000-5010/udp", "172.16.1.3:*/udp", "172.16.1.4:*/any"];
    let opened = opens(vec![], vec![listening(&listens)]);
    for (protocol, destination) in [
        (17, "172.16.1.1:53"),
        (17, "172.16.1.2:5000"),
        (17, "172.16.1.2:5010"),
        (17, "172.16.1.3:9"),
        (253, "172.16.1.4:0"),
    ] {
        assert!(opened(protocol, destination), "{protocol} {destination}");
    }
    for (protocol, destination) in [
        (6, "172.16.1.1:53"),
        (17, "172.16.1.1:54"),
        (17, "172.16.1.2:4999"),
        (17, "172.16.1.2:5011"),
        (6, "172.16.1.3:9"),
        (17, "172.16.1.5:53"),
        (17, "[2001:db8:1::1]:53"),
    ] {
        assert!(!opened(protocol, destination), "{protocol} {destination}");
    }
    let wider =
        opens(vec![listening(&listens[..1])], vec![listening(&["172.16.1.1:53/udp", "[2001:db8:1::1]:53/udp"])]);
    assert!(wider(17, "[2001:db8:1::1]:53"));
    assert!(!wider(17, "172.16.1.1:53"), "it was there");
    let off = Farm { state: FarmState::Off, ..listening(&listens[..1]) };
    assert!(opens(vec![off.clone()], vec![listening(&listens[..1])])(17, "172.16.1.1:53"));
    assert!(!opens(vec![listening(&listens[..1])], vec![off])(17, "172.16.1.1:53"));
    let stateless = Farm { mode: headgate_config::model::Mode::Stateless, ..listening(&listens[..1]) };
    assert!(!opens(vec![], vec![stateless])(17, "172.16.1.1:53"), "every packet finds it");
}
