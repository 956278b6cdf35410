//! Servers that answer with their own name and the client they saw, and clients that read it.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use headgate_image::netns::Namespace;

/// Time after which a client or server call is given up.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What a server said: which one it is, and from where it saw us.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The name that the server was started with.
    pub server: String,
    /// The local port that was reached.
    pub port: u16,
    /// The client's address as the server saw it.
    pub client: IpAddr,
}

/// A server in a namespace; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Answers on TCP and UDP at `address`: with `name port client\n` at once, then with an echo of each line.
    pub fn start(space: &Namespace, name: &str, address: SocketAddr) -> Result<Self> {
        let tcp = space.within(|| TcpListener::bind(address))?.with_context(|| format!("tcp {address}"))?;
        let udp = space.within(|| UdpSocket::bind(address))?.with_context(|| format!("udp {address}"))?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp_stop, udp_stop) = (stop.clone(), stop.clone());
        let (tcp_name, udp_name) = (name.to_owned(), name.to_owned());
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, &tcp_name, &tcp_stop)),
            std::thread::spawn(move || serve_udp(&udp, &udp_name, &udp_stop)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                let name = name.to_owned();
                std::thread::spawn(move || greet_and_echo(stream, &name, client));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn greet_and_echo(mut stream: TcpStream, name: &str, client: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let port = stream.local_addr()?.port();
    stream.write_all(format!("{name} {port} {}\n", client.ip()).as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        stream.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    let port = socket.local_addr().map_or(0, |address| address.port());
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {port} {}\n", client.ip()).as_bytes(), client);
        }
    }
}

fn parse(text: &str) -> io::Result<Answer> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {text:?}"));
    let mut words = text.split_whitespace();
    let (Some(server), Some(port), Some(client)) = (words.next(), words.next(), words.next()) else {
        return Err(wrong());
    };
    let port = port.parse().map_err(|_| wrong())?;
    let client: IpAddr = client.parse().map_err(|_| wrong())?;
    Ok(Answer { server: server.to_owned(), port, client: client.to_canonical() })
}

/// A TCP connection from a namespace to a [`Server`], open until dropped.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// What the server said at the start.
    pub answer: Answer,
}

impl Connection {
    /// Connects, and nothing else.
    pub fn probe(space: &Namespace, to: SocketAddr) -> Result<()> {
        Ok(space.within(|| TcpStream::connect_timeout(&to, PATIENCE).map(drop))??)
    }

    /// Connects and reads the greeting.
    pub fn open(space: &Namespace, to: SocketAddr) -> Result<io::Result<Self>> {
        space.within(|| Self::open_here(to))
    }

    /// As [`Self::open`], from the namespace that this thread is in.
    pub fn open_here(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        Ok(Self { stream, answer: parse(&line)? })
    }

    /// The client's end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Gives an answer so long to come, instead of [`PATIENCE`].
    pub fn be_patient(&self, patience: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    /// Sends a line and reads it back: an error means that the connection is broken.
    pub fn echo(&mut self, text: &str) -> io::Result<()> {
        self.say(text)?;
        self.hear(text)
    }

    /// The first half of [`Self::echo`].
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{text}\n").as_bytes())
    }

    /// The second half of [`Self::echo`].
    pub fn hear(&mut self, text: &str) -> io::Result<()> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.trim_end() == text { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Asks by UDP from a new socket, so from a new source port.
pub fn ask_udp(space: &Namespace, to: SocketAddr) -> Result<io::Result<Answer>> {
    ask_udp_from(space, 0, to)
}

/// As [`ask_udp`], from this source port; 0 is one that was not used before.
pub fn ask_udp_from(space: &Namespace, port: u16, to: SocketAddr) -> Result<io::Result<Answer>> {
    Ok(Talk::open_from(space, port, to)?.ask())
}

/// As [`ask_udp`], from this address; port 0 is one that was not used before.
pub fn ask_udp_as(space: &Namespace, source: SocketAddr, to: SocketAddr) -> Result<io::Result<Answer>> {
    Ok(Talk::open_as(space, source, to)?.ask())
}

/// As [`ask_udp`], from the namespace that this thread is in.
pub fn ask_udp_here(to: SocketAddr) -> io::Result<Answer> {
    Talk::open_here(any(0, to), to)?.ask()
}

/// Any address of the family of `to`.
fn any(port: u16, to: SocketAddr) -> SocketAddr {
    let address: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    SocketAddr::new(address, port)
}

/// A source port that no flow of this process had: the kernel would draw one that an earlier flow may have had, and the box
/// would take the new flow for that one. Below what the kernel draws from.
fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000
}

/// A UDP socket that keeps its source port, so that all it sends is one flow.
#[derive(Debug)]
pub struct Talk(UdpSocket);

impl Talk {
    /// Opens the socket; nothing is sent.
    pub fn open(space: &Namespace, to: SocketAddr) -> Result<Self> {
        Self::open_from(space, 0, to)
    }

    fn open_from(space: &Namespace, port: u16, to: SocketAddr) -> Result<Self> {
        Self::open_as(space, any(port, to), to)
    }

    fn open_as(space: &Namespace, source: SocketAddr, to: SocketAddr) -> Result<Self> {
        Ok(space.within(|| Self::open_here(source, to))??)
    }

    fn open_here(mut source: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        if source.port() == 0 {
            source.set_port(fresh_port());
        }
        let socket = UdpSocket::bind(source)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// The client's end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Asks who is there.
    pub fn ask(&self) -> io::Result<Answer> {
        self.0.send(b"who are you\n")?;
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer)?;
        parse(&String::from_utf8_lossy(&buffer[..length]))
    }
}

/// tftpd in a namespace; it ends when dropped.
#[derive(Debug)]
pub struct Tftp(Child);

impl Tftp {
    /// Serves `files`, which everybody may read, at an address with a port.
    pub fn start(space: &Namespace, address: &str, files: &Path) -> Result<Self> {
        let mut command = space.command("/usr/sbin/in.tftpd");
        command.args(["--listen", "--foreground", "--user", "nobody", "--address", address, "--secure"]).arg(files);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Tftp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
