//! The command line without a kernel: no root, no daemon.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use support::{Ran, Tree, WEB};

#[test]
fn a_good_configuration_is_good() {
    let tree = Tree::new();
    tree.write("etc/headgate/headgate.toml", WEB);
    let checked = tree.headgate(&["check"]).exits(0);
    assert_eq!((checked.out.as_str(), checked.err.as_str()), ("good: 1 file, 1 farm, 2 backends\n", ""));
    let json: serde_json::Value = serde_json::from_str(&tree.headgate(&["check", "--json"]).exits(0).out).unwrap();
    assert_eq!(json["backends"], 2);
    tree.headgated(&["--check"]).exits(0);
}

#[test]
fn nothing_at_all_is_a_good_configuration() {
    assert_eq!(Tree::new().headgate(&["check"]).exits(0).out, "good: 0 files, 0 farms, 0 backends\n");
}

#[test]
fn given_files_and_directories_are_checked_instead() {
    let tree = Tree::new();
    tree.write("etc/headgate/headgate.toml", "nonsense = 1");
    tree.write("new/10-web.toml", WEB);
    tree.write("new/20-more.toml", "[farms.web]\non-empty = \"drop\"\n");
    let directory = tree.path("new");
    let file = tree.path("new/10-web.toml");
    let checked = tree.headgate(&["check", directory.to_str().unwrap()]).exits(0);
    assert_eq!(checked.out, "good: 2 files, 1 farm, 2 backends\n");
    tree.headgate(&["check", file.to_str().unwrap()]).exits(0);
    tree.headgate(&["check"]).exits(1);
    let missing = tree.headgate(&["check", "/nonexistent/x.toml"]).exits(1);
    assert!(missing.err.contains("/nonexistent/x.toml"), "{missing:?}");
}

/// One mistake each, and a word that the message about it must have.
const HOSTILE: &[(&str, &str, &str)] = &[
    ("syntax", "[farms.web\nlisten = 1", "expected"),
    ("key twice", "[site]\nsecret = \"a\"\nsecret = \"b\"", "secret"),
    ("unknown table", "[frams.web]\nlisten = \"10.0.0.1:80\"", "frams"),
    (
        "unknown key",
        "[farms.web]\nlisten = \"10.0.0.1:80\"\nlisen = 1\n[farms.web.backends.b]\naddress = \"10.0.0.2\"",
        "lisen",
    ),
    ("number for a text", "[farms.web]\nlisten = 80", "listen"),
    ("text for a table", "farms = \"web\"", "farms"),
    ("array for a table", "[[farms]]\nname = \"web\"", "farms"),
    ("weight too large", "B:weight = 65536", "65535"),
    ("weight below zero", "B:weight = -1", "65535"),
    ("weight with a fraction", "B:weight = 1.5", "weight"),
    ("weight beyond 64 bits", "B:weight = 99999999999999999999", "99999999999999999999"),
    ("state unknown", "B:state = \"gone\"", "gone"),
    ("mode unknown", "F:mode = \"magic\"", "magic"),
    ("address out of range", "F:listen = \"10.0.0.256:80\"", "10.0.0.256"),
    ("port 0", "F:listen = \"10.0.0.1:0\"", "port"),
    ("port too large", "F:listen = \"10.0.0.1:65536\"", "65536"),
    ("range backwards", "F:listen = \"10.0.0.1:90-80\"", "90"),
    ("protocol unknown", "F:listen = \"10.0.0.1:80/icmp\"", "icmp"),
    ("listener empty", "F:listen = []", "listen"),
    ("multicast", "F:listen = \"224.0.0.1:80\"", "multicast"),
    ("unspecified", "F:listen = \"0.0.0.0:80\"", "0.0.0.0"),
    (
        "the same listener twice",
        "[farms.a]\nlisten = \"10.0.0.1:80\"\n[farms.a.backends.b]\naddress = \"10.0.0.2\"\n[farms.b]\nlisten = \"10.0.0.1:80\"\n[farms.b.backends.b]\naddress = \"10.0.0.2\"",
        "10.0.0.1:80",
    ),
    (
        "ranges that overlap",
        "[farms.a]\nlisten = \"10.0.0.1:80-90\"\n[farms.a.backends.b]\naddress = \"10.0.0.2\"\n[farms.b]\nlisten = \"10.0.0.1:90-99\"\n[farms.b.backends.b]\naddress = \"10.0.0.2\"",
        "90",
    ),
    ("no backend", "[farms.web]\nlisten = \"10.0.0.1:80\"", "backend"),
    ("no backend of the family", "F:listen = \"[2001:db8::1]:80\"", "IPv6"),
    (
        "a backend that is the VIP",
        "[farms.web]\nlisten = \"10.0.0.1:80\"\n[farms.web.backends.b]\naddress = \"10.0.0.1:80\"",
        "10.0.0.1",
    ),
    ("policy unknown", "F:policies = [\"nobody\"]", "nobody"),
    (
        "cycle of services",
        "[services.a]\ncommand = [\"/bin/true\"]\nafter = [\"b\"]\n[services.b]\ncommand = [\"/bin/true\"]\nafter = [\"a\"]",
        "wait for each other",
    ),
    ("service without a program", "[services.a]\ncommand = []", "command"),
    ("sysctl that is not ours", "[sysctl]\n\"kernel.core_pattern\" = \"|/bin/sh\"", "kernel.core_pattern"),
    ("VLAN too large", "[network.vlans.v]\nparent = \"eth0\"\nid = 4095", "4094"),
    ("bad prefix", "[network.interfaces.eth0]\naddresses = [\"10.0.0.1/33\"]", "10.0.0.1/33"),
    ("timeout longer than interval", "F:health = { type = \"tcp\", interval = \"1s\", timeout = \"2s\" }", "timeout"),
    ("name with a slash", "[farms.\"../x\"]\nlisten = \"10.0.0.1:80\"", "name"),
    ("name with an escape sequence", "[farms.\"\\u001b[31mred\"]\nlisten = \"10.0.0.1:80\"", "name"),
    ("not supported yet", "F:mode = \"stateless\"", "headgate.toml:3:8"),
];

