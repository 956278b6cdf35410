//! Picks the part to play by name; see the tour in the library.

use std::path::Path;
use std::process::ExitCode;

use headgate_init::{boot, gate, initramfs, mark_good, modprobe};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let name = arguments.first().map(|path| Path::new(path).file_name().unwrap_or_default().to_owned());
    match name.as_deref().and_then(|name| name.to_str()) {
        Some("init") if std::process::id() == 1 => initramfs::run(),
        Some("modprobe") => modprobe::run(&arguments[1..]),
        _ => match arguments.get(1).map(String::as_str) {
            Some("boot") => boot::run(),
            Some("gate") => gate::run(),
            Some("mark-good") => mark_good::run(),
            _ => {
                eprintln!(
                    "usage: headgate-init boot | gate | mark-good   (as /init and /sbin/modprobe it is the kernel's)"
                );
                ExitCode::from(2)
            }
        },
    }
}
