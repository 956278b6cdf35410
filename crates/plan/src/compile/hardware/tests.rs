use std::path::PathBuf;
use std::sync::Arc;

use headgate_config::model::{Hardware, ProfileChoice, ProfileMatch};

use super::*;
use crate::facts::{Core, LinkAddress, Nic, NicLimits};

fn nic(driver: &str, pci: &str, queues: u32, first_irq: u32) -> Link {
    let irq = |queue| NicIrq { number: first_irq + queue, name: format!("x-TxRx-{queue}"), queue: Some(queue) };
    let nic = Nic {
        rx_queues: queues,
        tx_queues: queues,
        numa_node: None,
        limits: NicLimits::default(),
        irqs: (0..queues).map(irq).collect(),
    };
    Link { driver: Some(driver.into()), pci: Some(pci.into()), nic: Some(nic), ..Link::default() }
}

/// An SNA 7108 with two i210 that are not in the order of their names, and a container's interface.
fn facts() -> Facts {
    Facts {
        memory_bytes: 8_055_416 * 1024,
        cpu_model: "Intel(R) Xeon(R) CPU E3-1245 v5 @ 3.50GHz".into(),
        cores: (0..4).map(|core| Core { threads: vec![core, core + 4], numa_node: 0 }).collect(),
        initial_netns: true,
        links: BTreeMap::from([
            ("eth10".to_owned(), nic("igb", "0000:01:00.0", 4, 40)),
            ("eth2".to_owned(), nic("igb", "0000:02:00.0", 4, 50)),
            ("lo".to_owned(), Link { loopback: true, ..Link::default() }),
            ("veth0".to_owned(), Link::default()),
        ]),
        ..Facts::default()
    }
}

fn profile(id: &str, priority: u32, matches: Vec<ProfileMatch>) -> Profile {
    Profile { id: id.into(), title: id.into(), priority, matches, tuning: Tuning::default() }
}

fn origin(line: u32) -> Origin {
    Origin { file: Arc::new(PathBuf::from("/etc/headgate/headgate.toml")), line, column: 1 }
}

