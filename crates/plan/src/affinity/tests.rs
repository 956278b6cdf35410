use proptest::prelude::*;

use super::*;

/// Siblings as Skylake numbers them: (0,4)(1,5)(2,6)(3,7).
const SPLIT: &[&[u32]] = &[&[0, 4], &[1, 5], &[2, 6], &[3, 7]];
/// Siblings as QEMU numbers them: (0,1)(2,3)(4,5)(6,7).
const ADJACENT: &[&[u32]] = &[&[0, 1], &[2, 3], &[4, 5], &[6, 7]];
const I5_9500: &[&[u32]] = &[&[0], &[1], &[2], &[3], &[4], &[5]];

const AUTO: Policy = Policy { irq: IrqPolicy::OnePerCore, rps: RpsPolicy::Auto, xps: XpsPolicy::SameCore };

fn cores(threads: &[&[u32]]) -> Vec<Core> {
    threads.iter().map(|threads| Core { threads: threads.to_vec(), numa_node: 0 }).collect()
}

fn nic(name: &str, driver: &str, queues: u32) -> Queues {
    Queues { name: name.into(), driver: driver.into(), rx: queues, tx: queues, numa_node: None }
}

fn mask(cpus: &[u32]) -> String {
    format!("{:02x}", cpus.iter().fold(0_u64, |mask, cpu| mask | 1 << cpu))
}

fn masks(queues: &[Vec<u32>]) -> String {
    queues.iter().map(|cpus| mask(cpus)).collect::<Vec<_>>().join(",")
}

/// `name irq … rps … xps …` with masks in hexadecimal, `-` for what is not touched.
fn text(spread: &Spread) -> String {
    let irq = spread.irq.as_ref().map(|cpus| masks(&cpus.iter().map(|cpu| vec![*cpu]).collect::<Vec<_>>()));
    let column = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let (rps, xps) = (spread.rps.as_deref().map(masks), spread.xps.as_deref().map(masks));
    format!("{} irq {} rps {} xps {}", spread.name, column(irq), column(rps), column(xps))
}

fn check(threads: &[&[u32]], nics: &[Queues], policy: Policy, expected: &[&str]) {
    let found: Vec<String> = spread(&cores(threads), nics, policy).iter().map(text).collect();
    assert_eq!(found, expected);
}

#[test]
fn sna7108_two_i210() {
    check(
        SPLIT,
        &[nic("lan0", "igb", 4), nic("lan1", "igb", 4)],
        AUTO,
        &[
            "lan0 irq 01,02,04,08 rps 00,00,00,00 xps 11,22,44,88",
            "lan1 irq 01,02,04,08 rps 00,00,00,00 xps 11,22,44,88",
        ],
    );
}

#[test]
fn sna7108_two_i211() {
    check(
        SPLIT,
        &[nic("lan0", "igb", 2), nic("lan1", "igb", 2)],
        AUTO,
        &["lan0 irq 01,02 rps 10,20 xps 55,aa", "lan1 irq 04,08 rps 40,80 xps 55,aa"],
    );
}

#[test]
fn sna7108_two_e1000e() {
    check(
        SPLIT,
        &[nic("lan0", "e1000e", 1), nic("lan1", "e1000e", 1)],
        AUTO,
        &["lan0 irq 01 rps fc xps -", "lan1 irq 02 rps fc xps -"],
    );
}

#[test]
fn sna7108_two_i350_with_four_queues() {
    check(
        SPLIT,
        &[nic("lan0", "igb", 4), nic("lan1", "igb", 4)],
        AUTO,
        &[
            "lan0 irq 01,02,04,08 rps 00,00,00,00 xps 11,22,44,88",
            "lan1 irq 01,02,04,08 rps 00,00,00,00 xps 11,22,44,88",
        ],
    );
}

#[test]
fn i350_with_all_queues_on_all_threads() {
    check(
        SPLIT,
        &[nic("lan0", "igb", 8)],
        Policy { irq: IrqPolicy::SpreadSmt, ..AUTO },
        &["lan0 irq 01,02,04,08,10,20,40,80 rps 00,00,00,00,00,00,00,00 xps 01,02,04,08,10,20,40,80"],
    );
}

