//! The image as a whole: what is in it, and what it does when it boots, once by BIOS and once by UEFI.
//!
//! Needs root (networks), QEMU with igb, OVMF and what `headgate-image build` needs; without them it fails and says so.
#![allow(clippy::unwrap_used)]

mod access;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headgate_image::build;
use headgate_image::demo::{DROP_IN, Networks, write_drop_in};
use headgate_image::layout::{Content, Layout};
use headgate_image::parts::System;
use headgate_image::progress::Progress;
use headgate_image::qemu::{Firmware, Machine, Options, Writes};
use headgate_image::source::Source;
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};
use headgate_image::tree::walk;
use headgate_tests::server::Tftp;
use headgate_update::grubenv::Block;

/// Eight processors are translated by two; a machine that does other work too needs most of it.
const BOOT: Duration = Duration::from_secs(240);
const COMMAND: Duration = Duration::from_secs(60);

/// One boot at a time: two would only share the same two cores.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    // A test that failed has left nothing behind that could disturb the next.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The image: that of `IMAGE`, or the quick one, built when it has to be.
fn image() -> (Source, PathBuf) {
    let source = Source::find().unwrap();
    if let Some(image) = std::env::var_os("IMAGE").filter(|image| !image.is_empty()) {
        // Tests run in the directory of their package.
        let image = source.join(image);
        assert!(image.is_file(), "IMAGE: {} is not there", image.display());
        return (source, image);
    }
    let options = build::Options::standard(&source);
    build::build(&source, &options, &Progress::new()).unwrap();
    (source, options.output)
}

/// Follows the boot up to the console's prompt.
fn follow(machine: &mut Machine) {
    for milestone in ["headgate-grub slot A", "slot A mounted", "ready", "headgate> "] {
        machine.expect(milestone, BOOT).unwrap();
    }
    eprintln!("power-on to the console's prompt: {:.1} s", machine.uptime().as_secs_f64());
}

/// Whatever is typed, the console answers with a refusal and its prompt, and never runs it.
fn try_to_get_a_shell(machine: &mut Machine) {
    for line in
        ["sh", "/bin/sh", "!sh", "status; id", "status $(id)", "status | sh", "busybox sh", "config show --root /data"]
    {
        let (output, status) = machine.console(line, COMMAND).unwrap();
        assert_ne!(status, 0, "{line:?} was not refused: {output}");
        machine.expect("headgate> ", COMMAND).unwrap();
    }
    // Leaving leads to a new console, not to what is behind it.
    machine.send("exit").unwrap();
    machine.expect("headgate> ", COMMAND).unwrap();
    let transcript = machine.transcript();
    for sign in ["uid=0", "BusyBox v", "login:", "~ #"] {
        assert!(!transcript.contains(sign), "{sign:?} on the console:\n{transcript}");
    }
}

#[test]
fn the_image_has_the_layout_and_no_way_in() {
    let _turn = turn();
    let (source, image) = image();
    let layout: Layout = source.read_toml("image/layout.toml").unwrap();
    run(tool("sfdisk").args(["--verify"]).arg(&image)).unwrap();

    let table: serde_json::Value = serde_json::from_slice(&run(tool("sfdisk").arg("-J").arg(&image)).unwrap()).unwrap();
    let written = table["partitiontable"]["partitions"].as_array().unwrap();
    let names: Vec<&str> = written.iter().map(|partition| partition["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bios-grub", "esp", "env", "slot-a", "slot-b", "data"]);

    let system = System::find(&image).unwrap();
    let paths = system.paths().unwrap();
    let has = |path: &str| paths.iter().any(|known| known == path);
    for path in ["boot/vmlinuz", "usr/sbin/headgated", "usr/bin/headgate", "usr/sbin/modprobe", "usr/sbin/init"] {
        assert!(has(path), "{path} is not in the slot");
    }
    assert!(system.is_verified() || has("boot/initrd"), "nothing leads the kernel to its root");
    for path in ["sh", "ash", "bash", "getty", "login", "su", "telnetd", "dbclient", "scp"] {
        for directory in ["usr/bin", "usr/sbin"] {
            assert!(!has(&format!("{directory}/{path}")), "{directory}/{path} is in the slot");
        }
    }
    let accounts = String::from_utf8(system.file("etc/passwd").unwrap()).unwrap();
    for account in accounts.lines() {
        let fields: Vec<&str> = account.split(':').collect();
        assert_eq!(fields[1], "*", "{account} has a password");
        assert!(["/bin/false", "/usr/bin/headgate-login"].contains(&fields[6]), "{account} has a shell");
    }
    assert!(!has("etc/shadow"));
    same_files(&source, &system);

    let data = layout.place(Content::Data).unwrap();
    assert_eq!(data.offset + data.size + (1 << 20), std::fs::metadata(&image).unwrap().len());
}

