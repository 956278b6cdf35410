use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

const FORWARD: &str = "proc/sys/net/ipv4/ip_forward";
const RPS: &str = "sys/class/net/eth0/queues/rx-0/rps_cpus";

struct Machine {
    _directory: tempfile::TempDir,
    root: Root,
}

fn machine(files: &[(&str, &str)]) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::with_machine(directory.path().join("files"), directory.path().join("machine"));
    let machine = Machine { _directory: directory, root };
    files.iter().for_each(|(path, text)| machine.put(path, text));
    machine
}

impl Machine {
    fn path(&self, path: &str) -> std::path::PathBuf {
        let path = self.root.machine(path).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn put(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    fn get(&self, path: &str) -> String {
        self.root.read_machine(path).unwrap()
    }

    fn write(&self, path: &str, want: &KnobValue) -> Outcome {
        write(&self.root, exact(path, want))
    }

    fn restore(&self) -> Vec<(String, Outcome)> {
        restore(&self.root, &BTreeMap::new()).unwrap()
    }
}

fn exact<'a>(path: &'a str, want: &'a KnobValue) -> Turn<'a> {
    Turn { path, want, fit: Fit::Exact }
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.to_owned())
}

#[test]
fn a_value_is_written_once_and_read_back() {
    let machine = machine(&[(FORWARD, "0\n"), (RPS, "00000000\n")]);
    let (one, mask) = (KnobValue::Int(1), KnobValue::CpuMask(vec![1, 2, 3]));
    assert_eq!(machine.write(FORWARD, &one), Outcome::Set);
    assert_eq!(machine.write(RPS, &mask), Outcome::Set);
    assert_eq!((machine.get(FORWARD), machine.get(RPS)), ("1\n".into(), "e\n".into()));
    let stamp = |path: &str| {
        let data = fs::metadata(machine.root.machine(path).unwrap()).unwrap();
        (data.mtime(), data.mtime_nsec())
    };
    let before = (stamp(FORWARD), stamp(RPS));
    machine.put("unrelated", "");
    assert_eq!(machine.write(FORWARD, &one), Outcome::Kept);
    assert_eq!(machine.write(RPS, &mask), Outcome::Kept);
    assert_eq!((stamp(FORWARD), stamp(RPS)), before, "nothing was written");
    assert_eq!(read(&machine.root, RPS, &mask), Some(mask));
}

#[test]
fn equal_by_meaning_is_kept() {
    let machine = machine(&[(RPS, "00000000,0000000e\n")]);
    assert_eq!(machine.write(RPS, &KnobValue::CpuMask(vec![1, 2, 3])), Outcome::Kept);
    assert_eq!(originals(&machine.root).unwrap().knobs, BTreeMap::new());
}

#[test]
fn what_is_missing_is_unsupported() {
    let machine = machine(&[]);
    assert_eq!(machine.write(FORWARD, &KnobValue::Int(1)), Outcome::Unsupported);
    assert_eq!(read(&machine.root, FORWARD, &KnobValue::Int(1)), None);
}

#[test]
fn faults_are_refused_with_their_reason() {
    let machine = machine(&[]);
    fs::create_dir(machine.path("proc/directory")).unwrap();
    assert_eq!(machine.write("proc/directory", &KnobValue::Int(1)), refused("Is a directory"));
    nix::unistd::mkfifo(&machine.path("proc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(machine.write("proc/fifo", &KnobValue::Int(1)), refused("No such device or address"));
    assert!(matches!(machine.write("proc/../etc/passwd", &KnobValue::Int(1)), Outcome::Refused(_)));
    assert_eq!(originals(&machine.root).unwrap().knobs, BTreeMap::new(), "nothing changed, nothing is remembered");
}

#[test]
fn what_the_kernel_took_and_did_not_keep_is_refused() {
    // A write to this file of ours is accepted and lost, as some drivers do it.
    let machine = machine(&[]);
    symlink("/dev/null", machine.path("proc/lost")).unwrap();
    assert_eq!(machine.write("proc/lost", &KnobValue::Int(1)), refused("the kernel kept "));
}

#[test]
fn garbage_is_overwritten_and_its_text_kept() {
    let machine = machine(&[(FORWARD, "garbage\n")]);
    assert_eq!(machine.write(FORWARD, &KnobValue::Int(1)), Outcome::Set);
    assert_eq!(originals(&machine.root).unwrap().knobs[FORWARD].was, "garbage");
    machine.put(FORWARD, "\u{fffd}");
    assert_eq!(machine.write(FORWARD, &KnobValue::Int(1)), Outcome::Set);
}

#[test]
fn interrupts_that_the_kernel_manages_are_unsupported() {
    let io = |errno: Errno| Fault::from(RootError::Io { verb: "write", path: "x".into(), source: errno.into() });
    assert_eq!(fault("proc/irq/41/smp_affinity_list", &io(Errno::EIO)), Outcome::Unsupported);
    assert_eq!(fault("proc/irq/41/smp_affinity_list", &io(Errno::EPERM)), Outcome::Unsupported);
    assert_eq!(fault("proc/sys/x", &io(Errno::EPERM)), refused("Operation not permitted"));
    assert_eq!(fault("proc/sys/x", &io(Errno::EINVAL)), refused("Invalid argument"));
    assert_eq!(fault("proc/sys/x", &io(Errno::EROFS)), refused("Read-only file system"));
    assert_eq!(fault("sys/x", &io(Errno::EOPNOTSUPP)), Outcome::Unsupported);
}

#[test]
fn the_first_original_is_restored() {
    let machine = machine(&[(FORWARD, "0\n"), (RPS, "00000002\n")]);
    machine.write(FORWARD, &KnobValue::Int(1));
    machine.write(FORWARD, &KnobValue::Int(2));
    machine.write(RPS, &KnobValue::CpuMask(vec![3]));
    let still = BTreeMap::from([(FORWARD.to_owned(), KnobValue::Int(2))]);
    assert_eq!(restore(&machine.root, &still).unwrap(), [(RPS.to_owned(), Outcome::Set)]);
    assert_eq!((machine.get(FORWARD), machine.get(RPS)), ("2\n".into(), "00000002\n".into()));
    assert_eq!(machine.restore(), [(FORWARD.to_owned(), Outcome::Set)]);
    assert_eq!(machine.get(FORWARD), "0\n");
    assert_eq!(machine.restore(), []);
}

#[test]
fn what_somebody_else_changed_is_not_taken_back() {
    let machine = machine(&[(FORWARD, "0\n")]);
    machine.write(FORWARD, &KnobValue::Int(1));
    machine.put(FORWARD, "3\n");
    assert_eq!(machine.restore(), [(FORWARD.to_owned(), Outcome::Kept)]);
    assert_eq!(machine.get(FORWARD), "3\n");
}

#[test]
fn what_is_gone_is_forgotten_and_what_is_refused_is_not() {
    let machine = machine(&[(FORWARD, "0\n"), (RPS, "0\n")]);
    machine.write(FORWARD, &KnobValue::Int(1));
    machine.write(RPS, &KnobValue::CpuMask(vec![1]));
    fs::remove_file(machine.path(RPS)).unwrap();
    fs::remove_file(machine.path(FORWARD)).unwrap();
    fs::create_dir(machine.path(FORWARD)).unwrap();
    let expected = [(FORWARD.to_owned(), refused("Is a directory")), (RPS.to_owned(), Outcome::Unsupported)];
    assert_eq!(machine.restore(), expected);
    assert_eq!(machine.restore(), expected[..1]);
}

#[test]
fn a_full_disk_does_not_stop_the_change() {
    let machine = machine(&[(FORWARD, "0\n")]);
    // A file in place of the directory: nothing can be kept below it.
    machine.root.write_file("var", b"").unwrap();
    assert_eq!(machine.write(FORWARD, &KnobValue::Int(1)), Outcome::Set);
    assert!(matches!(originals(&machine.root), Err(OriginalsError::File(_))));
    assert!(restore(&machine.root, &BTreeMap::new()).is_err());
    assert_eq!(machine.get(FORWARD), "1\n");
}

#[test]
fn damaged_originals_are_reported_and_put_aside() {
    let machine = machine(&[(FORWARD, "0\n")]);
    let garbage: [&[u8]; 5] = [b"", b"{", b"\xff", b"[]", b"{\"boot\":\"\",\"knobs\":{\"x\":1}}"];
    for garbage in garbage {
        machine.root.write_file(ORIGINALS, garbage).unwrap();
        assert!(matches!(originals(&machine.root), Err(OriginalsError::Damaged(_))), "{garbage:?}");
        assert!(restore(&machine.root, &BTreeMap::new()).is_err());
        machine.put(FORWARD, "0\n");
        assert_eq!(machine.write(FORWARD, &KnobValue::Int(1)), Outcome::Set);
        assert_eq!(machine.root.read_file_bytes(DAMAGED).unwrap(), garbage);
        assert_eq!(originals(&machine.root).unwrap().knobs[FORWARD].was, "0");
    }
}

#[test]
fn originals_of_an_earlier_boot_mean_nothing() {
    let machine = machine(&[(FORWARD, "0\n"), ("proc/sys/kernel/random/boot_id", "first\n")]);
    machine.write(FORWARD, &KnobValue::Int(1));
    assert_eq!(originals(&machine.root).unwrap().knobs.len(), 1);
    machine.put("proc/sys/kernel/random/boot_id", "second\n");
    assert_eq!(machine.restore(), []);
}

#[test]
fn a_write_that_fails_leaves_the_originals_as_they_were() {
    let machine = machine(&[(FORWARD, "0\n")]);
    machine.write(FORWARD, &KnobValue::Int(1));
    let before = originals(&machine.root).unwrap();
    let kept = machine.path("proc/kept");
    fs::rename(machine.path(FORWARD), &kept).unwrap();
    // A FIFO without a reader can be opened for reading and not for writing.
    nix::unistd::mkfifo(&machine.path(FORWARD), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(machine.write(FORWARD, &KnobValue::Int(5)), refused("No such device or address"));
    assert_eq!(originals(&machine.root).unwrap(), before);
    fs::rename(kept, machine.path(FORWARD)).unwrap();
    assert_eq!(machine.restore(), [(FORWARD.to_owned(), Outcome::Set)]);
}

const RINGS: &str = "ethtool/eth0/rings";

fn rings(rx: i64, tx: i64) -> KnobValue {
    KnobValue::Fields([("rx".to_owned(), rx), ("tx".to_owned(), tx)].into())
}

#[test]
fn settings_of_a_nic_are_files_on_a_machine_of_files() {
    let machine = machine(&[(RINGS, "rx=256 tx=256 rx-max=4096\n")]);
    assert_eq!(read(&machine.root, RINGS, &rings(0, 0)), Some(rings(256, 256)));
    assert_eq!(machine.write(RINGS, &rings(256, 256)), Outcome::Kept);
    assert_eq!(machine.write(RINGS, &rings(2048, 1024)), Outcome::Set);
    assert_eq!(machine.get(RINGS), "rx=2048 tx=1024\n");
    assert_eq!(originals(&machine.root).unwrap().knobs[RINGS].was, "rx=256 tx=256", "only what was changed");
    assert_eq!(machine.restore(), [(RINGS.to_owned(), Outcome::Set)]);
    assert_eq!(machine.get(RINGS), "rx=256 tx=256\n");
    assert_eq!(machine.write("ethtool/eth1/rings", &rings(1, 1)), Outcome::Unsupported);
    machine.put(RINGS, "rx=256\n");
    assert_eq!(machine.write(RINGS, &rings(512, 512)), Outcome::Set, "a file takes anything");
}

#[test]
fn a_number_that_is_near_enough_is_left_alone() {
    const USECS: &str = "ethtool/eth0/coalesce";
    let usecs = |number| KnobValue::Fields([("rx-usecs".to_owned(), number)].into());
    let machine = machine(&[(USECS, "rx-usecs=8333\n"), (FORWARD, "200\n")]);
    let turn = |number, fit| write(&machine.root, Turn { path: USECS, want: &usecs(number), fit });
    assert_eq!(turn(8191, Fit::Near), Outcome::Kept);
    assert_eq!(turn(8191, Fit::Exact), Outcome::Set);
    assert_eq!(turn(3, Fit::Near), Outcome::Set, "3 is not 8191");
    machine.put(USECS, "rx-usecs=1\n");
    assert_eq!(turn(3, Fit::Near), Outcome::Set, "nor is it 1");
    let want = KnobValue::Int(100);
    let forward = |fit| write(&machine.root, Turn { path: FORWARD, want: &want, fit });
    assert_eq!(forward(Fit::AtLeast), Outcome::Kept);
    assert_eq!(forward(Fit::AtMost), Outcome::Set);
    assert_eq!(forward(Fit::AtMost), Outcome::Kept);
}

#[test]
fn many_are_turned_in_order_and_their_originals_kept_together() {
    let machine = machine(&[(FORWARD, "0\n"), (RPS, "0\n")]);
    symlink("/dev/null", machine.path("proc/lost")).unwrap();
    let (one, mask) = (KnobValue::Int(1), KnobValue::CpuMask(vec![1]));
    let turns = [
        exact(FORWARD, &one),
        exact("proc/lost", &one),
        exact("proc/none", &one),
        exact(RPS, &mask),
        exact(RPS, &mask),
    ];
    let expected = [Outcome::Set, refused("the kernel kept "), Outcome::Unsupported, Outcome::Set, Outcome::Kept];
    assert_eq!(write_all(&machine.root, &turns), expected);
    let kept = originals(&machine.root).unwrap().knobs;
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["proc/lost", FORWARD, RPS]);
    assert_eq!(kept[FORWARD], Original { was: "0".into(), ours: one });
    assert_eq!(kept["proc/lost"].ours, KnobValue::text(""), "what is left there is what the kernel kept");
}

/// One knob of each kind: its file, what is wanted of it, and what is found.
fn one_of_each_kind() -> [(&'static str, KnobValue, &'static str); 7] {
    [
        ("proc/sys/net/ipv4/x", KnobValue::Int(100_000), "0\n"),
        ("proc/irq/41/smp_affinity_list", KnobValue::CpuList(vec![2000, 2001]), "0-7\n"),
        (RPS, KnobValue::CpuMask(vec![2000]), "00\n"),
        (
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
            KnobValue::Text("performance".into()),
            "powersave\n",
        ),
        (RINGS, rings(2048, 1024), "rx=256 tx=256\n"),
        ("ethtool/eth0/features/rx-gro", KnobValue::Int(2000), "0\n"),
        ("ethtool/eth0/hash/udp4", KnobValue::Text("sdfn".into()), "sd\n"),
    ]
}

#[test]
fn every_kind_of_knob_meets_every_fault() {
    for (path, want, before) in one_of_each_kind() {
        let absent = machine(&[]);
        assert_eq!(absent.write(path, &want), Outcome::Unsupported, "{path}: ENOENT");
        assert_eq!(originals(&absent.root).unwrap().knobs, BTreeMap::new(), "{path}");

        // A file of the kernel that takes numbers up to 1000 and answers EINVAL to everything else.
        let picky = machine(&[]);
        symlink("/proc/self/oom_score_adj", picky.path(path)).unwrap();
        assert_eq!(picky.write(path, &want), refused("Invalid argument"), "{path}: EINVAL");
        assert_eq!(originals(&picky.root).unwrap().knobs, BTreeMap::new(), "{path}: nothing changed");

        let deaf = machine(&[]);
        symlink("/dev/null", deaf.path(path)).unwrap();
        let told = deaf.write(path, &want);
        assert!(matches!(&told, Outcome::Refused(why) if why.starts_with("the kernel kept")), "{path}: {told:?}");

        let full = machine(&[]);
        symlink("/dev/full", full.path(path)).unwrap();
        let told = full.write(path, &want);
        assert!(matches!(told, Outcome::Refused(_)), "{path}: ENOSPC, or zeros without end: {told:?}");

        let willing = machine(&[(path, before)]);
        assert_eq!(willing.write(path, &want), Outcome::Set, "{path}");
        assert_eq!(willing.write(path, &want), Outcome::Kept, "{path}");
        assert_eq!(willing.restore(), [(path.to_owned(), Outcome::Set)], "{path}");
        assert_eq!(willing.get(path).trim(), before.trim(), "{path}");
    }
}

#[test]
fn what_a_driver_says_by_netlink_means_the_same() {
    let kernel = |errno: Errno| fault(RINGS, &Fault::Kernel(errno.into()));
    for errno in [Errno::EOPNOTSUPP, Errno::ENODEV] {
        assert_eq!(kernel(errno), Outcome::Unsupported, "{errno}");
    }
    for (errno, told) in [
        (Errno::EINVAL, "Invalid argument"),
        (Errno::EBUSY, "Device or resource busy"),
        (Errno::EPERM, "Operation not permitted"),
        (Errno::EIO, "I/O error"),
    ] {
        assert_eq!(kernel(errno), refused(told), "{errno}");
    }
}
