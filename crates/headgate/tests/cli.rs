//! The command line without a kernel: no root, no daemon.

mod support;

use std::fs;

use support::{Tree, WEB, hostile};

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

#[test]
fn hostile_configurations_are_refused_by_name() {
    for hostile in hostile::all() {
        let tree = Tree::new();
        hostile.put(&tree.path("etc/headgate/conf.d/10-farms.toml"));
        hostile.is_refused(&tree.headgate(&["check"]));
        hostile.is_refused(&tree.headgated(&["--check"]));
    }
}

#[test]
fn all_errors_of_all_files_come_in_one_run() {
    let tree = Tree::new();
    tree.write("etc/headgate/headgate.toml", hostile::whole("B:weight = 65536"));
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
fn the_secret_of_the_site_is_not_shown() {
    let tree = Tree::new();
    tree.write("etc/headgate/headgate.toml", format!("site = {{ secret = \"0123456789abcdef\" }}\n{WEB}"));
    for options in [&["config", "show"][..], &["config", "show", "--origins"], &["config", "show", "--json"]] {
        let shown = tree.headgate(options).exits(0).out;
        assert!(shown.contains("(not shown)") && !shown.contains("0123456789abcdef"), "{shown}");
    }
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
        let lines: Vec<&str> = ran.err.lines().collect();
        assert!(lines[0].starts_with("error: headgated does not answer on "), "{ran:?}");
        assert!(lines.len() == 2 && lines[1].starts_with("  = help: is it running?"), "{ran:?}");
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
    assert!(ran.err.starts_with("error: ") && ran.err.contains("KEY=VALUE"), "{ran:?}");
    let ran = tree.headgated(&["--once", "--flush"]).exits(2);
    assert!(ran.err.starts_with("error: "), "{ran:?}");
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
fn a_system_without_slots_is_not_updated() {
    let tree = Tree::new();
    tree.write("some.update", "");
    let file = tree.path("some.update");
    for command in [&["status"][..], &["rollback"], &["mark-good"], &["install", file.to_str().unwrap()]] {
        let refused = tree.headgate(&[&["update"], command].concat()).exits(3);
        assert!(refused.err.contains("this system was not started from a slot"), "{refused:?}");
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
    assert!(refused.err.starts_with("error: cannot write /proc/nonexistent"), "{refused:?}");
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