/// Overlay and hardware profiles are those of the source tree, whoever has built the image.
fn same_files(source: &Source, system: &System) {
    for (from, to) in [("rootfs-overlay", ""), ("hwprofiles", "usr/lib/headgate/hwprofiles/")] {
        let directory = source.join(from);
        for path in walk(&directory).unwrap().iter().filter(|path| path.is_file()) {
            let inside = format!("{to}{}", path.strip_prefix(&directory).unwrap().display());
            assert!(system.file(&inside).unwrap() == std::fs::read(path).unwrap(), "{inside} is another");
        }
    }
}

#[test]
fn by_bios_it_serves_and_marks_its_slot_good() {
    let _turn = turn();
    let (source, image) = image();
    let directory = tempfile::tempdir_in(source.join("build")).unwrap();
    // Written to, so not the image that others use.
    let copy = directory.path().join("headgate.img");
    run(tool("cp").args(["--sparse=always"]).arg(&image).arg(&copy)).unwrap();
    let (networks, links) = Networks::create().unwrap();
    // As somebody would who has just flashed a disk: a file in the folder of the EFI system partition.
    let offloaded = DROP_IN.replace("mode = \"snat\"", "mode = \"snat\"\noffload = true");
    let files =
        "[farms.files]\nlisten = \"172.16.1.1:69/udp\"\nhelper = \"tftp\"\nbackends.b1.address = \"172.16.2.11:69\"";
    let offloaded = offloaded.replace("[\"172.16.1.1/24\"]", "[\"172.16.1.1/24\"]\nallow = [\"ping\", \"ssh\"]");
    let text = format!("{offloaded}\n{files}\n[system]\ntrust-media = \"always\"\n");
    let drop_in = write_drop_in(directory.path(), "10-demo.toml", &text).unwrap();
    let layout: Layout = source.read_toml("image/layout.toml").unwrap();
    let esp = format!("{}@@{}", copy.display(), layout.place(Content::Esp).unwrap().offset);
    run(tool("mcopy").args(["-i", &esp]).arg(&drop_in).arg("::headgate/conf.d/")).unwrap();
    let options = Options { links, writes: Writes::Kept, ..Options::trial(&copy) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    follow(&mut machine);
    networks.wait_until_served(BOOT, &Stop::never()).unwrap();
    eprintln!("power-on to the first answer: {:.1} s", machine.uptime().as_secs_f64());

    let answers = networks.ask(20).unwrap();
    assert_eq!(answers.len(), 2, "both backends and nobody else answer: {answers:?}");
    let ssh = networks.client.within(|| TcpStream::connect(("172.16.1.1", 22))).unwrap();
    let refused = ssh.err().map(|error| error.kind());
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused), "without a key nothing listens");
    let status = wait_for_status(&mut machine, 0);
    assert!(!status.contains("no helper"), "{status}");
    offloads(&networks, &mut machine);
    follows_tftp(&networks);
    assert!(machine.transcript().contains("drop-ins from esp: 10-demo.toml"), "{}", machine.transcript());
    drop(machine);

    let block = environment(&source, &copy);
    assert_eq!((block.get("A_OK"), block.get("A_TRY")), (Some("1"), Some("0")), "{block:?}");
    let data = format!("{}?offset={}", copy.display(), layout.place(Content::Data).unwrap().offset);
    let trust = run(tool("debugfs").args(["-R", "cat state/trust-media"]).arg(data)).unwrap();
    assert_eq!(String::from_utf8_lossy(&trust), "always", "the next boot would not know whether to trust media");
}

