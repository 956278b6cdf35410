//! QEMU's command line.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{Accelerator, Firmware, Link, Options, Processors, Serial, Writes, address};

pub(super) const PROGRAM: &str = "qemu-system-x86_64";
/// The E3-1245 v5 is a Skylake; the features taken away are those that TCG cannot do and would warn about.
const TCG_CPU: &str = "Skylake-Client,-pcid,-tsc-deadline,-hle,-invpcid,-rtm,-xsavec";
const FIRMWARE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// The program and its arguments; also what has to live as long as it runs.
pub(super) fn command_line(options: &Options) -> Result<(Command, Option<TempDir>)> {
    let mut command = Command::new(PROGRAM);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35"]);
    // More processors than the host has would only wait for each other, but the shape is what is tried.
    let (shape, threads) = match options.processors {
        Processors::Sna7108 => ("8,sockets=1,cores=4,threads=2", "single"),
        Processors::Pair => ("2,sockets=1,cores=2,threads=1", "multi"),
    };
    command.args(["-smp", shape, "-m", "1024"]);
    if let Some(clock) = &options.clock {
        command.args(["-rtc", &format!("base={clock}")]);
    }
    match options.accelerator {
        // One thread for all eight: see `Machine::start`. It costs twice the time to boot.
        Accelerator::Tcg => command.args(["-accel", &format!("tcg,thread={threads}"), "-cpu", TCG_CPU]),
        Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
    };
    disks(&mut command, options)?;
    cards(&mut command, &options.links);
    for path in &options.drop_ins {
        command.arg("-fw_cfg").arg(drop_in(path)?);
    }
    match &options.serial {
        Serial::Terminal => command.args(["-serial", "mon:stdio"]),
        Serial::Program => command.args(["-serial", "stdio", "-monitor", "none"]),
        Serial::Socket(path) => {
            command.args(["-monitor", "none", "-serial"]).arg(format!("unix:{},server=on,wait=off", escape(path)?))
        }
    };
    let firmware = match options.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(uefi(&mut command)?),
    };
    Ok((command, firmware))
}

/// The image, what it goes on from, further disks and sticks.
fn disks(command: &mut Command, options: &Options) -> Result<()> {
    let image = escape(&options.image)?;
    if let Writes::Recorded(log) = &options.writes {
        std::fs::File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let files = format!("file.driver=file,file.filename={image},log.driver=file,log.filename={}", escape(log)?);
        command.arg("-blockdev").arg(format!("driver=blklogwrites,node-name=disk,{files}"));
    } else {
        // By its name, as we publish it: what a guest writes to the beginning of a raw disk must not make it anything else.
        let format =
            if options.image.extension().is_some_and(|extension| extension == "qcow2") { "qcow2" } else { "raw" };
        command.arg("-drive").arg(format!("file={image},format={format},if=none,id=disk,cache=unsafe"));
    }
    command.args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
    if options.writes == Writes::Discarded {
        command.arg("-snapshot");
    }
    if let Some(memory) = &options.memory {
        command.arg("-incoming").arg(format!("file:{}", escape(memory)?));
    }
    let disks = options.disks.iter().map(|path| (path, "readonly=on"));
    let more = disks.chain(options.targets.iter().map(|path| (path, "cache=unsafe")));
    for (number, (path, access)) in more.enumerate() {
        let file = escape(path)?;
        command.arg("-drive").arg(format!("file={file},format=raw,if=none,id=more{number},{access}"));
        command.args(["-device", &format!("virtio-blk-pci,drive=more{number}")]);
    }
    if !options.sticks.is_empty() {
        command.args(["-device", "qemu-xhci"]);
    }
    for (number, path) in options.sticks.iter().enumerate() {
        let file = escape(path)?;
        command.arg("-drive").arg(format!("file={file},format=raw,if=none,id=stick{number},readonly=on"));
        command.args(["-device", &format!("usb-storage,drive=stick{number},removable=on")]);
    }
    Ok(())
}

fn cards(command: &mut Command, links: &[Link]) {
    for (number, link) in links.iter().enumerate() {
        let netdev = match link.descriptor() {
            None => format!("user,id=net{number}"),
            Some(tap) => format!("tap,id=net{number},fd={tap}"),
        };
        command.arg("-netdev").arg(netdev);
        // Each igb brings virtual functions: two on one bus collide (slot 19 in use by igbvf).
        let port = number + 1;
        command.arg("-device").arg(format!("pcie-root-port,id=port{number},chassis={port},slot={port}"));
        let card = format!("igb,bus=port{number},netdev=net{number},mac={},romfile=", address(number));
        command.arg("-device").arg(card);
    }
}

/// A file for the guest by fw_cfg.
fn drop_in(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).context("a drop-in needs a name in UTF-8")?;
    ensure!(name.ends_with(".toml"), "{}: a drop-in's name ends with .toml", path.display());
    // FW_CFG_MAX_FILE_PATH is 56 with the final zero (hw/nvram/fw_cfg.h).
    ensure!(name.len() <= 55 - "opt/headgate/".len(), "{name}: QEMU takes no name longer than 42 characters");
    ensure!(path.is_file(), "{} is not there", path.display());
    Ok(format!("name=opt/headgate/{name},file={}", escape(path)?))
}

/// OVMF writes its variables: each machine has its own copy.
fn uefi(command: &mut Command) -> Result<TempDir> {
    let [code, variables] = FIRMWARE;
    for path in FIRMWARE {
        ensure!(Path::new(path).is_file(), "{path} is missing: install the Debian package ovmf");
    }
    let directory = tempfile::Builder::new().prefix("headgate-ovmf-").tempdir()?;
    let copy = directory.path().join("variables.fd");
    std::fs::copy(variables, &copy)?;
    command.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={code}"));
    command.arg("-drive").arg(format!("if=pflash,format=raw,file={}", escape(&copy)?));
    Ok(directory)
}

/// In QEMU's options a comma in a value is written twice.
fn escape(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_drop_in_is_refused_before_qemu_starts() {
        let directory = tempfile::tempdir().unwrap();
        for (name, expected) in [
            ("a.txt", "ends with .toml"),
            ("gone.toml", "is not there"),
            (&format!("{}.toml", "x".repeat(40)), "no name longer"),
        ] {
            let mut options = Options::trial(Path::new("/dev/null"));
            options.drop_ins.push(directory.path().join(name));
            let error = command_line(&options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn commas_in_paths_are_escaped() {
        assert_eq!(escape(Path::new("/a,b")).unwrap(), "/a,,b");
    }
}
