//! The daemon on a real kernel, each test in a network namespace of its own. Needs root; fails without.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::namespace::{Daemon, Namespace};
use support::{WEB, hostile};

/// The elements and rules that a `headgate` command says it changed, all together.
fn changes(out: &str) -> usize {
    let numbers = out.lines().filter_map(|line| line.strip_prefix("change the ruleset: "));
    numbers.flat_map(|line| line.split(", ")).filter_map(|part| part.split(' ').next()?.parse::<usize>().ok()).sum()
}

#[test]
fn files_become_farms_in_the_kernel_and_a_second_apply_writes_nothing() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let ruleset = ns.ruleset();
    assert!(ruleset.contains("172.16.1.1 . tcp . 80 : goto") && ruleset.contains("comment \"web/b2\""), "{ruleset}");
    assert!(ns.addresses().contains("172.16.1.1/32"), "{}", ns.addresses());
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");
    let status = ns.headgate(&["status"]).exits(0);
    assert!(status.out.starts_with("healthy, generation 1\n"), "{status:?}");
    let monitor = ns.command("nft").arg("monitor").stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let applied = ns.headgate(&["apply"]).exits(0);
    assert_eq!(applied.out, "nothing to do\ngeneration 1 runs\n");
    std::thread::sleep(Duration::from_millis(300));
    let mut monitor = monitor;
    monitor.kill().unwrap();
    let mut seen = String::new();
    monitor.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    monitor.wait().unwrap();
    assert_eq!(seen, "", "an apply without changes wrote");
    assert_eq!(ns.ruleset(), ruleset);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn once_applies_and_leaves_nothing_behind_but_the_data_plane() {
    let ns = Namespace::new(WEB);
    ns.headgated(&["--once"]).exits(0);
    let ruleset = ns.ruleset();
    assert!(ruleset.contains("table inet headgate"), "{ruleset}");
    ns.headgated(&["--once"]).exits(0);
    assert_eq!(ns.ruleset(), ruleset);
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");
    ns.headgate(&["status"]).exits(4);
}

#[test]
fn flush_removes_what_is_ours_and_nothing_else() {
    let ns = Namespace::new(WEB);
    ns.run("nft", &["add table inet foreign; add chain inet foreign c; add rule inet foreign c counter"]).exits(0);
    ns.run("ip", &["address", "add", "192.0.2.1/24", "dev", "cl"]).exits(0);
    let (foreign, forwarding) = (ns.ruleset(), ns.run("sysctl", &["-n", "net.ipv4.ip_forward"]).out);
    ns.headgated(&["--once"]).exits(0);
    assert!(ns.ruleset().contains("table inet headgate") && ns.ruleset().contains("table inet foreign"));
    ns.headgated(&["--flush"]).exits(0);
    assert_eq!(ns.ruleset(), foreign);
    assert_eq!(ns.run("sysctl", &["-n", "net.ipv4.ip_forward"]).out, forwarding);
    let addresses = ns.addresses();
    assert!(addresses.contains("192.0.2.1/24") && !addresses.contains("172.16."), "{addresses}");
}

#[test]
fn sighup_loads_good_files_and_refuses_bad_ones() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    ns.tree.write("etc/headgate/conf.d/20-weight.toml", "[farms.web.backends.b2]\nweight = 5\n");
    daemon.reload("applied");
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 5"));
    let ruleset = ns.ruleset();

    ns.tree.write("etc/headgate/conf.d/20-weight.toml", "[farms.web.backends.b2]\nweight = 70000\n");
    daemon.reload("not reloaded");
    assert_eq!(ns.ruleset(), ruleset);
    let status = ns.headgate(&["status"]).exits(5);
    assert!(status.out.starts_with("degraded, generation 2\nfault: the configuration is invalid"), "{status:?}");
    let refused = ns.headgate(&["apply"]).exits(1);
    assert!(refused.err.contains("weight must be 0 to 65535"), "{refused:?}");
    // Who may use the API need not be allowed to read the files.
    assert!(!refused.err.contains("weight = 70000"), "{refused:?}");

    ns.tree.write("etc/headgate/conf.d/20-weight.toml", "[farms.web.backends.b2]\nweight = 5\n");
    daemon.reload("applied");
    ns.headgate(&["status"]).exits(0);
    assert_eq!(ns.ruleset(), ruleset);
}

