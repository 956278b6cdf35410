//! Configurations that nobody should write, and what must be said about them: as files for `headgate check`, and for a
//! daemon that runs.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::Ran;

/// One mistake each, and a word that the message about it must have. What begins with `F:` is a key of a farm, with `B:` of a
/// backend, see [`whole`].
const TEXTS: &[(&str, &str, &str)] = &[
    ("syntax", "[farms.web\nlisten = 1", "expected"),
    ("key twice", "[site]\nsecret = \"a\"\nsecret = \"b\"", "secret"),
    ("unknown table", "[frams.web]\nlisten = \"10.0.0.1:80\"", "frams"),
    (
        "unknown key",
        "[farms.web]\nlisten = \"10.0.0.1:80\"\nlisen = 1\n[farms.web.backends.b]\naddress = \"10.0.0.2\"",
        "lisen",
    ),
    ("number for a text", "[farms.web]\nlisten = 80", "listen"),
    ("text for a table", "farms = \"web\"", "farms"),
    ("array for a table", "[[farms]]\nname = \"web\"", "farms"),
    ("weight too large", "B:weight = 65536", "65535"),
    ("weight below zero", "B:weight = -1", "65535"),
    ("weight with a fraction", "B:weight = 1.5", "weight"),
    ("weight beyond 64 bits", "B:weight = 99999999999999999999", "too large"),
    ("state unknown", "B:state = \"gone\"", "gone"),
    ("mode unknown", "F:mode = \"magic\"", "magic"),
    ("address out of range", "F:listen = \"10.0.0.256:80\"", "10.0.0.256"),
    ("port 0", "F:listen = \"10.0.0.1:0\"", "port"),
    ("port too large", "F:listen = \"10.0.0.1:65536\"", "65536"),
    ("range backwards", "F:listen = \"10.0.0.1:90-80\"", "90"),
    ("protocol unknown", "F:listen = \"10.0.0.1:80/icmp\"", "icmp"),
    ("listener empty", "F:listen = []", "listen"),
    ("multicast", "F:listen = \"224.0.0.1:80\"", "multicast"),
    ("unspecified", "F:listen = \"0.0.0.0:80\"", "every address"),
    (
        "the same listener twice",
        "[farms.a]\nlisten = \"10.0.0.1:80\"\n[farms.a.backends.b]\naddress = \"10.0.0.2\"\n[farms.b]\nlisten = \"10.0.0.1:80\"\n[farms.b.backends.b]\naddress = \"10.0.0.2\"",
        "10.0.0.1:80",
    ),
    (
        "ranges that overlap",
        "[farms.a]\nlisten = \"10.0.0.1:80-90\"\n[farms.a.backends.b]\naddress = \"10.0.0.2\"\n[farms.b]\nlisten = \"10.0.0.1:90-99\"\n[farms.b.backends.b]\naddress = \"10.0.0.2\"",
        "90",
    ),
    ("no backend", "[farms.web]\nlisten = \"10.0.0.1:80\"", "backend"),
    ("no backend of the family", "F:listen = \"[2001:db8::1]:80\"", "IPv6"),
    (
        "a backend that is the VIP",
        "[farms.web]\nlisten = \"10.0.0.1:80\"\n[farms.web.backends.b]\naddress = \"10.0.0.1:80\"",
        "virtual address",
    ),
    ("policy unknown", "F:policies = [\"nobody\"]", "nobody"),
    (
        "cycle of services",
        "[services.a]\ncommand = [\"/bin/true\"]\nafter = [\"b\"]\n[services.b]\ncommand = [\"/bin/true\"]\nafter = [\"a\"]",
        "wait for each other",
    ),
    ("service without a program", "[services.a]\ncommand = []", "command"),
    ("sysctl that is not ours", "[sysctl]\n\"kernel.core_pattern\" = \"|/bin/sh\"", "kernel.core_pattern"),
    ("VLAN too large", "[network.vlans.v]\nparent = \"eth0\"\nid = 4095", "4094"),
    ("bad prefix", "[network.interfaces.eth0]\naddresses = [\"10.0.0.1/33\"]", "10.0.0.1/33"),
    ("timeout longer than interval", "F:health = { type = \"tcp\", interval = \"1s\", timeout = \"2s\" }", "timeout"),
    ("name with a slash", "[farms.\"../x\"]\nlisten = \"10.0.0.1:80\"", "name"),
    ("name with an escape sequence", "[farms.\"\\u001b[31mred\"]\nlisten = \"10.0.0.1:80\"", "name"),
    ("not supported yet", "F:mode = \"stateless\"\nscheduler = \"maglev\"\nmark = 3", ".mark"),
];

