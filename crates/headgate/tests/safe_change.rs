//! Changes that return by themselves, the history, and disks that are full, on a real kernel. Needs root; fails without.

mod support;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use support::WEB;
use support::namespace::Namespace;

const WEIGHT: &str = "etc/headgate/conf.d/20-weight.toml";

fn weight(weight: u32) -> String {
    format!("[farms.web.backends.b2]\nweight = {weight}\n")
}

/// The line of `headgate status` about a trial.
fn trial(ns: &Namespace) -> Option<String> {
    let status = ns.headgate(&["status"]).out;
    status.lines().find(|line| line.contains("is on trial")).map(str::to_owned)
}

#[test]
fn what_nobody_confirms_returns_and_does_not_come_back() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    ns.tree.write(WEIGHT, weight(8));
    let applied = ns.headgate(&["apply", "--confirm", "2s"]).exits(0).out;
    assert!(applied.contains("on trial: generation 1 returns in 2 s unless `headgate confirm`"), "{applied}");
    assert_ne!(ns.ruleset(), first);
    ns.wait_for("return", || ns.ruleset() == first);
    let said = |text: &str| ns.headgate(&["status"]).exits(0).out.contains(text);
    ns.wait_for("word of it", || said("are not what runs, since nobody confirmed them"));
    ns.headgate(&["confirm"]).exits(2);
    daemon.reload("is not loaded again");
    assert_eq!(ns.ruleset(), first);
    daemon.kill();
    ns.run("nft", &["flush", "ruleset"]).exits(0);
    let daemon = ns.start();
    assert_eq!(ns.ruleset(), first);
    assert!(said("are not what runs, since nobody confirmed them"));
    // Other files are loaded, and the same ones when somebody asks for them.
    ns.tree.write(WEIGHT, weight(7));
    daemon.reload("applied");
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 7"));
    ns.tree.write(WEIGHT, weight(8));
    ns.headgate(&["apply"]).exits(0);
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 8"));
    assert!(trial(&ns).is_none());
}

#[test]
fn what_is_confirmed_stays() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    ns.headgate(&["confirm"]).exits(2);
    let idle = ns.headgate(&["apply", "--confirm", "1s"]).exits(0);
    assert!(idle.err.contains("there is nothing to confirm") && trial(&ns).is_none(), "{idle:?}");
    ns.tree.write(WEIGHT, weight(8));
    ns.headgate(&["apply", "--confirm", "0s"]).exits(2);
    ns.headgate(&["apply", "--confirm", "25h"]).exits(2);
    let json = ns.headgate(&["apply", "--confirm", "10m", "--json"]).exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["trial"]["generation"].as_u64(), json["trial"]["back"].as_u64()), (Some(2), Some(1)), "{json:#}");
    assert!(trial(&ns).is_some_and(|line| line.contains("generation 1 returns in ")));
    assert_eq!(ns.headgate(&["confirm"]).exits(0).out, "generation 2 runs for good\n");
    let second = ns.ruleset();
    assert!(trial(&ns).is_none());
    daemon.kill();
    let _daemon = ns.start();
    assert_eq!(ns.ruleset(), second);
    assert!(trial(&ns).is_none());
}

#[test]
fn a_trial_outlives_the_daemon_but_not_its_time() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    ns.tree.write(WEIGHT, weight(8));
    ns.headgate(&["apply", "--confirm", "10m"]).exits(0);
    let second = ns.ruleset();
    daemon.kill();
    let daemon = ns.start();
    assert_eq!(ns.ruleset(), second, "its time is not over");
    assert!(trial(&ns).is_some());
    // A shorter one in its place still returns to what was confirmed last.
    ns.tree.write(WEIGHT, weight(9));
    ns.headgate(&["apply", "--confirm", "2s"]).exits(0);
    daemon.kill();
    std::thread::sleep(Duration::from_secs(3));
    let _daemon = ns.start();
    assert_eq!(ns.ruleset(), first, "its time was over before the daemon began");
    let status = ns.headgate(&["status"]).exits(0).out;
    assert!(status.contains("since nobody confirmed them"), "{status}");
}

