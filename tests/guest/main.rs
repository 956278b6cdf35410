//! Real packets under the kernel of the image, which has what that of the machine need not have: tunnels, VLANs, bonds, VRFs, flowtables,
//! queues and NICs.
//!
//! `make test-guest` and `make test-cards` run the last of these tests. They pack and start a guest with this program, those of
//! the product and the kernel of `image/packages.toml`; there the others make the same lab of namespaces as elsewhere.
//! `GUEST="offload queue"` runs those whose names have one of the words, `KERNEL=linux-image-amd64` takes another kernel of
//! Debian's.
#![allow(missing_docs, clippy::unwrap_used)]

mod cards;
mod machine;
mod offload;
mod queue;
mod tunnels;
mod uppers;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use headgate_image::source::Source;

/// The guest, and what it says.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long a guest may say nothing: translated instructions on a machine that does other work too. Its tests say their names.
const PATIENCE: Duration = Duration::from_secs(400);

/// The tests that a guest runs: those with one of the words in their names, or all.
fn chosen(words: &[String]) -> usize {
    let listed =
        Command::new(std::env::current_exe().unwrap()).args(OPTIONS).args(words).arg("--list").output().unwrap();
    String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.ends_with(": test")).count()
}

/// Those that need NICs, and have a guest of their own.
const CARDS: &str = "cards::";
const OPTIONS: [&str; 5] = ["--ignored", "--test-threads=1", "--nocapture", "--skip", "the_kernel_of_the_image"];

#[test]
#[ignore = "a guest on a busy machine takes minutes: make test-guest"]
fn the_kernel_of_the_image_carries_packets() {
    let words = std::env::var("GUEST").unwrap_or_default();
    let words = ["--skip", CARDS].into_iter().chain(words.split_whitespace()).map(str::to_owned).collect::<Vec<_>>();
    carry_out(&words, &["-accel", "tcg", "-smp", "1"].map(str::to_owned));
}

/// Two cores and three cards. The guest's nanosecond is one instruction of whichever core: how soon a card is mended does not depend on
/// how slow translated instructions are, nor on what else this machine does. It is a box with 10^9 instructions a second for both
/// cores together; one core of those that the firmware is for has several times as many.
#[test]
#[ignore = "a guest on a busy machine takes minutes: make test-cards"]
fn the_kernel_of_the_image_keeps_cards_tuned() {
    let mut hardware: Vec<String> = [
        ["-accel", "tcg,thread=single"],
        ["-icount", "shift=0,sleep=off"],
        ["-machine", "q35"],
        ["-smp", "2,sockets=1,cores=2,threads=1"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    for number in 0..2 {
        let port = number + 1;
        // Each igb brings virtual functions: two on one bus collide.
        let root = format!("pcie-root-port,id=port{number},chassis={port},slot={port}");
        let card = format!("igb,bus=port{number},netdev=net{number},romfile=");
        let arguments = [("-netdev", format!("user,id=net{number}")), ("-device", root), ("-device", card)];
        hardware.extend(arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
    }
    // The third: virtio with four queues, which a user's network does not have.
    let tap = "tap,id=net2,ifname=guest,queues=4,script=no,downscript=no";
    let card = "virtio-net-pci,netdev=net2,mq=on,vectors=10,romfile=";
    hardware.extend(["-netdev", tap, "-device", card].map(str::to_owned));
    carry_out(&[CARDS.to_owned()], &hardware);
}

/// Runs the tests that these words choose in a guest with this hardware.
fn carry_out(words: &[String], hardware: &[String]) {
    let all = format!("test result: ok. {} passed; 0 failed;", chosen(words));
    let source = Source::find().unwrap();
    let work = tempfile::tempdir().unwrap();
    let (kernel, initramfs) = machine::pack(&source, work.path(), &[&OPTIONS.map(str::to_owned), words].concat());
    // In a network namespace of its own, for its tap devices; QEMU's user-mode networks need nothing of it.
    let mut qemu = Command::new("unshare");
    qemu.args(["--net", "qemu-system-x86_64", "-m", "1536", "-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.args(hardware);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut guest = Guest(qemu.spawn().expect("qemu-system-x86_64 is needed: `make deps` brings it"));
    let output = guest.0.stdout.take().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let _ = tell.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let mut said = Vec::new();
    let ended = loop {
        match told.recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with("guest: ") => break line,
            Ok(line) => {
                eprintln!("{line}");
                said.push(line);
            }
            Err(RecvTimeoutError::Timeout) => panic!("the guest says nothing more"),
            Err(RecvTimeoutError::Disconnected) => panic!("the guest died"),
        }
    };
    assert_eq!(ended, "guest: 0");
    assert!(said.iter().any(|line| line.starts_with(&all)), "not all of them ran");
}
