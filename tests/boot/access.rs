//! Who gets in, and what the box has to do with others: ssh with a key and with nothing else, the time, the log elsewhere.

use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headgate_image::demo::{DROP_IN, Networks, write_drop_in};
use headgate_image::layout::{Content, Layout};
use headgate_image::netns::Namespace;
use headgate_image::qemu::{Firmware, Machine, Options, Writes, overlay};
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};
use headgate_tests::ssh::Ssh;

use super::{BOOT, COMMAND, image, try_to_get_a_shell, turn};

const ADMIN: &str = "admin@172.16.1.1";
/// The first backend's machine tells the time, too.
const TIME: &str = "172.16.2.11";
/// The client's machine takes the log.
const LOG: &str = "172.16.1.2:514";

/// A toy that speaks just enough of NTP (RFC 5905, 7.3): this machine's time, to whoever asks.
fn tell_the_time(socket: &UdpSocket) {
    let mut question = [0; 48];
    while let Ok((48, from)) = socket.recv_from(&mut question) {
        let mut answer = [0; 48];
        (answer[0], answer[1]) = (0b00_100_100, 1);
        answer[12..16].copy_from_slice(b"LOCL");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time = ((now.as_secs() + 2_208_988_800) << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000);
        answer[24..32].copy_from_slice(&question[40..48]);
        answer[32..40].copy_from_slice(&time.to_be_bytes());
        answer[40..48].copy_from_slice(&time.to_be_bytes());
        let _ = socket.send_to(&answer, from);
    }
}

/// Until a record of the box has `word` in it.
#[track_caller]
fn logged(socket: &UdpSocket, word: &str) -> String {
    let begin = Instant::now();
    let (mut buffer, mut seen) = ([0; 4096], String::new());
    while begin.elapsed() < BOOT {
        if let Ok(length) = socket.recv(&mut buffer) {
            let record = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(record.starts_with('<') && record.contains(" headgated "), "{record}");
            if record.contains(word) {
                return record;
            }
            seen += &record;
            seen.push('\n');
        }
    }
    panic!("the box does not log {word:?}:\n{seen}");
}

/// A name, and what is done.
type Trial = (&'static str, fn(&mut Again<'_>));

/// What is tried on the box, each on the state that was saved: one changes nothing for the next.
const TRIALS: [Trial; 4] = [
    ("the console has no shell", |again| try_to_get_a_shell(&mut again.machine)),
    ("with the key", |again| with_the_key(&again.ssh())),
    ("without the key", |again| without_it(&again.ssh())),
    ("where it is allowed", |again| only_where_it_is_allowed(&again.networks)),
];

#[test]
fn a_key_lets_in_and_nothing_else_does() {
    let _turn = turn();
    let (source, image) = image();
    let layout: Layout = source.read_toml("image/layout.toml").unwrap();
    let directory = tempfile::tempdir_in(source.join("build")).unwrap();
    let saved = Saved::at(directory.path());
    // Written to, so not the image that others use.
    overlay(&image, &saved.disk).unwrap();
    let (networks, links) = Networks::create().unwrap();
    let ssh = Ssh::new(&networks.client, directory.path());
    let (key, _) = (ssh.key("ours"), ssh.key("theirs"));
    let clock = networks.backend.within(|| UdpSocket::bind((TIME, 123))).unwrap().unwrap();
    std::thread::spawn(move || tell_the_time(&clock));
    let log = networks.client.within(|| UdpSocket::bind(LOG)).unwrap().unwrap();
    log.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let open = DROP_IN.replace("[\"172.16.1.1/24\"]", "[\"172.16.1.1/24\"]\nallow = [\"ping\", \"ssh\"]");
    let system = format!(
        "[system]\nhostname = \"lb1\"\nntp-servers = [{TIME:?}]\nsyslog = \"udp://{LOG}\"\nauthorized-keys = [{key:?}]\n"
    );
    let drop_ins = vec![write_drop_in(directory.path(), "10-access.toml", &format!("{open}\n{system}")).unwrap()];
    let options = Options {
        links,
        drop_ins: drop_ins.clone(),
        firmware: Firmware::Bios,
        writes: Writes::Kept,
        clock: Some("2020-01-01T00:00:00".to_owned()),
        ..Options::trial(&saved.disk)
    };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();

    is_set(&log);
    let begin = Instant::now();
    loop {
        let (told, status) = machine.console("status", COMMAND).unwrap();
        if status == 0 {
            assert!(told.contains("clock: synchronised for") && told.contains("log to udp://172.16.1.2:514"), "{told}");
            break;
        }
        assert!(begin.elapsed() < BOOT, "the services do not come up: {told}");
    }
    // From the first visit on there is a host key, the same at every later one; what is written behind it is on the disk when
    // it has been answered, and the key's name with it.
    with_a_drop_in(&ssh);
    machine.save(&saved.memory).unwrap();
    drop((networks, log));
    for (name, trial) in TRIALS {
        let begin = Instant::now();
        let mut again = saved.go_on(&drop_ins);
        let ready = begin.elapsed();
        trial(&mut again);
        let (ready, all) = (ready.as_secs_f64(), begin.elapsed().as_secs_f64());
        eprintln!("{name}: the saved box answers after {ready:.1} s, all of it took {all:.1} s");
    }
    let kept = listed(&layout, directory.path(), &saved.disk);
    assert!(kept.contains("dropbear_ed25519_host_key"), "{kept}");
}

