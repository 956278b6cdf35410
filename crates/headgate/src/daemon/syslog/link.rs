//! The way to a receiver of syslog.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use headgate_config::model::{Syslog, Transport};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a receiver may take to answer, and to take a record.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this without an acknowledgement the kernel gives a connection up (tcp(7), `TCP_USER_TIMEOUT`): the receiver may be without power.
const SILENCE: Duration = Duration::from_secs(20);
/// How long is waited for the answer that nobody listens (ICMP port unreachable).
const REFUSAL: Duration = Duration::from_millis(500);

/// Why records do not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The network, or the other machine.
    #[error("no way to it")]
    Network(#[source] io::Error),
    /// It does not answer, or takes nothing any more.
    #[error("it takes nothing for {} s", PATIENCE.as_secs())]
    Silent,
    /// It ended the connection.
    #[error("it closed the connection")]
    Closed,
}

/// An open way.
#[derive(Debug)]
pub(super) enum Link {
    Datagrams(UdpSocket),
    Stream(TcpStream),
}

impl Link {
    /// Opens it. For datagrams nothing is sent for that.
    pub(super) async fn open(to: Syslog) -> Result<Self, LinkError> {
        match to.transport {
            Transport::Udp => {
                let any = match to.address {
                    SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                };
                let socket = UdpSocket::bind((any, 0)).await.map_err(LinkError::Network)?;
                // Connected, so that the kernel tells us of refusals, and takes nothing from anybody else.
                socket.connect(to.address).await.map_err(LinkError::Network)?;
                Ok(Link::Datagrams(socket))
            }
            Transport::Tcp => {
                let stream = timeout(PATIENCE, TcpStream::connect(to.address)).await;
                let stream = stream.map_err(|_| LinkError::Silent)?.map_err(LinkError::Network)?;
                SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE)).map_err(LinkError::Network)?;
                Ok(Link::Stream(stream))
            }
        }
    }

    /// Whether there is a receiver once it is open.
    pub(super) fn tells_when_it_opens(&self) -> bool {
        matches!(self, Link::Stream(_))
    }

    /// Sends one record: as a datagram (RFC 5426), or behind its length (RFC 6587, 3.4.1), so that no byte within one can end it.
    pub(super) async fn send(&mut self, record: &[u8]) -> Result<(), LinkError> {
        let sent = match self {
            Link::Datagrams(socket) => timeout(PATIENCE, socket.send(record)).await.map(|sent| sent.map(drop)),
            Link::Stream(stream) => {
                let mut frame = format!("{} ", record.len()).into_bytes();
                frame.extend_from_slice(record);
                timeout(PATIENCE, stream.write_all(&frame)).await
            }
        };
        sent.map_err(|_| LinkError::Silent)?.map_err(LinkError::Network)
    }

    /// Until it breaks. What the receiver sends is nothing to us.
    pub(super) async fn broken(&mut self) -> LinkError {
        let mut nothing = [0; 256];
        loop {
            let read = match self {
                Link::Datagrams(socket) => socket.recv(&mut nothing).await.map(|_| true),
                Link::Stream(stream) => stream.read(&mut nothing).await.map(|count| count > 0),
            };
            match read {
                Ok(true) => {}
                Ok(false) => return LinkError::Closed,
                Err(error) => return LinkError::Network(error),
            }
        }
    }

    /// Waits for the answer that nobody listens.
    pub(super) async fn confirm(&mut self) -> Result<(), LinkError> {
        match timeout(REFUSAL, self.broken()).await {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
    }
}
