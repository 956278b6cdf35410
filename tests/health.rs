//! Health checks with real packets: each type against a real server, and traffic that follows what they say.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headgate_image::netns::Namespace;
use headgate_tests::lab::{BACKENDS, Lab, backend, backend6};
use headgate_tests::server::{Connection, Server, Talk};
use serde_json::Value;

const VIP: &str = "172.16.1.1:80";
/// Far longer than anything here takes on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `headgate farm list --json` says, when the daemon answers.
fn farms(lab: &Lab) -> Vec<Value> {
    let said = lab.headgate_ok(&["farm", "list", "--json"]).unwrap();
    serde_json::from_str(&said).unwrap()
}

fn of_backend<'a>(farms: &'a [Value], farm: &str, backend: &str) -> &'a Value {
    let farm = farms.iter().find(|found| found["name"] == farm).unwrap_or(&Value::Null);
    let backends = farm["backends"].as_array().map_or(&[][..], Vec::as_slice);
    backends.iter().find(|found| found["name"] == backend).unwrap_or(&Value::Null)
}

/// The health of a backend in one word, and what its last probe met.
fn health(lab: &Lab, farm: &str, backend: &str) -> (String, String) {
    let farms = farms(lab);
    let health = &of_backend(&farms, farm, backend)["health"];
    (health["state"].as_str().unwrap_or("?").to_owned(), health["error"].as_str().unwrap_or_default().to_owned())
}

fn wait(lab: &Lab, farm: &str, backend: &str, state: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let (found, error) = health(lab, farm, backend);
        if found == state {
            return error;
        }
        assert!(Instant::now() < until, "{farm}/{backend} is {found} ({error}), not {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A thread that serves until it is dropped.
struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Does the same with each connection, in a thread of its own, and then drops it.
fn tcp(space: &Namespace, address: SocketAddr, act: fn(TcpStream)) -> Serving {
    let listener = space.within(|| TcpListener::bind(address)).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    std::thread::spawn(move || act(stream));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    Serving { stop, thread: Some(thread) }
}

/// Answers each datagram with what `answer` makes of it.
fn udp(space: &Namespace, address: SocketAddr, answer: fn(&[u8]) -> Option<Vec<u8>>) -> Serving {
    let socket = space.within(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut question = [0; 2048];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut question)
                && let Some(answer) = answer(&question[..length])
            {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Serving { stop, thread: Some(thread) }
}

/// A name server that knows one address of everything but of what begins with `nx`.
fn name_server(question: &[u8]) -> Option<Vec<u8>> {
    let unknown = question.get(13..15) == Some(b"nx");
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(if unknown { &[0x81, 0x83] } else { &[0x81, 0x80] });
    if !unknown {
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}

/// What somebody who does not speak HTTP well answers, for as long as somebody listens.
fn endless(head: &str, piece: &str, pause: Duration, stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(head.as_bytes());
    while stream.write_all(piece.as_bytes()).is_ok() {
        std::thread::sleep(pause);
    }
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let words = arguments.split_whitespace();
    let output = Command::new("openssl").args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, and certificates of the first one.
fn certificates(directory: &Path) {
    for authority in ["ca", "stranger"] {
        openssl(
            directory,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN={authority} \
                 -addext keyUsage=keyCertSign -keyout {authority}.key -out {authority}.pem"
            ),
        );
    }
    for name in ["www.example.org", "other.example.org", "client"] {
        openssl(
            directory,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ),
        );
        std::fs::write(directory.join("extensions"), format!("subjectAltName=DNS:{name}\n")).unwrap();
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out {name}.pem"
            ),
        );
    }
}

const NGINX: &str = r#"daemon off; user root; worker_processes 1; pid nginx.pid; error_log error.log; events {}
http {
    access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 172.16.2.11:8081; listen [2001:db8:2::11]:8081;
        location = /healthz { return 200 "all is well\n"; }
        location = /moved { return 301 /healthz; }
        location = /bad { return 500; }
        location = /mine { if ($host != www.example.org) { return 404; } if ($http_x_probe != yes) { return 403; } return 204; }
        location = /head { if ($request_method != HEAD) { return 405; } return 200; }
    }
    server { listen 172.16.2.11:8443 ssl default_server; ssl_certificate other.example.org.pem; ssl_certificate_key other.example.org.key; return 200 other; }
    server { listen 172.16.2.11:8443 ssl; server_name www.example.org; ssl_certificate www.example.org.pem; ssl_certificate_key www.example.org.key; return 200 welcome; }
    server {
        listen 172.16.2.11:8444 ssl; ssl_certificate www.example.org.pem; ssl_certificate_key www.example.org.key;
        ssl_client_certificate ca.pem; ssl_verify_client on; return 200 known;
    }
}
"#;

