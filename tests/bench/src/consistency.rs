//! How steadily and how fairly clients are spread: who moves when a backend leaves, comes back, or nothing happens at all,
//! by real packets of many clients; and what a connection takes of the kernel's memory.

pub mod balancer;
pub mod crowd;
pub mod memory;

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_image::progress::Progress;
use headgate_image::stop::Stop;

use crate::report::{Cell, Report, Table, Target};
use crate::setting;
use crate::statistics::chi_square;
use balancer::{Balancer, Picker};
use crowd::Placement;

/// How many clients.
#[derive(Debug, Args)]
pub struct Options {
    /// Clients, each with an address of its own
    #[arg(long, default_value_t = 100_000)]
    clients: u32,
}

/// Backends of the farm; the one that leaves is [`LEAVING`].
const BACKENDS: usize = 10;
const LEAVING: u8 = 4;
const EQUAL: [u32; BACKENDS] = [1; BACKENDS];
const WEIGHTS: [u32; BACKENDS] = [1, 1, 1, 2, 2, 2, 3, 3, 4, 5];
/// Of 9 degrees of freedom: fair chance exceeds this once in a hundred times.
const CHI_SQUARE_LIMIT: f64 = 21.67;

/// All pickers, in the order of the table.
const PICKERS: [(&str, Picker); 5] = [
    ("round-robin", Picker::Headgate("scheduler = \"round-robin\"")),
    ("random", Picker::Headgate("scheduler = \"random\"")),
    ("hash of the source address", Picker::Headgate("scheduler = \"hash\"\nhash = [\"source-address\"]")),
    ("maglev", Picker::Headgate("scheduler = \"maglev\"\nhash = [\"source-address\"]")),
    ("nftlb: hash of the source address", Picker::NftlbHash),
];

/// What one picker did.
#[derive(Debug)]
struct Figures {
    /// New flows of clients that moved when the same configuration was applied again.
    moved_by_nothing: f64,
    /// Of the clients of the other backends, when one of ten left.
    moved_by_leaving: f64,
    /// Of all clients, once it was back, against the beginning.
    moved_by_return: f64,
    /// Flows from the beginning that are elsewhere at the end, of those whose backend never left.
    open_flows_moved: f64,
    fair: f64,
    fair_weights: f64,
}

/// Measures.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    ensure!(options.clients >= 1000, "shares of fewer than 1,000 clients say nothing");
    let setting = setting::describe(&[setting::NFT, setting::NFTLB])?;
    let columns = [
        "scheduler",
        "moved by a reload of the same, %",
        "survivors moved when 1 of 10 leaves, %",
        "moved after its return, %",
        "open flows moved, %",
        "χ², equal weights",
        "χ², weights 1 to 5",
    ];
    let title = format!("Where the new flows of {} clients go", options.clients);
    let mut table = Table::new(title, &columns).note(format!(
        "Each client sends one UDP packet in each phase, as a flow of its own; farms in mode dnat, so that backends see who it \
         was. Round-robin and random pick anew for each flow: nobody stays, and nobody moves. χ² has {} degrees of freedom: \
         chance alone exceeds {CHI_SQUARE_LIMIT} once in a hundred times, and 0 is a share that is exact. Open flows are those \
         of the first phase, asked again at the very end, of clients whose backend never left.",
        BACKENDS - 1
    ));
    let (mut targets, progress) = (Vec::new(), Progress::new());
    for (name, picker) in PICKERS {
        stop.check()?;
        let figures = measure(picker, options.clients).with_context(|| name.to_owned())?;
        let percent = |share| Cell::Number(share * 100.0, 2);
        let steady = [figures.moved_by_nothing, figures.moved_by_leaving, figures.moved_by_return].map(percent);
        let mut row = vec![name.into()];
        row.extend(if picker.remembers() { steady } else { [Cell::Missing, Cell::Missing, Cell::Missing] });
        row.push(percent(figures.open_flows_moved));
        row.extend([figures.fair, figures.fair_weights].map(|value| Cell::Number(value, 1)));
        table.rows.push(row);
        targets.extend(targets_of(name, &figures));
        progress.line(name);
    }
    let memory = memory::table(options.clients.min(memory::FLOWS_MAX), stop)?;
    progress.line("memory");
    Ok(Report { name: "consistency", setting, tables: vec![table, memory], targets })
}

fn measure(picker: Picker, clients: u32) -> Result<Figures> {
    let mut balancer = Balancer::new(picker, clients, BACKENDS)?;
    balancer.balance(&EQUAL)?;
    let first = balancer.place(0)?;
    balancer.balance(&EQUAL)?;
    let again = balancer.place(1)?;
    let mut without = EQUAL;
    without[usize::from(LEAVING)] = 0;
    balancer.balance(&without)?;
    let left = balancer.place(2)?;
    balancer.balance(&EQUAL)?;
    let back = balancer.place(3)?;
    let open = balancer.place(0)?;
    balancer.balance(&WEIGHTS)?;
    let weighted = balancer.place(4)?;
    let survivor = |backend: u8| backend != LEAVING;
    Ok(Figures {
        moved_by_nothing: moved(&first, &again, |_| true),
        moved_by_leaving: moved(&first, &left, survivor),
        moved_by_return: moved(&first, &back, |_| true),
        open_flows_moved: moved(&first, &open, survivor),
        fair: chi_square(&counts(&first), &EQUAL),
        fair_weights: chi_square(&counts(&weighted), &WEIGHTS),
    })
}

/// Of the clients whose first backend counts, the share that is elsewhere afterwards.
fn moved(before: &Placement, after: &Placement, counts: impl Fn(u8) -> bool) -> f64 {
    let pairs: Vec<(&u8, &u8)> = before.iter().zip(after).filter(|(before, _)| counts(**before)).collect();
    pairs.iter().filter(|(before, after)| before != after).count() as f64 / pairs.len().max(1) as f64
}

fn counts(placement: &Placement) -> [u64; BACKENDS] {
    let mut counts = [0; BACKENDS];
    for backend in placement {
        counts[usize::from(*backend)] += 1;
    }
    counts
}

fn targets_of(name: &str, figures: &Figures) -> Vec<Target> {
    let consistent = matches!(name, "maglev" | "hash of the source address");
    let mut targets = Vec::new();
    if consistent {
        let moved = figures.moved_by_nothing * 100.0;
        targets.push(Target::at_most(format!("{name}: clients moved by a reload of the same"), 0.0, moved, "%"));
    }
    if name == "maglev" {
        let moved = figures.moved_by_leaving * 100.0;
        targets.push(Target::at_most("maglev: survivors moved when 1 of 10 leaves", 2.0, moved, "%"));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_count_move() {
        let (before, after) = (vec![0, 1, 4, 2], vec![0, 3, 1, 2]);
        assert_eq!(moved(&before, &after, |_| true), 0.5);
        assert_eq!(moved(&before, &after, |backend| backend != LEAVING), 1.0 / 3.0);
        assert_eq!(counts(&before), [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]);
    }
}
