//! `/sbin/modprobe`, as the kernel calls it: `modprobe -q -- ALIAS` (`kernel/module/kmod.c`).
//!
//! What the farms need is loaded at boot; this answers when an expression, a helper or a file system is used that is not.

use std::process::ExitCode;

use crate::modules::{Index, Loader};

/// Loads each module that the last argument names. Success when at least one was loaded.
pub fn run(arguments: &[String]) -> ExitCode {
    let Some(name) = arguments.iter().rfind(|argument| !argument.starts_with('-')) else {
        eprintln!("usage: modprobe [-q] [--] NAME");
        return ExitCode::from(2);
    };
    let index = match Index::read() {
        Ok(index) => index,
        Err(error) => {
            eprintln!("modprobe: {error}");
            return ExitCode::FAILURE;
        }
    };
    let loader = Loader::new(&index);
    let loaded = index.named(name).into_iter().filter(|module| loader.load(module).is_ok()).count();
    if loaded > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
