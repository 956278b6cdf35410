//! Times of the way from a file of many farms to rules in the kernel, and of one backend's change among them. What is
//! measured is the CPU time of this thread, that of the kernel on its behalf included: the machine may be busy.
//!
//! `unshare --net target/release/examples/farms_at_scale [FARMS [BACKENDS]]`: it replaces the tables of the network
//! namespace that it runs in.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use headgate_config::model::{BackendState, Farm};
use headgate_nft::change::between;
use headgate_nft::{Batch, Ruleset, Socket, TableId};
use headgate_plan::compile::compile;
use headgate_plan::facts::Facts;
use headgate_plan::ids::Ids;
use headgate_plan::names;
use headgate_plan::step::Plan;
use nix::time::{ClockId, clock_gettime};

const FACTS: &str = include_str!("../cases/farms/facts.toml");
const CHANGES: usize = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let farms = arguments.next().transpose()?.unwrap_or(10_000);
    let backends = arguments.next().transpose()?.unwrap_or(4);
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile()?;
    file.write_all(text(farms, backends).as_bytes())?;
    let config = timed("load and check", || headgate_config::load_files(&[file.path().to_owned()]))
        .map_err(|problems| problems.to_string())?
        .config;
    let facts: Facts = toml::from_str(FACTS)?;

    let compiled = timed("compile for the first time", || compile(&config, &[], &facts, &Ids::default()));
    let desired = compiled.map_err(|refused| format!("{refused:?}"))?;
    let ruleset = &desired.state.ruleset;
    let changes = timed("difference to nothing", || between(&Ruleset::default(), ruleset));
    let batch = timed("batch", || Batch::new(&changes, None));
    let mut socket = Socket::open()?;
    timed("commit", || socket.commit(&batch))?;
    let tables = [names::TABLE, names::GUARD_TABLE].map(TableId::inet);
    let observed = timed("dump", || socket.dump(&tables))?;
    let ids = timed("ids from the dump", || Ids::observe(&observed));
    let again = timed("compile again", || compile(&config, &[], &facts, &ids));
    let again = again.map_err(|refused| format!("{refused:?}"))?;
    let mut state = again.state.clone();
    state.ruleset = observed;
    let plan = timed("plan again", || Plan::between(&again, &state));
    println!("steps of the second plan: {}", plan.steps.len());

    let mut times = Vec::with_capacity(CHANGES);
    let farms: Vec<&Farm> = config.farms.values().map(AsRef::as_ref).collect();
    for n in 0..CHANGES {
        let old = farms[n * 7919 % farms.len()];
        let mut new = old.clone();
        let backend = new.backends.values_mut().next().ok_or("a farm without backends")?;
        backend.state = BackendState::Drain;
        for (old, new) in [(old, &new), (&new, old)] {
            let start = now();
            let changes = again.context.farm_change(old, new, &again.ids).ok_or("more than one farm changes")?;
            socket.commit(&Batch::new(&changes, None))?;
            times.push(now() - start);
        }
    }
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("one backend drained or up again: median {:?}, 99 % {:?}, most {:?}", at(0.5), at(0.99), at(1.0));
    Ok(())
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a clock of its own").into()
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = now();
    let result = work();
    let elapsed: Duration = now() - start;
    println!("{what:>27}: {:7.1} ms", elapsed.as_secs_f64() * 1000.0);
    result
}

fn text(farms: usize, backends: usize) -> String {
    let mut text = String::new();
    for farm in 0..farms {
        let (third, fourth, port) = (farm / 200 % 200, 1 + farm % 200, 80 + farm / 40_000);
        let _ = writeln!(text, "[farms.f{farm}]\nlisten = \"10.1.{third}.{fourth}:{port}/tcp\"");
        for backend in 0..backends {
            let _ = writeln!(text, "[farms.f{farm}.backends.b{backend}]");
            let _ = writeln!(text, "address = \"172.16.2.{}:{}\"", 2 + farm % 250, 1000 + backend);
        }
    }
    text
}
