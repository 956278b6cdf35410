//! The API over TLS: tokens, scopes, limits, events, and whatever its own document says can be asked. Needs root; fails without.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use support::WEB;
use support::namespace::Namespace;
use support::requests::{answers_as_told, message, requests};

const LISTEN: &str = "[api]\nlisten = \"127.0.0.1:8443\"\n";
const ADDRESS: &str = "127.0.0.1:8443";

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn tcp(ns: &Namespace, address: &str) -> std::io::Result<TcpStream> {
    let address = address.parse().expect("an address");
    let stream = ns.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// A client that trusts the certificate that the daemon has made, and nothing else.
fn tls(ns: &Namespace) -> Tls {
    let pem = ns.tree.read("var/lib/headgate/api.pem");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.expect("a certificate")).expect("it can be trusted");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    StreamOwned::new(client, tcp(ns, ADDRESS).expect("it listens"))
}

/// Status and body.
#[track_caller]
fn ask(mut stream: impl Read + Write, request: &[u8]) -> (u16, String) {
    // The daemon may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    // It closes without TLS's farewell when it has cut the connection.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), body.to_owned())
}

fn unix(ns: &Namespace) -> UnixStream {
    let stream = UnixStream::connect(ns.tree.path("run/headgate/api.sock")).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    stream
}

fn start(configuration: &str) -> Namespace {
    let ns = Namespace::new(configuration);
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    ns
}

fn token(ns: &Namespace, scope: &str) -> String {
    ns.headgate(&["token", "add", scope, "--scope", scope]).exits(0).out.trim().to_owned()
}