#[test]
fn a_reboot_ends_a_trial() {
    let ns = Namespace::new(WEB);
    let boot = |id: &str| {
        ns.tree.write("boot", id);
        ns.start_after("mount --bind \"$1/boot\" /proc/sys/kernel/random/boot_id", ns.tree.root())
    };
    let daemon = boot("11111111-1111-1111-1111-111111111111\n");
    let first = ns.ruleset();
    ns.tree.write(WEIGHT, weight(8));
    ns.headgate(&["apply", "--confirm", "10m"]).exits(0);
    let second = ns.ruleset();
    daemon.kill();
    let daemon = boot("11111111-1111-1111-1111-111111111111\n");
    assert_eq!(ns.ruleset(), second);
    daemon.kill();
    ns.run("nft", &["flush", "ruleset"]).exits(0);
    let daemon = boot("22222222-2222-2222-2222-222222222222\n");
    assert_eq!(ns.ruleset(), first);
    daemon.kill();
    let _daemon = boot("33333333-3333-3333-3333-333333333333\n");
    assert_eq!(ns.ruleset(), first);
    assert!(ns.headgate(&["status"]).exits(0).out.contains("since nobody confirmed them"));
}

#[test]
fn nothing_else_gets_in_during_a_trial() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    // The trial overtakes what was changed at run time.
    ns.tree.write(WEIGHT, format!("{}[farms.web.backends.b1]\nstate = \"drain\"\n", weight(8)));
    ns.headgate(&["apply", "--confirm", "10m"]).exits(0);
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "");
    let second = ns.ruleset();
    ns.tree.write(WEIGHT, weight(9));
    daemon.reload("another configuration is on trial");
    let refused = ns.headgate(&["apply"]).exits(2);
    assert!(refused.err.contains("another configuration is on trial"), "{refused:?}");
    ns.headgate(&["farm", "set", "web", "on-empty=drop"]).exits(2);
    ns.tree.write(WEIGHT, format!("{}[farms.web.backends.b1]\nstate = \"drain\"\n", weight(8)));
    ns.headgate(&["backend", "weight", "web", "b2", "5", "--persist"]).exits(2);
    assert!(!ns.tree.path("etc/headgate/conf.d/90-operator.toml").exists());
    assert_eq!(ns.ruleset(), second);
    assert_eq!(ns.headgate(&["apply"]).exits(0).out.lines().next(), Some("nothing to do"));
    assert!(trial(&ns).is_some(), "applying it again does not confirm it");
    // What is invalid ends no trial either.
    ns.tree.write(WEIGHT, "weight = ");
    ns.headgate(&["apply", "--confirm", "5m"]).exits(1);
    ns.tree.write(WEIGHT, format!("{}[farms.web.backends.b1]\nstate = \"drain\"\n", weight(8)));
    // What acts at once and lasts until the next boot is still possible.
    ns.headgate(&["backend", "weight", "web", "b2", "6"]).exits(0);
    ns.headgate(&["backend", "weight", "web", "b2", "8"]).exits(0);
    ns.headgate(&["apply", "--confirm", "1s"]).exits(0);
    ns.wait_for("return", || trial(&ns).is_none());
    let runtime = ns.tree.read("run/headgate/runtime.toml");
    assert_eq!(runtime, "[farms.web.backends.b1]\nstate = \"drain\"\n", "b1 is drained as before the trial");
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    assert_eq!(ns.ruleset(), first);

    // A rollback is no other return.
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    ns.headgate(&["apply", "--confirm", "10m"]).exits(0);
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "");
    ns.headgate(&["rollback"]).exits(0);
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), runtime);
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    assert_eq!(ns.ruleset(), first);
    assert!(trial(&ns).is_none());
}

