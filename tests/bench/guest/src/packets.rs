//! Datagrams through the balancer: established flows in both directions, and first packets of new ones.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SetSockOpt, recv, send, sockopt};

use crate::clock::{self, Batches};
use crate::frame::{Frame, Mac};
use crate::network::{self, Network, Place};
use crate::plan::{Measured, Phase, Reach, Report, Variant};

/// Flows that stay.
const FLOWS: u32 = 256;
/// Packets between two readings of the counter: reading is cheap against them, and few of the readings have a tick within.
const BATCH: usize = 16;
/// Packets of a phase in one repeat.
const ESTABLISHED: usize = 2048;
const NEW: u32 = 2048;
/// Established flows repeat to the last digit; hash tables make new flows differ by half a percent.
const REPEATS_ESTABLISHED: u32 = 2;
const REPEATS_NEW: u32 = 3;
const PORT: u16 = 80;

/// Sends the datagrams of a variant's phases and prints what they took.
pub struct Sender<'a> {
    network: &'a Network,
    variant: &'a Variant,
    profile: bool,
    overhead: u64,
    client: OwnedFd,
    backend: OwnedFd,
}

/// One direction.
struct Way<'a> {
    phase: Phase,
    socket: &'a OwnedFd,
    from: Place,
    to: (Place, &'static str),
}

impl<'a> Sender<'a> {
    /// Opens the sending ends.
    pub fn new(network: &'a Network, variant: &'a Variant, profile: bool) -> Result<Self> {
        network.enter(Place::Client)?;
        let client = packet_socket("c0", Listen::No)?;
        network.enter(Place::Backend)?;
        let backend = packet_socket("b0", Listen::No)?;
        Ok(Self { network, variant, profile, overhead: clock::overhead(), client, backend })
    }

    /// Runs the phases that are datagrams.
    pub fn run(&self) -> Result<()> {
        let wanted = |phase| self.variant.phases.contains(&phase);
        let original = Way { phase: Phase::Original, socket: &self.client, from: Place::Client, to: self.far_end() };
        if wanted(Phase::Original) || wanted(Phase::Reply) {
            let frames: Vec<Frame> = (0..FLOWS).map(|flow| self.established(flow)).collect();
            let answers = self.warm_up(&frames, wanted(Phase::Reply))?;
            if wanted(Phase::Original) {
                self.measure(&original, &frames, ESTABLISHED, REPEATS_ESTABLISHED)?;
            }
            if wanted(Phase::Reply) {
                let to = (Place::Client, "c0");
                let reply = Way { phase: Phase::Reply, socket: &self.backend, from: Place::Backend, to };
                self.measure(&reply, &answers, ESTABLISHED, REPEATS_ESTABLISHED)?;
            }
        }
        if wanted(Phase::New) {
            let new = Way { phase: Phase::New, ..original };
            for repeat in 0..REPEATS_NEW {
                let frames: Vec<Frame> = (0..NEW).map(|flow| self.fresh(repeat, flow)).collect();
                self.measure(&new, &frames, NEW as usize, 1)?;
            }
        }
        Ok(())
    }

    fn far_end(&self) -> (Place, &'static str) {
        match self.variant.reach {
            Reach::Balancer => (Place::Balancer, "l0"),
            Reach::Backend | Reach::Direct => (Place::Backend, "b0"),
        }
    }

    /// Flows from 256 clients.
    fn established(&self, flow: u32) -> Frame {
        let client = Ipv4Addr::new(10, 1, (flow % 8) as u8, 2 + (flow / 8) as u8);
        self.request(SocketAddrV4::new(client, 10_000 + flow as u16), flow)
    }

    /// Flows from 128 clients, on ports that nobody has used.
    fn fresh(&self, repeat: u32, flow: u32) -> Frame {
        let client = Ipv4Addr::new(10, 1, 16 + repeat as u8, 2 + (flow % 128) as u8);
        self.request(SocketAddrV4::new(client, (2000 + repeat * NEW + flow) as u16), flow)
    }

    fn request(&self, client: SocketAddrV4, flow: u32) -> Frame {
        // Neighbours in time are no neighbours in the table.
        let target = SocketAddrV4::new(self.variant.targets.address(flow * 39), PORT);
        Frame::udp((network::CLIENT, client), (network::FRONT, target))
    }

