use super::*;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];

#[test]
fn arp_request_is_that_of_rfc_5227() {
    let expected = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x06, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 1, // request
        0x02, 0, 0, 0, 0, 0x0a, 172, 16, 1, 1, // sender
        0, 0, 0, 0, 0, 0, 172, 16, 1, 1, // target
    ];
    assert_eq!(arp(MAC, Ipv4Addr::new(172, 16, 1, 1), Operation::Request), expected);
}

#[test]
fn arp_reply_names_us_as_target_too() {
    let frame = arp(MAC, Ipv4Addr::new(172, 16, 1, 1), Operation::Reply);
    assert_eq!(frame[20..22], [0, 2]);
    assert_eq!(frame[22..32], frame[32..42]);
}

#[test]
fn neighbour_advertisement_is_that_of_rfc_4861() {
    let ip: Ipv6Addr = "2001:db8::1".parse().expect("an address");
    let frame = neighbour_advertisement(MAC, ip);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(frame[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    assert_eq!(frame[22..38], ip.octets());
    assert_eq!(frame[54..56], [136, 0]);
    assert_eq!(frame[58..62], [0xa0, 0, 0, 0]);
    assert_eq!(frame[62..78], ip.octets());
    assert_eq!(frame[78..86], [2, 1, 0x02, 0, 0, 0, 0, 0x0a]);
}

#[test]
fn the_checksum_verifies_to_zero() {
    for last in 0..=0xffff_u16 {
        let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xfffe, last);
        let frame = neighbour_advertisement(MAC, ip);
        assert_eq!(checksum(&ip.octets(), &ALL_NODES.octets(), &frame[54..]), 0, "{ip}");
    }
}

#[test]
fn nobody_is_told_on_loopback_or_a_downed_interface() {
    let mut interface = Interface {
        index: 1,
        name: "lo".to_owned(),
        mac: None,
        up: true,
        carrier: true,
        loopback: true,
        arp: true,
        mtu: 65536,
        permanent: None,
        ours: false,
        master: None,
        parent: None,
        upper: None,
        external: None,
    };
    let address = [IpAddr::from([127, 0, 0, 2])];
    let announced = announce(&interface, &address);
    assert_eq!(announced.unsent, Some((1, Unannounced::NoNeighbours)));
    interface.mac = Some(MAC);
    interface.loopback = false;
    interface.carrier = false;
    assert_eq!(announce(&interface, &address).unsent, Some((1, Unannounced::Down)));
}
