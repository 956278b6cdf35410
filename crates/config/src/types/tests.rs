use super::*;

fn listen(text: &str) -> String {
    text.parse::<Listen>().map_or_else(|invalid| format!("! {}", invalid.message), |listen| listen.to_string())
}

#[test]
fn listeners_read_and_print() {
    for (text, printed) in [
        ("172.16.1.1:80", "172.16.1.1:80/tcp"),
        ("172.16.1.1:80/udp", "172.16.1.1:80/udp"),
        ("172.16.1.1:8000-8999/sctp", "172.16.1.1:8000-8999/sctp"),
        ("172.16.1.1:80-80", "172.16.1.1:80/tcp"),
        ("172.16.1.1:*", "172.16.1.1:*/tcp"),
        ("172.16.1.1:*/any", "172.16.1.1:*/any"),
        ("[2001:db8::1]:443/tcp", "[2001:db8::1]:443/tcp"),
        ("[2001:DB8:0::1]:*/any", "[2001:db8::1]:*/any"),
        ("172.16.1.1", "! \"172.16.1.1\" has no port"),
        ("172.16.1.1:0", "! port \"0\" is not 1 to 65535"),
        ("172.16.1.1:65536", "! port \"65536\" is not 1 to 65535"),
        ("172.16.1.1:+80", "! port \"+80\" is not 1 to 65535"),
        ("172.16.1.1:90-80", "! the range of ports ends before it begins"),
        ("172.16.1.1:80/any", "! /any takes every port"),
        ("172.16.1.1:80/icmp", "! unknown protocol \"icmp\""),
        ("2001:db8::1:80", "! \"2001:db8::1:80\" is ambiguous"),
        ("[2001:db8::1:80", "! \"[2001:db8::1:80\" has no closing bracket"),
        ("[2001:db8::1]80", "! \"80\" after the bracket"),
        ("[172.16.1.1]:80", "! \"172.16.1.1\" is not an IP address"),
        ("[::ffff:10.0.0.1]:80", "! ::ffff:10.0.0.1 is an IPv4 address in IPv6 clothes"),
        ("example.org:80", "! \"example.org\" is not an IP address"),
        ("", "! \"\" is not an IP address"),
    ] {
        assert_eq!(listen(text), printed, "{text}");
    }
}

#[test]
fn endpoints_read_and_print() {
    for (text, printed) in [
        ("172.16.2.11:8080", Some("172.16.2.11:8080")),
        ("172.16.2.11", Some("172.16.2.11")),
        ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
        ("[2001:db8::1]", Some("2001:db8::1")),
        ("2001:db8::1", Some("2001:db8::1")),
        ("172.16.2.11:80-90", None),
        ("172.16.2.11:80/tcp", None),
        ("172.16.2.11:", None),
        ("172.16.2.11:99999", None),
        ("fe80::1%eth0", None),
        ("host", None),
    ] {
        assert_eq!(text.parse::<Endpoint>().ok().map(|endpoint| endpoint.to_string()).as_deref(), printed, "{text}");
    }
}

#[test]
fn rates_read_and_print() {
    for text in ["200/second", "1/minute", "50/hour burst 7", "4294967295/day burst 4294967295"] {
        assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
    }
    for text in
        ["", "200", "0/second", "1/second burst 0", "-1/second", "1/week", "1/second burst", "4294967296/second"]
    {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
}

#[test]
fn durations_read_and_print() {
    for (text, milliseconds) in [("500ms", 500), ("0s", 0), ("2s", 2_000), ("5m", 300_000), ("2h", 7_200_000)] {
        assert_eq!(duration(text).unwrap().as_millis(), milliseconds);
        assert_eq!(duration(&duration_text(duration(text).unwrap())), duration(text));
    }
    assert_eq!(duration_text(Duration::from_secs(90)), "90s");
    for text in ["", "2", "s", "2 s", "-2s", "1.5s", "2d", "99999999999999999999h", "9999999999999999h", "２s"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_read_and_print() {
    for (text, bytes) in [("0B", 0), ("512B", 512), ("64MiB", 64 << 20), ("3GiB", 3 << 30), ("1KiB", 1024)] {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
    }
    for text in ["", "64", "64MB", "MiB", "-1B", "99999999999GiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn names_are_short_and_plain() {
    assert!(FarmName::new(&"x".repeat(63)).is_ok());
    for text in ["", "a b", "ä", "a/b", &"x".repeat(64), "a\n"] {
        assert!(FarmName::new(text).is_err(), "{text:?}");
    }
}