#[test]
fn i350_with_all_queues_as_found_leaves_the_siblings_free_of_interrupts() {
    check(
        SPLIT,
        &[nic("lan0", "igb", 8)],
        AUTO,
        &["lan0 irq 01,02,04,08,01,02,04,08 rps 00,00,00,00,00,00,00,00 xps 01,02,04,08,10,20,40,80"],
    );
}

#[test]
fn sna7108_mixed_i219_and_i210() {
    check(
        SPLIT,
        &[nic("lan0", "e1000e", 1), nic("lan1", "igb", 4)],
        AUTO,
        &["lan0 irq 01 rps f0 xps -", "lan1 irq 01,02,04,08 rps 00,00,00,00 xps 11,22,44,88"],
    );
}

#[test]
fn i5_9500_two_i210() {
    check(
        I5_9500,
        &[nic("lan0", "igb", 4), nic("lan1", "igb", 4)],
        AUTO,
        &[
            "lan0 irq 01,02,04,08 rps 00,00,00,00 xps 11,22,04,08",
            "lan1 irq 10,20,01,02 rps 00,00,00,00 xps 10,20,05,0a",
        ],
    );
}

#[test]
fn vm_with_two_cpus_and_single_queue_virtio() {
    check(
        &[&[0], &[1]],
        &[nic("eth0", "virtio_net", 1), nic("eth1", "virtio_net", 1)],
        AUTO,
        &["eth0 irq 01 rps 02 xps -", "eth1 irq 02 rps 01 xps -"],
    );
}

#[test]
fn vm_with_four_cpus_and_virtio_that_spreads_itself() {
    check(&[&[0], &[1], &[2], &[3]], &[nic("eth0", "virtio_net", 4)], AUTO, &["eth0 irq - rps 00,00,00,00 xps -"]);
    // Where NAPI runs is not known, so nothing is steered either.
    check(&[&[0], &[1], &[2], &[3]], &[nic("eth0", "virtio_net", 2)], AUTO, &["eth0 irq - rps - xps -"]);
}

#[test]
fn qemu_82576_with_adjacent_siblings() {
    check(ADJACENT, &[nic("eth0", "igb", 4)], AUTO, &["eth0 irq 01,04,10,40 rps 00,00,00,00 xps 03,0c,30,c0"]);
}

#[test]
fn the_other_rows_with_adjacent_siblings() {
    check(
        ADJACENT,
        &[nic("lan0", "igb", 2), nic("lan1", "igb", 2)],
        AUTO,
        &["lan0 irq 01,04 rps 02,08 xps 33,cc", "lan1 irq 10,40 rps 20,80 xps 33,cc"],
    );
    check(
        ADJACENT,
        &[nic("lan0", "e1000e", 1), nic("lan1", "e1000e", 1)],
        AUTO,
        &["lan0 irq 01 rps fa xps -", "lan1 irq 04 rps fa xps -"],
    );
    check(
        ADJACENT,
        &[nic("lan0", "e1000e", 1), nic("lan1", "igb", 4)],
        AUTO,
        &["lan0 irq 01 rps aa xps -", "lan1 irq 01,04,10,40 rps 00,00,00,00 xps 03,0c,30,c0"],
    );
}

#[test]
fn idle_cores_are_dealt_to_the_queues() {
    check(SPLIT, &[nic("lan0", "igb", 2)], AUTO, &["lan0 irq 01,02 rps 14,28 xps 55,aa"]);
}

#[test]
fn a_nic_stays_on_its_numa_node_while_that_has_a_core_per_queue() {
    let mut cores = cores(&[&[0], &[1], &[2], &[3]]);
    cores[2].numa_node = 1;
    cores[3].numa_node = 1;
    let on_node_1 = |name: &str, queues| Queues { numa_node: Some(1), ..nic(name, "igb", queues) };
    let found = spread(&cores, &[on_node_1("a", 1), on_node_1("b", 1), on_node_1("c", 2), on_node_1("d", 3)], AUTO);
    let irqs: Vec<_> = found.iter().map(|spread| spread.irq.clone().unwrap()).collect();
    assert_eq!(irqs, [vec![2], vec![3], vec![2, 3], vec![2, 3, 0]]);
    assert_eq!(found[0].rps, Some(vec![vec![3]]), "steered within the node");
}

