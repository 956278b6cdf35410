//! `[system] syslog`: the log as a receiver in another namespace gets it.

mod support;

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use support::WEB;
use support::namespace::{NETWORK, Namespace};

/// The other end of the cable towards backends.
const RECEIVER: &str = "172.16.2.5";

fn logging_to(to: &str) -> Namespace {
    let ns = Namespace::new(WEB);
    ns.far_address("be", "172.16.2.5/24");
    ns.far_address("be", "fd00:2::5/64");
    ns.tree.write("etc/headgate/headgate.toml", configuration(to));
    ns
}

fn configuration(to: &str) -> String {
    let network = NETWORK.replace("\"172.16.2.254/24\"", "\"172.16.2.254/24\", \"fd00:2::254/64\"");
    format!("[system]\nsyslog = \"{to}\"\n{network}")
}

/// One record as RFC 5424, 6, says: priority, host, data and message.
#[track_caller]
fn parse(record: &[u8]) -> (u8, String, String, String) {
    let text = std::str::from_utf8(record).expect("UTF-8");
    assert!(!text.contains(char::is_control), "{text:?}");
    let (priority, rest) = text.strip_prefix('<').and_then(|rest| rest.split_once(">1 ")).expect(text);
    let words: Vec<&str> = rest.splitn(6, ' ').collect();
    let [time, host, application, process, id, rest] = words[..] else { panic!("{text}") };
    assert!(time.ends_with('Z') && application == "headgated" && id == "-", "{text}");
    assert!(process.parse::<u32>().is_ok(), "{text}");
    let end = if rest.starts_with('[') { data_end(rest) } else { 1 };
    let (data, message) = rest.split_at(end);
    (priority.parse().expect(text), host.to_owned(), data.to_owned(), message.trim_start().to_owned())
}

/// Behind the first bracket that closes.
fn data_end(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let closes = byte == b']' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    end.expect(text) + 1
}

fn receiver(ns: &Namespace, address: &str) -> UdpSocket {
    // An address of IPv6 is nobody's until nobody has contradicted.
    let mut socket = None;
    ns.wait_for(address, || {
        socket = ns.at_far(|| UdpSocket::bind(address)).ok();
        socket.is_some()
    });
    let socket = socket.expect("waited for");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("it can");
    socket
}

/// Until a record has `word` in it; all of it.
#[track_caller]
fn receive(ns: &Namespace, socket: &UdpSocket, word: &str) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{word}: {error}\n{}", ns.tree.read("log")));
        records.push(buffer[..length].to_vec());
        if String::from_utf8_lossy(&buffer[..length]).contains(word) {
            return records;
        }
    }
}

#[test]
fn datagrams_tell_from_the_first_line_to_the_last_and_a_reload_sends_them_elsewhere() {
    let ns = logging_to("udp://172.16.2.5:5140");
    let socket = receiver(&ns, &format!("{RECEIVER}:5140"));
    let daemon = ns.start();
    let records = receive(&ns, &socket, "applied");
    let host = host_name();
    for record in &records {
        let (_, named, ..) = parse(record);
        assert_eq!(named, host);
    }
    let (priority, _, data, message) = parse(records.last().expect("one"));
    assert_eq!(priority, 3 * 8 + 6);
    assert!(data.starts_with("[headgate@32473 ") && data.contains(" generation=\"1\""), "{data}");
    assert!(message.starts_with("applied generation=1"), "{message}");
    let sent = || !ns.headgate(&["status"]).exits(0).out.contains("5140: 0 lines sent, 0 lost");
    ns.wait_for("lines that were sent", sent);

    // Over IPv6, to another.
    let other = receiver(&ns, "[fd00:2::5]:5141");
    ns.tree.write("etc/headgate/headgate.toml", configuration("udp://[fd00:2::5]:5141"));
    daemon.reload("applied");
    ns.tree.write("etc/headgate/conf.d/20-bad.toml", "[farms]\nx = \"\\u001b[2J\\n<0>1 - forged\"\n");
    daemon.reload("not reloaded");
    let records = receive(&ns, &other, "not reloaded");
    assert_eq!(parse(records.last().expect("one")).0, 3 * 8 + 3);
    std::fs::remove_file(ns.tree.path("etc/headgate/conf.d/20-bad.toml")).expect("it is there");

    let figures = ns.run("curl", &["-s", "--unix-socket", &socket_path(&ns), "http://headgated/metrics"]).out;
    assert!(figures.contains("headgate_syslog_up 1"), "{figures}");

    // To nobody.
    ns.tree.write("etc/headgate/headgate.toml", NETWORK);
    daemon.reload("applied");
    assert!(!ns.headgate(&["status"]).out.contains("log to"));
    ns.tree.write("etc/headgate/headgate.toml", configuration("udp://[fd00:2::5]:5141"));
    daemon.reload("applied");
    assert_eq!(daemon.terminate(), Some(0));
    receive(&ns, &other, "going down");
}

