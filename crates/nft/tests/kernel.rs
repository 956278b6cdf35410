//! What the kernel makes of our messages, and nft(8) of our text. Each test has its own network namespace. Needs root.

#[allow(dead_code)]
mod samples;

use headgate_nft::*;
use nix::errno::Errno;
use samples::namespace::*;
use samples::*;

#[test]
fn the_kernel_gives_back_what_it_was_given() {
    let mut socket = fresh_namespace();
    run("ip", &["link", "add", "hg0", "type", "veth", "peer", "name", "hg1"]);
    for ruleset in [product(), varied(), features(), ingress(), objects(), tunnels()] {
        load(&mut socket, &ruleset);
        let found = dump(&mut socket, &ruleset);
        assert_eq!(found.to_string(), ruleset.to_string());
        assert_eq!(found, ruleset);
        assert!(between(&found, &ruleset).is_empty());
    }
}

#[test]
fn nft_reads_our_text_as_the_same_ruleset() {
    let mut socket = fresh_namespace();
    for mut ruleset in [product(), varied(), features(), without_limits(objects())] {
        nft(&["-c", "-f", "-"], &ruleset.to_string());
        // nft(8) 1.0.6 swaps the bytes of the (single byte) protocol before it looks into an interval map: nothing to follow.
        for chain in ruleset.tables.values_mut().flat_map(|table| table.chains.values_mut()) {
            chain.rules.retain(|rule| !rule.to_string().contains("@ranges4"));
        }
        nft(&["-f", "-"], &ruleset.to_string());
        let found = dump(&mut socket, &ruleset);
        assert_eq!(found.to_string(), ruleset.to_string());
        assert_eq!(found, ruleset);
    }
}

/// nft(8) prints the same whether it has loaded our text or we have sent messages.
#[test]
fn nft_lists_our_messages_as_it_lists_our_text() {
    let mut socket = fresh_namespace();
    for ruleset in [product(), varied(), features(), without_limits(objects())] {
        let name = &ruleset.tables.keys().next().unwrap().name;
        let list = || nft(&["list", "table", "inet", name], "");
        load(&mut socket, &ruleset);
        let ours = list();
        commit(&mut socket, &between(&ruleset, &Ruleset::default())).unwrap();
        nft(&["-f", "-"], &ruleset.to_string());
        let theirs = list();
        assert_eq!(sorted(&ours), sorted(&theirs));
        let comments = ["web/b1", "web: two backends", "say 'hi' there; drop", "log prefix \"new \""];
        assert!(comments.iter().any(|comment| ours.contains(comment)), "{ours}");
    }
}

/// nft(8) 1.0.6 lists limits of elements, but reads them only where the set is declared with one for all.
fn without_limits(mut ruleset: Ruleset) -> Ruleset {
    let sets = ruleset.tables.values_mut().flat_map(|table| table.sets.values_mut());
    sets.flat_map(|set| set.elements.values_mut()).for_each(|element| element.own = None);
    ruleset
}

/// Words in order of the alphabet, without what is left of times: the kernel gives elements of hash sets and tables'
/// objects in no certain order.
fn sorted(text: &str) -> Vec<&str> {
    let words = text.split_whitespace().map(|word| word.trim_matches(','));
    let mut before = "";
    let mut words: Vec<&str> = words.filter(|word| std::mem::replace(&mut before, word) != "expires").collect();
    words.sort_unstable();
    words
}

#[test]
fn changes_lead_from_one_ruleset_to_the_other() {
    let mut socket = fresh_namespace();
    let old = product();
    load(&mut socket, &old);
    let mut new = product();
    let table = new.tables.values_mut().next().unwrap();
    // One farm gone, with all that points to it; another chain for one service; another hook; another type of a map.
    table.chains.remove("farm-off");
    table.sets.get_mut("services4").unwrap().elements.retain(|_, one| one.data != to_chain("farm-off"));
    for element in table.sets.get_mut("wildcards4").unwrap().elements.values_mut() {
        element.data = to_chain("farm-dns.6");
    }
    table.chains.get_mut("prerouting").unwrap().base.as_mut().unwrap().priority = -101;
    let hosts = table.sets.get_mut("hosts4").unwrap();
    hosts.key = vec![Datatype::Mark, Datatype::InetProto];
    hosts.elements.clear();
    table.chains.get_mut("assign").unwrap().rules.remove(2);
    table.sets.get_mut("slots").unwrap().size = Some(4096);
    table.sets.get_mut("sources4").unwrap().size = None;
    table.sets.get_mut("targets4").unwrap().size = Some(512);
    for (from, to) in [(&old, &new), (&new, &old)] {
        commit(&mut socket, &between(from, to)).unwrap();
        let found = dump(&mut socket, to);
        assert_eq!(found.to_string(), to.to_string());
        assert_eq!(found, *to);
    }
}