#[test]
fn an_earlier_generation_is_tried_as_files_are() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    ns.tree.write(WEIGHT, weight(8));
    ns.headgate(&["apply"]).exits(0);
    let second = ns.ruleset();
    let tried = ns.headgate(&["rollback", "--confirm", "10m"]).exits(0).out;
    assert!(tried.contains("on trial: generation 2 returns in 600 s unless `headgate confirm`"), "{tried}");
    assert_eq!(ns.ruleset(), first);
    // It outlives the daemon, and nothing else gets in.
    daemon.kill();
    let daemon = ns.start();
    assert!(ns.ruleset() == first && trial(&ns).is_some());
    assert!(!ns.headgate(&["status"]).exits(0).out.contains("fault:"));
    ns.headgate(&["rollback", "2", "--confirm", "10m"]).exits(2);
    ns.headgate(&["apply"]).exits(2);
    daemon.reload("is not loaded again");
    assert!(ns.ruleset() == first && trial(&ns).is_some());
    ns.headgate(&["rollback"]).exits(0);
    assert!(ns.ruleset() == second && trial(&ns).is_none());
    ns.headgate(&["apply"]).exits(0);
    // Unconfirmed it returns, and the files are what runs, as before.
    ns.headgate(&["rollback", "1", "--confirm", "1s"]).exits(0);
    ns.wait_for("return", || ns.ruleset() == second && trial(&ns).is_none());
    assert!(!ns.headgate(&["status"]).exits(0).out.contains("are not what runs"));
    daemon.kill();
    let daemon = ns.start();
    assert_eq!(ns.ruleset(), second);
    // Confirmed it stays.
    ns.headgate(&["rollback", "1", "--confirm", "10m"]).exits(0);
    ns.headgate(&["confirm"]).exits(0);
    daemon.kill();
    let _daemon = ns.start();
    assert!(ns.ruleset() == first && trial(&ns).is_none());
    assert!(ns.headgate(&["status"]).exits(0).out.contains("are not what runs, since a rollback"));
}

#[test]
fn history_tells_who_changed_what_and_diff_how() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    assert_eq!(ns.headgate(&["diff"]).exits(0).out, "no difference\n");
    let dns = "[farms.dns]\nlisten = \"172.16.1.53:53/udp\"\n[farms.dns.backends.b]\naddress = \"172.16.2.11\"\n";
    ns.tree.write(WEIGHT, format!("{dns}{}", weight(8)));
    let expected = "farm dns is new: { backends = { b = { address = \"172.16.2.11\" } }, listen = \"172.16.1.53:53/udp\" }\n\
                    backend b2 of farm web: weight: 3 → 8\n";
    assert_eq!(ns.headgate(&["diff"]).exits(0).out, expected);
    ns.headgate(&["apply"]).exits(0);
    assert_eq!(ns.headgate(&["diff", "1", "2"]).exits(0).out, expected);
    assert_eq!(ns.headgate(&["diff", "1"]).exits(0).out, expected);
    ns.headgate(&["backend", "weight", "web", "b2", "4"]).exits(0);
    let back = "backend b2 of farm web: weight: 8 → 4\n";
    assert_eq!(ns.headgate(&["diff", "2", "running"]).exits(0).out, back);
    let json = ns.headgate(&["diff", "2", "running", "--json"]).exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["path"], serde_json::json!(["farms", "web", "backends", "b2", "weight"]));
    for wrong in [&["diff", "9", "files"][..], &["diff", "yesterday"]] {
        ns.headgate(wrong).exits(2);
    }
    let history = ns.headgate(&["history", "--json"]).exits(0).out;
    let history: serde_json::Value = serde_json::from_str(&history).expect("JSON");
    assert_eq!((&history[0]["author"], &history[0]["reason"]), (&serde_json::Value::Null, &"start".into()));
    assert!(history[1]["author"].as_str().is_some_and(|author| author.starts_with("root")), "{history:#}");
    assert_eq!(history[1]["changes"], serde_json::json!(["farm dns is new", "backend b2 of farm web"]));
}

