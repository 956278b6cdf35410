//! `headgate explain`: what it prints is what the kernel has, and nft(8) reads it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use headgate_image::netns::Namespace;
use headgate_tests::lab::Lab;

const WEB: &str = "\
[farms.web]
listen = [\"172.16.1.1:80\", \"[2001:db8:1::1]:80\", \"172.16.1.1:1000-2000/udp\"]
backends.b.address = \"172.16.2.11:8080\"
backends.b.weight = 2
backends.c.address = \"172.16.2.12:8080\"
backends.b6.address = \"[2001:db8:2::11]:8080\"
";

/// The words of what nft(8) lists, counted: the order of elements is that of a hash.
fn words(listed: &str) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    // A header's field without a match on its protocol in the same rule, which nft adds when it reads and we leave out.
    let fields = [
        ("@nh,96,32", "ip saddr"),
        ("@nh,128,32", "ip daddr"),
        ("@nh,64,128", "ip6 saddr"),
        ("@nh,192,128", "ip6 daddr"),
    ];
    let listed = fields.iter().fold(listed.to_owned(), |listed, (raw, name)| listed.replace(raw, name));
    for word in listed.split([' ', '\t', '\n', ',']).filter(|word| !word.is_empty()) {
        *words.entry(word.to_owned()).or_default() += 1;
    }
    words
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
        let explained = lab.headgate_ok(&["explain", "web"]).unwrap();
        for expected in [
            "goto farm4-web  # ",
            "headgate.toml:2:10 listen",
            "headgate.toml:4:21 weight",
            "headgate.toml:3:22 address",
        ] {
            let guarded = expected.replace("farm4", "guard4");
            assert!(explained.contains(expected) || explained.contains(&guarded), "{expected} is not in\n{explained}");
        }
        let other = Namespace::create(&format!("explain-{number}-o")).unwrap();
        let file = lab.root().join("explained.nft");
        std::fs::write(&file, &explained).unwrap();
        other.run(&format!("nft -f {}", file.display())).unwrap_or_else(|error| panic!("{error:#}\n{explained}"));
        let list = "nft list table inet headgate";
        assert_eq!(words(&other.run(list).unwrap()), words(&lab.gate.run(list).unwrap()), "{explained}");
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
