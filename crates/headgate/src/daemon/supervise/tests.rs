//! Real processes: `sh`, `sleep`, `setsid`, `env`, `yes`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use headgate_config::model::{Backoff, Origin, Ready, Restart};
use tempfile::TempDir;
use tracing::subscriber::DefaultGuard;

use super::*;

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn service(text: &str, command: &[&str]) -> Service {
    Service {
        name: name(text),
        origin: Origin { file: Arc::new("headgate.toml".into()), line: 1, column: 1 },
        command: command.iter().map(|&word| word.to_owned()).collect(),
        restart: Restart::Always,
        backoff: Backoff { initial: Duration::from_millis(20), max: Duration::from_secs(2) },
        after: Vec::new(),
        ready: None,
        stop_timeout: Duration::from_secs(5),
    }
}

fn shell(text: &str, script: &str) -> Service {
    service(text, &["/bin/sh", "-c", script])
}

fn all(services: &[Service]) -> BTreeMap<ServiceName, Service> {
    services.iter().map(|service| (service.name.clone(), service.clone())).collect()
}

/// What was logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn capture() -> (Self, DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Rig {
    directory: TempDir,
    supervisor: Supervisor,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new(directory.path()).unwrap();
        Self { directory, supervisor }
    }

    fn apply(&mut self, services: &[Service]) {
        self.supervisor.apply(&all(services), Network::Configured);
    }

    fn status(&self, service: &str) -> ServiceStatus {
        let found = self.supervisor.status().into_iter().find(|status| status.name == service);
        found.unwrap_or_else(|| panic!("{service} is not in the status"))
    }

    async fn reach(&self, service: &str, state: ServiceState) -> ServiceStatus {
        until(&format!("{service} is {state:?}"), || self.status(service).state == state).await;
        self.status(service)
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Living processes that carry the mark of the services of `directory`.
fn marked(directory: &Path) -> BTreeSet<i32> {
    let metadata = fs::metadata(directory).unwrap();
    use std::os::unix::fs::MetadataExt;
    let mark = format!("HEADGATE_SUPERVISED={:x}.{:x}/", metadata.dev(), metadata.ino());
    let all = table::processes().unwrap();
    all.iter()
        .filter(|process| !process.zombie && table::has_environment(process.pid, &mark).unwrap())
        .map(|p| p.pid)
        .collect()
}

/// Living processes with this word on their command line.
fn running(word: &str) -> BTreeSet<i32> {
    let named = |process: &&table::Process| {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        !process.zombie && line.split(|byte| *byte == 0).any(|found| found == word.as_bytes())
    };
    table::processes().unwrap().iter().filter(named).map(|process| process.pid).collect()
}

#[tokio::test]
async fn a_service_runs_with_little_around_it() {
    let (log, _guard) = Log::capture();
    let mut rig = Rig::new();
    let script = "env; readlink /proc/self/fd/0; pwd; echo to-stderr >&2; printf 'no newline'; exec sleep 100";
    rig.apply(&[shell("env", script)]);
    let status = rig.reach("env", ServiceState::Up).await;
    until("the output is logged", || log.text().contains("no newline") || log.text().contains("to-stderr")).await;
    let text = log.text();
    let pid = status.pid.unwrap();
    for line in ["PATH=/usr/local/sbin", "HOME=/", "HEADGATE_SUPERVISED=", ": /dev/null service=env", "to-stderr"] {
        assert!(text.contains(line), "{line} in:\n{text}");
    }
    assert!(!text.contains("CARGO"), "the supervisor's own environment leaks:\n{text}");
    assert_eq!(table::process(pid as i32).unwrap().group, pid as i32);
    until("its memory is counted", || rig.status("env").memory_bytes > 0 && rig.status("env").processes == 1).await;
    rig.supervisor.shutdown().await;
    assert!(log.text().contains("no newline"), "the last line needs no newline:\n{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_exactly() {
    let mut rig = Rig::new();
    rig.apply(&[shell("crash", "exit 3")]);
    let mut report = rig.supervisor.keepers["crash"].report.clone();
    let mut delays = Vec::new();
    for _ in 0..9 {
        report.wait_for(|report| report.state == ServiceState::BackingOff).await.unwrap();
        let pause = tokio::time::Instant::now();
        report.wait_for(|report| report.state != ServiceState::BackingOff).await.unwrap();
        delays.push(pause.elapsed().as_millis());
    }
    // tokio's timers round up to the next millisecond.
    let want = [20, 40, 80, 160, 320, 640, 1280, 2000, 2000];
    assert!(delays.iter().zip(want).all(|(got, want)| (want..=want + 1).contains(got)), "{delays:?}");
    assert_eq!(report.borrow().last_exit.as_deref(), Some("exit 3"));
    assert!(report.borrow().restarts >= 9);
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn a_restart_waits_for_its_back_off() {
    let mut rig = Rig::new();
    let starts = rig.file("starts");
    let mut crash = shell("crash", &format!("date +%s%N >> {starts}; exit 1"));
    crash.backoff = Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(10) };
    rig.apply(&[crash]);
    until("four starts", || fs::read_to_string(&starts).is_ok_and(|text| text.lines().count() >= 4)).await;
    rig.supervisor.shutdown().await;
    let times: Vec<u64> =
        fs::read_to_string(&starts).unwrap().lines().map(|line| line.parse::<u64>().unwrap() / 1_000_000).collect();
    for (index, least) in [200, 400, 800].into_iter().enumerate() {
        let gap = times[index + 1] - times[index];
        assert!((least..least + 3000).contains(&gap), "gap {index} is {gap} ms, not {least} ms or a little more");
    }
}

#[tokio::test]
async fn on_failure_and_never_settle() {
    let mut rig = Rig::new();
    let with = |restart, service: Service| Service { restart, ..service };
    rig.apply(&[
        with(Restart::OnFailure, shell("good", "exit 0")),
        with(Restart::Never, shell("bad", "exit 7")),
        with(Restart::Never, shell("killed", "kill -SEGV $$")),
    ]);
    assert_eq!(rig.reach("good", ServiceState::Done).await.restarts, 0);
    let bad = rig.reach("bad", ServiceState::Failed).await;
    assert_eq!((bad.reason.as_deref(), bad.next_start, bad.pid), (Some("exit 7"), None, None));
    let killed = rig.reach("killed", ServiceState::Failed).await;
    assert_eq!(killed.last_exit.as_deref(), Some("signal 11 (SIGSEGV)"));
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn nothing_survives_a_stop() {
    let mut rig = Rig::new();
    let word = format!("1000.{}", std::process::id());
    // A process may call itself what it likes, for example nothing that is UTF-8.
    let named = rig.file("\\377) Z 1");
    std::os::unix::fs::symlink("/bin/sleep", rig.directory.path().join(OsStr::from_bytes(b"\xff) Z 1"))).unwrap();
    rig.apply(&[
        shell("group", &format!("sleep {word} & sleep {word} & (sleep {word} &) ; wait")),
        shell(
            "escaped",
            &format!("(setsid sleep {word} &); (setsid sh -c 'sleep {word} & wait' &); exec sleep {word}"),
        ),
        shell("bare", &format!("env -i setsid sh -c 'sleep {word} & wait' & exec sleep {word}")),
        shell("nobody", &format!("(setsid setpriv --reuid=65534 --clear-groups sleep {word} &); exec sleep {word}")),
        shell("named", &format!("setsid \"$(printf '{named}')\" {word} & wait")),
        shell("frozen", &format!("sleep {word} & kill -STOP $!; kill -STOP $$")),
    ]);
    until("all of them run", || running(&word).len() >= 11).await;
    rig.apply(&[]);
    until("they are stopped", || rig.supervisor.status().iter().all(|s| s.state == ServiceState::Stopped)).await;
    assert_eq!(running(&word), BTreeSet::new());
    assert_eq!(marked(rig.directory.path()), BTreeSet::new());
    rig.supervisor.shutdown().await;
}

/// Not a test by itself: [`an_orphan_without_any_mark_goes_with_the_supervisor`] runs it in a process without other supervisors.
#[tokio::test]
async fn stray() {
    if std::env::var_os("HEADGATE_TEST_ALONE").is_none() {
        return;
    }
    let mut rig = Rig::new();
    let word = format!("1001.{}", std::process::id());
    rig.apply(&[shell("lost", &format!("(env -i setsid sleep {word} &); exec sleep 100"))]);
    until("it runs", || running(&word).len() == 1).await;
    rig.supervisor.shutdown().await;
    assert_eq!(running(&word), BTreeSet::new());
}

#[test]
fn an_orphan_without_any_mark_goes_with_the_supervisor() {
    passes_alone("stray");
}

/// Runs one test of this file in a process of its own.
fn passes_alone(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("daemon::supervise::tests::{test}"), "--nocapture"])
        .env("HEADGATE_TEST_ALONE", "1")
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complained}");
}

