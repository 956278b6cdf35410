//! Settings of network interfaces, as ethtool(8) reads and sets them.
//!
//! The `ethtool` crate's messages read everything that it knows and set the number of queues. What it cannot say (its own
//! requests to set rings, coalescing, pause or features are missing or panic) is written out here with the numbers of
//! `include/uapi/linux/ethtool_netlink.h`; hash fields have no netlink request before Linux 6.17, and go by the older ioctl.
//!
//! A setting is read as text in the form of [`KnobValue::Fields`] (`rx=256 tx=256`), so that a recorded machine can have it
//! in a file. Drivers acknowledge what they do not do: whoever sets something has to read it back.

mod ioctl;
mod netlink;

use std::io;

use ethtool::{
    EthtoolAttr, EthtoolChannelAttr, EthtoolCoalesceAttr, EthtoolFeatureAttr, EthtoolMessage, EthtoolPauseAttr,
    EthtoolRingAttr,
};
use headgate_plan::ethtool::Setting;
use headgate_plan::facts::NicLimits;
use headgate_plan::state::KnobValue;
use nix::errno::Errno;

pub use ioctl::{driver, statistics};
pub(crate) use netlink::{NETLINK_GENERIC, monitor_group};

/// `ETHTOOL_MSG_*_SET` and `EEE_GET`.
const RINGS_SET: u8 = 16;
const COALESCE_SET: u8 = 20;
const PAUSE_SET: u8 = 22;
const FEATURES_SET: u8 = 12;
const EEE_GET: u8 = 23;
const EEE_SET: u8 = 24;
/// `ETHTOOL_A_RINGS_RX`, `_TX`.
const RING_ATTRIBUTES: [(&str, u16); 2] = [("rx", 6), ("tx", 9)];
/// `ETHTOOL_A_PAUSE_AUTONEG`, `_RX`, `_TX`.
const PAUSE_ATTRIBUTES: [(&str, u16); 3] = [("autoneg", 2), ("rx", 3), ("tx", 4)];
/// `ETHTOOL_A_COALESCE_RX_USECS`, `_TX_USECS`, `_USE_ADAPTIVE_RX`, `_USE_ADAPTIVE_TX`.
const COALESCE_ATTRIBUTES: [(&str, u16); 4] =
    [("rx-usecs", 2), ("tx-usecs", 6), ("adaptive-rx", 11), ("adaptive-tx", 12)];
/// `ETHTOOL_A_EEE_ENABLED`.
const EEE_ENABLED: u16 = 5;
const EEE_ATTRIBUTES: [(&str, u16); 1] = [("enabled", EEE_ENABLED)];
/// `ETHTOOL_A_FEATURES_WANTED`.
const FEATURES_WANTED: u16 = 3;

/// What a setting is now, for a knob that should be like `like`.
///
/// # Errors
/// `EOPNOTSUPP`: this interface does not have it, or not all of `like`'s fields, or has it fixed at another value;
/// `ENODEV`: there is no such interface.
pub fn read(link: &str, setting: &Setting, like: &KnobValue) -> io::Result<String> {
    let text = match setting {
        Setting::Channels => channels(link)?,
        Setting::Rings => rings(link)?,
        Setting::Pause => pause(link)?,
        Setting::Coalesce => coalesce(link)?,
        Setting::Eee => eee(link)?,
        Setting::Hash(flow) => return ioctl::hash(link, *flow),
        Setting::Feature(name) => return feature(link, name, like),
    };
    let text = text.into_iter().map(|(name, number)| format!("{name}={number}")).collect::<Vec<_>>().join(" ");
    match like.read_as(&text) {
        KnobValue::Text(_) if matches!(like, KnobValue::Fields(_)) => Err(Errno::EOPNOTSUPP.into()),
        _ => Ok(text),
    }
}

