//! What was used to measure: a figure without it says nothing.

use std::process::Command;

use anyhow::{Context, Result};

/// Kernel, processors and memory of this machine, and of each named program what it says about its version.
pub fn describe(programs: &[(&str, &[&str])]) -> Result<Vec<(String, String)>> {
    let mut setting = vec![
        ("kernel".to_owned(), nix::sys::utsname::uname()?.release().to_string_lossy().into_owned()),
        ("processor".to_owned(), processor()?),
    ];
    for (program, arguments) in programs {
        setting.push(((*program).to_owned(), version(program, arguments)?));
    }
    Ok(setting)
}

/// nft(8).
pub const NFT: (&str, &[&str]) = ("nft", &["--version"]);

/// nftlb(8).
pub const NFTLB: (&str, &[&str]) = ("nftlb", &["-h"]);
/// haproxy(1).
pub const HAPROXY: (&str, &[&str]) = ("haproxy", &["-v"]);
/// wrk(1).
pub const WRK: (&str, &[&str]) = ("wrk", &["-v"]);
/// qemu(1).
pub const QEMU: (&str, &[&str]) = ("qemu-system-x86_64", &["--version"]);
/// nginx(8): the backends, and its stream module as a peer.
pub const NGINX: (&str, &[&str]) = ("nginx", &["-v"]);

fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let models: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model)
        .collect();
    let model = models.first().context("/proc/cpuinfo names no model")?;
    Ok(format!("{} × {model}", models.len()))
}

/// The first word with a dot between digits that the program prints.
fn version(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}: `make deps` installs it"))?;
    // nginx says it on standard error, and wrk's exit status is 1.
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    version_in(&text).with_context(|| format!("{program} {arguments:?} says no version: {text}"))
}

fn version_in(text: &str) -> Option<String> {
    let word = text
        .split(|c: char| c.is_whitespace() || "/()[],".contains(c))
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))?;
    Some(word.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, version) in [
            ("nftables v1.0.6 (Lester Gooch #5)", "1.0.6"),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/", "2.6.12-1+deb12u4"),
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright", "4.1.0-3+b2"),
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)", "10.0.2"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("no version"), None);
    }

    #[test]
    fn this_machine_can_be_described() {
        let setting = describe(&[NFT]).unwrap();
        assert_eq!(setting.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["kernel", "processor", "nft"]);
    }
}