#[tokio::test]
async fn what_a_crash_leaves_goes_before_the_next_start() {
    let mut rig = Rig::new();
    let word = format!("1002.{}", std::process::id());
    rig.apply(&[shell("leaky", &format!("sleep {word} & (setsid sleep {word} &); sleep 0.05; exit 1"))]);
    for _ in 0..40 {
        let count = running(&word).len();
        assert!(count <= 2, "{count} processes of one run at a time are two");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(rig.status("leaky").restarts >= 2);
    rig.supervisor.shutdown().await;
    assert_eq!(running(&word), BTreeSet::new());
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_the_stop_timeout() {
    let mut rig = Rig::new();
    let ready = rig.file("ready");
    let mut deaf = shell("deaf", &format!("trap '' TERM; touch {ready}; while :; do sleep 0.05; done"));
    deaf.stop_timeout = Duration::from_millis(400);
    rig.apply(&[deaf]);
    until("the trap is set", || Path::new(&ready).exists()).await;
    let start = Instant::now();
    rig.apply(&[]);
    let status = rig.reach("deaf", ServiceState::Stopped).await;
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(status.last_exit.as_deref(), Some("signal 9 (SIGKILL)"));
    assert_eq!(marked(rig.directory.path()), BTreeSet::new());
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn who_multiplies_when_it_is_stopped_is_ended_all_the_same() {
    let mut rig = Rig::new();
    let word = format!("1005.{}", std::process::id());
    let ready = rig.file("ready");
    let script =
        format!("trap '(setsid sleep {word} &); sleep {word} &' TERM; touch {ready}; while :; do sleep 0.01; done");
    rig.apply(&[Service { stop_timeout: Duration::from_millis(200), ..shell("hydra", &script) }]);
    until("the trap is set", || Path::new(&ready).exists()).await;
    rig.supervisor.shutdown().await;
    assert_eq!(running(&word), BTreeSet::new());
    assert_eq!(marked(rig.directory.path()), BTreeSet::new());
}

#[tokio::test]
async fn many_changes_of_mind_end_in_one_process() {
    let mut rig = Rig::new();
    let word = |round: usize| format!("100{}.{}", 6 + round % 2, std::process::id());
    for round in 0..58 {
        let service = service("fickle", &["/bin/sleep", &word(round)]);
        if round % 7 == 3 {
            rig.apply(&[])
        } else {
            rig.apply(&[service])
        }
        sleep(Duration::from_millis(round as u64 % 5 * 3)).await;
    }
    let alone = || running(&word(0)).is_empty() && running(&word(1)).len() == 1;
    until("the last one wanted runs, and it alone", || alone() && rig.status("fickle").state == ServiceState::Up).await;
    rig.supervisor.shutdown().await;
    assert_eq!(running(&word(1)), BTreeSet::new());
}

#[tokio::test]
async fn a_hundred_services_come_and_go() {
    let mut rig = Rig::new();
    let services: Vec<Service> =
        (0..100).map(|number| service(&format!("s{number}"), &["/bin/sleep", "100"])).collect();
    let start = Instant::now();
    rig.apply(&services);
    until("all of them run", || rig.supervisor.status().iter().all(|status| status.state == ServiceState::Up)).await;
    rig.supervisor.shutdown().await;
    assert_eq!(marked(rig.directory.path()), BTreeSet::new());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    println!("100 services came and went in {:?}", start.elapsed());
}

/// Not a test by itself: [`without_descriptors_a_service_fails_and_recovers`] runs it in a process with a limit of its own.
#[tokio::test]
async fn starved() {
    if std::env::var_os("HEADGATE_TEST_ALONE").is_none() {
        return;
    }
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let mut rig = Rig::new();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    rig.apply(&[service("s", &["/bin/sleep", "100"])]);
    rig.reach("s", ServiceState::Up).await;
    for spare in 0..8 {
        setrlimit(Resource::RLIMIT_NOFILE, open + spare, hard).unwrap();
        rig.apply(&[service("s", &["/bin/sleep", "100"]), service("t", &["/bin/sleep", "100"])]);
        sleep(Duration::from_millis(300)).await;
        let state = rig.status("t").state;
        assert!(
            matches!(state, ServiceState::Failed | ServiceState::Up),
            "{state:?} with {spare} descriptors to spare"
        );
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        rig.reach("t", ServiceState::Up).await;
        // And stopped without a look at /proc.
        setrlimit(Resource::RLIMIT_NOFILE, open + spare, hard).unwrap();
        rig.apply(&[service("s", &["/bin/sleep", "100"])]);
        sleep(Duration::from_millis(100)).await;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        rig.reach("t", ServiceState::Stopped).await;
    }
    rig.supervisor.shutdown().await;
    assert_eq!(marked(rig.directory.path()), BTreeSet::new());
}

#[test]
fn without_descriptors_a_service_fails_and_recovers() {
    passes_alone("starved");
}

#[tokio::test]
async fn dependents_wait_for_readiness() {
    let mut rig = Rig::new();
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = reserved.local_addr().unwrap();
    drop(reserved);
    let mut first = shell("zz-first", "exec sleep 100");
    first.ready = Some(Ready::Tcp(address));
    let mut second = shell("second", "exec sleep 100");
    second.after = vec!["zz-first".into()];
    let unrelated = shell("unrelated", "exec sleep 100");
    rig.apply(&[first, second, unrelated]);
    rig.reach("unrelated", ServiceState::Up).await;
    let starting = rig.reach("zz-first", ServiceState::Starting).await;
    assert_eq!(starting.reason, Some(format!("waits for tcp {address}")));
    sleep(Duration::from_millis(300)).await;
    let waiting = rig.status("second");
    assert_eq!((waiting.state, waiting.reason.as_deref()), (ServiceState::Waiting, Some("waits for zz-first")));
    let _listener = std::net::TcpListener::bind(address).unwrap();
    rig.reach("zz-first", ServiceState::Up).await;
    rig.reach("second", ServiceState::Up).await;
    rig.supervisor.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_is_never_up_is_not_waited_for_for_ever() {
    let (log, _guard) = Log::capture();
    let mut rig = Rig::new();
    let mut second = shell("second", "exec sleep 100");
    second.after = vec!["broken".into()];
    rig.apply(&[service("broken", &["/nonexistent/program"]), second]);
    let began = tokio::time::Instant::now();
    let mut report = rig.supervisor.keepers["second"].report.clone();
    report.wait_for(|report| report.state == ServiceState::Up).await.unwrap();
    assert!(began.elapsed() >= keeper::PATIENCE, "{:?}", began.elapsed());
    assert!(log.text().contains("is not up after 30s"), "{}", log.text());
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn a_dependency_that_gave_up_is_not_waited_for_at_all() {
    let mut rig = Rig::new();
    let mut second = shell("second", "exec sleep 100");
    second.after = vec!["broken".into()];
    rig.apply(&[Service { restart: Restart::Never, ..shell("broken", "exit 1") }, second]);
    rig.reach("second", ServiceState::Up).await;
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn after_network_waits_for_the_network() {
    let mut rig = Rig::new();
    let mut second = shell("ssh", "exec sleep 100");
    second.after = vec!["network".into()];
    let services = all(&[second, shell("local", "exec sleep 100")]);
    rig.supervisor.apply(&services, Network::Pending);
    rig.reach("local", ServiceState::Up).await;
    assert_eq!(rig.status("ssh").reason.as_deref(), Some("waits for network"));
    rig.supervisor.apply(&services, Network::Configured);
    rig.reach("ssh", ServiceState::Up).await;
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn services_stop_in_the_reverse_order() {
    let mut rig = Rig::new();
    let file = rig.file("order");
    let script = |name: &str| {
        format!(
            "trap 'sleep 0.2; echo {name} >> {file}; exit 0' TERM; echo up-{name} >> {file}; while :; do sleep 0.05; done"
        )
    };
    let mut b = shell("b", &script("b"));
    b.after = vec!["a".into()];
    let mut c = shell("c", &script("c"));
    c.after = vec!["b".into()];
    rig.apply(&[shell("a", &script("a")), b, c]);
    until("all traps are set", || fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == 3)).await;
    rig.supervisor.shutdown().await;
    let text = fs::read_to_string(&file).unwrap();
    let order: Vec<&str> = text.lines().filter(|line| !line.starts_with("up-")).collect();
    assert_eq!(order, ["c", "b", "a"]);
}

#[tokio::test]
async fn a_missing_program_fails_with_its_path_and_is_tried_again() {
    let mut rig = Rig::new();
    let program = rig.file("program");
    rig.apply(&[service("late", &[&program, "100"])]);
    let failed = rig.reach("late", ServiceState::Failed).await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains(&program) && reason.contains("No such file"), "{reason}");
    assert!(failed.next_start.is_some_and(|next| next > failed.since));
    fs::write(&program, "#!/bin/sh\nexec sleep 100\n").unwrap();
    until("it is tried in vain", || rig.status("late").reason.is_some_and(|reason| reason.contains("ermission"))).await;
    // The test's threads fork: a descriptor open for writing in a child gives ETXTBSY, which the back-off outlasts.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    rig.reach("late", ServiceState::Up).await;
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn a_reload_touches_only_what_changed() {
    let mut rig = Rig::new();
    let same = shell("same", "exec sleep 100");
    let changed = shell("changed", "exec sleep 100");
    let gone = shell("gone", "exec sleep 100");
    rig.apply(&[same.clone(), changed.clone(), gone.clone()]);
    let same_pid = rig.reach("same", ServiceState::Up).await.pid;
    let changed_pid = rig.reach("changed", ServiceState::Up).await.pid;
    rig.reach("gone", ServiceState::Up).await;

    let mut moved = same.clone();
    moved.origin.line = 99;
    moved.stop_timeout = Duration::from_secs(1);
    rig.apply(&[moved.clone(), shell("changed", "exec sleep 101"), shell("new", "exec sleep 100")]);
    rig.reach("gone", ServiceState::Stopped).await;
    rig.reach("new", ServiceState::Up).await;
    until("the changed one runs anew", || {
        let status = rig.status("changed");
        status.state == ServiceState::Up && status.pid != changed_pid
    })
    .await;
    assert_eq!(rig.status("same").pid, same_pid, "a new policy needs no restart");

    rig.apply(&[moved, gone]);
    rig.reach("gone", ServiceState::Up).await;
    rig.reach("changed", ServiceState::Stopped).await;
    assert_eq!(rig.status("same").pid, same_pid);
    rig.apply(&[same]);
    assert!(rig.supervisor.status().iter().all(|status| status.name != "changed"), "who is stopped is forgotten");
    rig.supervisor.shutdown().await;
    assert_eq!(marked(rig.directory.path()), BTreeSet::new());
}

#[tokio::test]
async fn a_policy_that_came_during_the_run_decides_at_its_end() {
    let mut rig = Rig::new();
    let mut service = shell("s", "while [ -e /proc/self ] && sleep 0.05; do :; done");
    rig.apply(&[service.clone()]);
    let pid = rig.reach("s", ServiceState::Up).await.pid.unwrap();
    service.restart = Restart::Never;
    rig.apply(&[service]);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.status("s").pid, Some(pid));
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    rig.reach("s", ServiceState::Failed).await;
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn a_flood_of_output_costs_little() {
    let (log, _guard) = Log::capture();
    let mut rig = Rig::new();
    rig.apply(&[
        shell("flood", "exec yes 'a line of some length, again and again and again'"),
        shell("endless", "exec cat /dev/zero"),
    ]);
    rig.reach("flood", ServiceState::Up).await;
    let start = Instant::now();
    let mut worst = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(2) {
        let tick = Instant::now();
        sleep(Duration::from_millis(5)).await;
        worst = worst.max(tick.elapsed());
    }
    assert!(worst < Duration::from_millis(500), "the runtime stood still for {worst:?}");
    rig.supervisor.shutdown().await;
    let text = log.text();
    assert!(text.lines().count() < 1500, "{} lines logged", text.lines().count());
    assert!(text.contains("dropped="), "what was dropped is said");
    assert!(text.len() < 200_000, "{} bytes logged", text.len());
}

#[tokio::test]
async fn no_zombies_stay() {
    let mut rig = Rig::new();
    let script =
        "i=0; while [ $i -lt 30 ]; do (sh -c 'exit 0' &); (setsid sh -c 'exit 1' &); i=$((i+1)); done; exec sleep 100";
    rig.apply(&[shell("orphans", script)]);
    rig.reach("orphans", ServiceState::Up).await;
    let me = table::process(std::process::id() as i32).unwrap();
    // Tests run side by side: children that another test may wait for (of our session, leaders of their group) do not count.
    let theirs = |process: &table::Process| process.session == me.session && process.group == process.pid;
    let zombies = || -> BTreeSet<(i32, u64)> {
        let all = table::processes().unwrap();
        let ours = all.iter().filter(|process| process.zombie && process.parent == me.pid && !theirs(process));
        ours.map(|process| (process.pid, process.start)).collect()
    };
    let mut seen = 0;
    for _ in 0..20 {
        seen = seen.max(zombies().len());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(seen > 0, "orphans come to us");
    let before = zombies();
    sleep(Duration::from_millis(2500)).await;
    let both: Vec<_> = zombies().intersection(&before).copied().collect();
    assert!(both.is_empty(), "zombies stay: {both:?}");
    // Others' children are left to them.
    let mut own = tokio::process::Command::new("/bin/sh").args(["-c", "exit 5"]).spawn().unwrap();
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(own.wait().await.unwrap().code(), Some(5));
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_stops_nobody() {
    let (log, _guard) = Log::capture();
    let mut rig = Rig::new();
    fs::create_dir(rig.directory.path().join("services.json.new")).unwrap();
    rig.apply(&[shell("a", "exec sleep 100"), shell("b", "exec sleep 100")]);
    rig.reach("a", ServiceState::Up).await;
    rig.reach("b", ServiceState::Up).await;
    assert_eq!(log.text().matches("running services cannot be noted").count(), 1, "{}", log.text());
    rig.supervisor.shutdown().await;
}

#[tokio::test]
async fn a_supervisor_that_is_dropped_takes_its_services_along() {
    let mut rig = Rig::new();
    rig.apply(&[shell("a", "exec sleep 100")]);
    rig.reach("a", ServiceState::Up).await;
    drop(rig.supervisor);
    until("the service is gone", || marked(rig.directory.path()).is_empty()).await;
}

/// Not a test by itself: the supervisor that [`a_killed_supervisor_leaves_nothing_to_run_twice`] kills.
#[tokio::test]
async fn victim() {
    let Some(directory) = std::env::var_os("HEADGATE_TEST_STATE") else { return };
    let mut supervisor = Supervisor::new(Path::new(&directory)).unwrap();
    supervisor.apply(&victims(), Network::Configured);
    std::future::pending::<()>().await;
}

fn victims() -> BTreeMap<ServiceName, Service> {
    let mut deaf = shell("deaf", "trap '' TERM; while :; do sleep 0.05; done");
    deaf.stop_timeout = Duration::from_millis(300);
    all(&[
        shell("plain", "exec sleep 1003"),
        shell("escaped", "(setsid sleep 1003 &); exec sleep 1003"),
        shell("bare", "exec env -i sleep 1003"),
        deaf,
    ])
}

async fn killed_supervisor(damage: impl FnOnce(&Path), least_gone: usize) {
    let directory = tempfile::tempdir().unwrap();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon::supervise::tests::victim", "--nocapture"])
        .env("HEADGATE_TEST_STATE", directory.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the services run", || marked(directory.path()).len() >= 4).await;
    sleep(Duration::from_millis(300)).await;
    let file = directory.path().join("services.json");
    let content: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let pid_of = |service: &str| content["services"][service]["leader"]["pid"].as_i64().unwrap() as i32;
    let mut old = marked(directory.path());
    old.extend(["plain", "escaped", "bare", "deaf"].map(pid_of));
    assert!(old.len() >= 5, "{old:?}");

    let refused = Supervisor::new(directory.path());
    assert!(matches!(refused, Err(SuperviseError::Running { pid, .. }) if pid == victim.id() as i32), "{refused:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let alive =
        |pids: &BTreeSet<i32>| pids.iter().filter(|pid| table::process(**pid).is_some_and(|p| !p.zombie)).count();
    assert!(alive(&old) >= 5, "services outlive a supervisor that is killed");

    damage(&file);
    let mut supervisor = Supervisor::new(directory.path()).unwrap();
    supervisor.apply(&victims(), Network::Configured);
    until("all services run", || supervisor.status().iter().all(|status| status.state == ServiceState::Up)).await;
    let new: BTreeSet<i32> = supervisor.status().iter().filter_map(|status| Some(status.pid? as i32)).collect();
    assert!(new.is_disjoint(&old));
    assert!(old.len() - alive(&old) >= least_gone, "{} of {old:?} are alive", alive(&old));
    supervisor.shutdown().await;
    assert_eq!(marked(directory.path()), BTreeSet::new());
    for pid in old {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[tokio::test]
async fn a_killed_supervisor_leaves_nothing_to_run_twice() {
    killed_supervisor(|_| {}, 5).await;
}

#[tokio::test]
async fn a_damaged_ledger_is_made_up_for_by_the_mark() {
    // The one that started a program with another environment cannot be found without the file.
    killed_supervisor(|file| fs::write(file, b"{\"boot\":\"\xff").unwrap(), 4).await;
}