/// Sends one request that sets a setting. That it was acknowledged does not mean that it is so.
///
/// # Errors
/// What the kernel or the driver says; `EINVAL` for a value that is none of this setting.
pub fn write(link: &str, setting: &Setting, value: &KnobValue) -> io::Result<()> {
    match (setting, value) {
        (Setting::Channels, KnobValue::Fields(fields)) => {
            let mut message = EthtoolMessage::new_channel_set(link);
            for (name, count) in fields {
                let count = u32::try_from(*count).map_err(|_| Errno::EINVAL)?;
                message.nlas.push(EthtoolAttr::Channel(match name.as_str() {
                    "combined" => EthtoolChannelAttr::CombinedCount(count),
                    "rx" => EthtoolChannelAttr::RxCount(count),
                    "tx" => EthtoolChannelAttr::TxCount(count),
                    _ => return Err(Errno::EINVAL.into()),
                }));
            }
            netlink::set_message(&message)
        }
        (Setting::Rings, KnobValue::Fields(fields)) => {
            netlink::set(link, RINGS_SET, &netlink::numbers(fields, &RING_ATTRIBUTES)?)
        }
        (Setting::Pause, KnobValue::Fields(fields)) => {
            netlink::set(link, PAUSE_SET, &netlink::switches(fields, &PAUSE_ATTRIBUTES)?)
        }
        (Setting::Eee, KnobValue::Fields(fields)) => {
            netlink::set(link, EEE_SET, &netlink::switches(fields, &EEE_ATTRIBUTES)?)
        }
        (Setting::Coalesce, KnobValue::Fields(fields)) => {
            netlink::set(link, COALESCE_SET, &netlink::numbers_and_switches(fields, &COALESCE_ATTRIBUTES)?)
        }
        (Setting::Hash(flow), KnobValue::Text(letters)) => ioctl::set_hash(link, *flow, letters),
        (Setting::Feature(name), KnobValue::Int(on @ (0 | 1))) => {
            netlink::set(link, FEATURES_SET, &[netlink::bit(FEATURES_WANTED, name, *on == 1)])
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The most that an interface takes; 0 for what it does not have.
pub fn limits(link: &str) -> NicLimits {
    let mut limits = NicLimits::default();
    for attribute in netlink::get(&EthtoolMessage::new_channel_get(Some(link))).unwrap_or_default() {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(most)) => limits.combined = most,
            EthtoolAttr::Channel(EthtoolChannelAttr::RxMax(most)) => limits.rx_queues = most,
            EthtoolAttr::Channel(EthtoolChannelAttr::TxMax(most)) => limits.tx_queues = most,
            _ => {}
        }
    }
    for attribute in netlink::get(&EthtoolMessage::new_ring_get(Some(link))).unwrap_or_default() {
        match attribute {
            EthtoolAttr::Ring(EthtoolRingAttr::RxMax(most)) => limits.rx_ring = most,
            EthtoolAttr::Ring(EthtoolRingAttr::TxMax(most)) => limits.tx_ring = most,
            _ => {}
        }
    }
    limits
}

type Found = Vec<(&'static str, u32)>;

fn channels(link: &str) -> io::Result<Found> {
    found(&EthtoolMessage::new_channel_get(Some(link)), |attribute| match attribute {
        EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) => Some(("combined", count)),
        EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(count)) => Some(("rx", count)),
        EthtoolAttr::Channel(EthtoolChannelAttr::TxCount(count)) => Some(("tx", count)),
        _ => None,
    })
}

fn rings(link: &str) -> io::Result<Found> {
    found(&EthtoolMessage::new_ring_get(Some(link)), |attribute| match attribute {
        EthtoolAttr::Ring(EthtoolRingAttr::Rx(entries)) => Some(("rx", entries)),
        EthtoolAttr::Ring(EthtoolRingAttr::Tx(entries)) => Some(("tx", entries)),
        _ => None,
    })
}

fn pause(link: &str) -> io::Result<Found> {
    found(&EthtoolMessage::new_pause_get(Some(link)), |attribute| match attribute {
        EthtoolAttr::Pause(EthtoolPauseAttr::AutoNeg(on)) => Some(("autoneg", on.into())),
        EthtoolAttr::Pause(EthtoolPauseAttr::Rx(on)) => Some(("rx", on.into())),
        EthtoolAttr::Pause(EthtoolPauseAttr::Tx(on)) => Some(("tx", on.into())),
        _ => None,
    })
}

fn coalesce(link: &str) -> io::Result<Found> {
    found(&EthtoolMessage::new_coalesce_get(Some(link)), |attribute| match attribute {
        EthtoolAttr::Coalesce(EthtoolCoalesceAttr::RxUsecs(usecs)) => Some(("rx-usecs", usecs)),
        EthtoolAttr::Coalesce(EthtoolCoalesceAttr::TxUsecs(usecs)) => Some(("tx-usecs", usecs)),
        EthtoolAttr::Coalesce(EthtoolCoalesceAttr::UseAdaptiveRx(on)) => Some(("adaptive-rx", on.into())),
        EthtoolAttr::Coalesce(EthtoolCoalesceAttr::UseAdaptiveTx(on)) => Some(("adaptive-tx", on.into())),
        _ => None,
    })
}

fn found(request: &EthtoolMessage, field: impl Fn(EthtoolAttr) -> Option<(&'static str, u32)>) -> io::Result<Found> {
    Ok(netlink::get(request)?.into_iter().filter_map(field).collect())
}

fn eee(link: &str) -> io::Result<Found> {
    let attributes = netlink::get_raw(link, EEE_GET)?;
    let enabled = attributes.iter().find(|(kind, _)| *kind == EEE_ENABLED);
    Ok(enabled.map(|(_, value)| ("enabled", u32::from(value.first() == Some(&1)))).into_iter().collect())
}

/// A feature that cannot be changed is one that the interface does not have, unless it is as it should be.
fn feature(link: &str, name: &str, like: &KnobValue) -> io::Result<String> {
    let (mut settable, mut active) = (false, false);
    for attribute in netlink::get(&EthtoolMessage::new_feature_get(Some(link)))? {
        let has = |bits: &[ethtool::EthtoolFeatureBit]| bits.iter().any(|bit| bit.name == name && bit.value);
        match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Hw(bits)) => settable = has(&bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => active = has(&bits),
            _ => {}
        }
    }
    let found = i64::from(active);
    if !settable && *like != KnobValue::Int(found) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(found.to_string())
}
