//! Whole TCP connections. Client and server are sockets of one thread in two namespaces: nobody has to be woken up.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SetSockOpt, SockFlag, SockType, SockaddrIn, accept, bind, connect, listen, recv,
    send, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::clock::{self, Batches};
use crate::network::{Network, Place};
use crate::packets::rest;
use crate::plan::{Measured, Phase, Report, Variant};

const CONNECTIONS: u32 = 128;
const REPEATS: u32 = 2;
const PORT: u16 = 80;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
/// What goes each way, bytes.
const MESSAGE: usize = 64;

/// Opens, uses and closes connections, and prints what they took.
pub fn run(network: &Network, variant: &Variant) -> Result<()> {
    network.enter(Place::Backend)?;
    let server = stream()?;
    sockopt::ReuseAddr.set(&server, &true)?;
    bind(server.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT)))?;
    listen(&server, Backlog::new(64)?)?;
    network.enter(Place::Client)?;
    let overhead = clock::overhead();
    for repeat in 0..REPEATS {
        let mut batches = Batches::with_capacity(CONNECTIONS as usize);
        for number in 0..CONNECTIONS {
            // Ports of the client's choice would come from a random search.
            let client = SocketAddrV4::new(CLIENT, (30_000 + repeat * CONNECTIONS + number) as u16);
            let target = SocketAddrV4::new(variant.targets.address(number * 39), PORT);
            let ends = (SockaddrIn::from(client), SockaddrIn::from(target));
            let mut outcome = Ok(());
            batches.count(overhead, || outcome = cycle(&server, &ends));
            outcome.with_context(|| format!("connection {number}"))?;
        }
        let (median, mean) = batches.summary(1);
        Report::Measured(Measured { variant: variant.name.clone(), phase: Phase::Tcp, median, mean }).print();
        rest();
    }
    Ok(())
}

fn cycle(server: &OwnedFd, (from, to): &(SockaddrIn, SockaddrIn)) -> Result<()> {
    let client = stream()?;
    // Virtual time: a segment that is lost ends the wait at once.
    sockopt::ReceiveTimeout.set(&client, &TimeVal::new(2, 0))?;
    sockopt::SendTimeout.set(&client, &TimeVal::new(2, 0))?;
    bind(client.as_raw_fd(), from)?;
    connect(client.as_raw_fd(), to).context("cannot connect")?;
    let accepted = accept(server.as_raw_fd())?;
    // SAFETY: the descriptor was made just now and nobody else has it.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
    for (sender, receiver) in [(&client, &accepted), (&accepted, &client)] {
        let mut message = [0; MESSAGE];
        send(sender.as_raw_fd(), &message, MsgFlags::empty())?;
        let length = recv(receiver.as_raw_fd(), &mut message, MsgFlags::empty())?;
        ensure!(length == MESSAGE, "{length} of {MESSAGE} bytes came");
    }
    // The client closes first: TIME_WAIT is its part.
    drop(client);
    drop(accepted);
    Ok(())
}

fn stream() -> Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?)
}
