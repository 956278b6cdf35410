use serde_json::json;

use super::*;
use crate::step::StepView;

fn status(farms: serde_json::Value) -> Status {
    Status { farms: serde_json::from_value(farms).unwrap(), ..Status::default() }
}

fn farm(name: &str, health: &str, standings: [&str; 2]) -> serde_json::Value {
    let backend = |name: &str, standing: &str| {
        let health = json!({
            "state": "down", "since-ms": 4000, "error": "refused", "streak": 3, "passes": false, "rise": 2, "probes": 9,
            "failures": 3, "latency-us": null, "next-ms": 1,
        });
        json!({
            "name": name, "address": "172.16.2.11:8080", "standing": standing, "weight": 1, "priority": 1, "flows": 0,
            "health": health,
        })
    };
    json!({
        "name": name, "health": health, "mode": "snat", "listen": ["172.16.1.1:80/tcp"], "unplaced": [], "usable": 1,
        "total": 2, "flows": 0, "backends": [backend("b1", standings[0]), backend("b2", standings[1])],
    })
}

fn told(faults: &[Fault]) -> Vec<(&str, &str)> {
    faults.iter().map(|fault| (fault.subject.as_str(), fault.text.as_str())).collect()
}

#[test]
fn the_worst_comes_first_and_says_what_to_do() {
    let mut status = status(json!([
        farm("api", "degraded", ["serving", "unhealthy"]),
        farm("shut", "down", ["idle", "idle"]),
        farm("web", "serving", ["serving", "spare"]),
    ]));
    status.last_error = Some("the configuration is invalid".to_owned());
    let step = |text: &str| StepView { kind: "knob".to_owned(), text: text.to_owned(), details: vec![] };
    status.drift = vec![step("set x"), step("set y")];
    status.refused = [("proc/sys/x".to_owned(), "read-only".to_owned())].into();
    let faults = faults(&status);
    assert_eq!(
        told(&faults),
        [
            ("farm shut", "an operator has closed it"),
            ("farm api", "1 of 2 backends take flows"),
            ("backend b2 of api", "unhealthy: refused"),
            ("configuration", "the configuration is invalid"),
            ("kernel", "it is not as it should be: set x, and 1 more"),
            ("knob /proc/sys/x", "the kernel refused it: read-only"),
        ]
    );
    assert_eq!(faults[0].help, "`headgate farm set shut state=up`");
    assert_eq!((faults[2].since_ms, faults[2].help.contains("mend the server")), (Some(4000), true));
    assert!(faults.iter().all(|fault| !fault.help.is_empty()));
}

#[test]
fn times_go_on_while_nothing_changes_and_begin_anew_when_it_does() {
    let second = Duration::from_secs;
    let mut since = Since::default();
    let mut status = status(json!([farm("web", "down", ["unhealthy", "draining"])]));
    status.last_error = Some("x".to_owned());
    let mut look = |status: &mut Status, now| {
        since.date_farms(&mut status.farms, now);
        let mut faults = faults(status);
        since.date(&mut faults, now);
        faults.iter().map(|fault| fault.since_ms.unwrap()).collect::<Vec<u64>>()
    };
    // The farm, a backend whose checks know better, one that nobody checks, and the configuration.
    assert_eq!(look(&mut status, second(10)), [0, 4000, 0, 0]);
    assert_eq!(look(&mut status, second(15)), [5000, 4000, 5000, 5000]);
    status.last_error = None;
    assert_eq!(look(&mut status, second(16)), [6000, 4000, 6000]);
    status.last_error = Some("y".to_owned());
    assert_eq!(look(&mut status, second(18)), [8000, 4000, 8000, 0]);
    status.farms[0].health = FarmHealth::Serving;
    assert_eq!(look(&mut status, second(19)), [1000]);
    assert_eq!(status.farms[0].since_ms, Some(0));
    // A clock that is behind what was remembered.
    assert_eq!(look(&mut status, second(1)), [0]);
    assert!(since.take_changed() && !since.take_changed());
    let text = serde_json::to_string(&since).unwrap();
    assert_eq!(serde_json::from_str::<Since>(&text).unwrap(), since);
    since.keep(|_| false);
    since.date_farms(&mut status.farms, second(30));
    assert_eq!(status.farms[0].since_ms, Some(0));
}