#[test]
fn what_is_left_alone_is_left_alone_and_off_is_written() {
    let leave = Policy { irq: IrqPolicy::Leave, rps: RpsPolicy::Leave, xps: XpsPolicy::Leave };
    check(SPLIT, &[nic("lan0", "igb", 2)], leave, &["lan0 irq - rps - xps -"]);
    let off = Policy { irq: IrqPolicy::Leave, rps: RpsPolicy::Off, xps: XpsPolicy::Off };
    check(SPLIT, &[nic("lan0", "igb", 2)], off, &["lan0 irq - rps 00,00 xps 00,00"]);
    check(&[], &[nic("lan0", "igb", 2)], AUTO, &["lan0 irq - rps - xps -"]);
    check(&[&[0]], &[nic("lan0", "e1000e", 1)], AUTO, &["lan0 irq 01 rps 00 xps -"]);
}

fn any_cores() -> impl Strategy<Value = Vec<Core>> {
    (1_u32..9, 1_u32..3, any::<bool>(), 1_u32..3).prop_map(|(count, smt, adjacent, nodes)| {
        let thread = |core: u32, thread: u32| if adjacent { core * smt + thread } else { core + thread * count };
        let core =
            |core| Core { threads: (0..smt).map(|n| thread(core, n)).collect(), numa_node: core * nodes / count };
        (0..count).map(core).collect()
    })
}

fn any_nics() -> impl Strategy<Value = Vec<Queues>> {
    let driver = prop_oneof![Just("igb"), Just("e1000e"), Just("virtio_net")];
    let nic = (driver, 1_u32..18, 1_u32..18, prop::option::of(0_u32..3));
    prop::collection::vec(nic, 0..5).prop_map(|nics| {
        let named = nics.into_iter().enumerate();
        named
            .map(|(n, (driver, rx, tx, numa_node))| Queues {
                name: format!("eth{n}"),
                driver: driver.into(),
                rx,
                tx,
                numa_node,
            })
            .collect()
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let irq = prop_oneof![Just(IrqPolicy::OnePerCore), Just(IrqPolicy::SpreadSmt), Just(IrqPolicy::Leave)];
    irq.prop_map(|irq| Policy { irq, ..AUTO })
}

proptest! {
    #[test]
    fn every_spread_keeps_the_three_rules(cores in any_cores(), nics in any_nics(), policy in any_policy()) {
        let cpus: BTreeSet<u32> = cores.iter().flat_map(|core| core.threads.clone()).collect();
        let found = spread(&cores, &nics, policy);
        prop_assert_eq!(found.len(), nics.len());
        for (spread, nic) in found.iter().zip(&nics) {
            if let Some(irq) = &spread.irq {
                prop_assert_eq!(irq.len(), nic.rx.max(nic.tx) as usize, "every queue has a CPU");
                prop_assert!(irq.iter().all(|cpu| cpus.contains(cpu)), "a CPU that exists");
            }
            if let Some(rps) = &spread.rps {
                prop_assert_eq!(rps.len(), nic.rx as usize);
                for (queue, mask) in rps.iter().enumerate() {
                    prop_assert!(mask.iter().all(|cpu| cpus.contains(cpu)));
                    let own = spread.irq.as_ref().map(|irq| irq[queue]);
                    prop_assert!(own.is_none_or(|own| !mask.contains(&own)), "never the CPU of NAPI");
                }
            }
            if let Some(xps) = &spread.xps {
                let mut all: Vec<u32> = xps.concat();
                all.sort_unstable();
                prop_assert_eq!(all, cpus.iter().copied().collect::<Vec<_>>(), "each CPU in exactly one mask");
            }
        }
    }
}