#[test]
fn rules_and_ids_survive_every_end_of_the_daemon() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    ns.headgate(&["backend", "add", "web", "b0", "172.16.2.10:8080", "--persist"]).exits(0);
    let ruleset = ns.ruleset();
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!(ns.ruleset(), ruleset, "after SIGTERM");
    let daemon = ns.start();
    assert_eq!(ns.ruleset(), ruleset, "after a restart");
    daemon.kill();
    assert_eq!(ns.ruleset(), ruleset, "after SIGKILL");
    let _daemon = ns.start();
    assert_eq!(ns.ruleset(), ruleset, "after SIGKILL and a restart");
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn a_bad_configuration_at_start_runs_the_last_good_one() {
    let ns = Namespace::new(WEB);
    ns.headgated(&["--once"]).exits(0);
    let ruleset = ns.ruleset();
    ns.tree.write("etc/headgate/conf.d/20-bad.toml", "[farms.web]\nmode = \"magic\"\n");
    // As after a boot: nothing in the kernel, only what is on disk.
    ns.run("nft", &["flush", "ruleset"]).exits(0);
    let once = ns.headgated(&["--once"]).exits(1);
    assert!(once.err.contains("\"magic\" is no value of mode") && once.err.contains("20-bad.toml:2:8"), "{once:?}");
    assert_eq!(ns.ruleset(), ruleset);
    ns.run("nft", &["flush", "ruleset"]).exits(0);
    let _daemon = ns.start();
    assert_eq!(ns.ruleset(), ruleset);
    let status = ns.headgate(&["status"]).exits(5);
    assert!(status.out.contains("fault: the configuration is invalid"), "{status:?}");
    // What runs can still be changed, and that does not make the files right.
    ns.headgate(&["farm", "set", "web", "on-empty=drop"]).exits(0);
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    let status = ns.headgate(&["status"]).exits(5);
    assert!(status.out.contains("fault: the configuration is invalid"), "{status:?}");
}

#[test]
fn a_bad_configuration_without_a_good_one_leaves_the_kernel_alone() {
    let ns = Namespace::new("[farms.web]\n");
    ns.headgated(&["--once"]).exits(1);
    let _daemon = ns.start();
    assert_eq!(ns.ruleset(), "");
    let status = ns.headgate(&["status"]).exits(5);
    assert!(status.out.contains("fault: the configuration is invalid"), "{status:?}");
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", WEB);
    ns.headgate(&["apply"]).exits(0);
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn hostile_configurations_leave_the_running_data_plane_untouched() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let mut nftables = ns.nftables();
    let mut state = || (nftables.generation().expect("nftables answers"), ns.ruleset(), ns.addresses());
    let before = state();
    let path = ns.tree.path("etc/headgate/conf.d/10-farms.toml");
    for hostile in hostile::all() {
        hostile.put(&path);
        hostile.is_refused(&ns.headgate(&["apply"]));
        daemon.reload("not reloaded");
        assert_eq!(state(), before, "{}", hostile.name);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, WEB).unwrap();
    assert_eq!(ns.headgate(&["apply"]).exits(0).out, "nothing to do\ngeneration 1 runs\n");
    assert_eq!(state(), before, "and nothing is left to be done");
}

#[test]
fn what_the_kernel_refuses_is_taken_back() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let (ruleset, addresses) = (ns.ruleset(), ns.addresses());
    // No interface reaches this gateway.
    let route = "[network.routes.uplink]\nto = \"default\"\nvia = \"198.51.100.1\"\n[farms.more]\nlisten = \
                 \"172.16.1.7:80\"\n[farms.more.backends.b]\naddress = \"172.16.2.11\"\n";
    ns.tree.write("etc/headgate/conf.d/50-route.toml", route);
    let refused = ns.headgate(&["apply"]).exits(3);
    assert!(refused.err.starts_with("error: add route default via 198.51.100.1"), "{refused:?}");
    assert!(refused.err.contains("what ran before runs on"), "{refused:?}");
    assert_eq!((ns.ruleset(), ns.addresses()), (ruleset, addresses));
    assert!(ns.headgate(&["status"]).exits(5).out.contains("fault: "));
}

