//! `headgate-bench`: which measurement to run, and what to do with its report.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use headgate_bench::report::Report;
use headgate_bench::{boot, consistency, control, dataplane, icount, image, paper, steer};
use headgate_image::stop::Stop;

/// Measures Headgate beside its peers.
///
/// Everything happens in network namespaces that are gone afterwards; root is needed to make them. Build with --release:
/// the programs that are measured are built in the same profile.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  headgate-bench dataplane                      requests, packets and bytes through all engines
  headgate-bench dataplane --variants headgate-snat,nftlb-snat --loads close --rounds 20
  headgate-bench control                        how long farms take to load and to change
  headgate-bench control --sizes 10000x4        only this size
  headgate-bench control --write                also put the figures into docs/benchmarks.md
  headgate-bench boot                           the image from its kernel's start to its first packet
  headgate-bench icount --check                 fail when a packet takes more instructions than committed"
)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Put the tables into their section of docs/benchmarks.md
    #[arg(long, global = true)]
    write: bool,
}

#[derive(Subcommand)]
enum What {
    /// Requests, packets and bytes through Headgate and its peers, side by side
    Dataplane(dataplane::Options),
    /// Loading, replacing and changing farms: time and memory
    Control(control::Options),
    /// wrk, 10 threads, 360 connections, 30 s: what others publish
    Paper(paper::Options),
    /// HTTP through a guest with the image's kernel: IPVS and flowtables beside farms
    Image(image::Options),
    /// An image from its kernel's start to the first packet that it forwards
    Boot(boot::Options),
    /// Instructions per packet, flow and connection, without noise
    Icount(icount::Options),
    /// Who moves when backends come and go, how fair the schedulers are, and a connection's memory
    Consistency(consistency::Options),
    /// Packets through a NIC with one queue, by the processors that it is steered to
    Steer(steer::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headgate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    // Counting happens in a guest, which has namespaces of its own.
    let counts = matches!(arguments.what, What::Icount(_));
    ensure!(counts || nix::unistd::geteuid().is_root(), "network namespaces need root: run this as root");
    let stop = Stop::on_signals()?;
    let report = match arguments.what {
        What::Dataplane(options) => dataplane::run(&options, &stop)?,
        What::Consistency(options) => consistency::run(&options, &stop)?,
        What::Control(options) => control::run(&options, &stop)?,
        What::Paper(options) => paper::run(&options, &stop)?,
        What::Image(options) => image::run(&options, &stop)?,
        What::Boot(options) => boot::run(&options, &stop)?,
        What::Icount(options) => icount::run(&options, &stop)?,
        What::Steer(options) => steer::run(&options, &stop)?,
    };
    show(&report, arguments.json)?;
    if arguments.write {
        report.write()?;
    }
    Ok(())
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        println!("## {}\n\n{}", report.name, report.markdown());
    }
    Ok(())
}
