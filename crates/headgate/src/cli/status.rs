//! `headgate status`.

use headgate_plan::capacity::{Capacity, Finding, Severity};
use headgate_plan::fault::{CONFIGURATION, DRIFT, Fault, OUTSIDE};
use headgate_plan::knob;
use headgate_plan::status::{Clock, FarmHealth, Fence, Standing, Status, Syslog};

use super::args::Output;
use super::paint::{Paint, Tone};
use super::table::Table;
use super::{Answer, CliError, farm};
use crate::client::Client;
use crate::exit::Exit;
use crate::steps::{Listing, listed, printable};

/// Farms that serve are counted beyond this many; those that do not are all listed.
const SERVING_SHOWN: usize = 20;

pub(super) fn run(client: &Client, output: Output) -> Result<Answer, CliError> {
    let status: Status = client.get("/v1/status")?;
    let exit = if status.healthy() { Exit::Good } else { Exit::Degraded };
    Ok(Answer::of(output, &status, |status| render(status, Paint::of_output()))?.exit(exit))
}

/// What is wrong comes first, then the farms, then what is merely worth knowing.
fn render(status: &Status, paint: Paint) -> String {
    let (word, tone) = if status.healthy() { ("healthy", Tone::Good) } else { ("degraded", Tone::Bad) };
    let generation = status.generation.map(|number| format!(", generation {number}")).unwrap_or_default();
    let mut text = format!("{}{generation}\n", paint.text(tone, word));
    if let Some(error) = &status.last_error {
        let since = since(status, CONFIGURATION);
        text += &format!("{} {}{since}\n", paint.text(Tone::Bad, "fault:"), printable(error));
        text += "    what helps: mend the file and `headgate apply`, or `headgate rollback`\n";
    }
    let (drift, for_so_long) = (paint.text(Tone::Bad, "drift:"), since(status, DRIFT));
    text += &listed(
        &status.drift,
        Listing::Short,
        |one, other| one.kind == other.kind,
        |step| format!("{drift} the kernel is not as it should be: {}{for_so_long}\n", printable(&step.text)),
    );
    if !status.drift.is_empty() {
        text += "    what helps: it is mended within seconds; if it comes again, somebody else writes it: `headgate plan`\n";
    }
    for (path, why) in &status.refused {
        let since = since(status, &format!("knob {}", knob::name(path)));
        text += &format!("{} /{path}: {}{since}\n", paint.text(Tone::Warning, "refused:"), printable(why));
    }
    text += &outside(status, paint);
    text += &capacity(&status.capacity, paint);
    if !status.farms.is_empty() {
        let bad = status.farms.iter().filter(|farm| farm.health < FarmHealth::Serving).count();
        let shown = &status.farms[..status.farms.len().min(bad + SERVING_SHOWN)];
        text += &format!("\n{}", farm::table(shown).shown(paint));
        if shown.len() < status.farms.len() {
            text += &format!("and {} more that serve or are off\n", status.farms.len() - shown.len());
        }
        text += &not_serving(status, paint);
    }
    if !status.services.is_empty() {
        let mut table = Table::new(&["SERVICE", ">PID", "STATE"]);
        for service in &status.services {
            let pid = service.pid.map(|pid| pid.to_string()).unwrap_or_default();
            let tone = if service.healthy { Tone::Plain } else { Tone::Bad };
            table.row_in(tone, [service.name.clone(), pid, service.state.clone()]);
        }
        text += &format!("\n{}", table.shown(paint));
    }
    text += &footer(status);
    text
}

/// For how long a fault is there; nothing when nobody knows, or for less than a second.
fn since(status: &Status, subject: &str) -> String {
    let fault = status.faults.iter().find(|fault| fault.subject == subject);
    let known = fault.and_then(|fault| fault.since_ms).filter(|since| *since >= 1000);
    known.map(|since| format!(" (for {})", farm::span(since))).unwrap_or_default()
}