#[test]
fn long_lists_of_steps_are_cut_short_for_people_only() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let listen: Vec<String> = (10..30).map(|host| format!("\"172.16.1.{host}:80\"")).collect();
    let many =
        format!("[farms.many]\nlisten = [{}]\n[farms.many.backends.b]\naddress = \"172.16.2.11\"\n", listen.join(", "));
    let route = "[network.routes.uplink]\nto = \"default\"\nvia = \"198.51.100.1\"\n";
    let lines = |text: &str, begin: &str| text.lines().filter(|line| line.starts_with(begin)).count();
    let steps = |json: &str, of: &str| {
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let kind = |step: &&serde_json::Value| step["kind"] == of;
        json["steps"].as_array().map(|steps| steps.iter().filter(kind).count())
    };

    ns.tree.write("etc/headgate/conf.d/50-many.toml", format!("{many}{route}"));
    let refused = ns.headgate(&["apply"]).exits(3);
    assert_eq!(lines(&refused.err, "add address "), 3, "{refused:?}");
    assert!(refused.err.contains("\n… and 17 more like it\nadd route "), "{refused:?}");
    let refused = ns.headgate(&["apply", "--all"]).exits(3);
    assert_eq!(lines(&refused.err, "add address "), 20, "{refused:?}");

    ns.tree.write("etc/headgate/conf.d/50-many.toml", &many);
    let planned = ns.headgate(&["plan"]).exits(10).out;
    assert_eq!(lines(&planned, "add address "), 3, "{planned}");
    assert!(planned.contains("\n… and 17 more like it\nchange the ruleset: "), "{planned}");
    assert_eq!(lines(&ns.headgate(&["plan", "--all"]).exits(10).out, "add address "), 20);
    assert_eq!(steps(&ns.headgate(&["plan", "--json"]).exits(10).out, "add-address"), Some(20));
    assert_eq!(steps(&ns.headgate(&["apply", "--json"]).exits(0).out, "add-address"), Some(20));
    let back = ns.headgate(&["rollback"]).exits(0).out;
    assert!(lines(&back, "remove address ") == 3 && back.contains("… and 17 more like it\n"), "{back}");
    assert_eq!(lines(&ns.headgate(&["apply", "--all"]).exits(0).out, "add address "), 20);

    daemon.terminate();
    let flushed = ns.headgated(&["--flush"]).exits(0).err;
    assert!(lines(&flushed, "remove address ") == 3 && flushed.contains(" more like it\n"), "{flushed}");
    ns.headgated(&["--once"]).exits(0);
    let flushed = ns.headgated(&["--flush", "--all-steps"]).exits(0).err;
    assert!(lines(&flushed, "remove address ") >= 21 && !flushed.contains(" more like it\n"), "{flushed}");

    ns.tree.write("etc/headgate/conf.d/50-many.toml", format!("{many}{route}"));
    let once = ns.headgated(&["--once"]).exits(3).err;
    let told = &once[once.find("error: add route default").expect("the error")..];
    assert!(lines(told, "add address ") == 3 && told.contains(" more like it\n"), "{once}");
}

#[test]
fn one_backends_change_is_small_and_is_gone_after_a_reboot() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let ruleset = ns.ruleset();
    let drained = ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    assert!((1..=4).contains(&changes(&drained.out)), "{drained:?}");
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "[farms.web.backends.b1]\nstate = \"drain\"\n");
    let status = ns.headgate(&["status"]).exits(5);
    assert!(status.out.contains("note: backend b1 of farm web, until the next boot: state = \"drain\""), "{status:?}");
    // It survives a reload, and agrees with what the files say then.
    assert_eq!(ns.headgate(&["apply"]).exits(0).out, "nothing to do\ngeneration 1 runs\n");
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");
    ns.headgate(&["backend", "weight", "web", "b2", "9"]).exits(0);
    ns.headgate(&["backend", "weight", "web", "b2", "65536"]).exits(1);
    ns.headgate(&["backend", "weight", "web", "b2", "3"]).exits(0);
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "");
    assert_eq!(ns.ruleset(), ruleset);
    ns.headgate(&["backend", "drain", "web", "nobody"]).exits(2);
    let unknown = ns.headgate(&["backend", "drain", "nobody", "b1"]).exits(2);
    assert_eq!(unknown.err, "error: there is no farm nobody\n");
    ns.headgate(&["backend", "drain", "../x", "b1"]).exits(2);
}

#[test]
fn changes_at_run_time_give_way_to_the_files() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    ns.headgate(&["backend", "weight", "web", "b2", "9"]).exits(0);
    // b1 goes, and the files now say what was said at run time about b2.
    let farm = "[farms.web]\nlisten = \"172.16.1.1:80\"\n[farms.web.backends.b2]\naddress = \
                \"172.16.2.12:8080\"\nweight = 9\n";
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", farm);
    let applied = ns.headgate(&["apply"]).exits(0);
    assert!(applied.err.contains("backend b1 of farm web is gone"), "{applied:?}");
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "");
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn farms_come_and_go_without_files() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let ruleset = ns.ruleset();
    let add = ["farm", "add", "dns", "--listen", "172.16.1.53:53/udp", "--backend", "172.16.2.21", "mode=dnat"];
    ns.headgate(&add).exits(0);
    assert!(ns.addresses().contains("172.16.1.53/32"));
    ns.headgate(&add).exits(2);
    ns.headgate(&["farm", "set", "dns", "scheduler=random", "on-empty=drop"]).exits(0);
    let before = ns.ruleset();
    let refused = ns.headgate(&["farm", "set", "dns", "listen=172.16.1.1:80"]).exits(1);
    assert!(refused.err.contains("both listen on 172.16.1.1:80"), "{refused:?}");
    ns.headgate(&["farm", "set", "dns", "colour=red"]).exits(1);
    ns.headgate(&["backend", "remove", "dns", "b1"]).exits(1);
    assert_eq!(ns.ruleset(), before);
    ns.headgate(&["farm", "remove", "dns"]).exits(0);
    assert_eq!(ns.ruleset(), ruleset);
    assert!(!ns.addresses().contains("172.16.1.53"));
    // What the files have is switched off, and comes back.
    ns.headgate(&["farm", "remove", "web"]).exits(0);
    assert!(!ns.ruleset().contains("172.16.1.1"));
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "[farms.web]\nenabled = false\n");
}