fn hostile(text: &str) -> String {
    let around = |farm: &str, backend: &str| {
        let listen = if farm.starts_with("listen") { "" } else { "listen = \"10.0.0.1:80\"\n" };
        format!("[farms.web]\n{listen}{farm}\n[farms.web.backends.b1]\naddress = \"10.0.0.2:80\"\n{backend}\n")
    };
    match (text.strip_prefix("F:"), text.strip_prefix("B:")) {
        (Some(farm), _) => around(farm, ""),
        (_, Some(backend)) => around("", backend),
        _ => text.to_owned(),
    }
}

#[track_caller]
fn refused(name: &str, ran: &Ran, word: &str) {
    assert_eq!(ran.code, Some(1), "{name}: {ran:#?}");
    assert!(ran.err.starts_with("error: "), "{name}: {ran:#?}");
    assert!(ran.err.contains(word), "{name}: {word:?} is not in\n{}", ran.err);
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!ran.err.contains(steers) && !ran.out.contains(steers), "{name}: {ran:#?}");
}

#[test]
fn hostile_configurations_are_refused_by_name() {
    for (name, text, word) in HOSTILE {
        let tree = Tree::new();
        tree.write("etc/headgate/headgate.toml", hostile(text));
        refused(name, &tree.headgate(&["check"]), word);
        refused(name, &tree.headgated(&["--check"]), word);
    }
}

#[test]
fn hostile_files_are_refused_by_name() {
    let file = |tree: &Tree| tree.path("etc/headgate/conf.d/10-x.toml");
    type Make = fn(&Tree, &std::path::Path);
    let cases: &[(&str, Make, &str)] = &[
        ("10 MB", |_, path| fs::write(path, vec![b'#'; 10_000_000]).unwrap(), "10000000 bytes"),
        ("not UTF-8", |_, path| fs::write(path, b"a = 1\nb = \"\xff\"\n").unwrap(), "UTF-8"),
        ("NUL bytes", |_, path| fs::write(path, vec![0; 4096]).unwrap(), "invalid"),
        ("a directory", |_, path| fs::create_dir(path).unwrap(), "directory"),
        ("a broken link", |_, path| symlink("/nonexistent", path).unwrap(), "/nonexistent"),
        ("a link to itself", |_, path| symlink(path, path).unwrap(), "cannot read"),
        ("a pipe", |_, path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(), "regular file"),
        ("nested too deep", |_, path| fs::write(path, format!("a = {}", "[".repeat(100_000))).unwrap(), ""),
    ];
    for (name, make, word) in cases {
        let tree = Tree::new();
        tree.write("etc/headgate/headgate.toml", WEB);
        make(&tree, &file(&tree));
        refused(name, &tree.headgate(&["check"]), word);
    }
}

