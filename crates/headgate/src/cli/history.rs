//! `headgate history`.

use std::time::{Duration, UNIX_EPOCH};

use super::args::Output;
use super::table::Table;
use super::{Answer, CliError};
use crate::api::Generation;
use crate::client::Client;
use crate::steps::printable;

pub(super) fn run(client: &Client, output: Output) -> Result<Answer, CliError> {
    let generations: Vec<Generation> = client.get("/v1/history")?;
    Answer::of(output, &generations, |generations| render(generations))
}

/// Newest first.
fn render(generations: &[Generation]) -> String {
    if generations.is_empty() {
        return "no generation was kept yet\n".to_owned();
    }
    let mut table = Table::new(&[">N", "APPLIED", "REASON", "BY", "HASH", "", "CHANGES"]);
    for generation in generations.iter().rev() {
        let mark = match (generation.running, generation.returned) {
            (true, _) => "runs",
            (false, true) => "returned from",
            (false, false) => "",
        };
        table.row([
            generation.number.to_string(),
            time(generation.time),
            generation.reason.clone(),
            printable(generation.author.as_deref().unwrap_or_default()),
            generation.hash.chars().take(12).collect(),
            mark.to_owned(),
            printable(&generation.changes.join(", ")),
        ]);
    }
    table.to_string()
}

pub(super) fn time(seconds: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        // Beyond the year 9999 the library has no text for it.
        Some(time) if seconds < 253_402_300_800 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => seconds.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_comes_first_and_the_running_one_is_marked() {
        let generation = |number: u64, running: bool, returned: bool| Generation {
            number,
            time: 1_795_000_000,
            hash: "0123456789abcdef".into(),
            reason: "apply".into(),
            author: running.then(|| "root".into()),
            changes: vec!["farm web".into(), "farm dns is new".into()],
            files: Vec::new(),
            running,
            returned,
        };
        let text = render(&[generation(9, true, false), generation(10, false, true)]);
        assert_eq!(
            text,
            " N  APPLIED               REASON  BY    HASH                         CHANGES\n\
             10  2026-11-18T11:06:40Z  apply         0123456789ab  returned from  farm web, farm dns is new\n \
             9  2026-11-18T11:06:40Z  apply   root  0123456789ab  runs           farm web, farm dns is new\n"
        );
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }
}
