//! Mode `local` with real packets: the box's own services behind limits, both families.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use headgate_tests::lab::Lab;
use headgate_tests::server::{Connection, Server};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The box's own service, on all its addresses.
fn service(lab: &Lab, port: u16) -> [Server; 2] {
    ["0.0.0.0", "[::]"].map(|any| {
        let only6 = "sysctl -qw net.ipv6.bindv6only=1";
        lab.gate.run(only6).unwrap();
        Server::start(&lab.gate, "box", at(&format!("{any}:{port}"))).unwrap()
    })
}

fn knock(lab: &Lab, to: &str) -> Result<TcpStream, ErrorKind> {
    let connect = || -> io::Result<TcpStream> { TcpStream::connect_timeout(&at(to), Duration::from_millis(500)) };
    lab.client.within(connect).unwrap().map_err(|error| error.kind())
}

const SERVICES: &str = r#"
[farms.ssh]
mode = "local"
listen = ["0.0.0.0:22", "[::]:22"]
[farms.ssh.limits]
connections-per-client = 3
action = "reject"
[farms.web]
mode = "local"
listen = ["172.16.1.254:8000-8010", "[2001:db8:1::fe]:8000-8010"]
[farms.web.limits]
connections-per-client = 1
"#;

#[test]
fn a_service_of_the_box_is_limited_and_nothing_else() {
    let lab = Lab::new("local").unwrap();
    let _services = [service(&lab, 22), service(&lab, 8005), service(&lab, 9000)];
    lab.once(SERVICES).unwrap();
    for address in ["172.16.1.254", "[2001:db8:1::fe]"] {
        let to = |port| format!("{address}:{port}");
        let mut held: Vec<Connection> =
            (0..3).map(|_| Connection::open(&lab.client, at(&to(22))).unwrap().unwrap()).collect();
        assert_eq!(knock(&lab, &to(22)).unwrap_err(), ErrorKind::ConnectionRefused, "{address}");
        for connection in &mut held {
            connection.echo("what is open stays").unwrap();
        }
        let _one = Connection::open(&lab.client, at(&to(8005))).unwrap().unwrap();
        assert_eq!(knock(&lab, &to(8005)).unwrap_err(), ErrorKind::TimedOut, "dropped by default");
        let many: Vec<_> = (0..6).map(|_| knock(&lab, &to(9000)).unwrap()).collect();
        assert_eq!(many.len(), 6, "no farm of anybody");
        drop(held);
        // The other side of the box, through the same farm of all addresses.
        std::thread::sleep(Duration::from_millis(200));
        assert!(knock(&lab, &to(22)).is_ok(), "room again");
    }
    // Translations are nobody's need here, and an empty nat chain costs every new flow.
    let listed = lab.nft("list table inet headgate").unwrap();
    assert!(!listed.contains("type nat"), "{listed}");
}

#[test]
fn down_refuses_and_off_leaves_alone() {
    let mut lab = Lab::new("local-state").unwrap();
    let _service = service(&lab, 22);
    lab.configure(&format!(
        "{SERVICES}\n[farms.more]\nmode = \"local\"\nstate = \"down\"\nlisten = \"0.0.0.0:9000\"\n"
    ))
    .unwrap();
    let _more = service(&lab, 9000);
    lab.start().unwrap();
    let mut living = Connection::open(&lab.client, at("172.16.1.254:22")).unwrap().unwrap();
    assert_eq!(knock(&lab, "172.16.1.254:9000").unwrap_err(), ErrorKind::ConnectionRefused);
    assert_eq!(lab.headgate_ok(&["farm", "list", "--json"]).unwrap().matches("\"local\"").count(), 3);
    lab.configure(&SERVICES.replace("mode = \"local\"", "mode = \"local\"\nstate = \"down\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    living.echo("established").unwrap();
    for to in ["172.16.1.254:22", "[2001:db8:1::fe]:22", "172.16.2.1:22"] {
        assert_eq!(knock(&lab, to).unwrap_err(), ErrorKind::ConnectionRefused, "{to}");
    }
    assert!(knock(&lab, "172.16.1.254:9000").is_ok(), "no farm any more");
    lab.configure(&SERVICES.replace("mode = \"local\"", "mode = \"local\"\nstate = \"off\"")).unwrap();
    lab.headgate_ok(&["apply"]).unwrap();
    living.echo("still").unwrap();
    assert!(knock(&lab, "[2001:db8:1::fe]:22").is_ok());
}
