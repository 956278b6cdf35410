use headgate_config::model::{AcceptRa, Api, Interface, Vlan};
use headgate_config::types::Role;

use super::*;
use crate::samples::{address, config, facts, farm, interface, net, origin, tcp, web};

fn allow(service: &str, from: &[&str]) -> Allow {
    Allow { service: service.to_owned(), from: from.iter().map(|text| net(text)).collect() }
}

fn roles() -> BTreeMap<String, String> {
    [("service", "eth0"), ("backend", "eth1")].map(|(role, link)| (role.to_owned(), link.to_owned())).into()
}

/// Two interfaces; the one at the clients lets this in.
fn guarded(list: Option<Vec<Allow>>) -> Config {
    let mut config = config(vec![web()]);
    config.system.protect = Some(true);
    let service = Interface { allow: list, ..interface("service", &[]) };
    config.network.interfaces = [service, interface("backend", &[])].map(|one| (one.role.clone(), one)).into();
    config
}

fn chain(config: &Config, name: &str) -> Vec<String> {
    let (_, table) = table(config, &facts(), &roles()).unwrap();
    table.chains[name].rules.iter().map(ToString::to_string).collect()
}

#[test]
fn it_is_on_by_itself_on_the_appliance_only() {
    let mut config = config(vec![web()]);
    let on = |config: &Config, appliance| table(config, &Facts { appliance, ..facts() }, &roles()).is_some();
    assert!(!on(&config, false) && on(&config, true));
    config.system.protect = Some(false);
    assert!(!on(&config, true));
    config.system.protect = Some(true);
    assert!(on(&config, false));
}

#[test]
fn an_interface_lets_in_what_it_says() {
    let drop = "counter drop";
    assert_eq!(
        chain(&guarded(None), "allow-service"),
        ["meta l4proto icmp @th,0,8 0x08 accept", "meta l4proto ipv6-icmp @th,0,8 0x80 accept", drop]
    );
    assert_eq!(chain(&guarded(Some(vec![])), "allow-service"), [drop]);
    assert_eq!(chain(&guarded(Some(vec![allow("all", &[])])), "allow-service"), ["accept", drop]);
    let list = vec![
        allow("ssh", &["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"]),
        allow("vrrp", &[]),
        allow("udp/161", &[]),
        allow("ping", &["172.16.1.0/24"]),
    ];
    assert_eq!(
        chain(&guarded(Some(list)), "allow-service"),
        [
            "meta nfproto ipv4 ip saddr & 255.0.0.0 == 10.0.0.0 meta l4proto tcp th dport 22 accept",
            "meta nfproto ipv6 ip6 saddr & ffff:ffff:: == 2001:db8:: meta l4proto tcp th dport 22 accept",
            "meta nfproto ipv4 meta l4proto tcp th dport 22 accept",
            "meta l4proto 112 accept",
            "meta l4proto udp th dport 161 accept",
            "meta nfproto ipv4 ip saddr & 255.255.255.0 == 172.16.1.0 meta l4proto icmp @th,0,8 0x08 accept",
            drop,
        ]
    );
}

#[test]
fn what_does_not_listen_needs_no_opening() {
    let mut config = guarded(Some(vec![allow("api", &[]), allow("metrics", &[])]));
    assert_eq!(chain(&config, "allow-service"), ["counter drop"]);
    config.api = Some(Api { origin: origin(), listen: Some("172.16.1.254:8443".parse().unwrap()), certificate: None });
    assert_eq!(chain(&config, "allow-service"), ["meta l4proto tcp th dport 8443 accept", "counter drop"]);
}

#[test]
fn a_client_of_dhcp_gets_its_answer() {
    let mut config = guarded(None);
    let role = Role::new("service").unwrap();
    config.network.interfaces.get_mut(&role).unwrap().addresses = vec![InterfaceAddress::Dhcp];
    assert!(chain(&config, "allow-service").contains(&"meta l4proto udp th sport 67 th dport 68 accept".to_owned()));
}

#[test]
fn a_vrf_lets_in_what_its_first_interface_says() {
    let mut config = guarded(None);
    let mgmt = Role::new("mgmt").unwrap();
    for interface in config.network.interfaces.values_mut() {
        interface.vrf = Some(mgmt.clone());
    }
    let (_, table) = table(&config, &facts(), &roles()).unwrap();
    let elements = &table.sets["interfaces"].elements;
    let goes = |link: &str| format!("{:?}", elements[&exactly(link_bytes(link))].data);
    assert_eq!(elements.len(), 3);
    assert_eq!(goes("mgmt"), goes("eth1"), "`backend` comes before `service`");
    assert_ne!(goes("mgmt"), goes("eth0"));
}

#[test]
fn vlans_have_lists_of_their_own_and_the_rest_answers_to_ping() {
    let mut config = guarded(None);
    let role = Role::new("v10").unwrap();
    let vlan = Vlan {
        role: role.clone(),
        origin: origin(),
        parent: "service".to_owned(),
        id: 10,
        addresses: Vec::new(),
        mtu: None,
        accept_ra: AcceptRa::No,
        vrf: None,
        allow: Some(vec![allow("bgp", &[])]),
    };
    config.network.vlans.insert(role, vlan);
    let mut roles = roles();
    // Not there yet: no map can name it.
    assert!(!table(&config, &facts(), &roles).unwrap().1.chains.contains_key("allow-v10"));
    roles.insert("v10".to_owned(), "v10".to_owned());
    let (_, table) = table(&config, &facts(), &roles).unwrap();
    assert_eq!(table.chains["allow-v10"].rules[0].to_string(), "meta l4proto tcp th dport 179 accept");
    assert_eq!(table.sets["interfaces"].elements.len(), 3);
    let control: Vec<String> = table.chains["control6"].rules.iter().map(ToString::to_string).collect();
    assert_eq!(control[..2], ["@th,0,8 0x01 accept", "@th,0,8 & 0xfe == 0x02 accept"]);
    assert_eq!(control.len(), 7, "{control:?}");
    let protect: Vec<String> = table.chains["protect"].rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        protect,
        [
            "meta iif 1 accept",
            "ct state established,related accept",
            "meta l4proto icmp jump control4",
            "meta l4proto ipv6-icmp jump control6",
            "meta l4proto 2 accept",
            "meta iifname vmap @interfaces",
            "meta l4proto icmp @th,0,8 0x08 accept",
            "meta l4proto ipv6-icmp @th,0,8 0x80 accept",
            "counter drop",
        ]
    );
}

