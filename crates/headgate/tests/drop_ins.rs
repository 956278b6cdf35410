//! Whole drop-ins over the API: put, read, taken away, refused, on trial, on a full disk, and with the daemon killed meanwhile, on a
//! real kernel. Needs root; fails without.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::namespace::{Daemon, Namespace};
use support::{HEADGATE, Ran, WEB};

const WEIGHT: &str = "etc/headgate/conf.d/50-weight.toml";
/// A route that the kernel refuses: nobody is there.
const NOWHERE: &str = "[network.routes.r]\nto = \"default\"\nvia = \"198.51.100.1\"\n";

fn weight(weight: u32) -> String {
    format!("[farms.web.backends.b2]\nweight = {weight}\n")
}

/// Begins `headgate ARGUMENTS` below `root` with `text` on its standard input.
fn begin(ns: &Namespace, root: &Path, arguments: &[&str], text: &[u8]) -> Child {
    let mut command = ns.command(HEADGATE);
    command.arg("--root").arg(root).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // It may have refused before it read.
    let _ = child.stdin.take().expect("a pipe").write_all(text);
    child
}

fn end(child: Child) -> Ran {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("programs print UTF-8");
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

fn put(ns: &Namespace, arguments: &[&str], text: &str) -> Ran {
    let arguments: Vec<&str> = ["config", "put"].iter().chain(arguments).copied().collect();
    end(begin(ns, ns.tree.root(), &arguments, text.as_bytes()))
}

/// Status and body of what the daemon answers over its socket.
fn ask(ns: &Namespace, head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(ns.tree.path("run/headgate/api.sock")).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    let _ = stream.write_all(format!("{head} HTTP/1.1\r\nhost: x\r\n").as_bytes());
    let _ = stream.write_all(body);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), body.to_owned())
}

/// Sends what is not whole, and goes.
fn begin_and_go(ns: &Namespace, request: &str) {
    let mut stream = UnixStream::connect(ns.tree.path("run/headgate/api.sock")).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    stream.shutdown(Shutdown::Write).expect("it is open");
    // Whether it answers that or not, it ends.
    let _ = stream.read_to_end(&mut Vec::new());
}

fn with_length(body: &[u8]) -> Vec<u8> {
    [format!("content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// The files of the directory, hidden ones too.
fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("etc/headgate/conf.d")).expect("it is there");
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[test]
fn a_drop_in_is_put_read_replaced_and_removed() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let first = ns.ruleset();
    let done = put(&ns, &["50-weight"], &weight(8)).exits(0);
    assert!(done.out.ends_with("generation 2 runs\n") && done.err.is_empty(), "{done:?}");
    assert_eq!(ns.tree.read(WEIGHT), weight(8));
    assert_eq!(fs::metadata(ns.tree.path(WEIGHT)).expect("it is there").permissions().mode() & 0o777, 0o600);
    let second = ns.ruleset();
    assert_ne!(second, first);
    assert_eq!(ns.headgate(&["config", "get", "50-weight.toml"]).exits(0).out, weight(8));
    let listed = ns.headgate(&["config", "list"]).exits(0).out;
    let line = |file: &str| listed.lines().find(|line| line.contains(file)).map(|line| line.ends_with("used"));
    assert_eq!([line("headgate.toml"), line("10-farms.toml"), line("50-weight.toml")], [Some(true); 3], "{listed}");
    let shown = ns.headgate(&["config", "show", "--json"]).exits(0).out;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let json = ns.headgate(&["config", "list", "--json"]).exits(0).out;
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), shown["files"]);

    // The same from a file, by its whole name; a login is no other way.
    ns.tree.write("new.toml", weight(9));
    let file = ns.tree.path("new.toml");
    ns.headgate(&["config", "put", "50-weight.toml", file.to_str().expect("UTF-8")]).exits(0);
    assert_eq!(ns.tree.read(WEIGHT), weight(9));
    symlink(HEADGATE, ns.tree.path("headgate-login")).expect("a link");
    let login = ns.tree.path("headgate-login");
    let asked = format!("--root '{}' config put 50-weight - --json", ns.tree.root().display());
    let mut command = ns.command(login.to_str().expect("UTF-8"));
    command.args(["-c", &asked]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("a pipe").write_all(weight(8).as_bytes()).expect("it reads");
    let json: Value = serde_json::from_str(&end(child).exits(0).out).expect("JSON");
    assert_eq!((&json["generation"], ns.ruleset()), (&json!(4), second));

    let removed = ns.headgate(&["config", "remove", "50-weight"]).exits(0).out;
    assert!(removed.ends_with("generation 5 runs\n"), "{removed}");
    assert_eq!((ns.ruleset(), names(ns.tree.root())), (first, vec!["10-farms.toml".to_owned()]));
    for gone in [["config", "get", "50-weight"], ["config", "remove", "50-weight"]] {
        assert!(ns.headgate(&gone).exits(2).err.contains("there is no drop-in 50-weight.toml"));
    }
    let history = ns.headgate(&["history", "--json"]).exits(0).out;
    let history: Value = serde_json::from_str(&history).expect("JSON");
    assert_eq!(history[1]["changes"], json!(["backend b2 of farm web"]));
    assert!(history[1]["author"].as_str().is_some_and(|author| author.starts_with("root")), "{history:#}");
}

