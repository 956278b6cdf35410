//! Our own programs, static, for the image.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, bail, ensure};

use crate::source::Source;
use crate::tool::{cargo, missing};

/// What the programs are compiled for.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The environment variable that names another profile of Cargo.toml than `release`: `trial` compiles in a third of the time.
pub const PROFILE: &str = "HEADGATE_PROFILE";

/// What an image needs, and where it lies on the appliance.
pub const PROGRAMS: [(&str, &str); 3] =
    [("headgated", "usr/sbin"), ("headgate", "usr/bin"), ("headgate-init", "usr/sbin")];

/// The packages of [`PROGRAMS`].
pub const PACKAGES: [&str; 2] = ["headgate", "headgate-init"];

/// Compiles the programs of some packages of the workspace, static and in the profile that [`PROFILE`] names; the directory
/// that holds them.
pub fn compile(source: &Source, packages: &[&str]) -> Result<PathBuf> {
    let profile = std::env::var(PROFILE).unwrap_or_else(|_| "release".to_owned());
    compile_as(&profile, source, packages)
}

/// Like [`compile`], in a profile of the caller's. Their own target directory keeps the flags of an ordinary build from
/// invalidating these, and the reverse.
pub fn compile_as(profile: &str, source: &Source, packages: &[&str]) -> Result<PathBuf> {
    let target = source.join("build/target-static");
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    // Panic messages carry paths: those of the building machine would make every machine's image a different one.
    flags.push(format!("--remap-path-prefix={}=headgate", source.root().display()));
    if let Ok(home) = home {
        flags.push(format!("--remap-path-prefix={home}/registry/src=crates"));
    }
    let status = cargo()
        .args(["build", "--quiet", "--profile", profile, "--target", TARGET])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .arg("--target-dir")
        .arg(&target)
        // Not RUSTFLAGS, which is cut at spaces: a directory may have one in its name.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .current_dir(source.root())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| missing("cargo", error))?;
    ensure!(status.success(), "cargo build of the static programs ended with {status}");
    Ok(target.join(TARGET).join(profile))
}

/// Checks that `directory` has all programs and that none of them needs a loader: the image has no libc.
pub fn check(directory: &Path) -> Result<()> {
    for (program, _) in PROGRAMS {
        let path = directory.join(program);
        let Ok(bytes) = std::fs::read(&path) else { bail!("{} is missing", path.display()) };
        ensure!(bytes.starts_with(b"\x7fELF"), "{} is no program", path.display());
        ensure!(!names_a_loader(&bytes), "{} is not static", path.display());
    }
    Ok(())
}

/// Whether a 64-bit ELF file has a PT_INTERP header (`include/uapi/linux/elf.h`): without, it needs no library.
pub fn names_a_loader(elf: &[u8]) -> bool {
    let number = |at: usize, width: usize| -> Option<usize> {
        let bytes = elf.get(at..at + width)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((start, size, count)) = headers() else { return false };
    (0..count).any(|index| number(start + index * size, 4) == Some(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_and_dynamic_programs_are_told_apart() {
        assert!(!names_a_loader(&std::fs::read("/usr/bin/busybox").expect("busybox-static is needed")));
        assert!(names_a_loader(&std::fs::read("/usr/bin/env").unwrap()));
        assert!(!names_a_loader(b"\x7fELF"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = check(directory.path()).unwrap_err().to_string();
        assert!(error.ends_with("headgated is missing"), "{error}");
    }
}
