//! `headgate-bench icount`: instructions per packet, per new flow and per TCP connection, without noise.
//!
//! A small guest runs in QEMU with `-icount shift=0`, where the time stamp counter counts instructions. What it counts
//! depends on nothing that the host does: two runs print the same figures, so one percent more is a fact and can be a gate.
//! It is the length of the path and nothing else: no cache misses, no contention, one processor.
//!
//! `variants` says what is measured: what `headgated --once` writes into the kernel, beside `peers`. `ramdisk` packs the guest
//! (`headgate-bench-guest` is its init), `machine` runs it, `figures` makes sense of what it says and `expected` compares
//! that with the committed medians. `profile` names the functions in which a phase's instructions are spent.

mod expected;
mod figures;
pub(crate) mod machine;
mod peers;
mod profile;
pub(crate) mod ramdisk;
mod variants;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use headgate_bench_guest::plan::{Plan, Variant};
use headgate_image::progress::Progress;
use headgate_image::source::Source;
use headgate_image::stop::Stop;

use crate::report::Report;
use expected::Expected;
use figures::Figures;
use ramdisk::{Ramdisk, Ready};
use variants::Row;

/// What to count, and what to do with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  headgate-bench icount --list                     the variants
  headgate-bench icount --variants snat,ipvs-nat   these, with 1 and with 10,000 farms
  headgate-bench icount --check                    all, compared with tests/bench/icount.toml
  headgate-bench icount --bless                    all, into tests/bench/icount.toml
  headgate-bench icount --profile snat@1           the kernel functions behind the figures of a variant
  headgate-bench icount --parts DIR --write        the kernel of a production image, compared with the committed figures
  headgate-bench icount --ruleset try.nft          only rules of your own, beside routing: clients are behind l0 and send to
                                                   10.9.0.1:80, backends are 10.0.2.11:80 and 10.0.2.12:80 behind l1")]
pub struct Options {
    /// Only these: names with or without the number of farms behind the @
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    variants: Vec<String>,
    /// Print the names of the variants and end
    #[arg(long, conflicts_with_all = ["check", "bless", "profile"])]
    list: bool,
    /// Fail when a figure is over the committed one: by 1 % (established), 2 % (new flow) or 0.25 % (a whole TCP connection)
    #[arg(long)]
    check: bool,
    /// Replace the committed figures by these
    #[arg(long, conflicts_with = "check")]
    bless: bool,
    /// Print where the instructions of a variant go, per kernel function, and end
    #[arg(long, value_name = "NAME", conflicts_with_all = ["check", "bless", "variants"])]
    profile: Option<String>,
    /// Count rules of your own, for nft(8); the variant is called like the file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "bless", "profile"])]
    ruleset: Vec<PathBuf>,
    /// Take headgated, headgate-init and headgate-bench-guest (static) from here instead of compiling them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "bless"])]
    programs: Option<PathBuf>,
    /// Count with the kernel of these parts of a production image (docs/buildroot.md), and compare with the committed figures
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "bless"])]
    parts: Option<PathBuf>,
}

/// Counts.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    if options.list {
        return Ok(figures::list(&variants::all()));
    }
    let source = Source::find()?;
    let progress = Progress::new();
    let rows = chosen(options)?;
    let plan =
        Plan { variants: rows.iter().map(Row::variant).collect(), profile: options.profile.is_some(), cards: false };
    let ready = Ready { programs: options.programs.as_deref(), parts: options.parts.as_deref() };
    let ramdisk = progress.step("guest", || {
        let ramdisk = Ramdisk::build(&source, &plan, ready, &[])?;
        let release = ramdisk.setting.kernel.clone();
        Ok((ramdisk, release))
    })?;
    if options.profile.is_some() {
        return profile::run(&ramdisk, stop);
    }
    let measured = machine::measure(&ramdisk, &progress, stop)?;
    let figures = Figures::new(&measured)?;
    let whole = options.variants.is_empty() && options.ruleset.is_empty();
    if options.check {
        Expected::read(&source)?.check(&ramdisk.setting, &figures, whole)?;
        progress.line("no figure is worse than the committed one");
    }
    if options.bless {
        ensure!(whole, "--bless wants all variants: those before one in a run move its figures a little");
        Expected::new(&ramdisk.setting, &figures).write(&source)?;
    }
    if options.parts.is_some() {
        return Ok(figures::beside(&ramdisk.setting, &rows, &figures, &Expected::read(&source)?));
    }
    Ok(figures::report(&ramdisk.setting, &rows, &figures))
}

/// What the guest can be set up with, for a measurement that counts nothing.
pub(crate) fn variants() -> Vec<Variant> {
    variants::all().iter().map(Row::variant).collect()
}

/// The rows that were asked for, with those that the others are compared with.
fn chosen(options: &Options) -> Result<Vec<Row>> {
    let mut rows = variants::all();
    if options.parts.is_some() {
        rows.retain(|row| !row.is_ipvs());
    }
    let own = options.ruleset.iter().map(|path| {
        let name = path.file_stem().with_context(|| format!("{} is no file", path.display()))?;
        let rules = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Row::own(&name.to_string_lossy(), rules))
    });
    let own: Vec<Row> = own.collect::<Result<_>>()?;
    let wanted: Vec<&str> = match &options.profile {
        Some(name) => vec![name],
        None => options.variants.iter().map(String::as_str).collect(),
    };
    if wanted.is_empty() && own.is_empty() {
        return Ok(rows);
    }
    for &name in &wanted {
        ensure!(rows.iter().any(|row| row.answers_to(name)), "there is no variant {name:?}: see --list");
    }
    let base = |row: &Row| options.profile.is_none() && row.is_base();
    rows.retain(|row| base(row) || wanted.iter().any(|name| row.answers_to(name)));
    rows.extend(own);
    Ok(rows)
}