#[test]
fn a_set_of_the_packet_path_keeps_its_elements() {
    let mut socket = fresh_namespace();
    let old = product();
    load(&mut socket, &old);
    nft(&["-f", "-"], "add element inet hgtest flows { 10.9.8.7 : 0x5 }");
    let mut new = product();
    let flows = new.tables.values_mut().next().unwrap().sets.get_mut("flows").unwrap();
    (flows.size, flows.timeout_ms) = (Some(2048), Some(120_000));
    for (from, to) in [(&old, &new), (&new, &old)] {
        let changes = between(from, to);
        assert_eq!(changes.len(), 1);
        commit(&mut socket, &changes).unwrap();
        assert_eq!(dump(&mut socket, to), *to);
        assert!(nft(&["list", "map", "inet", "hgtest", "flows"], "").contains("10.9.8.7"));
    }
}

#[test]
fn a_recreated_chain_takes_everything_along_that_points_to_it() {
    let mut socket = fresh_namespace();
    let old = varied();
    load(&mut socket, &old);
    let mut new = varied();
    let table = new.tables.values_mut().next().unwrap();
    // `other` is jumped to by `raw`; it becomes a base chain, which cannot be jumped to: so the rule goes too.
    table.chains.insert(name("other"), base(ChainKind::Filter, Hook::Output, 5, vec![]));
    table.chains.get_mut("raw").unwrap().rules.remove(7);
    // `nets` is looked up by `raw`, whose rules do not differ otherwise.
    table.sets.get_mut("nets").unwrap().interval = false;
    for (from, to) in [(&old, &new), (&new, &old)] {
        commit(&mut socket, &between(from, to)).unwrap();
        assert_eq!(dump(&mut socket, to).to_string(), to.to_string());
    }
}

#[test]
fn an_error_names_its_object_and_nothing_happens() {
    let mut socket = fresh_namespace();
    let mut broken = product();
    let table = broken.tables.values_mut().next().unwrap();
    table.chains.get_mut("assign").unwrap().rules[0] = rule(vec![set_mark(map(field(Field::CtMark), "nowhere"))]);
    table.sets.get_mut("services4").unwrap().elements.values_mut().next().unwrap().data = to_chain("lost");
    let error = commit(&mut socket, &between(&Ruleset::default(), &broken)).unwrap_err();
    let CommitError::Refused { failures, complete: true } = &error else { panic!("{error:?}") };
    let objects: Vec<&str> = failures.iter().map(|failure| failure.object.as_str()).collect();
    assert_eq!(
        objects,
        [
            "rule 1 of chain assign in table inet hgtest",
            "element 10.1.0.100 . tcp . 80 comment \"web\" : goto lost of set services4 in table inet hgtest"
        ]
    );
    assert!(failures.iter().all(|failure| failure.errno == Errno::ENOENT && failure.change.is_some()));
    assert!(error.to_string().contains("rule 1 of chain assign in table inet hgtest: No such file"), "{error}");
    assert_eq!(dump(&mut socket, &broken), Ruleset::default());
}

#[test]
fn a_stale_generation_is_told_apart() {
    let mut socket = fresh_namespace();
    let generation = socket.generation().unwrap();
    load(&mut socket, &varied());
    assert_ne!(socket.generation().unwrap(), generation);
    let changes = between(&varied(), &Ruleset::default());
    assert!(matches!(socket.commit(&Batch::new(&changes, Some(generation))), Err(CommitError::Stale)));
    assert_eq!(dump(&mut socket, &varied()), varied());
    let generation = socket.generation().unwrap();
    socket.commit(&Batch::new(&changes, Some(generation))).unwrap();
    assert_eq!(dump(&mut socket, &varied()), Ruleset::default());
}

#[test]
fn a_foreign_table_is_not_touched_and_not_seen() {
    let mut socket = fresh_namespace();
    let foreign = "table inet foreign {\n\tchain c {\n\t\ttype filter hook input priority filter; policy drop;\n\t\
                   \tlimit rate 10/second log prefix \"x\" accept\n\t}\n}\n";
    nft(&["-f", "-"], foreign);
    let before = nft(&["list", "table", "inet", "foreign"], "");
    load(&mut socket, &product());
    assert_eq!(dump(&mut socket, &product()), product());
    commit(&mut socket, &between(&product(), &Ruleset::default())).unwrap();
    assert_eq!(nft(&["list", "table", "inet", "foreign"], ""), before);
}

