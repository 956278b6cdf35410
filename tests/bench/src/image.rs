//! Requests through a guest with two network cards: the image's kernel between a client and two servers that are namespaces
//! of this machine. What a request costs is the processor time that QEMU takes to translate and run the guest for it, so
//! variants can be told apart that this machine's own kernel cannot run: IPVS and flowtables are modules of Debian's.
//!
//! The guest is that of [`crate::icount`], without the counter; its variants come from there too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use headgate_bench_guest::plan::{Plan, Reach, Report as Word, Variant};
use headgate_image::netns::{Namespace, veth};
use headgate_image::nginx::Nginx;
use headgate_image::progress::Progress;
use headgate_image::source::Source;
use headgate_image::stop::Stop;

use crate::icount;
use crate::icount::machine::Machine;
use crate::icount::ramdisk::{Ramdisk, Ready};
use crate::load::http::{self, Connections, PORT};
use crate::processors::Workers;
use crate::report::{Cell, Report, Table};
use crate::setting;
use crate::statistics::Spread;

/// For how long.
#[derive(Debug, Args)]
pub struct Options {
    /// How many rounds; in each every variant is set up anew and has a slice of both loads
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one load is on one variant at a time, milliseconds
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    slice: u64,
    /// Only these variants of `icount --list`; the reference is always among them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    variants: Vec<String>,
    /// Take headgated, headgate-init and headgate-bench-guest (static) from here instead of compiling them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The variant that the others are compared with.
const REFERENCE: &str = "nft-snat@1";
/// Those of `icount` that are measured here, as far as it has them.
const VARIANTS: [&str; 14] = [
    "route@1",
    REFERENCE,
    "nft-dnat@1",
    "nft-snat-flowtable@1",
    "nft-dnat-flowtable@1",
    "ipvs-nat@1",
    "ipvs-dr@1",
    "snat@1",
    "snat+offload@1",
    "dnat@1",
    "dnat+offload@1",
    "stateless@1",
    "dsr@1",
    "snat@10000",
];
const LOADS: [(&str, Connections); 2] = [("kept", Connections::Kept), ("one per request", Connections::OnePerRequest)];

/// A variant's slices under one load: requests a second, and QEMU's processor seconds for each.
type Samples = BTreeMap<(&'static str, String), Vec<(f64, f64)>>;

/// Measures.
pub fn run(options: &Options, stop: &Stop) -> Result<Report> {
    ensure!(options.rounds > 0 && options.slice > 0, "--rounds and --slice must not be 0");
    let (source, progress) = (Source::find()?, Progress::new());
    let variants = chosen(&options.variants)?;
    let rounds = (0..options.rounds).flat_map(|_| variants.iter().cloned()).collect();
    let ready = Ready { programs: options.programs.as_deref(), ..Ready::default() };
    let ramdisk = Ramdisk::build(&source, &Plan { variants: rounds, profile: false, cards: true }, ready, &[])?;
    let mut setting = setting::describe(&[setting::NFT, setting::QEMU, setting::NGINX])?;
    setting.push(("guest kernel".to_owned(), ramdisk.setting.kernel.clone()));
    let (networks, taps) = Networks::create()?;
    let mut machine = Machine::start_with_cards(&ramdisk, stop, &taps, 1)?;
    let qemu = Workers::one(machine.pid())?;
    let mut samples = Samples::new();
    loop {
        match machine.report()? {
            Word::Ready { variant } => {
                let variant = variants.iter().find(|one| one.name == variant).context("a variant of the plan")?;
                networks.reach(variant.reach)?;
                for (load, connections) in LOADS {
                    let slice = Duration::from_millis(options.slice);
                    let sample = networks.sample(variant, connections, slice, &qemu);
                    let sample = sample.with_context(|| format!("{}, connections {load}", variant.name))?;
                    samples.entry((load, variant.name.clone())).or_default().push(sample);
                }
                let round = samples.get(&(LOADS[0].0, variant.name.clone())).map_or(0, Vec::len);
                progress.line(&format!("round {round}: {}", variant.name));
                machine.go_on()?;
            }
            Word::Trouble { variant, what } => bail!("{variant}: {what}"),
            Word::Done => break,
            Word::Up { .. } | Word::Measured(_) | Word::Pause { .. } | Word::Counted { .. } | Word::Symbol { .. } => {}
        }
    }
    Ok(Report { name: "image", setting, tables: vec![table(&variants, &samples, options)], targets: Vec::new() })
}

fn chosen(names: &[String]) -> Result<Vec<Variant>> {
    let all = icount::variants();
    for name in names {
        ensure!(all.iter().any(|variant| variant.name == *name), "there is no variant {name:?}: see icount --list");
    }
    let wanted = |name: &str| match names {
        [] => VARIANTS.contains(&name),
        names => name == REFERENCE || names.iter().any(|wanted| wanted == name),
    };
    let mut variants: Vec<Variant> = all.into_iter().filter(|variant| wanted(&variant.name)).collect();
    for text in variants.iter_mut().flat_map(|variant| variant.files.values_mut()) {
        // The cards are everybody's, one after the other: what we would tune would serve the peers as well.
        text.push_str("[hardware]\nprofile = \"none\"\n");
    }
    Ok(variants)
}

fn table(variants: &[Variant], samples: &Samples, options: &Options) -> Table {
    let columns = [
        "variant",
        "kept: requests/s",
        "QEMU µs/request",
        "÷ nft-snat",
        "one per request: requests/s",
        "QEMU µs/request",
        "÷ nft-snat",
    ];
    let mut table = Table::new("HTTP through the guest, connections kept and one per request", &columns).note(format!(
        "Debian's kernel of the image in QEMU without KVM, one processor, two igb; medians of {} rounds of {} ms, ratios within a \
         round. QEMU's time is that of the whole guest, drivers and emulated cards included, which is most of it: `icount` says \
         what a variant's own path takes.",
        options.rounds, options.slice
    ));
    for variant in variants {
        let mut row = vec![variant.name.as_str().into()];
        for (load, _) in LOADS {
            let of = |name: &str| samples.get(&(load, name.to_owned())).map_or(&[][..], Vec::as_slice);
            let (ours, reference) = (of(&variant.name), of(REFERENCE));
            let ratios = ours.iter().zip(reference).map(|(ours, reference)| ours.1 / reference.1);
            row.push(median(ours.iter().map(|sample| sample.0), 0));
            row.push(median(ours.iter().map(|sample| sample.1 * 1e6), 1));
            row.push(median(ratios, 3));
        }
        table.rows.push(row);
    }
    table
}

fn median(values: impl Iterator<Item = f64>, decimals: usize) -> Cell {
    Spread::of(values).map_or(Cell::Missing, |spread| Cell::Number(spread.median, decimals))
}

/// The client's and the servers' networks, as the guest's other measurements have them inside.
struct Networks {
    // Before its namespace: fields are dropped in this order.
    _nginx: Nginx,
    client: Namespace,
    backend: Namespace,
}

const BACKENDS: [[u8; 4]; 2] = [[10, 0, 2, 11], [10, 0, 2, 12]];

impl Networks {
    /// Also the taps for the guest, in the order of its cards.
    fn create() -> Result<(Self, [OwnedFd; 2])> {
        let (client, backend) = (Namespace::create("image-c")?, Namespace::create("image-b")?);
        for space in [&client, &backend] {
            let open = ["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"];
            let ports = ["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"];
            crate::peer::sysctl(space, &[open, ports].concat())?;
        }
        let taps = [client.tap("c0")?, backend.tap("b0")?];
        client.ip(&["address", "add", "10.0.1.2/24", "dev", "c0"])?;
        for address in BACKENDS {
            backend.ip(&["address", "add", &format!("{}/24", IpAddr::from(address)), "dev", "b0"])?;
        }
        for (space, via) in [(&client, "10.0.1.1"), (&backend, "10.0.2.1")] {
            space.ip(&["route", "add", "default", "via", via])?;
        }
        veth((&client, "c1"), (&backend, "b1"))?;
        client.ip(&["address", "add", "10.0.3.2/24", "dev", "c1"])?;
        backend.ip(&["address", "add", "10.0.3.1/24", "dev", "b1"])?;
        let nginx = Nginx::start(&backend, &[SocketAddr::from(([0, 0, 0, 0], PORT))])?;
        Ok((Self { _nginx: nginx, client, backend }, taps))
    }

    /// Servers that answer clients directly have the virtual addresses themselves, and a way past the guest.
    fn reach(&self, reach: Reach) -> Result<()> {
        let routes = [&["local", "10.9.0.0/16", "dev", "lo"][..], &["10.0.1.0/24", "via", "10.0.3.2"]];
        for route in routes {
            match reach {
                Reach::Direct => self.backend.ip(&[&["route", "replace"], route].concat())?,
                // It may not be there.
                Reach::Backend | Reach::Balancer => {
                    self.backend.ip(&[&["route", "delete"], route].concat()).unwrap_or_default()
                }
            };
        }
        Ok(())
    }

    fn sample(&self, variant: &Variant, load: Connections, slice: Duration, qemu: &Workers) -> Result<(f64, f64)> {
        let address = |number| SocketAddr::from((variant.targets.address(number), PORT));
        let to: Vec<SocketAddr> = match BACKENDS[0] == variant.targets.first.octets() {
            // Straight to the servers.
            true => BACKENDS.map(|address| SocketAddr::from((address, PORT))).to_vec(),
            false => vec![address(0)],
        };
        let before = qemu.time()?;
        let outcome = http::run(&self.client, &to, load, slice)?;
        Ok((outcome.rate(), (qemu.time()? - before).as_secs_f64() / outcome.done as f64))
    }
}
