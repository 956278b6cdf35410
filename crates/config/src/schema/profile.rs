//! The files of `hwprofiles/`, and what of them `[hardware.overrides]` takes.

use super::{Form, Key, Kind, Merge, Preset, key, words};
use crate::model::{
    Auto, Coalesce, Frequency, IrqPolicy, QueueCount, RingSize, RpsPolicy, Switch, UdpHash, WakeUp, XpsPolicy,
};

/// The settings.
pub(super) static TUNING: &[Key] = PROFILE.split_at(HEAD).1;

/// Keys at the head of [`PROFILE`] that only a profile has.
const HEAD: usize = 2;

pub(crate) static PROFILE: &[Key] = &[
    key("profile", Kind::Table(Merge::Deep, ABOUT), Preset::None, "What the profile is."),
    key(
        "match",
        Kind::Tables(MATCH),
        Preset::None,
        "Which machines it is for: alternatives, each of which must fit as a whole; none fits every machine. Texts are globs with `*`.",
    ),
    key(
        "irq",
        Kind::Word(words::<IrqPolicy>),
        Preset::None,
        "Interrupt affinity of NIC queues: a queue on each core, over all hardware threads, or left alone.",
    ),
    key(
        "rps",
        Kind::Word(words::<RpsPolicy>),
        Preset::None,
        "Receive packet steering: where a NIC has fewer queues than there are cores, off, or left alone.",
    ),
    key(
        "xps",
        Kind::Word(words::<XpsPolicy>),
        Preset::None,
        "Transmit packet steering: the queue whose interrupt is on the same core, off, or left alone.",
    ),
    QUEUES,
    RX_RING,
    TX_RING,
    COALESCE,
    RX_USECS,
    UDP_HASH,
    PAUSE,
    EEE,
    key(
        "pcie-power-saving",
        Kind::Word(words::<Switch>),
        Preset::None,
        "Power saving of a NIC's PCI Express link (ASPM L1): waking up takes microseconds.",
    ),
    key(
        "cpu-frequency",
        Kind::Word(words::<Frequency>),
        Preset::None,
        "CPUs always run at their highest frequency, or as the machine has it. Not in a virtual machine.",
    ),
    key(
        "cpu-wake-up",
        Kind::Either(&[Kind::Integer(0, 1_000_000), Kind::Word(words::<WakeUp>)]),
        Preset::None,
        "Sleep of CPUs from which waking up takes more microseconds than this is forbidden while headgated runs. Not in a virtual machine.",
    ),
    FEATURES,
    key(
        "drivers",
        Kind::Named("driver", DRIVER),
        Preset::None,
        "What is different for NICs of one kernel driver: `[drivers.e1000e]`.",
    ),
    key("conntrack", Kind::Table(Merge::Deep, CONNTRACK), Preset::None, "Connection tracking."),
    key(
        "sysctl",
        Kind::Map(Merge::Deep, Form::Sysctl, super::host::SYSCTL_VALUE),
        Preset::None,
        "Kernel settings; `{if}` stands for `all`, `default` and each managed interface.",
    ),
];

const QUEUES: Key = key(
    "queues",
    Kind::Either(&[Kind::Integer(1, 1024), Kind::Word(words::<QueueCount>)]),
    Preset::None,
    "How many queues a NIC uses, at most as many as it has: one for each physical core, for each hardware thread, all, a number, or left alone.",
);
const RX_RING: Key =
    key("rx-ring", RING, Preset::None, "Descriptors of each receive queue, at most as many as the NIC takes.");
const TX_RING: Key = key("tx-ring", RING, Preset::None, "The same of each transmit queue.");
const RING: Kind = Kind::Either(&[Kind::Integer(16, 65536), Kind::Word(words::<RingSize>)]);
const COALESCE: Key = key(
    "coalesce",
    Kind::Word(words::<Coalesce>),
    Preset::None,
    "How long a NIC waits for more packets before it interrupts: by the load, 10 µs, 50 µs, or left alone.",
);
const RX_USECS: Key = key(
    "rx-usecs",
    Kind::Integer(0, 100_000),
    Preset::None,
    "The same in microseconds, as the driver understands it; goes before `coalesce`.",
);
const UDP_HASH: Key = key(
    "udp-hash",
    Kind::Word(words::<UdpHash>),
    Preset::None,
    "What of a UDP packet chooses its receive queue. With addresses alone a resolver's queries share one queue.",
);
const PAUSE: Key = key("pause", Kind::Word(words::<Switch>), Preset::None, "Ethernet flow control (802.3x).");
const EEE: Key = key("eee", Kind::Word(words::<Switch>), Preset::None, "Energy-efficient Ethernet (802.3az).");
const FEATURES: Key = key(
    "features",
    Kind::Map(Merge::Deep, Form::Token, &Kind::Boolean),
    Preset::None,
    "Features of NICs by the kernel's names, as `ethtool -k` lists them: `rx-gro`, `tx-tcp-segmentation`.",
);

static DRIVER: &[Key] = &[QUEUES, RX_RING, TX_RING, COALESCE, RX_USECS, UDP_HASH, PAUSE, EEE, FEATURES];

static ABOUT: &[Key] = &[
    key("title", Kind::Text(Form::Line), Preset::None, "One line for people. Required."),
    key("priority", Kind::Integer(0, 1_000_000), Preset::Integer(0), "Among the profiles that fit, the highest wins."),
];

static MATCH: &[Key] = &[
    key(
        "dmi-product",
        Kind::OneOrMore(&Kind::Text(Form::Line)),
        Preset::None,
        "Any of these against `/sys/class/dmi/id/product_name`.",
    ),
    key("cpu-model", Kind::Text(Form::Line), Preset::None, "Against the CPU's model name."),
    key("cpu-cores", Kind::Integer(1, 65535), Preset::None, "Physical cores."),
    key(
        "nic-drivers",
        Kind::OneOrMore(&Kind::Text(Form::Line)),
        Preset::None,
        "At least one NIC has one of these drivers.",
    ),
    key(
        "nic-count-min",
        Kind::Integer(0, 65535),
        Preset::None,
        "At least so many NICs (of those drivers, when given).",
    ),
];

static CONNTRACK: &[Key] = &[key(
    "max",
    Kind::Either(&[Kind::Integer(1024, 0x7fff_ffff), Kind::Word(words::<Auto>)]),
    Preset::None,
    "Most connections tracked; `auto`: an eighth of the memory.",
)];