#[test]
fn a_datagram_that_is_refused_is_said_and_those_after_it_wait() {
    let ns = logging_to("udp://172.16.2.5:5140");
    let daemon = ns.start();
    ns.wait_for("a receiver that is away", || ns.headgate(&["status"]).out.contains("does not take the log"));
    let told = ns.headgate(&["status"]).out;
    assert!(told.contains("degraded: udp://172.16.2.5:5140 does not take the log: no way to it: "), "{told}");
    let socket = receiver(&ns, &format!("{RECEIVER}:5140"));
    let first = receive(&ns, &socket, "is back");
    assert!(first.iter().any(|record| String::from_utf8_lossy(record).contains("applied")), "it waited");
    ns.wait_for("a receiver that is back", || !ns.headgate(&["status"]).out.contains("does not take the log"));

    // Gone while it was trusted: what was refused is counted.
    drop(socket);
    daemon.reload("applied");
    ns.wait_for("a receiver that is away", || ns.headgate(&["status"]).out.contains("does not take the log"));
    let socket = receiver(&ns, &format!("{RECEIVER}:5140"));
    receive(&ns, &socket, "did not get to their receiver");
}

/// The records of a stream, by their counts; the rest is not whole.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let count = std::str::from_utf8(&rest[..space]).expect("digits");
        let count: usize = count.parse().unwrap_or_else(|error| panic!("{count:?}: {error}"));
        let Some(frame) = rest[space + 1..].get(..count) else { break };
        frames.push(frame.to_vec());
        rest = &rest[space + 1 + count..];
    }
    frames
}

fn read_until(ns: &Namespace, stream: &mut TcpStream, word: &str) -> Vec<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can");
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(word) {
        let length =
            stream.read(&mut buffer).unwrap_or_else(|error| panic!("{word}: {error}\n{}", ns.tree.read("log")));
        assert!(length > 0, "{word}: it ended\n{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..length]);
    }
    frames(&bytes)
}

#[test]
fn a_stream_counts_its_bytes_and_is_made_again_when_it_ends() {
    let ns = logging_to("tcp://172.16.2.5:5140");
    let daemon = ns.start();
    ns.wait_for("a receiver that is away", || ns.headgate(&["status"]).out.contains("does not take the log"));
    let listener = ns.at_far(|| TcpListener::bind((RECEIVER, 5140))).expect("nobody else is there");
    let (mut stream, _) = listener.accept().expect("it is tried again");
    let records = read_until(&ns, &mut stream, "is back");
    assert!(records.len() > 1);
    records.iter().for_each(|record| drop(parse(record)));

    // The receiver starts again.
    drop(stream);
    let (mut stream, _) = listener.accept().expect("it is tried again");
    daemon.reload("applied");
    read_until(&ns, &mut stream, "applied").iter().for_each(|record| drop(parse(record)));

    // It reads nothing: neither the daemon nor its own lines wait for that.
    for _ in 0..3 {
        daemon.reload("applied");
    }
    assert_eq!(daemon.terminate(), Some(0));
    read_until(&ns, &mut stream, "going down");
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").expect("proc").trim().to_owned()
}

fn socket_path(ns: &Namespace) -> String {
    ns.tree.path("run/headgate/api.sock").display().to_string()
}
