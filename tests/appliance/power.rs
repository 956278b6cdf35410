//! Power cuts: one run of a box is written down, request by request, and its disk is looked at as if the power had gone at a
//! thousand points of it; from some of them it starts again.
//!
//! Killing QEMU would prove nothing: the host keeps what the guest wrote. Here what was not flushed is dropped or torn.
//! `make test-power`, CUTS=1000, BOOTS=20, SEED=N.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;

use headgate_image::demo::{DROP_IN, write_drop_in};
use headgate_image::layout::Content;
use headgate_image::parts::{System, partitions};
use headgate_image::qemu::{Firmware, Machine, Options, Writes};
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};
use headgate_update::bundle::digest;
use headgate_update::grubenv::{Block, SIZE, Slot};

use super::disk::Disk;
use super::log::{Dice, Entry, Replay, SECTOR, read};
use super::{BOOT, COMMAND, TURN, wait_for_console};

/// The guest writes it behind the environment's file system to say what it has been told is done.
const MARK: &str = "headgate-power ";
const WEIGHT: &str = "weight = ";

/// What the guest had been told when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Told {
    /// This weight is kept for good.
    weight: u32,
    /// The update is in its slot.
    updated: bool,
}

/// The box before the run, and what is true of it afterwards.
struct Run {
    disk: Disk,
    before: Vec<u8>,
    entries: Vec<Entry>,
    /// Of the update's slot image.
    size: usize,
    sha256: String,
}

