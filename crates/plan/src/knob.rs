//! The text of knobs: how the kernel writes a value, how we write it, and what both mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::ethtool;
use crate::state::KnobValue;

/// The longest time, microseconds, that CPUs may take to wake up. It holds while somebody keeps the file open
/// (`kernel/power/qos.c`); what is read is the strictest of all holders.
pub const CPU_WAKE_UP: &str = "dev/cpu_dma_latency";

/// Larger numbers of CPUs are garbage: `NR_CPUS` is 8192 at most.
const CPUS_MAX: u32 = 1 << 16;

impl KnobValue {
    /// What a text of the kernel means where `self` is wanted, so that equal values are equal whatever they look like:
    /// `0000000e` is `e`, `0-3` is `0,1,2,3`. A text that is not of the wanted kind is [`KnobValue::Text`], which equals
    /// no other kind.
    pub fn read_as(&self, text: &str) -> KnobValue {
        let found = match self {
            KnobValue::Int(_) => text.trim().parse().ok().map(KnobValue::Int),
            KnobValue::CpuMask(_) => cpu_mask(text).map(KnobValue::CpuMask),
            KnobValue::CpuList(_) => cpu_list(text).map(|cpus| KnobValue::CpuList(cpus.into_iter().collect())),
            KnobValue::Fields(like) => fields(text, like).map(KnobValue::Fields),
            KnobValue::Text(_) => None,
        };
        found.unwrap_or_else(|| KnobValue::text(text))
    }

    /// A text with its white space folded: the kernel separates the numbers of a sysctl by tabs.
    pub fn text(text: &str) -> KnobValue {
        KnobValue::Text(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// As it is written into the file, without a line break: masks in hexadecimal, lists as ranges.
    pub fn file_text(&self) -> String {
        match self {
            KnobValue::Int(number) => number.to_string(),
            KnobValue::CpuMask(cpus) => mask_text(cpus),
            KnobValue::CpuList(cpus) => list_text(cpus),
            KnobValue::Fields(fields) => {
                let fields: Vec<String> = fields.iter().map(|(name, number)| format!("{name}={number}")).collect();
                fields.join(" ")
            }
            KnobValue::Text(text) => text.clone(),
        }
    }
}

/// How a knob is called, for people: `/proc/sys/net/ipv4/ip_forward`, `ethtool eth0 rings`.
pub fn name(path: &str) -> String {
    match ethtool::of_path(path) {
        Some((link, setting)) => format!("ethtool {link} {setting}"),
        None => format!("/{path}"),
    }
}

/// The numbers that are asked for, of a text `rx=256 tx=256`; `None` when one is missing: this NIC does not have it.
fn fields(text: &str, like: &BTreeMap<String, i64>) -> Option<BTreeMap<String, i64>> {
    let found: BTreeMap<&str, &str> = text.split_whitespace().filter_map(|field| field.split_once('=')).collect();
    like.keys().map(|name| Some((name.clone(), found.get(name.as_str())?.parse().ok()?))).collect()
}

/// A list of CPUs as the kernel writes it, `0-3,8`; `None` when it is none. Empty is a list.
pub fn cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// A mask as the kernel writes it (`lib/bitmap.c`): groups of 32 bits in hexadecimal, the highest first.
fn cpu_mask(text: &str) -> Option<Vec<u32>> {
    let groups: Vec<&str> = text.trim().split(',').collect();
    if groups.len() > (CPUS_MAX / 32) as usize {
        return None;
    }
    let mut cpus = Vec::new();
    for (group, base) in groups.iter().rev().zip((0..CPUS_MAX).step_by(32)) {
        let is_hexadecimal = group.len() <= 8 && group.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u32::from_str_radix(group, 16).ok().filter(|_| is_hexadecimal)?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| base + bit));
    }
    Some(cpus)
}

fn mask_text(cpus: &[u32]) -> String {
    let mut groups = vec![0_u32; cpus.iter().max().map_or(1, |last| *last as usize / 32 + 1)];
    cpus.iter().for_each(|cpu| groups[*cpu as usize / 32] |= 1 << (cpu % 32));
    let (highest, rest) = groups.split_last().expect("there is at least one group");
    rest.iter().rev().fold(format!("{highest:x}"), |text, group| format!("{text},{group:08x}"))
}

