//! Sockets of probes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{Attempt, Fault, fault};

/// A socket that does not block, with the attempt's mark and source.
pub(super) fn open(attempt: &Attempt, kind: Type, protocol: Protocol) -> Result<Socket, Fault> {
    let make = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(attempt.address, 0)), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = attempt.mark {
            socket.set_mark(mark)?;
        }
        if let Some(source) = attempt.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    };
    make().map_err(|error| match attempt.source {
        Some(source) => fault(&format!("cannot probe from {source}"), &error),
        None => fault("cannot open a socket", &error),
    })
}

/// A socket for datagrams to and from one place only. It learns of ICMP errors, and not only of those that end a flow
/// (`IP_RECVERR`, ip(7)): a host that does not answer for its address is told by an error of our own kernel.
pub(super) fn datagrams(attempt: &Attempt, to: SocketAddr) -> Result<UdpSocket, Fault> {
    let socket = open(attempt, Type::DGRAM, Protocol::UDP)?;
    hear_errors(&socket, to.ip())
        .and_then(|()| socket.connect(&to.into()))
        .map_err(|error| fault(&format!("udp to {to}"), &error))?;
    UdpSocket::from_std(socket.into()).map_err(|error| fault("cannot open a socket", &error))
}

pub(super) fn hear_errors(socket: &Socket, to: IpAddr) -> io::Result<()> {
    match to {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// A connection. It ends with a reset: a closed one would be remembered for minutes by the box, and by connection tracking, and
/// there are thousands a second.
pub(super) async fn connect(attempt: &Attempt, to: SocketAddr) -> Result<TcpStream, Fault> {
    let socket = open(attempt, Type::STREAM, Protocol::TCP)?;
    socket.set_linger(Some(Duration::ZERO)).map_err(|error| fault("cannot open a socket", &error))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    attempt.step(&format!("tcp connect to {to}"), socket.connect(to)).await
}
