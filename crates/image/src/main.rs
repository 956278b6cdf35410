//! `headgate-image`: builds, boots and tries the appliance image.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use headgate_image::build;
use headgate_image::demo::{self, Afterwards};
use headgate_image::netns;
use headgate_image::packages::Refresh;
use headgate_image::progress::Progress;
use headgate_image::qemu::{Accelerator, Firmware, Link, Machine, Options, Serial, Writes};
use headgate_image::source::Source;
use headgate_image::stop::Stop;

/// Builds Headgate's appliance image, boots it in QEMU and tries it out.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the image: a raw disk that BIOS and UEFI boot. Needs no root
    Build(Build),
    /// Boot the image in QEMU with the shape of an SNA 7108
    Boot(Boot),
    /// Build and boot the image between two networks, send HTTP through it and judge what came back (as root)
    Demo(Demo),
}

#[derive(Args)]
struct Build {
    /// Bake the drop-ins (*.toml) of this directory in, as vendor defaults
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Where the image goes [default: build/headgate.img]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The version that the image calls itself
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Take headgated, headgate and headgate-init (static) from here instead of compiling them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Look for newer Debian packages than those in the cache
    #[arg(long)]
    refresh: bool,
}

#[derive(Args)]
struct Boot {
    /// The image [default: build/headgate.img]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Start by UEFI (OVMF) instead of BIOS (SeaBIOS)
    #[arg(long)]
    uefi: bool,
    /// Use the host's processor instead of translating
    #[arg(long)]
    kvm: bool,
    /// Connect the next network card with a tap made in this network namespace (as root); else a user-mode network
    #[arg(long, value_name = "NAMESPACE:DEVICE")]
    tap: Vec<String>,
    /// Hand a drop-in to the guest, as opt/headgate/NAME.toml of fw_cfg
    #[arg(long, value_name = "FILE")]
    drop_in: Vec<PathBuf>,
    /// Where the serial console goes: `stdio`, or the path of a Unix socket to listen on
    #[arg(long, default_value = "stdio", value_name = "stdio|PATH")]
    serial: String,
    /// Forget what the guest writes to its disk
    #[arg(long)]
    snapshot: bool,
}

#[derive(Args)]
struct Demo {
    /// Afterwards leave it up with its console on this terminal; Ctrl-C ends it
    #[arg(long)]
    keep: bool,
    /// Start by UEFI (OVMF) instead of BIOS (SeaBIOS)
    #[arg(long)]
    uefi: bool,
    /// Try this image as it is, instead of building one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headgate-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let source = Source::find()?;
    match verb {
        Verb::Build(arguments) => {
            let standard = build::Options::standard(&source);
            let options = build::Options {
                output: arguments.output.unwrap_or(standard.output),
                version: arguments.version,
                config: arguments.config,
                programs: arguments.programs,
                refresh: if arguments.refresh { Refresh::Ask } else { Refresh::Keep },
            };
            build::build(&source, &options, &Progress::new())
        }
        Verb::Boot(arguments) => boot(&source, arguments),
        Verb::Demo(arguments) => {
            let afterwards = if arguments.keep { Afterwards::Console } else { Afterwards::End };
            let firmware = if arguments.uefi { Firmware::Uefi } else { Firmware::Bios };
            let progress = Progress::new();
            let stop = Stop::on_signals()?;
            let image = match arguments.image {
                Some(image) => image,
                None => {
                    let standard = build::Options::standard(&source);
                    build::build(&source, &standard, &progress)?;
                    standard.output
                }
            };
            stop.check()?;
            demo::run(Options { firmware, ..Options::trial(&image) }, afterwards, &progress, &stop)
        }
    }
}

fn boot(source: &Source, arguments: Boot) -> Result<()> {
    let mut links = Vec::new();
    for tap in &arguments.tap {
        let (space, device) = tap.split_once(':').with_context(|| format!("{tap}: NAMESPACE:DEVICE is needed"))?;
        links.push(Link::Tap(netns::tap_in(space, device)?));
    }
    links.resize_with(links.len().max(2), || Link::User);
    let serial = match arguments.serial.as_str() {
        "stdio" => Serial::Terminal,
        path => Serial::Socket(path.into()),
    };
    let options = Options {
        image: arguments.image.unwrap_or_else(|| source.join("build/headgate.img")),
        firmware: if arguments.uefi { Firmware::Uefi } else { Firmware::Bios },
        accelerator: if arguments.kvm { Accelerator::Kvm } else { Accelerator::Tcg },
        links,
        drop_ins: arguments.drop_in,
        writes: if arguments.snapshot { Writes::Discarded } else { Writes::Kept },
        serial,
    };
    if options.serial == Serial::Terminal {
        eprintln!("The serial console of the appliance. Ctrl-A X ends QEMU.");
    }
    Machine::start(options, &Stop::never())?.wait()
}
