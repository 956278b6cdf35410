//! `headgate-image`: builds, boots and tries the appliance image.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use headgate_image::demo::{self, Afterwards};
use headgate_image::netns;
use headgate_image::packages::{self, Versions};
use headgate_image::progress::Progress;
use headgate_image::qemu::{Accelerator, Firmware, Link, Machine, Options, Processors, Serial, Writes};
use headgate_image::source::Source;
use headgate_image::stop::Stop;
use headgate_image::{binaries, build, bundle, flash, inspect, release};
use headgate_update::target::{self, Target};
use semver::Version;
use serde::Serialize;

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
    /// Compile the static programs of the image, and print the directory that holds them
    Programs,
    /// Bring a Debian package into the cache, unpack it there, and print the directory: nothing is installed
    Package {
        /// Its name
        name: String,
    },
    /// Write the newest package files of the mirror into image/packages.lock, which images are made of
    Lock,
    /// Build what is published: compressed and virtual disks, update file, bill of materials, checksums, and all inputs
    Release(Release),
    /// Make an update file of an image's system, signed
    Bundle(Bundle),
    /// Sign an update file anew, with another key
    Sign(Sign),
    /// Make a pair of keys for updates: NAME.key signs, NAME.pub goes into images (`build --update-key`)
    Key {
        /// Without extension
        name: PathBuf,
    },
    /// Check an update file as a box does that installs it: signature, size and checksum
    Verify(Verify),
    /// Show what is in an image or an update file, or where two images differ
    Inspect(Inspect),
    /// Write the image to a disk or stick, and read it back. Refuses disks that are in use
    Flash(Flash),
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
    /// Take kernel, BusyBox and GRUB from here instead of Debian's packages: what Buildroot has made of buildroot/
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// A public key of minisign whose updates the image takes; may be given several times. Without one it takes none
    #[arg(long, value_name = "NAME.pub")]
    update_key: Vec<PathBuf>,
    /// Take only the package files of image/packages.lock; without it, what the mirror has instead of one that is gone
    #[arg(long)]
    locked: bool,
}

#[derive(Args)]
struct Release {
    /// The secret key that signs the update file; without one there is none
    #[arg(long, value_name = "NAME.key")]
    key: Option<PathBuf>,
    /// A public key of minisign whose updates the image takes; may be given several times
    #[arg(long, value_name = "NAME.pub")]
    update_key: Vec<PathBuf>,
    /// Where it goes; must not exist [default: build/headgate-VERSION]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The version that the image calls itself
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Take headgated, headgate and headgate-init (static) from here instead of compiling them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Take kernel, BusyBox and GRUB from here instead of Debian's packages: what Buildroot has made of buildroot/
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// Print the files with their sizes and checksums as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Bundle {
    /// The image, or the squashfs of a slot [default: build/headgate.img]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Where the update file goes [default: build/headgate.update]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The secret key that signs it, as `headgate-image key` or `minisign -G` makes it
    #[arg(long, value_name = "NAME.key")]
    key: PathBuf,
    /// The oldest version that can be updated with it
    #[arg(long, value_name = "VERSION")]
    minimum_version: Option<Version>,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Sign {
    /// The update file, which is rewritten
    file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "NAME.key")]
    key: PathBuf,
}

