//! The factory reset: carried out before data is mounted, when the start before has asked for it; and asked for by a stick or by GRUB's
//! menu, of which only mounted data says whether they are trusted.

use std::path::Path;

use headgate_update::disk::Partition;
use headgate_update::grubenv::Block;
use headgate_update::install::Machine;
use headgate_update::reset;
use nix::sys::reboot::{RebootMode, reboot};

use crate::console::Console;
use crate::initramfs::{report, with_cause};
use crate::media::TRUST;

/// A reset that was asked for. Before data is mounted, and also when it could not be.
pub fn carry_out(data: &Partition, console: &Console) {
    let Ok(machine) = Machine::find(Path::new("/")) else { return };
    if !machine.environment.read().is_ok_and(|block| reset::is_wanted(&block)) {
        return;
    }
    match reset::carry_out(&Path::new("/").join(reset::TEMPLATE), &data.device) {
        Ok(()) => {
            console.warn("data is reset to what this system came with, as it was asked for");
            report(console, machine.environment.change(reset::done).map(drop));
        }
        Err(error) => console.warn(with_cause(&error)),
    }
}

/// Somebody at the console has chosen it in GRUB's menu. Where media are never trusted that is forgotten again: behind a reset
/// they would be.
pub fn look_at_menu(console: &Console) {
    let Ok(machine) = Machine::find(Path::new("/")) else { return };
    if !machine.environment.read().is_ok_and(|block| reset::is_wanted_by_menu(&block)) {
        return;
    }
    if is_refused() {
        console.warn("GRUB's menu asks for a factory reset, but trust-media is \"never\"");
        return report(console, machine.environment.change(reset::done).map(drop));
    }
    start_again(
        "GRUB's menu",
        &machine,
        |block| {
            reset::ask(block);
            true
        },
        console,
    );
}

/// Whoever can plug in a stick can also take the disk, so this is refused only where media are never trusted.
pub fn wish_of_stick(wish: &[u8], console: &Console) {
    if is_refused() {
        return console.warn("the stick asks for a factory reset, but trust-media is \"never\"");
    }
    match Machine::find(Path::new("/")) {
        Ok(machine) => start_again("the stick", &machine, |block| reset::ask_for(block, wish), console),
        Err(error) => console.warn(with_cause(&error)),
    }
}

fn is_refused() -> bool {
    std::fs::read_to_string(TRUST).is_ok_and(|trust| trust.trim() == "never")
}

/// Data is mounted by now: the next start resets it.
fn start_again(who: &str, machine: &Machine, ask: impl Fn(&mut Block) -> bool, console: &Console) {
    let mut asked = false;
    if let Err(error) = machine.environment.change(|block| asked = ask(block)) {
        return console.warn(with_cause(&error));
    }
    if !asked {
        return console.say(format_args!("{who} asks for the factory reset that it had already"));
    }
    console.warn(format_args!("{who} asks for a factory reset: starting again for it"));
    nix::unistd::sync();
    let error = reboot(RebootMode::RB_AUTOBOOT).expect_err("a reboot does not return");
    console.warn(format_args!("the kernel refuses to reboot: {error}"));
}
