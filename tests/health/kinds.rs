//! Each type of check against real servers: what it comes to, and with which error.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use headgate_tests::lab::{Lab, backend, backend6};
use serde_json::Value;

use crate::servers::{certificates, endless, name_server, nginx, tcp, udp};
use crate::{PATIENCE, farms, of_backend, wait};

/// A check, and what it must come to: up, or down with an error that contains this.
struct Case {
    name: &'static str,
    backend: &'static str,
    health: String,
    down: Option<&'static str>,
}

fn up(name: &'static str, backend: &'static str, health: impl Into<String>) -> Case {
    Case { name, backend, health: health.into(), down: None }
}

fn down(name: &'static str, backend: &'static str, health: impl Into<String>, error: &'static str) -> Case {
    Case { name, backend, health: health.into(), down: Some(error) }
}

/// One farm for each case, and a daemon that is asked until all have come to what they must.
fn judge(lab: &mut Lab, cases: &[Case], extra: &str) {
    let mut text = extra.to_owned();
    for (port, case) in (2000..).zip(cases) {
        let (name, address, health) = (case.name, case.backend, &case.health);
        let vip = if address.starts_with('[') { "[2001:db8:1::1]" } else { "172.16.1.1" };
        text += &format!(
            "[farms.{name}]\nlisten = \"{vip}:{port}\"\n[farms.{name}.backends.b1]\naddress = \"{address}\"\n\
             [farms.{name}.health]\ninterval = \"1s\"\ntimeout = \"1s\"\n{health}\n"
        );
    }
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let farms = farms(lab);
        let wrong: Vec<String> = cases.iter().filter_map(|case| wrong(case, &farms)).collect();
        if wrong.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{}", wrong.join("\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn wrong(case: &Case, farms: &[Value]) -> Option<String> {
    let found = of_backend(farms, case.name, "b1");
    let (state, error) = (&found["health"]["state"], found["health"]["error"].as_str().unwrap_or_default());
    let good = match case.down {
        None => *state == "up" && found["standing"] == "serving",
        Some(wanted) => *state == "down" && found["standing"] == "unhealthy" && error.contains(wanted),
    };
    (!good).then(|| format!("{}: {state} {} {error:?}, not {:?}", case.name, found["standing"], case.down))
}

#[test]
fn tcp_udp_icmp_and_dns() {
    let mut lab = Lab::new("types").unwrap();
    let space = &lab.backends;
    let _serving = [
        tcp(space, backend(11, 8080), |_| ()),
        tcp(space, backend6(11, 8080), |_| ()),
        tcp(space, backend(11, 25), |mut stream| {
            let _ = stream.write_all(b"220 ");
            let _ = stream.write_all(b"ready\r\n");
            let _ = stream.read(&mut [0; 64]);
        }),
        tcp(space, backend(11, 6379), |mut stream| {
            let mut asked = [0; 6];
            let _ = stream.read_exact(&mut asked);
            let _ = stream.write_all(if &asked == b"PING\r\n" { b"+PONG\r\n" } else { b"-ERR\r\n" });
        }),
        tcp(space, backend(11, 19), |mut stream| endless("", "garbage", Duration::ZERO, &mut stream)),
        tcp(space, backend(11, 9), |mut stream| {
            let _ = stream.read(&mut [0; 64]);
        }),
        udp(space, backend(11, 7), |asked| Some(asked.to_vec())),
        udp(space, backend6(11, 7), |asked| Some(asked.to_vec())),
        udp(space, backend(11, 9), |_| None),
        udp(space, backend(11, 53), name_server),
        udp(space, backend6(11, 53), name_server),
        udp(space, backend(11, 54), |_| Some(b"garbage".to_vec())),
    ];
    let cases = [
        up("tcp", "172.16.2.11:8080", ""),
        up("tcp6", "[2001:db8:2::11]:8080", "type = \"tcp\""),
        up("banner", "172.16.2.11:25", "expect-body = \"220 ready\""),
        up("redis", "172.16.2.11:6379", "send = \"PING\\r\\n\"\nexpect-body = \"+PONG\""),
        up("other-port", "172.16.2.11:1", "port = 8080"),
        down("refused", "172.16.2.11:1", "", "tcp connect to 172.16.2.11:1: connection refused"),
        down("nobody", "172.16.2.99:80", "", "tcp connect to 172.16.2.99:80: no "),
        down(
            "wrong",
            "172.16.2.11:6379",
            "send = \"PANG\\r\\n\"\nexpect-body = \"+PONG\"",
            "it does not contain \"+PONG\"",
        ),
        down("silent", "172.16.2.11:9", "expect-body = \"hello\"", "no answer within 1s"),
        down("garbage", "172.16.2.11:19", "send = \"x\"\nexpect-body = \"hello\"", "it does not contain \"hello\""),
        up("ping", "172.16.2.11:1", "type = \"icmp\""),
        up("ping6", "[2001:db8:2::11]:1", "type = \"icmp\""),
        down("no-ping", "172.16.2.99:1", "type = \"icmp\"", "icmp echo to 172.16.2.99: no "),
        up("udp", "172.16.2.11:7", "type = \"udp\"\nsend = \"ping\"\nexpect-body = \"ping\""),
        up("udp6", "[2001:db8:2::11]:7", "type = \"udp\"\nsend = \"ping\""),
        up("udp-silent", "172.16.2.11:9", "type = \"udp\""),
        down("udp-refused", "172.16.2.11:1", "type = \"udp\"", "udp to 172.16.2.11:1: connection refused"),
        down(
            "udp-wrong",
            "172.16.2.11:7",
            "type = \"udp\"\nsend = \"ping\"\nexpect-body = \"pong\"",
            "no answer within 1s",
        ),
        down(
            "udp-no-answer",
            "172.16.2.11:9",
            "type = \"udp\"\nsend = \"ping\"",
            "udp answer of 172.16.2.11:9: no answer within 1s",
        ),
        up("dns", "172.16.2.11:53", "type = \"dns\"\nquery = \"www.example.org A\""),
        up("dns6", "[2001:db8:2::11]:53", "type = \"dns\"\nquery = \"www.example.org A\""),
        down(
            "dns-unknown",
            "172.16.2.11:53",
            "type = \"dns\"\nquery = \"nx.example.org A\"",
            "the server answers NameError",
        ),
        down(
            "dns-type",
            "172.16.2.11:53",
            "type = \"dns\"\nquery = \"www.example.org AAAA\"",
            "no record of type AAAA",
        ),
        down("dns-garbage", "172.16.2.11:54", "type = \"dns\"\nquery = \"www.example.org A\"", "the answer is not DNS"),
        down("dns-refused", "172.16.2.11:1", "type = \"dns\"\nquery = \"www.example.org A\"", "connection refused"),
    ];
    judge(&mut lab, &cases, "");
}

#[test]
fn http_and_https() {
    let mut lab = Lab::new("http").unwrap();
    let directory = lab.root().join("etc/headgate");
    certificates(&directory);
    let _nginx = nginx(&lab, &directory);
    let space = &lab.backends;
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    let _serving = [
        tcp(space, backend(11, 9001), |mut stream| endless("", "garbage", Duration::ZERO, &mut stream)),
        tcp(space, backend(11, 9002), |mut stream| {
            endless("HTTP/1.1 200 OK\r\n\r\n", &"x".repeat(4096), Duration::ZERO, &mut stream);
        }),
        tcp(space, backend(11, 9003), |mut stream| endless(HEAD, "x", Duration::from_millis(50), &mut stream)),
        tcp(space, backend(11, 9004), |mut stream| endless(HEAD, "X-Y: z\r\n", Duration::ZERO, &mut stream)),
        tcp(space, backend(11, 9005), |mut stream| {
            let _ = stream.read(&mut [0; 1024]);
        }),
    ];
    let http = |more: &str| format!("type = \"http\"\n{more}");
    let https = |tls: &str| format!("type = \"https\"\ntls = {{ {tls} }}");
    let cases = [
        up("http", "172.16.2.11:8081", http("path = \"/healthz\"")),
        up("http6", "[2001:db8:2::11]:8081", http("path = \"/healthz\"\nexpect-body = \"is well\"")),
        up("moved", "172.16.2.11:8081", http("path = \"/moved\"")),
        up("head", "172.16.2.11:8081", http("path = \"/head\"\nmethod = \"HEAD\"\nexpect = \"200\"")),
        up(
            "host",
            "172.16.2.11:8081",
            http("path = \"/mine\"\nhost = \"www.example.org\"\nheaders = { X-Probe = \"yes\" }\nexpect = \"204\""),
        ),
        down("no-host", "172.16.2.11:8081", http("path = \"/mine\""), "http GET /mine: status 404, not 200-399"),
        down("status", "172.16.2.11:8081", http("path = \"/bad\""), "http GET /bad: status 500, not 200-399"),
        down("not-moved", "172.16.2.11:8081", http("path = \"/moved\"\nexpect = \"200\""), "status 301, not 200"),
        down(
            "body",
            "172.16.2.11:8081",
            http("path = \"/healthz\"\nexpect-body = \"ill\""),
            "does not contain \"ill\"",
        ),
        down("http-refused", "172.16.2.11:1", http(""), "tcp connect to 172.16.2.11:1: connection refused"),
        down("http-garbage", "172.16.2.11:9001", http(""), "http GET /: "),
        up("endless-unread", "172.16.2.11:9002", http("")),
        down("endless", "172.16.2.11:9002", http("expect-body = \"y\""), "the body does not contain \"y\""),
        down("slow", "172.16.2.11:9003", http(""), "http GET /: no answer within 1s"),
        down("large", "172.16.2.11:9004", http(""), "http GET /: "),
        down("closed", "172.16.2.11:9005", http(""), "http GET /: "),
        // The certificate is the name's, the page that of the address: `host` is not said.
        up(
            "https",
            "172.16.2.11:8443",
            https("ca = \"ca.pem\", server-name = \"www.example.org\"") + "\nexpect-body = \"other\"",
        ),
        up(
            "https-host",
            "172.16.2.11:8443",
            https("ca = \"ca.pem\"") + "\nhost = \"www.example.org:8443\"\nexpect-body = \"welcome\"",
        ),
        up("https-unverified", "172.16.2.11:8443", https("verify = false") + "\nexpect-body = \"other\""),
        down(
            "stranger",
            "172.16.2.11:8443",
            https("ca = \"stranger.pem\", server-name = \"www.example.org\""),
            "tls with 172.16.2.11:8443: invalid peer certificate: UnknownIssuer",
        ),
        down(
            "name",
            "172.16.2.11:8443",
            https("ca = \"ca.pem\", server-name = \"wrong.example.org\""),
            "not valid for name",
        ),
        down("address", "172.16.2.11:8443", https("ca = \"ca.pem\""), "not valid for name"),
        down("no-tls", "172.16.2.11:8081", https("verify = false"), "tls with 172.16.2.11:8081: "),
        up(
            "client",
            "172.16.2.11:8444",
            https(
                "ca = \"ca.pem\", server-name = \"www.example.org\", client-certificate = \"client.pem\", client-key = \"client.key\"",
            ) + "\nexpect-body = \"known\"",
        ),
        down(
            "no-client",
            "172.16.2.11:8444",
            https("ca = \"ca.pem\", server-name = \"www.example.org\""),
            "status 400",
        ),
    ];
    let missing = "[farms.missing]\nlisten = \"172.16.1.1:1999\"\n[farms.missing.backends.b1]\naddress = \"172.16.2.11:8443\"\n\
                   [farms.missing.health]\ntype = \"https\"\ninterval = \"1s\"\ntls = { ca = \"missing.pem\" }\n";
    judge(&mut lab, &cases, missing);
    // What the box itself lacks is no reason to take a backend out.
    let error = wait(&lab, "missing", "b1", "unknown");
    assert!(error.contains("not probed: cannot read") && error.contains("missing.pem"), "{error}");
}

fn is_alive(file: &Path) -> bool {
    let Ok(pid) = std::fs::read_to_string(file) else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.contains("(sleep)") && !stat.contains(") Z ")
}

#[test]
fn programs_are_bounded_in_time_output_and_children() {
    let mut lab = Lab::new("exec").unwrap();
    let (hung, forked) = (lab.root().join("hung"), lab.root().join("forked"));
    let shell = |script: &str| format!("type = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]");
    let named = "test $HEADGATE_FARM/$HEADGATE_BACKEND/$HEADGATE_ADDRESS/$HEADGATE_PORT/$HEADGATE_TIMEOUT_MS = named/b1/172.16.2.11/8080/1000";
    let cases = [
        up("named", "172.16.2.11:8080", shell(named)),
        down(
            "fails",
            "172.16.2.11:80",
            shell("echo first; echo the reason >&2; exit 3"),
            "exec /bin/sh: exit status 3: the reason",
        ),
        down("killed", "172.16.2.11:80", shell("kill -9 $$"), "exec /bin/sh: ended by signal 9"),
        down(
            "hangs",
            "172.16.2.11:80",
            shell(&format!("sleep 1000 & echo $! >{}; sleep 1000", hung.display())),
            "exec /bin/sh: not done within 1s",
        ),
        down("talks", "172.16.2.11:80", shell("while :; do echo and so on; done"), "not done within 1s: and so on"),
        up("forks", "172.16.2.11:80", shell(&format!("sleep 1000 & echo $! >{}", forked.display()))),
    ];
    let missing = "[farms.missing]\nlisten = \"172.16.1.1:1999\"\n[farms.missing.backends.b1]\naddress = \"172.16.2.11:80\"\n\
                   [farms.missing.health]\ntype = \"exec\"\ninterval = \"1s\"\ncommand = [\"/no/such/program\"]\n";
    judge(&mut lab, &cases, missing);
    let error = wait(&lab, "missing", "b1", "unknown");
    assert!(error.contains("exec /no/such/program: cannot start: no such file or directory"), "{error}");
    // Nothing is left of a run, however it ended; nor of those that run when the daemon ends.
    lab.stop().unwrap();
    let until = Instant::now() + PATIENCE;
    while is_alive(&hung) || is_alive(&forked) {
        assert!(Instant::now() < until, "children of checks are left");
        std::thread::sleep(Duration::from_millis(20));
    }
}