/// What is in the directory of the host keys, once the journal was replayed as the next start would.
fn listed(layout: &Layout, directory: &Path, disk: &Path) -> String {
    let (raw, data) = (directory.join("disk.img"), directory.join("data.img"));
    run(tool("qemu-img").args(["convert", "-O", "raw"]).arg(disk).arg(&raw)).unwrap();
    let place = layout.place(Content::Data).unwrap();
    let whole = std::fs::read(raw).unwrap();
    // A data partition has grown to the end of its disk.
    std::fs::write(&data, &whole[usize::try_from(place.offset).unwrap()..]).unwrap();
    run(tool("e2fsck").args(["-y", "-E", "journal_only"]).arg(&data)).unwrap();
    String::from_utf8_lossy(&run(tool("debugfs").args(["-R", "ls -l state/dropbear"]).arg(&data)).unwrap()).into_owned()
}

/// A box that was stopped while it served: its disk, and its memory.
struct Saved<'a> {
    directory: &'a Path,
    disk: PathBuf,
    memory: PathBuf,
}

/// The same box, with another client, other backends, and what is written gone with it.
struct Again<'a> {
    networks: Networks,
    machine: Machine,
    directory: &'a Path,
}

impl<'a> Saved<'a> {
    fn at(directory: &'a Path) -> Self {
        Self { directory, disk: directory.join("disk.qcow2"), memory: directory.join("memory") }
    }

    /// Goes on, until the console has answered.
    fn go_on(&self, drop_ins: &[PathBuf]) -> Again<'a> {
        let (networks, links) = Networks::create().unwrap();
        let (drop_ins, memory) = (drop_ins.to_vec(), Some(self.memory.clone()));
        let options = Options { links, drop_ins, memory, ..Options::trial(&self.disk) };
        let mut machine = Machine::start(options, &Stop::never()).unwrap();
        machine.send("").unwrap();
        machine.expect("headgate> ", COMMAND).unwrap();
        Again { networks, machine, directory: self.directory }
    }
}

impl Again<'_> {
    fn ssh(&self) -> Ssh<'_> {
        Ssh::new(&self.networks.client, self.directory)
    }
}

