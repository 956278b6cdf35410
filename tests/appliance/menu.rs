//! GRUB's menu: reached by a key, never waited for, and no way around the console's password.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use headgate_image::demo::write_drop_in;
use headgate_image::qemu::{Firmware, Machine, Options, Writes};
use headgate_image::stop::Stop;

use super::disk::Disk;
use super::{BOOT, TURN, wait_until};

const DOWN: &str = "\x1b[B";
const ESCAPE: &str = "\x1b";
const TAB: &str = "\t";
const QUESTION: &str = "Type reset to go on";
const MENU: &str = "Factory reset: configuration and state";

fn start(disk: &Disk, drop_ins: Vec<PathBuf>, firmware: Firmware) -> Machine {
    Machine::start(Options { drop_ins, firmware, writes: Writes::Kept, ..Options::trial(&disk.image) }, &Stop::never())
        .unwrap()
}

/// A box that has kept a drop-in, and is off.
fn with_a_drop_in(text: &str) -> Disk {
    let disk = Disk::new();
    let file = write_drop_in(disk.directory.path(), "10-mine.toml", text).unwrap();
    let mut machine = start(&disk, vec![file], Firmware::Bios);
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("A_TRY") == Some("0"));
    drop(machine);
    assert!(disk.kept("fw-cfg").contains("10-mine.toml"), "{}", disk.kept("fw-cfg"));
    disk
}

/// Presses a key again and again, as people do, until this is there.
fn press_until(machine: &mut Machine, key: &str, text: &str) {
    let began = Instant::now();
    while machine.expect(text, Duration::from_millis(100)).is_err() {
        assert!(began.elapsed() < BOOT, "no {text:?}:\n{}", machine.transcript());
        machine.press(key).unwrap();
    }
    // Those that were too many change nothing.
    std::thread::sleep(Duration::from_secs(1));
}

/// The menu is open.
fn choose_reset(machine: &mut Machine, answer: &str) {
    machine.press(DOWN).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    machine.send("").unwrap();
    machine.expect(QUESTION, BOOT).unwrap();
    say(machine, answer);
}

/// Types as people do. Where UEFI has the serial port too, GRUB and the firmware both read it, and keys that come at once change
/// their order.
fn say(machine: &mut Machine, word: &str) {
    for key in word.chars().chain(['\r']) {
        machine.press(&key.to_string()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_menu_resets_a_box_whose_operator_says_so() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = with_a_drop_in("[system]\nhostname = \"mine\"\n");
    let mut machine = start(&disk, Vec::new(), Firmware::Bios);
    press_until(&mut machine, ESCAPE, MENU);
    choose_reset(&mut machine, "no");
    machine.expect("drop-ins kept from the first boot, fw-cfg: 10-mine.toml", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    drop(machine);
    // Here the firmware would take the other key for itself.
    let mut machine = start(&disk, Vec::new(), Firmware::Uefi);
    press_until(&mut machine, TAB, QUESTION);
    say(&mut machine, "reset");
    machine.expect("GRUB's menu asks for a factory reset: starting again for it", BOOT).unwrap();
    machine.expect("data is reset to what this system came with", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("RESET") == Some("0") && block.get("A_TRY") == Some("0"));
    drop(machine);
    assert!(!disk.kept("fw-cfg").contains("10-mine.toml"), "it is still there");
}

#[test]
fn the_menu_is_no_way_around_trust_and_password() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = with_a_drop_in("[system]\ntrust-media = \"never\"\n");
    let mut machine = start(&disk, Vec::new(), Firmware::Bios);
    press_until(&mut machine, ESCAPE, MENU);
    for key in ["e", "c"] {
        machine.press(key).unwrap();
        machine.expect("Enter username:", BOOT).unwrap();
        machine.send("root").unwrap();
        machine.expect("Enter password:", BOOT).unwrap();
        machine.send("root").unwrap();
        machine.expect(MENU, BOOT).unwrap();
    }
    choose_reset(&mut machine, "reset");
    machine.expect("GRUB's menu asks for a factory reset, but trust-media is \"never\"", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("RESET") == Some("0") && block.get("A_TRY") == Some("0"));
    drop(machine);
    assert!(disk.kept("fw-cfg").contains("10-mine.toml"), "{}", disk.kept("fw-cfg"));
}