/// Somebody edits our table by hand: the dump shows that it differs, and the difference repairs it.
#[test]
fn edits_by_hand_are_found_and_repaired() {
    let edits = [
        "insert rule inet hgtest assign limit rate 10/second log prefix \"x\" accept",
        "add rule inet hgtest assign ip saddr { 1.2.3.4, 5.6.7.8 } drop",
        "add rule inet hgtest assign ip saddr vmap { 1.2.3.4 : drop, 5.6.7.8 : accept }",
        "add rule inet hgtest assign ip saddr 1.2.3.4 jump { counter; accept; }",
        "add rule inet hgtest assign ct mark set ct mark | 1",
        "add rule inet hgtest assign tcp dport 1-5 drop",
        "add chain inet hgtest prerouting { policy drop; }",
        "add chain inet hgtest mine { type filter hook forward priority 3; policy drop; }",
        "add chain inet hgtest mine",
        "add set inet hgtest mine { type icmp_type; elements = { echo-request } }",
        "add map inet hgtest mine { type mark : counter; }",
        "add set inet hgtest mine { type mark; counter; }",
        "add counter inet hgtest mine",
        "add quota inet hgtest mine { over 10 mbytes; }",
        "add map inet hgtest mine { type mark : quota; }",
        "add element inet hgtest slots { 0x00010005 : 0x5 }",
        "add element inet hgtest services4 { 10.1.0.100 . udp . 80 : drop }",
        "add element inet hgtest nets { 20.0.0.0/8, 10.0.0.0-10.0.0.0 }",
        "delete element inet hgtest nets { 10.0.0.0/8 }",
        "delete element inet hgtest slots { 0x00010000 }",
        "flush map inet hgtest services4",
        "flush chain inet hgtest farm-web",
        "add table inet hgtest { flags dormant; }",
        "delete table inet hgtest",
    ];
    let mut socket = fresh_namespace();
    let wanted = product();
    load(&mut socket, &wanted);
    for edit in edits {
        if edit.contains("20.0.0.0") {
            nft(&["-f", "-"], "delete element inet hgtest nets { 10.0.0.0/8 }");
        }
        nft(&["-f", "-"], edit);
        let found = dump(&mut socket, &wanted);
        let changes = between(&found, &wanted);
        assert!(!changes.is_empty(), "{edit} is not seen");
        commit(&mut socket, &changes).unwrap_or_else(|error| panic!("{edit}: {error}\n{changes:#?}"));
        assert_eq!(dump(&mut socket, &wanted).to_string(), wanted.to_string(), "{edit}");
    }
}

#[test]
fn a_large_batch_is_one_transaction() {
    let mut socket = fresh_namespace();
    let mut large = Ruleset::default();
    let mut slots = set(&[Datatype::Mark], Some(SetData::Value(vec![Datatype::Mark])));
    slots.size = Some(1 << 17);
    slots.elements.extend((0..100_000u32).map(|id| element(&id.to_ne_bytes(), None, value(&id.to_ne_bytes()), None)));
    large.tables.entry(TableId::inet("large")).or_default().sets.insert(name("slots"), slots);
    load(&mut socket, &large);
    assert!(dump(&mut socket, &large) == large);
    // The last message fails: nothing of it remains.
    let mut changes = between(&large, &Ruleset::default());
    changes.push(Change::DeleteTable(TableId::inet("nowhere")));
    assert!(commit(&mut socket, &changes).is_err());
    assert!(dump(&mut socket, &large) == large);
}

#[test]
fn more_errors_than_fit_are_still_an_error() {
    let mut socket = fresh_namespace();
    let changes: Vec<Change> = (0..50_000).map(|n| Change::DeleteTable(TableId::inet(&format!("t{n}")))).collect();
    let error = commit(&mut socket, &changes).unwrap_err();
    let CommitError::Refused { failures, complete: false } = &error else { panic!("{error}") };
    assert!(failures.len() > 1000 && failures[0].object == "table inet t0", "{error}");
    // The socket serves on.
    load(&mut socket, &varied());
    assert_eq!(dump(&mut socket, &varied()), varied());
}

