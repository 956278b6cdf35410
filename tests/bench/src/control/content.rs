//! The same farms in the languages of three engines: an address each, port 80 to a port of the backends, all weights 1.

use std::fmt::Write;
use std::net::Ipv4Addr;

use headgate_tests::farms;

use super::Size;
use crate::peer::{Nat, NftlbFarm, NftlbFarms};

/// Some farms.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// How many.
    pub size: Size,
    /// Where their backends listen.
    pub port: u16,
}

impl Content {
    /// For `headgated`; addresses and health checks are none of its business here, as they are none of the others'.
    pub fn headgate(self) -> String {
        let farms = farms::generate(self.size.farms, self.size.backends).replace(":8080", &format!(":{}", self.port));
        format!("[defaults.farm.address]\nmanage = \"never\"\n[defaults.farm.health]\ntype = \"none\"\n{farms}")
    }

    /// For nftlb, in its order of keys.
    pub fn nftlb(self) -> NftlbFarms {
        NftlbFarms { farms: (0..self.size.farms).map(|farm| self.nftlb_farm(farm)).collect() }
    }

    /// One farm for nftlb's API.
    pub fn nftlb_farm(self, farm: u32) -> NftlbFarm {
        let listen = ("tcp", farms::virtual_address(farm), "80".to_owned());
        NftlbFarm::new(&format!("f{farm}"), Nat::Source, listen, &self.backends(farm)).to_port(self.port)
    }

    fn backends(self, farm: u32) -> Vec<Ipv4Addr> {
        (0..self.size.backends).map(|backend| farms::backend_address(farm * self.size.backends + backend)).collect()
    }

    /// For `nft -f`: two maps and two rules for all farms, which is the layout that loads fastest; replaces what was there.
    pub fn nft(self) -> String {
        let farms = 0..self.size.farms;
        let services: Vec<String> = farms.clone().map(|farm| self.nft_service(farm)).collect();
        let slots: Vec<String> = farms.flat_map(|farm| self.nft_slots(farm)).collect();
        format!(
            "table ip flat\ndelete table ip flat\ntable ip flat {{
 map services {{
  type inet_proto . ipv4_addr . inet_service : mark
  elements = {{ {services} }}
 }}
 map slots {{
  typeof meta mark . numgen random mod {turns} : ip daddr . tcp dport
  elements = {{ {slots} }}
 }}
 chain destination {{
  type nat hook prerouting priority dstnat;
  meta mark set ip protocol . ip daddr . th dport map @services \\
   ip protocol tcp dnat ip addr . port to meta mark . numgen random mod {turns} map @slots
 }}
 chain source {{
  type nat hook postrouting priority srcnat;
  ct status dnat snat to 172.31.255.254
 }}
}}
",
            services = services.join(", "),
            slots = slots.join(", "),
            turns = self.size.backends,
        )
    }

    fn nft_service(self, farm: u32) -> String {
        format!("tcp . {} . 80 : {}", farms::virtual_address(farm), farm + 1)
    }

    /// One element for each backend.
    pub fn nft_slots(self, farm: u32) -> Vec<String> {
        let slot = |(turn, address)| format!("{} . {turn} : {address} . {}", farm + 1, self.port);
        self.backends(farm).into_iter().enumerate().map(slot).collect()
    }

    /// The command that puts a farm into the tables of [`Self::nft`], or takes it out; `verb` is add or delete.
    pub fn nft_farm(self, verb: &str, farm: u32) -> String {
        let (service, slots) = (self.nft_service(farm), self.nft_slots(farm).join(", "));
        format!("{verb} element ip flat services {{ {service} }}\n{verb} element ip flat slots {{ {slots} }}\n")
    }

    /// One farm for our API: its path's last part, and its body.
    pub fn headgate_farm(self, farm: u32) -> (String, String) {
        let mut backends = String::new();
        for (number, address) in self.backends(farm).into_iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            // Writing to a String does not fail.
            let _ = write!(backends, "{comma}\"b{number}\": {{\"address\": \"{address}:{}\"}}", self.port);
        }
        let listen = farms::virtual_address(farm);
        (format!("f{farm}"), format!("{{\"listen\": \"{listen}:80\", \"backends\": {{{backends}}}}}"))
    }
}