type Make = fn(&Path) -> io::Result<()>;

/// Nothing that is a file of text.
const FILES: &[(&str, Make, &str)] = &[
    ("10 MB", |path| fs::write(path, vec![b'#'; 10_000_000]), "10000000 bytes"),
    ("not UTF-8", |path| fs::write(path, b"a = 1\nb = \"\xff\"\n"), "UTF-8"),
    ("UTF-16", |path| fs::write(path, b"\xff\xfea\0"), "UTF-8"),
    ("NUL bytes", |path| fs::write(path, vec![0; 4096]), "invalid"),
    ("a directory", |path| fs::create_dir(path), "directory"),
    ("a broken link", |path| symlink("/nonexistent", path), "/nonexistent"),
    ("a link to itself", |path| symlink(path, path), "cannot read"),
    (
        "a pipe",
        |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).map_err(io::Error::from),
        "regular file",
    ),
    ("nested too deep", |path| fs::write(path, format!("a = {}", "[".repeat(100_000))), ""),
];

/// One of them.
pub struct Hostile {
    pub name: &'static str,
    content: Content,
    word: &'static str,
}

enum Content {
    Text(String),
    File(Make),
}

/// All of them.
pub fn all() -> impl Iterator<Item = Hostile> {
    let text = |(name, text, word): &(&'static str, &str, &'static str)| Hostile {
        name,
        content: Content::Text(whole(text)),
        word,
    };
    let file =
        |(name, make, word): &(&'static str, Make, &'static str)| Hostile { name, content: Content::File(*make), word };
    TEXTS.iter().map(text).chain(FILES.iter().map(file))
}

/// The text with the farm, and the backend, that it is a key of.
pub fn whole(text: &str) -> String {
    let around = |farm: &str, backend: &str| {
        let listen = if farm.starts_with("listen") { "" } else { "listen = \"10.0.0.1:80\"\n" };
        format!("[farms.web]\n{listen}{farm}\n[farms.web.backends.b1]\naddress = \"10.0.0.2:80\"\n{backend}\n")
    };
    match (text.strip_prefix("F:"), text.strip_prefix("B:")) {
        (Some(farm), _) => around(farm, ""),
        (_, Some(backend)) => around("", backend),
        _ => text.to_owned(),
    }
}

impl Hostile {
    /// Makes it, instead of whatever is at `path`.
    pub fn put(&self, path: &Path) {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir(path),
            Ok(_) => fs::remove_file(path),
            Err(_) => Ok(()),
        };
        let made = removed.and_then(|()| match &self.content {
            Content::Text(text) => fs::write(path, text),
            Content::File(make) => make(path),
        });
        made.unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Asserts that a program ended with 1 and said where what is wrong, and nothing that steers a terminal.
    #[track_caller]
    pub fn is_refused(&self, ran: &Ran) {
        let Self { name, content, word } = self;
        assert_eq!(ran.code, Some(1), "{name}: {ran:#?}");
        assert!(ran.err.starts_with("error: "), "{name}: {ran:#?}");
        assert!(ran.err.contains(word), "{name}: {word:?} is not in\n{}", ran.err);
        let place = |line: &str| line.trim_start().starts_with("--> ") && line.contains("/10-farms.toml");
        let has_line = |line: &str| line.rsplit(':').take(2).all(|number| number.parse::<u32>().is_ok());
        let text = matches!(content, Content::Text(_));
        assert!(
            ran.err.lines().any(|line| place(line) && (!text || has_line(line))),
            "{name}: no place in\n{}",
            ran.err
        );
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!ran.err.contains(steers) && !ran.out.contains(steers), "{name}: {ran:#?}");
    }
}
