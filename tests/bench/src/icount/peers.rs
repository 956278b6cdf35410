//! What stands beside Headgate: routing, rulesets by hand, rulesets as nftlb writes them, and IPVS.

use std::fmt::Write as _;

use headgate_bench_guest::plan::{Command, Reach, Targets};

use super::variants::{BACKENDS, VIP};

/// Somebody else's way.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its name.
    pub(super) name: &'static str,
    /// What sets it up, for a number of services.
    pub(super) commands: fn(u32) -> Vec<Command>,
    /// How far its packets go.
    pub(super) reach: Reach,
    /// Whether clients send to virtual addresses; else to a backend.
    pub(super) virtual_addresses: bool,
    /// Whether TCP connections are counted too.
    pub(super) tcp: bool,
    /// Whether it is measured with many services too.
    pub(super) many: bool,
}

const THROUGH: Peer =
    Peer { name: "", commands: nothing, reach: Reach::Backend, virtual_addresses: true, tcp: true, many: false };

/// All, in the order in which they are measured.
pub(super) const PEERS: &[Peer] = &[
    Peer { name: "null", reach: Reach::Balancer, virtual_addresses: false, tcp: false, ..THROUGH },
    Peer { name: "route", virtual_addresses: false, ..THROUGH },
    Peer { name: "route+conntrack", commands: conntrack, virtual_addresses: false, ..THROUGH },
    Peer {
        name: "nft-dnat",
        commands: |services| nft(&nat(services, Source::Kept, Flows::Slow)),
        many: true,
        ..THROUGH
    },
    Peer {
        name: "nft-snat",
        commands: |services| nft(&nat(services, Source::Ours, Flows::Slow)),
        many: true,
        ..THROUGH
    },
    Peer { name: "route+addresses", commands: addresses, virtual_addresses: false, many: true, ..THROUGH },
    Peer {
        name: "nft-snat+addresses",
        commands: |services| [addresses(services), nft(&nat(services, Source::Ours, Flows::Slow))].concat(),
        many: true,
        ..THROUGH
    },
    Peer { name: UNCOUNTED, commands: |_| nft(&layout("")), ..THROUGH },
    Peer { name: "nft-dnat-flowtable", commands: |services| nft(&nat(services, Source::Kept, Flows::Fast)), ..THROUGH },
    Peer { name: "nft-snat-flowtable", commands: |services| nft(&nat(services, Source::Ours, Flows::Fast)), ..THROUGH },
    Peer { name: "nft-stateless", commands: |services| nft(&stateless(services)), ..THROUGH },
    Peer { name: "nft-dsr", commands: |services| nft(&dsr(services)), reach: Reach::Direct, ..THROUGH },
    Peer { name: "nftlb-dnat", commands: |services| nft(&nftlb(services, Source::Kept)), ..THROUGH },
    Peer { name: "nftlb-snat", commands: |services| nft(&nftlb(services, Source::Ours)), many: true, ..THROUGH },
    Peer { name: "ipvs-nat", commands: |services| ipvs(services, "-m"), many: true, ..THROUGH },
    Peer { name: "ipvs-dr", commands: |services| ipvs(services, "-g"), reach: Reach::Direct, many: true, ..THROUGH },
];

/// Our own ruleset of mode snat by hand, without the counters of new flows: what [`COUNTED`] is compared with.
pub(super) const UNCOUNTED: &str = "layout";
/// The same with them.
pub(super) const COUNTED: Peer = Peer { name: "layout+flows", commands: |_| nft(&layout("counter")), ..THROUGH };

/// What backends see as the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Kept,
    Ours,
}

/// Whether established flows take the flowtable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flows {
    Slow,
    Fast,
}

const SNAT: &str =
    "chain post {\ntype nat hook postrouting priority 100\nct status dnat snat to 10.0.2.1 fully-random\n}\n";
const FLOWTABLE: &str = "flowtable f {\nhook ingress priority 0\ndevices = { l0, l1 }\n}\n\
     chain forward {\ntype filter hook forward priority 0\nct state established flow add @f\n}\n";
