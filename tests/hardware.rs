//! The machine's knobs under the daemon: turned, mended, given back, explained, and recorded.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use headgate_plan::facts::{Facts, Recording};
use headgate_tests::lab::{Lab, said};

const PROFILE: &str = "etc/headgate/hwprofiles/generic.toml";
const TIME_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Longer than the daemon leaves the kernel unwatched, many times over.
const PATIENCE: Duration = Duration::from_secs(120);

/// A box with the profiles of the tree, that serves on `service`.
fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::new(label)?;
    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hwprofiles");
    std::fs::create_dir_all(lab.root().join(PROFILE).parent().unwrap())?;
    std::fs::copy(profiles.join("generic.toml"), lab.root().join(PROFILE))?;
    lab.configure(
        "[farms.web]\nmode = \"snat\"\nlisten = \"172.16.1.1:80/tcp\"\n[farms.web.backends.b1]\naddress = \"172.16.2.11:80\"\n",
    )?;
    Ok(lab)
}

fn value(lab: &Lab, path: &str) -> Result<String> {
    Ok(lab.gate.run(&format!("cat {path}"))?.trim().to_owned())
}

fn until(lab: &Lab, path: &str, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = value(lab, path)?;
        if found == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{path} stays {found}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn knobs_are_turned_mended_given_back_and_turned_again() -> Result<()> {
    let mut lab = lab("knobs")?;
    let before = value(&lab, TIME_WAIT)?;
    let planned = lab.headgate(&["hw", "plan"])?;
    ensure!(planned.status.code() == Some(10), "{}", said(&planned));
    lab.start()?;
    ensure!(value(&lab, TIME_WAIT)? == "30" && before != "30");
    let planned = lab.headgate_ok(&["hw", "plan"])?;
    ensure!(planned == "nothing to do\n", "{planned}");

    // By hand, with tee(1): a redirection would be the shell's, outside.
    std::fs::write(lab.root().join("77"), "77\n")?;
    lab.gate.run(&format!("dd if={} of={TIME_WAIT} status=none", lab.root().join("77").display()))?;
    until(&lab, TIME_WAIT, "30")?;

    lab.crash()?;
    lab.start()?;
    let told = lab.headgate_ok(&["hw", "explain", "timeout_time_wait"])?;
    for part in [&format!("as wanted {TIME_WAIT} = 30"), &format!("it was {before}"), "generic.toml:"] {
        ensure!(told.contains(part), "{part:?} is not in\n{told}");
    }
    let unknown = lab.headgate(&["hw", "explain", "no-such-knob"])?;
    ensure!(unknown.status.code() == Some(2), "{}", said(&unknown));

    let restored = lab.headgate_ok(&["hw", "restore", "--all"])?;
    ensure!(restored.contains(&format!("give {TIME_WAIT} back what it had")), "{restored}");
    ensure!(value(&lab, TIME_WAIT)? == before && value(&lab, FORWARD)? == "1", "what forwarding needs stays");
    let status = lab.headgate(&["status"])?;
    ensure!(said(&status).contains("headgate hw apply"), "{}", said(&status));
    lab.headgate_ok(&["hw", "apply"])?;
    ensure!(value(&lab, TIME_WAIT)? == "30");
    let again = lab.headgate_ok(&["hw", "apply", "--json"])?;
    let again: serde_json::Value = serde_json::from_str(&again)?;
    ensure!(again["steps"].as_array().is_some_and(Vec::is_empty), "a second time writes nothing: {again}");

    lab.stop()?;
    let flushed = lab.headgated(&["--flush"])?;
    ensure!(flushed.status.success(), "{}", said(&flushed));
    ensure!(value(&lab, TIME_WAIT)? == before && value(&lab, FORWARD)? == "0");
    Ok(())
}

#[test]
fn a_machine_is_recorded_without_what_is_nobodys_business() -> Result<()> {
    let lab = lab("record")?;
    let text = lab.headgate_ok(&["hw", "record"])?;
    let recording: Recording = toml::from_str(&text)?;
    let facts: Facts = toml::from_str(&text)?;
    ensure!(recording.facts == facts, "a record is a file of facts");
    ensure!(!facts.cores.is_empty() && facts.links.contains_key("service") && facts.memory_bytes > 0, "{text}");
    ensure!(facts.routes.is_empty() && facts.links.values().all(|link| link.addresses.is_empty()), "{text}");
    ensure!(!text.contains("172.16") && !text.contains("2001:db8"), "{text}");
    ensure!(recording.found.contains_key(&TIME_WAIT[1..]), "{text}");
    let shown = lab.headgate_ok(&["hw", "show"])?;
    ensure!(shown.contains("\nLoad     0: "), "{shown}");
    Ok(())
}

#[test]
fn profiles_are_validated() -> Result<()> {
    let lab = lab("profiles")?;
    ensure!(lab.headgate_ok(&["hw", "check"])?.starts_with("generic "));
    let bad =
        std::fs::read_to_string(lab.root().join(PROFILE))?.replace("queues = \"per-core\"", "queues = \"per-cow\"");
    std::fs::write(lab.root().join(PROFILE), bad)?;
    let checked = lab.headgate(&["hw", "check"])?;
    ensure!(checked.status.code() == Some(1) && said(&checked).contains("generic.toml:"), "{}", said(&checked));
    ensure!(said(&checked).contains("did you mean \"per-core\"?"), "{}", said(&checked));
    let none = lab.headgate(&["hw", "check", "/nonexistent"])?;
    ensure!(none.status.code() == Some(2), "{}", said(&none));
    Ok(())
}
