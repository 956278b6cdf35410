//! The control plane: how long farms take to load and to change, and how much memory that needs.
//!
//! [`engines`] does the same with ours, `nft -f` and nftlb; `stages` times our way from TOML to the kernel step by step.

pub mod content;
pub mod engines;
pub mod process;
mod stages;
mod turns;

use std::fmt;
use std::str::FromStr;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_image::netns::Namespace;
use headgate_image::progress::Progress;
use headgate_image::stop::Stop;

use crate::report::{Cell, Report, Table, Target};
use crate::setting;
use crate::statistics::{Spread, quantile};
use content::Content;
use engines::{Change, Engine};
use process::Run;

/// Rounds of single changes, at most; two of them are to a backend.
const CHANGES: u32 = 50;

/// What of the control plane to measure.
#[derive(Args)]
pub struct Options {
    /// How many farms with how many backends each
    #[arg(long, value_name = "FARMSxBACKENDS", value_delimiter = ',', default_values = ["1x10", "1x1000", "100x10", "1000x4", "10000x1", "10000x4"])]
    sizes: Vec<Size>,
    /// How often each stage is timed, at most; what is shown is the median
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// After how many seconds to give up on a program, and to begin no further round of anything
    #[arg(long, default_value_t = 10, value_name = "S")]
    patience: u64,
}

impl Options {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    fn rounds(&self) -> Rounds {
        Rounds { most: self.rounds, time: self.patience() }
    }

    fn changes(&self) -> Rounds {
        Rounds { most: CHANGES as usize, time: self.patience() }
    }
}

/// Rounds of one thing: so many, or as many as begin within a time, but at least one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    most: usize,
    time: Duration,
}

impl Rounds {
    /// The numbers of the rounds, each when its time has come.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let begin = Instant::now();
        (0..self.most).take_while(move |&round| round == 0 || begin.elapsed() < self.time)
    }
}

/// How many farms, and how many backends each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// At least 1.
    pub farms: u32,
    /// At least 1.
    pub backends: u32,
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let pair =
            text.split_once('x').and_then(|(farms, backends)| Some((farms.parse().ok()?, backends.parse().ok()?)));
        let size = pair.map(|(farms, backends)| Self { farms, backends });
        size.filter(|size| size.farms > 0 && size.backends > 0).context("FARMSxBACKENDS is needed, as in 1000x4")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.farms, self.backends)
    }
}

/// Measures all sizes.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    ensure!(options.rounds > 0, "--rounds must not be 0");
    let setting = setting::describe(&[setting::NFT, setting::NFTLB])?;
    let (mut beside, mut stages) = (beside_table(options.patience), stages::table());
    let (mut targets, progress) = (Vec::new(), Progress::new());
    for &size in &options.sizes {
        for engine in Engine::ALL {
            stop.check()?;
            let content = Content { size, port: 8080 };
            let figures = match engine.can(content) {
                true => {
                    beside_row(engine, content, options).with_context(|| format!("{} with {size}", engine.name()))?
                }
                false => Figures::default(),
            };
            targets.extend(figures.targets(engine, size));
            beside.rows.push(figures.row(engine, size));
            progress.line(&format!("{size}: {}", engine.name()));
        }
        stop.check()?;
        let (row, of_stages) = stages::measure(&space()?, size, options.rounds())?;
        stages.rows.push(row);
        targets.extend(of_stages);
        progress.line(&format!("{size}: stages"));
    }
    Ok(Report { name: "control", setting, tables: vec![beside, stages], targets })
}

/// What an engine took with farms of one size; nothing when it cannot, or gave no answer in time.
#[derive(Debug, Default)]
struct Figures {
    load: Option<Run>,
    replace: Option<Run>,
    /// Sorted.
    changes: Vec<f64>,
    add: Option<f64>,
    remove: Option<f64>,
    resident: Option<u64>,
    /// From a deciding probe to the kernel, ms, sorted; of ours only.
    turns: Vec<f64>,
}

fn beside_table(patience: u64) -> Table {
    let columns = [
        "farms × backends",
        "engine",
        "load, ms",
        "its CPU, ms",
        "its peak, MB",
        "replace, ms",
        "one change, median ms",
        "p99 ms",
        "add a farm, ms",
        "remove it, ms",
        "daemon, MB",
        "a backend turns, median ms",
        "most ms",
    ];
    Table::new("Beside nft -f and nftlb", &columns).note(format!(
        "Load and replace are whole processes from a file to the kernel: `headgated --once`, `nft -f` with the flat ruleset of two \
         maps for all farms, `nftlb -e`; replacing changes every backend's port. One change drains a backend or takes it back: by \
         the daemons' APIs, and by a process of nft(8) that changes one element. A backend turns when its health check has decided: \
         from then until the kernel has it; its flows are ended behind that, by a thread that the next turn does not wait for. Virtual addresses are nobody's business here. \
         nftlb has no figures beyond 4,095 backends, which is as many as it can tell apart, and where {patience} s were not enough."
    ))
}

