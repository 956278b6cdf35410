//! Running other programs: the package to install when one is missing, its own words when one fails.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// The time that everything in an image carries, seconds since 1970, unless `SOURCE_DATE_EPOCH` says otherwise.
const EPOCH: i64 = 1_700_000_000;

/// Which Debian package brings which program.
const PACKAGES: [(&str, &str); 17] = [
    ("apt-cache", "apt"),
    ("apt-get", "apt"),
    ("cargo", "cargo, or rustup"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("grub-mkimage", "grub-common"),
    ("mcopy", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mksquashfs", "squashfs-tools"),
    ("qemu-system-x86_64", "qemu-system-x86, from bookworm-backports: `make deps`"),
    ("sfdisk", "fdisk"),
    ("veritysetup", "cryptsetup-bin"),
    ("wrk", "wrk"),
    ("xz", "xz-utils"),
];

/// The time of the image, seconds since 1970.
pub fn epoch() -> i64 {
    std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()).unwrap_or(EPOCH)
}

/// A program with the environment that gives the same bytes everywhere.
pub fn tool(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let epoch = epoch().to_string();
    command.env("LC_ALL", "C").env("TZ", "UTC").env("SOURCE_DATE_EPOCH", &epoch).env("E2FSPROGS_FAKE_TIME", &epoch);
    // Debian keeps mkfs and friends out of an ordinary user's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// The cargo that runs us, or the one in the path. Not with what it told us of the package that we are: build scripts that look
/// at that (ring's does) would run again for each package that asks, and everything behind them be compiled again.
pub fn cargo() -> Command {
    let mut command = tool(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let of_a_package = ["CARGO_BIN", "CARGO_CRATE", "CARGO_MANIFEST", "CARGO_PKG", "CARGO_PRIMARY", "OUT_DIR"];
    for (name, _) in std::env::vars_os() {
        if of_a_package.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs to the end; its standard output.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    run_with_input(command, b"")
}

/// Runs to the end with `input` on its standard input; its standard output.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let name = Path::new(command.get_program()).to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| missing(&name, error))?;
    let mut stdin = child.stdin.take().with_context(|| format!("{name} has no standard input"))?;
    let output = std::thread::scope(|scope| {
        // Both ends at once: a program that answers before it has read all would block us and itself.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })
    .with_context(|| format!("cannot follow {name}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ended with {}: {}", output.status, said.trim());
    }
    Ok(output.stdout)
}

/// The error of a program that cannot be started.
pub fn missing(name: &str, error: std::io::Error) -> anyhow::Error {
    if error.kind() != ErrorKind::NotFound {
        return anyhow!(error).context(format!("cannot start {name}"));
    }
    match PACKAGES.iter().find(|(program, _)| *program == name) {
        Some((_, package)) => anyhow!("{name} is missing: install the Debian package {package}"),
        None => anyhow!("{name} is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_when_it_fails_is_in_the_error() {
        let error = run(tool("ls").arg("/no/such/path")).unwrap_err().to_string();
        assert!(error.starts_with("ls ended with exit status: 2: "), "{error}");
        assert!(error.contains("/no/such/path"), "{error}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let gone = || std::io::Error::from(ErrorKind::NotFound);
        let said = missing("mcopy", gone()).to_string();
        assert_eq!(said, "mcopy is missing: install the Debian package mtools");
        assert_eq!(missing("frobnicate", gone()).to_string(), "frobnicate is missing");
    }

    #[test]
    fn much_input_and_much_output_do_not_block_each_other() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(run_with_input(&mut tool("cat"), &input).unwrap(), input);
    }
}
