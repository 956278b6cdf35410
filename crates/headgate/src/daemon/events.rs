//! Following the machine: what changes of links, addresses, routes, leases and settings of NICs is looked at at once, not at the next
//! watch.
//!
//! Events only say that it is time to look. What an interface that came means (its address, its place in a flowtable, a new
//! default source) is for the comparison with what is wanted, as ever. A lost event, or no monitor at all, costs the time
//! until the watch looks.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use headgate_host::Root;
use headgate_host::monitor::{Monitor, Subject};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::engine::Handle;

/// Changes come in groups: an interface that is set up gets its addresses, and they their routes.
const SETTLE: Duration = Duration::from_millis(100);
/// A look is followed by a pause of this many times its length: a routing daemon that writes a whole table takes at most a
/// tenth of one CPU.
const PAUSE: u32 = 10;
/// The pause behind a change of interfaces, of their settings or of leases, and before one, is as long as the look and no longer than
/// this: they are rare, seldom come alone, and one that comes during a look can make it fail.
const PAUSE_BY_RARE_MAX: Duration = Duration::from_secs(1);
/// See [`PAUSE_BY_RARE_MAX`].
const RARE: [Subject; 3] = [Subject::Links, Subject::Settings, Subject::Leases];

/// Of the network, of settings, and of leases.
type Monitors = [Option<AsyncFd<Monitor>>; 3];

/// Has the engine look whenever something changes, until the runtime goes down.
pub async fn run(engine: Handle, root: Root) {
    let network = open(Monitor::network(), "interfaces, addresses and routes");
    let leases = open(Monitor::leases(&root), "leases");
    let mut monitors = [network, open(Monitor::settings(), "settings of NICs"), leases];
    let mut changed = BTreeSet::new();
    loop {
        if changed.is_empty() {
            changed = any(&mut monitors).await;
        }
        tokio::time::sleep(SETTLE).await;
        for monitor in monitors.iter_mut().flatten() {
            changed.extend(monitor.get_mut().take().unwrap_or_default());
        }
        tracing::debug!(?changed, "the machine changed; looking");
        let begin = Instant::now();
        // Who is busy with something else looks at the machine anyhow.
        let _ = engine.watch().await;
        changed = pause(&mut monitors, &changed, begin.elapsed()).await;
    }
}

/// The pause behind a look at what has `changed`, which took so long. What changes meanwhile, which can end it sooner.
async fn pause(monitors: &mut Monitors, changed: &BTreeSet<Subject>, took: Duration) -> BTreeSet<Subject> {
    let is_rare = |changed: &BTreeSet<Subject>| RARE.iter().any(|rare| changed.contains(rare));
    let begin = Instant::now();
    let mut meanwhile = BTreeSet::new();
    loop {
        let rare = is_rare(changed) || is_rare(&meanwhile);
        let pause = if rare { took.min(PAUSE_BY_RARE_MAX) } else { took * PAUSE };
        let Some(left) = pause.checked_sub(begin.elapsed()) else { return meanwhile };
        match tokio::time::timeout(left, any(monitors)).await {
            Ok(more) => meanwhile.extend(more),
            Err(_) => return meanwhile,
        }
    }
}

/// What changed, once something has.
async fn any([network, settings, leases]: &mut Monitors) -> BTreeSet<Subject> {
    tokio::select! {
        changed = next(network) => changed,
        changed = next(settings) => changed,
        changed = next(leases) => changed,
    }
}

fn open(monitor: io::Result<Monitor>, what: &'static str) -> Option<AsyncFd<Monitor>> {
    // SAFETY: a monitor has one descriptor, which stays open and the same for as long as it lives.
    let registered =
        monitor.and_then(|monitor| Ok(unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) }?));
    registered.inspect_err(|error| tracing::warn!(%error, "changes of {what} are seen by the next watch only")).ok()
}

/// The same of one; a monitor that breaks is closed and says nothing any more.
async fn next(monitor: &mut Option<AsyncFd<Monitor>>) -> BTreeSet<Subject> {
    if let Some(open) = monitor {
        match wait(open).await {
            Ok(changed) => return changed,
            Err(error) => tracing::warn!(%error, "some changes of the machine are seen by the next watch only"),
        }
        *monitor = None;
    }
    std::future::pending().await
}

async fn wait(monitor: &mut AsyncFd<Monitor>) -> io::Result<BTreeSet<Subject>> {
    loop {
        let mut ready = monitor.readable_mut().await?;
        let changed = ready.get_inner_mut().take()?;
        // It was read to its end.
        ready.clear_ready();
        if !changed.is_empty() {
            return Ok(changed);
        }
    }
}