#[test]
fn without_privilege_the_error_says_what_is_missing() {
    let mut socket = fresh_namespace();
    // This thread alone: the system call, not the library's function for the whole process.
    // SAFETY: takes a number and touches no memory.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(result, 0);
    let error = commit(&mut socket, &between(&Ruleset::default(), &varied())).unwrap_err();
    assert!(matches!(error, CommitError::Permission), "{error:?}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"));
    assert!(matches!(socket.dump(&[TableId::inet("hgvaried")]), Err(DumpError::Permission)));
    let mut unprivileged = Socket::open().unwrap();
    assert!(matches!(unprivileged.generation(), Err(DumpError::Permission)));
}

/// Connections of the box itself through every kind of map, to a listener on another address.
#[test]
fn packets_go_where_the_rules_say() {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;
    let mut socket = fresh_namespace();
    let vips = ["10.1.0.100", "10.1.0.101", "10.1.0.102"];
    run("ip", &["link", "set", "lo", "up"]);
    vips.iter().for_each(|vip| run("ip", &["address", "add", &format!("{vip}/32"), "dev", "lo"]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();

    let mut ruleset = product();
    let table = ruleset.tables.values_mut().next().unwrap();
    table.chains.remove("refuse");
    table.sets.get_mut("sources4").unwrap().elements.clear();
    let mark = 0x4800_0001u32.to_ne_bytes();
    for slot in table.sets.get_mut("slots").unwrap().elements.values_mut() {
        slot.data = value(&mark);
    }
    let [high, low] = to.port().to_be_bytes();
    for target in table.sets.get_mut("targets4").unwrap().elements.values_mut() {
        target.data = value(&[127, 0, 0, 1, high, low, 0, 0]);
    }
    load(&mut socket, &ruleset);

    let connect = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        let connection = TcpStream::connect_timeout(&to, Duration::from_secs(2));
        connection.map(|connection| (connection.local_addr().unwrap(), listener.accept().unwrap().1))
    };
    // An exact port, a range's both ends, any port, any protocol.
    for service in ["10.1.0.100:80", "10.1.0.100:100", "10.1.0.100:200", "10.1.0.101:7", "10.1.0.102:8"] {
        let (ours, seen) = connect(service).unwrap_or_else(|error| panic!("{service}: {error}"));
        assert_eq!(ours, seen, "{service}");
    }
    // Outside of the range nobody listens.
    assert_eq!(connect("10.1.0.100:201").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    // `farm-off` drops.
    assert_eq!(connect("10.1.0.100:443").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

/// Another thread replaces the table all the time: every dump is one of its two states, never a mixture.
#[test]
fn a_dump_is_of_one_generation() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut socket = fresh_namespace();
    let (one, mut two) = (product(), product());
    let table = two.tables.values_mut().next().unwrap();
    table.chains.remove("farm-off");
    table.sets.get_mut("services4").unwrap().elements.retain(|_, element| element.data != to_chain("farm-off"));
    table.sets.remove("flows");
    load(&mut socket, &one);
    let done = AtomicBool::new(false);
    let settled = std::thread::scope(|scope| {
        // Threads begin in the namespace of the thread that makes them.
        scope.spawn(|| {
            let mut socket = Socket::open().unwrap();
            while !done.load(Ordering::Relaxed) {
                for (from, to) in [(&one, &two), (&two, &one)] {
                    commit(&mut socket, &between(from, to)).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
        });
        let dumps = (0..200).map(|_| match socket.dump(&[TableId::inet("hgtest")]) {
            Ok(found) => Some(found == one || found == two),
            Err(DumpError::Unsettled) => None,
            Err(error) => panic!("{error}"),
        });
        let dumps: Vec<_> = dumps.collect();
        done.store(true, Ordering::Relaxed);
        dumps
    });
    assert!(!settled.contains(&Some(false)), "a mixture");
    assert!(settled.contains(&Some(true)), "never settled");
}

/// Random rulesets go in and come back, and one becomes the other.
#[test]
fn the_kernel_gives_back_random_rulesets() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    let socket = std::cell::RefCell::new(fresh_namespace());
    let ids = [TableId::inet("one"), TableId::inet("two")];
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let pairs = (samples::arbitrary::ruleset(), samples::arbitrary::ruleset());
    let result = runner.run(&pairs, |(one, two)| {
        let mut socket = socket.borrow_mut();
        let mut current = socket.dump(&ids).unwrap();
        for next in [Ruleset::default(), one, two] {
            let changes = between(&current, &next);
            let refused = |error: CommitError| TestCaseError::fail(format!("{error}\n{current}\n{next}"));
            commit(&mut socket, &changes).map_err(refused)?;
            let found = socket.dump(&ids).unwrap();
            prop_assert_eq!(found.to_string(), next.to_string());
            prop_assert_eq!(&found, &next);
            current = next;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
