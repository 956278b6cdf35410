//! Decisions, and no I/O at all.
//!
//! [`compile`](compile::compile) turns a checked [`Config`](headgate_config::Config) and the [`Facts`](facts::Facts) of a
//! machine into the [`State`](state::State) that is wanted. The host observes the same type. [`Plan::between`](step::Plan)
//! is their difference: an ordered list of [`Step`](step::Step)s that people can read and the host can carry out or take
//! back. `check`, `plan`, `explain`, `apply`, `status` and boot are this one path, stopped at different points.
//!
//! What must not move from one plan to the next is not written down anywhere: [`Ids`](ids::Ids) reads it back from the
//! kernel. Weights become slots in [`slots`](compile::slots), so that the packet path needs no arithmetic; one farm's
//! change is compiled alone by [`Context`](compile::Context); [`steering`] moves slots by the flows that backends have, [`health`] says which of them take none; [`capacity`] says what
//! runs out; [`Status`](status::Status) is the state in people's words,
//! and [`story`] what happened to one packet.

pub mod affinity;
pub mod capacity;
pub mod clock;
pub mod compile;
pub mod credit;
pub mod ethtool;
pub mod facts;
pub mod fault;
pub mod features;
pub mod flows;
pub mod follow;
pub mod hardware;
pub mod health;
pub mod helpers;
pub mod ids;
pub mod knob;
pub mod lease;
pub mod load;
pub mod logged;
pub mod maps;
pub mod names;
pub mod origins;
pub mod repair;
pub mod setup;
pub mod state;
pub mod status;
pub mod steering;
pub mod step;
pub mod story;
pub mod tunnel;
pub mod upper;

#[cfg(test)]
mod samples;
