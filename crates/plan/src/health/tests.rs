use headgate_config::model::HealthCheck;
use proptest::prelude::*;

use super::*;
use crate::samples::{backend, config, farm, tcp, web};

const HALF: Thresholds = Thresholds { rise: 2, fall: 3 };

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The conditions after each result, `+` or `-`, one a second.
fn course(record: &mut Record, results: &str, from: u64) -> String {
    let condition = |(at, result)| {
        let sign = if result == '+' { Sign::Passed } else { Sign::Failed };
        record.observe(sign, HALF, seconds(from + at));
        match record.condition() {
            Condition::Up => 'U',
            Condition::Down => 'D',
            Condition::Unknown => '?',
        }
    };
    (0..).zip(results.chars()).map(condition).collect()
}

#[test]
fn the_first_result_decides_and_then_rise_and_fall_do() {
    for (results, conditions) in [
        ("+", "U"),
        ("-", "D"),
        ("+---", "UUUD"),
        ("+--+--+---", "UUUUUUUUUD"),
        ("-+-+-++", "DDDDDDU"),
        ("+---++", "UUUDDU"),
        ("-++--+---", "DDUUUUUUD"),
    ] {
        assert_eq!(course(&mut Record::default(), results, 0), conditions, "{results}");
    }
}

#[test]
fn each_fall_within_ten_minutes_doubles_what_brings_it_back() {
    let mut record = Record::default();
    course(&mut record, "+", 0);
    for (fall, passes) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 32)] {
        course(&mut record, "---", fall * 60);
        assert_eq!(record.rise(HALF, seconds(fall * 60 + 3)), passes, "fall {fall}");
        let results = "+".repeat(passes as usize);
        let conditions = course(&mut record, &results, fall * 60 + 3);
        assert_eq!(conditions, "D".repeat(passes as usize - 1) + "U", "fall {fall}");
    }
    assert_eq!(record.rise(HALF, seconds(122) + FLAP_WINDOW), 16, "one of the last five is just that old");
    assert_eq!(record.rise(HALF, seconds(400) + FLAP_WINDOW), 2);
}

#[test]
fn suspicion_is_news_once_and_ends_with_a_success_or_a_fall() {
    let mut record = Record::default();
    course(&mut record, "+", 0);
    assert!(record.suspect() && !record.suspect() && record.is_suspected());
    course(&mut record, "--", 1);
    assert!(record.is_suspected());
    course(&mut record, "+", 3);
    assert!(!record.is_suspected());
    assert!(record.suspect());
    course(&mut record, "---", 4);
    assert_eq!((record.condition(), record.is_suspected()), (Condition::Down, false));
    assert!(!record.suspect(), "it is down already");
}

#[test]
fn silence_is_told_from_little_and_from_steady_traffic() {
    let flows = |given, answered| Flows { given, answered };
    for (before, now, silent, why) in [
        (flows(0, 0), flows(10, 0), true, "resets, or nothing at all"),
        (flows(0, 0), flows(2, 0), false, "too few to say"),
        (flows(0, 0), flows(10, 10), false, "all were answered"),
        (flows(100, 50), flows(110, 50), true, "a few that are open, and none of the new ones is among them"),
        (flows(100, 50), flows(110, 55), false, "some were answered"),
        (flows(90_000, 12_000), flows(90_100, 12_000), false, "as many come as are forgotten"),
        (flows(90_000, 12_000), flows(90_100, 11_900), true, "they are forgotten, and none comes"),
        (flows(90_000, 12_000), flows(3, 0), false, "the counters began anew"),
    ] {
        assert_eq!(seems_silent(before, now), silent, "{why}");
    }
}

#[test]
fn a_record_outlives_the_daemon() {
    let mut record = Record::default();
    course(&mut record, "+---", 7);
    let text = serde_json::to_string(&record).unwrap();
    let mut again: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(again, record);
    assert_eq!((again.condition(), again.since()), (Condition::Down, Some(seconds(10))));
    again.restart();
    assert_eq!(course(&mut again, "++", 20), "DU");
}

proptest! {
    /// A backend turns only by as many results in a row as it needs, all against its condition, and says so each time.
    #[test]
    fn nothing_turns_without_a_reason(
        results in prop::collection::vec(any::<bool>(), 1..400),
        rise in 1u32..6,
        fall in 1u32..6,
        step in 0u64..100,
    ) {
        let thresholds = Thresholds { rise, fall };
        let mut record = Record::default();
        for (index, &passed) in results.iter().enumerate() {
            let sign = if passed { Sign::Passed } else { Sign::Failed };
            let before = record.condition();
            let now = seconds(index as u64 * step);
            let needs = match (before, sign) {
                (Condition::Unknown, _) => 1,
                (_, Sign::Passed) => record.rise(thresholds, now),
                (_, Sign::Failed) => fall,
            };
            let row = results[..=index].iter().rev().take_while(|&&other| other == passed).count() as u32;
            let turned = record.observe(sign, thresholds, now);
            prop_assert_eq!(record.streak(), Some((sign, row)));
            prop_assert_eq!(turned.is_some(), record.condition() != before);
            let against = before != if passed { Condition::Up } else { Condition::Down };
            prop_assert_eq!(turned.is_some(), against && row >= needs);
            prop_assert!(record.falls.len() <= FALLS_MAX);
            prop_assert!(record.rise(thresholds, now) <= rise * 16);
        }
    }
}

fn checked(farm: Farm, port: Option<u16>) -> Farm {
    let health = Health {
        check: HealthCheck::Icmp,
        port,
        source_address: None,
        interval: seconds(2),
        timeout: seconds(1),
        rise: 2,
        fall: 3,
    };
    Farm { health: Some(health), ..farm }
}

#[test]
fn the_port_is_the_checks_or_the_backends_or_the_only_one_there_is() {
    let ports = |farm: Farm| targets(&config(vec![farm])).iter().map(|target| target.port).collect::<Vec<_>>();
    assert_eq!(ports(web()), []);
    assert_eq!(ports(checked(web(), None)), [Some(8080), Some(8080)]);
    assert_eq!(ports(checked(web(), Some(81))), [Some(81), Some(81)]);
    let mut plain = backend("b1", "172.16.2.11", 1);
    plain.address.port = None;
    let one = farm("one", vec![tcp("172.16.1.1", 80), tcp("172.16.1.2", 80), tcp("2001:db8::1", 81)], vec![plain]);
    assert_eq!(ports(checked(one.clone(), None)), [Some(80)]);
    let two = Farm { listen: vec![tcp("172.16.1.1", 80), tcp("172.16.1.1", 81)], ..one };
    assert_eq!(ports(checked(two, None)), [None]);
    assert_eq!(ports(checked(Farm { state: FarmState::Off, ..web() }, None)), []);
}

#[test]
fn probes_carry_the_mark_of_the_flows() {
    let mut marked = checked(Farm { mark: Some(16), ..web() }, None);
    marked.backends.values_mut().next().unwrap().mark = Some(17);
    let marks: Vec<_> = targets(&config(vec![marked])).iter().map(|target| target.mark).collect();
    assert_eq!(marks, [Some(17), Some(16)]);
}
