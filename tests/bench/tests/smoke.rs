//! Each subcommand runs for a very short while and prints sane rows: as root, as the measurements themselves.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// One at a time: each wants the whole machine.
static TURN: Mutex<()> = Mutex::new(());

/// What a subcommand reports as JSON.
fn measure(arguments: &[&str]) -> Value {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_headgate-bench")).arg("--json").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of one table; each has as many cells as there are columns.
fn rows(report: &Value, table: usize) -> Vec<Vec<Value>> {
    let table = &report["tables"][table];
    let columns = table["columns"].as_array().unwrap().len();
    let rows: Vec<Vec<Value>> =
        table["rows"].as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect();
    assert!(!rows.is_empty() && rows.iter().all(|row| row.len() == columns), "{table}");
    rows
}

#[test]
fn control_times_every_engine_and_stage() {
    let report = measure(&["control", "--sizes", "3x2", "--rounds", "1"]);
    let beside = rows(&report, 0);
    assert_eq!(beside.iter().map(|row| row[1].as_str().unwrap()).collect::<Vec<_>>(), ["headgate", "nft -f", "nftlb"]);
    for row in &beside {
        // Only nft(8) has no daemon.
        assert!(row[2..10].iter().all(|figure| figure.as_f64().unwrap() > 0.0), "{row:?}");
        assert_eq!(row[10].is_null(), row[1] == "nft -f", "{row:?}");
    }
    let stages = rows(&report, 1);
    assert!(stages[0][1..].iter().all(|time| time.as_f64().unwrap() > 0.0), "{stages:?}");
}

#[test]
fn dataplane_carries_each_load_through_each_engine() {
    let variants = "routing,nftlb-snat,nftlb-dnat,haproxy,nginx-stream,headgate-snat,headgate-dnat";
    let report = measure(&["dataplane", "--rounds", "1", "--slice", "50", "--variants", variants]);
    // UDP is not for the two proxies; the reference is always there.
    for (table, variants) in [(0, 8), (1, 8), (2, 6), (3, 8)] {
        let rows = rows(&report, table);
        assert_eq!(rows.len(), variants, "{rows:?}");
        for row in rows {
            let figures = [1, 2, 4, 5].map(|column| row[column].as_f64().unwrap());
            assert!(figures.iter().all(|figure| *figure > 0.0 && figure.is_finite()), "{row:?}");
        }
    }
}

#[test]
fn consistency_follows_every_client() {
    let report = measure(&["consistency", "--clients", "2000"]);
    let pickers = rows(&report, 0);
    assert_eq!(pickers.len(), 5);
    for row in &pickers {
        assert_eq!(row[4], 0.0, "an open flow moved: {row:?}");
    }
    let maglev = pickers.iter().find(|row| row[0] == "maglev").unwrap();
    assert!(maglev[2].as_f64().unwrap() <= 2.0, "{maglev:?}");
    for row in rows(&report, 1) {
        // An entry is 256; other work on the machine frees memory, and so few flows do not outweigh that.
        assert!(row[1].as_f64().unwrap() > 0.0, "{row:?}");
    }
}

#[test]
fn the_papers_run_goes_through_every_engine() {
    let rows = rows(&measure(&["paper", "--seconds", "1"]), 0);
    assert_eq!(rows.len(), 4);
    for row in &rows {
        assert!(row[1].as_f64().unwrap() > 100.0, "{row:?}");
    }
}

#[test]
fn a_size_that_is_none_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_headgate-bench")).args(["control", "--sizes", "3"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("FARMSxBACKENDS is needed"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn steer_moves_packets_to_the_processors_that_it_says() {
    let report = measure(&["steer", "--only", "veth", "--pairs", "1", "--slice", "100"]);
    for table in 0..2 {
        let rows = rows(&report, table);
        assert_eq!(rows.len(), 4, "{rows:?}");
        for row in rows {
            assert!(row[1].as_f64().unwrap() > 0.0 && row[2].as_f64().unwrap() > 0.0, "{row:?}");
        }
    }
}
