//! Health checks with real packets: each type against a real server, and traffic that follows what they say.
#![allow(missing_docs, clippy::unwrap_used)]

mod kinds;
mod servers;
mod traffic;

use std::time::{Duration, Instant};

use headgate_tests::lab::Lab;
use serde_json::Value;

const VIP: &str = "172.16.1.1:80";
/// Far longer than anything here takes on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `headgate farm list --json` says, when the daemon answers.
fn farms(lab: &Lab) -> Vec<Value> {
    let said = lab.headgate_ok(&["farm", "list", "--json"]).unwrap();
    serde_json::from_str(&said).unwrap()
}

fn of_backend<'a>(farms: &'a [Value], farm: &str, backend: &str) -> &'a Value {
    let farm = farms.iter().find(|found| found["name"] == farm).unwrap_or(&Value::Null);
    let backends = farm["backends"].as_array().map_or(&[][..], Vec::as_slice);
    backends.iter().find(|found| found["name"] == backend).unwrap_or(&Value::Null)
}

/// The health of a backend in one word, and what its last probe met.
fn health(lab: &Lab, farm: &str, backend: &str) -> (String, String) {
    let farms = farms(lab);
    let health = &of_backend(&farms, farm, backend)["health"];
    (health["state"].as_str().unwrap_or("?").to_owned(), health["error"].as_str().unwrap_or_default().to_owned())
}

fn wait(lab: &Lab, farm: &str, backend: &str, state: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let (found, error) = health(lab, farm, backend);
        if found == state {
            return error;
        }
        assert!(Instant::now() < until, "{farm}/{backend} is {found} ({error}), not {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