#[test]
fn what_is_invalid_changes_nothing() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    put(&ns, &["50-weight"], &weight(8)).exits(0);
    let (before, files) = (ns.ruleset(), names(ns.tree.root()));
    for (text, place) in [
        ("[farms.web.backends.b2]\nweight = 70000\n", "50-weight.toml:2:10"),
        ("[farms.web.backends.b2]\nweight = \n", "50-weight.toml:2:"),
        ("[farms.web.backends.b9]\nweight = 1\n", "50-weight.toml:1:"),
        ("[farms.web]\nmode = \"stateless\"\nscheduler = \"maglev\"\nmark = 3\n", "50-weight.toml:4:"),
    ] {
        for arguments in [&["50-weight"][..], &["50-weight", "--confirm", "10m"]] {
            let refused = put(&ns, arguments, text).exits(1);
            assert!(refused.err.starts_with("error: ") && refused.err.contains(place), "{refused:?}");
        }
    }
    // Without the farms the weight is that of nobody.
    ns.headgate(&["config", "remove", "10-farms"]).exits(1);
    assert_eq!((ns.ruleset(), names(ns.tree.root()), ns.tree.read(WEIGHT)), (before, files, weight(8)));
    let status = ns.headgate(&["status"]).exits(0).out;
    assert!(status.starts_with("healthy, generation 2\n") && !status.contains("trial"), "{status}");
    // What is broken by hand can be read, and mended.
    ns.tree.write(WEIGHT, b"weight = \xff");
    ns.headgate(&["apply"]).exits(1);
    assert!(ns.headgate(&["config", "list"]).exits(0).out.contains("unreadable"));
    ns.headgate(&["config", "get", "50-weight"]).exits(3);
    put(&ns, &["50-weight"], &weight(8)).exits(0);
    assert_eq!(ns.tree.read(WEIGHT), weight(8));
    assert!(ns.headgate(&["status"]).exits(0).out.starts_with("healthy"));
}