#[test]
fn twenty_generations_are_kept_and_each_can_be_gone_back_to() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    for n in 10..32 {
        ns.tree.write(WEIGHT, weight(n));
        ns.headgate(&["apply"]).exits(0);
    }
    let history = ns.headgate(&["history"]).exits(0).out;
    assert_eq!(history.lines().count(), 21, "{history}");
    ns.headgate(&["rollback", "3"]).exits(2);
    ns.headgate(&["rollback", "4"]).exits(0);
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 12"));
}

/// Writes into `path` until the disk is full.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    loop {
        match file.write_all(&[0x78; 4096]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_disk_that_is_full_loses_nothing() {
    let ns = Namespace::new(WEB);
    let small = "mount -t tmpfs -o size=512k none /mnt && cp -a \"$1/etc\" /mnt/ && mount --bind /mnt \"$1\"";
    let daemon = ns.start_after(small, ns.tree.root());
    let root = daemon.root();
    let headgate = |arguments: &[&str]| ns.headgate_at(&root, arguments);
    let write = |text: &str| std::fs::write(root.join(WEIGHT), text).expect("there is room");
    let first = ns.ruleset();
    write(&weight(8));
    fill(&root.join("fill"));

    let refused = headgate(&["apply", "--confirm", "10m"]).exits(3);
    assert!(refused.err.contains("No space left on device"), "{refused:?}");
    headgate(&["backend", "drain", "web", "b1"]).exits(3);
    headgate(&["farm", "set", "web", "on-empty=drop"]).exits(3);
    headgate(&["backend", "weight", "web", "b1", "5", "--persist"]).exits(3);
    assert_eq!(ns.ruleset(), first, "what cannot be written is not done");
    assert!(!root.join("etc/headgate/conf.d/90-operator.toml").exists());

    // What the files say needs no room to run.
    let applied = headgate(&["apply"]).exits(0);
    assert!(applied.err.contains("this configuration runs, but is not kept"), "{applied:?}");
    assert_ne!(ns.ruleset(), first);
    assert!(headgate(&["status"]).exits(0).out.contains("but is not kept"));
    assert_eq!(headgate(&["history"]).exits(0).out.lines().count(), 2);
    let refused = headgate(&["apply", "--confirm", "10m"]).exits(2);
    assert!(refused.err.contains("it could not return"), "{refused:?}");

    std::fs::remove_file(root.join("fill")).expect("it is there");
    headgate(&["apply"]).exits(0);
    assert!(!headgate(&["status"]).exits(0).out.contains("but is not kept"));
    assert_eq!(headgate(&["history"]).exits(0).out.lines().count(), 3);
    headgate(&["rollback"]).exits(0);
    assert_eq!(ns.ruleset(), first);
    // Nothing half written lies about.
    let left = |directory: &str| {
        let names = std::fs::read_dir(root.join(directory)).expect("it is there");
        names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".new"))
            .count()
    };
    let directories = ["var/lib/headgate", "var/lib/headgate/generations", "run/headgate", "etc/headgate/conf.d"];
    assert_eq!(directories.map(left), [0; 4]);
}

#[test]
fn a_disk_that_fills_up_during_a_trial_does_not_keep_it() {
    let ns = Namespace::new(WEB);
    let small = "mount -t tmpfs -o size=512k none /mnt && cp -a \"$1/etc\" /mnt/ && mount --bind /mnt \"$1\"";
    let daemon = ns.start_after(small, ns.tree.root());
    let root = daemon.root();
    let first = ns.ruleset();
    std::fs::write(root.join(WEIGHT), weight(8)).expect("there is room");
    ns.headgate_at(&root, &["apply", "--confirm", "4s"]).exits(0);
    fill(&root.join("fill"));
    // It cannot be confirmed, and says so instead of forgetting it at the next start.
    ns.headgate_at(&root, &["confirm"]).exits(3);
    ns.wait_for("return", || ns.ruleset() == first);
    let status = ns.headgate_at(&root, &["status"]).out;
    assert!(status.contains("since nobody confirmed them"), "{status}");
}
