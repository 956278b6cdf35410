//! The first and only process of a guest that counts instructions.
//!
//! QEMU runs the guest with `-icount shift=0`: one instruction is one nanosecond of virtual time, and the time stamp counter
//! ticks with it, so [`clock::now`] reads how many instructions the guest has executed. Nothing that the host does shows.
//!
//! A [`plan::Plan`] comes in the initramfs. For each of its variants, [`network`] makes three fresh namespaces (client,
//! balancer, backend), the variant's commands run in the balancer's, and [`packets`] and [`tcp`] send through it and count.
//! Each result is one line on the serial port, a [`plan::Report`]. [`machine`] is what an init has to do before and after.
//!
//! Everything happens in one thread. A packet that is sent runs through all three namespaces in the softirq on the way out
//! of the system call, so two readings of the clock around the call hold its whole path; with a second busy process some of it
//! would be put off to `ksoftirqd` and into somebody else's window.

//!
//! With [`plan::Plan::cards`] it counts nothing: it is the balancer of a variant between two network cards ([`cards`]).

pub mod cards;
pub mod clock;
pub mod counters;
pub mod frame;
pub mod machine;
pub mod network;
pub mod packets;
pub mod plan;
pub mod tcp;
