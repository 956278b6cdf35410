//! `headgate explain`: what it prints is what the kernel has, and nft(8) reads it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headgate_image::netns::Namespace;
use headgate_tests::lab::Lab;
use headgate_tests::listing::{settled, without_long_keys, without_tunnels};

const WEB: &str = "\
[farms.web]
listen = [\"172.16.1.1:80\", \"[2001:db8:1::1]:80\", \"172.16.1.1:1000-2000/udp\"]
backends.b.address = \"172.16.2.11:8080\"
backends.b.weight = 2
backends.c.address = \"172.16.2.12:8080\"
backends.b6.address = \"[2001:db8:2::11]:8080\"
";

/// The words of what nft(8) lists, counted: the order of elements is that of a hash.
fn words(listed: &str) -> BTreeMap<String, i64> {
    let mut words = BTreeMap::new();
    // How nft lists a header's field without a match on its protocol in the same rule, which it adds when it reads and we leave
    // out.
    let fields = [
        ("@nh,96,32", "ip saddr"),
        ("@nh,128,32", "ip daddr"),
        ("@nh,64,128", "ip6 saddr"),
        ("@nh,192,128", "ip6 daddr"),
        ("@ll,48,48", "ether saddr"),
        ("@ll,0,48", "ether daddr"),
        // A number that is drawn has no type of its own, only nft's `typeof`, which the kernel does not keep.
        ("typeof numgen inc mod 1 : ip daddr", "type 0 : ipv4_addr"),
        ("typeof numgen inc mod 1 : ip6 daddr", "type 0 : ipv6_addr"),
    ];
    let listed = fields.iter().fold(listed.to_owned(), |listed, (raw, name)| listed.replace(raw, name));
    for word in listed.split([' ', '\t', '\n', ',']).filter(|word| !word.is_empty()) {
        *words.entry(word.to_owned()).or_default() += 1;
    }
    words
}

/// What nft(8) lists of our tables, but for the one that is always there.
fn listed(space: &Namespace) -> String {
    let tables = space.run("nft list tables").unwrap();
    let ours = ["table inet headgate", "table netdev headgate"];
    ours.into_iter()
        .filter(|table| tables.lines().any(|line| line == *table))
        .map(|table| space.run(&format!("nft list {table}")).unwrap())
        .collect()
}

/// What is explained of a farm, and the words by which the same, given to nft(8) in `other`, differs from what the kernel of
/// the box has: so often too much, or too little. The farm is alone there.
fn explained(lab: &Lab, other: &Namespace, farm: &str) -> (String, BTreeMap<String, i64>) {
    let explained = lab.headgate_ok(&["explain", farm]).unwrap();
    let file = lab.root().join("explained.nft");
    std::fs::write(&file, format!("flush ruleset\n{}", without_long_keys(&without_tunnels(&explained)))).unwrap();
    other.run(&format!("nft -f {}", file.display())).unwrap_or_else(|error| panic!("{error:#}\n{explained}"));
    let mut differing = words(&listed(other));
    for (word, count) in words(&without_long_keys(&settled(&listed(&lab.gate)))) {
        *differing.entry(word).or_default() -= count;
    }
    differing.retain(|_, count| *count != 0);
    (explained, differing)
}

/// A farm of a golden case: the case, the farm's name, and the configuration with it alone.
type Alone = (PathBuf, String, String);

/// Every farm of the golden cases, alone on the box, on a machine like the recorded one but for the names of its arms.
fn farms_of_cases() -> Vec<Alone> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/farms");
    let mut farms = Vec::new();
    for case in std::fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let text = std::fs::read_to_string(case.join("config.toml")).unwrap();
        let text = text.replace("\"eth0\"", "\"service\"").replace("\"eth1\"", "\"backend\"");
        let config: toml::Table = text.parse().unwrap();
        for farm in config["farms"].as_table().unwrap().keys() {
            let mut alone = config.clone();
            alone["farms"].as_table_mut().unwrap().retain(|name, _| name == farm);
            farms.push((case.clone(), farm.clone(), alone.to_string()));
        }
    }
    farms
}

/// Those whose explanation is not what the kernel has, with what differs.
fn wrong(label: &str, farms: &[Alone]) -> Vec<String> {
    let lab = Lab::new(label).unwrap();
    let other = Namespace::create(&format!("{label}-o")).unwrap();
    // Its devices: chains of the netdev family are bound to their names, rules name their numbers.
    let [service, backend] = ["service", "backend"]
        .map(|name| lab.gate.run(&format!("cat /sys/class/net/{name}/ifindex")).unwrap().trim().to_owned());
    other.run(&format!("ip link add service index {service} type veth peer name backend index {backend}")).unwrap();
    let mut wrong = Vec::new();
    for (case, farm, alone) in farms {
        lab.once(alone).unwrap_or_else(|error| panic!("{}: {error:#}", case.display()));
        let (_, differing) = explained(&lab, &other, farm);
        if !differing.is_empty() {
            wrong.push(format!("{}, farm {farm}: {differing:?}", case.display()));
        }
    }
    wrong
}

#[test]
fn the_kernel_has_what_is_explained_of_every_golden_case() {
    let farms = farms_of_cases();
    assert!(farms.len() > 50, "only {} farms", farms.len());
    // Most of the time is that of programs that wait for the kernel: four boxes at once.
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let parts: Vec<_> = farms.chunks(farms.len().div_ceil(4)).enumerate().collect();
        let threads: Vec<_> =
            parts.into_iter().map(|(n, part)| scope.spawn(move || wrong(&format!("explain-g{n}"), part))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kernel_has_what_is_explained_and_each_object_has_its_line() {
    for (number, extra) in [
        "",
        "mode = \"dnat\"\nscheduler = \"hash\"",
        "mode = \"stateless\"\nscheduler = \"hash\"",
        "[farms.web.limits]\nnew-connections-total = \"100/second\"\naction = \"reject\"",
    ]
    .into_iter()
    .enumerate()
    {
        let lab = Lab::new(&format!("explain-{number}")).unwrap();
        // The farm's own keys stand before its backends' tables.
        lab.once(&format!("{WEB}{extra}\n")).unwrap();
        let other = Namespace::create(&format!("explain-{number}-o")).unwrap();
        let (explained, differing) = explained(&lab, &other, "web");
        assert_eq!(differing, BTreeMap::new(), "{explained}");
        for expected in [
            "goto farm4-web  # ",
            "headgate.toml:2:10 listen",
            "headgate.toml:4:21 weight",
            "headgate.toml:3:22 address",
        ] {
            let guarded = expected.replace("farm4", "guard4");
            assert!(explained.contains(expected) || explained.contains(&guarded), "{expected} is not in\n{explained}");
        }
    }
}

#[test]
fn as_json_it_comes_in_parts_that_are_the_whole() {
    let lab = Lab::new("explain-j").unwrap();
    lab.once(WEB).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&lab.headgate_ok(&["explain", "web", "--json"]).unwrap()).unwrap();
    let parts = json["objects"].as_array().unwrap();
    let whole: String = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
    assert_eq!(whole, json["ruleset"].as_str().unwrap());
    let targets = parts.iter().filter(|part| part["object"] == "element of targets4");
    assert!(targets.clone().count() == 2 && targets.into_iter().all(|part| part["origins"][0].is_string()), "{json:#}");
    assert!(json["way"].as_array().unwrap().iter().any(|hook| hook.as_str().unwrap().contains("chain prerouting")));
}
