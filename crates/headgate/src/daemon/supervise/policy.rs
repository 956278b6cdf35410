//! What follows the end of a service: pure decisions.

use std::time::Duration;

use headgate_config::model::{Backoff, Restart};

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// Exit status.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
    /// There was no run: the reason, with the path.
    NotStarted(String),
}

impl Exit {
    fn is_good(&self) -> bool {
        *self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit {code}"),
            Exit::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
            Exit::NotStarted(reason) => f.write_str(reason),
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Start again after `delay`; `attempts` is the number of short runs in a row, this one included.
    Restart { delay: Duration, attempts: u32 },
    /// Leave it: it ended as it should.
    Done,
    /// Leave it: it ended badly and must not be started again.
    Failed,
}

/// Decides after a run that ended with `exit` after `uptime`, the `attempts` runs before it having been short.
///
/// The n-th short run in a row is followed by `initial * 2^(n-1)`, at most `max`. A run of `max` or longer was not short. There is no
/// jitter: one machine's services do not stampede, and what is predictable can be tested and explained.
pub(super) fn decide(restart: Restart, backoff: Backoff, exit: &Exit, uptime: Duration, attempts: u32) -> Next {
    match restart {
        Restart::Never | Restart::OnFailure if exit.is_good() => return Next::Done,
        Restart::Never => return Next::Failed,
        Restart::Always | Restart::OnFailure => {}
    }
    let ran = !matches!(exit, Exit::NotStarted(_));
    let before = if ran && uptime >= backoff.max { 0 } else { attempts };
    let factor = 1u32.checked_shl(before).unwrap_or(u32::MAX);
    let delay = backoff.initial.saturating_mul(factor).min(backoff.max);
    Next::Restart { delay, attempts: before.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30) };

    fn again(delay_ms: u64, attempts: u32) -> Next {
        Next::Restart { delay: Duration::from_millis(delay_ms), attempts }
    }

    #[test]
    fn every_policy_meets_every_exit() {
        let missing = || Exit::NotStarted("/x: no such file".into());
        let short = Duration::from_millis(5);
        let long = Duration::from_secs(30);
        let table = [
            (Restart::Always, Exit::Code(0), short, 0, again(100, 1)),
            (Restart::Always, Exit::Code(1), short, 1, again(200, 2)),
            (Restart::Always, Exit::Signal(9), short, 2, again(400, 3)),
            (Restart::Always, missing(), short, 3, again(800, 4)),
            (Restart::Always, Exit::Code(1), short, 8, again(25_600, 9)),
            (Restart::Always, Exit::Code(1), short, 9, again(30_000, 10)),
            (Restart::Always, Exit::Code(1), short, 31, again(30_000, 32)),
            (Restart::Always, Exit::Code(1), short, 32, again(30_000, 33)),
            (Restart::Always, Exit::Code(1), short, u32::MAX, again(30_000, u32::MAX)),
            (Restart::Always, Exit::Code(1), long, 9, again(100, 1)),
            (Restart::Always, Exit::Code(1), long - short, 3, again(800, 4)),
            (Restart::Always, missing(), long, 9, again(30_000, 10)),
            (Restart::OnFailure, Exit::Code(0), short, 5, Next::Done),
            (Restart::OnFailure, Exit::Code(2), short, 0, again(100, 1)),
            (Restart::OnFailure, Exit::Signal(11), short, 0, again(100, 1)),
            (Restart::OnFailure, missing(), short, 0, again(100, 1)),
            (Restart::Never, Exit::Code(0), short, 0, Next::Done),
            (Restart::Never, Exit::Code(3), long, 0, Next::Failed),
            (Restart::Never, Exit::Signal(15), short, 0, Next::Failed),
            (Restart::Never, missing(), short, 0, Next::Failed),
        ];
        for (restart, exit, uptime, attempts, want) in table {
            let got = decide(restart, BACKOFF, &exit, uptime, attempts);
            assert_eq!(got, want, "{restart:?} after {exit:?}, up {uptime:?}, attempts {attempts}");
        }
    }

    #[test]
    fn a_maximum_below_the_initial_delay_wins() {
        let backoff = Backoff { initial: Duration::from_secs(5), max: Duration::from_secs(1) };
        assert_eq!(decide(Restart::Always, backoff, &Exit::Code(1), Duration::ZERO, 0), again(1000, 1));
    }

    #[test]
    fn exits_read_well() {
        assert_eq!(Exit::Code(3).to_string(), "exit 3");
        assert_eq!(Exit::Signal(9).to_string(), "signal 9 (SIGKILL)");
        assert_eq!(Exit::Signal(40).to_string(), "signal 40");
    }
}