#[test]
fn a_local_farm_lets_its_own_clients_in() {
    let mut config = guarded(None);
    let mut ssh = farm("ssh", vec![tcp("0.0.0.0", 22)], vec![]);
    ssh.mode = Mode::Local;
    ssh.listen.push(Listen { ports: Ports::Range(1000, 1023), ..tcp("172.16.1.254", 1) });
    config.farms.insert(ssh.name.clone(), Arc::new(ssh));
    let rules = chain(&config, "protect");
    for rule in [
        "meta nfproto ipv4 meta l4proto tcp th dport 22 accept",
        "meta nfproto ipv4 ip daddr 172.16.1.254 meta l4proto tcp th dport & 65528 == 1000 accept",
        "meta nfproto ipv4 ip daddr 172.16.1.254 meta l4proto tcp th dport & 65520 == 1008 accept",
    ] {
        assert!(rules.iter().any(|found| found == rule), "{rule} is not in {rules:#?}");
    }
}

#[test]
fn a_range_is_covered_exactly() {
    for (first, last) in [(0, 65535), (1, 65535), (1, 1), (6000, 6010), (80, 81), (65535, 65535), (1024, 49151)] {
        let found: Vec<(u16, u16)> = prefixes(Field::Dport, first, last)
            .map(|statement| {
                let number = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
                let Statement::Match { value, constant, .. } = statement else { panic!() };
                let mask = if let Value::And(_, mask) = value { number(&mask) } else { u16::MAX };
                (mask, number(&constant))
            })
            .collect();
        assert!(found.len() <= 30, "{first}-{last}: {found:?}");
        for port in 0..=u16::MAX {
            let hit = found.iter().filter(|(mask, start)| port & mask == *start).count();
            assert_eq!(hit, usize::from((first..=last).contains(&port)), "{port} of {first}-{last}");
        }
    }
}

#[test]
fn who_would_not_come_back_is_told() {
    let way = |config: &Config, client: &str| {
        shuts_out(config, &facts(), &roles(), (address(client), "172.16.1.254:22".parse().unwrap()))
    };
    let none = guarded(None);
    assert_eq!(
        way(&none, "172.16.1.10").unwrap(),
        "system.protect would not let 172.16.1.10 come back to port 22 by eth0: allow of service does not"
    );
    assert_eq!(way(&none, "127.0.0.1"), None);
    assert_eq!(way(&guarded(Some(vec![allow("ssh", &[])])), "172.16.1.10"), None);
    assert_eq!(way(&guarded(Some(vec![allow("tcp/22", &["172.16.1.0/24"])])), "172.16.1.10"), None);
    assert!(way(&guarded(Some(vec![allow("ssh", &["10.0.0.0/8"])])), "172.16.1.10").is_some());
    assert!(way(&guarded(Some(vec![allow("ping", &[]), allow("udp/22", &[])])), "172.16.1.10").is_some());
    let mut off = guarded(None);
    off.system.protect = Some(false);
    assert_eq!(way(&off, "172.16.1.10"), None);
    let mut local = guarded(None);
    let ssh = Farm { mode: Mode::Local, ..farm("ssh", vec![tcp("0.0.0.0", 22)], vec![]) };
    local.farms.insert(ssh.name.clone(), Arc::new(ssh));
    assert_eq!(way(&local, "172.16.1.10"), None);
    let mut unnamed = guarded(None);
    unnamed.network.interfaces.clear();
    assert!(way(&unnamed, "172.16.1.10").unwrap().ends_with("no [network.interfaces] names eth0"));
}

#[test]
fn who_came_to_an_api_that_moves_is_told() {
    let at = |listen: Option<&str>| {
        let mut config = guarded(None);
        config.api =
            listen.map(|listen| Api { origin: origin(), listen: Some(listen.parse().unwrap()), certificate: None });
        config
    };
    let server = "172.16.1.254:8443".parse().unwrap();
    let told = |before: Option<&str>, after: Option<&str>, client: &str| {
        stops_listening(&at(before), &at(after), (address(client), server))
    };
    let (own, any) = (Some("172.16.1.254:8443"), Some("0.0.0.0:8443"));
    let why = "api.listen would not take 172.16.1.10 at 172.16.1.254:8443 any more";
    for after in [None, Some("172.16.1.254:8444"), Some("172.16.2.1:8443"), Some("127.0.0.1:8443")] {
        for before in [own, any] {
            assert_eq!(told(before, after, "172.16.1.10").as_deref(), Some(why), "{after:?}");
            assert_eq!(told(before, after, "127.0.0.1"), None, "through a tunnel they come to the box in another way");
        }
        assert_eq!(told(None, after, "172.16.1.10"), None, "they came to something else");
    }
    for (before, after) in [(own, own), (own, any), (any, own), (any, any)] {
        assert_eq!(told(before, after, "172.16.1.10"), None, "{before:?} {after:?}");
    }
}
