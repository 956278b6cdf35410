//! The data plane: how much work gets through each engine, and what it costs, all of them alive side by side.

pub mod variants;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_image::progress::Progress;
use headgate_image::stop::Stop;

use crate::load::{Load, Outcome};
use crate::report::{Cell, Report, Table, Target};
use crate::setting;
use crate::statistics::Spread;
use variants::{Alive, REFERENCE, VARIANTS, Variant};

/// Which variants, which loads, and for how long.
#[derive(Debug, Args)]
pub struct Options {
    /// How many rounds; in each every variant has one slice of every load
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How long one load is on one variant at a time, milliseconds
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    slice: u64,
    /// Only these variants; the reference is always among them
    #[arg(long, value_delimiter = ',', value_parser = parse_variant, value_name = "NAME")]
    variants: Vec<Variant>,
    /// Only these loads
    #[arg(long, value_delimiter = ',', value_enum)]
    loads: Vec<Load>,
}

fn parse_variant(name: &str) -> Result<Variant> {
    let names = || VARIANTS.iter().map(|variant| variant.name).collect::<Vec<_>>().join(", ");
    let found = VARIANTS.iter().find(|variant| variant.name == name);
    found.copied().with_context(|| format!("there are: {}", names()))
}

impl Options {
    fn variants(&self) -> Vec<Variant> {
        let chosen = |variant: &&Variant| {
            self.variants.is_empty()
                || variant.name == REFERENCE
                || self.variants.iter().any(|chosen| chosen.name == variant.name)
        };
        VARIANTS.iter().filter(chosen).copied().collect()
    }

    fn loads(&self) -> Vec<Load> {
        let chosen = |load: &Load| self.loads.is_empty() || self.loads.contains(load);
        Load::ALL.into_iter().filter(chosen).collect()
    }
}

/// One slice of one variant.
#[derive(Debug, Clone, Copy)]
struct Sample {
    outcome: Outcome,
    /// Processor seconds for one request, packet or byte.
    cost: f64,
}

/// Samples by load and variant; the place in the list is the round.
type Samples = BTreeMap<(Load, &'static str), Vec<Sample>>;

/// Measures.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    ensure!(options.rounds > 0 && options.slice > 0, "--rounds and --slice must not be 0");
    let setting = setting::describe(&[setting::NFT, setting::NFTLB, setting::HAPROXY, setting::NGINX])?;
    let progress = Progress::new();
    let mut alive = Vec::new();
    for (number, variant) in options.variants().into_iter().enumerate() {
        stop.check()?;
        alive.push(Alive::start(variant, number)?);
        progress.line(&format!("{} is up", variant.name));
    }
    let mut samples = Samples::new();
    for load in options.loads() {
        for round in 0..options.rounds {
            for turn in 0..alive.len() {
                // Each round begins with another variant, so that none always runs behind the same neighbour.
                let alive = &alive[(turn + round) % alive.len()];
                if alive.variant.engine.carries(load) {
                    stop.check()?;
                    let sample = sample(alive, load, Duration::from_millis(options.slice))
                        .with_context(|| format!("{load:?} through {}", alive.variant.name))?;
                    samples.entry((load, alive.variant.name)).or_default().push(sample);
                }
            }
            progress.line(&format!("{load:?}: round {} of {}", round + 1, options.rounds));
        }
    }
    let tables = options.loads().into_iter().map(|load| table(load, &samples, options)).collect();
    Ok(Report { name: "dataplane", setting, tables, targets: targets(&samples) })
}

fn sample(alive: &Alive, load: Load, slice: Duration) -> Result<Sample> {
    let before = alive.workers.time()?;
    let outcome = load.run(&alive.way(), slice)?;
    let cost = (alive.workers.time()? - before).as_secs_f64() / outcome.done as f64;
    Ok(Sample { outcome, cost })
}