fn beside_row(engine: Engine, content: Content, options: &Options) -> Result<Figures> {
    let (space, directory) = (space()?, tempfile::Builder::new().prefix("headgate-bench-").tempdir()?);
    let patience = options.patience();
    let load = |content| engine.load(&space, directory.path(), content, patience);
    let (mut loads, mut replaces) = (Vec::new(), Vec::new());
    for _ in options.rounds().iter() {
        loads.push(load(content)?);
        if loads.iter().any(Option::is_none) {
            return Ok(Figures::default());
        }
        replaces.push(load(Content { port: content.port + 1, ..content })?);
        engine.clear(&space, directory.path())?;
    }
    let mut figures = Figures { load: middle(loads), replace: middle(replaces), ..Figures::default() };
    load(content)?;
    let live = engine.start(&space, directory.path(), patience)?;
    figures.resident = live.resident()?;
    figures.change(content, options, |change| live.change(&space, content, change))?;
    drop(live);
    engine.clear(&space, directory.path())?;
    if engine == Engine::Headgate {
        figures.turns = turns::measure(&space, content)?;
        engine.clear(&space, directory.path())?;
    }
    Ok(figures)
}

/// The run of the median time.
fn middle(runs: Vec<Option<Run>>) -> Option<Run> {
    let mut runs: Vec<Run> = runs.into_iter().collect::<Option<_>>()?;
    runs.sort_by_key(|run| run.wall);
    runs.get(runs.len() / 2).copied()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Figures {
    /// Times single changes: of backends, then of whole farms.
    fn change(&mut self, content: Content, options: &Options, make: impl Fn(Change) -> Result<Duration>) -> Result<()> {
        let make = |change| make(change).map(milliseconds);
        let (farms, mut adds, mut removes) = (content.size.farms, Vec::new(), Vec::new());
        for round in options.changes().iter() {
            // Everywhere among the farms: 7919 is a prime.
            let farm = round as u32 * 7919 % farms;
            self.changes.extend([make(Change::Leave(farm))?, make(Change::Return(farm))?]);
        }
        for _ in options.changes().iter() {
            adds.push(make(Change::Add(farms))?);
            removes.push(make(Change::Remove(farms))?);
        }
        self.changes.sort_by(f64::total_cmp);
        let median = |times: Vec<f64>| Spread::of(times).map(|spread| spread.median);
        (self.add, self.remove) = (median(adds), median(removes));
        Ok(())
    }

    fn row(&self, engine: Engine, size: Size) -> Vec<Cell> {
        let number = |value: Option<f64>, decimals| value.map_or(Cell::Missing, |value| Cell::Number(value, decimals));
        let wall = |run: Option<Run>| run.map(|run| milliseconds(run.wall));
        vec![
            size.to_string().into(),
            engine.name().into(),
            number(wall(self.load), 1),
            number(self.load.map(|run| milliseconds(run.processor)), 1),
            number(self.load.map(|run| megabytes(run.memory)), 1),
            number(wall(self.replace), 1),
            number(quantile(&self.changes, 0.5), 2),
            number(quantile(&self.changes, 0.99), 2),
            number(self.add, 2),
            number(self.remove, 2),
            number(self.resident.map(megabytes), 1),
            number(quantile(&self.turns, 0.5), 2),
            number(self.turns.last().copied(), 2),
        ]
    }

    fn targets(&self, engine: Engine, size: Size) -> Vec<Target> {
        if engine != Engine::Headgate {
            return Vec::new();
        }
        let mut targets = Vec::new();
        let mut at_most = |what: &str, limit, measured: Option<f64>, unit| {
            targets.extend(measured.map(|measured| Target::at_most(format!("{size}: {what}"), limit, measured, unit)));
        };
        match size {
            Size { farms: 1, backends: 10 } => at_most("daemon, resident", 12.0, self.resident.map(megabytes), "MB"),
            Size { farms: 10_000, backends: 4 } => {
                at_most("peak memory of a load", 96.0, self.load.map(|run| megabytes(run.memory)), "MB");
                at_most("daemon, resident", 48.0, self.resident.map(megabytes), "MB");
                at_most("one change by the API, median", 2.0, quantile(&self.changes, 0.5), "ms");
                at_most("one change by the API, p99", 10.0, quantile(&self.changes, 0.99), "ms");
                at_most("from the deciding probe to the kernel, p99", 5.0, quantile(&self.turns, 0.99), "ms");
            }
            Size { .. } => {}
        }
        targets
    }
}

/// A box without neighbours: one interface in the network of the virtual addresses, one in that of the backends.
fn space() -> Result<Namespace> {
    let space = Namespace::create("control")?;
    for (device, peer, address) in [("service", "far", "10.255.255.254/8"), ("backend", "back", "172.31.255.254/12")] {
        space.ip(&["link", "add", device, "type", "veth", "peer", "name", peer])?;
        space.ip(&["address", "add", address, "dev", device])?;
        space.ip(&["link", "set", device, "up"])?;
        space.ip(&["link", "set", peer, "up"])?;
    }
    Ok(space)
}
