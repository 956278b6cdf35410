//! The machine's knobs under the daemon: turned, mended, given back, explained, and recorded.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
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

/// Writes a value by hand, with dd(1): a redirection would be the shell's, outside.
fn put(lab: &Lab, path: &str, text: &str) -> Result<()> {
    let file = lab.root().join("by-hand");
    std::fs::write(&file, format!("{text}\n"))?;
    lab.gate.run(&format!("dd if={} of={path} status=none", file.display())).map(drop)
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

    put(&lab, TIME_WAIT, "77")?;
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

#[test]
fn an_interface_that_comes_gets_its_knobs() -> Result<()> {
    let mut lab = lab("comes")?;
    let config = lab.root().join("etc/headgate/headgate.toml");
    let text = std::fs::read_to_string(&config)?;
    lab.configure(&format!("{text}[network.interfaces.late]\nmatch.name = \"late0\"\n"))?;
    lab.start()?;
    for _ in 0..2 {
        lab.gate.ip(&["link", "add", "late0", "type", "veth", "peer", "name", "late1"])?;
        until(&lab, "/proc/sys/net/ipv4/conf/late0/arp_announce", "2")?;
        until(&lab, "/proc/sys/net/ipv4/conf/late0/rp_filter", "0")?;
        lab.gate.ip(&["link", "delete", "late0"])?;
    }
    Ok(())
}

/// Ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another program with a known name, that wants the same knob otherwise and never tires.
#[test]
fn a_knob_that_another_program_keeps_turning_is_left_to_it() -> Result<()> {
    let mut lab = lab("dispute")?;
    lab.start()?;
    let tuned = lab.root().join("tuned");
    std::fs::copy("/bin/sh", &tuned)?;
    let script = format!("while :; do echo 77 > {TIME_WAIT}; sleep 0.01; done");
    let mut rival = lab.gate.command(&tuned);
    let rival = Process(rival.args(["-c", &script]).stdout(Stdio::null()).spawn()?);
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        let status = said(&lab.headgate(&["status"])?);
        if status.contains("is left alone") {
            break status;
        }
        ensure!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(told.starts_with("exit status: 5\ndegraded"), "{told}");
    ensure!(
        told.contains(&format!("refused: {TIME_WAIT}: somebody keeps changing it back, and after 5 repairs")),
        "{told}"
    );
    ensure!(told.contains("tuned runs and does such things"), "{told}");
    // Nothing else waits for it: a configuration is still applied.
    lab.headgate_ok(&["apply"])?;
    drop(rival);
    until(&lab, TIME_WAIT, "30")?;
    put(&lab, TIME_WAIT, "77")?;
    until(&lab, TIME_WAIT, "30")?;
    // Everything else is kept as before.
    put(&lab, FORWARD, "0")?;
    until(&lab, FORWARD, "1")?;
    let status = said(&lab.headgate(&["status"])?);
    ensure!(!status.contains("left alone"), "{status}");
    Ok(())
}

/// `probe`, as strace shows it: what asks whether nftables knows something is a batch for a table that does not stay.
const PROBE: &str = "\\x70\\x72\\x6f\\x62\\x65";

/// Files of the machine that were opened for writing, and requests over netlink that set something, of a program that strace(1)
/// followed.
fn writes(trace: &str) -> BTreeSet<String> {
    let of_machine = |line: &&str| {
        let path = line.split('"').nth(1).unwrap_or_default();
        line.contains("openat(")
            && (line.contains("O_WRONLY") || line.contains("O_RDWR"))
            && ["/proc/", "/sys/", "/dev/cpu_dma_latency"].iter().any(|place| path.starts_with(place))
    };
    // `RTM_NEWLINK` and its kin carry NLM_F_ACK or NLM_F_CREATE; what only asks has a name with GET. A batch of nftables ends
    // with its commit.
    let sets = |line: &&str| {
        line.contains("send")
            && !line.contains(PROBE)
            && line.contains("nlmsg_type=")
            && ["RTM_NEW", "RTM_DEL", "RTM_SET", "NFNL_MSG_BATCH_END", "IPCTNL_MSG_CT_DELETE", "IPCTNL_MSG_CT_NEW"]
                .iter()
                .any(|kind| line.contains(kind))
    };
    trace.lines().filter(|line| of_machine(line) || sets(line)).map(str::to_owned).collect()
}

fn followed(lab: &Lab, arguments: &[&str]) -> Result<BTreeSet<String>> {
    let trace = lab.root().join("trace");
    let mut strace = lab.gate.command("strace");
    strace.args(["-f", "-s", "200", "-e", "trace=openat,sendto,sendmsg", "-o"]).arg(&trace);
    strace.arg(headgate_tests::binaries::directory().join("headgated")).arg("--root").arg(lab.root());
    let output = strace.args(arguments).output()?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(writes(&std::fs::read_to_string(trace)?))
}

#[test]
fn a_second_apply_writes_nothing() -> Result<()> {
    let mut lab = lab("twice")?;
    let first = followed(&lab, &["--once"])?;
    for sign in [TIME_WAIT, FORWARD, "RTM_NEWADDR", "NFNL_MSG_BATCH_END"] {
        ensure!(first.iter().any(|line| line.contains(sign)), "strace does not see {sign}: {first:#?}");
    }
    let second = followed(&lab, &["--once"])?;
    ensure!(second.is_empty(), "{second:#?}");

    // The same under the daemon, which has compared and announced everything by then.
    lab.start()?;
    let trace = lab.root().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-s", "200", "-e", "trace=openat,sendto,sendmsg", "-o"]).arg(&trace);
    let mut strace = Process(strace.args(["-p", &lab.process()?.to_string()]).stderr(Stdio::null()).spawn()?);
    let deadline = Instant::now() + PATIENCE;
    // It follows once it has seen the daemon do anything.
    while std::fs::read_to_string(&trace).is_ok_and(|text| !text.contains("nf_conntrack_tcp_timeout_time_wait")) {
        ensure!(Instant::now() < deadline, "strace follows nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.headgate_ok(&["hw", "apply"])?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(strace.0.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)?;
    strace.0.wait()?;
    let text = std::fs::read_to_string(&trace)?;
    let daemon = writes(&text);
    ensure!(daemon.is_empty(), "{daemon:#?}");
    Ok(())
}
