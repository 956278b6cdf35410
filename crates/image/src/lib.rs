//! Builds, boots and tries the appliance image.
//!
//! *What* an image is lies in `image/` as data: the disk's layout, the packages, the modules, GRUB's configuration; files
//! that are on the appliance as they are lie in `rootfs-overlay/`. This crate turns them into bytes without root, loop
//! devices or mounts:
//!
//! 1. [`packages`] brings Debian's kernel, BusyBox and GRUB into `build/cache/` and unpacks them;
//!    [`binaries`] compiles `headgated`, `headgate` and `headgate-init` as static programs.
//! 2. [`kernel`] picks the modules with all that they need, and writes the index that `headgate-init` loads by.
//! 3. [`tree`] lays out the initramfs and the root file system and packs the slot: one squashfs with its kernel inside.
//! 4. [`layout`] says where everything goes, [`disk`] makes the file systems and puts the disk together.
//! 5. [`build`] runs these steps, shows progress, and does nothing when no input changed.
//!
//! What came out is looked into by [`inspect`], becomes an update file by [`bundle`] and goes onto a disk by [`flash`];
//! [`parts`] finds the pieces of a finished image.
//!
//! The same inputs give the same bytes: times are fixed, lists are sorted, identifiers are part of the layout.
//!
//! The image is tried in QEMU: [`qemu`] boots it with the shape of the SNA 7108 and follows its serial port, [`netns`] and
//! [`nginx`] are the networks and backends around it, [`demo`] sends HTTP through it and judges the result.

pub mod base;
pub mod binaries;
pub mod build;
pub mod bundle;
pub mod demo;
pub mod disk;
pub mod flash;
pub mod http;
pub mod inspect;
pub mod kernel;
pub mod layout;
pub mod netns;
pub mod nginx;
pub mod packages;
pub mod parts;
pub mod progress;
pub mod qemu;
mod qmp;
pub mod release;
pub mod sbom;
pub mod slot;
pub mod source;
pub mod stop;
pub mod tool;
pub mod tree;
pub mod verity;
