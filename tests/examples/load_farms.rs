//! How long many farms take: `load_farms FARMS BACKENDS` (default 10000 4), as root.
//!
//! Works in a network namespace of its own with one interface for the virtual addresses. The stages are timed in this
//! process, five times each (median); `headgated --once` is timed as whole processes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_host::{Host, Root};
use headgate_image::netns::Namespace;
use headgate_nft::{Batch, Ruleset, Socket};
use headgate_plan::compile::{Desired, compile};
use headgate_plan::facts::Facts;
use headgate_plan::ids::Ids;
use headgate_tests::{binaries, farms};

const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let (count, backends) = (*numbers.first().unwrap_or(&10_000), *numbers.get(1).unwrap_or(&4));
    let root = tempfile::tempdir()?;
    std::fs::create_dir_all(root.path().join("etc/headgate"))?;
    let text = farms::generate(count, backends);
    std::fs::write(root.path().join("etc/headgate/headgate.toml"), &text)?;
    println!("{count} farms with {backends} backends each, {:.1} MB of TOML", text.len() as f64 / 1e6);

    let space = Namespace::create("load")?;
    space.ip(&["link", "add", "service", "type", "veth", "peer", "name", "far"])?;
    space.ip(&["address", "add", "10.255.255.254/8", "dev", "service"])?;
    space.ip(&["link", "set", "service", "up"])?;
    space.ip(&["link", "set", "far", "up"])?;
    space.ip(&["link", "add", "backend", "type", "veth", "peer", "name", "back"])?;
    space.ip(&["address", "add", "172.31.255.254/12", "dev", "backend"])?;
    space.ip(&["link", "set", "backend", "up"])?;
    space.ip(&["link", "set", "back", "up"])?;

    space.within(|| stages(root.path()))??;
    processes(&space, root.path())?;
    Ok(())
}

/// The stages inside one process.
fn stages(root: &Path) -> Result<()> {
    let mut host = Host::open(Root::new(root))?;
    let facts = host.facts()?;
    let loaded = || headgate_config::load(root).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"));
    // First, while this process is as small as one that does nothing else.
    let planned = || {
        let config = loaded()?.config;
        let desired = desired(&config, &facts)?;
        Ok((headgate_nft::change::between(&Ruleset::default(), &desired.state.ruleset), desired, config))
    };
    drop(planned()?);
    println!("  {:<34} {:>9.1} MB", "parse, check, plan: peak memory", peak_megabytes()?);
    report("parse, check and plan", median(planned)?);
    let config = loaded()?.config;
    report("of it, parse and check", median(loaded)?);
    report("of it, compile", median(|| desired(&config, &facts))?);

    let wanted = desired(&config, &facts)?;
    let tables: Vec<_> = wanted.state.ruleset.tables.keys().cloned().collect();
    let mut socket = Socket::open()?;
    let changes = headgate_nft::change::between(&Ruleset::default(), &wanted.state.ruleset);
    let removal = headgate_nft::change::between(&wanted.state.ruleset, &Ruleset::default());
    report("build the batch", median(|| Ok(Batch::new(&changes, None)))?);
    let mut load = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        socket.commit(&Batch::new(&changes, None))?;
        load.push(started.elapsed());
        socket.commit(&Batch::new(&removal, None))?;
    }
    report("build and commit", middle(load));
    socket.commit(&Batch::new(&changes, None))?;
    report("read back", median(|| Ok(socket.dump(&tables)?))?);
    one_change(&config, &wanted, &mut socket)?;
    socket.commit(&Batch::new(&removal, None))?;
    Ok(())
}

fn desired(config: &headgate_config::Config, facts: &Facts) -> Result<Desired> {
    compile(config, &[], facts, &Ids::default()).map_err(|unsupported| anyhow::anyhow!("{unsupported:?}"))
}

/// One backend's weight, two hundred times: compiled, compared and committed.
fn one_change(config: &headgate_config::Config, wanted: &Desired, socket: &mut Socket) -> Result<()> {
    let mut farm = config.farms.values().nth(config.farms.len() / 2).context("no farm")?.clone();
    let mut times = Vec::new();
    for round in 0..200_u16 {
        let started = Instant::now();
        let mut next = farm.as_ref().clone();
        next.backends.values_mut().next().context("no backend")?.weight = 1 + round % 3 + round % 2;
        let changes = wanted.context.farm_change(&farm, &next, &wanted.ids).context("more than one farm changed")?;
        socket.commit(&Batch::new(&changes, None))?;
        times.push(started.elapsed());
        farm = next.into();
    }
    times.sort();
    report("one backend's weight, median", times[times.len() / 2]);
    report("one backend's weight, p99", times[times.len() * 99 / 100]);
    Ok(())
}

/// `headgated --once` as a whole process: cold (addresses and ruleset to add), then with nothing to do.
fn processes(space: &Namespace, root: &Path) -> Result<()> {
    let run = |argument: &str| -> Result<Duration> {
        let mut command: Command = space.command(binaries::directory().join("headgated"));
        let started = Instant::now();
        let output = command.arg("--root").arg(root).arg(argument).output()?;
        let took = started.elapsed();
        ensure!(output.status.success(), "headgated {argument}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(took)
    };
    let (mut cold, mut unchanged) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        cold.push(run("--once")?);
        unchanged.push(run("--once")?);
        run("--flush")?;
    }
    report("headgated --once, cold", middle(cold));
    report("headgated --once, unchanged", middle(unchanged));
    Ok(())
}

/// The median of some runs; what they yield is dropped outside of the measured time.
fn median<T>(mut action: impl FnMut() -> Result<T>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let _yielded = action()?;
        times.push(started.elapsed());
    }
    Ok(middle(times))
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn report(what: &str, time: Duration) {
    println!("  {what:<34} {:>9.2} ms", time.as_secs_f64() * 1e3);
}

/// `VmHWM` of this process.
fn peak_megabytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("no VmHWM in /proc/self/status")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kilobytes / 1e3)
}