/// The backends that take no flows, since when and why, and what to do.
fn not_serving(status: &Status, paint: Paint) -> String {
    let mut table = Table::new(&["FARM", "BACKEND", "ADDRESS", "WHY NOT", "WHAT TO DO"]);
    for farm in status.farms.iter().filter(|farm| farm.health < FarmHealth::Serving) {
        for backend in farm.backends.iter().filter(|backend| backend.standing != Standing::Serving) {
            let why = farm::why_not(backend);
            let tone = if backend.standing == Standing::Unhealthy { Tone::Bad } else { Tone::Plain };
            let remedy = farm.remedy(backend);
            table.row_in(tone, [farm.name.to_string(), backend.name.to_string(), backend.address.clone(), why, remedy]);
        }
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.shown(paint)) }
}

/// What the box itself has to do with others, and does not go well.
fn outside(status: &Status, paint: Paint) -> String {
    let faults = status.faults.iter().filter(|fault| OUTSIDE.contains(&fault.subject.as_str()));
    let line = |fault: &Fault| {
        let (word, since) = (paint.text(Tone::Warning, "degraded:"), since(status, &fault.subject));
        format!("{word} {}{since}\n    what helps: {}\n", printable(&fault.text), printable(&fault.help))
    };
    faults.map(line).collect()
}

/// What is lost or nearly runs out, each with what would help.
fn capacity(capacity: &Capacity, paint: Paint) -> String {
    let line = |finding: &Finding| {
        let word = match finding.severity {
            Severity::Losing => paint.text(Tone::Bad, "losing:"),
            Severity::Near => paint.text(Tone::Warning, "near the limit:"),
        };
        format!("{word} {}\n    what helps: {}\n", printable(&finding.text), printable(&finding.help))
    };
    capacity.findings.iter().map(line).collect()
}

fn clock(clock: &Clock) -> String {
    let Some((since, best)) = clock.synchronised_ms.zip(clock.best) else { return String::new() };
    let (server, offset, heard) = (best.server, best.offset_ns as f64 / 1e6, clock.heard_ms.unwrap_or(0));
    let quiet = clock.error.as_ref().map(|error| format!("; {}", printable(error))).unwrap_or_default();
    format!(
        "\nclock: synchronised for {}, by {server}, {offset:+.3} ms off {} ago{quiet}\n",
        farm::span(since),
        farm::span(heard)
    )
}

fn footer(status: &Status) -> String {
    let mut text = String::new();
    if let (Some(entries), Some(limit)) = (status.capacity.entries, status.capacity.limit) {
        let buckets = status.capacity.buckets.map(|buckets| format!(", in {buckets} buckets")).unwrap_or_default();
        text += &format!("\nconnection table: {entries} of at most {limit} entries{buckets}\n");
    }
    let knobs = &status.knobs;
    if knobs.kept + knobs.different + knobs.unsupported > 0 {
        let profile = status.profile.as_deref().unwrap_or("none");
        text += &format!(
            "\nhardware profile {}: {} knobs as wanted, {} different, {} not on this machine; see `headgate hw show`\n",
            printable(profile),
            knobs.kept,
            knobs.different,
            knobs.unsupported
        );
    }
    text += &status.clock.as_ref().map(clock).unwrap_or_default();
    if let Some(Syslog { to, sent, lost, .. }) = &status.syslog {
        text += &format!("\nlog to {}: {sent} lines sent, {lost} lost\n", printable(to));
    }
    if let Some(counting) = &status.counting {
        text += &format!(
            "\nleast connections: {} flows counted every {} s for {} farms, in {} ms of CPU\n",
            counting.flows,
            counting.every_ms as f64 / 1000.0,
            counting.farms,
            counting.took_ms
        );
    }
    let notes: Vec<String> = fence(status.fence).into_iter().chain(status.warnings.iter().cloned()).collect();
    if !notes.is_empty() {
        text.push('\n');
    }
    text += &notes.iter().map(|note| format!("note: {}\n", printable(note))).collect::<String>();
    text
}

/// What the fence around what strangers write is without. A kernel that was built so is no fault.
fn fence(fence: Fence) -> Option<String> {
    let missing = match (fence.landlock, fence.seccomp) {
        (true, true) => return None,
        (false, true) => "landlock: what answers strangers could open files that it has no use for",
        (true, false) => "seccomp: what answers strangers could use system calls that it has no use for",
        (false, false) => "landlock and no seccomp: what answers strangers is held by its capabilities alone",
    };
    Some(format!("this kernel has no {missing}"))
}
