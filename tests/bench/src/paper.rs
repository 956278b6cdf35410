//! The run of the paper that appliances are compared by: wrk with 10 threads and 360 connections for 30 s, two nginx with empty
//! responses, mode snat. Between namespaces of this machine, and through the booted image.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use headgate_image::build;
use headgate_image::demo::{DROP_IN, Networks, write_drop_in};
use headgate_image::netns::Namespace;
use headgate_image::progress::Progress;
use headgate_image::qemu::{Machine, Options as Boot};
use headgate_image::source::Source;
use headgate_image::stop::Stop;
use headgate_image::tool;

use crate::dataplane::variants::{Alive, VARIANTS};
use crate::load::http::PORT;
use crate::report::{Cell, Report, Table};
use crate::setting;

/// How long, and where.
#[derive(Debug, Args)]
pub struct Options {
    /// How long each run is, seconds
    #[arg(long, default_value_t = 30, value_name = "S")]
    seconds: u32,
    /// Also boot the image in QEMU and run through it; builds it when it has to
    #[arg(long)]
    image: bool,
    /// Take headgated, headgate and headgate-init (static) for the image from here instead of compiling them
    #[arg(long, value_name = "DIR", requires = "image")]
    programs: Option<PathBuf>,
}

const THREADS: &str = "10";
const CONNECTIONS: &str = "360";
/// Responses in a second that one gigabit Ethernet can carry: 1 Gbit/s over the 340 bytes that the smallest response of nginx
/// and its share of acknowledgements take on the wire.
const CEILING: u32 = 367_703;
/// Those of the data plane's variants that run it.
const RUNS: [&str; 4] = ["routing", "hand-nft-snat", "nftlb-snat", "headgate-snat"];
/// The usual is 30 s; a busy machine has taken more than 180.
const BOOT: Duration = Duration::from_secs(600);

/// Measures.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    let mut programs = vec![setting::NFT, setting::NFTLB, setting::NGINX, setting::WRK];
    if options.image {
        programs.push(setting::QEMU);
    }
    let setting = setting::describe(&programs)?;
    let columns = ["through", "requests/s", "50 %, ms", "99 %, ms", "failed"];
    let title = format!("wrk, {THREADS} threads, {CONNECTIONS} connections, {} s", options.seconds);
    let mut table = Table::new(title, &columns).note(format!(
        "Clients, servers and the box share the processors of this machine, so this says what the machine can do and not what the \
         box can; the ratios are in the tables of the data plane. The honest ceiling of hardware: one gigabit port carries \
         {CEILING} responses/s, whatever is behind it. Plain routing goes to one of the two servers."
    ));
    let progress = Progress::new();
    for name in RUNS {
        stop.check()?;
        let variant = VARIANTS.iter().find(|variant| variant.name == name).context("a variant of the data plane")?;
        let alive = Alive::start(*variant, 0)?;
        let way = alive.way();
        let figures = wrk(way.client, SocketAddr::new(way.addresses[0], PORT), options.seconds)?;
        table.rows.push(figures.row(name));
        progress.line(name);
    }
    if options.image {
        let figures = through_the_image(options, &progress, stop)?;
        table.rows.push(figures.row("the booted image, QEMU without KVM, snat"));
    }
    Ok(Report { name: "paper", setting, tables: vec![table], targets: Vec::new() })
}

fn through_the_image(options: &Options, progress: &Progress, stop: &Stop) -> Result<Wrk> {
    let source = Source::find()?;
    let standard = build::Options { programs: options.programs.clone(), ..build::Options::standard(&source) };
    build::build(&source, &standard, progress)?;
    let (networks, links) = Networks::create()?;
    let directory = tempfile::Builder::new().prefix("headgate-bench-").tempdir()?;
    let drop_ins = vec![write_drop_in(directory.path(), "10-bench.toml", DROP_IN)?];
    let mut machine = Machine::start(Boot { links, drop_ins, ..Boot::trial(&standard.output) }, stop)?;
    machine.expect("headgate> ", BOOT)?;
    networks.wait_until_served(BOOT, stop)?;
    progress.line("the image serves");
    wrk(&networks.client, SocketAddr::new(IpAddr::from([172, 16, 1, 1]), PORT), options.seconds)
}

/// What wrk found.
#[derive(Debug, PartialEq)]
struct Wrk {
    requests_per_second: f64,
    /// Milliseconds.
    median: f64,
    /// Milliseconds.
    p99: f64,
    /// Connections and requests that failed.
    failed: f64,
}

impl Wrk {
    fn row(&self, name: &str) -> Vec<Cell> {
        let figures = [(self.requests_per_second, 0), (self.median, 2), (self.p99, 2), (self.failed, 0)];
        let mut row = vec![name.into()];
        row.extend(figures.map(|(value, decimals)| Cell::Number(value, decimals)));
        row
    }
}

fn wrk(client: &Namespace, to: SocketAddr, seconds: u32) -> Result<Wrk> {
    ensure!(seconds > 0, "--seconds must not be 0");
    let duration = format!("{seconds}s");
    let mut command = client.command("wrk");
    command.args(["-t", THREADS, "-c", CONNECTIONS, "-d", &duration, "--latency", &format!("http://{to}/")]);
    let text = String::from_utf8_lossy(&tool::run(&mut command)?).into_owned();
    parse(&text).with_context(|| format!("wrk said something else than usual:\n{text}"))
}

fn parse(text: &str) -> Option<Wrk> {
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let numbers = |text: &str| -> f64 {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<f64>().ok()).sum()
    };
    // "Non-2xx or 3xx responses: 7" has digits before the colon as well.
    let other = value("Non-2xx or 3xx responses:").map_or(0.0, numbers);
    Some(Wrk {
        requests_per_second: value("Requests/sec:")?.parse().ok()?,
        median: milliseconds(value("50%")?)?,
        p99: milliseconds(value("99%")?)?,
        failed: value("Socket errors:").map_or(0.0, numbers) + other,
    })
}

/// wrk's `2.39ms`, `870.00us` or `1.20s`.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4)];
    units.iter().find_map(|(unit, scale)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let text = "  Latency Distribution\n     50%    2.39ms\n     75%    3.0ms\n     99%    1.20s\n  1 requests in 1s\n  \
                    Socket errors: connect 1, read 3, write 0, timeout 20\n  Non-2xx or 3xx responses: 7\n\
                    Requests/sec:   5303.10\n";
        let wanted = Wrk { requests_per_second: 5303.1, median: 2.39, p99: 1200.0, failed: 31.0 };
        assert_eq!(parse(text), Some(wanted));
        assert_eq!(milliseconds("870.00us"), Some(0.87));
        assert_eq!(parse("unable to connect"), None);
    }
}
