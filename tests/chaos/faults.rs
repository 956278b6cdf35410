//! What goes wrong, each from its beginning to where it is over: the fault itself, or the operator's answer to it.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use headgate_tests::lab::said;
use nix::sys::signal::Signal;

use crate::{Chaos, PATIENCE, configuration, mortal};
use Noticed::{Never, WhileItLasts};

/// A fault and its name in the report.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// Whether clients that come while it lasts may notice it.
    pub(crate) noticed: Noticed,
    pub(crate) act: fn(&mut Chaos) -> Cost,
}

/// May new connections fail?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noticed {
    Never,
    WhileItLasts,
}

/// What a fault came to.
#[derive(Default)]
pub(crate) struct Cost {
    /// From the fault to where the daemon had mended it; zero where there is nothing to mend.
    pub(crate) mended: Duration,
    /// The fault itself cuts connections, whatever the daemon does.
    pub(crate) cuts: bool,
}

const fn fault(name: &'static str, noticed: Noticed, act: fn(&mut Chaos) -> Cost) -> Fault {
    Fault { name, noticed, act }
}

pub(crate) const FAULTS: [Fault; 16] = [
    fault("a backend dies and returns", WhileItLasts, backend_dies),
    fault("all backends of a farm die and return", WhileItLasts, backends_die),
    fault("a backend is drained and returns", Never, backend_drains),
    fault("the clients' link flaps", WhileItLasts, |chaos| flap(chaos, Side::Clients)),
    fault("the backends' link flaps", WhileItLasts, |chaos| flap(chaos, Side::Backends)),
    fault("virtual addresses are removed by hand", WhileItLasts, addresses_go),
    fault("addresses of the box come and go", Never, addresses_come),
    fault("the configuration reloads", Never, reload),
    fault("the supervisor is killed", Never, kill),
    fault("the clock jumps", Never, clock::jump),
    fault("the disk is full", Never, disk_fills),
    fault("memory is short", Never, memory_is_short),
    fault("netlink sockets overflow", WhileItLasts, sockets_overflow),
    fault("our table is deleted", WhileItLasts, table_goes),
    fault("all tables are flushed", WhileItLasts, tables_go),
    fault("another tool holds the generation", Never, generation_is_held),
];

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}: it did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
    started.elapsed()
}

/// A weight that is not the one that runs.
fn next_weight(chaos: &mut Chaos) -> u64 {
    chaos.weight = chaos.weight % 4 + 1;
    chaos.weight
}

/// Writes the configuration with another weight than before.
fn change(chaos: &mut Chaos) {
    let weight = next_weight(chaos);
    chaos.lab.configure(&configuration(weight)).unwrap();
}

/// Is this element, address or table there?
fn has_addresses(chaos: &Chaos) -> bool {
    let listed = chaos.lab.gate.ip(&["address", "show", "dev", "service"]).unwrap();
    ["172.16.1.1/32", "172.16.1.2/32", "2001:db8:1::1/128"].iter().all(|address| listed.contains(address))
}

fn down(chaos: &Chaos, number: u8) -> bool {
    let listed = chaos.lab.headgate_ok(&["farm", "list", "--json"]).unwrap();
    let farms: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let churn = farms.iter().find(|farm| farm["name"] == "churn").unwrap();
    let backends = churn["backends"].as_array().unwrap();
    let backend = backends.iter().find(|backend| backend["name"] == format!("c{number}")).unwrap();
    backend["standing"] == "unhealthy"
}

fn die_and_return(chaos: &mut Chaos, numbers: &[u8]) -> Cost {
    numbers.iter().for_each(|number| drop(chaos.mortal.remove(number)));
    let mended = wait("backends that are dead are down", || numbers.iter().all(|number| down(chaos, *number)));
    chaos.mortal.extend(numbers.iter().map(|number| (*number, mortal(&chaos.lab, *number))));
    Cost { mended, cuts: false }
}

fn backend_dies(chaos: &mut Chaos) -> Cost {
    let number = [11, 12, 13][chaos.number as usize % 3];
    die_and_return(chaos, &[number])
}

fn backends_die(chaos: &mut Chaos) -> Cost {
    die_and_return(chaos, &[11, 12, 13])
}

fn backend_drains(chaos: &mut Chaos) -> Cost {
    let name = ["c11", "c12", "c13"][chaos.number as usize % 3];
    chaos.lab.headgate_ok(&["backend", "drain", "churn", name]).unwrap();
    chaos.churn.shall_avoid(Some(name));
    std::thread::sleep(Duration::from_millis(500));
    chaos.churn.shall_avoid(None);
    chaos.lab.headgate_ok(&["backend", "up", "churn", name]).unwrap();
    Cost::default()
}