/// Plain at 8081, TLS at 8443 (two names), TLS for clients with a certificate at 8444.
fn nginx(lab: &Lab, directory: &Path) -> Nginx {
    std::fs::write(directory.join("nginx.conf"), NGINX).unwrap();
    let mut command = lab.backends.command("nginx");
    command.arg("-p").arg(directory).arg("-c").arg("nginx.conf").arg("-e").arg("error.log");
    let child = Nginx(command.spawn().unwrap());
    let until = Instant::now() + PATIENCE;
    while Connection::probe(&lab.backends, backend(11, 8444)).is_err() {
        assert!(Instant::now() < until, "nginx does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

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

/// A farm of three backends with a check of 200 ms.
fn three(extra: &str) -> String {
    let mut text = format!(
        "[farms.web]\nlisten = [\"{VIP}\", \"172.16.1.1:80/udp\"]\n{extra}\n\
         [farms.web.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n"
    );
    for number in BACKENDS {
        text += &format!("[farms.web.backends.b{number}]\naddress = \"{}\"\n", backend(number, 8080));
    }
    text
}

fn serve(lab: &Lab, number: u8) -> Server {
    Server::start(&lab.backends, &format!("b{number}"), backend(number, 8080)).unwrap()
}

/// Who answers so many requests; `None` stands for a refusal.
fn answers(lab: &Lab, count: usize) -> BTreeSet<Option<String>> {
    let ask = |_| Connection::open(&lab.client, VIP.parse().unwrap()).unwrap().ok().map(|open| open.answer.server);
    (0..count).map(ask).collect()
}

fn named(numbers: &[u8]) -> BTreeSet<Option<String>> {
    numbers.iter().map(|number| Some(format!("b{number}"))).collect()
}

/// Waits until just these answer.
fn until_answer(lab: &Lab, numbers: &[u8]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = answers(lab, 6);
        if found == named(numbers) {
            return;
        }
        assert!(Instant::now() < until, "{found:?} answer, not {numbers:?}");
    }
}

#[test]
fn traffic_follows_the_checks() {
    let mut lab = Lab::new("follow").unwrap();
    let (first, second) = (serve(&lab, 11), serve(&lab, 12));
    lab.configure(&three("")).unwrap();
    lab.start().unwrap();
    let error = wait(&lab, "web", "b13", "down");
    assert_eq!(error, "tcp connect to 172.16.2.13:8080: connection refused");
    until_answer(&lab, &[11, 12]);
    let status = lab.headgate(&["status"]).unwrap();
    assert_eq!(status.status.code(), Some(5));
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("unhealthy for ") && status.contains(&error), "{status}");
    let shown = lab.headgate_ok(&["farm", "show", "web"]).unwrap();
    assert!(shown.contains("LAST ERROR") && shown.contains(&error), "{shown}");
    // It is started, and serves.
    let third = serve(&lab, 13);
    until_answer(&lab, &[11, 12, 13]);
    // Datagrams of a client leave a backend that goes down.
    let talk = Talk::open(&lab.client, VIP.parse().unwrap()).unwrap();
    let mut servers = [Some(first), Some(second), Some(third)];
    let at: u8 = talk.ask().unwrap().server[1..].parse().unwrap();
    servers[usize::from(at - 11)] = None;
    let until = Instant::now() + PATIENCE;
    while talk.ask().is_ok_and(|answer| answer.server == format!("b{at}")) || talk.ask().is_err() {
        assert!(Instant::now() < until, "the datagrams stay with a backend that is down");
    }
    wait(&lab, "web", &format!("b{at}"), "down");
    // The operator's word wins, and has to be taken back.
    servers[usize::from(at - 11)] = Some(serve(&lab, at));
    wait(&lab, "web", &format!("b{at}"), "up");
    lab.headgate_ok(&["backend", "drain", "web", &format!("b{at}")]).unwrap();
    let others: Vec<u8> = BACKENDS.into_iter().filter(|number| *number != at).collect();
    until_answer(&lab, &others);
    lab.headgate_ok(&["backend", "up", "web", &format!("b{at}")]).unwrap();
    until_answer(&lab, &BACKENDS);
    // Nobody is left, and then somebody is.
    drop(servers);
    for number in BACKENDS {
        wait(&lab, "web", &format!("b{number}"), "down");
    }
    let refused = Connection::open(&lab.client, VIP.parse().unwrap()).unwrap().expect_err("nobody is left");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let _server = serve(&lab, 12);
    let until = Instant::now() + PATIENCE;
    while answers(&lab, 1) != named(&[12]) {
        assert!(Instant::now() < until, "the first one back does not serve");
    }
    // What is in the kernel is what was planned.
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(0));
}

