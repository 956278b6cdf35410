//! From the probe that decides to the kernel: a backend's port is closed and opened again, and the daemon's own log says how long
//! each turn took until it was committed. Flows are ended behind that.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headgate_image::netns::Namespace;
use headgate_tests::{binaries, farms};

use super::content::Content;
use super::milliseconds;
use crate::peer::Daemon;

/// Down and up again, so often.
const ROUNDS: usize = 20;
/// A probe every 100 ms, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The backend: an address of the box itself.
const BACKEND: &str = "172.31.255.254:7001";
/// What the daemon writes behind each turn, in microseconds.
const FIELD: &str = "took_us=";

/// How long turns took with these farms and one more, which is checked; ms, sorted.
pub(super) fn measure(space: &Namespace, content: Content) -> Result<Vec<f64>> {
    let directory = tempfile::Builder::new().prefix("headgate-bench-").tempdir()?;
    std::fs::create_dir_all(directory.path().join("etc/headgate"))?;
    let listen = farms::virtual_address(0);
    let text = format!(
        "{}\n[farms.turning]\nlisten = \"{listen}:81\"\nbackends.b1.address = \"{BACKEND}\"\n\
         health = {{ type = \"tcp\", interval = \"100ms\", timeout = \"100ms\", fall = 1, rise = 1 }}\n",
        content.headgate()
    );
    std::fs::write(directory.path().join("etc/headgate/headgate.toml"), text)?;
    let log = directory.path().join("log");
    let mut command = space.command(binaries::directory().join("headgated"));
    command.arg("--root").arg(directory.path()).env("HEADGATE_LOG", "debug").stderr(std::fs::File::create(&log)?);
    let mut listener = Some(space.within(|| TcpListener::bind(BACKEND))??);
    let daemon = Daemon::start(&mut command)?;
    // The backend that nobody knew turns first, when it passes.
    for turn in 2..=2 * ROUNDS + 1 {
        wait(&log, turn - 1)?;
        listener = match listener {
            Some(_) => None,
            None => Some(space.within(|| TcpListener::bind(BACKEND))??),
        };
    }
    wait(&log, 2 * ROUNDS + 1)?;
    drop(daemon);
    let mut times = turns(&log)?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Until so many turns were made.
fn wait(log: &Path, turn: usize) -> Result<()> {
    let begin = Instant::now();
    while turns(log)?.len() < turn {
        ensure!(begin.elapsed() < PATIENCE, "turn {turn} of a backend was not made within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn turns(log: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(log)?;
    let fields = text.lines().filter_map(|line| line.split_once(FIELD));
    fields
        .map(|(_, rest)| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            Ok(milliseconds(Duration::from_micros(digits.parse().context("the daemon's log")?)))
        })
        .collect()
}
