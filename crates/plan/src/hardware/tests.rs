use super::*;
use crate::facts::{Link, Nic, NicIrq};
use crate::state::Fit;

fn facts() -> Facts {
    let irq = |number, name: &str, queue| NicIrq { number, name: name.into(), queue };
    let nic = Nic {
        rx_queues: 2,
        tx_queues: 2,
        numa_node: None,
        limits: Default::default(),
        irqs: vec![irq(40, "eth4", None), irq(41, "eth4-TxRx-0", Some(0)), irq(42, "eth4-TxRx-1", Some(1))],
    };
    Facts {
        cpu_model: "Intel(R) Xeon(R) CPU E3-1245 v5 @ 3.50GHz".into(),
        cores: (0..4).map(|core| Core { threads: vec![core, core + 4], numa_node: 0 }).collect(),
        memory_bytes: 8 << 30,
        dmi_product: Some("SNA7108".into()),
        kernel_release: "6.12.9".into(),
        links: BTreeMap::from([
            ("eth4".to_owned(), Link { driver: Some("igb".into()), nic: Some(nic), ..Link::default() }),
            ("lo".to_owned(), Link { loopback: true, ..Link::default() }),
        ]),
        ..Facts::default()
    }
}

fn knob(path: &str, want: KnobValue) -> Knob {
    Knob { path: path.into(), want, fit: Fit::Exact, why: "a reason".into(), origin: None }
}

fn rings(rx: i64, tx: i64) -> KnobValue {
    KnobValue::Fields([("rx".into(), rx), ("tx".into(), tx)].into())
}

fn report() -> HardwareReport {
    let (list, mask) = (KnobValue::CpuList, KnobValue::CpuMask);
    let knobs = [
        knob("proc/irq/41/smp_affinity_list", list(vec![0])),
        knob("proc/irq/42/smp_affinity_list", list(vec![1])),
        knob("sys/class/net/eth4/queues/rx-0/rps_cpus", mask(vec![4])),
        knob("sys/class/net/eth4/queues/rx-1/rps_cpus", mask(vec![])),
        knob("proc/sys/net/ipv4/ip_forward", KnobValue::Int(1)),
        knob("proc/sys/net/netfilter/none", KnobValue::Int(1)),
        knob("ethtool/eth4/rings", rings(2048, 1024)),
        knob("ethtool/eth4/eee", KnobValue::Fields([("enabled".into(), 0)].into())),
        knob("ethtool/eth4/coalesce", KnobValue::Fields([("adaptive-rx".into(), 1)].into())),
    ];
    let found = BTreeMap::from([
        (knobs[0].path.clone(), list(vec![0])),
        (knobs[1].path.clone(), list((0..8).collect())),
        (knobs[2].path.clone(), mask(vec![4])),
        (knobs[3].path.clone(), mask(vec![])),
        (knobs[4].path.clone(), KnobValue::Int(0)),
        (knobs[6].path.clone(), rings(256, 256)),
        (knobs[8].path.clone(), KnobValue::Fields([("adaptive-rx".into(), 0)].into())),
    ]);
    let outcomes = BTreeMap::from([
        (knobs[4].path.clone(), Outcome::Refused("Read-only file system".into())),
        (knobs[8].path.clone(), Outcome::Unsupported),
    ]);
    let originals = BTreeMap::from([(knobs[0].path.clone(), "0-7".to_owned())]);
    let mut report = HardwareReport::new(Sources {
        facts: &facts(),
        profile: Some("sna7108"),
        knobs: &knobs,
        found: &found,
        outcomes: &outcomes,
        originals: &originals,
    });
    report.set_load(&BTreeMap::from([(0, 7), (1, 100)]));
    report
}

#[test]
fn a_table_of_queues_and_what_is_not_as_wanted() {
    let expected = "\
Machine  SNA7108
CPU      Intel(R) Xeon(R) CPU E3-1245 v5 @ 3.50GHz
Cores    4, 8 threads: 0,4 1,5 2,6 3,7
Load     0: 7 %  1: 100 %
Memory   8.0 GiB
Kernel   6.12.9
Profile  sna7108

NIC             QUEUE  IRQ       CPU        LOAD  RPS              XPS
eth4                0  41        0          7 %   4                -
eth4                1  42        0-7>1      -     off              -

eth4
  rings: rx 256, tx 256 > rx 2048, tx 1024

9 knobs: 3 as wanted, 2 differ, 1 refused, 3 not on this machine
differs   /proc/irq/42/smp_affinity_list = 1 (found 0-7)
refused   /proc/sys/net/ipv4/ip_forward = 1 (found 0: Read-only file system)
differs   ethtool eth4 rings = rx=2048 tx=1024 (found rx=256 tx=256)
";
    assert_eq!(report().to_string(), expected);
    assert!(expected.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn all_knobs_with_their_reasons_on_demand() {
    let text = format!("{:#}", report());
    assert!(text.contains("as wanted /proc/irq/41/smp_affinity_list = 0\n          a reason; it was 0-7\n"), "{text}");
    assert!(text.contains("not here  /proc/sys/net/netfilter/none = 1\n"), "{text}");
}

#[test]
fn a_machine_that_says_nothing_is_shown_too() {
    let text = HardwareReport::default().to_string();
    assert!(text.starts_with("Machine  unknown\nCPU      unknown\nCores    0, 0 threads: \n"), "{text}");
    assert!(text.contains("Profile  none\n\nNo NIC with queues.\n"), "{text}");
}
