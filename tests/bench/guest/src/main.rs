//! `/init` of the guest.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use headgate_bench_guest::cards::Cards;
use headgate_bench_guest::counters::Counters;
use headgate_bench_guest::machine;
use headgate_bench_guest::network::{self, Network};
use headgate_bench_guest::packets::Sender;
use headgate_bench_guest::plan::{PLAN, Phase, Plan, Report, Variant};
use headgate_bench_guest::tcp;

fn main() -> ExitCode {
    if let Err(error) = run() {
        Report::Trouble { variant: "guest".to_owned(), what: format!("{error:#}") }.print();
    }
    machine::stop();
    // As the first process this is a kernel panic, and QEMU ends as well.
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    machine::start()?;
    let plan: Plan = serde_json::from_str(&std::fs::read_to_string(PLAN)?).context("the plan is damaged")?;
    if plan.profile {
        machine::symbols()?;
    }
    for variant in &plan.variants {
        let done = if plan.cards { stand(variant) } else { measure(variant, plan.profile) };
        if let Err(error) = done {
            Report::Trouble { variant: variant.name.clone(), what: format!("{error:#}") }.print();
        }
        // What the kernel does about deleted namespaces happens now, not in the next variant.
        std::thread::sleep(Duration::from_secs(1));
    }
    Report::Done.print();
    Ok(())
}

fn measure(variant: &Variant, profile: bool) -> Result<()> {
    let network = Network::create(variant.reach)?;
    set_up(variant)?;
    Sender::new(&network, variant, profile)?.run()?;
    if variant.phases.contains(&Phase::Tcp) {
        tcp::run(&network, variant)?;
    }
    clean_up(variant)
}

/// Is the balancer until the host says that it is enough.
fn stand(variant: &Variant) -> Result<()> {
    let _cards = Cards::create()?;
    set_up(variant)?;
    let before = Counters::read()?;
    Report::Ready { variant: variant.name.clone() }.print();
    std::io::Read::read_exact(&mut std::io::stdin(), &mut [0])?;
    Report::Counted { variant: variant.name.clone(), counters: Counters::read()?.since(before) }.print();
    clean_up(variant)
}

fn set_up(variant: &Variant) -> Result<()> {
    for (path, text) in &variant.files {
        let directory = std::path::Path::new(path).parent().context("a file lies in a directory")?;
        std::fs::create_dir_all(directory)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {path}"))?;
    }
    variant.commands.iter().try_for_each(network::command)?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn clean_up(variant: &Variant) -> Result<()> {
    for path in variant.files.keys() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
