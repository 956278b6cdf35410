//! Network namespaces for tests: each is a thread with a network and a mount namespace of its own and a fresh `/sys`.

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace; it is gone with the value.
pub(crate) struct Namespace {
    jobs: Sender<Job>,
    /// By which `ip link set X netns TID` finds it.
    pub(crate) tid: i32,
}

impl Namespace {
    /// Makes one with `lo` up.
    ///
    /// # Panics
    /// Without root: these tests prove nothing then, and must not seem to pass.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces and must be run as root");
        let (jobs, queue) = channel::<Job>();
        let (ready, tid) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare of network and mounts");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("a fresh /sys");
            ip("link set lo up");
            ready.send(nix::unistd::gettid().as_raw()).expect("somebody waits for the namespace");
            for job in queue {
                job();
            }
        });
        Self { jobs, tid: tid.recv().expect("the namespace's thread has said why it ended") }
    }

    /// Runs `work` in the namespace, and fails as it does.
    pub(crate) fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (result, done) = channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            result.send(outcome).expect("run() waits for the result");
        };
        self.jobs.send(Box::new(job)).expect("the namespace's thread runs");
        match done.recv().expect("the job sends its result") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Runs `ip` in the namespace of this thread and returns what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    command("ip", arguments)
}

/// Runs a program in the namespace of this thread and returns what it printed.
pub(crate) fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {complaint}");
    String::from_utf8(output.stdout).expect("text")
}

/// Carries out nft(8) commands in the namespace of this thread and returns what was printed.
pub(crate) fn nft(commands: &str) -> String {
    let output = Command::new("nft").arg(commands).output().expect("nft can be started");
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