#[test]
fn spares_take_over_and_hand_back() {
    let mut lab = Lab::new("spare").unwrap();
    let [first, _second, _third] = BACKENDS.map(|number| serve(&lab, number));
    let text = three("") + "priority = 2\n";
    let text = text.replace("[farms.web.backends.b12]\n", "[farms.web.backends.b12]\npriority = 2\n");
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    until_answer(&lab, &[11]);
    drop(first);
    until_answer(&lab, &[12, 13]);
    let _first = serve(&lab, 11);
    until_answer(&lab, &[11]);
}

#[test]
fn a_backend_that_was_down_stays_out_over_a_crash() {
    let mut lab = Lab::new("crash").unwrap();
    let _servers = [serve(&lab, 11), serve(&lab, 12)];
    lab.configure(&three("").replace("200ms", "1s")).unwrap();
    lab.start().unwrap();
    let error = wait(&lab, "web", "b13", "down");
    until_answer(&lab, &[11, 12]);
    lab.crash().unwrap();
    // It answers again, and nobody has probed that.
    let _third = serve(&lab, 13);
    assert_eq!(answers(&lab, 9), named(&[11, 12]));
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(0), "the plan knows who is down");
    let once = lab.headgated(&["--once"]).unwrap();
    let said = String::from_utf8_lossy(&once.stderr).into_owned();
    assert!(once.status.success() && said.contains("health checks need headgated to run"), "{said}");
    assert_eq!(answers(&lab, 9), named(&[11, 12]));
    lab.start().unwrap();
    let farms = farms(&lab);
    let found = &of_backend(&farms, "web", "b13")["health"];
    // Unless the machine is so slow that two probes have passed already.
    if found["state"] == "down" {
        assert!(
            found["since-ms"].as_u64().unwrap() > 0 && [Value::Null, error.into()].contains(&found["error"]),
            "{found}"
        );
    }
    until_answer(&lab, &BACKENDS);
    let log = std::fs::read_to_string(lab.log()).unwrap();
    let turns = |what: &str| log.lines().filter(|line| line.contains(what) && line.contains("b13")).count();
    assert_eq!((turns("the backend is down"), turns("the backend is up")), (1, 1), "{log}");
}

#[test]
fn whoever_comes_and_goes_has_to_pass_more_probes_each_time() {
    let mut lab = Lab::new("flap").unwrap();
    let switch = lab.root().join("switch");
    let command = format!("type = \"exec\"\ncommand = [\"/usr/bin/test\", \"-e\", \"{}\"]\n", switch.display());
    let text = three("").replace("rise = 2\nfall = 2\n", &format!("rise = 1\nfall = 1\n{command}"));
    std::fs::write(&switch, "").unwrap();
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    wait(&lab, "web", "b11", "up");
    for rise in [1, 2, 4] {
        std::fs::remove_file(&switch).unwrap();
        wait(&lab, "web", "b11", "down");
        let farms = farms(&lab);
        assert_eq!(of_backend(&farms, "web", "b11")["health"]["rise"], rise);
        std::fs::write(&switch, "").unwrap();
        wait(&lab, "web", "b11", "up");
    }
}