#[test]
fn persisted_changes_are_written_beside_what_is_there() {
    let ns = Namespace::new(WEB);
    let kept = "# keep me\n[farms.web.backends.b2]\nweight = 4 # four\n";
    ns.tree.write("etc/headgate/conf.d/90-operator.toml", kept);
    let daemon = ns.start();
    ns.headgate(&["backend", "weight", "web", "b2", "8"]).exits(0);
    ns.headgate(&["backend", "weight", "web", "b2", "5", "--persist"]).exits(0);
    assert_eq!(ns.tree.read("etc/headgate/conf.d/90-operator.toml"), kept.replace('4', "5"));
    // What was changed until the next boot does not hide what is kept.
    assert_eq!(ns.tree.read("run/headgate/runtime.toml"), "");
    let before = ns.tree.read("etc/headgate/conf.d/90-operator.toml");
    ns.headgate(&["backend", "weight", "web", "b2", "70000", "--persist"]).exits(1);
    ns.headgate(&["farm", "set", "web", "listen=nonsense", "--persist"]).exits(1);
    assert_eq!(ns.tree.read("etc/headgate/conf.d/90-operator.toml"), before);
    daemon.terminate();
    let _daemon = ns.start();
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 5"));
}

#[test]
fn rollback_returns_and_stays_until_the_files_change() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let first = ns.ruleset();
    let weight = |weight: u32| format!("[farms.web.backends.b2]\nweight = {weight}\n");
    ns.tree.write("etc/headgate/conf.d/20-weight.toml", weight(8));
    ns.headgate(&["apply"]).exits(0);
    assert_ne!(ns.ruleset(), first);
    ns.headgate(&["rollback"]).exits(0);
    assert_eq!(ns.ruleset(), first);
    let history = ns.headgate(&["history"]).exits(0).out;
    assert!(history.lines().any(|line| line.starts_with('2') && line.contains("returned from")), "{history}");
    ns.headgate(&["rollback"]).exits(2);
    ns.headgate(&["rollback", "77"]).exits(2);
    ns.headgate(&["backend", "weight", "web", "b2", "9", "--persist"]).exits(2);
    // A change at run time changes what runs, not what was returned from.
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 3"));
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    daemon.reload("is not loaded again");
    assert_eq!(ns.ruleset(), first);
    daemon.kill();
    let daemon = ns.start();
    assert_eq!(ns.ruleset(), first);
    let status = ns.headgate(&["status"]).exits(0);
    assert!(status.out.contains("are not what runs, since a rollback"), "{status:?}");
    ns.tree.write("etc/headgate/conf.d/20-weight.toml", weight(7));
    daemon.reload("applied");
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 7"));
    ns.headgate(&["rollback", "2"]).exits(0);
    ns.headgate(&["apply"]).exits(0);
    assert!(ns.headgate(&["farm", "show", "web", "--json"]).exits(0).out.contains("\"weight\": 7"));
}

