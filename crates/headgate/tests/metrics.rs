//! `GET /metrics`, read by a parser that takes nothing but OpenMetrics. Needs root; fails without.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::WEB;
use support::namespace::Namespace;
use support::openmetrics::{Sample, parse};

const REQUEST: &str = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
const LISTEN: &str = "[metrics]\nlisten = \"127.0.0.1:9550\"\ntraffic = \"bytes\"\n";

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and closes");
    answer
}

/// The samples of an answer with the right head.
#[track_caller]
fn samples(answer: &str) -> Vec<Sample> {
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    parse(page).unwrap_or_else(|error| panic!("{error}\n{page}"))
}

fn by_socket(ns: &Namespace) -> Vec<Sample> {
    let stream = UnixStream::connect(ns.tree.path("run/headgate/api.sock")).expect("it listens");
    samples(&exchange(stream, REQUEST))
}

fn by_tcp(ns: &Namespace, request: &str) -> Option<String> {
    let address = "127.0.0.1:9550".parse().expect("an address");
    let stream = ns.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5))).ok()?;
    Some(exchange(stream, request))
}

#[track_caller]
fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    let found = samples.iter().find(|sample| sample.name == name && sample.labels == labels);
    found.unwrap_or_else(|| panic!("no {name} {labels:?} in {samples:#?}")).value
}

#[test]
fn the_page_says_what_the_status_says() {
    let ns = Namespace::new(&format!("{WEB}{LISTEN}"));
    ns.far_address("cl", "172.16.1.50/24");
    ns.far_address("be", "172.16.2.11/24");
    ns.tree.write(
        "etc/headgate/conf.d/30-services.toml",
        "[services.sleeper]\ncommand = [\"/bin/sleep\", \"1000\"]\n[services.broken]\ncommand = [\"/nonexistent\"]\n",
    );
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    let _daemon = ns.start();
    ns.headgate(&["backend", "down", "web", "b2"]).exits(0);
    let listener = ns.at_far(|| TcpListener::bind("172.16.2.11:8080")).expect("the address is there");
    let service = "172.16.1.1:80".parse().expect("an address");
    let client = ns.at_far(|| TcpStream::connect_timeout(&service, Duration::from_secs(10))).expect("the farm answers");
    let server = listener.accept().expect("a client");
    ns.wait_for("service", || {
        value(&by_socket(&ns), "headgate_service_up", &[("service", "sleeper"), ("state", "up")]) == 1.0
    });
    // A page is kept for a second.
    ns.wait_for("new flow", || {
        value(&by_socket(&ns), "headgate_backend_new_flows_total", &[("farm", "web"), ("backend", "b1")]) == 1.0
    });
    let page = by_socket(&ns);
    let b1 = [("farm", "web"), ("backend", "b1")];
    assert_eq!(value(&page, "headgate_farm_up", &[("farm", "web"), ("mode", "snat")]), 1.0);
    assert_eq!(value(&page, "headgate_farms", &[("health", "degraded")]), 1.0);
    assert_eq!(value(&page, "headgate_farm_backends", &[("farm", "web")]), 2.0);
    assert_eq!(value(&page, "headgate_farm_usable_backends", &[("farm", "web")]), 1.0);
    assert_eq!(value(&page, "headgate_backend_up", &[b1[0], b1[1], ("state", "serving")]), 1.0);
    assert_eq!(value(&page, "headgate_backend_up", &[b1[0], ("backend", "b2"), ("state", "down")]), 0.0);
    assert_eq!(value(&page, "headgate_backend_weight", &[b1[0], ("backend", "b2")]), 3.0);
    assert_eq!(value(&page, "headgate_backend_flows", &b1), 1.0);
    assert!(value(&page, "headgate_backend_packets_total", &b1) >= 3.0);
    assert!(value(&page, "headgate_backend_bytes_total", &b1) >= 120.0);
    assert_eq!(value(&page, "headgate_config_generation", &[]), 1.0);
    assert_eq!(value(&page, "headgate_config_applies_total", &[("outcome", "applied")]), 1.0);
    assert_eq!(value(&page, "headgate_config_apply_duration_seconds_count", &[]), 1.0);
    assert!(value(&page, "headgate_conntrack_entries", &[]) >= 1.0);
    assert!(value(&page, "headgate_conntrack_entries_limit", &[]) > 0.0);
    assert!(value(&page, "process_resident_memory_bytes", &[]) > 1e6);
    assert!(value(&page, "process_start_time_seconds", &[]) > 1e9);
    assert!(page.iter().any(|sample| sample.name == "headgate_service_up" && sample.value == 0.0), "{page:#?}");

    // The same by TCP, and nothing else there.
    let names = |samples: &[Sample]| samples.iter().map(|sample| sample.name.clone()).collect::<BTreeSet<String>>();
    assert_eq!(names(&samples(&by_tcp(&ns, REQUEST).expect("it listens"))), names(&page));
    for path in ["/", "/v1/status", "/v1/farms", "/metrics/x", "/metrics"] {
        let method = if path == "/metrics" { "DELETE" } else { "GET" };
        let answer = by_tcp(&ns, &format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n")).expect("it listens");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    drop((client, server));
}

#[test]
fn the_address_follows_the_configuration_and_stalled_clients_keep_nobody_out() {
    let ns = Namespace::new(WEB);
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    let _daemon = ns.start();
    assert!(by_tcp(&ns, REQUEST).is_none());
    ns.tree.write("etc/headgate/conf.d/20-metrics.toml", LISTEN);
    ns.headgate(&["apply"]).exits(0);
    ns.wait_for("listener", || by_tcp(&ns, REQUEST).is_some());
    let address = "127.0.0.1:9550".parse().expect("an address");
    let stalled: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream =
                ns.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5))).expect("it listens");
            let _ = stream.write_all(b"GET /met");
            stream
        })
        .collect();
    samples(&by_tcp(&ns, REQUEST).expect("there is room for one more"));
    drop(stalled);
    let large = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    // It answers 431 and closes before it has read everything, or just closes.
    let stream = ns.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(5))).expect("it listens");
    let (mut stream, mut answer) = (stream, Vec::new());
    let _ = stream.write_all(large.as_bytes());
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "a head of 64 KiB was taken");

    // An address of nobody is told, and waited for.
    ns.tree.write("etc/headgate/conf.d/20-metrics.toml", "[metrics]\nlisten = \"127.0.0.1:22\"\n");
    let taken = ns.within(|| TcpListener::bind("127.0.0.1:22")).expect("it is free");
    ns.headgate(&["apply"]).exits(0);
    ns.wait_for("word of it", || ns.headgate(&["status"]).out.contains("metrics: cannot listen on 127.0.0.1:22"));
    assert!(by_tcp(&ns, REQUEST).is_none(), "the address before is free again");
    drop(taken);
    ns.wait_for("listener", || !ns.headgate(&["status"]).out.contains("metrics: cannot listen"));
}