/// From 2020 to now, and the receiver of the log sees it.
fn is_set(log: &UdpSocket) {
    let record = logged(log, "the clock was set");
    assert!(record.contains(" lb1 headgated ") && record.contains("server=\"172.16.2.11\""), "{record}");
    let seconds = record.split("seconds=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(seconds.parse::<f64>().unwrap() > 1e8, "{record}");
    // Records are dated by the clock that was set.
    let year = |record: &str| record.split(' ').nth(1).unwrap()[..4].to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 31_556_952 + 1970;
    assert_eq!(year(&record), now.to_string(), "{record}");
}

fn with_the_key(ssh: &Ssh<'_>) {
    let status: serde_json::Value = serde_json::from_str(&ssh.does(&[ADMIN, "status", "--json"])).unwrap();
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(status["farms"][0]["name"], "web", "{status}");
    let clock = &status["clock"];
    assert!(clock["synchronised-ms"].is_u64() && clock["best"]["server"] == TIME, "{clock}");
    let service = status["services"].as_array().unwrap().iter().find(|service| service["name"] == "ssh").unwrap();
    assert_eq!(service["healthy"], true, "{service}");
    ssh.does(&[ADMIN, "headgate backend drain web 'b1'"]);
    assert!(ssh.does(&[ADMIN, "farm show web"]).contains("draining"));
    ssh.does(&[ADMIN, "backend up web b1"]);
    // With a terminal and without a command it is the console.
    let mut command = ssh.command("ours", &["-tt", "-o", "BatchMode=yes", ADMIN]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Held open until the end, as at a desk: some servers take its end for the end of the terminal.
    let mut keys = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"sh\rfarm list\rexit\r").unwrap();
    let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
    drop(keys);
    assert!(
        said.contains("headgate> ") && said.contains("not available here") && said.contains("172.16.1.1:80"),
        "{said}"
    );
}

/// Nobody has a shell or scp, and the configuration still comes and goes.
fn with_a_drop_in(ssh: &Ssh<'_>) {
    let text = "[farms.web.backends.b2]\nweight = 7\n";
    let tried = ssh.does_with(&[ADMIN, "config put 50-weight --confirm 10m"], text.as_bytes());
    assert!(tried.contains("on trial"), "{tried}");
    ssh.does(&[ADMIN, "confirm"]);
    assert_eq!(ssh.does(&[ADMIN, "config get 50-weight"]), text);
    let list = ssh.does(&[ADMIN, "config list"]);
    assert!(list.lines().any(|line| line.contains("conf.d/50-weight.toml") && line.ends_with("used")), "{list}");
    assert!(ssh.does(&[ADMIN, "farm show web --json"]).contains("\"weight\": 7"));
    // The way that one came by is not closed unasked, and what is wrong is told with its place.
    for (text, told) in [
        ("[network.interfaces.service]\nallow = [\"ping\"]\n", "would not let 172.16.1.2 come back to port 22"),
        ("[farms.web.backends.b2]\nweight = -7\n", "conf.d/60-wrong.toml:2:"),
    ] {
        let refused = ssh.run("ours", &[ADMIN, "config put 60-wrong"], text.as_bytes());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(told), "{said}");
    }
    ssh.is_refused("ours", &[ADMIN, "config get 60-wrong"], "there is no drop-in 60-wrong.toml");
    ssh.does(&[ADMIN, "config remove 50-weight"]);
}

fn without_it(ssh: &Ssh<'_>) {
    for user in [ADMIN, "root@172.16.1.1", "nobody@172.16.1.1"] {
        ssh.is_refused("theirs", &[user, "status"], "Permission denied");
    }
    ssh.is_refused("ours", &["root@172.16.1.1", "status"], "Permission denied (publickey)");
    ssh.is_refused(
        "ours",
        &["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", ADMIN, "status"],
        "Permission denied (publickey)",
    );
    for command in
        ["sh", "/bin/sh -c id", "status; id", "$(id)", "/usr/lib/sftp-server", "scp -t /etc/headgate", "busybox sh"]
    {
        ssh.is_refused("ours", &[ADMIN, command], "");
    }
    ssh.is_refused("ours", &["-s", ADMIN, "sftp"], "");
    ssh.is_refused(
        "ours",
        &["-o", "ExitOnForwardFailure=yes", "-N", "-R", "9999:127.0.0.1:22", ADMIN],
        "forwarding failed",
    );
    ssh.is_refused("ours", &["-W", "172.16.2.11:8080", ADMIN], "administratively prohibited");
}

/// The firewall is asked as well: the other network does not allow ssh.
fn only_where_it_is_allowed(networks: &Networks) {
    let connect = |space: &Namespace, address: &str| {
        let address = address.parse().unwrap();
        space.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()).unwrap()
    };
    assert!(connect(&networks.client, "172.16.1.1:22"));
    assert!(!connect(&networks.backend, "172.16.2.1:22"));
}