#[test]
fn all_errors_of_all_files_come_in_one_run() {
    let tree = Tree::new();
    tree.write("etc/headgate/headgate.toml", hostile("B:weight = 65536"));
    tree.write("etc/headgate/conf.d/50-more.toml", "[farms.web]\nmode = \"magic\"\nlisen = 1\n");
    let ran = tree.headgate(&["check"]).exits(1);
    assert_eq!(ran.err.matches("error: ").count(), 3, "{}", ran.err);
    assert!(ran.err.contains("headgate.toml:6:10") && ran.err.contains("50-more.toml:2:8"), "{}", ran.err);
    let json: serde_json::Value = serde_json::from_str(&tree.headgate(&["check", "--json"]).exits(1).out).unwrap();
    assert!(json.to_string().contains("lisen"), "{json:#}");
}

#[test]
fn the_merged_configuration_is_shown_with_its_origins() {
    let tree = Tree::new();
    tree.write("usr/lib/headgate/conf.d/00-defaults.toml", "[defaults.farm]\non-empty = \"drop\"\n");
    tree.write("etc/headgate/headgate.toml", WEB);
    tree.write("etc/headgate/conf.d/20-web.toml", "[farms.web.backends.b1]\nweight = 9\n");
    let shown = tree.headgate(&["config", "show"]).exits(0);
    let parsed: toml::Table = shown.out.parse().expect("what is shown is TOML");
    assert_eq!(parsed["farms"]["web"]["backends"]["b1"]["weight"].as_integer(), Some(9));
    let origins = tree.headgate(&["config", "show", "--origins"]).exits(0).out;
    assert!(origins.lines().any(|line| line.starts_with("weight = 9") && line.ends_with("20-web.toml:2")), "{origins}");
    let json = tree.headgate(&["config", "show", "--json"]).exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["farms"]["web"]["backends"]["b2"]["weight"], 3);
    assert_eq!(json["files"].as_array().map(Vec::len), Some(3));
}

#[test]
fn without_a_daemon_commands_say_so() {
    let tree = Tree::new();
    let commands: [&[&str]; 9] = [
        &["status"],
        &["apply"],
        &["rollback"],
        &["history"],
        &["farm", "list"],
        &["farm", "set", "web", "state=down"],
        &["backend", "drain", "web", "b1"],
        &["connections"],
        &["connections", "web", "--flush"],
    ];
    for command in commands {
        let ran = tree.headgate(command).exits(4);
        assert!(ran.err.contains("headgated does not answer on") && ran.err.contains("help: "), "{ran:?}");
    }
}

#[test]
fn wrong_usage_is_2() {
    let tree = Tree::new();
    for command in
        [&["frobnicate"][..], &[], &["backend", "weight", "web", "b1"], &["farm", "add", "x"], &["status", "-x"]]
    {
        tree.headgate(command).exits(2);
    }
    let ran = tree.headgate(&["farm", "set", "web", "state"]).exits(2);
    assert!(ran.err.contains("KEY=VALUE"), "{ran:?}");
    tree.headgated(&["--once", "--flush"]).exits(2);
}

#[test]
fn help_versions_and_completions_are_there() {
    let tree = Tree::new();
    let version = format!(" {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(tree.headgate(&["--version"]).exits(0).out, format!("headgate{version}"));
    assert_eq!(tree.headgated(&["--version"]).exits(0).out, format!("headgated{version}"));
    assert!(tree.headgate(&["--help"]).exits(0).out.contains("Exit status:"));
    for (shell, word) in
        [("bash", "complete -F _headgate"), ("zsh", "#compdef headgate"), ("fish", "complete -c headgate")]
    {
        assert!(tree.headgate(&["completions", shell]).exits(0).out.contains(word), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let tree = Tree::new();
    let directory = tree.path("man");
    tree.headgate(&["man", directory.to_str().unwrap()]).exits(0);
    let page = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    assert!(page("headgate.1").contains(".TH headgate 1"), "{}", page("headgate.1"));
    assert!(page("headgate-farm-add.1").contains("Address to answer on"));
    assert!(page("headgated.8").contains(".TH headgated 8"), "{}", page("headgated.8"));
    assert!(fs::read_dir(&directory).unwrap().count() > 20);
    let refused = tree.headgate(&["man", "/proc/nonexistent"]).exits(3);
    assert!(refused.err.contains("/proc/nonexistent"), "{refused:?}");
}

/// `BLESS=1 cargo test -p headgate --test cli` rewrites it.
#[test]
fn the_reference_of_commands_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
    let reference = Tree::new().headgate(&["reference"]).exits(0).out;
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, &reference).expect("docs/ can be written");
    }
    assert_eq!(
        fs::read_to_string(path).unwrap_or_default(),
        reference,
        "{path} is not what `headgate reference` prints"
    );
}
