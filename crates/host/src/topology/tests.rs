use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A machine made of files: path below it and text.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, text)| machine.write(path, text));
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn root(&self) -> Root {
        Root::with_machine("/nonexistent", self.directory.path())
    }

    /// A NIC at a PCI address, as sysfs lays it out.
    fn nic(&self, name: &str, driver: &str, pci: &str, queues: u32, irqs: &[u32]) {
        let virtio = if driver == "virtio_net" { "/virtio2" } else { "" };
        let device = format!("sys/devices/pci0000:00/{pci}{virtio}");
        for queue in 0..queues {
            self.write(&format!("{device}/net/{name}/queues/rx-{queue}/rps_cpus"), "00\n");
            self.write(&format!("{device}/net/{name}/queues/tx-{queue}/xps_cpus"), "00\n");
        }
        self.write(&format!("sys/devices/pci0000:00/{pci}/numa_node"), "-1\n");
        for irq in irqs {
            self.write(&format!("sys/devices/pci0000:00/{pci}/msi_irqs/{irq}"), "msix\n");
        }
        let path = |text: &str| self.directory.path().join(text);
        fs::create_dir_all(path("sys/class/net")).unwrap();
        fs::create_dir_all(path(&format!("sys/bus/drivers/{driver}"))).unwrap();
        symlink(path(&format!("sys/bus/drivers/{driver}")), path(&format!("{device}/driver"))).unwrap();
        symlink(path(&device), path(&format!("{device}/net/{name}/device"))).unwrap();
        symlink(path(&format!("{device}/net/{name}")), path(&format!("sys/class/net/{name}"))).unwrap();
    }
}

