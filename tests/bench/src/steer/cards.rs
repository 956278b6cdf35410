//! The same on network cards: a guest with three processors between two igb, with the driver's own settings, with irqbalance, and
//! tuned; then with a single queue for each card, and RPS of the card towards clients by several masks.
//!
//! The guest is that of [`crate::icount`], without the counter. Each of its processors is a thread of QEMU's, which translates: what
//! one processor does is slow enough to be what packets wait for, as long as this machine has processors for all of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use headgate_bench_guest::plan::{Command, Plan, Reach, Report as Word, Targets, Variant};
use headgate_image::netns::Namespace;
use headgate_image::progress::Progress;
use headgate_image::source::Source;
use headgate_image::stop::Stop;

use super::{Options, Sample, ratios, table};
use crate::icount::machine::Machine;
use crate::icount::ramdisk::{Ramdisk, Ready};
use crate::load::datagrams::{self, BATCH, PORT};
use crate::load::{Outcome, Way};
use crate::report::{Report, Target};

/// One for each card, and one beside.
const PROCESSORS: usize = 3;
/// Packets a second: more than the guest forwards, and what costs the sender little of a processor.
const OFFERED: u32 = 100_000;
/// For the first packet to come through.
const PATIENCE: Duration = Duration::from_secs(30);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const BACKEND: &str = "10.0.2.11";
const TOOLS: [&str; 2] = ["busybox", "irqbalance"];
const PROFILE: &str = "hwprofiles/generic.toml";

/// How the guest's cards are set up.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    name: &'static str,
    /// In the configuration.
    hardware: &'static str,
    /// A shell's line, behind it.
    by_hand: &'static str,
}

/// Each is compared with the first one of its table.
const WHOLE: [Tuning; 3] = [
    Tuning { name: "the driver's own", hardware: NONE, by_hand: "" },
    Tuning { name: "irqbalance", hardware: NONE, by_hand: IRQBALANCE },
    Tuning { name: "tuned (generic)", hardware: "", by_hand: "" },
];
const ONE_QUEUE: [Tuning; 4] = [
    Tuning { name: "off", hardware: ONE_UNSTEERED, by_hand: "" },
    Tuning { name: "the NAPI processor itself", hardware: ONE_UNSTEERED, by_hand: "echo 1 > $RPS" },
    Tuning { name: "all others (auto)", hardware: ONE, by_hand: "" },
    Tuning { name: "all, with its own", hardware: ONE_UNSTEERED, by_hand: "echo 7 > $RPS" },
];
const NONE: &str = "profile = \"none\"\n";
const ONE: &str = "[hardware.overrides]\nqueues = 1\n";
const ONE_UNSTEERED: &str = "[hardware.overrides]\nqueues = 1\nrps = \"off\"\n";
/// In the first process's namespaces: one that it held would keep the cards when the variant is over.
const IRQBALANCE: &str = "busybox nsenter -t 1 -m -n irqbalance --interval=1";
/// Nothing of the variant before is left, whose cards these were under the same names.
const BEFORE: &str = "set -e\nbusybox killall -q irqbalance || :\nheadgated --flush >/dev/null\nheadgated --once >/dev/null\n\
                      RPS=/sys/class/net/l0/queues/rx-0/rps_cpus\n";

/// Measures both tables.
pub(super) fn measure(options: &Options, stop: &Stop, report: &mut Report) -> Result<()> {
    let (source, progress) = (Source::find()?, Progress::new());
    let profile = std::fs::read_to_string(source.join(PROFILE)).context(PROFILE)?;
    let tunings: Vec<Tuning> = WHOLE.into_iter().chain(ONE_QUEUE).collect();
    let variants = (0..options.pairs).flat_map(|_| tunings.iter().map(|tuning| variant(*tuning, &profile))).collect();
    let plan = Plan { variants, profile: false, cards: true };
    let ready = Ready { programs: options.programs.as_deref(), ..Ready::default() };
    let ramdisk = Ramdisk::build(&source, &plan, ready, &TOOLS)?;
    report.setting.push(("guest kernel".to_owned(), ramdisk.setting.kernel.clone()));
    let (client, backends, taps) = networks()?;
    let way = Way { client: &client, backends: &backends, addresses: vec![SERVICE.into()] };
    let mut machine = Machine::start_with_cards(&ramdisk, stop, &taps, PROCESSORS)?;
    let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    let mut outcome = None;
    loop {
        match machine.report()? {
            Word::Ready { variant } => {
                let begin = Instant::now();
                let one = slice(&way, Duration::from_millis(options.slice), stop).with_context(|| variant.clone())?;
                outcome = Some((one, begin.elapsed()));
                machine.go_on()?;
            }
            Word::Counted { variant, counters } => {
                let (outcome, since) = outcome.take().context("counted before it was measured")?;
                // The packets that asked for neighbours are among those that were counted.
                let sample = Sample { rate: outcome.rate(), counted: counters.per_second(since.as_secs_f64()) };
                let of = samples.entry(variant.clone()).or_default();
                of.push(sample);
                progress.line(&format!("round {} of {}: {variant}", of.len(), options.pairs));
            }
            Word::Trouble { variant, what } => bail!("{variant}: {what}"),
            Word::Done => break,
            Word::Up { .. } | Word::Measured(_) | Word::Pause { .. } | Word::Symbol { .. } => {}
        }
    }
    show(options, &samples, report);
    Ok(())
}

