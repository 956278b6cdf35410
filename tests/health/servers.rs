//! Peers of a check: they answer well, badly, late or not at all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headgate_image::netns::Namespace;
use headgate_tests::lab::{Lab, backend};
use headgate_tests::server::Connection;

use crate::PATIENCE;

/// A thread that serves until it is dropped.
pub(crate) struct Serving {
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
pub(crate) fn tcp(space: &Namespace, address: SocketAddr, act: fn(TcpStream)) -> Serving {
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
pub(crate) fn udp(space: &Namespace, address: SocketAddr, answer: fn(&[u8]) -> Option<Vec<u8>>) -> Serving {
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
pub(crate) fn name_server(question: &[u8]) -> Option<Vec<u8>> {
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
pub(crate) fn endless(head: &str, piece: &str, pause: Duration, stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(head.as_bytes());
    while stream.write_all(piece.as_bytes()).is_ok() {
        std::thread::sleep(pause);
    }
}

pub(crate) struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

pub(crate) fn openssl(directory: &Path, arguments: &str) {
    let words = arguments.split_whitespace();
    let output = Command::new("openssl").args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, and certificates of the first one.
pub(crate) fn certificates(directory: &Path) {
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

pub(crate) const NGINX: &str = r#"daemon off; user root; worker_processes 1; pid nginx.pid; error_log error.log; events {}
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
pub(crate) fn nginx(lab: &Lab, directory: &Path) -> Nginx {
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