fn managed(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn with(profile: ProfileChoice) -> Config {
    Config { hardware: Hardware { profile, ..Hardware::default() }, ..Config::default() }
}

fn compile(config: &Config, profiles: &[Profile], facts: &Facts, names: &[&str]) -> Tuned {
    knobs(config, profiles, facts, &managed(names)).unwrap()
}

/// `path = value` of the knobs whose path contains the text.
fn lines(tuned: &Tuned, containing: &str) -> Vec<String> {
    let wanted = tuned.knobs.iter().filter(|knob| knob.path.contains(containing));
    wanted.map(|knob| format!("{} = {}", knob.path, knob.want.file_text())).collect()
}

#[test]
fn forwarding_is_tuned_without_any_profile() {
    let tuned = compile(&with(ProfileChoice::None), &[profile("generic", 0, vec![])], &facts(), &["eth2"]);
    assert_eq!(tuned.profile, None);
    assert_eq!(
        lines(&tuned, ""),
        [
            "proc/sys/net/ipv4/ip_forward = 1",
            "proc/sys/net/ipv4/conf/all/rp_filter = 0",
            "proc/sys/net/ipv4/conf/eth2/rp_filter = 0",
            "proc/sys/net/ipv4/conf/all/send_redirects = 0",
            "proc/sys/net/ipv4/conf/eth2/send_redirects = 0",
            "proc/sys/net/ipv4/conf/eth2/arp_ignore = 1",
            "proc/sys/net/ipv4/conf/eth2/arp_announce = 2",
            "proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal = 1",
        ]
    );
    assert!(tuned.knobs.iter().all(|knob| !knob.why.is_empty() && knob.origin.is_none()));
}

#[test]
fn ipv6_is_forwarded_where_it_is_used() {
    let mut facts = facts();
    assert!(lines(&compile(&Config::default(), &[], &facts, &[]), "ipv6").is_empty());
    facts.appliance = true;
    assert_eq!(
        lines(&compile(&Config::default(), &[], &facts, &[]), "ipv6"),
        ["proc/sys/net/ipv6/conf/all/forwarding = 1"]
    );
}

#[test]
fn queues_go_by_pci_address_and_everything_else_is_left_alone() {
    let mut facts = facts();
    let tuned = compile(&Config::default(), &[profile("generic", 0, vec![])], &facts, &["eth2", "lo"]);
    assert_eq!(
        lines(&tuned, "proc/irq"),
        [
            "proc/irq/50/smp_affinity_list = 0",
            "proc/irq/51/smp_affinity_list = 1",
            "proc/irq/52/smp_affinity_list = 2",
            "proc/irq/53/smp_affinity_list = 3",
        ]
    );
    assert_eq!(
        lines(&tuned, "rps_cpus"),
        (0..4).map(|n| format!("sys/class/net/eth2/queues/rx-{n}/rps_cpus = 0")).collect::<Vec<_>>()
    );
    assert_eq!(lines(&tuned, "xps_cpus")[3], "sys/class/net/eth2/queues/tx-3/xps_cpus = 88");
    for other in ["eth10", "veth0", "/lo/", "netdev_max_backlog"] {
        assert!(lines(&tuned, other).is_empty(), "{other}");
    }
    // On the appliance every NIC is ours; with a queue less than cores the first by PCI address gets the first cores.
    facts.appliance = true;
    for link in facts.links.values_mut().filter_map(|link| link.nic.as_mut()) {
        (link.rx_queues, link.tx_queues) = (1, 1);
        link.irqs.truncate(1);
    }
    let tuned = compile(&Config::default(), &[profile("generic", 0, vec![])], &facts, &["eth2"]);
    assert_eq!(lines(&tuned, "proc/irq"), ["proc/irq/40/smp_affinity_list = 0", "proc/irq/50/smp_affinity_list = 1"]);
    assert_eq!(
        lines(&tuned, "rps_cpus"),
        ["sys/class/net/eth10/queues/rx-0/rps_cpus = fc", "sys/class/net/eth2/queues/rx-0/rps_cpus = fc",]
    );
    assert_eq!(lines(&tuned, "netdev_max_backlog"), ["proc/sys/net/core/netdev_max_backlog = 4096"]);
}

#[test]
fn an_interface_that_carries_a_virtual_address_is_ours() {
    let mut facts = facts();
    let net = "172.16.1.1/24".parse().unwrap();
    facts.links.get_mut("veth0").unwrap().addresses.push(LinkAddress { net, ours: false });
    let listen = headgate_config::types::Listen {
        address: "172.16.1.1".parse().unwrap(),
        ports: headgate_config::types::Ports::One(80),
        protocol: headgate_config::types::Protocol::Tcp,
    };
    let config = Config::default();
    assert!(lines(&compile(&config, &[], &facts, &[]), "veth0").is_empty());
    let farm = crate::samples::farm("web", vec![listen], vec![]);
    let farms = BTreeMap::from([(farm.name.clone(), Arc::new(farm))]);
    assert_eq!(lines(&compile(&Config { farms, ..config }, &[], &facts, &[]), "veth0").len(), 4);
}

#[test]
fn the_interfaces_of_keepalived_are_left_alone() {
    let mut facts = facts();
    facts.links.insert("vrrp.51".to_owned(), Link::default());
    let tuned = compile(&Config::default(), &[profile("generic", 0, vec![])], &facts, &["eth2", "vrrp.51"]);
    assert!(lines(&tuned, "vrrp").is_empty());
}

#[test]
fn irqbalance_is_named_where_interrupts_are_placed() {
    let facts = Facts { rivals: BTreeSet::from(["irqbalance".to_owned()]), ..facts() };
    let generic = [profile("generic", 0, vec![])];
    let notes = |config: &Config| compile(config, &generic, &facts, &["eth2"]).notes;
    assert!(notes(&Config::default())[0].starts_with("irqbalance runs and moves interrupts"));
    let mut leaves = Config::default();
    leaves.hardware.overrides.irq = Some(IrqPolicy::Leave);
    assert!(notes(&leaves).is_empty());
}

#[test]
fn cpus_of_a_virtual_machine_sleep_as_its_hypervisor_likes() {
    use headgate_config::model::{Frequency, Switch, WakeUp};
    let mut config = Config::default();
    let overrides = &mut config.hardware.overrides;
    overrides.cpu_frequency = Some(Frequency::Performance);
    overrides.cpu_wake_up = Some(WakeUp::Micros(10));
    overrides.pcie_power_saving = Some(Switch::Off);
    let mut facts = Facts { cpufreq_policies: vec![0], ..facts() };
    let power = |facts: &Facts| {
        let tuned = compile(&config, &[], facts, &["eth2"]);
        [lines(&tuned, "cpu/"), lines(&tuned, "dev/cpu"), lines(&tuned, "aspm")].concat()
    };
    assert_eq!(
        power(&facts),
        [
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor = performance",
            "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference = performance",
            "dev/cpu_dma_latency = 10",
            "sys/class/net/eth2/device/link/l1_aspm = 0",
        ]
    );
    facts.virtual_machine = true;
    assert_eq!(power(&facts), ["sys/class/net/eth2/device/link/l1_aspm = 0"]);
}

#[test]
fn the_connection_table_goes_by_memory() {
    let gibibytes = |number: u64| conntrack_entries(number << 30);
    assert_eq!(
        [0, 1, 2, 4, 8, 16, 64, 1024].map(gibibytes),
        [1 << 18, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 23]
    );
    let generic = [profile("generic", 0, vec![])];
    let tuned = compile(&Config::default(), &generic, &facts(), &[]);
    let expected = [format!("{CONNTRACK_BUCKETS} = 1048576"), format!("{CONNTRACK_MAX} = 2097152")];
    assert_eq!([lines(&tuned, "buckets"), lines(&tuned, "conntrack_max")].concat(), expected);
    assert!(tuned.knobs.iter().filter(|knob| knob.path == CONNTRACK_MAX).all(|knob| knob.fit == Fit::AtLeast));
    let mut config = Config::default();
    config.hardware.overrides.conntrack_max = Some(ConntrackMax::Entries(100_000));
    config.hardware.overrides.origins.insert("conntrack.max".into(), origin(7));
    let tuned = compile(&config, &generic, &facts(), &[]);
    let expected = [format!("{CONNTRACK_BUCKETS} = 49664"), format!("{CONNTRACK_MAX} = 100000")];
    assert_eq!([lines(&tuned, "buckets"), lines(&tuned, "conntrack_max")].concat(), expected);
    let max = tuned.knobs.iter().find(|knob| knob.path == CONNTRACK_MAX).unwrap();
    assert_eq!((max.fit, max.origin.clone()), (Fit::Exact, Some(origin(7))));
}

#[test]
fn a_network_namespace_changes_nothing_of_its_host() {
    let mut generic = profile("generic", 0, vec![]);
    generic.tuning.sysctl = BTreeMap::from([
        ("kernel.panic".to_owned(), "10".to_owned()),
        ("net.ipv4.neigh.default.gc_thresh1".to_owned(), ">=1024".to_owned()),
        ("net.netfilter.nf_conntrack_acct".to_owned(), "0".to_owned()),
    ]);
    let facts = Facts { initial_netns: false, ..facts() };
    let tuned = compile(&Config::default(), &[generic], &facts, &[]);
    assert!(lines(&tuned, "kernel").is_empty() && lines(&tuned, "gc_thresh").is_empty());
    assert!(lines(&tuned, "conntrack_max").is_empty() && lines(&tuned, "buckets").is_empty());
    assert_eq!(lines(&tuned, "acct").len(), 1);
    assert_eq!(tuned.notes.len(), 3, "{:?}", tuned.notes);
}

#[test]
fn the_best_match_wins_over_those_below_it() {
    let sna = ProfileMatch {
        cpu_model: Some("*E3-1245 v5*".into()),
        cpu_cores: Some(4),
        nic_drivers: vec!["igb".into(), "e1000e".into()],
        nic_count_min: Some(2),
        ..ProfileMatch::default()
    };
    let mut profiles = [
        profile(
            "sna7108",
            100,
            vec![ProfileMatch { dmi_product: vec!["SNA7108*".into()], ..ProfileMatch::default() }, sna],
        ),
        profile("qemu", 50, vec![ProfileMatch { dmi_product: vec!["Standard PC*".into()], ..ProfileMatch::default() }]),
        profile("generic", 0, vec![]),
    ];
    profiles[2].tuning.irq = Some(IrqPolicy::Leave);
    profiles[0].tuning.sysctl.insert("vm.min_free_kbytes".into(), ">=131072".into());
    let name = |facts: &Facts| compile(&Config::default(), &profiles, facts, &["eth2"]).profile;
    let sna = facts();
    assert_eq!(name(&sna).as_deref(), Some("sna7108"));
    let tuned = compile(&Config::default(), &profiles, &sna, &["eth2"]);
    assert!(lines(&tuned, "proc/irq").is_empty(), "the profile below says leave");
    assert_eq!(lines(&tuned, "min_free"), ["proc/sys/vm/min_free_kbytes = 131072"]);
    assert!(tuned.knobs.iter().any(|knob| knob.path.ends_with("min_free_kbytes") && knob.fit == Fit::AtLeast));
    let one_nic = Facts { links: BTreeMap::from([("eth0".to_owned(), nic("igb", "0000:01:00.0", 4, 40))]), ..facts() };
    assert_eq!(name(&one_nic).as_deref(), Some("generic"));
    assert_eq!(name(&Facts { dmi_product: Some("SNA7108 r2".into()), ..one_nic }).as_deref(), Some("sna7108"));
    let qemu =
        Facts { cpu_model: "QEMU".into(), dmi_product: Some("Standard PC (Q35 + ICH9, 2009)".into()), ..facts() };
    assert_eq!(name(&qemu).as_deref(), Some("qemu"));
    assert_eq!(name(&Facts { cpu_model: String::new(), ..facts() }).as_deref(), Some("generic"));
    let named = compile(&with(ProfileChoice::Named("qemu".into())), &profiles, &sna, &[]);
    assert_eq!((named.profile.as_deref(), lines(&named, "min_free").len()), (Some("qemu"), 0));
    let unknown = knobs(&with(ProfileChoice::Named("sna".into())), &profiles, &sna, &managed(&[])).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no hardware profile \"sna\"; there are: generic, qemu, sna7108");
}