    /// Makes the flows known to the balancer. The packets are looked at where they come out, so that the answers fit whatever
    /// addresses and ports it has put in; answers in both directions then make the flows established.
    fn warm_up(&self, frames: &[Frame], answered: bool) -> Result<Vec<Frame>> {
        let (place, device) = self.far_end();
        self.network.enter(place)?;
        let tap = packet_socket(device, Listen::Everything)?;
        frames.iter().try_for_each(|frame| transmit(&self.client, frame))?;
        let mut answers = Vec::new();
        let mut buffer = [0; 256];
        loop {
            match recv(tap.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => answers.extend(Frame::answer(&buffer[..length], network::BACKEND, network::BACK)),
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("cannot look at what came through"),
            }
        }
        // Every packet has a price for being looked at: not in what is measured.
        drop(tap);
        ensure!(answers.len() == frames.len(), "{} of {} packets came through", answers.len(), frames.len());
        if answered {
            for _ in 0..2 {
                answers.iter().try_for_each(|frame| transmit(&self.backend, frame))?;
                frames.iter().try_for_each(|frame| transmit(&self.client, frame))?;
                rest();
            }
        }
        Ok(answers)
    }

    fn measure(&self, way: &Way<'_>, frames: &[Frame], packets: usize, repeats: u32) -> Result<()> {
        let (place, device) = way.to;
        for _ in 0..repeats {
            let before = self.network.received(place, device)?;
            self.network.enter(way.from)?;
            let mut next = frames.iter().cycle();
            let mut sent = 0;
            if self.profile {
                sent += self.pause(way, &mut next)?;
            }
            let mut batches = Batches::with_capacity(packets / BATCH);
            let mut failed = None;
            while sent + BATCH <= packets {
                let batch: Vec<&Frame> = next.by_ref().take(BATCH).collect();
                batches.count(self.overhead, || {
                    for frame in &batch {
                        if let Err(error) = transmit(way.socket, frame) {
                            failed = Some(error);
                        }
                    }
                });
                sent += BATCH;
            }
            if let Some(error) = failed {
                return Err(error);
            }
            let (median, mean) = batches.summary(BATCH);
            let came = self.network.received(place, device)? - before;
            ensure!(came == sent as u64, "{}: {came} of {sent} packets came through", way.phase);
            Report::Measured(Measured { variant: self.variant.name.clone(), phase: way.phase, median, mean }).print();
            rest();
        }
        Ok(())
    }

    /// Lets the host watch a batch, after one that brings everything into the state that it will be in.
    fn pause<'f>(&self, way: &Way<'_>, next: &mut impl Iterator<Item = &'f Frame>) -> Result<usize> {
        for packets in [BATCH, 0] {
            Report::Pause { variant: self.variant.name.clone(), phase: way.phase, packets: packets as u32 }.print();
            wait_for_host()?;
            next.take(packets).try_for_each(|frame| transmit(way.socket, frame))?;
        }
        Ok(BATCH)
    }
}

/// Waits for a byte on the serial port, busy: the virtual clock jumps over idle time, and flows would time out.
fn wait_for_host() -> Result<()> {
    let input = std::io::stdin();
    while poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? == 0 {}
    // Not through the buffer of standard input, which would hide further bytes from the next poll.
    let mut byte = [0];
    nix::unistd::read(&input, &mut byte)?;
    Ok(())
}

/// Lets deferred work run. Costs nothing: the virtual clock jumps over idle time.
pub(crate) fn rest() {
    std::thread::sleep(Duration::from_millis(200));
}

fn transmit(socket: &OwnedFd, frame: &Frame) -> Result<()> {
    send(socket.as_raw_fd(), &frame.0, MsgFlags::empty()).context("cannot send a frame")?;
    Ok(())
}

/// Whether a packet socket gets a copy of what its device receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listen {
    No,
    Everything,
}

/// A raw packet socket on a device of the namespace that the thread is in (packet(7)).
fn packet_socket(device: &str, listen: Listen) -> Result<OwnedFd> {
    let protocol = match listen {
        Listen::No => 0,
        Listen::Everything => (libc::ETH_P_ALL as u16).to_be(),
    };
    // SAFETY: no pointers; the result is checked before it becomes an owned descriptor.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
    let fd = Errno::result(fd).context("cannot open a packet socket")?;
    // SAFETY: the descriptor was opened just now and nobody else has it.
    let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}"))? as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: size_of::<Mac>() as u8,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_ll that lives over the call, and `length` is its size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(bound).with_context(|| format!("cannot bind to {device}"))?;
    sockopt::RcvBufForce.set(&socket.as_fd(), &(64 << 20))?;
    Ok(socket)
}
