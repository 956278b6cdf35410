//! Our own way from TOML to the kernel, stage by stage, and one backend's change.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_host::{Host, Root};
use headgate_image::netns::Namespace;
use headgate_nft::change::between;
use headgate_nft::{Batch, Ruleset, Socket, TableId};
use headgate_plan::compile::{Desired, compile};
use headgate_plan::facts::Facts;
use headgate_plan::ids::Ids;
use headgate_plan::step::Plan;
use headgate_tests::{binaries, farms};

use super::{Rounds, Size};
use crate::report::{Cell, Table, Target};

/// One backend's weight is changed this often.
const CHANGES: u16 = 200;

/// The table that [`measure`] gives rows for.
pub(super) fn table() -> Table {
    let columns = [
        "farms × backends",
        "parse and check, ms",
        "compile, ms",
        "build and commit, ms",
        "read back, ms",
        "ids and plan again, ms",
        "one weight, median ms",
        "p99 ms",
        "headgated --once cold, ms",
        "unchanged, ms",
    ];
    Table::new("Our stages", &columns).note(
        "Medians of wall clock time. The stages run in one process; `headgated --once` is a whole process, cold with all \
         virtual addresses to add and announce, then with nothing to do. One weight is compiled, compared and committed.",
    )
}

/// Measures one size in `space`: a row of [`table`], and the targets of the size that has some.
pub(super) fn measure(space: &Namespace, size: Size, rounds: Rounds) -> Result<(Vec<Cell>, Vec<Target>)> {
    let root = tempfile::Builder::new().prefix("headgate-bench-").tempdir()?;
    std::fs::create_dir_all(root.path().join("etc/headgate"))?;
    let text = farms::generate(size.farms, size.backends);
    std::fs::write(root.path().join("etc/headgate/headgate.toml"), text)?;
    let stages = space.within(|| Stages::measure(root.path(), rounds))??;
    let (cold, unchanged) = processes(space, root.path(), rounds)?;
    let mut row = vec![size.to_string().into()];
    let times = [
        stages.parse,
        stages.compile,
        stages.commit,
        stages.dump,
        stages.again,
        stages.median,
        stages.p99,
        cold,
        unchanged,
    ];
    row.extend(times.map(|time| Cell::Number(milliseconds(time), 2)));
    let named = |what: &str| format!("{size}: {what}");
    let planned = stages.parse + stages.compile;
    let targets = if size == (Size { farms: 10_000, backends: 4 }) {
        vec![
            Target::at_most(named("parsed, checked, planned"), 500.0, milliseconds(planned), "ms"),
            Target::at_most(named("ruleset built and committed"), 250.0, milliseconds(stages.commit), "ms"),
            Target::at_most(named("one weight, median"), 2.0, milliseconds(stages.median), "ms"),
            Target::at_most(named("one weight, p99"), 10.0, milliseconds(stages.p99), "ms"),
            Target::at_most(named("headgated --once, cold"), 2000.0, milliseconds(cold), "ms"),
            Target::at_most(named("headgated --once, nothing to do"), 700.0, milliseconds(unchanged), "ms"),
        ]
    } else {
        Vec::new()
    };
    Ok((row, targets))
}

struct Stages {
    parse: Duration,
    compile: Duration,
    commit: Duration,
    dump: Duration,
    again: Duration,
    median: Duration,
    p99: Duration,
}

impl Stages {
    fn measure(root: &Path, rounds: Rounds) -> Result<Self> {
        let facts = Host::open(Root::new(root))?.facts()?;
        let load = || headgate_config::load(root).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"));
        let (parse, loaded) = median(rounds, load)?;
        let config = loaded.config;
        let (compiling, wanted) = median(rounds, || desired(&config, &facts, &Ids::default()))?;
        let tables: Vec<TableId> = wanted.state.ruleset.tables.keys().cloned().collect();
        let mut socket = Socket::open()?;
        let changes = between(&Ruleset::default(), &wanted.state.ruleset);
        let removal = between(&wanted.state.ruleset, &Ruleset::default());
        let removal = Batch::new(&removal, None);
        let mut commits = Vec::new();
        for _ in rounds.iter() {
            let started = Instant::now();
            socket.commit(&Batch::new(&changes, None))?;
            commits.push(started.elapsed());
            socket.commit(&removal)?;
        }
        socket.commit(&Batch::new(&changes, None))?;
        let (dump, observed) = median(rounds, || Ok(socket.dump(&tables)?))?;
        let (again, steps) = median(rounds, || {
            let again = desired(&config, &facts, &Ids::observe(&observed))?;
            let mut state = again.state.clone();
            state.ruleset = observed.clone();
            Ok(Plan::between(&again, &state).steps.len())
        })?;
        ensure!(steps == 0, "a second plan has {steps} steps, although nothing changed");
        let changes = one_weight(&config, &wanted, &mut socket)?;
        socket.commit(&removal)?;
        let (median, p99) = (changes[changes.len() / 2], changes[changes.len() * 99 / 100]);
        Ok(Self { parse, compile: compiling, commit: middle(commits), dump, again, median, p99 })
    }
}

fn desired(config: &headgate_config::Config, facts: &Facts, ids: &Ids) -> Result<Desired> {
    compile(config, &[], facts, ids).map_err(|unsupported| anyhow::anyhow!("{unsupported:?}"))
}

/// The times of one backend's weight, compiled, compared and committed; sorted.
fn one_weight(config: &headgate_config::Config, wanted: &Desired, socket: &mut Socket) -> Result<Vec<Duration>> {
    let mut farm = config.farms.values().nth(config.farms.len() / 2).context("no farm")?.clone();
    let mut times = Vec::with_capacity(CHANGES.into());
    for round in 0..CHANGES {
        let started = Instant::now();
        let mut next = farm.as_ref().clone();
        next.backends.values_mut().next().context("no backend")?.weight = 1 + round % 3 + round % 2;
        let changes = wanted.context.farm_change(&farm, &next, &wanted.ids).context("more than one farm changed")?;
        socket.commit(&Batch::new(&changes, None))?;
        times.push(started.elapsed());
        farm = next.into();
    }
    times.sort();
    Ok(times)
}

/// `headgated --once` as a whole process: cold (addresses and ruleset to add), then with nothing to do.
fn processes(space: &Namespace, root: &Path, rounds: Rounds) -> Result<(Duration, Duration)> {
    let run = |argument: &str| -> Result<Duration> {
        let mut command: Command = space.command(binaries::directory().join("headgated"));
        let started = Instant::now();
        let output = command.arg("--root").arg(root).arg(argument).output()?;
        let took = started.elapsed();
        ensure!(output.status.success(), "headgated {argument}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(took)
    };
    let (mut cold, mut unchanged) = (Vec::new(), Vec::new());
    for _ in rounds.iter() {
        cold.push(run("--once")?);
        unchanged.push(run("--once")?);
        run("--flush")?;
    }
    Ok((middle(cold), middle(unchanged)))
}

/// The median time of some runs and what the last of them yielded.
fn median<T>(rounds: Rounds, mut action: impl FnMut() -> Result<T>) -> Result<(Duration, T)> {
    let (mut times, mut last) = (Vec::new(), None);
    for _ in rounds.iter() {
        // Freed before the next one is made: at many farms two of them are twice the memory.
        drop(last.take());
        let started = Instant::now();
        let yielded = action()?;
        times.push(started.elapsed());
        last = Some(yielded);
    }
    Ok((middle(times), last.context("there is at least one round")?))
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
