//! What systemd is told (sd_notify(3)): ready, reloading, stopping, alive. Without NOTIFY_SOCKET nothing is said to anybody.
//!
//! A service manager that cannot be reached must not cost a farm its load balancer: failures are logged and that is all.

use std::time::Duration;

use sd_notify::NotifyState;

/// Everything is configured and serves. After [`reloading`] it says that the reload is over, well or not.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The configuration is read again. systemd (`Type=notify-reload`, and `notify` since 253) wants the monotonic time with it, to tell this
/// reload from an earlier one.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read: systemd is not told of the reload"),
    }
}

/// The daemon is going down; the data plane stays.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(&one_line(status))]);
}

/// How often [`watchdog`] is to be called: half of what the unit's WatchdogSec= allows, as sd_watchdog_enabled(3) recommends. `None`: never.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

/// The daemon's own check passed.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// Not a test by itself: what the others run in a process with an environment of its own.
    #[test]
    fn speaker() {
        if std::env::var_os("HEADGATE_TEST_NOTIFY").is_none() {
            return;
        }
        ready("2 farms\nREADY=0");
        reloading();
        status("1 farm");
        watchdog();
        stopping();
        println!("interval {:?}", watchdog_interval());
    }

    fn speak(variables: &[(&str, &str)]) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon::notify::tests::speaker", "--nocapture"])
            .env("HEADGATE_TEST_NOTIFY", "1")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn systemd_hears_every_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let said = speak(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "30000000")]);
        assert!(said.contains("interval Some(15s)"), "{said}");
        let mut heard = Vec::new();
        for _ in 0..5 {
            let mut datagram = [0; 512];
            let count = socket.recv(&mut datagram).unwrap();
            heard.push(String::from_utf8(datagram[..count].to_vec()).unwrap());
        }
        assert_eq!(heard[0], "READY=1\nSTATUS=2 farms READY=0\n");
        let time = heard[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time comes along").trim_end();
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(heard[2..], ["STATUS=1 farm\n", "WATCHDOG=1\n", "STOPPING=1\n"]);
    }

    #[test]
    fn without_systemd_or_with_a_dead_one_nothing_happens() {
        assert!(speak(&[]).contains("interval None"));
        assert!(
            speak(&[("NOTIFY_SOCKET", "/nonexistent/notify"), ("WATCHDOG_USEC", "junk")]).contains("interval None")
        );
    }
}