#[test]
fn names_lead_to_one_file_of_the_directory_and_nowhere_else() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    ns.headgate(&["backend", "weight", "web", "b1", "2", "--persist"]).exits(0);
    ns.tree.write("outside.toml", "# outside\n");
    symlink(ns.tree.path("outside.toml"), ns.tree.path("etc/headgate/conf.d/60-link.toml")).expect("a link");
    symlink("/dev/null", ns.tree.path("etc/headgate/conf.d/61-mask.toml")).expect("a link");
    fs::create_dir(ns.tree.path("etc/headgate/conf.d/62-directory.toml")).expect("a directory");
    let before = (ns.ruleset(), names(ns.tree.root()));
    let long = format!("/v1/drop-ins/{}", "a".repeat(300));
    let (farms, body) = (ns.tree.read("etc/headgate/conf.d/10-farms.toml"), with_length(weight(8).as_bytes()));
    for (path, expected) in [
        ("/v1/drop-ins/..%2Fx", 400),
        ("/v1/drop-ins/..%2Fheadgate.toml", 400),
        ("/v1/drop-ins/%2Fetc%2Fpasswd", 400),
        ("/v1/drop-ins/..", 400),
        ("/v1/drop-ins/%2e%2e", 400),
        ("/v1/drop-ins/.toml", 400),
        ("/v1/drop-ins/.hidden.toml", 400),
        ("/v1/drop-ins/a%00.toml", 400),
        ("/v1/drop-ins/a%0Ab", 400),
        ("/v1/drop-ins/%FF", 400),
        (&long, 400),
        ("/v1/drop-ins/", 404),
        ("/v1/drop-ins/a/b", 404),
        ("/v1/drop-ins/60-link", 409),
        ("/v1/drop-ins/61-mask.toml", 409),
        ("/v1/drop-ins/62-directory", 409),
        ("/v1/drop-ins/90-operator", 409),
        ("/v1/drop-ins/50-x?confirm-seconds=0", 400),
        ("/v1/drop-ins/50-x?confirm-seconds=86401", 400),
        ("/v1/drop-ins/50-x?persist=true", 400),
    ] {
        for method in ["PUT", "DELETE", "GET"] {
            if method == "GET" && (path.contains('?') || path.ends_with("operator")) {
                continue;
            }
            let (status, answer) = ask(&ns, &format!("{method} {path}"), &body);
            assert_eq!(status, expected, "{method} {path}: {answer}");
        }
    }
    assert!(ask(&ns, "PUT /v1/drop-ins/60-link", &body).1.contains("is a link, which is not followed"));
    assert!(ask(&ns, "PUT /v1/drop-ins/90-operator.toml", &body).1.contains("headgated's own"));
    assert!(ns.headgate(&["config", "get", "90-operator"]).exits(0).out.contains("weight = 2"));
    for name in ["../x", "/etc/passwd", "", ".", "a b", &"a".repeat(300)] {
        let refused = put(&ns, &[name], &weight(8)).exits(2);
        assert!(refused.err.contains("is not the name of a drop-in"), "{refused:?}");
    }
    fs::remove_dir(ns.tree.path("etc/headgate/conf.d/62-directory.toml")).expect("it is there");
    assert_eq!((ns.ruleset(), ns.tree.read("outside.toml").as_str()), (before.0, "# outside\n"));
    assert_eq!(names(ns.tree.root()), ["10-farms.toml", "60-link.toml", "61-mask.toml", "90-operator.toml"]);
    assert_eq!((farms, before.1.len()), (ns.tree.read("etc/headgate/conf.d/10-farms.toml"), 5));
}

#[test]
fn what_is_not_whole_is_not_put() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let before = ns.ruleset();
    let text = weight(8);
    // The first part of it would be valid.
    for cut in [
        format!("content-length: {}\r\n\r\n{text}", text.len() + 10),
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n", text.len()),
    ] {
        begin_and_go(&ns, &format!("PUT /v1/drop-ins/50-weight HTTP/1.1\r\nhost: x\r\n{cut}"));
    }
    let large = "# x\n".repeat(300_000);
    assert_eq!(ask(&ns, "PUT /v1/drop-ins/50-weight", &with_length(large.as_bytes())).0, 413);
    assert_eq!(ask(&ns, "PUT /v1/drop-ins/50-weight", &with_length(b"# \xff\n")).0, 400);
    assert!(put(&ns, &["50-weight"], &large).exits(2).err.contains("at most 1048576 bytes"));
    ns.headgate(&["config", "put", "50-weight", "/nonexistent.toml"]).exits(3);
    // At a keyboard nothing is waited for.
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = ns.command(HEADGATE);
    command.arg("--root").arg(ns.tree.root()).args(["config", "put", "50-weight"]).stdin(terminal.slave);
    let refused = Ran::of(&mut command).exits(2);
    assert!(refused.err.contains("headgate config put 50-weight < FILE"), "{refused:?}");
    assert_eq!((ns.ruleset(), names(ns.tree.root())), (before, vec!["10-farms.toml".to_owned()]));
    // A drop-in that says nothing is one.
    put(&ns, &["50-weight"], "").exits(0);
    assert_eq!(names(ns.tree.root()), ["10-farms.toml", "50-weight.toml"]);
}

