//! How long an image takes from its kernel's start to the first packet that it forwards, in QEMU, in turns with others.
//!
//! The time is the guest's own. It says itself on its serial port how old its kernel is (`headgate-init 2.60 initramfs`); a
//! line comes late but never early, so the least difference between its arrival here and what it says is the kernel's start
//! by our clock, and the arrival of a packet at the backend can be told in the guest's time. With two processors that QEMU
//! translates side by side both clocks run alike.
//!
//! The client sends a datagram every few milliseconds from before the power is on, so no retry of a protocol's is measured.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_image::demo::write_drop_in;
use headgate_image::netns::Namespace;
use headgate_image::progress::Progress;
use headgate_image::qemu::{self, Link, Machine, Options as Guest, Processors};
use headgate_image::source::Source;
use headgate_image::stop::Stop;
use serde::Deserialize;

use crate::processors::Workers;
use crate::report::{Cell, Report, Table, Target};
use crate::setting;
use crate::statistics::Spread;

/// Which images, and how often.
#[derive(Debug, Args)]
pub struct Options {
    /// An image, build/headgate.img without this; given several times, they are booted in turns
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Another system's image, which the times are compared with
    #[arg(long, value_name = "FILE", requires = "until")]
    against: Option<PathBuf>,
    /// That system is up when its serial port says "WORD SECONDS TEXT" with this text, SECONDS being its kernel's age
    #[arg(long, value_name = "TEXT", requires = "against")]
    until: Option<String>,
    /// How many times each is booted
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// What the guest is told, by fw_cfg.
const DROP_IN: &str = r#"[network.interfaces.service]
match = { driver = "igb", index = 0 }
addresses = ["172.16.1.1/24"]

[network.interfaces.backend]
match = { driver = "igb", index = 1 }
addresses = ["172.16.2.1/24"]

[farms.first]
listen = "172.16.1.1:4711/udp"
backends.b1.address = "172.16.2.11:4711"
"#;
const SERVICE: &str = "172.16.1.1:4711";
const BACKEND: &str = "172.16.2.11:4711";
/// No runt: QEMU's igb counts frames of less than 60 bytes from a tap as damaged.
const DATAGRAM: [u8; 64] = [0; 64];
/// Between two datagrams: how exact the result is.
const PAUSE: Duration = Duration::from_millis(5);
const BOOT: Duration = Duration::from_secs(120);
/// How often a boot may be tried again that QEMU broke off, see [`Machine::start`].
const RETRIES: usize = 3;
/// What the design asks for, when there is something to compare with.
const LIMIT: f64 = 0.67;

/// One boot.
#[derive(Debug)]
struct Sample {
    /// From the kernel's start to the first packet, or to what the other system says; s of the guest.
    seconds: f64,
    /// Of QEMU, until then.
    processor: Duration,
    /// Since QEMU was started.
    power_on: Duration,
    milestones: Vec<Milestone>,
}

/// A line of `headgate boot-times --json`.
#[derive(Debug, Deserialize)]
struct Milestone {
    seconds: f64,
    what: String,
}

/// What is booted, and its samples in the order of the rounds.
struct Contestant {
    name: String,
    image: PathBuf,
    /// The text that ends the boot of another system.
    until: Option<String>,
    samples: Vec<Sample>,
}

/// Measures.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    ensure!(options.rounds > 0, "--rounds must not be 0");
    let mut contestants = contestants(options)?;
    let progress = Progress::new();
    for round in 1..=options.rounds {
        for contestant in &mut contestants {
            let sample = patiently(contestant, &progress, stop)?;
            progress.line(&format!("round {round}: {}, {:.2} s", contestant.name, sample.seconds));
            contestant.samples.push(sample);
        }
    }
    let setting = setting::describe(&[setting::QEMU])?;
    let mut tables = vec![beside(&contestants, options.rounds)];
    tables.extend(contestants.iter().filter(|contestant| contestant.until.is_none()).map(steps));
    Ok(Report { name: "boot", setting, tables, targets: targets(&contestants) })
}

fn contestants(options: &Options) -> Result<Vec<Contestant>> {
    let standard = [Source::find()?.join("build/headgate.img")];
    let images = if options.images.is_empty() { &standard[..] } else { &options.images[..] };
    let others = options.against.iter().map(|image| (image, options.until.clone()));
    let all = others.chain(images.iter().map(|image| (image, None)));
    let contestants: Vec<Contestant> = all
        .map(|(image, until)| {
            let name = image.file_name().unwrap_or_default().display().to_string();
            Contestant { name, image: image.clone(), until, samples: Vec::new() }
        })
        .collect();
    let named: std::collections::BTreeSet<&str> = contestants.iter().map(|one| one.name.as_str()).collect();
    ensure!(named.len() == contestants.len(), "two images have the same file name, and are called by it in the tables");
    Ok(contestants)
}

