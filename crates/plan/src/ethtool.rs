//! What ethtool(8) would set on a NIC, as knobs: each is one request to the kernel.
//!
//! Numbers that one request carries are one knob (`rx=2048 tx=1024`): every request that changes something may reset the
//! link (`igb_set_ringparam` takes the NIC down and up again), so it is sent once, and not at all when all is right.

use std::fmt;

/// The first component of the path of such a knob.
const WORLD: &str = "ethtool";

/// A setting of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Queues: `combined`, or `rx` and `tx` of drivers that count them apart.
    Channels,
    /// Descriptors of each queue: `rx`, `tx`.
    Rings,
    /// Flow control: `autoneg`, `rx`, `tx`.
    Pause,
    /// Energy-efficient Ethernet: `enabled`.
    Eee,
    /// Interrupt moderation: `rx-usecs`, `adaptive-rx`.
    Coalesce,
    /// What of a packet chooses its receive queue, as ethtool's letters: `sd`, `sdfn`.
    Hash(Flow),
    /// A feature by the kernel's name; 1 is on.
    Feature(String),
}

/// Packets that hash alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Setting {
    /// The path of the knob that has this setting on an interface.
    pub fn path(&self, link: &str) -> String {
        let setting = self.to_string().replace(' ', "/");
        format!("{WORLD}/{link}/{setting}")
    }

    /// Setting it makes new queues: their interrupts, RPS and XPS begin anew (measured with igb: `-L` resets the affinity of
    /// every vector and renames them).
    pub fn renews_queues(&self) -> bool {
        *self == Setting::Channels
    }
}

/// The interface and the setting of a path; `None` for every other knob.
pub fn of_path(path: &str) -> Option<(&str, Setting)> {
    let (link, setting) = path.strip_prefix(WORLD)?.strip_prefix('/')?.split_once('/')?;
    let setting = match setting {
        "channels" => Setting::Channels,
        "rings" => Setting::Rings,
        "pause" => Setting::Pause,
        "eee" => Setting::Eee,
        "coalesce" => Setting::Coalesce,
        "hash/udp4" => Setting::Hash(Flow::Udp4),
        "hash/udp6" => Setting::Hash(Flow::Udp6),
        other => Setting::Feature(other.strip_prefix("feature/")?.to_owned()),
    };
    Some((link, setting))
}

impl fmt::Display for Setting {
    /// `rings`, `hash udp4`, `feature rx-gro`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channels => f.write_str("channels"),
            Self::Rings => f.write_str("rings"),
            Self::Pause => f.write_str("pause"),
            Self::Eee => f.write_str("eee"),
            Self::Coalesce => f.write_str("coalesce"),
            Self::Hash(Flow::Udp4) => f.write_str("hash udp4"),
            Self::Hash(Flow::Udp6) => f.write_str("hash udp6"),
            Self::Feature(name) => write!(f, "feature {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_setting() {
        let settings = [
            Setting::Channels,
            Setting::Rings,
            Setting::Pause,
            Setting::Eee,
            Setting::Coalesce,
            Setting::Hash(Flow::Udp4),
            Setting::Hash(Flow::Udp6),
            Setting::Feature("rx-gro".into()),
        ];
        for setting in settings {
            assert_eq!(of_path(&setting.path("eth0.10")), Some(("eth0.10", setting)));
        }
        for other in
            ["proc/sys/x", "ethtool", "ethtool/eth0", "ethtool/eth0/", "ethtool/eth0/speed", "ethtools/a/rings"]
        {
            assert_eq!(of_path(other), None, "{other}");
        }
    }
}
