//! Leases of DHCP: what a server said, and whether it is believed.
//!
//! A server is whoever answers first on the wire. Its words are texts until they have been read here; an offer that would take
//! the box's own addresses or networks away from it, or that means nothing, is refused with a reason.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// The metric of the first default route that a lease brings; the next ones have higher ones. A route of the configuration, whose
/// metric is 0 unless it says another one, goes before.
pub const ROUTE_METRIC: u32 = 1024;
/// What a server that says nothing means, as udhcpc takes it, seconds.
const LEASE_DEFAULT: u32 = 3600;
/// A shorter lease would be a change of the network every few seconds.
const LEASE_MIN: u32 = 10;
/// The widest subnet that is believed: one whole network of RFC 1918.
const PREFIX_MIN: u8 = 8;

/// What a server said, word by word, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Offer {
    /// The address.
    pub ip: String,
    /// Its mask, dotted.
    pub subnet: String,
    /// Gateways, by spaces; the first counts.
    pub router: String,
    /// How long, seconds.
    pub lease: String,
    /// Who resolves names, by spaces.
    pub dns: String,
    /// The server.
    pub serverid: String,
    /// When it came: seconds since the boot, as `CLOCK_BOOTTIME` counts them.
    pub received: u64,
    /// The process that got it.
    pub client: i32,
}

/// An offer that can be believed as far as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// With its prefix length.
    pub net: Ipv4Net,
    /// Where the default route leads, if anywhere.
    pub gateway: Option<Ipv4Addr>,
}

impl Offer {
    /// How long the address may be used, seconds.
    fn seconds(&self) -> Result<u32, String> {
        if self.lease.is_empty() {
            return Ok(LEASE_DEFAULT);
        }
        let seconds = self.lease.parse().map_err(|_| format!("the lease time {:?} is no number", self.lease))?;
        if seconds < LEASE_MIN {
            return Err(format!("a lease of {seconds} s is too short"));
        }
        Ok(seconds)
    }

    /// Whether it is over at `now`, seconds since the boot. One from before this boot is.
    pub fn is_over(&self, now: u64) -> bool {
        let lasts = self.seconds().unwrap_or(LEASE_DEFAULT);
        now < self.received || (lasts != u32::MAX && now - self.received >= u64::from(lasts))
    }

    /// What it says.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn read(&self) -> Result<Lease, String> {
        self.seconds()?;
        let ip: Ipv4Addr = self.ip.parse().map_err(|_| format!("the address {:?} is none", self.ip))?;
        if !is_of_a_host(ip) {
            return Err(format!("{ip} is no address of a host"));
        }
        let mask: Ipv4Addr = self.subnet.parse().map_err(|_| format!("the mask {:?} is none", self.subnet))?;
        let net = Ipv4Net::with_netmask(ip, mask).map_err(|_| format!("the mask {mask} has holes"))?;
        if net.prefix_len() < PREFIX_MIN {
            return Err(format!("the mask {mask} is too wide"));
        }
        if is_end(net, ip) {
            return Err(format!("{ip} is the first or last address of its subnet {}", net.trunc()));
        }
        let gateway =
            self.router.split(' ').find(|word| !word.is_empty()).map(|word| gateway(net, word)).transpose()?;
        Ok(Lease { net, gateway })
    }

    /// Who resolves names; what is no address of a host is passed over.
    pub fn resolvers(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.dns.split(' ').filter_map(|word| word.parse().ok()).filter(|address| is_of_a_host(*address))
    }
}

fn gateway(net: Ipv4Net, word: &str) -> Result<Ipv4Addr, String> {
    let gateway: Ipv4Addr = word.parse().map_err(|_| format!("the router {word:?} is no address"))?;
    if !net.contains(&gateway) {
        return Err(format!("the router {gateway} is outside of the subnet {}", net.trunc()));
    }
    if gateway == net.addr() || is_end(net, gateway) {
        return Err(format!("the router {gateway} is no other host of the subnet {}", net.trunc()));
    }
    Ok(gateway)
}

/// The first and last address of a subnet belong to no host, but in the two smallest (RFC 3021).
fn is_end(net: Ipv4Net, address: Ipv4Addr) -> bool {
    net.prefix_len() < 31 && (address == net.network() || address == net.broadcast())
}

fn is_of_a_host(ip: Ipv4Addr) -> bool {
    let first = ip.octets()[0];
    // 0/8 is "this network", 224/3 multicast and reserved.
    first != 0 && first < 224 && !ip.is_loopback() && !ip.is_link_local()
}

