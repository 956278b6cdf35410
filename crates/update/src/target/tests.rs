use std::os::unix::fs::symlink;

use super::*;

/// A machine with a system disk `sda` and a stick `sdb`, both with a partition.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let machine = Self { root };
        machine.write("proc/self/mountinfo", "26 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n");
        machine.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\n");
        std::fs::create_dir_all(machine.path("sys/class/block")).unwrap();
        std::fs::create_dir_all(machine.path("dev")).unwrap();
        for (disk, major, removable) in [("sda", "8:0", "0"), ("sdb", "8:16", "1")] {
            machine.device(&format!("sys/devices/{disk}"), disk, major);
            machine.write(&format!("sys/devices/{disk}/removable"), removable);
            machine.write(&format!("sys/devices/{disk}/device/vendor"), "ACME    ");
            machine.write(&format!("sys/devices/{disk}/device/model"), "Stick 3000");
            let partition = format!("{disk}1");
            machine.device(
                &format!("sys/devices/{disk}/{partition}"),
                &partition,
                &major.replace(":0", ":1").replace(":16", ":17"),
            );
            machine.write(&format!("sys/devices/{disk}/{partition}/partition"), "1");
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn device(&self, directory: &str, name: &str, number: &str) {
        self.write(&format!("{directory}/dev"), &format!("{number}\n"));
        self.write(&format!("{directory}/size"), "2048\n");
        self.write(&format!("{directory}/ro"), "0\n");
        std::fs::create_dir_all(self.path(directory).join("holders")).unwrap();
        symlink(self.path(directory), self.path("sys/class/block").join(name)).unwrap();
        self.write(&format!("dev/{name}"), "");
    }

    fn look(&self, name: &str) -> Target {
        Target::look(self.root.path(), &self.path("dev").join(name), 1 << 20).unwrap()
    }
}

#[test]
fn an_idle_disk_is_shown_and_taken() {
    let target = Machine::new().look("sdb");
    assert_eq!((target.model.as_str(), target.size, target.removable), ("ACME Stick 3000", 1 << 20, true));
    target.check().unwrap();
    assert!(target.to_string().ends_with("/dev/sdb: ACME Stick 3000, 1.0 MiB, removable"), "{target}");
}

#[test]
fn the_systems_own_disk_is_refused() {
    let target = Machine::new().look("sda");
    assert_eq!(target.refusals, [Refusal::Mounted { at: "/".to_owned() }]);
    assert!(target.check().unwrap_err().to_string().contains("this system runs from it"));
}

#[test]
fn whatever_uses_a_disk_is_named() {
    let refusals = |change: &dyn Fn(&Machine)| {
        let machine = Machine::new();
        change(&machine);
        machine.look("sdb").refusals
    };
    let mounted = refusals(&|machine| {
        machine.write("proc/self/mountinfo", "40 26 8:17 / /media/stick rw shared:9 - vfat /dev/sdb1 rw\n")
    });
    assert_eq!(mounted, [Refusal::Mounted { at: "/media/stick".to_owned() }]);
    let btrfs =
        refusals(&|machine| machine.write("proc/self/mountinfo", "40 26 0:44 / /data rw - btrfs /dev/sdb1 rw\n"));
    assert_eq!(btrfs, [Refusal::Mounted { at: "/data".to_owned() }], "its number is not the disk's");
    let swap = refusals(&|machine| machine.write("proc/swaps", "Filename Type\n/dev/sdb1 partition 1 0 -2\n"));
    assert_eq!(swap, [Refusal::Swap]);
    let held = refusals(&|machine| machine.write("sys/devices/sdb/sdb1/holders/dm-0", ""));
    assert_eq!(held, [Refusal::Held { by: "dm-0".to_owned() }]);
    let locked = refusals(&|machine| machine.write("sys/devices/sdb/ro", "1"));
    assert_eq!(locked, [Refusal::ReadOnly]);
    let small = refusals(&|machine| machine.write("sys/devices/sdb/size", "2047"));
    assert_eq!(small, [Refusal::TooSmall { needed: 1 << 20 }]);
    assert_eq!(Machine::new().look("sdb1").refusals, [Refusal::Partition { disk: "sdb".to_owned() }]);
}

#[test]
fn what_is_no_disk_or_cannot_be_judged_is_an_error() {
    let machine = Machine::new();
    machine.write("dev/null", "");
    let look = |path: PathBuf| Target::look(machine.root.path(), &path, 1).unwrap_err().to_string();
    assert!(look(machine.path("dev/null")).contains("is no disk"));
    assert!(look(machine.path("dev/sdc")).contains("there is no"));
    std::fs::remove_file(machine.path("proc/self/mountinfo")).unwrap();
    assert!(look(machine.path("dev/sdb")).contains("nothing is written"));
}

#[test]
fn only_the_name_of_the_disk_is_a_yes() {
    let target = Machine::new().look("sdb");
    let name = target.device.display().to_string();
    let answer = |text: &str| ask(&target, &mut io::Cursor::new(text.to_owned()), &mut Vec::new());
    answer(&format!("{name}\n")).unwrap();
    for no in ["", "y\n", "yes\n", "/dev/sda\n"] {
        assert!(answer(no).unwrap_err().to_string().contains("nothing was written"), "{no:?}");
    }
}