#[test]
fn a_token_reaches_as_far_as_its_scope() {
    let ns = start(&format!("{WEB}{LISTEN}"));
    let _daemon = ns.start();
    ns.wait_for("listener", || tcp(&ns, ADDRESS).is_ok());
    let tokens = ["read", "operate", "configure", "root"].map(|scope| token(&ns, scope));
    let listed = ns.headgate(&["token", "list"]).exits(0).out;
    assert!(listed.lines().count() == 5 && tokens.iter().all(|token| !listed.contains(token)), "{listed}");
    ns.headgate(&["token", "add", "read", "--scope", "root"]).exits(2);
    ns.headgate(&["token", "add", "x y", "--scope", "read"]).exits(2);
    ns.headgate(&["token", "add", "x", "--scope", "everything"]).exits(2);

    let exec = r#"{"health": {"type": "exec", "command": ["/bin/true"]}}"#;
    let backend = "/v1/farms/web/backends/b2";
    // The first scope that may, and what it gets.
    let cases = [
        ("GET", "/v1/status", "", 0, 200),
        ("GET", "/metrics", "", 0, 200),
        ("GET", "/openapi.json", "", 0, 200),
        ("PATCH", backend, r#"{"weight": 4}"#, 1, 200),
        ("PATCH", "/v1/farms/web", r#"{"state": "up"}"#, 1, 200),
        ("DELETE", "/v1/connections?farm=web", "", 1, 200),
        ("PATCH", "/v1/farms/web", r#"{"on-empty": "drop"}"#, 2, 200),
        ("PATCH", "/v1/farms/web/backends/b2?persist=true", r#"{"weight": 5}"#, 2, 200),
        ("POST", "/v1/apply", "", 2, 200),
        ("GET", "/v1/diff?from=running&to=files", "", 2, 200),
        ("POST", "/v1/confirm", "", 2, 409),
        ("GET", "/v1/drop-ins", "", 0, 200),
        ("PUT", "/v1/drop-ins/30-weight", "[farms.web.backends.b2]\nweight = 6\n", 2, 200),
        ("GET", "/v1/drop-ins/30-weight", "", 2, 200),
        ("DELETE", "/v1/drop-ins/30-weight", "", 2, 200),
        ("PUT", "/v1/drop-ins/30-run", "[services.s]\ncommand = [\"/bin/sleep\", \"60\"]\n", 3, 200),
        ("DELETE", "/v1/drop-ins/30-run.toml", "", 3, 200),
        ("GET", "/v1/tokens", "", 3, 200),
        ("POST", "/v1/tokens", r#"{"name": "more", "scope": "read"}"#, 3, 200),
        ("DELETE", "/v1/tokens/more", "", 3, 200),
    ];
    for (method, path, body, first, expected) in cases {
        for (scope, token) in tokens.iter().enumerate() {
            if scope > first && method != "GET" {
                continue;
            }
            let (status, answer) = ask(tls(&ns), &message(method, path, Some(token), body.as_bytes()));
            let expected = if scope < first { 403 } else { expected };
            assert_eq!(status, expected, "{method} {path} with scope {scope}: {answer}");
        }
    }
    let (status, answer) = ask(tls(&ns), &message("PATCH", "/v1/farms/web", Some(&tokens[2]), exec.as_bytes()));
    assert!(status == 403 && answer.contains("this needs the scope root; token configure has configure"), "{answer}");
    let history = ns.headgate(&["history", "--json"]).exits(0).out;
    assert!(history.contains("\"author\": \"token configure\""), "{history}");

    for wrong in [None, Some("x"), Some(&tokens[0][1..]), Some("")] {
        let (status, answer) = ask(tls(&ns), &message("GET", "/v1/status", wrong, b""));
        assert!(status == 401 && answer.contains("\"unauthorized\""), "{answer}");
    }
    ns.headgate(&["token", "remove", "read"]).exits(0);
    ns.headgate(&["token", "remove", "read"]).exits(2);
    assert_eq!(ask(tls(&ns), &message("GET", "/v1/status", Some(&tokens[0]), b"")).0, 401);
    // HTTP in the clear gets nothing.
    let mut clear = tcp(&ns, ADDRESS).expect("it listens");
    let _ = clear.write_all(&message("GET", "/v1/status", Some(&tokens[3]), b""));
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"), "{answer:?}");
}

#[test]
fn stalled_clients_delay_nobody_and_the_certificate_stays() {
    let ns = start(&format!("{WEB}{LISTEN}"));
    let daemon = ns.start();
    ns.wait_for("listener", || tcp(&ns, ADDRESS).is_ok());
    let token = token(&ns, "read");
    let status = message("GET", "/v1/status", Some(&token), b"");
    // Without a handshake, without the end of a head, without a token and with a body that does not come.
    let mut silent = Vec::new();
    let mut unfinished = Vec::new();
    for _ in 0..100 {
        silent.push(tcp(&ns, ADDRESS).expect("it listens"));
    }
    for number in 0..40 {
        let mut stream = tls(&ns);
        let head = if number % 2 == 0 {
            "GET /v1/sta"
        } else {
            "POST /v1/rollback HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        };
        stream.write_all(head.as_bytes()).expect("it takes that");
        unfinished.push(stream);
    }
    assert_eq!(ask(tls(&ns), &status).0, 200);
    drop((silent, unfinished));
    let pem = ns.tree.read("var/lib/headgate/api.pem");
    daemon.kill();
    let _daemon = ns.start();
    ns.wait_for("listener", || tcp(&ns, ADDRESS).is_ok());
    assert_eq!(ns.tree.read("var/lib/headgate/api.pem"), pem);
    assert_eq!(ask(tls(&ns), &status).0, 200, "tokens outlive the daemon");
    // Without [api] nobody listens.
    ns.tree.write("etc/headgate/conf.d/10-farms.toml", WEB);
    ns.headgate(&["apply"]).exits(0);
    ns.wait_for("end", || tcp(&ns, ADDRESS).is_err());
}

#[test]
fn metrics_beyond_loopback_need_a_token() {
    let ns = start(&format!("{WEB}[metrics]\nlisten = \"0.0.0.0:9550\"\n"));
    ns.far_address("cl", "172.16.1.50/24");
    let _daemon = ns.start();
    let token = token(&ns, "read");
    let from_far = || {
        let address = "172.16.1.254:9550".parse().expect("an address");
        ns.at_far(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
    };
    ns.wait_for("listener", || from_far().is_ok());
    let ask_far = |token| ask(from_far().expect("it listens"), &message("GET", "/metrics", token, b""));
    assert_eq!(ask_far(None).0, 401);
    assert_eq!(ask_far(Some("x")).0, 401);
    let (status, page) = ask_far(Some(&token));
    assert!(status == 200 && page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn events_tell_what_happens() {
    let ns = start(WEB);
    let _daemon = ns.start();
    let mut stream = unix(&ns);
    stream.write_all(&message("GET", "/v1/events", None, b"")).expect("it takes that");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("the stream goes on"));
    assert_eq!(lines.next().as_deref(), Some("HTTP/1.1 200 OK"));
    assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line.contains("text/event-stream")));
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    ns.tree.write("etc/headgate/conf.d/20-weight.toml", "[farms.web.backends.b2]\nweight = 8\n");
    ns.headgate(&["apply", "--confirm", "1m"]).exits(0);
    ns.headgate(&["confirm"]).exits(0);
    ns.tree.write("etc/headgate/conf.d/20-weight.toml", "weight = ");
    ns.headgate(&["apply"]).exits(1);
    ns.tree
        .write("etc/headgate/conf.d/20-weight.toml", "[network.routes.r]\nto = \"default\"\nvia = \"198.51.100.1\"\n");
    ns.headgate(&["apply"]).exits(3);
    let mut next = |name: &str| -> Value {
        let event = lines.by_ref().find(|line| line.starts_with("event: ")).expect("an event");
        assert_eq!(event, format!("event: {name}"));
        let data = lines.next().expect("its data");
        serde_json::from_str(data.strip_prefix("data: ").expect("its data")).expect("JSON")
    };
    let drained = next("backend");
    assert_eq!(
        (&drained["farm"], &drained["backend"], &drained["state"]),
        (&json!("web"), &json!("b1"), &json!("drain"))
    );
    let applied = next("applied");
    assert_eq!((&applied["generation"], &applied["reason"]), (&json!(2), &json!("apply")));
    assert!(applied["trial-seconds"].as_u64().is_some_and(|left| left > 0), "{applied}");
    assert_eq!(next("confirmed")["generation"], json!(2));
    assert_eq!(next("refused")["message"], json!("the configuration is invalid"));
    assert!(next("refused")["message"].as_str().is_some_and(|text| text.contains("add route default")));
}

#[test]
fn events_and_status_tell_when_checks_turn() {
    let ns = start(&WEB.replace("172.16.2.12", "172.16.2.11"));
    ns.far_address("be", "172.16.2.11/24");
    ns.tree.write(
        "etc/headgate/conf.d/20-health.toml",
        "[farms.web.health]\ntype = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\n",
    );
    let serve = || ns.at_far(|| std::net::TcpListener::bind("172.16.2.11:8080")).expect("a port");
    let server = serve();
    let _daemon = ns.start();
    let mut stream = unix(&ns);
    stream.write_all(&message("GET", "/v1/events", None, b"")).expect("it takes that");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("the stream goes on"));
    assert_eq!(lines.next().as_deref(), Some("HTTP/1.1 200 OK"));
    let mut turns = |state: &str| {
        let mut both = [(); 2].map(|()| {
            let event = lines.by_ref().find(|line| line.starts_with("event: ")).expect("an event");
            assert_eq!(event, "event: health");
            let data = lines.next().expect("its data");
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("its data")).expect("JSON");
            assert_eq!((&data["farm"], &data["state"]), (&json!("web"), &json!(state)));
            data["backend"].as_str().expect("a name").to_owned()
        });
        both.sort();
        assert_eq!(both, ["b1", "b2"]);
    };
    drop(server);
    turns("down");
    let status = ns.headgate(&["status"]).exits(5).out;
    let told =
        |line: &str| line.contains("web   b1") && line.contains("unhealthy for ") && line.contains("mend the server");
    assert!(status.contains("WHAT TO DO") && status.lines().any(told), "{status}");
    assert!(!status.contains('\u{1b}'), "colours in a pipe: {status:?}");
    let _server = serve();
    turns("up");
    ns.headgate(&["backend", "down", "web", "b2"]).exits(0);
    let status = ns.headgate(&["status"]).exits(5).out;
    assert!(status.contains("headgate backend up web b2"), "{status}");
}

/// How long the farm is as it is, and the faults, worst first, with their age.
fn ages(ns: &Namespace) -> (u64, Vec<(String, u64)>) {
    let status: Value = serde_json::from_str(&ns.headgate(&["status", "--json"]).out).expect("JSON");
    let age = |value: &Value| value["since-ms"].as_u64().expect("an age");
    let faults = status["faults"].as_array().expect("a list").iter();
    let faults = faults.map(|fault| (fault["subject"].as_str().expect("a subject").to_owned(), age(fault))).collect();
    (age(&status["farms"][0]), faults)
}

#[test]
fn faults_keep_their_age_over_a_restart_and_lose_it_when_they_end() {
    let ns = start(WEB);
    let daemon = ns.start();
    let (serving, faults) = ages(&ns);
    assert_eq!(faults, []);
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    ns.wait_for("some age", || ages(&ns).0 >= 1500);
    assert!(ages(&ns).1.iter().map(|(subject, _)| subject.as_str()).eq(["farm web", "backend b1 of web"]), "{serving}");
    daemon.kill();
    let _daemon = ns.start();
    let (farm, faults) = ages(&ns);
    assert!(farm >= 1500 && faults.iter().all(|(_, age)| *age >= 1000), "{farm} {faults:?}");
    let told = ns.headgate(&["status"]).exits(5).out;
    assert!(told.lines().any(|line| line.starts_with("web ") && line.contains("degraded")), "{told}");
    ns.headgate(&["backend", "up", "web", "b1"]).exits(0);
    let (fresh, faults) = ages(&ns);
    assert!(fresh < farm && faults.is_empty(), "{fresh} after {farm}, {faults:?}");
    ns.headgate(&["backend", "drain", "web", "b1"]).exits(0);
    assert!(ages(&ns).0 < farm);
}

#[test]
fn other_sites_get_nothing_over_the_socket_and_the_console_needs_no_token() {
    let ns = start(&format!("{WEB}{LISTEN}"));
    let _daemon = ns.start();
    ns.wait_for("listener", || tcp(&ns, ADDRESS).is_ok());
    let request = |method: &str, path: &str, lines: &str| {
        format!("{method} {path} HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n").into_bytes()
    };
    for (lines, expected) in [
        ("host: localhost:8080\r\n", 200),
        ("host: localhost:8080\r\nsec-fetch-site: same-origin\r\norigin: http://localhost:8080\r\n", 200),
        ("host: rebound.example\r\n", 403),
        ("host: localhost:8080\r\nsec-fetch-site: cross-site\r\n", 403),
        ("host: localhost:8080\r\norigin: null\r\n", 403),
    ] {
        for (method, path) in [("GET", "/"), ("GET", "/v1/self"), ("POST", "/v1/apply")] {
            let (status, body) = ask(unix(&ns), &request(method, path, lines));
            assert_eq!(status, expected, "{method} {path} {lines}: {body}");
        }
    }
    let (status, page) = ask(tls(&ns), &message("GET", "/", None, b""));
    assert!(status == 200 && page.starts_with("<!doctype html>") && !page.contains("172.16"), "{page}");
    let (status, answer) = ask(tls(&ns), &message("GET", "/v1/self", Some(&token(&ns, "read")), b""));
    assert!(status == 200 && answer.contains("\"name\":\"token read\",\"scope\":\"read\""), "{answer}");
    for path in ["/v1/self", "/v1/load", "/console", "/favicon.ico"] {
        assert_eq!(ask(tls(&ns), &message("GET", path, None, b"")).0, 401, "{path}");
    }
    assert_eq!(ask(tls(&ns), &message("POST", "/", None, b"")).0, 405);
}

/// What a fuzzer makes of the daemon's own document: no request breaks it, every answer is what the document says, and what
/// is refused leaves the data plane alone.
#[test]
fn no_request_that_the_document_allows_or_forbids_breaks_the_daemon() {
    let ns = start(WEB);
    let daemon = ns.start();
    let (status, document) = ask(unix(&ns), &message("GET", "/openapi.json", None, b""));
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    let state = &mut 5;
    let mut answers = 0;
    for (path, methods) in paths.iter().filter(|(path, _)| *path != "/v1/events") {
        for (method, operation) in methods.as_object().expect("methods") {
            // Whatever was changed at run time goes, farm web comes back.
            let _ = std::fs::remove_file(ns.tree.path("run/headgate/runtime.toml"));
            assert_eq!(ask(unix(&ns), &message("POST", "/v1/apply", None, b"")).0, 200);
            for request in requests(path, method, operation, state) {
                let shown = String::from_utf8_lossy(&request).chars().take(300).collect::<String>();
                let (status, body) = ask(unix(&ns), &request);
                answers += 1;
                if status == 200 {
                    answers_as_told(&document, operation, &body)
                        .unwrap_or_else(|error| panic!("{error}\n{shown}\n{body}"));
                    continue;
                }
                assert!([400, 404, 409, 413, 422].contains(&status), "{status}\n{shown}\n{body}");
                let error: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{shown}\n{body}"));
                assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{error}");
            }
        }
    }
    assert!(answers > 200, "{answers}");
    ns.wait_for("end of every trial", || !ns.headgate(&["status"]).out.contains("is on trial"));
    ns.headgate(&["apply"]).exits(0);
    ns.headgate(&["plan"]).exits(0);
    assert_eq!(daemon.terminate(), Some(0), "it is the one that was started");
}

#[test]
fn an_address_that_is_taken_is_told() {
    let ns = start(&format!("{WEB}{LISTEN}"));
    let taken = ns.within(|| TcpListener::bind(ADDRESS)).expect("it is free");
    let _daemon = ns.start();
    ns.wait_for("word of it", || ns.headgate(&["status"]).out.contains("api: cannot listen on 127.0.0.1:8443"));
    drop(taken);
    ns.wait_for("listener", || !ns.headgate(&["status"]).out.contains("api: cannot listen"));
}
