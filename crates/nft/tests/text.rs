//! The text is what nft(8) prints, and no operator's string can break out of it.

#[allow(dead_code)]
mod samples;

use headgate_nft::*;
use samples::*;

#[test]
fn prints_a_table() {
    let mut ruleset = varied();
    let table = ruleset.tables.values_mut().next().unwrap();
    table.chains.retain(|name, _| &**name == "nats");
    table.sets.retain(|name, _| &**name == "ports");
    let expected = "\
table inet hgvaried {
	set ports {
		type inet_service
		size 1024
		elements = {
			80,
			443
		}
	}

	chain nats {
		type nat hook prerouting priority -90; policy accept;
		meta nfproto ipv4 meta l4proto tcp dnat ip to 10.0.0.1:80
		meta nfproto ipv6 meta l4proto tcp dnat ip6 to [fd00::1]:80
		meta nfproto ipv4 dnat ip to 10.0.0.2
	}
}
";
    assert_eq!(ruleset.to_string(), expected);
}

#[test]
fn prints_every_statement() {
    let ruleset = varied();
    let rules = &ruleset.tables[&TableId::inet("hgvaried")].chains["raw"].rules;
    let text: Vec<String> = rules.iter().map(Rule::to_string).collect();
    assert_eq!(
        text,
        [
            "ct mark & 0x000fffff == 0x00000005 counter",
            "ct state established,related accept",
            "ct state == new return",
            "meta mark != 0x00000007 notrack",
            "meta nfproto ipv4 meta mark set jhash ip saddr . th sport mod 7 seed 0xdeadbeef offset 3",
            "meta mark set ct mark & 0x0000ffff",
            "ct mark set 0x00000007",
            "meta iif 1 jump other",
            "meta nfproto ipv4 ip saddr != @nets",
            "meta nfproto ipv4 ip daddr 10.0.0.1 th sport 53 drop",
            "meta nfproto ipv4 ip saddr & 255.255.255.0 != 10.2.0.0",
            "meta nfproto ipv6 ip6 saddr fd00::1 drop",
        ]
    );
}

#[test]
fn prints_the_features() {
    let ruleset = features();
    let chains = &ruleset.tables[&TableId::inet("hgfeatures")].chains;
    let text: Vec<String> = ["writes", "others", "proxy"].iter().flat_map(|chain| rules(&chains[*chain])).collect();
    assert_eq!(
        text,
        [
            "meta nfproto ipv4 ip daddr set meta mark map @targets",
            "meta nfproto ipv4 ip saddr set 1.2.3.4",
            "meta nfproto ipv6 ip6 saddr set fd00::1",
            "meta nfproto ipv6 ip6 daddr set fd00::1",
            "meta l4proto tcp tcp dport set meta mark map @ports tcp sport set 80",
            "meta l4proto udp udp dport set meta mark map @ports udp sport set 53",
            "meta l4proto udp udp checksum 0 udp checksum set 0",
            "meta nftrace set 1",
            "meta l4proto tcp tcp flags & (syn|ack) == syn accept",
            "meta nfproto ipv4 update @clients { ip saddr timeout 30s : meta mark }",
            "meta nfproto ipv4 add @bans { ip saddr limit rate over 10/second burst 5 packets } drop",
            "meta nfproto ipv4 add @busy { ip saddr ct count over 20 } drop",
            "limit rate 10/minute burst 5 packets log prefix \"new \" group 5 snaplen 128",
            "limit rate over 1/hour burst 7 packets log group 5",
            "ct count over 5 drop",
            "fib daddr type local accept",
            "ct direction original counter",
            "ct direction reply counter",
            "meta oif 1 counter",
            "meta iifname \"eth0\" counter",
            "meta l4proto icmp @th,0,8 0x08 counter",
            "meta l4proto tcp synproxy mss 1460 wscale 7 timestamp sack-perm",
        ]
    );
    let ruleset = ingress();
    let text = rules(&ruleset.tables.values().next().unwrap().chains["in"]);
    assert_eq!(
        text,
        [
            "meta protocol ip6 accept",
            "ether saddr 00:11:22:33:44:55 ether daddr 02:00:00:00:00:01 counter",
            "ip daddr 1.2.3.4 fwd ip to 10.0.0.1 device 1",
            "ip daddr 1.2.3.5 fwd ip to meta mark map @hops device 1",
            "ip daddr 1.2.3.6 fwd ip to meta mark map @hops device meta mark map @ports",
            "ip6 daddr fd00::1 fwd ip6 to fd00::1 device 1",
        ]
    );
    let rest = [
        Statement::Queue { number: 3, bypass: true },
        Statement::Queue { number: 4, bypass: false },
        Statement::FlowAdd { flowtable: name("fast") },
        Statement::Object { kind: ObjectKind::Counter, name: name("web") },
        Statement::Object { kind: ObjectKind::Helper, name: name("ftp") },
        Statement::ObjectMap { kind: ObjectKind::Synproxy, key: field(Field::CtMark), map: name("proxies") },
        Statement::ObjectMap { kind: ObjectKind::Tunnel, key: field(Field::Mark), map: name("tunnels") },
    ];
    assert_eq!(
        rest.map(|one| one.to_string()),
        [
            "queue flags bypass to 3",
            "queue to 4",
            "flow add @fast",
            "counter name \"web\"",
            "ct helper set \"ftp\"",
            "synproxy name ct mark map @proxies",
            "tunnel name meta mark map @tunnels",
        ]
    );
}