const SKYLAKE: [(&str, &str); 20] = [
    ("proc/cpuinfo", "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU E3-1245 v5 @ 3.50GHz\nflags\t\t: fpu ht\n"),
    ("proc/meminfo", "MemTotal:        8055416 kB\nMemFree: 1 kB\n"),
    ("proc/cmdline", "quiet headgate.slot=a root=/dev/ram0\n"),
    ("proc/sys/kernel/osrelease", "6.12.9\n"),
    ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
    ("sys/class/dmi/id/product_name", "To be filled by O.E.M.\n"),
    ("sys/class/dmi/id/sys_vendor", "To be filled by O.E.M.\n"),
    ("sys/devices/system/cpu/online", "0-7\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/node/has_cpu", "0\n"),
    ("sys/devices/system/node/node0/cpulist", "0-7\n"),
    ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,4\n"),
    ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,5\n"),
    ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,6\n"),
    ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3,7\n"),
    ("sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "0,4\n"),
    ("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "1,5\n"),
    ("sys/devices/system/cpu/cpu6/topology/thread_siblings_list", "2,6\n"),
    ("sys/devices/system/cpu/cpu7/topology/thread_siblings_list", "3,7\n"),
    ("sys/class/net/bonding_masters", "\n"),
];

fn threads(facts: &Facts) -> Vec<Vec<u32>> {
    facts.cores.iter().map(|core| core.threads.clone()).collect()
}

#[test]
fn an_appliance_is_read_whole() {
    let machine = Machine::new(&SKYLAKE);
    machine.nic("eth4", "igb", "0000:01:00.0", 4, &[40, 41, 42, 43, 44]);
    machine.write(
        "proc/interrupts",
        "            CPU0       CPU1\n  8:  0  0  IR-IO-APIC    8-edge      rtc0\n\
         \x20 40:  1  0  IR-PCI-MSIX-0000:01:00.0    0-edge      eth4\n 41: 5 5 IR-PCI-MSI 524289-edge eth4-TxRx-0\n\
         \x2042: 5 5 IR-PCI-MSI 524290-edge eth4-TxRx-1\n 43: 0 0 IR-PCI-MSI 524291-edge eth4-TxRx-2\n\
         \x2044: 0 0 IR-PCI-MSI 524292-edge eth4-TxRx-3\n 50: 0 0 IR-PCI-MSI 5-edge eth40-TxRx-0\nNMI:  0  0  Non-maskable interrupts\nERR: 0\n",
    );
    let facts = read(&machine.root()).unwrap();
    assert_eq!(facts.memory_bytes, 8055416 * 1024);
    assert_eq!(facts.kernel_release, "6.12.9");
    assert_eq!(facts.cpu_model, "Intel(R) Xeon(R) CPU E3-1245 v5 @ 3.50GHz");
    assert_eq!(facts.dmi_product.as_deref(), Some("To be filled by O.E.M."));
    assert!(facts.appliance && facts.initial_netns && !facts.virtual_machine);
    assert_eq!(threads(&facts), [[0, 4], [1, 5], [2, 6], [3, 7]]);
    assert_eq!(facts.links.keys().collect::<Vec<_>>(), ["eth4"]);
    let link = &facts.links["eth4"];
    assert_eq!((link.driver.as_deref(), link.pci.as_deref()), (Some("igb"), Some("0000:01:00.0")));
    let nic = link.nic.as_ref().unwrap();
    assert_eq!((nic.rx_queues, nic.tx_queues, nic.numa_node), (4, 4, None));
    let queues: Vec<_> = nic.irqs.iter().map(|irq| (irq.number, irq.queue)).collect();
    assert_eq!(queues, [(40, None), (41, Some(0)), (42, Some(1)), (43, Some(2)), (44, Some(3))]);
    let load = crate::load::read(&machine.root());
    let vectors: Vec<_> =
        load.vectors.iter().map(|vector| (vector.irq, vector.queue, vector.interrupts.get(&1).copied())).collect();
    assert_eq!(
        vectors,
        [(40, None, None), (41, Some(0), Some(5)), (42, Some(1), Some(5)), (43, Some(2), None), (44, Some(3), None)]
    );
}

#[test]
fn vectors_are_known_by_their_four_styles_of_names() {
    for (action, queue) in [
        ("eth0-TxRx-11", Some(11)),
        ("eth0-rx-0", Some(0)),
        ("eth0-tx-3", Some(3)),
        ("i40e-eth0-TxRx-2", Some(2)),
        ("virtio2-input.0", Some(0)),
        ("virtio2-output.7", Some(7)),
        ("virtio2-config", None),
        ("virtio0-req.0", None),
        ("eth0", None),
        ("eth0-1", None),
        ("eth0-rx-", None),
        ("eth0-rx-99999999999", None),
        ("rx-1", None),
    ] {
        assert_eq!(queue_of(action), queue, "{action}");
    }
}

#[test]
fn virtio_has_its_interrupts_at_the_pci_device() {
    let machine = Machine::new(&SKYLAKE);
    machine.nic("eth0", "virtio_net", "0000:00:03.0", 1, &[37, 38, 39]);
    machine.write(
        "proc/interrupts",
        " 36: 0 0 PCI-MSIX-0000:00:02.0 1-edge virtio1-req.0\n 37: 0 0 PCI-MSIX 0-edge virtio2-config\n \
         38: 0 3 PCI-MSIX 1-edge virtio2-input.0\n 39: 2 0 PCI-MSIX 2-edge virtio2-output.0\n",
    );
    let device = nic(&machine.root(), "eth0").unwrap();
    assert_eq!((device.driver.as_deref(), device.pci.as_deref()), (Some("virtio_net"), Some("0000:00:03.0")));
    let queues: Vec<_> = device.nic.irqs.iter().map(|irq| (irq.number, irq.queue)).collect();
    assert_eq!(queues, [(37, None), (38, Some(0)), (39, Some(0))]);
}

#[test]
fn a_single_vector_serves_the_only_queue() {
    let machine = Machine::new(&SKYLAKE);
    machine.nic("lan0", "e1000e", "0000:00:1f.6", 1, &[127]);
    machine.write("proc/interrupts", "127: 0 9 IR-PCI-MSI 520192-edge lan0\n");
    let irqs = nic(&machine.root(), "lan0").unwrap().nic.irqs;
    assert_eq!(irqs, [NicIrq { number: 127, name: "lan0".into(), queue: Some(0) }]);
}

#[test]
fn without_msi_irqs_names_decide_and_a_nic_that_is_down_has_none() {
    let machine = Machine::new(&SKYLAKE);
    machine.nic("lan1", "e1000e", "0000:02:00.0", 1, &[]);
    assert_eq!(nic(&machine.root(), "lan1").unwrap().nic.irqs, []);
    machine.write("proc/interrupts", " 16: 1 1 IO-APIC 16-fasteoi lan1\n 17: 0 0 IO-APIC 17-fasteoi lan10\n");
    let numbers: Vec<_> = nic(&machine.root(), "lan1").unwrap().nic.irqs.iter().map(|irq| irq.number).collect();
    assert_eq!(numbers, [16]);
    assert_eq!(nic(&machine.root(), "veth0"), None);
    assert_eq!(nic(&machine.root(), "../lan1"), None);
}

#[test]
fn cpus_that_are_offline_or_isolated_do_not_count() {
    let machine = Machine::new(&SKYLAKE);
    machine.write("sys/devices/system/cpu/online", "0-2,4,6-7\n");
    machine.write("sys/devices/system/cpu/isolated", "2,6\n");
    assert_eq!(threads(&read(&machine.root()).unwrap()), [vec![0, 4], vec![1], vec![7]]);
}

#[test]
fn numa_nodes_and_adjacent_siblings_are_read() {
    let machine = Machine::new(&[
        ("sys/devices/system/cpu/online", "0-3"),
        ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0-1"),
        ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "0-1"),
        ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2-3"),
        ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "2-3"),
        ("sys/devices/system/node/node0/cpulist", "0-1"),
        ("sys/devices/system/node/node1/cpulist", "2-3"),
        ("sys/class/dmi/id/sys_vendor", "QEMU"),
    ]);
    let facts = read(&machine.root()).unwrap();
    let nodes: Vec<_> = facts.cores.iter().map(|core| (core.threads.clone(), core.numa_node)).collect();
    assert_eq!(nodes, [(vec![0, 1], 0), (vec![2, 3], 1)]);
    assert!(facts.virtual_machine && !facts.initial_netns && !facts.appliance);
    assert_eq!((facts.memory_bytes, facts.dmi_product), (0, None));
}

#[test]
fn a_machine_with_little_to_say_has_a_core_per_cpu() {
    let machine = Machine::new(&[("proc/cpuinfo", "processor : 0\nprocessor : 1\n")]);
    assert_eq!(threads(&read(&machine.root()).unwrap()), [[0], [1]]);
    let machine = Machine::new(&[("sys/devices/system/cpu/online", "7-3,x")]);
    assert!(matches!(read(&machine.root()), Err(TopologyError::NoCpu)));
    let machine = Machine::new(&[]);
    fs::create_dir_all(machine.directory.path().join("proc/cpuinfo")).unwrap();
    assert!(matches!(read(&machine.root()), Err(TopologyError::File(_))));
}

#[test]
fn this_machine_can_be_read_and_memory_is_what_the_kernel_says() {
    let facts = read(&Root::default()).unwrap();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    assert!(meminfo.contains(&format!("{} kB", facts.memory_bytes / 1024)), "{}", facts.memory_bytes);
    assert!(!facts.cores.is_empty() && !facts.kernel_release.is_empty());
    assert!(facts.links.contains_key("lo"));
}
