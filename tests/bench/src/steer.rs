//! Receive packet steering on a NIC with a single queue: packets a second with the masks that one may give it, in turns.
//!
//! A veth without NAPI is such a NIC whose interrupt is on the processor of the sender: what it receives is carried to its end
//! there, unless RPS hands it to another one. The sender stays on the first processor.

mod cards;

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_bench_guest::counters::Counters;
use headgate_image::netns::Namespace;
use headgate_image::progress::Progress;
use headgate_image::stop::Stop;
use headgate_tests::lab::Lab;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::load::Way;
use crate::load::datagrams::{self, PORT};
use crate::report::{Cell, Report, Table, Target};
use crate::setting;
use crate::statistics::Spread;

/// For how long.
#[derive(Debug, Args)]
pub struct Options {
    /// How many rounds; in each every mask has one slice
    #[arg(long, default_value_t = 14)]
    pairs: usize,
    /// How long one mask is tried at a time, milliseconds
    #[arg(long, default_value_t = 800, value_name = "MS")]
    slice: u64,
    /// Only the guest with two igb, or only the veth
    #[arg(long, value_enum)]
    only: Option<Place>,
    /// Take headgated, headgate-init and headgate-bench-guest (static) from here instead of compiling them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Where packets go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    /// A veth of this machine.
    Veth,
    /// Cards of a guest.
    Cards,
}

const MODES: [&str; 2] = ["dnat", "stateless"];
const SERVICE: &str = "172.16.1.1";
const RPS: &str = "/sys/class/net/service/queues/rx-0/rps_cpus";

/// A mask of processors for what is received, and what it is called.
#[derive(Debug, Clone, Copy)]
struct Steering {
    name: &'static str,
    mask: u32,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    rate: f64,
    /// In the slice, for each second of it.
    counted: [f64; 3],
}

/// Measures.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    ensure!(options.pairs > 0 && options.slice > 0, "--pairs and --slice must not be 0");
    let mut report = Report {
        name: "steer",
        setting: setting::describe(&[setting::NFT, setting::QEMU])?,
        tables: Vec::new(),
        targets: Vec::new(),
    };
    if options.only != Some(Place::Cards) {
        veth(options, stop, &mut report)?;
    }
    if options.only != Some(Place::Veth) {
        cards::measure(options, stop, &mut report)?;
    }
    Ok(report)
}

fn veth(options: &Options, stop: &Stop, report: &mut Report) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!((2..=32).contains(&processors), "steering needs 2 to 32 processors, and there are {processors}");
    let all = u32::MAX >> (32 - processors);
    // The first is what the others are compared with, the third what `rps = "auto"` gives a NIC with one queue.
    let steerings = [
        Steering { name: "off", mask: 0 },
        Steering { name: "the NAPI processor itself", mask: 1 },
        Steering { name: "all others (auto)", mask: all & !1 },
        Steering { name: "all, with its own", mask: all },
    ];
    let before = sched_getaffinity(Pid::from_raw(0))?;
    let mut first = CpuSet::new();
    first.set(0)?;
    // The threads that send inherit it.
    sched_setaffinity(Pid::from_raw(0), &first)?;
    let tables = MODES.map(|mode| measure(mode, &steerings, options, stop));
    sched_setaffinity(Pid::from_raw(0), &before)?;
    for (mode, samples) in MODES.into_iter().zip(tables) {
        let samples = samples?;
        let names = steerings.map(|steering| steering.name);
        let table = table(&format!("{mode}, smallest UDP packets, a NIC with one queue"), "RPS to", &names, &samples);
        report.tables.push(table.note(format!(
            "Medians of {} rounds of slices of {} ms, in turns; ratios are taken within a round. Packets that arrive at the backend \
             are counted. The sender has the first processor, which is that of NAPI here. The counters are the whole machine's.",
            options.pairs, options.slice
        )));
        let ratio = ratios(&samples[2], &samples[0]).map_or(0.0, |spread| spread.median);
        let what = format!("packets/s, {mode}, all other processors over none");
        report.targets.push(Target::at_least(what, 1.5, ratio, ""));
    }
    Ok(())
}

/// Samples by steering; the place in the list is the round.
fn measure(mode: &str, steerings: &[Steering], options: &Options, stop: &Stop) -> Result<Vec<Vec<Sample>>> {
    let lab = Lab::new(&format!("steer-{mode}"))?;
    lab.once(&format!(
        "[farms.steer]\nmode = \"{mode}\"\nlisten = \"{SERVICE}:{PORT}/udp\"\nbackends.b1.address = \"172.16.2.11:{PORT}\"\n"
    ))?;
    datagrams::sink(&lab.backends, "eth0")?;
    let way = Way { client: &lab.client, backends: &lab.backends, addresses: vec![SERVICE.parse()?] };
    let progress = Progress::new();
    let mut samples = vec![Vec::new(); steerings.len()];
    for round in 0..options.pairs {
        for turn in 0..steerings.len() {
            stop.check()?;
            // Each round begins with another one, so that none always runs behind the same neighbour.
            let turn = (turn + round) % steerings.len();
            steer(&lab.gate, steerings[turn].mask)?;
            let before = Counters::read()?;
            let outcome = datagrams::run(&way, Duration::from_millis(options.slice))?;
            let counted = Counters::read()?.since(before).per_second(outcome.elapsed.as_secs_f64());
            samples[turn].push(Sample { rate: outcome.rate(), counted });
        }
        progress.line(&format!("{mode}: round {} of {}", round + 1, options.pairs));
    }
    Ok(samples)
}

fn steer(gate: &Namespace, mask: u32) -> Result<()> {
    let mut tee = gate.command("tee").arg(RPS).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    tee.stdin.take().context("it has a pipe")?.write_all(format!("{mask:x}\n").as_bytes())?;
    ensure!(tee.wait()?.success(), "{RPS} does not take {mask:x}");
    Ok(())
}

fn ratios(of: &[Sample], reference: &[Sample]) -> Option<Spread> {
    Spread::of(of.iter().zip(reference).map(|(one, other)| one.rate / other.rate).filter(|ratio| ratio.is_finite()))
}

/// Each row beside the first one.
fn table(title: &str, first: &str, names: &[&str], samples: &[Vec<Sample>]) -> Table {
    let columns = [
        first,
        "packets/s",
        "÷ first",
        "quartiles",
        "function-call interrupts/s",
        "backlog drops/s",
        "time squeezed/s",
    ];
    let mut table = Table::new(title, &columns);
    let median = |values: Vec<f64>, decimals| {
        Spread::of(values).map_or(Cell::Missing, |spread| Cell::Number(spread.median, decimals))
    };
    for (name, of) in names.iter().zip(samples) {
        let ratio = ratios(of, &samples[0]);
        let mut row = vec![Cell::from(*name), median(of.iter().map(|sample| sample.rate).collect(), 0)];
        row.push(ratio.map_or(Cell::Missing, |spread| Cell::Number(spread.median, 2)));
        row.push(ratio.map_or(Cell::Missing, |spread| Cell::Text(format!("{:.2} to {:.2}", spread.low, spread.high))));
        row.extend((0..3).map(|place| median(of.iter().map(|sample| sample.counted[place]).collect(), 0)));
        table.rows.push(row);
    }
    table
}