#[test]
fn every_mode_and_route_is_probed_as_its_flows_go() {
    let mut lab = Lab::new("modes").unwrap();
    let _servers = [serve(&lab, 11), Server::start(&lab.backends, "b80", backend(11, 80)).unwrap()];
    lab.gate.ip(&["address", "add", "172.16.2.9/24", "dev", "backend"]).unwrap();
    lab.gate.ip(&["rule", "add", "fwmark", "16", "table", "100"]).unwrap();
    lab.gate.ip(&["route", "add", "unreachable", "default", "table", "100"]).unwrap();
    let mut text = String::new();
    for (farm, port, extra, health) in [
        ("dnat", 1, "mode = \"dnat\"", "expect-body = \"172.16.2.1\""),
        // The answer to a probe is not rewritten as those to clients are.
        ("stateless", 2, "mode = \"stateless\"\nscheduler = \"maglev\"", "expect-body = \"172.16.2.1\""),
        ("dsr", 8080, "mode = \"dsr\"", "type = \"tcp\""),
        ("source", 4, "mode = \"snat\"", "source-address = \"172.16.2.9\"\nexpect-body = \"172.16.2.9\""),
        ("marked", 5, "mark = 16", "type = \"tcp\""),
    ] {
        let address = match farm {
            "dsr" => "172.16.2.11".to_owned(),
            "stateless" => backend(11, 80).to_string(),
            _ => backend(11, 8080).to_string(),
        };
        text += &format!(
            "[farms.{farm}]\nlisten = \"172.16.1.1:{port}\"\n{extra}\n[farms.{farm}.backends.b1]\naddress = \"{address}\"\n\
             [farms.{farm}.health]\ninterval = \"1s\"\n{health}\n"
        );
    }
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    for farm in ["dnat", "stateless", "dsr", "source"] {
        wait(&lab, farm, "b1", "up");
    }
    let error = wait(&lab, "marked", "b1", "down");
    assert!(error.starts_with("tcp connect to 172.16.2.11:8080: no route to host"), "{error}");
    // A source that the box does not have says nothing about the backend.
    lab.gate.ip(&["address", "del", "172.16.2.9/24", "dev", "backend"]).unwrap();
    let until = Instant::now() + PATIENCE;
    while !health(&lab, "source", "b1").1.contains("not probed: cannot probe from 172.16.2.9") {
        assert!(Instant::now() < until, "{:?}", health(&lab, "source", "b1"));
    }
    assert_eq!(health(&lab, "source", "b1").0, "up");
}

