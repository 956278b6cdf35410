//! The files of `hwprofiles/`, and what of them `[hardware.overrides]` takes.

use super::{Form, Key, Kind, Merge, Preset, key, words};
use crate::model::{Auto, IrqPolicy, RpsPolicy, XpsPolicy};

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
    key("conntrack", Kind::Table(Merge::Deep, CONNTRACK), Preset::None, "Connection tracking."),
    key(
        "sysctl",
        Kind::Map(Merge::Deep, Form::Sysctl, super::host::SYSCTL_VALUE),
        Preset::None,
        "Kernel settings; `{if}` stands for `all`, `default` and each managed interface.",
    ),
];

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