/// Names that a text uses as metrics.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("headgate_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[test]
fn documents_rules_and_dashboard_name_what_is_there_and_the_documents_name_all_of_it() {
    let farm = format!(
        "{WEB}{LISTEN}[farms.web.limits]\nconnections-per-client = 100\n[services.sleeper]\ncommand = [\"/bin/sleep\", \"1000\"]\n"
    );
    let ns = Namespace::new(&farm);
    ns.tree.write(
        "etc/headgate/conf.d/20-system.toml",
        "[system]\nntp-servers = [\"127.0.0.1\"]\nsyslog = \"udp://127.0.0.1:514\"\n",
    );
    ns.run("ip", &["link", "set", "lo", "up"]).exits(0);
    let _daemon = ns.start();
    let mut names = BTreeSet::new();
    ns.wait_for("service", || {
        names = by_socket(&ns).into_iter().map(|sample| sample.name).collect();
        names.contains("headgate_service_up")
    });
    // There is no NIC here, nobody needs many ports and nobody says what time it is; tests/capacity.rs, the guest's cards and
    // tests/clock.rs have them.
    names.extend(
        [
            "headgate_nic_missed_packets_total",
            "headgate_nic_errors_total",
            "headgate_snat_ports_used",
            "headgate_clock_offset_seconds",
        ]
        .map(str::to_owned),
    );
    let docs = |file: &str| {
        let path = format!("{}/../../docs/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("it is there")
    };
    for file in ["monitoring/alerts.yaml", "monitoring/dashboard.json"] {
        let unknown: Vec<String> = used(&docs(file)).into_iter().filter(|name| !names.contains(name)).collect();
        assert_eq!(unknown, [""; 0], "{file} uses what is not there");
    }
    let histogram = |name: &String| {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        base.filter(|base| base.ends_with("_duration_seconds")).unwrap_or(name).to_owned()
    };
    let told: BTreeSet<String> = names.iter().map(histogram).collect();
    let unknown: Vec<String> = used(&docs("metrics.md")).symmetric_difference(&told).cloned().collect();
    assert_eq!(unknown, [""; 0], "metrics.md and the page differ");
    let dashboard: serde_json::Value = serde_json::from_str(&docs("monitoring/dashboard.json")).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 10));
}