enum Side {
    Clients,
    Backends,
}

/// The far end goes down, so that the box sees a link without a carrier. The far end loses what the kernel takes from an
/// interface that is down, and gets it again.
fn flap(chaos: &mut Chaos, side: Side) -> Cost {
    let (space, own, via4, via6) = match side {
        Side::Clients => (&chaos.lab.client, vec!["2001:db8:1::10/64"], "172.16.1.254", "2001:db8:1::fe"),
        Side::Backends => {
            let own = vec!["2001:db8:2::11/64", "2001:db8:2::12/64", "2001:db8:2::13/64"];
            (&chaos.lab.backends, own, "172.16.2.1", "2001:db8:2::1")
        }
    };
    space.ip(&["link", "set", "eth0", "down"]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    space.ip(&["link", "set", "eth0", "up"]).unwrap();
    for address in own {
        space.ip(&["address", "replace", address, "dev", "eth0", "nodad"]).unwrap();
    }
    space.ip(&["route", "replace", "default", "via", via4]).unwrap();
    space.ip(&["-6", "route", "replace", "default", "via", via6]).unwrap();
    Cost::default()
}

fn addresses_go(chaos: &mut Chaos) -> Cost {
    for address in ["172.16.1.1/32", "172.16.1.2/32", "2001:db8:1::1/128"] {
        chaos.lab.gate.ip(&["address", "delete", address, "dev", "service"]).unwrap();
    }
    let mended = wait("virtual addresses are back", || has_addresses(chaos));
    Cost { mended, cuts: false }
}

/// More addresses than one in the backends' network: what flows are sent from must not change with them.
fn addresses_come(chaos: &mut Chaos) -> Cost {
    for verb in ["add", "delete"] {
        for number in 50..60 {
            let address = format!("172.16.2.{number}/24");
            chaos.lab.gate.ip(&["address", verb, &address, "dev", "backend"]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Cost::default()
}

fn reload(chaos: &mut Chaos) -> Cost {
    for _ in 0..5 {
        change(chaos);
        chaos.lab.headgate_ok(&["apply"]).unwrap();
    }
    Cost::default()
}

fn kill(chaos: &mut Chaos) -> Cost {
    chaos.lab.crash().unwrap();
    // As long as a service manager might wait.
    std::thread::sleep(Duration::from_millis(200));
    chaos.lab.start().unwrap();
    Cost::default()
}

fn disk_fills(chaos: &mut Chaos) -> Cost {
    let fill = chaos.lab.root().join("var/fill");
    let mut file = File::create(&fill).unwrap();
    let full = loop {
        match file.write_all(&[0x78; 4096]) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    change(chaos);
    let applied = chaos.lab.headgate(&["apply"]).unwrap();
    // It runs, and the operator hears that it is not kept; what must be kept is refused.
    assert!(applied.status.success() && said(&applied).contains("not kept"), "{}", said(&applied));
    let refused = chaos.lab.headgate(&["apply", "--confirm", "60s"]).unwrap();
    assert!(!refused.status.success(), "{}", said(&refused));
    let told = |chaos: &Chaos| chaos.lab.headgate(&["status", "--json"]).map(|status| said(&status)).unwrap();
    assert!(told(chaos).contains("capacity storage"), "{}", told(chaos));
    // What is removed and open takes its room all the same.
    drop(file);
    std::fs::remove_file(fill).unwrap();
    let applied = chaos.lab.headgate_ok(&["apply"]).unwrap();
    assert!(!applied.contains("not kept"), "{applied}");
    assert!(!told(chaos).contains("capacity storage"), "{}", told(chaos));
    Cost::default()
}

/// A configuration that does not fit into the memory that the daemon may have: it says so, or ends and comes again with what
/// ran before.
fn memory_is_short(chaos: &mut Chaos) -> Cost {
    let process = chaos.lab.process().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    // Not the address space: the allocator has reserved much more of that than it uses.
    let size = status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB"));
    let limit = size.unwrap().parse::<u64>().unwrap() * 1024 + (4 << 20);
    let (pid, limit) = (process.to_string(), format!("--data={limit}"));
    chaos.lab.gate.run(&format!("prlimit --pid {pid} {limit}")).unwrap();
    let many = (0..4000).map(|number| {
        format!(
            "[farms.many{number}]\nlisten = \"172.16.1.1:{}\"\nbackends.a.address = \"172.16.2.11:8080\"\n",
            10_000 + number
        )
    });
    chaos.lab.configure(&(configuration(1) + &many.collect::<String>())).unwrap();
    let applied = chaos.lab.headgate(&["apply"]).unwrap();
    assert!(!applied.status.success(), "4 MB were enough: {}", said(&applied));
    change(chaos);
    match chaos.lab.ended(Duration::from_millis(500)).unwrap() {
        Some(_) => chaos.lab.start().unwrap(),
        None => drop(kill(chaos)),
    };
    chaos.lab.headgate_ok(&["apply"]).unwrap();
    Cost::default()
}

/// While the daemon is stopped, more happens than its sockets hold, and something that it must mend.
fn sockets_overflow(chaos: &mut Chaos) -> Cost {
    chaos.lab.signal(Signal::SIGSTOP).unwrap();
    let mut batch = tempfile::NamedTempFile::new().unwrap();
    for _ in 0..10 {
        for verb in ["add", "delete"] {
            for number in 0..500 {
                writeln!(batch, "address {verb} 198.51.{}.{}/32 dev lo", 100 + number / 250, number % 250).unwrap();
            }
        }
    }
    chaos.lab.gate.run(&format!("ip -batch {}", batch.path().display())).unwrap();
    chaos.lab.gate.ip(&["address", "delete", "172.16.1.1/32", "dev", "service"]).unwrap();
    chaos.lab.signal(Signal::SIGCONT).unwrap();
    let mended = wait("what happened unheard is mended", || has_addresses(chaos));
    Cost { mended, cuts: false }
}

fn has_table(chaos: &Chaos) -> bool {
    let listed = chaos.lab.nft("list tables").unwrap();
    listed.lines().any(|line| line == "table inet headgate")
}

/// What it holds is whole as soon as it is there: it comes in one transaction.
fn table_goes(chaos: &mut Chaos) -> Cost {
    chaos.lab.nft("delete table inet headgate").unwrap();
    let mended = wait("the table is back", || has_table(chaos));
    Cost { mended, cuts: false }
}

/// The guard's table goes as well, so connection tracking is gone for a moment, and the kernel of the box resets what is not
/// translated.
fn tables_go(chaos: &mut Chaos) -> Cost {
    chaos.lab.nft("flush ruleset").unwrap();
    let mended = wait("the table is back", || has_table(chaos));
    Cost { mended, cuts: true }
}

/// Somebody commits all the time while we do: the kernel refuses a transaction that began at another generation.
fn generation_is_held(chaos: &mut Chaos) -> Cost {
    let mut script = tempfile::NamedTempFile::new().unwrap();
    writeln!(script, "add table inet foreign\nadd set inet foreign s {{ type ipv4_addr; }}").unwrap();
    for number in 0..2000 {
        writeln!(script, "add element inet foreign s {{ 10.0.{}.{} }}", number / 250, number % 250).unwrap();
    }
    writeln!(script, "delete table inet foreign").unwrap();
    let words = "while :; do nft -f \"$0\"; done";
    let mut other = chaos.lab.gate.command("sh");
    other.args(["-c", words]).arg(script.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut other = other.spawn().unwrap();
    let applied: Vec<_> = (0..5)
        .map(|_| {
            change(chaos);
            chaos.lab.headgate(&["apply"]).unwrap()
        })
        .collect();
    other.kill().unwrap();
    other.wait().unwrap();
    applied.iter().for_each(|applied| assert!(applied.status.success(), "{}", said(applied)));
    Cost::default()
}

/// The daemon's own clock: the machine's is everybody's.
pub(crate) mod clock {
    use std::time::Duration;

    use headgate_tests::lab::{Lab, said};

    use super::Cost;
    use crate::Chaos;

    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

    /// Has the daemon read the wall clock through libfaketime, which adds what a file says; the monotonic clock is left alone.
    pub(crate) fn install(lab: &mut Lab) {
        assert!(std::path::Path::new(LIBRARY).exists(), "libfaketime is needed: `make deps` brings it");
        let file = lab.root().join("clock");
        std::fs::write(&file, "+0").unwrap();
        lab.with_environment("LD_PRELOAD", LIBRARY);
        lab.with_environment("FAKETIME_TIMESTAMP_FILE", file);
        lab.with_environment("FAKETIME_NO_CACHE", "1");
        lab.with_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    pub(crate) fn jump(chaos: &mut Chaos) -> Cost {
        for offset in ["+3600", "-86400", "+0"] {
            std::fs::write(chaos.lab.root().join("clock"), offset).unwrap();
            // 4: the daemon cannot be reached.
            let status = chaos.lab.headgate(&["status"]).unwrap();
            assert_ne!(status.status.code(), Some(4), "{offset}: {}", said(&status));
            std::thread::sleep(Duration::from_millis(300));
        }
        Cost::default()
    }
}
