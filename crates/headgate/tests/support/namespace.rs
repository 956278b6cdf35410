//! A network namespace of a test's own, with two interfaces, and a daemon in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{HEADGATE, HEADGATED, Ran, Tree};

/// The interfaces of [`Namespace`].
pub const NETWORK: &str = "\
[network.interfaces.cl]
addresses = [\"172.16.1.254/24\"]
[network.interfaces.be]
addresses = [\"172.16.2.254/24\"]
";

/// Whoever is started by it cannot set the clock.
const TIMELESS: &str = "setpriv --bounding-set -sys_time --inh-caps -sys_time --";

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Has `cl` towards clients and `be` towards backends; is gone when dropped.
pub struct Namespace {
    name: String,
    pub tree: Tree,
}

impl Namespace {
    /// With [`NETWORK`] and `farms` as its configuration.
    pub fn new(farms: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes a network namespace and needs root");
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hg-daemon-{}-{number}", std::process::id());
        let namespace = Self { name, tree: Tree::new() };
        ip(&["netns", "add", &namespace.name]);
        ip(&["netns", "add", &namespace.far()]);
        for link in ["cl", "be"] {
            let peer = format!("{link}-peer");
            ip(&["-n", &namespace.name, "link", "add", link, "type", "veth", "peer", &peer, "netns", &namespace.far()]);
            ip(&["-n", &namespace.far(), "link", "set", &peer, "up"]);
        }
        namespace.tree.write("etc/headgate/headgate.toml", NETWORK);
        namespace.tree.write("etc/headgate/conf.d/10-farms.toml", farms);
        namespace
    }

    /// Where the other ends of the cables are.
    fn far(&self) -> String {
        format!("{}-far", self.name)
    }

    /// Gives the other end of `link` an address.
    pub fn far_address(&self, link: &str, address: &str) {
        ip(&["-n", &self.far(), "address", "add", address, "dev", &format!("{link}-peer")]);
    }

    /// Whether both ends of `link` have a link-local address that nobody else has: before that nothing is sent from it.
    pub fn is_link_local(&self, link: &str) -> bool {
        let ready = |namespace: &str, device: &str| {
            let arguments = ["-n", namespace, "-6", "address", "show", "dev", device, "scope", "link", "-tentative"];
            Ran::of(Command::new("ip").args(arguments)).exits(0).out.contains("fe80")
        };
        ready(&self.name, link) && ready(&self.far(), &format!("{link}-peer"))
    }

    /// Does something at the other ends: sockets that are made there stay there.
    pub fn at_far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.far(), work)
    }

    /// Does something here: sockets that are made stay here.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.name, work)
    }

    /// nftables, as it is seen from here.
    pub fn nftables(&self) -> headgate_nft::Socket {
        within(&self.name, headgate_nft::Socket::open).expect("nftables answers")
    }

    /// A command in the namespace, with its own `/sys`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.command(program).args(arguments))
    }

    pub fn headgate(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(HEADGATE).arg("--root").arg(self.tree.root()).args(arguments))
    }

    pub fn headgated(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(HEADGATED).arg("--root").arg(self.tree.root()).args(arguments))
    }

    /// Everything that nftables has.
    pub fn ruleset(&self) -> String {
        self.run("nft", &["list", "ruleset"]).exits(0).out
    }

    pub fn addresses(&self) -> String {
        let list = self.run("ip", &["-br", "address"]).exits(0).out;
        // The second column, the operational state, follows the carrier with a delay, and so do link-local addresses.
        let stable = |line: &str| {
            line.split_whitespace()
                .enumerate()
                .filter(|(column, word)| *column != 1 && !word.starts_with("fe80:"))
                .map(|(_, word)| word)
                .collect::<Vec<_>>()
                .join(" ")
        };
        list.lines().map(stable).collect::<Vec<_>>().join("\n")
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&self) -> Daemon<'_> {
        self.start_after("true", self.tree.root())
    }

    /// The same after a line of shell, whose mounts are the daemon's alone; `$1` is the root. It answers below `root`.
    pub fn start_after(&self, prepare: &str, root: &Path) -> Daemon<'_> {
        let mut command = self.command("sh");
        // A namespace has no clock of its own: what a daemon says about the time must not get to this machine.
        let script = format!("{prepare} && exec {TIMELESS} \"$0\" --root \"$1\" --log-format text");
        command.args(["-ec", &script, HEADGATED]).arg(root);
        let log = std::fs::File::create(self.tree.path("log")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
        let daemon = Daemon { child, namespace: self };
        let root = daemon.root();
        self.wait_for("an answer", || self.headgate_at(&root, &["history"]).code == Some(0));
        daemon
    }

    /// The operator's command for the daemon below another root.
    pub fn headgate_at(&self, root: &Path, arguments: &[&str]) -> Ran {
        Ran::of(self.command(HEADGATE).arg("--root").arg(root).args(arguments))
    }

    /// Waits, and says what the daemon said when it is in vain.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < DEADLINE, "no {what} within {DEADLINE:?}\n{}", self.tree.read("log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for name in [&self.name, &self.far()] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// A thread of its own is elsewhere, not its process.
fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let handle = std::fs::File::open(format!("/run/netns/{name}")).expect("the namespace is there");
    let there = || {
        nix::sched::setns(&handle, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter it");
        work()
    };
    std::thread::scope(|scope| scope.spawn(there).join()).expect("it does not panic")
}

#[track_caller]
fn ip(arguments: &[&str]) {
    Ran::of(Command::new("ip").args(arguments)).exits(0);
}

/// A daemon that runs; killed when dropped.
pub struct Daemon<'a> {
    child: Child,
    namespace: &'a Namespace,
}

impl Daemon<'_> {
    /// `ip netns exec` becomes the program, so this is its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its root as it sees it itself, mounts of its own included.
    pub fn root(&self) -> PathBuf {
        let own = self.namespace.tree.root();
        Path::new(&format!("/proc/{}/root", self.pid())).join(own.strip_prefix("/").expect("it is absolute"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it lives");
    }

    /// Sends SIGHUP and waits until `word` is in what the daemon logs from then on.
    pub fn reload(&self, word: &str) {
        let before = self.namespace.tree.read("log").len();
        self.signal(Signal::SIGHUP);
        self.namespace.wait_for(word, || self.namespace.tree.read("log")[before..].contains(word));
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.child.wait().expect("it ends").code()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
