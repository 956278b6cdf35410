//! Every name, mark, priority and number that we put into the kernel, in one table.

/// Protocol number of the addresses that we add (`IFA_PROTO`, Linux 5.18): how we know them again.
pub const ADDRESS_PROTOCOL: u8 = 0x48;
/// Protocol number of the routes that we add (`RTPROT_*`).
pub const ROUTE_PROTOCOL: u8 = 0x48;

/// Our table: services, slots, backends.
pub const TABLE: &str = "headgate";
/// The permanent table whose ct rule keeps connection tracking hooked while [`TABLE`] is replaced: without any ct
/// expression left, the kernel unregisters its hooks and live translated connections are reset.
pub const GUARD_TABLE: &str = "headgate-guard";

/// The ct mark of a flow of ours is this tag with the backend's id in the low 20 bits. Flows of others, whose marks we
/// never read as ids, do not carry the tag.
pub const MARK_TAG: u32 = 0x4800_0000;
/// Bits of the ct mark that hold the backend's id.
pub const MARK_ID_MASK: u32 = 0x000f_ffff;
