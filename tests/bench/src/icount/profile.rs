//! Where the instructions of a phase go, per function of the kernel: exact, not sampled.
//!
//! The guest stops before a batch of packets; QEMU then logs the address of every instruction that it executes
//! (`one-insn-per-tb`), until the guest stops again behind the batch. The addresses are named by `/proc/kallsyms`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headgate_bench_guest::plan::{Phase, Report as Said};

use headgate_image::stop::Stop;

use super::figures::setting;
use super::machine::Machine;
use super::ramdisk::Ramdisk;
use crate::report::{Cell, Report, Table};

/// Functions with fewer instructions a packet are summed up.
const LEAST: f64 = 1.0;
/// The prompt of QEMU's monitor.
const PROMPT: &[u8] = b"(qemu) ";
/// User space ends there (`Documentation/arch/x86/x86_64/mm.rst`).
const KERNEL: u64 = 1 << 47;

/// Profiles each phase that the plan has but TCP.
pub(super) fn run(ramdisk: &Ramdisk, stop: &Stop) -> Result<Report> {
    let (log, socket) = (ramdisk.work.join("instructions.log"), ramdisk.work.join("monitor"));
    let _ = std::fs::remove_file(&socket);
    let monitor = format!("unix:{},server=on,wait=off", socket.display());
    let mut machine = Machine::start(ramdisk, stop, &["-monitor".to_owned(), monitor])?;
    let mut symbols = BTreeMap::new();
    let mut tables: Vec<(Phase, Table)> = Vec::new();
    let (mut monitor, mut batch) = (None, 1);
    loop {
        match machine.report()? {
            Said::Symbol { address, name } => drop(symbols.insert(address, name)),
            Said::Trouble { variant, what } => bail!("{variant}: {what}"),
            Said::Pause { variant, phase, packets } => {
                let monitor = match &mut monitor {
                    Some(monitor) => monitor,
                    none => none.insert(Monitor::connect(&socket)?),
                };
                if packets > 0 {
                    File::create(&log)?;
                    monitor.say(&format!("logfile {}", log.display()))?;
                    monitor.say("one-insn-per-tb on")?;
                    monitor.say("log nochain,exec")?;
                    batch = packets;
                } else {
                    monitor.say("log none")?;
                    monitor.say("one-insn-per-tb off")?;
                    let title = format!("{variant}, {phase}: instructions a packet");
                    tables.retain(|(known, _)| *known != phase);
                    tables.push((phase, table(title, &log, &symbols, batch)?));
                }
                machine.go_on()?;
            }
            Said::Up { .. } | Said::Ready { .. } | Said::Counted { .. } | Said::Measured(_) => {}
            Said::Done => break,
        }
    }
    // Some hundred megabytes.
    let _ = std::fs::remove_file(&log);
    let tables = tables.into_iter().map(|(_, table)| table).collect();
    Ok(Report { name: "icount", setting: setting(&ramdisk.setting), tables, targets: Vec::new() })
}

fn table(title: String, log: &Path, symbols: &BTreeMap<u64, String>, packets: u32) -> Result<Table> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut inside = false;
    for line in BufReader::new(File::open(log)?).lines() {
        let Some(address) = address(&line?) else { continue };
        let name = match symbols.range(..=address).next_back() {
            Some((_, name)) if address >= KERNEL => name.as_str(),
            _ => "user space",
        };
        // From the first packet that is sent up to the line that announces the second stop.
        inside |= name.contains("sys_sendto");
        if inside && name.contains("sys_write") {
            break;
        }
        if inside {
            *counts.entry(name).or_default() += 1;
        }
    }
    let mut counts: Vec<(&str, f64)> =
        counts.into_iter().map(|(name, count)| (name, f64::from(count) / f64::from(packets))).collect();
    counts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut table = Table::new(title, &["function", "instructions"]);
    let number = |value: f64| Cell::Number(value, 1);
    table.rows.push(vec!["all".into(), number(counts.iter().map(|(_, count)| count).sum())]);
    let (many, few): (Vec<_>, Vec<_>) = counts.into_iter().partition(|(_, count)| *count >= LEAST);
    table.rows.extend(many.into_iter().map(|(name, count)| vec![name.into(), number(count)]));
    table.rows.push(vec!["the rest".into(), number(few.iter().map(|(_, count)| count).sum())]);
    Ok(table)
}

/// The address in `Trace 0: 0x7f… [00000000/ffffffff81000000/…]`.
fn address(line: &str) -> Option<u64> {
    let inside = line.strip_prefix("Trace ")?.split_once('[')?.1;
    u64::from_str_radix(inside.split('/').nth(1)?, 16).ok()
}

/// QEMU's monitor, in its language for people: the machine's one has no commands for the log.
struct Monitor(UnixStream);

impl Monitor {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("cannot reach {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut monitor = Self(stream);
        monitor.prompt()?;
        Ok(monitor)
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.0, "{command}")?;
        self.prompt().with_context(|| format!("QEMU does not answer {command:?}"))
    }

    fn prompt(&mut self) -> Result<()> {
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(PROMPT) {
            self.0.read_exact(&mut byte)?;
            said.push(byte[0]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_has_an_address() {
        let line = "Trace 0: 0x7f3c4c0a5b40 [00000000/ffffffff8106c2b0/00a0c0b0/ff000201] ";
        assert_eq!(address(line), Some(0xffff_ffff_8106_c2b0));
        assert_eq!(address("something else"), None);
    }
}