#[test]
fn only_one_daemon_runs_and_the_socket_of_a_dead_one_is_replaced() {
    let ns = Namespace::new(WEB);
    let daemon = ns.start();
    let mode = std::fs::metadata(ns.tree.path("run/headgate/api.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let pid = daemon.pid();
    for arguments in [&[][..], &["--once"], &["--flush"]] {
        let second = ns.headgated(arguments).exits(3);
        assert!(second.err.starts_with(&format!("error: headgated runs already, process {pid}")), "{second:?}");
    }
    ns.headgate(&["status"]).exits(0);
    daemon.kill();
    assert!(ns.tree.path("run/headgate/api.sock").exists());
    ns.headgate(&["status"]).exits(4);
    let _daemon = ns.start();
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn a_client_that_stalls_holds_nobody_up() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let stalled: Vec<UnixStream> = (0..20)
        .map(|number| {
            let mut stream = UnixStream::connect(ns.tree.path("run/headgate/api.sock")).unwrap();
            let head = "POST /v1/rollback HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
            let begun = if number % 2 == 0 { &head[..20] } else { head };
            stream.write_all(begun.as_bytes()).unwrap();
            stream
        })
        .collect();
    let begin = Instant::now();
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    // And each of them is cut in the end.
    for mut stream in stalled {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the daemon ends the connection");
    }
}

/// A request as it is typed, and the whole answer.
fn request(ns: &Namespace, text: &str) -> String {
    let mut stream = UnixStream::connect(ns.tree.path("run/headgate/api.sock")).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
    // The daemon may answer and close before it has read everything.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn every_error_of_the_api_has_its_status_and_code() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let body = |method: &str, path: &str, body: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let large = format!("{{\"mode\": \"{}\"}}", "x".repeat(1024 * 1024));
    let cases = [
        (body("GET", "/v1/nothing", ""), "404", "not-found"),
        (body("POST", "/v1/status", ""), "404", "not-found"),
        (body("GET", "/v1/farms/nobody", ""), "404", "not-found"),
        (body("GET", "/v1/farms/%2e%2e%2fx", ""), "404", "not-found"),
        (body("PATCH", "/v1/farms/web", "{"), "400", "bad-request"),
        (body("PATCH", "/v1/farms/web", "[1]"), "400", "bad-request"),
        (body("PATCH", "/v1/farms/web", "{\"mode\": null}"), "400", "bad-request"),
        (body("PATCH", "/v1/farms/web", "{\"mode\": \"magic\"}"), "422", "config-invalid"),
        (body("PATCH", "/v1/farms/web?persist=maybe", "{}"), "400", "bad-request"),
        (body("PATCH", "/v1/farms/web?force=true", "{}"), "400", "bad-request"),
        (body("PATCH", "/v1/farms/web", &large), "413", "too-large"),
        (body("PUT", "/v1/farms/web", "{}"), "409", "conflict"),
        (body("POST", "/v1/rollback", "{\"to\": 9}"), "404", "not-found"),
        (body("POST", "/v1/rollback", "{\"until\": 9}"), "400", "bad-request"),
        (body("GET", "/v1/connections?farm=nobody", ""), "404", "not-found"),
        (body("GET", "/v1/connections?limit=many", ""), "400", "bad-request"),
    ];
    let ruleset = ns.ruleset();
    for (text, status, code) in cases {
        let answer = request(&ns, &text);
        let shown = &text[..text.len().min(200)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}\n{answer}");
        assert!(answer.contains(&format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"")), "{shown}\n{answer}");
    }
    assert!(request(&ns, "\0\0\0\0garbage\r\n\r\n").starts_with("HTTP/1.1 400"), "garbage is no request");
    assert_eq!(ns.ruleset(), ruleset);
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn drift_is_told_and_repaired() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    // Not the whole ruleset: the table comes back behind the guard's.
    let table = || ns.run("nft", &["list", "table", "inet", "headgate"]).out;
    let before = table();
    ns.run("nft", &["delete table inet headgate"]).exits(0);
    ns.run("ip", &["address", "del", "172.16.1.1/32", "dev", "cl"]).exits(0);
    let status = ns.headgate(&["status"]);
    // The daemon may have been faster than we are.
    assert!(status.code == Some(0) || status.out.contains("drift: "), "{status:?}");
    ns.wait_for("repair", || table() == before && ns.addresses().contains("172.16.1.1/32"));
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn a_change_finds_its_way_although_somebody_tore_the_table_down() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    ns.run("nft", &["delete table inet headgate"]).exits(0);
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    assert!(ns.ruleset().contains("comment \"web/b1\""));
    assert_eq!(ns.headgate(&["plan"]).exits(0).out, "nothing to do\n");
}

#[test]
fn a_full_disk_costs_the_history_and_nothing_else() {
    let ns = Namespace::new(WEB);
    // A file where the directory should be refuses every write, for root as well.
    ns.tree.write("var/lib/headgate", "");
    let _daemon = ns.start();
    assert!(ns.ruleset().contains("172.16.1.1"));
    let status = ns.headgate(&["status"]).exits(0);
    assert!(status.out.contains("note: this configuration runs, but is not kept"), "{status:?}");
    let runtime = ns.tree.path("run/headgate/runtime.toml");
    std::fs::create_dir(&runtime).unwrap();
    let ruleset = ns.ruleset();
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(3);
    assert_eq!(ns.ruleset(), ruleset);
}

#[test]
fn explain_names_the_line_behind_each_object() {
    let ns = Namespace::new(WEB);
    let _daemon = ns.start();
    let explained = ns.headgate(&["explain", "web"]).exits(0).out;
    assert!(explained.contains("10-farms.toml:1:1") && explained.contains("10-farms.toml:5:1"), "{explained}");
    assert!(explained.contains("172.16.1.1 . tcp . 80 : goto"), "{explained}");
    ns.headgate(&["explain", "nobody"]).exits(2);
    let hardware: serde_json::Value =
        serde_json::from_str(&ns.headgate(&["hw", "show", "--json"]).exits(0).out).unwrap();
    assert!(hardware["knobs"].as_array().is_some_and(|knobs| !knobs.is_empty()), "{hardware:#}");
}

#[test]
fn services_start_after_the_network_and_stop_with_the_daemon() {
    let ns = Namespace::new(WEB);
    let service = "[services.sleeper]\ncommand = [\"/bin/sleep\", \"1000\"]\nafter = [\"network\"]\n";
    ns.tree.write("etc/headgate/conf.d/30-services.toml", service);
    let daemon = ns.start();
    let mut pid = 0;
    ns.wait_for("sleeper", || {
        let status: serde_json::Value =
            serde_json::from_str(&ns.headgate(&["status", "--json"]).out).unwrap_or_default();
        pid = status["services"][0]["pid"].as_u64().unwrap_or(0);
        pid > 0
    });
    assert_eq!(daemon.terminate(), Some(0));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn flows_are_listed_counted_and_cut() {
    let ns = Namespace::new(WEB);
    ns.far_address("cl", "172.16.1.50/24");
    ns.far_address("be", "172.16.2.11/24");
    ns.far_address("be", "172.16.2.12/24");
    let _daemon = ns.start();
    let listeners = ns.at_far(|| ["172.16.2.11:8080", "172.16.2.12:8080"].map(TcpListener::bind));
    let listeners = listeners.map(|listener| listener.expect("the address is there"));
    let service = "172.16.1.1:80".parse().expect("an address");
    // One cycle of the scheduler: weights 1 and 3.
    let clients = ns.at_far(|| [(); 4].map(|()| TcpStream::connect_timeout(&service, Duration::from_secs(10))));
    let clients = clients.map(|client| client.expect("the farm answers"));
    let accepted = |listener: &TcpListener, count: usize| {
        (0..count).map(|_| listener.accept().expect("a client").1.ip().to_string()).collect::<Vec<String>>()
    };
    assert_eq!(accepted(&listeners[0], 1), ["172.16.2.254"], "the source is the box's");
    assert_eq!(accepted(&listeners[1], 3).len(), 3);

    let farm = ns.headgate(&["farm", "show", "web"]).exits(0).out;
    let flows = |farm: &str, name: &str| {
        let line = farm.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.split_whitespace().last().map(str::to_owned))
    };
    assert_eq!((flows(&farm, "b1").as_deref(), flows(&farm, "b2").as_deref()), (Some("1"), Some("3")), "{farm}");
    let listed = ns.headgate(&["connections", "web", "b1"]).exits(0).out;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("172.16.1.50:") && listed.contains("172.16.1.1:80  172.16.2.11:8080"), "{listed}");
    let json = ns.headgate(&["connections", "--limit", "2", "--json"]).exits(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["flows"].as_array().map(Vec::len), json["more"].as_bool()), (Some(2), Some(true)));
    ns.headgate(&["connections", "nobody"]).exits(2);

    assert_eq!(ns.headgate(&["connections", "web", "b2", "--flush"]).exits(0).out, "3 flows cut\n");
    assert_eq!(ns.headgate(&["connections", "web", "b2"]).exits(0).out, "no flows\n");
    assert_eq!(ns.headgate(&["connections", "web"]).exits(0).out.lines().count(), 2);
    drop(clients);
}