#[derive(Args)]
struct Verify {
    /// The update file
    file: PathBuf,
    /// A public key that may have signed it; may be given several times
    #[arg(long, value_name = "NAME.pub", required = true)]
    key: Vec<PathBuf>,
    /// Print what it says as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Inspect {
    /// An image, the squashfs of a slot, or an update file [default: build/headgate.img]
    file: Option<PathBuf>,
    /// A second image: show where the two differ; exit status 1 when they do
    other: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Flash {
    /// The whole disk: /dev/sdX
    device: PathBuf,
    /// The image [default: build/headgate.img]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct Boot {
    /// The image, raw or NAME.qcow2 [default: build/headgate.img]
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
    /// Plug this file in as a USB stick, which the guest can only read
    #[arg(long, value_name = "FILE")]
    stick: Vec<PathBuf>,
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
        Ok(status) => status,
        Err(error) => {
            eprintln!("headgate-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    // What works on finished files needs no source tree, only its defaults do.
    let standard = |path: &str| Ok::<_, anyhow::Error>(Source::find()?.join(path));
    let image = |path: Option<PathBuf>| path.map_or_else(|| standard("build/headgate.img"), Ok);
    match verb {
        Verb::Key { name } => {
            let [secret, public] = bundle::make_key(&name)?;
            eprintln!("{} signs updates: keep it. {} goes into images.", secret.display(), public.display());
        }
        Verb::Bundle(Bundle { image: file, output, key, minimum_version, json }) => {
            let output = output.map_or_else(|| standard("build/headgate.update"), Ok)?;
            let options = bundle::Options { image: image(file)?, output, key, minimum_version };
            let manifest = bundle::make(&options, &Progress::new())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&manifest)?);
            }
        }
        Verb::Sign(Sign { file, key }) => bundle::sign(&file, &key)?,
        Verb::Verify(Verify { file, key, json }) => {
            let verified = bundle::verify(&file, &key)?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&verified)?),
                false => println!("version {}, whole, signed by {}", verified.manifest.version, verified.signed_by),
            }
        }
        Verb::Inspect(Inspect { file, other: None, json }) => show(&inspect::inspect(&image(file)?)?, json)?,
        Verb::Inspect(Inspect { file, other: Some(other), json }) => {
            let difference = inspect::compare(&image(file)?, &other)?;
            show(&difference, json)?;
            return Ok(if difference == inspect::Difference::default() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Verb::Flash(Flash { device, image: file, yes }) => write(&image(file)?, &device, yes)?,
        Verb::Build(arguments) => build_image(arguments)?,
        Verb::Programs => println!("{}", binaries::compile(&Source::find()?, &binaries::PACKAGES)?.display()),
        Verb::Package { name } => {
            let mut store = packages::Store::open(&Source::find()?, Versions::Offered)?;
            println!("{}", store.unpacked(&name)?.display());
        }
        Verb::Lock => {
            let changes = packages::lock(&Source::find()?)?;
            let said = if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join("\n") };
            eprintln!("{said}");
        }
        Verb::Release(arguments) => publish(arguments)?,
        Verb::Boot(arguments) => boot(image(arguments.image.clone())?, arguments)?,
        Verb::Demo(arguments) => demonstrate(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(report: &(impl Serialize + std::fmt::Display), json: bool) -> Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(report)?),
        false => print!("{report}"),
    }
    Ok(())
}

fn write(image: &Path, device: &Path, yes: bool) -> Result<()> {
    let needed = flash::size(image)?;
    let target = Target::look(Path::new("/"), device, needed)?;
    target.check()?;
    if !yes {
        target::ask(&target, &mut std::io::stdin().lock(), &mut std::io::stderr())?;
    }
    flash::write(image, &target.device)?;
    eprintln!("{} holds {} and gives it back as it was written", target.device.display(), image.display());
    Ok(())
}

fn build_image(arguments: Build) -> Result<()> {
    let source = Source::find()?;
    let standard = build::Options::standard(&source);
    let options = build::Options {
        output: arguments.output.unwrap_or(standard.output),
        version: arguments.version,
        config: arguments.config,
        programs: arguments.programs,
        parts: arguments.parts,
        update_keys: arguments.update_key,
        versions: if arguments.locked { Versions::Locked } else { Versions::Offered },
    };
    build::build(&source, &options, &Progress::new())
}

fn publish(arguments: Release) -> Result<()> {
    let source = Source::find()?;
    let Release { key, update_key: update_keys, output, version, programs, parts, json } = arguments;
    let output = output.unwrap_or_else(|| source.join(format!("build/headgate-{version}")));
    let options = release::Options { output, version, key, update_keys, programs, parts };
    let files = release::make(&source, &options, &Progress::new())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&files)?);
    }
    Ok(())
}

fn demonstrate(arguments: Demo) -> Result<()> {
    let afterwards = if arguments.keep { Afterwards::Console } else { Afterwards::End };
    let firmware = if arguments.uefi { Firmware::Uefi } else { Firmware::Bios };
    let progress = Progress::new();
    let stop = Stop::on_signals()?;
    let image = match arguments.image {
        Some(image) => image,
        None => {
            let source = Source::find()?;
            let standard = build::Options::standard(&source);
            build::build(&source, &standard, &progress)?;
            standard.output
        }
    };
    stop.check()?;
    demo::run(Options { firmware, ..Options::trial(&image) }, afterwards, &progress, &stop)
}

fn boot(image: PathBuf, arguments: Boot) -> Result<()> {
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
        image,
        firmware: if arguments.uefi { Firmware::Uefi } else { Firmware::Bios },
        accelerator: if arguments.kvm { Accelerator::Kvm } else { Accelerator::Tcg },
        processors: Processors::Sna7108,
        links,
        drop_ins: arguments.drop_in,
        writes: if arguments.snapshot { Writes::Discarded } else { Writes::Kept },
        disks: Vec::new(),
        targets: Vec::new(),
        sticks: arguments.stick,
        serial,
        memory: None,
        clock: None,
    };
    if options.serial == Serial::Terminal {
        eprintln!("The serial console of the appliance. Ctrl-A X ends QEMU.");
    }
    Machine::start(options, &Stop::never())?.wait()
}
