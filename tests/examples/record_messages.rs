//! Records what this machine's kernel says, as seeds for `fuzz/`: rulesets of some golden cases, interfaces, addresses,
//! routes and flows. As root: `cargo run -p headgate-tests --example record_messages`.
//! All of it happens in a network namespace of its own.
#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use headgate_nft::wire::decode_messages;
use headgate_nft::{Batch, Ruleset, Socket, TableId, between};
use headgate_plan::compile::compile;
use headgate_plan::ids::Ids;
use headgate_plan::names;
use headgate_tests::hostile::facts;
use nix::libc::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// `NFNL_SUBSYS_NFTABLES << 8` with `NFT_MSG_GETTABLE`, `GETSET`, `GETCHAIN` and `GETRULE`; `GETSETELEM` wants names.
const NFT_DUMPS: [u16; 4] = [0x0a01, 0x0a0a, 0x0a04, 0x0a07];
const NFT_GETSETELEM: u16 = 0x0a0d;
/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_GET`.
const CT_GET: u16 = 0x0100 | 1;
/// `RTM_GETLINK`, `RTM_GETADDR`, `RTM_GETROUTE`.
const ROUTE_DUMPS: [u16; 3] = [18, 22, 26];
const NFPROTO_INET: u8 = 1;
/// Golden cases that together have one of everything.
const CASES: [&str; 4] = ["dual-family", "hairpin", "maglev", "names"];

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let (rulesets, kernel) = (seeds.join("ruleset_messages"), seeds.join("kernel_messages"));
    for directory in [&rulesets, &kernel] {
        fs::create_dir_all(directory).unwrap();
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root: it makes a network namespace");
    run("link set lo up");
    run("address add 172.16.1.1/32 dev lo");
    run("link add x type veth peer name y");
    run("address add 172.16.9.1/24 dev x");
    run("link set x up");
    run("route add 10.9.0.0/16 via 172.16.9.2 proto 0x48");
    run("-6 route add 2001:db8:9::/48 dev x metric 5");
    let mut nft = Socket::open().unwrap();
    for (name, ruleset) in golden() {
        let changes = between(&Ruleset::default(), &ruleset);
        nft.commit(&Batch::new(&changes, None)).unwrap();
        let dump = ruleset_dump(&ruleset);
        assert_eq!(decode_messages(&dump).as_ref(), Some(&ruleset), "{name}");
        fs::write(rulesets.join(name), dump).unwrap();
        flows();
        nft.commit(&Batch::new(&between(&ruleset, &Ruleset::default()), None)).unwrap();
    }
    let routes: Vec<u8> =
        ROUTE_DUMPS.iter().flat_map(|kind| dump(SockProtocol::NetlinkRoute, *kind, &[0; 16])).collect();
    fs::write(kernel.join("links-addresses-routes"), routes).unwrap();
    fs::write(kernel.join("flows"), dump(SockProtocol::NetlinkNetFilter, CT_GET, &[0; 4])).unwrap();
}

/// The rulesets of [`CASES`], by name.
fn golden() -> impl Iterator<Item = (&'static str, Ruleset)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/farms");
    CASES.into_iter().map(move |case| {
        let config =
            headgate_config::load_files(&[root.join(case).join("config.toml")], &root.join(case)).unwrap().config;
        let desired = compile(&config, &[], facts(), &Ids::default()).unwrap();
        (case, desired.state.ruleset)
    })
}

/// A few flows of the box to itself, some of them through a farm.
fn flows() {
    for to in ["172.16.1.1:53", "127.0.0.1:9"] {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = client.send_to(b"x", to);
    }
}

fn ruleset_dump(ruleset: &Ruleset) -> Vec<u8> {
    let [tables, sets, chains, rules] = NFT_DUMPS;
    let ask = |kind| dump(SockProtocol::NetlinkNetFilter, kind, &[NFPROTO_INET, 0, 0, 0]);
    let mut messages = [ask(tables), ask(sets)].concat();
    let id = TableId::inet(names::TABLE);
    for set in ruleset.tables.get(&id).into_iter().flat_map(|table| table.sets.keys()) {
        // NFTA_SET_ELEM_LIST_TABLE and NFTA_SET_ELEM_LIST_SET.
        let mut request = vec![NFPROTO_INET, 0, 0, 0];
        for (attribute, name) in [(1u16, &id.name), (2, set)] {
            request.extend((name.len() as u16 + 5).to_ne_bytes());
            request.extend(attribute.to_ne_bytes());
            request.extend(name.as_bytes());
            request.resize((request.len() + 1).next_multiple_of(4), 0);
        }
        messages.extend(dump(SockProtocol::NetlinkNetFilter, NFT_GETSETELEM, &request));
    }
    [messages, ask(chains), ask(rules)].concat()
}

/// The messages of one dump but for the last, which says that it is the last.
fn dump(protocol: SockProtocol, kind: u16, body: &[u8]) -> Vec<u8> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    let mut request = (16 + body.len() as u32).to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(((NLM_F_REQUEST | NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    request.extend(body);
    send(fd.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
    let mut messages = Vec::new();
    while take(&fd, &mut messages).unwrap() {}
    messages
}

/// Whether there is more.
fn take(fd: &OwnedFd, messages: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut rest = &buffer[..length];
    while let Some(header) = rest.first_chunk::<8>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if u16::from_ne_bytes([header[4], header[5]]) == NLMSG_DONE as u16 {
            return Ok(false);
        }
        let (message, behind) = rest.split_at(length.next_multiple_of(4).min(rest.len()));
        messages.extend(message);
        rest = behind;
    }
    Ok(true)
}

fn run(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}
