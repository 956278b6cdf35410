//! nftables as data: rulesets are plain comparable values until one line before the system call.
//!
//! The way of one ruleset: [`model`], [`object`] and [`expr`] are the values; [`text`] prints them as nft(8) would; [`change`] is the
//! difference of two rulesets as an ordered list; [`batch`] turns changes into one netlink transaction and remembers which
//! object each message was; [`socket`] commits it and attributes errors; [`wire`] is the encoding both ways;
//! [`trace`] hears what the rules do with single packets;
//! [`Socket::dump`] reads tables back into the same values. So `between(&dump, &wanted)` is empty when nothing is to be done,
//! and `between(&wanted, &dump)` is the way back.
//!
//! What somebody else has made of our tables by hand reads as something that differs ([`Statement::Unknown`],
//! [`ChainKind::Foreign`], [`Datatype::Other`]) and never fails: the difference repairs it.
//!
//! rustables gives the kernel's numbers and builds the messages of tables; chains, rules, sets and elements are encoded
//! here, since it has no maps, no data of elements and no devices, and elements are the hot path. Its `send` is never used:
//! it asks for an acknowledgement per message and reports errors for transactions that the kernel has carried out.
//!
//! This crate does not know what a farm is, and no type of rustables leaves it.

pub mod ahead;
pub mod batch;
pub mod change;
pub mod expr;
pub mod model;
pub mod object;
pub mod socket;
pub mod text;
pub mod trace;
pub mod wire;

pub use ahead::ahead;
pub use batch::Batch;
pub use change::{ApplyError, Change, between};
pub use expr::{
    Dynset, DynsetOp, Field, Limit, Nat, NatKind, Numgen, ObjectKind, Operator, Reference, Reject, Stateful, Statement,
    Target, Value, Verdict,
};
pub use model::{
    BaseChain, Bytes, Chain, ChainKind, Data, Datatype, Element, Family, Hook, Key, Own, Rule, Ruleset, Set, SetData,
    Table, TableId, width,
};
pub use object::{Counts, ElementState, Flowtable, Object, Tunnel};
pub use socket::{CommitError, DumpError, Failure, OpenError, Socket};
