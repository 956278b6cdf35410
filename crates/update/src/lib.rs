//! Firmware updates: what an update file is, who may make one, and how it gets into the slot that is not running.
//!
//! The way of one update: a [`Bundle`](bundle::Bundle) is opened from a stream, which checks the signature of its
//! [`Manifest`](manifest::Manifest) against the [`Keys`](keys::Keys) in the running image before anything else of it is
//! believed; [`Machine::check`](install::Machine::check) refuses what is not for this machine; and
//! [`Machine::install`](install::Machine::install) streams the slot's image to its partition, hashes it on the way, reads it
//! back, and only then lets GRUB's [environment](environment::Environment) prefer it. Power may go at any moment: until that
//! last write of 1 KiB the other slot does not count, and the running one always does.
//!
//! What runs, and whether it is good, is said by GRUB's variables (`ORDER`, `A_OK`, `A_TRY`, …: those of RAUC), of which a
//! [`Block`](grubenv::Block) is all there is. The image builder, `headgate-init` and `headgated` share them from here. [`gpt`] rewrites a partition table so that a power cut cannot lose it.

pub mod bundle;
pub mod disk;
pub mod environment;
pub mod gpt;
pub mod grubenv;
pub mod install;
pub mod keys;
pub mod manifest;
pub mod milestones;
pub mod reset;
pub mod slots;
pub mod stick;
pub mod target;
pub mod transfer;
