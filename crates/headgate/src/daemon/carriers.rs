//! Has neighbours asked for again as soon as a carrier comes, in a thread of its own: carriers come while everybody else is busy
//! with the start.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headgate_host::carrier::Carriers;
use headgate_update::milestones;

use super::fence::{self, Part};

/// Enough for a list of interfaces.
const STACK_BYTES: usize = 256 << 10;
/// A carrier that comes later, s after the kernel's start, belongs to a cable and not to the start.
const START: f64 = 60.0;
/// Before what broke is opened anew.
const PAUSE: Duration = Duration::from_secs(10);
const WITHOUT: &str =
    "a neighbour that was asked for before there was a carrier is asked again by the kernel only, a second later";

/// Begins, in the network namespace of the caller. Without it the kernel asks again by itself, later. The carriers of the start are
/// among its milestones: the first packet waits for them.
pub fn begin(milestones: PathBuf) {
    // Before anything is set up whose carrier might come.
    let opened = Carriers::open();
    let thread = std::thread::Builder::new().name("carriers".to_owned()).stack_size(STACK_BYTES);
    let begun = thread.spawn(move || {
        fence::enter(Part::Carriers);
        run(opened, &milestones);
    });
    if let Err(error) = begun {
        tracing::warn!(%error, "{WITHOUT}");
    }
}

/// For ever; what breaks is opened anew, and said once.
fn run(mut opened: io::Result<Carriers>, list: &Path) {
    let mut is_said = false;
    loop {
        let error = match opened {
            Ok(carriers) => follow(carriers, list),
            Err(error) => error,
        };
        match is_said {
            false => tracing::warn!(%error, "{WITHOUT}"),
            true => tracing::debug!(%error, "{WITHOUT}"),
        }
        is_said = true;
        std::thread::sleep(PAUSE);
        opened = Carriers::open();
    }
}

fn follow(mut carriers: Carriers, list: &Path) -> io::Error {
    let mut told = BTreeSet::new();
    loop {
        let came = match carriers.follow() {
            Ok(came) => came,
            Err(error) => return error,
        };
        if came.asked > 0 {
            tracing::info!(neighbours = came.asked, links = ?came.links, "a carrier came; who had not answered was asked again");
        }
        for link in came.links {
            if milestones::now() < START && told.insert(link.clone()) {
                milestones::note(list, format_args!("carrier of {link}"));
            }
        }
    }
}