#[test]
fn an_interface_that_comes_late_gets_its_addresses() {
    let ns = Namespace::new(WEB);
    let late = "[network.interfaces.late]\naddresses = [\"172.16.9.254/24\"]\n[farms.late]\nlisten = \
                \"172.16.9.1:80\"\n[farms.late.backends.b]\naddress = \"172.16.2.11:80\"\n";
    ns.tree.write("etc/headgate/conf.d/40-late.toml", late);
    let _daemon = ns.start();
    assert!(ns.addresses().contains("172.16.1.1/32") && !ns.addresses().contains("172.16.9."));
    let status = ns.headgate(&["status"]).exits(5).out;
    assert!(status.contains("late") && status.contains("degraded"), "{status}");
    ns.run("ip", &["link", "add", "late", "type", "veth", "peer", "name", "late-peer"]).exits(0);
    ns.run("ip", &["link", "set", "late-peer", "up"]).exits(0);
    ns.wait_for("address", || ns.addresses().contains("172.16.9.1/32"));
    ns.headgate(&["status"]).exits(0);
}

#[test]
fn established_connections_survive_whatever_happens_to_the_daemon() {
    let ns = Namespace::new(WEB);
    ns.far_address("cl", "172.16.1.50/24");
    ns.far_address("be", "172.16.2.11/24");
    ns.far_address("be", "172.16.2.12/24");
    let daemon = ns.start();
    ns.headgate(&["backend", "down", "web", "b1"]).exits(0);
    let listener = ns.at_far(|| TcpListener::bind("172.16.2.12:8080")).expect("the address is there");
    let service = "172.16.1.1:80".parse().expect("an address");
    let client = ns.at_far(|| TcpStream::connect_timeout(&service, Duration::from_secs(10)));
    let mut client = client.expect("the farm answers");
    let mut server = listener.accept().expect("the client").0;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
    }
    let mut alive = |after: &str| {
        let mut byte = [0];
        let there = client.write_all(b"x").and_then(|()| server.read_exact(&mut byte));
        let back = server.write_all(b"y").and_then(|()| client.read_exact(&mut byte));
        there.and(back).unwrap_or_else(|error| panic!("{after}: {error}"));
    };
    alive("before anything");
    ns.headgate(&["backend", "drain", "web", "b2"]).exits(0);
    alive("drained");
    ns.headgate(&["farm", "set", "web", "state=down"]).exits(0);
    alive("farm down");
    ns.headgate(&["farm", "set", "web", "state=up"]).exits(0);
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    ns.headgate(&["farm", "add", "more", "--listen", "172.16.1.2:81", "--backend", "172.16.2.11"]).exits(0);
    ns.headgate(&["farm", "remove", "more"]).exits(0);
    alive("another farm came and went");
    daemon.reload("applied");
    alive("reloaded");
    daemon.kill();
    alive("killed");
    let daemon = ns.start();
    alive("started again");
    daemon.terminate();
    alive("terminated");
    ns.headgated(&["--once"]).exits(0);
    alive("applied once");
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", WEB.replace("b2", "other"));
    ns.headgated(&["--once"]).exits(0);
    alive("its backend has another name");
}