#[test]
fn overrides_and_literal_sysctls_have_the_last_word() {
    let mut generic = profile("generic", 0, vec![]);
    generic.tuning.sysctl = BTreeMap::from([
        ("net.ipv4.conf.{if}.accept_redirects".to_owned(), "0".to_owned()),
        ("net.netfilter.nf_conntrack_acct".to_owned(), "0".to_owned()),
        ("net.netfilter.nf_conntrack_log_invalid".to_owned(), "0".to_owned()),
    ]);
    generic.tuning.origins.insert("sysctl.net.netfilter.nf_conntrack_acct".into(), origin(3));
    let mut config = Config::default();
    config.hardware.overrides.irq = Some(IrqPolicy::Leave);
    config.hardware.overrides.rps = Some(RpsPolicy::Off);
    config.hardware.overrides.xps = Some(XpsPolicy::Leave);
    config.hardware.overrides.sysctl.insert("net.netfilter.nf_conntrack_log_invalid".into(), "unset".into());
    config.sysctl = BTreeMap::from([
        ("net.ipv4.conf.eth0/10.rp_filter".to_owned(), SysctlValue::Set("2".to_owned())),
        ("net.ipv4.conf.all.rp_filter".to_owned(), SysctlValue::Set("1".to_owned())),
        ("net.ipv4.conf.all.send_redirects".to_owned(), SysctlValue::Unset),
        ("net.ipv4.tcp_rmem".to_owned(), SysctlValue::Set("4096  131072\t6291456".to_owned())),
    ]);
    let tuned = compile(&config, &[generic], &facts(), &["eth2"]);
    assert!(lines(&tuned, "proc/irq").is_empty() && lines(&tuned, "xps").is_empty());
    assert_eq!(lines(&tuned, "rps_cpus").len(), 4);
    assert_eq!(
        lines(&tuned, "accept_redirects"),
        [
            "proc/sys/net/ipv4/conf/all/accept_redirects = 0",
            "proc/sys/net/ipv4/conf/default/accept_redirects = 0",
            "proc/sys/net/ipv4/conf/eth2/accept_redirects = 0",
        ]
    );
    assert!(lines(&tuned, "log_invalid").is_empty());
    let acct = tuned.knobs.iter().find(|knob| knob.path.ends_with("acct")).unwrap();
    assert_eq!(acct.origin, Some(origin(3)));
    assert_eq!(
        lines(&tuned, "rp_filter"),
        [
            "proc/sys/net/ipv4/conf/all/rp_filter = 1",
            "proc/sys/net/ipv4/conf/eth2/rp_filter = 0",
            "proc/sys/net/ipv4/conf/eth0.10/rp_filter = 2",
        ]
    );
    assert_eq!(lines(&tuned, "send_redirects"), ["proc/sys/net/ipv4/conf/eth2/send_redirects = 0"]);
    assert_eq!(lines(&tuned, "tcp_rmem"), ["proc/sys/net/ipv4/tcp_rmem = 4096 131072 6291456"]);
    let paths: BTreeSet<&str> = tuned.knobs.iter().map(|knob| knob.path.as_str()).collect();
    assert_eq!(paths.len(), tuned.knobs.len(), "one knob for each path");
}

#[test]
fn a_nic_without_interrupts_is_told_about() {
    let mut facts = facts();
    facts.links.get_mut("eth2").unwrap().nic.as_mut().unwrap().irqs.clear();
    let tuned = compile(&Config::default(), &[profile("generic", 0, vec![])], &facts, &["eth2"]);
    assert_eq!(tuned.notes, ["eth2: no interrupts of queues are known; a NIC that is down has none"]);
    assert_eq!(lines(&tuned, "rps_cpus").len(), 4, "queues are there before interrupts are");
}