/// Chains that the services share: loading checks every chain against every other.
const CHAINS: u32 = 16;

fn nothing(_: u32) -> Vec<Command> {
    Vec::new()
}

fn command(line: &str, input: String) -> Command {
    Command { line: line.split_whitespace().map(str::to_owned).collect(), input }
}

/// What loads rules.
pub(super) fn nft(rules: &str) -> Vec<Command> {
    vec![command("nft -f -", rules.to_owned())]
}

/// The services' addresses on the interface towards the clients, as farms have them: the kernel's route trie is deeper then.
fn addresses(services: u32) -> Vec<Command> {
    let targets = Targets { first: VIP, count: services };
    let lines = (0..services).map(|service| format!("address add {}/32 dev l0\n", targets.address(service)));
    vec![command("ip -batch -", lines.collect())]
}

/// What `headgated` writes for a farm in mode snat, as far as a new flow comes by it; `counter` is on the elements that translate.
fn layout(counter: &str) -> String {
    let [b1, b2] = BACKENDS;
    let (m1, m2) = ("0x48000001", "0x48000002");
    let assign = "ct mark set ct mark map @slots\n\
         meta l4proto udp dnat ip addr . port to ct mark map @targets4\n\
         meta l4proto tcp dnat ip addr . port to ct mark map @targets4";
    let hook =
        |name: &str| format!("chain {name} {{\ntype nat hook {name} priority -100\njump dispatch\n{assign}\n}}\n");
    format!(
        "table inet t {{\n\
         map services4 {{\ntype ipv4_addr . inet_proto . inet_service : verdict\nsize 16\n\
         elements = {{ {VIP} . udp . 80 : goto farm, {VIP} . tcp . 80 : goto farm }}\n}}\n\
         map slots {{\ntype mark : mark\nsize 16\nelements = {{ 0x00010000 : {m1}, 0x00010001 : {m2} }}\n}}\n\
         map targets4 {{\ntype mark : ipv4_addr . inet_service\nsize 16\n{counter}\n\
         elements = {{ {m1} {counter} : {b1} . 80, {m2} {counter} : {b2} . 80 }}\n}}\n\
         map sources4 {{\ntype mark : ipv4_addr\nsize 16\nelements = {{ {m1} : 10.0.2.1, {m2} : 10.0.2.1 }}\n}}\n\
         chain farm {{\nct mark set numgen inc mod 2 offset 0x10000\n}}\n\
         chain dispatch {{\nmeta nfproto ipv4 ip daddr . meta l4proto . th dport vmap @services4\naccept\n}}\n{}{}\
         chain postrouting {{\ntype nat hook postrouting priority 100\n\
         snat ip to ct mark map @sources4 fully-random\n}}\n}}\n",
        hook("prerouting"),
        hook("output"),
    )
}

fn conntrack(_: u32) -> Vec<Command> {
    nft("table ip t {\nchain f {\ntype filter hook forward priority 0\nct state established accept\n}\n}\n")
}

/// The elements of a map from a service to the chain with its number.
fn elements(services: u32, prefix: &str) -> String {
    let targets = Targets { first: VIP, count: services };
    let mut text = String::new();
    for service in 0..services {
        for protocol in ["udp", "tcp"] {
            let (address, chain) = (targets.address(service), service % CHAINS);
            let _ = write!(text, "{protocol} . {address} . 80 : goto {prefix}{chain}, ");
        }
    }
    text
}

fn chains(services: u32, prefix: &str, rule: &str) -> String {
    (0..services.min(CHAINS)).map(|number| format!("chain {prefix}{number} {{\n{rule}\n}}\n")).collect()
}

fn map(services: u32, name: &str, prefix: &str) -> String {
    let elements = elements(services, prefix);
    format!("map {name} {{\ntype inet_proto . ipv4_addr . inet_service : verdict\nelements = {{ {elements} }}\n}}\n")
}

