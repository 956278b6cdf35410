//! Orphans: processes whose parent, a service or one of its children, has died. As subreaper (or PID 1) they become our children, and
//! zombies unless we wait for them.
//!
//! `waitpid(-1)` would also take the children that other parts of the daemon wait for themselves. What the daemon starts is in its session,
//! and in its group or in one of its own number; a zombie of any other session or group can only be an orphan and is taken at once. Of the
//! rest, an orphan (what a health check left behind) cannot be told from a child that somebody is about to wait for, so it gets [`GRACE`].
//! The leaders of services are never taken here.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::instance;
use super::table::{self, Process};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a child that may be waited for is left alone.
const GRACE: Duration = Duration::from_secs(30);

/// Runs until it is aborted.
pub(super) async fn reap_orphans() {
    let mut child_ended = match signal(SignalKind::child()) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(%error, "SIGCHLD cannot be received: orphans of services stay zombies");
            return;
        }
    };
    let mut seen = BTreeMap::new();
    loop {
        seen = look(&seen);
        if seen.is_empty() {
            child_ended.recv().await;
        }
        sleep(PAUSE).await;
    }
}

/// When a zombie, named by pid and start, was first seen.
type Seen = BTreeMap<(i32, u64), Instant>;

/// Reaps the zombies that are orphans, and returns those that may be somebody's.
fn look(seen: &Seen) -> Seen {
    // WNOWAIT only asks. This spares the walk through /proc when all children are alive, which is nearly always.
    let any = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
    if matches!(any, Ok(WaitStatus::StillAlive) | Err(_)) {
        return Seen::new();
    }
    let me = table::process(std::process::id() as i32);
    let (Some(me), Ok(processes)) = (me, table::processes()) else { return Seen::new() };
    let mut waiting = Seen::new();
    for zombie in processes.iter().filter(|process| process.parent == me.pid && process.zombie) {
        if instance::is_leader(zombie.pid) {
            continue;
        }
        let since = *seen.get(&(zombie.pid, zombie.start)).unwrap_or(&Instant::now());
        if is_orphan(zombie, &me) || since.elapsed() >= GRACE {
            let _ = waitpid(Pid::from_raw(zombie.pid), Some(WaitPidFlag::WNOHANG));
        } else {
            waiting.insert((zombie.pid, zombie.start), since);
        }
    }
    waiting
}

fn is_orphan(zombie: &Process, me: &Process) -> bool {
    zombie.session != me.session || (zombie.group != me.group && zombie.group != zombie.pid)
}