#[test]
fn what_the_kernel_refuses_puts_the_old_file_back() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    put(&ns, &["50-weight"], &weight(8)).exits(0);
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    let runtime = ns.tree.read("run/headgate/runtime.toml");
    let before = (ns.ruleset(), ns.addresses());
    // It would overtake what was changed at run time as well.
    let text = format!("{NOWHERE}[farms.web.backends.b1]\nstate = \"drain\"\n");
    for arguments in [&["50-weight"][..], &["50-weight", "--confirm", "10m"], &["70-new"]] {
        let refused = put(&ns, arguments, &text).exits(3);
        assert!(refused.err.contains("add route default"), "{refused:?}");
        assert_eq!((ns.ruleset(), ns.addresses()), before);
        assert_eq!((ns.tree.read(WEIGHT), ns.tree.read("run/headgate/runtime.toml")), (weight(8), runtime.clone()));
        assert_eq!(names(ns.tree.root()), ["10-farms.toml", "50-weight.toml"]);
    }
    // What is there by hand and cannot be, and a removal that would bring it in.
    ns.tree.write("etc/headgate/conf.d/40-route.toml", NOWHERE);
    ns.headgate(&["config", "remove", "50-weight"]).exits(3);
    assert_eq!((ns.ruleset(), ns.tree.read(WEIGHT)), (before.0, weight(8)));
    ns.headgate(&["config", "remove", "40-route"]).exits(0);
    let status = ns.headgate(&["status"]).out;
    assert!(!status.contains("fault:") && !status.contains("on trial"), "{status}");
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), runtime);
}

#[test]
fn what_was_changed_at_run_time_outlives_a_look_and_a_refusal() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    let (before, runtime) = (ns.ruleset(), ns.tree.read("run/headgate/runtime.toml"));
    // The files would overtake it.
    let text = "[farms.web.backends.b1]\nstate = \"drain\"\n";
    ns.tree.write(WEIGHT, text);
    assert_eq!(ask(&ns, "GET /v1/plan", b"content-length: 0\r\n\r\n").0, 200);
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), runtime);
    ns.tree.write(WEIGHT, format!("{NOWHERE}{text}"));
    ns.headgate(&["apply"]).exits(3);
    ns.headgate(&["apply", "--confirm", "10m"]).exits(3);
    daemon.reload("add route default");
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), runtime);
    fs::remove_file(ns.tree.path(WEIGHT)).expect("it is there");
    ns.headgate(&["apply"]).exits(0);
    assert_eq!((ns.ruleset(), ns.tree.read("run/headgate/runtime.toml")), (before, runtime));
}

/// The line of the status about what was returned from.
fn returned(ns: &Namespace) -> bool {
    ns.headgate(&["status"]).out.contains("are not what runs, since nobody confirmed them")
}

#[test]
fn a_drop_in_on_trial_returns_and_comes_back_only_by_its_name() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    let tried = put(&ns, &["50-weight", "--confirm", "2s"], &weight(8)).exits(0).out;
    assert!(tried.contains("on trial: generation 1 returns in 2 s unless `headgate confirm`"), "{tried}");
    assert_ne!(ns.ruleset(), first);
    ns.wait_for("return", || ns.ruleset() == first && returned(&ns));
    assert_eq!(ns.tree.read(WEIGHT), weight(8), "the file stays, and does not run");
    daemon.reload("is not loaded again");
    daemon.kill();
    let daemon = ns.start();
    assert!(ns.ruleset() == first && returned(&ns));
    // Another one does not bring it back along.
    let refused = put(&ns, &["60-other"], "# other\n").exits(2);
    assert!(
        refused.err.contains("generation 1 runs, not the files, and ") && refused.err.contains("50-weight.toml"),
        "{refused:?}"
    );
    assert_eq!((ns.ruleset(), names(ns.tree.root()).len()), (first.clone(), 2));
    put(&ns, &["60-other", "--confirm", "10m"], "# other\n").exits(0);
    ns.headgate(&["rollback"]).exits(0);
    ns.headgate(&["config", "remove", "60-other"]).exits(2);
    fs::remove_file(ns.tree.path("etc/headgate/conf.d/60-other.toml")).expect("it is there");
    // A better one, the same one again, and none are all in order.
    put(&ns, &["50-weight"], &weight(7)).exits(0);
    assert!(!returned(&ns) && ns.ruleset() != first);
    put(&ns, &["50-weight", "--confirm", "1s"], &weight(8)).exits(0);
    ns.wait_for("return", || returned(&ns));
    put(&ns, &["50-weight"], &weight(8)).exits(0);
    assert!(!returned(&ns));
    put(&ns, &["50-weight", "--confirm", "1s"], &weight(9)).exits(0);
    ns.wait_for("return", || returned(&ns));
    ns.headgate(&["config", "remove", "50-weight"]).exits(0);
    assert!(!returned(&ns) && ns.ruleset() == first);
    daemon.kill();
    let _daemon = ns.start();
    assert_eq!(ns.ruleset(), first);
}

