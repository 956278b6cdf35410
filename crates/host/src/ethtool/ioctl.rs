//! What has no netlink request: hash fields (before Linux 6.17), the driver's name and its statistics, by `SIOCETHTOOL`.

use std::ffi::c_char;
use std::io;
use std::os::fd::AsRawFd;

use headgate_plan::ethtool::Flow;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GDRVINFO`, `_GSTRINGS`, `_GSTATS`, `_GRXFH`, `_SRXFH`, `_GSSET_INFO` (`include/uapi/linux/ethtool.h`).
const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
const GET_HASH: u32 = 0x29;
const SET_HASH: u32 = 0x2a;
const GET_SET_SIZES: u32 = 0x37;
/// `UDP_V4_FLOW`, `UDP_V6_FLOW`.
const UDP4: u32 = 0x02;
const UDP6: u32 = 0x06;
/// `struct ethtool_rxnfc`: command, flow type, 64 bits of data, and a rule that is not used here.
const HASH_BYTES: usize = 192;
/// `RXH_*`: what of a packet is hashed, with ethtool(8)'s letters.
const LETTERS: [(char, u64); 8] = [
    ('m', 1 << 1),
    ('v', 1 << 2),
    ('t', 1 << 3),
    ('s', 1 << 4),
    ('d', 1 << 5),
    ('f', 1 << 6),
    ('n', 1 << 7),
    ('r', 1 << 31),
];
/// `struct ethtool_drvinfo`: the command, then 32 bytes of the driver's name.
const DRIVER_BYTES: usize = 196;
/// `ETH_SS_STATS`, and the bytes of one name.
const STATISTICS: u32 = 1;
const NAME_BYTES: usize = 32;
/// Room for so many, always: the kernel writes as many as there are when it is asked, and not as many as there is room for
/// (`ethtool_get_stats`), and a change of queues between two calls makes more of them. Drivers with a hundred queues have
/// some thousands.
const STATISTICS_MAX: usize = 1 << 16;

/// What of a UDP packet chooses its receive queue, as ethtool's letters; `EOPNOTSUPP` where nothing does: virtio without hashes answers
/// so, and takes a change without an error and without making it (`virtnet_get_hashflow`).
pub(super) fn hash(link: &str, flow: Flow) -> io::Result<String> {
    let mut request = hash_request(GET_HASH, flow, 0);
    call(link, &mut request)?;
    let bits = request[8..].first_chunk().map_or(0, |data| u64::from_ne_bytes(*data));
    if bits == 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(LETTERS.iter().filter(|(_, bit)| bits & bit != 0).map(|(letter, _)| letter).collect())
}

pub(super) fn set_hash(link: &str, flow: Flow, letters: &str) -> io::Result<()> {
    let bit = |letter| LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| bit);
    let bits = letters
        .chars()
        .map(|letter| bit(letter).ok_or(Errno::EINVAL))
        .try_fold(0, |bits, bit| bit.map(|bit| bits | bit))?;
    call(link, &mut hash_request(SET_HASH, flow, bits))
}

fn hash_request(command: u32, flow: Flow, bits: u64) -> Vec<u8> {
    let flow = match flow {
        Flow::Udp4 => UDP4,
        Flow::Udp6 => UDP6,
    };
    let mut request = vec![0; HASH_BYTES];
    request[..4].copy_from_slice(&command.to_ne_bytes());
    request[4..8].copy_from_slice(&flow.to_ne_bytes());
    request[8..16].copy_from_slice(&bits.to_ne_bytes());
    request
}

/// The name of the driver, of a virtual interface too: `veth`.
///
/// # Errors
/// What the kernel says.
pub fn driver(link: &str) -> io::Result<String> {
    let mut request = vec![0; DRIVER_BYTES];
    request[..4].copy_from_slice(&GET_DRIVER.to_ne_bytes());
    call(link, &mut request)?;
    Ok(name(&request[4..36]))
}

/// The driver's own counters, in its order.
///
/// # Errors
/// What the kernel says; `EOPNOTSUPP` without any.
pub fn statistics(link: &str) -> io::Result<Vec<(String, u64)>> {
    // struct ethtool_sset_info: command, reserved, a mask of sets, and a size for each set that there is.
    let mut sizes = vec![0; 20];
    sizes[..4].copy_from_slice(&GET_SET_SIZES.to_ne_bytes());
    sizes[8..16].copy_from_slice(&(1_u64 << STATISTICS).to_ne_bytes());
    call(link, &mut sizes)?;
    let count = sizes[16..].first_chunk().map_or(0, |size| u32::from_ne_bytes(*size)) as usize;
    if count == 0 || count > STATISTICS_MAX / 2 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let size = u32::try_from(count).map_err(|_| Errno::EINVAL)?.to_ne_bytes();
    let mut names = [&GET_STRINGS.to_ne_bytes()[..], &STATISTICS.to_ne_bytes(), &size].concat();
    names.resize(names.len() + STATISTICS_MAX * NAME_BYTES, 0);
    call(link, &mut names)?;
    let mut values = [&GET_STATISTICS.to_ne_bytes()[..], &size].concat();
    values.resize(values.len() + STATISTICS_MAX * 8, 0);
    call(link, &mut values)?;
    let (names, values) = (names[12..].chunks_exact(NAME_BYTES), values[8..].chunks_exact(8));
    let value = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    Ok(names.map(name).zip(values.map(value)).take(count).collect())
}

fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `SIOCETHTOOL`: the kernel reads and writes as many bytes of `request` as its command has, which the callers above allocate.
fn call(link: &str, request: &mut [u8]) -> io::Result<()> {
    if link.len() >= libc::IFNAMSIZ || link.contains('\0') {
        return Err(Errno::ENODEV.into());
    }
    let descriptor = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut interface = [0; libc::IFNAMSIZ];
    for (to, from) in interface.iter_mut().zip(link.bytes()) {
        *to = from.cast_signed() as c_char;
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: request.as_mut_ptr().cast() };
    let mut argument = libc::ifreq { ifr_name: interface, ifr_ifru: data };
    // SAFETY: `argument` and the buffer behind it live until the call returns. The buffer is as large as the command that it
    // begins with makes the kernel read and write: each caller above allocates the whole structure, with room for as many
    // strings or numbers as it tells the kernel that there is room for.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &raw mut argument) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