#[test]
fn checks_follow_the_configuration() {
    let mut lab = Lab::new("change").unwrap();
    let _servers = [serve(&lab, 11), serve(&lab, 12)];
    let mut text = three("");
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    wait(&lab, "web", "b13", "down");
    wait(&lab, "web", "b11", "up");
    // How often it is asked does not change what is known; what is asked, and of whom, may.
    text = text.replace("interval = \"200ms\"", "interval = \"300ms\"");
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    assert_eq!(health(&lab, "web", "b13").0, "down");
    text = text.replace("172.16.2.13:8080", "172.16.2.12:8080");
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait(&lab, "web", "b13", "up");
    until_answer(&lab, &[11, 12]);
    // Without a check nobody is down by it.
    text = text.replace("172.16.2.12:8080", "172.16.2.13:8080");
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait(&lab, "web", "b13", "down");
    lab.configure(&text.replace("interval = \"300ms\"", "type = \"none\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    let found = farms(&lab);
    let found = of_backend(&found, "web", "b13");
    assert_eq!((&found["health"], &found["standing"]), (&Value::Null, &Value::from("serving")));
    lab.configure(&text).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    wait(&lab, "web", "b13", "down");
    // Backends and farms come and go while they are probed.
    for round in 0..10 {
        let port = 9000 + round;
        lab.headgate_ok(&[
            "farm",
            "add",
            "more",
            "--listen",
            &format!("172.16.1.1:{port}"),
            "--backend",
            "172.16.2.13:1",
        ])
        .unwrap();
        lab.headgate_ok(&["farm", "set", "more", "health.interval=100ms", "health.timeout=100ms"]).unwrap();
        wait(&lab, "more", "b1", "down");
        lab.headgate_ok(&["farm", "remove", "more"]).unwrap();
    }
    assert_eq!(farms(&lab).len(), 1);
    assert_eq!(lab.headgate(&["plan"]).unwrap().status.code(), Some(0));
}

#[test]
fn flows_without_an_answer_have_their_backend_probed_at_once() {
    let mut lab = Lab::new("signs").unwrap();
    let [first, second, _third] = BACKENDS.map(|number| serve(&lab, number));
    // Nobody is probed again by the clock while this runs.
    lab.configure(&three("").replace("interval = \"200ms\"", "interval = \"10m\"")).unwrap();
    lab.backends.run("nft add table ip silence").unwrap();
    lab.backends.run("nft add chain ip silence input { type filter hook input priority 0 ; }").unwrap();
    lab.start().unwrap();
    for number in BACKENDS {
        wait(&lab, "web", &format!("b{number}"), "up");
    }
    let try_until_down = |number: u8| {
        let until = Instant::now() + PATIENCE;
        while health(&lab, "web", &format!("b{number}")).0 != "down" {
            assert!(Instant::now() < until, "nobody suspects b{number}");
            std::thread::scope(|scope| {
                for _ in 0..9 {
                    scope.spawn(|| {
                        lab.client
                            .within(|| TcpStream::connect_timeout(&VIP.parse().unwrap(), Duration::from_millis(300)))
                    });
                }
            });
        }
    };
    // Resets.
    drop(first);
    try_until_down(11);
    // Silence.
    lab.backends.run("nft add rule ip silence input ip daddr 172.16.2.12 drop").unwrap();
    try_until_down(12);
    assert_eq!(health(&lab, "web", "b13").0, "up");
    drop(second);
}

/// 40 farms of 50 backends, one check a second for each; one in twenty never answers.
#[test]
fn two_thousand_checks_keep_their_time() {
    const FARMS: u16 = 40;
    const EACH: u16 = 50;
    let mut lab = Lab::new("crowd").unwrap();
    let _serving: Vec<Serving> =
        BACKENDS.iter().map(|&number| tcp(&lab.backends, backend(number, 8080), |_| ())).collect();
    // Silence, and not an error.
    lab.backends.run("nft add table ip silence").unwrap();
    lab.backends.run("nft add chain ip silence input { type filter hook input priority 0 ; }").unwrap();
    lab.backends.run("nft add rule ip silence input tcp dport 9 drop").unwrap();
    let mut text = String::from("[defaults.farm.health]\ninterval = \"1s\"\ntimeout = \"1s\"\n");
    for farm in 0..FARMS {
        text += &format!("[farms.f{farm}]\nlisten = \"172.16.1.1:{}\"\n", 1000 + farm);
        for index in 0..EACH {
            let port = if index % 20 == 7 { 9 } else { 8080 };
            let number = BACKENDS[usize::from(index) % BACKENDS.len()];
            text += &format!("[farms.f{farm}.backends.b{index}]\naddress = \"{}\"\n", backend(number, port));
        }
    }
    lab.configure(&text).unwrap();
    lab.start().unwrap();
    let count = |lab: &Lab| -> Vec<(bool, u64, u64)> {
        let farms = farms(lab);
        let backends = farms.iter().flat_map(|farm| farm["backends"].as_array().unwrap());
        let told = backends.map(|backend| {
            let silent = backend["address"].as_str().unwrap().ends_with(":9");
            let health = &backend["health"];
            (silent, health["probes"].as_u64().unwrap_or(0), health["failures"].as_u64().unwrap_or(0))
        });
        told.collect()
    };
    let until = Instant::now() + PATIENCE;
    while count(&lab).iter().any(|(_, probes, _)| *probes < 2) {
        assert!(Instant::now() < until, "not all are probed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (before, begun) = (count(&lab), Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let (after, most) = (count(&lab), begun.elapsed().as_secs() + 2);
    assert_eq!(after.len(), usize::from(FARMS * EACH));
    let mut probes = 0;
    for ((silent, first, _), (_, last, failures)) in before.into_iter().zip(after) {
        // The machine may be busy with something else; yet nobody is left behind, and nobody is asked more often.
        assert!((2..=most).contains(&(last - first)), "{} probes in {:?}", last - first, begun.elapsed());
        assert_eq!(silent, failures == last, "{failures} of {last} failed");
        probes += last - first;
    }
    println!("{probes} probes of {} in {:?}", u64::from(FARMS * EACH) * 6, begun.elapsed());
}