/// One start: the data partition grows, a slot is marked good, an update is installed, and a weight is changed for good many
/// times before, during and after that.
fn record() -> Run {
    let (disk, key) = Disk::trusting();
    let file = File::options().write(true).open(&disk.image).unwrap();
    file.set_len(file.metadata().unwrap().len() + (32 << 20)).unwrap();
    let update = disk.update("7.0.0", &key);
    let system = System::find(&disk.directory.path().join("7.0.0.img")).unwrap();
    let (sha256, _) = digest(system.open().unwrap()).unwrap();
    let size = usize::try_from(system.size).unwrap();
    let before = std::fs::read(&disk.image).unwrap();

    let tools = disk.directory.path().join("tools.tar");
    let script = disk.source.join("tests/appliance/work");
    run(tool("tar").args(["--transform", "s,.*/,,", "--absolute-names", "-cf"]).arg(&tools).arg(&script)).unwrap();
    let file = File::options().write(true).open(&tools).unwrap();
    file.set_len(file.metadata().unwrap().len().next_multiple_of(4096)).unwrap();
    let begin = "busybox mkdir /run/work && busybox tar -x -f /dev/vdb -C /run/work && exec busybox ash /run/work/work";
    let service = format!(
        "[services.work]\ncommand = [\"/usr/bin/busybox\", \"ash\", \"-c\", \"{begin}\"]\nafter = [\"network\"]\nrestart = \"never\"\n"
    );
    let log = disk.directory.path().join("log");
    let drop_ins = vec![drop_in(disk.directory.path(), &service)];
    let writes = Writes::Recorded(log.clone());
    let options = Options { writes, drop_ins, disks: vec![tools, update], ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    machine.expect("work: done", 2 * BOOT).unwrap();
    assert!(!machine.transcript().contains("work: failed"), "{}", machine.transcript());
    drop(machine);
    let entries = read(&log);
    let count = |flush: bool| entries.iter().filter(|entry| (**entry == Entry::Flush) == flush).count();
    eprintln!("recorded: {} writes, {} flushes", count(false), count(true));
    Run { disk, before, entries, size, sha256 }
}

/// Never kept on data: a start from a cut-off state gets it anew.
fn drop_in(directory: &Path, more: &str) -> PathBuf {
    write_drop_in(directory, "10-power.toml", &format!("{DROP_IN}[system]\ntrust-media = \"always\"\n{more}")).unwrap()
}

impl Run {
    fn place(&self, content: Content) -> std::ops::Range<usize> {
        let place = self.disk.layout.place(content).unwrap();
        let start = usize::try_from(place.offset).unwrap();
        start..start + usize::try_from(place.size).unwrap()
    }

    /// What the guest had been told by the `count`-th entry.
    fn told(&self, count: usize) -> Told {
        let mut told = Told::default();
        let env = self.place(Content::Env);
        for entry in &self.entries[..count] {
            let Entry::Write { offset, data } = entry else { continue };
            let last = env.end - SECTOR as usize;
            let Some(at) = last.checked_sub(*offset as usize).filter(|at| at + MARK.len() <= data.len()) else {
                continue;
            };
            let text = String::from_utf8_lossy(&data[at..(at + 64).min(data.len())]).into_owned();
            match text.strip_prefix(MARK).and_then(|rest| rest.split_whitespace().next()) {
                Some("updated") => told.updated = true,
                Some(weight) => told.weight = weight.parse().unwrap(),
                None => {}
            }
        }
        told
    }

    /// The slot that GRUB starts from these variables, as `image/grub.cfg` decides it; with none left it begins again.
    fn chosen(&self, disk: &[u8]) -> (Slot, Block) {
        let env = &disk[self.place(Content::Env)];
        let known = Block::find(&self.before[self.place(Content::Env)]).unwrap();
        // Torn: both slots count as untried, A comes first.
        let Ok(block) = Block::parse(&env[known..known + SIZE]) else { return (Slot::A, Block::fresh()) };
        let starts = |slot: &Slot| {
            let get = |name: &str| block.get(&format!("{slot}_{name}")).unwrap_or_default().to_owned();
            get("OK") == "1" && get("TRY") != "3"
        };
        let order: Vec<Slot> = block.get("ORDER").unwrap_or("A B").split(' ').filter_map(Slot::parse).collect();
        let slot = order.iter().copied().find(starts).unwrap_or(order[0]);
        (slot, block)
    }

    /// Whether the bytes of the update lie whole in slot B.
    fn is_whole(&self, disk: &[u8], known: &mut HashMap<Vec<u8>, bool>) -> bool {
        let start = self.place(Content::Empty).start;
        // Fewer bytes apart than a sector has: every sector shows in it, so states that were digested already are known.
        let bytes = &disk[start..start + self.size];
        let print: Vec<u8> = bytes.iter().step_by(509).copied().collect();
        *known.entry(print).or_insert_with(|| digest(bytes).unwrap().0 == self.sha256)
    }

    /// What must be true of a disk whatever happened; the weight that it holds.
    fn check(&self, disk: &[u8], told: Told, scratch: &Scratch) -> u32 {
        assert_eq!(
            disk[self.place(Content::Slot)],
            self.before[self.place(Content::Slot)],
            "the running slot was written to"
        );
        let table = scratch.file("table", &disk[..1 << 20], disk.len() as u64);
        let data = partitions(&table).unwrap().into_iter().find(|partition| partition.name == "data").unwrap();
        let (start, end) = (data.offset as usize, (data.offset + data.size) as usize);
        let data = scratch.file("data", &disk[start..end], (end - start) as u64);
        // As a start does: the journal is replayed and what it left is put right; 4 is what only a person could decide.
        let checked = tool("e2fsck").args(["-f", "-p"]).arg(&data).output().unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        let kept = debugfs(&data, "cat etc/conf.d/90-operator.toml");
        let weight =
            kept.lines().find_map(|line| line.trim().strip_prefix(WEIGHT)).map_or(0, |weight| weight.parse().unwrap());
        assert!(weight >= told.weight, "{told:?} was promised: {kept:?}");
        assert!(weight == 0 || kept.contains("[farms.web.backends.b1]"), "half a file: {kept:?}");
        weight
    }
}

fn debugfs(file: &Path, request: &str) -> String {
    String::from_utf8(tool("debugfs").args(["-R", request]).arg(file).output().unwrap().stdout).unwrap()
}

/// A directory in memory.
struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A file with these bytes at its start, of this length.
    fn file(&self, name: &str, bytes: &[u8], length: u64) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        path
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
#[ignore = "half an hour: `make test-power`"]
fn a_power_cut_leaves_a_good_slot_and_the_configuration() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (cuts, boots, seed) = (number("HEADGATE_CUTS", 1000), number("HEADGATE_BOOTS", 20), number("HEADGATE_SEED", 1));
    let run = record();
    let scratch = Scratch(tempfile::tempdir_in("/dev/shm").unwrap());
    let mut dice = Dice(seed);
    let mut points: Vec<usize> = (0..cuts).map(|_| 1 + dice.below(run.entries.len())).collect();
    points.sort_unstable();
    let started: Vec<usize> = (0..boots).map(|_| dice.below(points.len())).collect();
    let mut known = HashMap::new();
    let mut slots = HashMap::<String, usize>::new();
    let mut weights = std::collections::BTreeSet::new();
    let mut states = Vec::new();
    let mut replay = Replay::new(run.before.clone(), &run.entries);
    for (index, &point) in points.iter().enumerate() {
        let told = run.told(point);
        replay.cut(point, &mut dice, |disk| {
            let (slot, block) = run.chosen(disk);
            if slot == Slot::B || block.get("B_OK") == Some("1") {
                assert!(
                    run.is_whole(disk, &mut known),
                    "after {point} entries of {seed}: slot B may start and is not whole"
                );
            }
            assert!(
                !told.updated || slot == Slot::B,
                "after {point} entries of {seed}: the update was promised, {block:?}"
            );
            *slots.entry(slot.to_string()).or_default() += 1;
            weights.insert(run.check(disk, told, &scratch));
            if started.contains(&index) {
                let image = run.disk.directory.path().join(format!("cut-{point}.img"));
                std::fs::write(&image, disk).unwrap();
                run_sparse(&image);
                states.push((image, slot, told));
            }
        });
    }
    eprintln!("{cuts} states of {} entries: {slots:?} start, {} weights", run.entries.len(), weights.len());
    for (number, (image, slot, told)) in states.into_iter().enumerate() {
        let firmware = if number % 2 == 0 { Firmware::Bios } else { Firmware::Uefi };
        starts_again(&run, image, firmware, (slot, told));
    }
}