#[test]
fn a_crash_is_told_by_the_next_start_and_no_longer() {
    let ns = Namespace::new(WEB);
    let report = r#"{"time": "2026-01-02T03:04:05Z", "version": "0.1.0", "pid": 7, "thread": "engine",
        "message": "no farm has this id", "location": "engine.rs:1:2", "backtrace": ""}"#;
    ns.tree.write("var/lib/headgate/crash.json", report);
    let daemon = ns.start();
    let status = ns.headgate(&["status"]).exits(0).out;
    assert!(status.contains("note: headgated 0.1.0 crashed at 2026-01-02T03:04:05Z: no farm has this id"), "{status}");
    assert_eq!(daemon.terminate(), Some(0));
    assert!(!ns.tree.root().join("run/headgate/running").exists());
    let _daemon = ns.start();
    let status = ns.headgate(&["status"]).exits(0).out;
    assert!(!status.contains("crashed"), "{status}");
    assert!(ns.tree.root().join("run/headgate/running").exists());
}

/// The capabilities of a thread, or of what is said of a process, by the name of the set.
fn capability(status: &str, set: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("Cap{set}:"))).expect("the set is there");
    u64::from_str_radix(line.trim(), 16).expect("a number")
}

/// What the kernel says of each thread, by its name.
fn threads(daemon: &Daemon<'_>) -> std::collections::BTreeMap<String, String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it lives");
    let threads = threads.flatten().filter_map(|thread| {
        let file = |name: &str| std::fs::read_to_string(thread.path().join(name)).ok();
        Some((file("comm")?.trim().to_owned(), file("status")?))
    });
    threads.collect()
}

#[test]
fn each_thread_keeps_what_it_needs_and_programs_are_not_hindered() {
    // linux/capability.h.
    let (net_admin, net_raw, sys_admin, sys_time, mac_admin, immutable) =
        (1 << 12, 1 << 13, 1 << 21, 1 << 25, 1 << 33, 1 << 9);
    let ns = Namespace::new(WEB);
    let told = |name: &str| format!("cat /proc/self/status > {0}.new; mv {0}.new {0}", ns.tree.path(name).display());
    ns.tree.write(
        "etc/headgate/conf.d/20-programs.toml",
        format!(
            "[farms.web.health]\ntype = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"{}\"]\n\
             [services.program]\ncommand = [\"/bin/sh\", \"-c\", \"{}; exec sleep 1000\"]\n",
            told("check"),
            told("service")
        ),
    );
    let daemon = ns.start();
    ns.wait_for("threads", || threads(&daemon).contains_key("health"));
    ns.wait_for("programs", || ns.tree.path("check").exists() && ns.tree.path("service").exists());
    let threads = threads(&daemon);
    for (name, has) in [
        ("headgated", net_admin | net_raw),
        ("front", net_admin),
        ("health", net_admin | net_raw),
        ("engine", net_admin | net_raw | sys_admin),
    ] {
        let status = &threads[name];
        for set in ["Prm", "Eff"] {
            let held = capability(status, set);
            assert_eq!(held & (net_admin | net_raw | sys_admin | sys_time | mac_admin), has, "{name} {set}: {held:x}");
        }
        assert_eq!(capability(status, "Bnd") & (mac_admin | immutable), 0, "{name}");
        assert_eq!(capability(status, "Inh"), 0, "{name}");
    }
    for program in ["check", "service"] {
        let held = capability(&ns.tree.read(program), "Eff");
        // The clock is this machine's, and nothing in a test may set it.
        assert_eq!(held & (sys_admin | sys_time), sys_admin, "{program}: {held:x}");
        assert_eq!(held & (mac_admin | immutable), 0, "{program}: {held:x}");
    }
    assert_eq!(daemon.terminate(), Some(0));
}