/// A boot; one that QEMU broke off is said and done again.
fn patiently(contestant: &Contestant, progress: &Progress, stop: &Stop) -> Result<Sample> {
    let mut tries = 0;
    loop {
        match boot(contestant, stop) {
            Err(error) if tries < RETRIES && error.to_string().contains("QEMU ended") => {
                progress.line(&format!("{}, once more: {error:#}", contestant.name));
                tries += 1;
            }
            done => return done.with_context(|| contestant.name.clone()),
        }
        stop.check()?;
    }
}

fn boot(contestant: &Contestant, stop: &Stop) -> Result<Sample> {
    let (client, backend) = (Namespace::create("boot-c")?, Namespace::create("boot-b")?);
    let links = vec![Link::Tap(client.tap("service")?), Link::Tap(backend.tap("backend")?)];
    client.ip(&["address", "add", "172.16.1.2/24", "dev", "service"])?;
    // No address resolution of the client's, with its second between two tries, is in the way.
    let known = ["neighbour", "add", "172.16.1.1", "lladdr", &qemu::address(0), "dev", "service", "nud", "permanent"];
    client.ip(&known)?;
    backend.ip(&["address", "add", "172.16.2.11/24", "dev", "backend"])?;
    let sender =
        client.within(|| UdpSocket::bind("172.16.1.2:0").and_then(|it| it.connect(SERVICE).map(|()| it)))??;
    let receiver = backend.within(|| UdpSocket::bind(BACKEND))??;
    receiver.set_read_timeout(Some(BOOT))?;
    let directory = tempfile::Builder::new().prefix("headgate-boot-").tempdir()?;
    let drop_ins = vec![write_drop_in(directory.path(), "10-first.toml", DROP_IN)?];
    let guest = Guest { processors: Processors::Pair, links, drop_ins, ..Guest::trial(&contestant.image) };

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // The cable has nobody at its other end yet.
                let _ = sender.send(&DATAGRAM);
                std::thread::sleep(PAUSE);
            }
        });
        let sample = Machine::start(guest, stop).and_then(|machine| measure(machine, contestant, &receiver));
        over.store(true, Ordering::Relaxed);
        sample
    })
}

fn measure(mut machine: Machine, contestant: &Contestant, receiver: &UdpSocket) -> Result<Sample> {
    let qemu = Workers::one(machine.pid())?;
    if let Some(until) = &contestant.until {
        let (_, seconds) = follow(&mut machine, until)?;
        return Ok(Sample { seconds, processor: qemu.time()?, power_on: machine.uptime(), milestones: Vec::new() });
    }
    let (kernel, _) = follow(&mut machine, "ready")?;
    receiver.recv(&mut [0; 16]).with_context(|| format!("no packet came through:\n{}", machine.transcript()))?;
    let (arrival, processor, power_on) = (Instant::now(), qemu.time()?, machine.uptime());
    machine.expect("headgate> ", BOOT)?;
    let (list, _) = machine.console("boot-times --json", BOOT)?;
    let milestones = serde_json::from_str(&list).with_context(|| format!("no list of milestones: {list}"))?;
    let seconds = arrival.duration_since(kernel).as_secs_f64();
    Ok(Sample { seconds, processor, power_on, milestones })
}

/// Reads the serial port up to a line with this text: when the guest's kernel started by our clock, and how old it was in
/// that line.
fn follow(machine: &mut Machine, text: &str) -> Result<(Instant, f64)> {
    let mut start: Option<Instant> = None;
    loop {
        let line = machine.expect("\n", BOOT)?;
        let arrival = Instant::now();
        let Some((age, what)) = stamped(&line) else { continue };
        let Some(kernel) = arrival.checked_sub(Duration::from_secs_f64(age)) else { continue };
        let start = *start.insert(start.map_or(kernel, |earlier| earlier.min(kernel)));
        if what.starts_with(text) {
            return Ok((start, age));
        }
    }
}

