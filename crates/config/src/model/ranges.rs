//! Many prefixes in little memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A set of addresses: what prefixes cover, as ranges that neither overlap nor touch. 8 bytes a range of IPv4, 32 of IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    /// The ranges of IPv4, ascending; both ends are in.
    pub fn v4(&self) -> impl ExactSizeIterator<Item = (Ipv4Addr, Ipv4Addr)> {
        self.v4.iter().map(|&(first, last)| (first.into(), last.into()))
    }

    /// The ranges of IPv6, ascending; both ends are in.
    pub fn v6(&self) -> impl ExactSizeIterator<Item = (Ipv6Addr, Ipv6Addr)> {
        self.v6.iter().map(|&(first, last)| (first.into(), last.into()))
    }

    /// Whether there is no address in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        fn among<T: Ord>(ranges: &[(T, T)], value: &T) -> bool {
            let at = ranges.partition_point(|(first, _)| first <= value);
            at.checked_sub(1).is_some_and(|before| ranges[before].1 >= *value)
        }
        match address {
            IpAddr::V4(address) => among(&self.v4, &address.to_bits()),
            IpAddr::V6(address) => among(&self.v6, &address.to_bits()),
        }
    }
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<T: IntoIterator<Item = IpNet>>(nets: T) -> Self {
        let mut ranges = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => ranges.v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => ranges.v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        merge(&mut ranges.v4, |last| last.checked_add(1));
        merge(&mut ranges.v6, |last| last.checked_add(1));
        ranges
    }
}

/// Sorts ranges and joins those that overlap or touch.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>, next: impl Fn(T) -> Option<T>) {
    ranges.sort_unstable();
    // `dedup_by` shows each element with the one before it that stays.
    ranges.dedup_by(|one, kept| {
        let joined = next(kept.1).is_none_or(|next| one.0 <= next);
        if joined {
            kept.1 = kept.1.max(one.1);
        }
        joined
    });
    ranges.shrink_to_fit();
}

#[cfg(test)]
mod tests;