#[test]
fn a_drop_in_that_is_confirmed_stays_and_nothing_else_gets_in_before() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    put(&ns, &["50-weight", "--confirm", "10m"], &weight(8)).exits(0);
    let second = ns.ruleset();
    for refused in [
        put(&ns, &["60-other"], "# other\n"),
        put(&ns, &["50-weight"], &weight(9)),
        ns.headgate(&["config", "remove", "50-weight"]),
    ] {
        assert!(refused.exits(2).err.contains("another configuration is on trial"));
    }
    assert_eq!((ns.ruleset(), ns.tree.read(WEIGHT), names(ns.tree.root()).len()), (second.clone(), weight(8), 2));
    // Another trial takes its place, and what it is refused leaves it.
    put(&ns, &["50-weight", "--confirm", "10m"], NOWHERE).exits(3);
    assert_eq!((ns.ruleset(), ns.tree.read(WEIGHT)), (second.clone(), weight(8)));
    assert!(ns.headgate(&["status"]).out.contains("generation 1 returns in "));
    let idle = put(&ns, &["50-weight", "--confirm", "10m"], &weight(9)).exits(0).out;
    assert!(idle.contains("generation 1 returns in "), "{idle}");
    put(&ns, &["50-weight", "--confirm", "10m"], &weight(8)).exits(0);
    ns.headgate(&["confirm"]).exits(0);
    daemon.kill();
    let _daemon = ns.start();
    assert_eq!((ns.ruleset(), ns.tree.read(WEIGHT)), (second, weight(8)));
    let idle = put(&ns, &["50-weight", "--confirm", "10m"], &weight(8)).exits(0);
    assert!(idle.err.contains("there is nothing to confirm"), "{idle:?}");
    ns.headgate(&["config", "remove", "50-weight", "--confirm", "10m"]).exits(0);
    assert_eq!((ns.ruleset(), names(ns.tree.root()).len()), (first, 1));
    ns.headgate(&["confirm"]).exits(0);
}

#[test]
fn a_disk_that_is_full_keeps_the_old_file() {
    let ns = Namespace::new(WEB);
    let small = "mount -t tmpfs -o size=512k none /mnt && cp -a \"$1/etc\" /mnt/ && mount --bind /mnt \"$1\"";
    let daemon = ns.start_after(small, ns.tree.root());
    let root = daemon.root();
    let put = |name: &str, confirm: &[&str]| {
        let arguments: Vec<&str> = ["config", "put", name].iter().chain(confirm).copied().collect();
        end(begin(&ns, &root, &arguments, weight(8).as_bytes()))
    };
    end(begin(&ns, &root, &["config", "put", "50-weight"], weight(7).as_bytes())).exits(0);
    let before = ns.ruleset();
    let mut file = File::create(root.join("fill")).expect("a file");
    while file.write_all(&[0x78; 4096]).is_ok() {}
    drop(file);
    for (name, confirm) in [("50-weight", &[][..]), ("50-weight", &["--confirm", "10m"]), ("60-new", &[])] {
        let refused = put(name, confirm).exits(3);
        assert!(refused.err.contains("No space left on device"), "{refused:?}");
    }
    assert_eq!(ns.ruleset(), before);
    assert_eq!(fs::read_to_string(root.join(WEIGHT)).expect("it is there"), weight(7));
    assert_eq!(names(&root), ["10-farms.toml", "50-weight.toml"], "nothing half written lies about");
    assert!(!ns.headgate_at(&root, &["status"]).exits(0).out.contains("on trial"));
    // To remove one needs no room for itself.
    let removed = ns.headgate_at(&root, &["config", "remove", "50-weight"]).exits(0);
    assert!(removed.err.contains("this configuration runs, but is not kept") || removed.err.is_empty(), "{removed:?}");
    assert_eq!(names(&root), ["10-farms.toml"]);
    fs::remove_file(root.join("fill")).expect("it is there");
    put("50-weight", &[]).exits(0);
}

/// Has a daemon that is killed after `delay` put `text`, and starts the next one.
fn killed<'a>(ns: &'a Namespace, daemon: Daemon<'a>, arguments: &[&str], text: &str, delay: Duration) -> Daemon<'a> {
    let child = begin(ns, ns.tree.root(), arguments, text.as_bytes());
    std::thread::sleep(delay);
    daemon.kill();
    end(child);
    ns.start()
}