/// Of a thread, or of what is said of a process: whether no program of it gets more than it has, and how many filters of system calls there
/// are.
fn fenced(status: &str) -> (bool, u32) {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    (value("NoNewPrivs:") == Some(1), value("Seccomp_filters:").expect("a kernel with seccomp"))
}

fn fence(ns: &Namespace) -> serde_json::Value {
    let status: serde_json::Value = serde_json::from_str(&ns.headgate(&["status", "--json"]).out).expect("JSON");
    status["fence"].clone()
}

/// What a thread behind it cannot do is tried in the unit tests.
#[test]
fn who_reads_what_strangers_write_is_behind_a_fence_and_nothing_else_is() {
    let ns = Namespace::new(WEB);
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    let told = |name: &str| format!("cat /proc/self/status > {0}.new; mv {0}.new {0}", ns.tree.path(name).display());
    ns.tree.write(
        "etc/headgate/conf.d/20-programs.toml",
        format!(
            "[api]\nlisten = \"127.0.0.1:8443\"\n\
             [farms.web.health]\ntype = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"{}\"]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
             [services.program]\ncommand = [\"/bin/sh\", \"-c\", \"{}; exec sleep 1000\"]\n",
            told("check"),
            told("service")
        ),
    );
    let daemon = ns.start();
    for round in ["begun", "handed over"] {
        let programs = || ["check", "service"].iter().all(|name| ns.tree.path(name).exists());
        ns.wait_for("threads and programs", || programs() && threads(&daemon).contains_key("health"));
        for (name, status) in threads(&daemon) {
            let expected = match name.as_str() {
                "front" | "health" => (true, 1),
                "headgated" | "engine" | "look" | "crash" => (false, 0),
                _ => continue,
            };
            assert_eq!(fenced(&status), expected, "{round}: {name}");
        }
        for program in ["check", "service"] {
            assert_eq!(fenced(&ns.tree.read(program)), (false, 0), "{round}: {program}");
            std::fs::remove_file(ns.tree.path(program)).expect("it is there");
        }
        assert_eq!(fence(&ns), serde_json::json!({"landlock": true, "seccomp": true}), "{round}");
        // Made and kept by who may write, and known to who answers.
        let token = ns.headgate(&["token", "add", &round.replace(' ', "-"), "--scope", "read"]).exits(0).out;
        assert!(token.contains("headgate_"), "{token}");
        assert!(ns.tree.read("var/lib/headgate/tokens.json").contains(&round.replace(' ', "-")));
        assert!(ns.tree.read("var/lib/headgate/api.pem").contains("PRIVATE KEY"), "{round}");
        if round == "begun" {
            let listening = || ns.tree.read("log").matches("api: listening").count();
            ns.wait_for("the API over TLS", || listening() == 1);
            daemon.signal(Signal::SIGUSR2);
            ns.wait_for("the program that takes over", || {
                listening() == 2 && ns.headgate(&["history"]).code == Some(0)
            });
        }
    }
    assert!(!ns.tree.read("log").contains("has not all that the fence is made of"));
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_kernel_without_the_fence_does_without_and_says_so_once() {
    for (calls, error, landlock, seccomp, note) in [
        ("landlock_create_ruleset", "EOPNOTSUPP", false, true, Some("note: this kernel has no landlock: ")),
        (
            "landlock_create_ruleset,seccomp",
            "ENOSYS",
            false,
            false,
            Some("note: this kernel has no landlock and no seccomp: "),
        ),
        ("seccomp", "ENOSYS", true, false, Some("note: this kernel has no seccomp: ")),
        ("getuid", "ENOSYS", true, true, None),
    ] {
        let ns = Namespace::new(WEB);
        let inject = format!("-e trace={calls} -e inject={calls}:error={error}");
        let under = format!("exec strace -D -f -qq -o /dev/null {inject} \"$0\" --root \"$1\" --log-format text");
        let daemon = ns.start_after(&under, ns.tree.root());
        assert_eq!(fence(&ns), serde_json::json!({"landlock": landlock, "seccomp": seccomp}));
        let status = ns.headgate(&["status"]).exits(0).out;
        assert!(status.starts_with("healthy, generation 1\n"), "{status}");
        let told: Vec<&str> = status.lines().filter(|line| line.starts_with("note: this kernel has no ")).collect();
        assert!(
            told.len() == usize::from(note.is_some()) && note.is_none_or(|note| told[0].starts_with(note)),
            "{status}"
        );
        let log = ns.tree.read("log");
        let once = usize::from(note.is_some());
        assert_eq!(log.matches("has not all that the fence is made of").count(), once, "{log}");
        assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
        assert_eq!(daemon.terminate(), Some(0));
    }
}
