//! How long a ruleset of the product's shape takes: `load_ruleset [FARMS] [BACKENDS]`, in a network namespace of its own.
//!
//! Needs root. Prints the difference, the batch, the commit, the dump, the comparison with what is there, a change of one
//! backend, and the removal.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headgate_nft::*;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u32>());
    let farms = numbers.next().transpose()?.unwrap_or(10_000);
    let backends = numbers.next().transpose()?.unwrap_or(4);
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut socket = Socket::open()?;
    let wanted = timed("ruleset made", || product(farms, backends));
    let tables: Vec<TableId> = wanted.tables.keys().cloned().collect();

    let changes = timed("difference to nothing", || between(&Ruleset::default(), &wanted));
    let batch = timed("batch", || Batch::new(&changes, None));
    println!("{:>28} {:9} messages, {} bytes", "", batch.messages(), batch.as_bytes().len());
    timed("commit", || socket.commit(&batch))?;
    let found = timed("dump", || socket.dump(&tables))?;
    let none = timed("difference to the same", || between(&found, &wanted));
    assert!(none.is_empty(), "the kernel gave something else back");

    let (old, new) = (fragment(1, backends, 80), fragment(1, backends, 81));
    timed("one backend's change", || {
        let changes = between(&old, &new);
        socket.commit(&Batch::new(&changes, None))
    })?;
    let changes = between(&wanted, &Ruleset::default());
    timed("removal", || socket.commit(&Batch::new(&changes, None)))?;
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (start, processor) = (Instant::now(), processor_time());
    let result = work();
    let (wall, processor) = (start.elapsed(), processor_time().saturating_sub(processor));
    println!("{what:>28} {:9.3} ms, {:9.3} ms of processor", wall.as_secs_f64() * 1e3, processor.as_secs_f64() * 1e3);
    result
}

/// Of this thread, with the kernel's work for it: what a busy machine does not blur.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).expect("every Linux has this clock")
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn set(key: Vec<Datatype>, data: SetData, size: u32) -> Set {
    let size = Some(size.next_power_of_two());
    Set { key, data: Some(data), size, ..Set::default() }
}

fn chain(base: Option<BaseChain>, rules: Vec<Vec<Statement>>) -> Chain {
    Chain { base, rules: rules.into_iter().map(|statements| Rule { statements, comment: None }).collect() }
}

fn by_mark(map: &str) -> Value {
    Value::Map { key: Box::new(Value::Field(Field::CtMark)), map: name(map) }
}

fn set_mark(value: Value) -> Statement {
    Statement::Set { target: Target::CtMark, value }
}

fn key(start: Bytes) -> Key {
    Key { start, end: None }
}

fn element(data: Data, comment: Option<String>) -> Element {
    Element { data: Some(data), comment: comment.map(Arc::from), ..Element::default() }
}

/// The targets of one farm, the port of its first backend being `port`.
fn fragment(farm: u32, backends: u32, port: u16) -> Ruleset {
    let mut targets = set(vec![Datatype::Mark], SetData::Value(vec![Datatype::Ipv4Addr, Datatype::InetService]), 65536);
    targets.elements = targets_of(farm, backends, port).collect();
    let table = Table { sets: [(name("targets4"), targets)].into(), ..Table::default() };
    Ruleset { tables: [(TableId::inet("headgate"), table)].into() }
}

fn targets_of(farm: u32, backends: u32, port: u16) -> impl Iterator<Item = (Key, Element)> {
    (0..backends).map(move |backend| {
        let id = farm * backends + backend;
        let mut address = Bytes::from_slice(&(0x0a02_0000 + id).to_be_bytes());
        address.extend_from_slice(&(if backend == 0 { port } else { 80 }).to_be_bytes());
        address.extend_from_slice(&[0, 0]);
        let element = element(Data::Value(address), Some(format!("farm{farm}/b{backend}")));
        (key(Bytes::from_slice(&(0x4800_0000 + id).to_ne_bytes())), element)
    })
}

fn product(farms: u32, backends: u32) -> Ruleset {
    use Datatype::{InetProto, InetService, Ipv4Addr, Mark};
    let marks = || vec![Mark];
    let mut services = set(vec![Ipv4Addr, InetProto, InetService], SetData::Verdict, farms * 2);
    let mut slots = set(marks(), SetData::Value(marks()), farms * backends * 2);
    let mut targets = set(marks(), SetData::Value(vec![Ipv4Addr, InetService]), farms * backends * 2);
    let mut sources = set(marks(), SetData::Value(vec![Ipv4Addr]), farms * backends * 2);
    let mut table = Table::default();
    for farm in 0..farms {
        let chain_name = name(&format!("farm-{farm}"));
        let mut service = Bytes::from_slice(&(0x0a64_0000 + farm / 100).to_be_bytes());
        service.extend_from_slice(&[6, 0, 0, 0]);
        service.extend_from_slice(&(1000 + (farm % 100) as u16).to_be_bytes());
        service.extend_from_slice(&[0, 0]);
        let to = Data::Verdict(Verdict::Goto(chain_name.clone()));
        services.elements.insert(key(service), element(to, None));
        for backend in 0..backends {
            let mark = Bytes::from_slice(&(0x4800_0000 + farm * backends + backend).to_ne_bytes());
            let slot = Bytes::from_slice(&((farm << 16) + backend).to_ne_bytes());
            slots.elements.insert(key(slot), element(Data::Value(mark.clone()), None));
            let source = Bytes::from_slice(&[10, 2, 0, 1]);
            sources.elements.insert(key(mark), element(Data::Value(source), None));
        }
        targets.elements.extend(targets_of(farm, backends, 80));
        let pick = Value::Numgen(Numgen { random: false, modulus: backends, offset: farm << 16 });
        let rule = vec![set_mark(pick), Statement::Verdict(Verdict::Goto(name("assign")))];
        table.chains.insert(chain_name, chain(None, vec![rule]));
    }
    let sets = [("services4", services), ("slots", slots), ("targets4", targets), ("sources4", sources)];
    table.sets.extend(sets.map(|(set, value)| (name(set), value)));
    shared_chains(&mut table);
    Ruleset { tables: [(TableId::inet("headgate"), table)].into() }
}

fn shared_chains(table: &mut Table) {
    let hook = |hook, priority| Some(BaseChain { kind: ChainKind::Nat, hook, priority, devices: Default::default() });
    let nat = |kind, port, map: &str| {
        let fully_random = kind == NatKind::Source;
        vec![Statement::Nat(Nat { kind, ipv6: false, to: by_mark(map), port, fully_random })]
    };
    let ipv4 = Statement::Match {
        value: Value::Field(Field::Nfproto),
        operator: Operator::Equal,
        constant: Bytes::from_slice(&[2]),
    };
    let key = Value::Concat([Field::Ip4Daddr, Field::L4proto, Field::Dport].map(Value::Field).to_vec());
    let entry = vec![ipv4, Statement::VerdictMap { key, map: name("services4") }];
    let assign = vec![vec![set_mark(by_mark("slots"))], nat(NatKind::Destination, true, "targets4")];
    table.chains.insert(name("prerouting"), chain(hook(Hook::Prerouting, -100), vec![entry]));
    let source = nat(NatKind::Source, false, "sources4");
    table.chains.insert(name("postrouting"), chain(hook(Hook::Postrouting, 100), vec![source]));
    table.chains.insert(name("assign"), chain(None, assign));
}
