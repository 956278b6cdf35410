//! The compiled steps between the kernel and `headgated` on the appliance. One static program, no shell, five names:
//!
//! 1. As `/init` of the initramfs ([`initramfs`]): load the storage drivers that this machine has, find the slot that GRUB
//!    chose, mount it, make it the root and hand over to BusyBox init. A kernel with its drivers built in does that by itself.
//! 2. As `headgate-init boot`, the `sysinit` line of the inittab ([`boot`]): temporary file systems, drivers of the hardware
//!    that is present, netfilter, the loopback device, the data partition ([`data`]), which grows to its disk ([`grow`]), and the drop-ins from media ([`media`]),
//!    the [`stick`] among them, which may also ask for a factory reset.
//! 3. As `headgate-init mark-good` ([`mark_good`]): tell GRUB that the running slot is healthy. `headgated` calls it.
//! 4. As `headgate-init gate` ([`gate`]): reboot when that has not happened in time, so that GRUB's counter leads to the other
//!    slot. The hardware [`watchdog`] does the same for a system that hangs.
//! 5. As `/sbin/modprobe` ([`modprobe`]): load what the kernel asks for by alias.
//!
//! It never decides about the network or the farms: that is `headgated`. What could be worked out when the image was built
//! was: the modules come as an [`modules::Index`] with each module's whole list of dependencies in loading order.
//! The image builder writes that index with the types of this crate. What slots, partitions and GRUB's variables are is said
//! by `headgate-update`, which puts new systems into slots.
//!
//! A step that fails says so on the console and the boot goes on with what there is; only a machine without a slot to
//! mount has nothing to go on with, and reboots, so that GRUB's counter leads to the other slot.

pub mod boot;
pub mod conntrack;
pub mod console;
pub mod data;
pub mod gate;
pub mod grow;
pub mod initramfs;
pub mod mark_good;
pub mod media;
pub mod modalias;
pub mod modprobe;
pub mod modules;
pub mod reset;
pub mod stick;
pub mod watchdog;