/// A connection that lives goes by the flowtable, and what it says arrives.
fn offloads(networks: &Networks, machine: &mut Machine) {
    let mut connection = networks
        .client
        .within(|| TcpStream::connect_timeout(&"172.16.1.1:80".parse().unwrap(), COMMAND))
        .unwrap()
        .unwrap();
    connection.set_read_timeout(Some(COMMAND)).unwrap();
    let mut ask = || {
        let answered = connection.write_all(b"GET / HTTP/1.1\r\nHost: box\r\n\r\n").and_then(|()| {
            let mut answer = [0; 2048];
            connection.read(&mut answer).map(|length| String::from_utf8_lossy(&answer[..length]).into_owned())
        });
        let answer = answered.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    };
    let backend = if ask().contains("172.16.2.11") { "b1" } else { "b2" };
    (0..50).for_each(|_| drop(ask()));
    let (listed, status) = machine.console("connections web --json", COMMAND).unwrap();
    assert_eq!(status, 0, "{listed}");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
    let ours = listed["flows"].as_array().unwrap().iter().find(|flow| flow["offloaded"] == true);
    let ours = ours.unwrap_or_else(|| panic!("nothing is offloaded: {listed}"));
    assert_eq!(ours["backend"], backend);
}

/// The helper and its translation are modules of this kernel: without both, a file that comes from a port that nobody has asked
/// does not arrive.
fn follows_tftp(networks: &Networks) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(directory.path().join("hello"), "hello from the backend\n").unwrap();
    let _server = Tftp::start(&networks.backend, "172.16.2.11:69", directory.path()).unwrap();
    let deadline = Instant::now() + COMMAND;
    loop {
        let mut curl = networks.client.command("curl");
        let output =
            curl.args(["--silent", "--show-error", "--max-time", "10", "tftp://172.16.1.1/hello"]).output().unwrap();
        if output.stdout == b"hello from the backend\n" {
            return;
        }
        // The server needs a moment.
        assert!(Instant::now() < deadline, "{output:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn by_uefi_a_bad_drop_in_is_reported() {
    let _turn = turn();
    let (_, image) = image();
    let directory = tempfile::tempdir().unwrap();
    let bad = DROP_IN.replace("mode = \"snat\"", "mode = \"santa\"");
    let drop_ins = vec![write_drop_in(directory.path(), "20-bad.toml", &bad).unwrap()];
    let options = Options { firmware: Firmware::Uefi, drop_ins, ..Options::trial(&image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    follow(&mut machine);
    let (output, status) = machine.console("check", COMMAND).unwrap();
    // The console may not have the verb; the status must say it in any case.
    let status_says = wait_for_status(&mut machine, 5);
    assert!(
        status_says.contains("20-bad.toml") || (status == 1 && output.contains("20-bad.toml")),
        "nothing names the bad drop-in: {status_says}\n{output}"
    );
}

/// Asks for the status until it ends with `wanted`.
fn wait_for_status(machine: &mut Machine, wanted: i32) -> String {
    let mut last = (String::new(), -1);
    for _ in 0..40 {
        last = machine.console("status", COMMAND).unwrap();
        if last.1 == wanted {
            return last.0;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("status did not end with {wanted} but with {}:\n{}", last.1, last.0);
}

/// GRUB's variables on a disk.
fn environment(source: &Source, image: &Path) -> Block {
    let layout: Layout = source.read_toml("image/layout.toml").unwrap();
    let place = layout.place(Content::Env).unwrap();
    let disk = std::fs::read(image).unwrap();
    let env = &disk[usize::try_from(place.offset).unwrap()..][..usize::try_from(place.size).unwrap()];
    Block::parse(&env[Block::find(env).unwrap()..]).unwrap()
}