/// A second copy of a disk is not to fill the first one.
fn run_sparse(image: &Path) {
    let status = Command::new("fallocate").arg("--dig-holes").arg(image).status().unwrap();
    assert!(status.success());
}

/// The box starts from a disk that lost its power: from the slot that was foreseen, with what was promised.
fn starts_again(run: &Run, image: PathBuf, firmware: Firmware, (slot, told): (Slot, Told)) {
    let drop_ins = vec![drop_in(run.disk.directory.path(), "")];
    let options = Options { writes: Writes::Kept, drop_ins, firmware, ..Options::trial(&image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect(&format!("headgate-grub slot {slot} of "), BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    let shown = wait_for_console(&mut machine, "update status", |said| said.contains(&format!("slot {slot} runs")));
    assert!(shown.contains(&format!("slot {slot} runs")), "{shown}");
    let status = wait_for_console(&mut machine, "status", |said| said.contains("web"));
    assert!(!status.contains("in memory") && status.contains("web"), "{status}");
    let (kept, _) = machine.console("config show", COMMAND).unwrap();
    let weight =
        kept.lines().find_map(|line| line.trim().strip_prefix(WEIGHT)).map_or(0, |weight| weight.parse().unwrap());
    assert!(weight >= told.weight, "{told:?} was promised: {kept}");
    eprintln!(
        "{}: slot {slot}, weight {weight} of {} promised, {:.0} s",
        image.display(),
        told.weight,
        machine.uptime().as_secs_f64()
    );
    drop(machine);
    std::fs::remove_file(image).unwrap();
}
