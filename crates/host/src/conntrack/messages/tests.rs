use headgate_plan::names::MARK_TAG;

use super::*;

fn entry() -> Vec<u8> {
    let mut ip = Vec::new();
    put(&mut ip, 1, &[10, 0, 0, 9]);
    put(&mut ip, 2, &[172, 16, 1, 1]);
    let mut proto = Vec::new();
    put(&mut proto, CTA_PROTO_NUM, &[6]);
    put(&mut proto, CTA_PROTO_SRC_PORT, &4711u16.to_be_bytes());
    put(&mut proto, CTA_PROTO_DST_PORT, &80u16.to_be_bytes());
    let mut tuple = Vec::new();
    put(&mut tuple, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
    put(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
    let mut tcp = Vec::new();
    put(&mut tcp, 1, &[3]);
    let mut info = Vec::new();
    put(&mut info, 1 | NLA_F_NESTED, &tcp);
    let mut body = vec![0; NFGENMSG_BYTES];
    put(&mut body, CTA_TUPLE_ORIG | NLA_F_NESTED, &tuple);
    put(&mut body, CTA_TUPLE_REPLY | NLA_F_NESTED, &tuple);
    put(&mut body, CTA_STATUS, &IPS_ASSURED.to_be_bytes());
    put(&mut body, CTA_PROTOINFO | NLA_F_NESTED, &info);
    put(&mut body, CTA_TIMEOUT, &300u32.to_be_bytes());
    put(&mut body, CTA_MARK, &(MARK_TAG | 7).to_be_bytes());
    body
}

#[test]
fn an_entry_is_decoded() {
    let body = entry();
    let flow = decode(Attributes::of(&body).expect("well formed")).expect("well formed").expect("has tuples");
    assert_eq!(flow.original.source, "10.0.0.9:4711".parse().expect("an address"));
    assert_eq!(flow.original.destination, "172.16.1.1:80".parse().expect("an address"));
    assert_eq!((flow.protocol, flow.mark, flow.assured), (6, MARK_TAG | 7, true));
    assert_eq!(flow.state.as_deref(), Some("established"));
    assert_eq!(flow.timeout, Duration::from_secs(300));
}

#[test]
fn no_cut_and_no_flipped_byte_panics() {
    let body = entry();
    for length in 0..body.len() {
        let _ = Attributes::of(&body[..length]).and_then(decode);
    }
    for position in 0..body.len() {
        for value in [0, 1, 3, 5, 0x7f, 0xff] {
            let mut hostile = body.clone();
            hostile[position] = value;
            let _ = Attributes::of(&hostile).and_then(decode);
        }
    }
}

#[test]
fn a_state_that_we_do_not_know_has_no_name() {
    let mut tcp = Vec::new();
    put(&mut tcp, 1, &[200]);
    let mut info = Vec::new();
    put(&mut info, 1 | NLA_F_NESTED, &tcp);
    assert_eq!(decode_state(&info).expect("well formed"), None);
}

#[test]
fn the_deletion_of_an_entry_names_its_tuple_and_spares_tcp_and_other_marks() {
    let tcp = entry();
    let position = tcp.windows(5).position(|bytes| bytes == [5, 0, 1, 0, 6]).expect("a protocol") + 4;
    let mut udp = tcp.clone();
    udp[position] = 17;
    put(&mut udp, CTA_ID, &[1, 2, 3, 4]);
    udp[0] = AF_INET;
    let (marks, none) = (BTreeSet::from([MARK_TAG | 7]), BTreeSet::new());
    let lost = |body: &[u8], marks: &BTreeSet<u32>, cut: &BTreeSet<u32>| {
        deletion(body, |entry| entry.is_lost(marks, cut)).expect("well formed")
    };
    assert_eq!(lost(&tcp, &marks, &none), None);
    assert!(lost(&tcp, &marks, &marks).is_some(), "it is to be cut");
    assert_eq!(lost(&udp, &BTreeSet::from([MARK_TAG | 8]), &none), None);
    let message = lost(&udp, &marks, &none).expect("to be deleted");
    assert_eq!(message[..4], u32::try_from(message.len()).expect("short").to_ne_bytes());
    assert_eq!((&message[4..6], message[16]), (&DELETE.to_ne_bytes()[..], AF_INET));
    let kinds: Vec<u16> = Attributes::of(&message[16..]).expect("well formed").map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [CTA_TUPLE_ORIG, CTA_ID]);
    for length in 0..udp.len() {
        let _ = deletion(&udp[..length], |entry| entry.is_lost(&marks, &none));
    }
}

#[test]
fn ended_is_what_the_backend_has_forgotten() {
    let info = |protocol: u16, state: u8| {
        let mut inner = Vec::new();
        put(&mut inner, 1, &[state]);
        let mut nest = Vec::new();
        put(&mut nest, protocol | NLA_F_NESTED, &inner);
        nest
    };
    let ended = |protocol, state| has_ended(&info(protocol, state)).expect("well formed");
    let of = |protocol| (0..10).filter(|&state| ended(protocol, state)).collect::<Vec<u8>>();
    assert_eq!(of(PROTOINFO_TCP), [7, 8]);
    assert_eq!(of(PROTOINFO_SCTP), [1]);
    assert!(of(2).is_empty(), "DCCP is counted while it is there");
}
