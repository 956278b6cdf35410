//! `queue`: new flows go to a program first. Where the kernel has no queues for nftables, farms work without.
#![allow(missing_docs, clippy::unwrap_used)]

use headgate_tests::lab::{Lab, backend, backend6, said};
use headgate_tests::server::{Connection, Server};

#[test]
fn a_kernel_without_queues_serves_and_says_so_once() {
    let mut lab = Lab::new("noqueue").unwrap();
    let has = lab.gate.within(|| {
        let queue = headgate_nft::Statement::Queue { number: 0, bypass: true };
        headgate_nft::Socket::open().unwrap().supports(headgate_nft::Family::Inet, queue).unwrap()
    });
    let _servers = [backend(11, 8080), backend6(11, 8080)].map(|to| Server::start(&lab.backends, "b", to).unwrap());
    lab.configure(
        "[farms.web]\nlisten = [\"172.16.1.1:80\", \"[2001:db8:1::1]:80\"]\nqueue = 3\n\
         backends.b.address = \"172.16.2.11:8080\"\nbackends.b6.address = \"[2001:db8:2::11]:8080\"\n",
    )
    .unwrap();
    lab.start().unwrap();
    for to in ["172.16.1.1:80", "[2001:db8:1::1]:80"] {
        Connection::open(&lab.client, to.parse().unwrap()).unwrap().unwrap().echo("served").unwrap();
    }
    let status = said(&lab.headgate(&["status"]).unwrap());
    let told = status.matches("queue has no effect: this kernel has no queues for nftables").count();
    assert_eq!(told, usize::from(!has.unwrap()), "{status}");
}
