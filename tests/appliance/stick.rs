//! What comes to a box from outside while it starts and runs: a stick with drop-ins, an update and the wish for a factory reset;
//! an update from a server.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use headgate_image::binaries;
use headgate_image::demo::{DROP_IN, write_drop_in};
use headgate_image::layout::Content;
use headgate_image::qemu::{Firmware, Machine, Options, Writes};
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};

use super::disk::Disk;
use super::{BOOT, TURN, wait_for_console, wait_until};

/// A stick with these files, as somebody would make it: FAT32 with the label, small letters.
fn stick(directory: &Path, name: &str, files: &[(&Path, &str)]) -> PathBuf {
    let path = directory.join(name);
    File::create(&path).unwrap().set_len(80 << 20).unwrap();
    run(tool("mkfs.vfat").args(["-F", "32", "-n", "HEADGATE"]).arg(&path)).unwrap();
    run(tool("mmd").arg("-i").arg(&path).args(["::headgate", "::headgate/conf.d"])).unwrap();
    for (file, place) in files {
        run(tool("mcopy").arg("-i").arg(&path).arg(file).arg(format!("::headgate/{place}"))).unwrap();
    }
    path
}

fn service(arguments: &str) -> String {
    format!(
        "[services.update]\ncommand = [\"/usr/bin/headgate\", \"update\", \"install\", {arguments}]\nafter = [\"network\"]\nrestart = \"on-failure\"\n"
    )
}

#[test]
fn a_stick_configures_updates_and_resets_a_box() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (disk, key) = Disk::trusting();
    let directory = disk.directory.path();
    let update = disk.update("7.0.0", &key);
    let text = format!("{DROP_IN}{}", service("\"--stick\""));
    let drop_in = write_drop_in(directory, "10-stick.toml", &text).unwrap();
    let plugged = stick(directory, "stick.img", &[(&drop_in, "conf.d/10-stick.toml"), (&update, "box.update")]);
    let start = |plugged: &Path, firmware| {
        let sticks = vec![plugged.to_owned()];
        let options = Options { firmware, writes: Writes::Kept, sticks, ..Options::trial(&disk.image) };
        Machine::start(options, &Stop::never()).unwrap()
    };

    let mut machine = start(&plugged, Firmware::Bios);
    machine.expect("drop-ins from usb: 10-stick.toml", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("B_VERSION") == Some("7.0.0") && block.get("A_TRY") == Some("0"));
    let times = wait_for_console(&mut machine, "boot-times", |said| said.contains("kept on data"));
    for what in ["initramfs", "slot A mounted", "data mounted", "headgated begins", "network and farms stand"] {
        assert!(times.contains(what), "{what}: {times}");
    }
    eprintln!("{times}");
    drop(machine);
    let before = disk.kept("usb");
    assert!(before.contains("10-stick.toml"), "it was not kept: {before}");

    // What was kept on data counts now, and the wish on another stick ends it.
    let wish = directory.join("wish");
    std::fs::write(&wish, "please\n").unwrap();
    let wishing = stick(directory, "wish.img", &[(&wish, "factory-reset")]);
    let mut machine = start(&wishing, Firmware::Uefi);
    machine.expect("headgate-grub slot B of B A", BOOT).unwrap();
    machine.expect("the stick asks for a factory reset: starting again for it", BOOT).unwrap();
    machine.expect("data is reset to what this system came with", BOOT).unwrap();
    machine.expect("the stick asks for the factory reset that it had already", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("RESET") == Some("0") && block.get("B_TRY") == Some("0"));
    drop(machine);
    let kept = disk.kept("usb");
    assert!(!kept.contains("10-stick.toml"), "it is still there: {kept}");
}