/// For each load: its title, what one is called, how many of them are one unit, and how many units a cost is given for.
fn words(load: Load) -> (&'static str, &'static str, f64, &'static str, f64) {
    match load {
        Load::KeepAlive => ("HTTP, connections kept open", "requests/s", 1.0, "CPU µs/request", 1e6),
        Load::Close => ("HTTP, a connection per request", "requests/s", 1.0, "CPU µs/request", 1e6),
        Load::Udp => ("UDP, smallest packets, one direction", "packets/s", 1.0, "CPU µs/packet", 1e6),
        Load::Bulk => ("TCP, as much as it can", "Gbit/s", 8e-9, "CPU ms/GB", 1e12),
    }
}

fn table(load: Load, samples: &Samples, options: &Options) -> Table {
    let (title, unit, scale, cost_unit, cost_scale) = words(load);
    let columns = ["variant", unit, "÷ reference", "quartiles", cost_unit, "÷ reference", "quartiles", "failed"];
    let mut table = Table::new(title, &columns);
    for variant in options.variants() {
        let Some(of) = samples.get(&(load, variant.name)) else { continue };
        let mut row = vec![Cell::from(variant.name)];
        let rate = Spread::of(of.iter().map(|sample| sample.outcome.rate() * scale));
        row.push(number(rate, if load == Load::Bulk { 2 } else { 0 }));
        row.extend(compared(ratios(samples, load, variant.name, |sample| sample.outcome.rate())));
        let cost = Spread::of(of.iter().map(|sample| sample.cost * cost_scale));
        row.push(number(cost, if load == Load::Bulk { 0 } else { 2 }));
        row.extend(compared(ratios(samples, load, variant.name, |sample| sample.cost)));
        row.push(Cell::Number(of.iter().map(|sample| sample.outcome.failed as f64).sum(), 0));
        table.rows.push(row);
    }
    table.note(format!(
        "Medians of {} rounds of slices of {} ms; ratios are taken within a round, against {REFERENCE}. CPU is the processor \
         time of all that works: clients, servers, the engine, and the kernel on their behalf.",
        options.rounds, options.slice
    ))
}

fn number(spread: Option<Spread>, decimals: usize) -> Cell {
    spread.map_or(Cell::Missing, |spread| Cell::Number(spread.median, decimals))
}

fn compared(ratios: Option<Spread>) -> [Cell; 2] {
    let quartiles = ratios.map(|spread| format!("{:.3} to {:.3}", spread.low, spread.high));
    [number(ratios, 3), quartiles.map_or(Cell::Missing, Cell::Text)]
}

/// A variant's figure over the reference's of the same round.
fn ratios(samples: &Samples, load: Load, name: &'static str, figure: fn(&Sample) -> f64) -> Option<Spread> {
    let (of, reference) = (samples.get(&(load, name))?, samples.get(&(load, REFERENCE))?);
    // A slice shorter than a tick can cost nothing; such a ratio says nothing.
    Spread::of(
        of.iter().zip(reference).map(|(one, other)| figure(one) / figure(other)).filter(|ratio| ratio.is_finite()),
    )
}

fn targets(samples: &Samples) -> Vec<Target> {
    let ratio = |load, name| ratios(samples, load, name, |sample| sample.outcome.rate()).map(|spread| spread.median);
    let mut targets = Vec::new();
    for (load, what) in [(Load::KeepAlive, "keep-alive"), (Load::Close, "connection per request")] {
        let ours = ratio(load, "headgate-snat-10000");
        let name = |peer: &str| format!("snat, {what}, 10,000 farms loaded, over {peer}");
        if let Some(ours) = ours {
            targets.push(Target::at_least(name("hand-written nft"), 0.97, ours, ""));
        }
        if let (Some(ours), Some(nftlb)) = (ours, ratio(load, "nftlb-snat")) {
            targets.push(Target::at_least(name("nftlb"), 1.0, ours / nftlb, ""));
        }
    }
    if let (Some(one), Some(many)) = (ratio(Load::Close, "headgate-snat"), ratio(Load::Close, "headgate-snat-10000")) {
        let what = "cost of a connection, 10,000 farms over 1, by requests/s";
        targets.push(Target::at_most(what, 1.25, one / many, ""));
    }
    targets
}
