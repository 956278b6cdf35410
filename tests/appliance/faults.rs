//! What is no fault of the firmware and must not cost the box its service nor its slot: damaged data, full data, a wrong drop-in, missing
//! cables, dead backends. And what is: a kernel that panics, a slot that rots.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use headgate_image::demo::{DROP_IN, Networks, write_drop_in};
use headgate_image::layout::Content;
use headgate_image::qemu::{Firmware, Link, Machine, Options, Writes};
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};

use super::disk::Disk;
use super::{BOOT, COMMAND, TURN, wait_for_console, wait_until};

/// Puts a drop-in where any PC can put one after flashing.
fn onto_esp(disk: &Disk, name: &str, text: &str) {
    let file = write_drop_in(disk.directory.path(), name, text).unwrap();
    let esp = format!("{}@@{}", disk.image.display(), disk.layout.place(Content::Esp).unwrap().offset);
    run(tool("mcopy").args(["-o", "-i", &esp]).arg(&file).arg("::headgate/conf.d/")).unwrap();
}

fn start(disk: &Disk, links: Vec<Link>, firmware: Firmware) -> Machine {
    Machine::start(Options { links, firmware, writes: Writes::Kept, ..Options::trial(&disk.image) }, &Stop::never())
        .unwrap()
}

fn is_served(networks: &Networks, machine: &Machine) {
    if let Err(error) = networks.wait_until_served(BOOT, &Stop::never()) {
        panic!("{error:#}; the serial port said:\n{}", machine.transcript());
    }
}

/// It serves, its slot is good, and its status has this sentence.
fn serves_and_says(disk: &Disk, networks: &Networks, machine: &mut Machine, sentence: &str) {
    is_served(networks, machine);
    machine.expect("headgate> ", BOOT).unwrap();
    let status = wait_for_console(machine, "status", |said| said.contains(sentence));
    assert!(status.contains(sentence), "{sentence:?} is not said: {status}");
    wait_until(disk, |block| block.get("A_OK") == Some("1") && block.get("A_TRY") == Some("0"));
    assert_eq!(networks.ask(10).unwrap().values().sum::<usize>(), 10);
}

#[test]
fn damaged_data_leaves_the_box_with_what_media_say() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    onto_esp(&disk, "10-demo.toml", DROP_IN);
    let place = disk.layout.place(Content::Data).unwrap();
    let mut image = File::options().write(true).open(&disk.image).unwrap();
    image.seek(SeekFrom::Start(place.offset)).unwrap();
    image.write_all(&vec![0xa5; 1 << 20]).unwrap();
    let (networks, links) = Networks::create().unwrap();
    let mut machine = start(&disk, links, Firmware::Bios);
    machine.expect("configuration and state are in memory and will be gone after a reboot", BOOT).unwrap();
    serves_and_says(&disk, &networks, &mut machine, "in memory and will be gone after a reboot");
    drop(machine);
    let mut left = [0; 4096];
    let mut image = File::open(&disk.image).unwrap();
    image.seek(SeekFrom::Start(place.offset)).unwrap();
    image.read_exact(&mut left).unwrap();
    assert_eq!(left, [0xa5; 4096], "what may be rescued yet was written to");
}

/// Fills a box's data, as what a service writes there would.
fn fill(disk: &Disk) {
    let place = disk.layout.place(Content::Data).unwrap();
    let (data, filler) = (disk.data(), disk.directory.path().join("filler"));
    std::fs::write(&filler, vec![1; usize::try_from(place.size).unwrap()]).unwrap();
    // It writes as much as there is room for, and says that there is no more.
    let request = format!("write {} state/filler", filler.display());
    tool("debugfs").args(["-w", "-R", &request]).arg(&data).output().unwrap();
    run(tool("e2fsck").arg("-fy").arg(&data)).unwrap_or_default();
    assert_eq!(free_blocks(&data), 0, "there is room left");
    let mut image = File::options().write(true).open(&disk.image).unwrap();
    image.seek(SeekFrom::Start(place.offset)).unwrap();
    std::io::copy(&mut File::open(&data).unwrap(), &mut image).unwrap();
}