#[test]
fn a_box_installs_itself_on_another_disk() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    let target = disk.directory.path().join("inside.img");
    File::create(&target).unwrap().set_len(400 << 20).unwrap();
    let install = "[services.install]\ncommand = [\"/usr/bin/headgate\", \"install\", \"/dev/vdb\", \"--yes\"]\nrestart = \"never\"\n";
    let drop_ins = vec![write_drop_in(disk.directory.path(), "10-install.toml", install).unwrap()];
    let targets = vec![target.clone()];
    let options = Options { writes: Writes::Kept, drop_ins, targets, ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    let began = std::time::Instant::now();
    // The table is written last.
    let begins = || {
        let mut head = [0; 520];
        File::open(&target).unwrap().read_exact(&mut head).unwrap();
        head[512..].to_vec()
    };
    while begins() != b"EFI PART" {
        assert!(began.elapsed() < BOOT, "{}", machine.console("status", super::COMMAND).unwrap().0);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    drop(machine);

    run(tool("sfdisk").arg("--verify").arg(&target)).unwrap();
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let options = Options { firmware, writes: Writes::Kept, ..Options::trial(&target) };
        let mut machine = Machine::start(options, &Stop::never()).unwrap();
        machine.expect("headgate-grub slot A of A B", BOOT).unwrap();
        machine.expect("data mounted from /dev/vda6", BOOT).unwrap();
        machine.expect("headgate> ", BOOT).unwrap();
        let told = wait_for_console(&mut machine, "update status", |said| said.contains("slot A runs"));
        assert!(told.contains("slot A runs"), "{told}");
    }
    let data = format!("{}?offset={}", target.display(), disk.layout.place(Content::Data).unwrap().offset);
    let told = run(tool("dumpe2fs").arg("-h").arg(data)).unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    let blocks =
        told.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap().trim().parse::<u64>().unwrap();
    assert!(blocks * 4096 > 150 << 20, "data did not grow to its disk: {told}");
}

/// QEMU's own network: the machine that it runs on is 10.0.2.2 there.
#[test]
fn an_update_comes_from_a_server() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (disk, key) = Disk::trusting();
    let update = disk.update("7.0.0", &key);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(&listener, &update));
    let interface =
        "[network.interfaces.outside]\nmatch = { driver = \"igb\", index = 0 }\naddresses = [\"10.0.2.15/24\"]\n";
    let text = format!("{interface}{}", service(&format!("\"http://10.0.2.2:{port}/box.update\"")));
    let drop_ins = vec![write_drop_in(disk.directory.path(), "10-server.toml", &text).unwrap()];
    let options = Options { writes: Writes::Kept, drop_ins, ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("ORDER") == Some("B A") && block.get("B_VERSION") == Some("7.0.0"));
}

/// The first one who asks is cut off in the middle, the next ones get all.
fn serve(listener: &TcpListener, update: &Path) {
    let bytes = std::fs::read(update).unwrap();
    for (number, stream) in listener.incoming().enumerate() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let sent = if number == 0 { &bytes[..bytes.len() / 2] } else { &bytes[..] };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
    }
}

/// Where somebody would flash who has started another system on the machine: here the box itself, with `headgate-image` in it.
#[test]
fn flash_writes_the_disk_that_it_is_told_to_and_no_other() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    let flasher = binaries::compile(&disk.source, &["headgate-image"]).unwrap().join("headgate-image");
    disk.put_into_slot_b("headgate", &flasher);
    let directory = disk.directory.path();
    let image = disk.source.join("build/headgate.img");
    let size = std::fs::metadata(&image).unwrap().len();
    let sized = |name: &str, size: u64| {
        let path = directory.join(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    };
    let (target, small) = (sized("target.img", size + (8 << 20)), sized("small.img", size / 2));
    let service = |name: &str, device: &str| {
        format!(
            "[services.{name}]\ncommand = [\"/usr/bin/headgate\", \"flash\", \"--yes\", \"--image\", \"/dev/vdb\", \"{device}\"]\nrestart = \"never\"\n"
        )
    };
    // The disk that the box runs from, one that is too small, and the right one behind them.
    let text = service("itself", "/dev/vda")
        + &service("small", "/dev/vdc")
        + &service("right", "/dev/vdd").replace("restart", "after = [\"itself\", \"small\"]\nrestart");
    let drop_ins = vec![write_drop_in(directory, "10-flash.toml", &text).unwrap()];
    let targets = vec![image.clone(), small.clone(), target.clone()];
    let options = Options { writes: Writes::Kept, drop_ins, targets, ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate-grub slot B of B A", BOOT).unwrap();
    let wanted = std::fs::read(&image).unwrap();
    let began = std::time::Instant::now();
    let written = || std::fs::read(&target).unwrap().starts_with(&wanted);
    while !written() {
        assert!(began.elapsed() < BOOT, "{}", machine.transcript());
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    wait_until(&disk, |block| block.get("B_TRY") == Some("0"));
    drop(machine);
    assert!(std::fs::read(&small).unwrap().iter().all(|&byte| byte == 0), "too small, and written to");
    // What the box runs from is as it was, and what was flashed starts.
    for (image, slot) in [(&disk.image, "B of B A"), (&target, "A of A B")] {
        let mut machine = Machine::start(Options::trial(image), &Stop::never()).unwrap();
        machine.expect(&format!("headgate-grub slot {slot}"), BOOT).unwrap();
        machine.expect("ready", BOOT).unwrap();
    }
}