#[test]
fn a_daemon_that_is_killed_leaves_the_old_file_or_the_new_one() {
    // Long enough that a half of it can be seen.
    let long = |number: u32| format!("{}{}", weight(number), "# x\n".repeat(100_000));
    let ns = Namespace::new(WEB);
    let mut daemon = ns.start();
    put(&ns, &["50-weight"], &long(1)).exits(0);
    let seen = |ns: &Namespace| {
        let text = ns.tree.read(WEIGHT);
        let number = [1, 2, 3].into_iter().find(|number| text == long(*number));
        number.unwrap_or_else(|| panic!("{} bytes that nobody wrote", text.len()))
    };
    let weight = || {
        let farm: Value =
            serde_json::from_str(&ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out).expect("JSON");
        farm["backends"].as_array().and_then(|list| list.iter().find(|one| one["name"] == "b2")?["weight"].as_u64())
    };
    for round in 0..8 {
        let number = 2 + round % 2;
        let delay = Duration::from_millis(u64::from(round) * 12);
        daemon = killed(&ns, daemon, &["config", "put", "50-weight"], &long(number), delay);
        assert_eq!(weight(), Some(seen(&ns).into()), "what the file says runs");
        assert_eq!(names(ns.tree.root()), ["10-farms.toml", "50-weight.toml"], "nothing half written lies about");
    }
    put(&ns, &["50-weight"], &long(1)).exits(0);
    for round in 0..6_u64 {
        let delay = Duration::from_millis(round * 15);
        daemon = killed(&ns, daemon, &["config", "put", "50-weight", "--confirm", "10m"], &long(2), delay);
        let status = ns.headgate(&["status"]).exits(0).out;
        let tried = status.contains("is on trial");
        assert_eq!((weight(), tried), (Some(seen(&ns).into()), seen(&ns) == 2), "never for good: {status}");
        assert!(!status.contains("since nobody confirmed them"), "{status}");
        if tried {
            ns.headgate(&["rollback"]).exits(0);
            put(&ns, &["50-weight"], &long(1)).exits(0);
        }
    }
}

#[test]
fn a_trial_whose_file_was_never_written_is_none() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    put(&ns, &["50-weight", "--confirm", "10m"], &weight(8)).exits(0);
    daemon.kill();
    // As if it had been killed before it wrote the file.
    let mut store: Value = serde_json::from_str(&ns.tree.read("var/lib/headgate/store.json")).expect("JSON");
    store["running"] = json!(1);
    ns.tree.write("var/lib/headgate/store.json", store.to_string());
    fs::remove_file(ns.tree.path(WEIGHT)).expect("it is there");
    let daemon = ns.start();
    let status = ns.headgate(&["status"]).exits(0).out;
    assert!(ns.ruleset() == first && !status.contains("trial") && !status.contains("fault:"), "{status}");
    put(&ns, &["50-weight"], &weight(8)).exits(0);
    drop(daemon);
}

#[test]
fn a_first_start_that_has_nothing_to_run_can_be_mended_from_afar() {
    let ns = Namespace::new("[farms.web]\nlisten = \"172.16.1.1:80\"\n");
    let daemon = ns.start();
    ns.headgate(&["status"]).exits(5);
    assert!(put(&ns, &["10-farms", "--confirm", "10m"], WEB).exits(2).err.contains("it could not return"));
    put(&ns, &["10-farms"], WEB).exits(0);
    assert!(ns.headgate(&["status"]).exits(0).out.starts_with("healthy, generation 1\n"));
    drop(daemon);
}

#[test]
fn the_secret_of_the_site_is_not_shown() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let text = "[site]\nsecret = \"0123456789abcdef0123456789abcdef\" # of all boxes\n";
    put(&ns, &["00-site"], text).exits(0);
    let got = ns.headgate(&["config", "get", "00-site"]).exits(0).out;
    assert_eq!(got, "[site]\nsecret = \"(not shown)\" # of all boxes\n");
    // What was shown is not taken for what was written.
    let refused = put(&ns, &["00-site"], &got).exits(1);
    assert!(refused.err.contains("00-site.toml:2:"), "{refused:?}");
    assert_eq!(ns.tree.read("etc/headgate/conf.d/00-site.toml"), text);
    let mut command = Command::new(HEADGATE);
    command.arg("--root").arg(ns.tree.path("nowhere")).args(["config", "get", "00-site"]);
    Ran::of(&mut command).exits(4);
}