#[test]
fn prints_objects_and_flowtables() {
    let mut ruleset = objects();
    ruleset.tables.values_mut().for_each(|table| table.chains.clear());
    ruleset.merge(offload());
    let expected = "\
table inet hgobjects {
	counter dns.6 {
	}

	counter web {
	}

	ct helper web {
		type \"ftp\" protocol tcp
		l3proto inet
	}

	synproxy web {
		mss 1460
		wscale 7
		timestamp
	}

	map by-mark {
		type mark : counter
		size 1024
		elements = {
			0x00000001 comment \"web/b1\" : \"web\",
			0x00000002 : \"dns.6\"
		}
	}

	set counted {
		type mark
		size 1024
		counter
		elements = {
			0x00000001,
			0x00000002 comment \"b2\"
		}
	}

	set limited {
		type ipv4_addr
		flags timeout
		size 1024
		timeout 3600s
		elements = {
			10.0.0.1 limit rate over 10/second burst 5 packets timeout 86400s comment \"guest\",
			10.0.0.2
		}
	}

	map proxies {
		type ipv4_addr : synproxy
		size 1024
		elements = {
			10.1.0.100 : \"web\"
		}
	}
}
table inet hgoffload {
	flowtable fast {
		hook ingress priority -10
		devices = { \"eth0\", \"eth1\" }
		counter
	}

	chain forward {
		type filter hook forward priority 0; policy accept;
		flow add @fast
	}
}
";
    assert_eq!(ruleset.to_string(), expected);
}

#[test]
fn changes_of_objects_are_commands() {
    let mut less = offload();
    let table = less.tables.values_mut().next().unwrap();
    table.flowtables.get_mut("fast").unwrap().devices.remove("eth1");
    let none = Ruleset::default();
    let changes =
        [(&none, &objects()), (&tunnels(), &none), (&none, &tunnels()), (&offload(), &less), (&less, &offload())]
            .map(|(old, new)| between(old, new));
    let text: Vec<String> = changes.iter().flatten().map(Change::to_string).collect();
    let mut emptied = objects();
    let table = emptied.tables.values_mut().next().unwrap();
    (table.objects, table.sets, table.chains) = Default::default();
    let deletions = between(&objects(), &emptied);
    let text: Vec<String> = text.into_iter().chain(deletions.iter().map(Change::to_string)).collect();
    let expected = [
        "add counter inet hgobjects web {  }",
        "add ct helper inet hgobjects web { type \"ftp\" protocol tcp; l3proto inet; }",
        "add synproxy inet hgobjects web { mss 1460; wscale 7; timestamp; }",
        "add tunnel netdev hgtunnels b2 { id 2; ip6 saddr fd02::1; ip6 daddr fd02::12; ttl 64; }",
        "add chain netdev hgtunnels in { type filter hook ingress devices = { \"hg0\", \"lo\" } priority -5; policy accept; }",
        "delete flowtable inet hgoffload fast { devices = { \"eth1\" }; }",
        "add flowtable inet hgoffload fast { hook ingress priority -10; devices = { \"eth0\", \"eth1\" }; counter; }",
        "delete counter inet hgobjects web",
        "delete ct helper inet hgobjects web",
    ];
    for line in expected {
        assert!(text.iter().any(|text| text == line), "{line}\nis missing in\n{}", text.join("\n"));
    }
}

fn rules(chain: &Chain) -> Vec<String> {
    chain.rules.iter().map(Rule::to_string).collect()
}

#[test]
fn a_hostile_prefix_stays_inside_its_quotes() {
    let log = Statement::Log { group: 1, prefix: name("\"; flush ruleset #\n"), snaplen: None };
    assert_eq!(log.to_string(), "log prefix \"'; flush ruleset # \" group 1");
    assert_eq!(headgate_nft::expr::log_prefix(&"é".repeat(100)).len(), 126);
}

#[test]
fn a_hostile_comment_stays_inside_its_quotes() {
    let rule = Rule { statements: vec![Statement::Counter], comment: Some(name("\"\n}\ndelete table inet other #")) };
    assert_eq!(rule.to_string(), "counter comment \"' } delete table inet other #\"");
    let long = "é".repeat(100);
    assert_eq!(headgate_nft::model::comment(&long).len(), 128);
    assert_eq!(headgate_nft::model::comment("a\u{0}b\u{1b}[31m"), "a b [31m");
}

#[test]
fn a_hostile_name_is_neutralised() {
    let table = TableId::inet("x; flush ruleset\n");
    assert_eq!(table.to_string(), "inet x??flush?ruleset?");
}

#[test]
fn changes_are_commands() {
    let (old, new) = (Ruleset::default(), product());
    let changes = between(&old, &new);
    let text: Vec<String> = changes.iter().map(Change::to_string).collect();
    assert_eq!(text[0], "add table inet hgtest");
    let expected = [
        "add map inet hgtest targets4 { type mark : ipv4_addr . inet_service; size 1024; }",
        "add chain inet hgtest output { type nat hook output priority -100; policy accept; }",
        "add element inet hgtest targets4 { 0x48000001 comment \"web/b1\" : 10.2.0.11 . 8080 }",
        "add element inet hgtest ranges4 { 10.1.0.100 . tcp . 100-200 comment \"ports\" : goto farm-web }",
        "add rule inet hgtest farm-web ct mark set numgen inc mod 2 offset 65536 counter goto assign \
         comment \"web: two backends\"",
    ];
    for line in expected {
        assert!(text.iter().any(|text| text == line), "{line}\nis missing in\n{}", text.join("\n"));
    }
}
