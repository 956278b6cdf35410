use super::*;
use crate::schema::ROOT;

fn document(texts: &[&str]) -> Document {
    let mut files = Files::default();
    for (at, text) in texts.iter().enumerate() {
        files.add(format!("{at}.toml").into(), (*text).to_owned());
    }
    let mut problems = Collector::default();
    let document = Document::new(files, ROOT, &mut problems);
    assert!(!problems.has_errors(), "{}", problems.finish(&document.files));
    document
}

fn origin(document: &Document, path: &str) -> String {
    document.origin(path).map_or_else(|| "nowhere".to_owned(), |origin| origin.to_string())
}

#[test]
fn tables_merge_and_everything_else_is_replaced() {
    let merged = document(&[
        "[farms.web]\nlisten = [\"a\", \"b\"]\nmode = \"snat\"\n[farms.web.backends.b1]\naddress = \"x\"\nweight = 1\n",
        "[farms.web]\nlisten = \"c\"\n[farms.web.backends.b1]\nweight = 2\n[farms.web.backends.b2]\naddress = \"y\"\n",
    ]);
    assert_eq!(
        merged.to_toml(),
        "[farms.web]\nlisten = \"c\"\nmode = \"snat\"\n\n[farms.web.backends.b1]\naddress = \"x\"\nweight = 2\n\n\
         [farms.web.backends.b2]\naddress = \"y\"\n"
    );
}

#[test]
fn tables_that_are_values_are_replaced_whole() {
    let merged = document(&[
        "[network.interfaces.a]\nmatch = { driver = \"igb\", index = 0 }\nmtu = 1500\n\
         [services.s]\nbackoff = { initial = \"1s\", max = \"2s\" }\nready = { tcp = \"127.0.0.1:1\" }\n\
         [farms.f]\ndsr = { via = \"l2\", interface = \"x\" }\npersistence.static = { \"10.0.0.1\" = \"a\" }\n\
         persistence.size = 5\n",
        "[network.interfaces.a]\nmatch = { mac = \"00:11:22:33:44:55\" }\n[services.s]\nbackoff = { max = \"3s\" }\nready = {}\n\
         [farms.f]\ndsr = { via = \"gre\" }\npersistence.static = { \"10.0.0.2\" = \"b\" }\n",
    ]);
    let text = merged.to_toml();
    for gone in ["driver", "index", "initial", "tcp", "interface =", "10.0.0.1\"", "l2"] {
        assert!(!text.contains(gone), "{gone} in\n{text}");
    }
    for kept in ["mtu = 1500", "size = 5", "max = \"3s\"", "\"10.0.0.2\" = \"b\"", "via = \"gre\""] {
        assert!(text.contains(kept), "{kept} not in\n{text}");
    }
}

#[test]
fn every_value_knows_where_it_was_written() {
    let merged = document(&[
        "[farms.web]\nmode = \"snat\"\n[farms.web.backends.\"b.1\"]\naddress = \"x\"\n  weight = 1\n",
        "# later\n[farms.web.backends.\"b.1\"]\nweight = 2\n[sysctl]\n\"net.ipv4.ip_forward\" = 1\n",
        "[farms.shop.backends.b1]\naddress = \"x\"\n",
        "\n[farms.shop]\nmode = \"dnat\"\n",
    ]);
    for (path, place) in [
        ("farms.web", "0.toml:1:1"),
        ("farms.web.mode", "0.toml:2:8"),
        ("farms.web.backends.\"b.1\"", "0.toml:3:1"),
        ("farms.web.backends.\"b.1\".weight", "1.toml:3:10"),
        ("sysctl.\"net.ipv4.ip_forward\"", "1.toml:5:25"),
        // Its own header says more than the path to its backend.
        ("farms.shop", "3.toml:2:1"),
        ("farms.shop.backends", "2.toml:1:13"),
        ("farms.nothing", "nowhere"),
        ("farms.web.mode.deeper", "nowhere"),
        ("", "nowhere"),
        ("farms..web", "nowhere"),
        ("farms.\"web", "nowhere"),
    ] {
        assert_eq!(origin(&merged, path), place, "{path}");
    }
}

#[test]
fn defaults_lie_under_every_farm() {
    let merged = document(&[
        "[defaults.farm]\nscheduler = \"random\"\nhealth = { type = \"http\", interval = \"5s\" }\nlimits.ban = \"1m\"\n",
        "[farms.web]\nlisten = \"a\"\n[farms.shop]\nscheduler = \"maglev\"\nhealth.interval = \"9s\"\n",
    ]);
    assert_eq!(origin(&merged, "farms.web.scheduler"), "0.toml:2:13");
    assert_eq!(origin(&merged, "farms.shop.scheduler"), "1.toml:4:13");
    assert_eq!(origin(&merged, "farms.shop.health.type"), "0.toml:3:19");
    assert_eq!(origin(&merged, "farms.shop.health.interval"), "1.toml:5:19");
    assert_eq!(origin(&merged, "farms.web.limits.ban"), "0.toml:4:14");
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let text = "[site]\nsecret = \"a\\\"b\\\\c\\n\\t\\u001b\\u007f\\u009bé\"\n[[list]]\nx = 1\n[[list]]\n[list.y]\nz = [1.5, -0.0, inf, { a = 1 }]\n\
                [empty]\n[\"a b\".\"\"]\nwhen = 2026-01-01T00:00:00Z\n";
    let first = document(&[text]);
    let printed = first.to_toml();
    let second = document(&[&printed]);
    assert_eq!(printed, second.to_toml());
    let (ours, theirs): (toml::Value, toml::Value) = (toml::from_str(&printed).unwrap(), toml::from_str(text).unwrap());
    assert_eq!(ours, theirs);
    assert!(!printed.contains('\u{1b}') && !printed.contains('\u{9b}'));
}

#[test]
fn origins_and_json_are_printed() {
    let merged = document(&["[system]\nhostname = \"lb1\"\n", "[system]\nntp-servers = [\"192.0.2.1\"]\n"]);
    assert_eq!(
        merged.to_toml_with_origins(),
        "[system]  # 0.toml:1\nhostname = \"lb1\"  # 0.toml:2\nntp-servers = [\"192.0.2.1\"]  # 1.toml:2\n"
    );
    assert_eq!(serde_json::to_string(&merged).unwrap(), r#"{"system":{"hostname":"lb1","ntp-servers":["192.0.2.1"]}}"#);
}

#[test]
fn tables_of_any_size_keep_their_order() {
    let mut text = String::new();
    for number in (0..100).rev() {
        text.push_str(&format!("[farms.f{number:03}]\nmode = \"snat\"\n"));
    }
    let merged = document(&[&text, "[farms.f050]\nmode = \"dnat\"\n"]);
    let names: Vec<&str> = merged.root.table("farms").unwrap().iter().map(|entry| entry.key.as_ref()).collect();
    assert!(names.is_sorted() && names.len() == 100);
    assert_eq!(origin(&merged, "farms.f050.mode"), "1.toml:2:8");
}