impl Lease {
    /// Why it cannot be had beside what the box is and serves; `taken` are addresses, `others` the networks of other interfaces.
    pub fn conflict(&self, taken: &[(IpAddr, String)], others: &[IpNet]) -> Option<String> {
        let ours = IpNet::V4(self.net.trunc());
        if let Some((address, whose)) = taken.iter().find(|(address, _)| *address == IpAddr::V4(self.net.addr())) {
            return Some(format!("{address} is {whose}"));
        }
        let overlaps = |other: &&IpNet| ours.contains(*other) || other.contains(&ours);
        others
            .iter()
            .find(overlaps)
            .map(|other| format!("its subnet {ours} overlaps {} of another interface", other.trunc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(ip: &str, subnet: &str, router: &str, lease: &str) -> Offer {
        let [ip, subnet, router, lease] = [ip, subnet, router, lease].map(str::to_owned);
        Offer { ip, subnet, router, lease, ..Offer::default() }
    }

    #[test]
    fn a_good_offer_is_an_address_and_a_gateway() {
        let lease = offer("10.0.0.7", "255.255.255.0", "10.0.0.1 10.0.0.2", "60").read().unwrap();
        assert_eq!((lease.net.to_string().as_str(), lease.gateway), ("10.0.0.7/24", Some(Ipv4Addr::new(10, 0, 0, 1))));
        let alone = offer("10.0.0.7", "255.255.255.255", "", "").read().unwrap();
        assert_eq!((alone.net.prefix_len(), alone.gateway), (32, None));
    }

    #[test]
    fn resolvers_are_the_addresses_of_hosts_among_what_is_said() {
        let offer = Offer { dns: "10.0.0.53 0.0.0.0 nonsense  192.0.2.53 224.0.0.251".to_owned(), ..Offer::default() };
        let told: Vec<String> = offer.resolvers().map(|address| address.to_string()).collect();
        assert_eq!(told, ["10.0.0.53", "192.0.2.53"]);
        assert_eq!(Offer::default().resolvers().count(), 0);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        let mask = "255.255.255.0";
        for (offer, why) in [
            (offer("", mask, "", "60"), "the address \"\" is none"),
            (offer("$(reboot)", mask, "", "60"), "the address \"$(reboot)\" is none"),
            (offer("0.0.0.0", mask, "", "60"), "0.0.0.0 is no address of a host"),
            (offer("127.0.0.2", mask, "", "60"), "127.0.0.2 is no address of a host"),
            (offer("224.0.0.5", mask, "", "60"), "224.0.0.5 is no address of a host"),
            (offer("255.255.255.255", mask, "", "60"), "255.255.255.255 is no address of a host"),
            (offer("10.0.0.7", "", "", "60"), "the mask \"\" is none"),
            (offer("10.0.0.7", "255.0.255.0", "", "60"), "the mask 255.0.255.0 has holes"),
            (offer("10.0.0.7", "0.0.0.0", "", "60"), "the mask 0.0.0.0 is too wide"),
            (offer("10.0.0.7", "128.0.0.0", "", "60"), "the mask 128.0.0.0 is too wide"),
            (offer("10.0.0.0", mask, "", "60"), "10.0.0.0 is the first or last address of its subnet 10.0.0.0/24"),
            (offer("10.0.0.255", mask, "", "60"), "10.0.0.255 is the first or last address of its subnet 10.0.0.0/24"),
            (offer("10.0.0.7", mask, "10.0.1.1", "60"), "the router 10.0.1.1 is outside of the subnet 10.0.0.0/24"),
            (
                offer("10.0.0.7", mask, "10.0.0.7", "60"),
                "the router 10.0.0.7 is no other host of the subnet 10.0.0.0/24",
            ),
            (offer("10.0.0.7", mask, "; rm -rf /", "60"), "the router \";\" is no address"),
            (offer("10.0.0.7", mask, "", "5"), "a lease of 5 s is too short"),
            (offer("10.0.0.7", mask, "", "-1"), "the lease time \"-1\" is no number"),
        ] {
            assert_eq!(offer.read(), Err(why.to_owned()), "{offer:?}");
        }
    }

    #[test]
    fn a_lease_ends_with_its_time_or_with_the_boot() {
        let offer = Offer { received: 100, ..offer("10.0.0.7", "255.0.0.0", "", "60") };
        assert!(!offer.is_over(100) && !offer.is_over(159) && offer.is_over(160) && offer.is_over(99));
        assert!(!Offer { lease: u32::MAX.to_string(), ..offer }.is_over(u64::MAX));
    }

    #[test]
    fn a_lease_takes_nothing_away_from_the_box() {
        let lease = offer("10.0.0.7", "255.255.255.0", "", "60").read().unwrap();
        let taken = [("10.0.0.7".parse().unwrap(), "an address of farm web".to_owned())];
        assert_eq!(lease.conflict(&taken, &[]).unwrap(), "10.0.0.7 is an address of farm web");
        for other in ["10.0.0.1/24", "10.0.0.129/25", "10.3.0.1/8"] {
            let why = lease.conflict(&[], &[other.parse().unwrap()]).unwrap();
            assert!(why.starts_with("its subnet 10.0.0.0/24 overlaps 10."), "{why}");
        }
        assert_eq!(lease.conflict(&[], &["10.0.1.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()]), None);
    }
}