fn free_blocks(data: &Path) -> u64 {
    let told = run(tool("dumpe2fs").arg("-h").arg(data)).unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    let line = told.lines().find_map(|line| line.strip_prefix("Free blocks:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn full_data_leaves_the_box_with_what_ran_last() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    onto_esp(&disk, "10-demo.toml", DROP_IN);
    let (networks, links) = Networks::create().unwrap();
    let mut machine = start(&disk, links, Firmware::Bios);
    is_served(&networks, &machine);
    machine.expect("headgate> ", BOOT).unwrap();
    let times = wait_for_console(&mut machine, "boot-times", |said| said.contains("kept on data"));
    assert!(times.contains("kept on data"), "{times}");
    drop((machine, networks));
    fill(&disk);
    let (networks, links) = Networks::create().unwrap();
    let mut machine = start(&disk, links, Firmware::Uefi);
    serves_and_says(&disk, &networks, &mut machine, "0.0 MiB of ");
}

#[test]
fn a_wrong_drop_in_on_the_esp_costs_neither_service_nor_slot() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    onto_esp(&disk, "10-demo.toml", &format!("{DROP_IN}\n[system]\ntrust-media = \"always\"\n"));
    let (networks, links) = Networks::create().unwrap();
    let mut machine = start(&disk, links, Firmware::Bios);
    is_served(&networks, &machine);
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("A_TRY") == Some("0"));
    drop((machine, networks));
    onto_esp(&disk, "20-wrong.toml", "[farms.web]\nmode = \"santa\"\n");
    let (networks, links) = Networks::create().unwrap();
    let mut machine = start(&disk, links, Firmware::Bios);
    serves_and_says(&disk, &networks, &mut machine, "20-wrong.toml");
}

#[test]
fn a_slot_whose_kernel_panics_is_left() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    // Called as init it prints its usage and ends, which a kernel does not outlive.
    disk.put_into_slot_b("headgate-init", &disk.program("headgate"));
    let mut machine = disk.start(Firmware::Bios);
    for attempt in 1..=3 {
        machine.expect(&format!("headgate-grub slot B of B A, A ok 1 try 0, B ok 1 try {attempt}"), BOOT).unwrap();
        machine.expect("Kernel panic - not syncing", BOOT).unwrap();
    }
    machine.expect("headgate-grub slot A of B A", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("A_OK") == Some("1") && block.get("A_TRY") == Some("0"));
    let (status, _) = machine.console("status", COMMAND).unwrap();
    assert!(status.contains("FELL BACK: slot B, version 9.9.9"), "{status}");
}

#[test]
fn missing_cables_and_dead_backends_cost_no_slot() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    disk.add_parameter("headgate.gate=45");
    onto_esp(&disk, "10-demo.toml", DROP_IN);
    let mut machine = start(&disk, vec![Link::User, Link::User], Firmware::Bios);
    machine.unplug(0).unwrap();
    machine.unplug(1).unwrap();
    machine.expect("headgate-grub slot A of A B, A ok 1 try 1", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("A_OK") == Some("1") && block.get("A_TRY") == Some("0"));
    let times = machine.console("boot-times", COMMAND).unwrap().0;
    assert!(times.contains("slot marked good") && !times.contains("carrier of"), "{times}");
    std::thread::sleep(Duration::from_secs(60));
    assert!(
        machine.transcript().matches("headgate-grub slot").count() == 1,
        "it has started again: {}",
        machine.transcript()
    );
    let status = machine.console("status", COMMAND).unwrap().0;
    assert!(status.contains("172.16.1.1:80/tcp"), "{status}");
}

#[test]
fn a_slot_that_rots_later_is_left() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    disk.put_into_slot_b("headgate", &disk.program("headgate"));
    let mut machine = disk.start(Firmware::Bios);
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("B_OK") == Some("1") && block.get("B_TRY") == Some("0"));
    drop(machine);
    let place = disk.layout.place(Content::Empty).unwrap();
    let mut image = File::options().write(true).open(&disk.image).unwrap();
    image.seek(SeekFrom::Start(place.offset)).unwrap();
    image.write_all(&vec![0xa5; 64 << 20]).unwrap();
    let mut machine = disk.start(Firmware::Bios);
    for attempt in 1..=3 {
        machine.expect(&format!("headgate-grub slot B of B A, A ok 1 try 0, B ok 1 try {attempt}"), BOOT).unwrap();
        machine.expect("headgate-grub cannot start slot B", BOOT).unwrap();
    }
    machine.expect("headgate-grub slot A of B A", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("A_OK") == Some("1") && block.get("A_TRY") == Some("0"));
    let (status, _) = machine.console("status", COMMAND).unwrap();
    assert!(status.contains("FELL BACK: slot B, version 9.9.9"), "{status}");
}