/// The other way.
pub(crate) fn list_text(cpus: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_compared_by_meaning() {
        let mask = KnobValue::CpuMask(vec![1, 2, 3]);
        for text in ["e", "0e\n", "0000000e", "00000000,0000000e"] {
            assert_eq!(mask.read_as(text), mask, "{text}");
        }
        assert_eq!(mask.read_as("1,00000000"), KnobValue::CpuMask(vec![32]));
        assert_eq!(KnobValue::CpuMask(vec![]).read_as("00000000"), KnobValue::CpuMask(vec![]));
        assert_eq!(KnobValue::CpuList(vec![0, 1, 2]).read_as("0-1,2\n"), KnobValue::CpuList(vec![0, 1, 2]));
        assert_eq!(KnobValue::Int(7).read_as(" 7\n"), KnobValue::Int(7));
        assert_eq!(KnobValue::Text("a".into()).read_as("4096\t131072\n"), KnobValue::Text("4096 131072".into()));
    }

    #[test]
    fn garbage_equals_nothing_that_can_be_wanted() {
        for text in ["", "zz", "1,2", "123456789", "+1", "-1", "0-99999999999"] {
            assert!(matches!(KnobValue::CpuMask(vec![0]).read_as(text), KnobValue::Text(_) | KnobValue::CpuMask(_)));
            assert_ne!(KnobValue::CpuMask(vec![0]).read_as(text), KnobValue::CpuMask(vec![0]), "{text}");
        }
        assert_eq!(KnobValue::Int(1).read_as("1 2"), KnobValue::Text("1 2".into()));
        assert_eq!(KnobValue::CpuList(vec![1]).read_as("a"), KnobValue::Text("a".into()));
        assert_eq!(KnobValue::CpuMask(vec![]).read_as(&"0,".repeat(5000)), KnobValue::text(&"0,".repeat(5000)));
    }

    #[test]
    fn numbers_that_are_set_together_are_compared_together() {
        let fields = |fields: &[(&str, i64)]| {
            KnobValue::Fields(fields.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect())
        };
        let want = fields(&[("rx", 2048), ("tx", 1024)]);
        assert_eq!(want.file_text(), "rx=2048 tx=1024");
        assert_eq!(want.read_as("rx=2048 tx=1024 rx-max=4096"), want);
        assert_eq!(want.read_as("rx=256 tx=256"), fields(&[("rx", 256), ("tx", 256)]));
        for lacking in ["", "rx=2048", "rx=2048 tx=x", "rx 2048 tx 1024"] {
            assert!(matches!(want.read_as(lacking), KnobValue::Text(_)), "{lacking}");
        }
    }

    #[test]
    fn knobs_have_names_that_people_know() {
        assert_eq!(name("proc/sys/net/ipv4/ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(name("ethtool/eth0/rings"), "ethtool eth0 rings");
        assert_eq!(name("ethtool/eth0/feature/rx-gro"), "ethtool eth0 feature rx-gro");
    }

    #[test]
    fn masks_are_written_in_groups_of_32_bits() {
        assert_eq!(KnobValue::CpuMask(vec![]).file_text(), "0");
        assert_eq!(KnobValue::CpuMask(vec![0, 33]).file_text(), "2,00000001");
        assert_eq!(KnobValue::CpuList(vec![0, 1, 2, 8]).file_text(), "0-2,8");
    }

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0-2,8\n"), Some(BTreeSet::from([0, 1, 2, 8])));
        assert_eq!(cpu_list("\n"), Some(BTreeSet::new()));
        for garbage in ["a", "3-1", "0-4294967295", "1-", "-1"] {
            assert_eq!(cpu_list(garbage), None, "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(cpus in prop::collection::btree_set(0_u32..300, 0..40)) {
            let cpus: Vec<u32> = cpus.into_iter().collect();
            let (mask, list) = (KnobValue::CpuMask(cpus.clone()), KnobValue::CpuList(cpus));
            prop_assert_eq!(mask.read_as(&mask.file_text()), mask);
            prop_assert_eq!(list.read_as(&list.file_text()), list);
        }
    }
}