/// The first packets ask for neighbours, and links come up.
fn slice(way: &Way<'_>, slice: Duration, stop: &Stop) -> Result<Outcome> {
    let interval = Duration::from_secs(1) * BATCH as u32 / OFFERED;
    let begin = Instant::now();
    while let Err(error) = datagrams::run_at(way, slice / 4, interval) {
        stop.check()?;
        if begin.elapsed() > PATIENCE {
            return Err(error);
        }
    }
    datagrams::run_at(way, slice, interval)
}

fn show(options: &Options, samples: &BTreeMap<String, Vec<Sample>>, report: &mut Report) {
    let of = |tunings: &[Tuning]| -> Vec<Vec<Sample>> {
        tunings.iter().map(|tuning| samples.get(tuning.name).cloned().unwrap_or_default()).collect()
    };
    let note = format!(
        "A guest of {PROCESSORS} processors that QEMU translates, between two igb; {} rounds of slices of {} ms, each with cards that \
         were set up anew, in turns. {OFFERED} packets a second of 64 flows are sent, those that arrive at the backend are counted. \
         The counters are the guest's.",
        options.pairs, options.slice
    );
    let (whole, one) = (of(&WHOLE), of(&ONE_QUEUE));
    let title = "dnat, smallest UDP packets, two igb";
    report.tables.push(table(title, "cards", &WHOLE.map(|tuning| tuning.name), &whole).note(note.clone()));
    let title = "dnat, smallest UDP packets, two igb with one queue each";
    report.tables.push(table(title, "RPS to", &ONE_QUEUE.map(|tuning| tuning.name), &one).note(note));
    let ratio = ratios(&one[2], &one[0]).map_or(0.0, |spread| spread.median);
    let what = "packets/s, igb with one queue, all other processors over none";
    report.targets.push(Target::at_least(what, 1.0, ratio, ""));
}

fn variant(tuning: Tuning, profile: &str) -> Variant {
    let farm = format!(
        "[farms.steer]\nmode = \"dnat\"\nlisten = \"{SERVICE}:{PORT}/udp\"\naddress.interface = \"l0\"\n\
         backends.b1.address = \"{BACKEND}:{PORT}\"\n[network.interfaces.l0]\n[network.interfaces.l1]\n[hardware]\n{}",
        tuning.hardware
    );
    let files =
        [("/etc/headgate/headgate.toml", farm), ("/usr/lib/headgate/hwprofiles/generic.toml", profile.to_owned())];
    let script = format!("{BEFORE}{}", tuning.by_hand);
    Variant {
        name: tuning.name.to_owned(),
        files: files.map(|(path, text)| (path.to_owned(), text)).into(),
        commands: vec![Command {
            line: ["busybox", "sh", "-c", &script].map(str::to_owned).into(),
            input: String::new(),
        }],
        targets: Targets { first: SERVICE, count: 1 },
        phases: Vec::new(),
        reach: Reach::Backend,
    }
}

/// Those of the client and of the backend, and the taps for the guest, in the order of its cards.
fn networks() -> Result<(Namespace, Namespace, [OwnedFd; 2])> {
    let (client, backends) = (Namespace::create("steer-c")?, Namespace::create("steer-b")?);
    let taps = [client.tap("c0")?, backends.tap("b0")?];
    client.ip(&["address", "add", "10.0.1.2/24", "dev", "c0"])?;
    client.ip(&["route", "add", "default", "via", "10.0.1.1"])?;
    backends.ip(&["address", "add", &format!("{BACKEND}/24"), "dev", "b0"])?;
    backends.ip(&["route", "add", "default", "via", "10.0.2.1"])?;
    datagrams::sink(&backends, "b0")?;
    Ok((client, backends, taps))
}