/// `WORD SECONDS TEXT`.
fn stamped(line: &str) -> Option<(f64, &str)> {
    let (word, rest) = line.trim().split_once(' ')?;
    let (seconds, what) = rest.split_once(' ')?;
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let seconds: f64 = seconds.parse().ok().filter(|_| plain && seconds.contains('.'))?;
    (0.0..1e6).contains(&seconds).then_some((seconds, what))
}

/// The ratios to the first one, within a round.
fn ratios(contestants: &[Contestant], of: &Contestant) -> Option<Spread> {
    let reference = &contestants[0].samples;
    Spread::of(of.samples.iter().zip(reference).map(|(one, other)| one.seconds / other.seconds))
}

fn beside(contestants: &[Contestant], rounds: usize) -> Table {
    let columns =
        ["image", "first packet, guest's s", "quartiles", "÷ first", "quartiles", "QEMU CPU s", "from power-on, s"];
    let title = "From the kernel's start to the first packet forwarded";
    let mut table = Table::new(title, &columns).note(format!(
        "QEMU without KVM, two processors translated side by side, two igb on taps, BIOS; medians of {rounds} boots each, in turns, \
         ratios within a round. A UDP farm is configured by fw_cfg; the client sends a datagram every {} ms, and the first that \
         reaches the backend counts. QEMU's time and the last column include firmware and boot loader.",
        PAUSE.as_millis()
    ));
    for other in contestants.iter().filter_map(|one| one.until.as_ref().map(|until| (&one.name, until))) {
        table = table.note(format!("{} is another system: its time is that of its own line {:?}.", other.0, other.1));
    }
    for contestant in contestants {
        let of = |value: fn(&Sample) -> f64| Spread::of(contestant.samples.iter().map(value));
        let median = |spread: Option<Spread>, decimals| {
            spread.map_or(Cell::Missing, |spread| Cell::Number(spread.median, decimals))
        };
        let quartiles = |spread: Option<Spread>, decimals: usize| {
            spread.map_or(Cell::Missing, |it| Cell::Text(format!("{:.decimals$} to {:.decimals$}", it.low, it.high)))
        };
        let (seconds, ratios) = (of(|sample| sample.seconds), ratios(contestants, contestant));
        table.rows.push(vec![
            contestant.name.as_str().into(),
            median(seconds, 2),
            quartiles(seconds, 2),
            median(ratios, 3),
            quartiles(ratios, 3),
            median(of(|sample| sample.processor.as_secs_f64()), 1),
            median(of(|sample| sample.power_on.as_secs_f64()), 1),
        ]);
    }
    table
}

/// Where the time went: medians of each milestone.
fn steps(contestant: &Contestant) -> Table {
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for sample in &contestant.samples {
        for milestone in &sample.milestones {
            times.entry(&milestone.what).or_default().push(milestone.seconds);
        }
        times.entry("first packet forwarded").or_default().push(sample.seconds);
    }
    let median = |(what, times): (&str, Vec<f64>)| Some((Spread::of(times)?.median, what.to_owned()));
    let mut medians: Vec<(f64, String)> = times.into_iter().filter_map(median).collect();
    medians.sort_by(|one, other| one.0.total_cmp(&other.0));
    let title = format!("Where it goes: {}", contestant.name);
    let note = "Steps run side by side: a line's own share is what was waited for it and no more.";
    let mut table = Table::new(title, &["at, s", "after the line before, s", "what"]).note(note);
    let mut before = 0.0;
    for (at, what) in medians {
        table.rows.push(vec![Cell::Number(at, 2), Cell::Number(at - before, 2), what.into()]);
        before = at;
    }
    table
}

fn targets(contestants: &[Contestant]) -> Vec<Target> {
    let Some((first, others)) = contestants.split_first().filter(|(first, _)| first.until.is_some()) else {
        return Vec::new();
    };
    let target = |one: &Contestant| {
        let ratio = ratios(contestants, one)?.median;
        Some(Target::at_most(format!("first packet, {} over {}", one.name, first.name), LIMIT, ratio, ""))
    };
    others.iter().filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_kernel_is_read_from_its_lines() {
        assert_eq!(stamped("headgate-init 2.60 initramfs\r\n"), Some((2.6, "initramfs")));
        assert_eq!(stamped("HG 7.81 carrier eth0\n"), Some((7.81, "carrier eth0")));
        for line in
            ["", "[    0.089456] RETBleed: WARNING", "Headgate 0.1.0 on (none)", "  = help: is", "x nan y", "x -1.0 y"]
        {
            assert_eq!(stamped(line), None, "{line}");
        }
    }
}