/// The shortest way to write it by hand.
fn nat(services: u32, source: Source, flows: Flows) -> String {
    let [b1, b2] = BACKENDS;
    let rule = format!("dnat to numgen inc mod 2 map {{ 0 : {b1}, 1 : {b2} }}");
    format!(
        "table ip t {{\n{}{}chain pre {{\ntype nat hook prerouting priority -100\nip protocol . ip daddr . th dport vmap @services\n}}\n{}{}}}\n",
        chains(services, "s", &rule),
        map(services, "services", "s"),
        if source == Source::Ours { SNAT } else { "" },
        if flows == Flows::Fast { FLOWTABLE } else { "" },
    )
}

/// As nftlb 1.0.8 writes it: a mark and two lookups for every packet.
fn nftlb(services: u32, source: Source) -> String {
    let [b1, b2] = BACKENDS;
    let (m1, m2) = if source == Source::Ours { ("0x80000001", "0x80000002") } else { ("0x1", "0x2") };
    let pick = format!("ct state new ct mark 0x0 ct mark set numgen inc mod 2 map {{ 0 : {m1}, 1 : {m2} }}");
    let translate = format!("ip protocol {{ tcp, udp }} dnat to ct mark map {{ {m1} : {b1}, {m2} : {b2} }}");
    format!(
        "table ip t {{\n{}{}{}{}map back {{\ntype mark : ipv4_addr\n}}\n\
         chain filter {{\ntype filter hook prerouting priority -150\nmeta mark 0x0 meta mark set ct mark\n\
         ip protocol . ip daddr . th dport vmap @filters\n}}\n\
         chain pre {{\ntype nat hook prerouting priority -100\nct state new meta mark 0x0 meta mark set ct mark\n\
         ip protocol . ip daddr . th dport vmap @services\n}}\n\
         chain post {{\ntype nat hook postrouting priority 100\nct mark 0x0 ct mark set meta mark\n\
         ct mark and 0x80000000 == 0x80000000 masquerade\nsnat to ct mark map @back\n}}\n}}\n",
        chains(services, "f", &pick),
        chains(services, "n", &translate),
        map(services, "filters", "f"),
        map(services, "services", "n"),
    )
}

/// Addresses are rewritten packet by packet, and nothing is remembered.
fn stateless(services: u32) -> String {
    let [b1, b2] = BACKENDS;
    let rule = format!("notrack ip daddr set jhash ip saddr . th sport mod 2 map {{ 0 : {b1}, 1 : {b2} }}");
    format!(
        "table ip t {{\n{}{}chain pre {{\ntype filter hook prerouting priority -300\nip protocol . ip daddr . th dport vmap @services\n}}\n\
         chain back {{\ntype filter hook prerouting priority -301\nip saddr {{ {b1}, {b2} }} th sport 80 notrack ip saddr set {VIP}\n}}\n\
         chain forward {{\ntype filter hook forward priority 0\nct state established accept\n}}\n}}\n",
        chains(services, "s", &rule),
        map(services, "services", "s"),
    )
}

/// The frame goes on to another hardware address.
fn dsr(services: u32) -> String {
    let backend = "02:00:00:00:00:22";
    let rule = format!(
        "ether saddr set 02:00:00:00:00:21 ether daddr set jhash ip saddr . th sport mod 2 map {{ 0 : {backend}, 1 : {backend} }} fwd to l1"
    );
    format!(
        "table netdev t {{\n{}{}chain in {{\ntype filter hook ingress device l0 priority 0\nip protocol . ip daddr . th dport vmap @services\n}}\n}}\n",
        chains(services, "s", &rule),
        map(services, "services", "s"),
    )
}

fn ipvs(services: u32, forward: &str) -> Vec<Command> {
    let targets = Targets { first: VIP, count: services };
    let mut rules = String::new();
    for service in 0..services {
        let address = targets.address(service);
        for protocol in ["-u", "-t"] {
            let _ = writeln!(rules, "-A {protocol} {address}:80 -s rr");
            for backend in BACKENDS {
                let _ = writeln!(rules, "-a {protocol} {address}:80 -r {backend}:80 {forward} -w 1");
            }
        }
    }
    let local = command("ip route add local 10.9.0.0/16 dev lo", String::new());
    vec![local, command("ipvsadm -R", rules)]
}
