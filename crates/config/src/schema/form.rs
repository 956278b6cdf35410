//! The forms that a text may have.

mod ssh;

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use self::ssh::ssh_key;
use crate::model::{Syslog, Transport};
use crate::types::{Endpoint, Invalid, Listen, Rate, checked_name, duration, duration_text, parse_address};

/// What a text must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Anything.
    Any,
    /// Not empty, no control characters.
    Line,
    /// Not empty, no white space or control characters.
    Token,
    /// `[A-Za-z0-9_.-]{1,63}`.
    Name,
    Address,
    /// An address, or one with a prefix length and no bits beyond it.
    Prefix,
    /// An address with its prefix length, or `dhcp`.
    InterfaceAddress,
    /// `default` or a prefix.
    Destination,
    Endpoint,
    Listen,
    /// Address and port, the address may be unspecified.
    Socket,
    Duration(Duration, Duration),
    Rate,
    /// The name of an interface as the kernel takes it.
    KernelName,
    /// A role, else a kernel name.
    Interface,
    Mac,
    Pci,
    /// A service of the box: `ssh`, `tcp/9100`.
    Service,
    /// A file below `/etc/headgate`.
    File,
    Hostname,
    Syslog,
    /// A line of `authorized_keys` without options.
    SshKey,
    /// A dotted name below `net`, `vm`, or one of [`KERNEL_SYSCTLS`].
    Sysctl,
    HttpPath,
    /// A status of HTTP, or a range.
    Status,
    DnsQuery,
    Secret,
}

/// What of `kernel.*` may be set: what a router needs, nothing that runs programs (`kernel.core_pattern`, `kernel.modprobe`) or
/// opens the kernel (`kernel.kptr_restrict`).
pub(crate) const KERNEL_SYSCTLS: &[&str] = &[
    "kernel.hung_task_panic",
    "kernel.hung_task_timeout_secs",
    "kernel.nmi_watchdog",
    "kernel.numa_balancing",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.pid_max",
    "kernel.printk",
    "kernel.sched_autogroup_enabled",
    "kernel.softlockup_panic",
    "kernel.sysrq",
    "kernel.timer_migration",
    "kernel.watchdog",
    "kernel.watchdog_thresh",
];

/// The services that `allow` knows by name.
pub(crate) const SERVICES: &[&str] = &["ping", "ssh", "api", "metrics", "bgp", "vrrp", "all"];

impl Form {
    /// Refuses a text that does not have the form.
    pub(crate) fn check(self, text: &str) -> Result<(), Invalid> {
        match self {
            Form::Any => Ok(()),
            Form::Line => line(text),
            Form::Token => token(text),
            Form::Name => checked_name("the", text)
                .map(drop)
                .map_err(|invalid| Invalid { message: format!("{text:?} is not a name"), ..invalid }),
            Form::Address => parse_address(text).map(drop),
            Form::Prefix => prefix(text).map(drop),
            Form::InterfaceAddress => interface_address(text).map(drop),
            Form::Destination if text == "default" => Ok(()),
            Form::Destination => prefix(text).map(drop),
            Form::Endpoint => text.parse::<Endpoint>().map(drop),
            Form::Listen => text.parse::<Listen>().map(drop),
            Form::Socket => socket(text).map(drop),
            Form::Duration(min, max) => bounded(text, min, max),
            Form::Rate => text.parse::<Rate>().map(drop),
            Form::KernelName => kernel_name(text),
            Form::Interface => checked_name("interface", text).map(drop),
            Form::Mac => mac(text).map(drop),
            Form::Pci => pci(text).map(drop),
            Form::Service => service(text),
            Form::File => file(text),
            Form::Hostname => hostname(text),
            Form::Syslog => syslog(text).map(drop),
            Form::SshKey => ssh_key(text),
            Form::Sysctl => sysctl(text),
            Form::HttpPath => http_path(text),
            Form::Status => status(text).map(drop),
            Form::DnsQuery => dns_query(text),
            Form::Secret => secret(text),
        }
    }
}

fn line(text: &str) -> Result<(), Invalid> {
    match text {
        "" => Err(Invalid { message: "the text is empty".to_owned(), help: None }),
        _ if text.chars().any(char::is_control) => {
            Err(Invalid::new("the text has control characters", "one line of plain text"))
        }
        _ => Ok(()),
    }
}

fn token(text: &str) -> Result<(), Invalid> {
    line(text)?;
    match text.chars().any(char::is_whitespace) {
        true => Err(Invalid::new(format!("{text:?} has white space in it"), "one word")),
        false => Ok(()),
    }
}

fn bounded(text: &str, min: Duration, max: Duration) -> Result<(), Invalid> {
    let value = duration(text)?;
    if value < min || value > max {
        let bounds = format!("{} to {}", duration_text(min), duration_text(max));
        return Err(Invalid::new(format!("{text:?} is out of range"), bounds));
    }
    Ok(())
}

/// An address, or a prefix without bits beyond its length.
pub(crate) fn prefix(text: &str) -> Result<IpNet, Invalid> {
    if !text.contains('/') {
        return parse_address(text).map(IpNet::from);
    }
    let not_a_prefix = || Invalid::new(format!("{text:?} is not a prefix"), "as in 10.0.0.0/8 or 2001:db8::/32");
    let net: IpNet = text.parse().map_err(|_| not_a_prefix())?;
    if net.addr() != net.network() {
        let help = format!("{}/{}", net.network(), net.prefix_len());
        return Err(Invalid::new(format!("{text:?} has bits beyond its prefix length"), help));
    }
    Ok(net)
}

/// An address with its prefix length; `None` is `dhcp`.
pub(crate) fn interface_address(text: &str) -> Result<Option<IpNet>, Invalid> {
    const HELP: &str = "an address with prefix length, as in 172.16.1.1/24, or \"dhcp\"";
    if text == "dhcp" {
        return Ok(None);
    }
    match text.split_once('/') {
        Some(_) => {
            text.parse().map(Some).map_err(|_| Invalid::new(format!("{text:?} is not an interface address"), HELP))
        }
        None => Err(Invalid::new(format!("{text:?} has no prefix length"), HELP)),
    }
}

/// An address with a port.
pub(crate) fn socket(text: &str) -> Result<SocketAddr, Invalid> {
    let endpoint: Endpoint = text.parse()?;
    let port =
        endpoint.port.ok_or_else(|| Invalid::new(format!("{text:?} has no port"), "ADDR:PORT or [ADDR]:PORT"))?;
    Ok(SocketAddr::new(endpoint.address, port))
}

/// Most bytes of the name of an interface: `IFNAMSIZ` with its NUL is 16 (`include/uapi/linux/if.h`).
const KERNEL_NAME_MAX: usize = 15;

/// What `dev_valid_name` takes (`net/core/dev.c`), without the `%` of its patterns.
pub(crate) fn kernel_name(text: &str) -> Result<(), Invalid> {
    let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%' | '"' | '\\');
    if text.is_empty() || text.len() > KERNEL_NAME_MAX || matches!(text, "." | "..") || text.chars().any(strange) {
        return Err(Invalid::new(
            format!("{text:?} is not the name of an interface"),
            format!("1 to {KERNEL_NAME_MAX} characters without spaces, slashes, colons, quotes and percent signs"),
        ));
    }
    Ok(())
}

/// A MAC address in lower case with colons.
pub(crate) fn mac(text: &str) -> Result<String, Invalid> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let good = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() != 6 || !parts.iter().all(good) {
        return Err(Invalid::new(format!("{text:?} is not a MAC address"), "as in 00:1b:21:aa:bb:cc"));
    }
    Ok(parts.join(":").to_ascii_lowercase())
}

/// A PCI address with its domain, in lower case.
pub(crate) fn pci(text: &str) -> Result<String, Invalid> {
    let invalid =
        || Invalid::new(format!("{text:?} is not a PCI address"), "DOMAIN:BUS:SLOT.FUNCTION, as in 0000:01:00.0");
    let hex = |part: &str, len: usize| part.len() == len && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (rest, function) = text.rsplit_once('.').ok_or_else(invalid)?;
    let parts: Vec<&str> = rest.split(':').collect();
    match parts[..] {
        [domain, bus, slot] if hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && hex(function, 1) => {
            Ok(text.to_ascii_lowercase())
        }
        [bus, slot] if hex(bus, 2) && hex(slot, 2) && hex(function, 1) => {
            Ok(format!("0000:{}", text.to_ascii_lowercase()))
        }
        _ => Err(invalid()),
    }
}

fn service(text: &str) -> Result<(), Invalid> {
    let port = text.strip_prefix("tcp/").or_else(|| text.strip_prefix("udp/"));
    let good = match port {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => SERVICES.contains(&text),
    };
    if !good {
        let help = format!("{}, tcp/PORT or udp/PORT", SERVICES.join(", "));
        return Err(Invalid::new(format!("unknown service {text:?}"), help));
    }
    Ok(())
}

/// Longest path below `/etc/headgate`.
const FILE_MAX: usize = 255;

/// A path below `/etc/headgate`.
pub(crate) fn file(text: &str) -> Result<(), Invalid> {
    line(text)?;
    let steps = text.split('/').all(|step| !matches!(step, "" | "." | ".."));
    if !steps || text.len() > FILE_MAX {
        return Err(Invalid::new(
            format!("{text:?} does not name a file below /etc/headgate"),
            "a path without a leading slash and without \"..\", as in lists/office.txt",
        ));
    }
    Ok(())
}

/// A host name of RFC 1123: labels of letters, digits and hyphens.
fn hostname(text: &str) -> Result<(), Invalid> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(Invalid::new(
            format!("{text:?} is not a host name"),
            "letters, digits and hyphens, with dots between",
        ));
    }
    Ok(())
}

pub(crate) fn syslog(text: &str) -> Result<Syslog, Invalid> {
    const HELP: &str = "udp://ADDR:PORT or tcp://ADDR:PORT";
    let (transport, place) = match text.split_once("://") {
        Some(("udp", place)) => (Transport::Udp, place),
        Some(("tcp", place)) => (Transport::Tcp, place),
        _ => return Err(Invalid::new(format!("{text:?} is not a syslog address"), HELP)),
    };
    let address = socket(place).map_err(|invalid| Invalid::new(invalid.message, HELP))?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(Invalid::new(format!("{text:?} is nobody's address"), HELP));
    }
    Ok(Syslog { transport, address })
}

fn sysctl(text: &str) -> Result<(), Invalid> {
    // `{if}` is what profiles write for each interface; a slash stands for a dot within the name of one.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '{' | '}' | '@');
    let parts: Vec<&str> = text.split('.').collect();
    let shaped = parts.len() >= 2
        && parts.iter().all(|part| {
            !part.is_empty() && part.chars().all(allowed) && !part.starts_with('/') && !part.ends_with('/')
        });
    if !shaped || text.contains("//") || text.len() > 200 {
        return Err(Invalid::new(
            format!("{text:?} is not the name of a sysctl"),
            "a dotted name in quotes, as in \"net.ipv4.ip_forward\"",
        ));
    }
    let reachable = matches!(parts[0], "net" | "vm") || KERNEL_SYSCTLS.contains(&text);
    if !reachable {
        return Err(Invalid::new(
            format!("{text:?} may not be set"),
            format!("net.*, vm.* and {}", KERNEL_SYSCTLS.join(", ")),
        ));
    }
    Ok(())
}

fn http_path(text: &str) -> Result<(), Invalid> {
    let good = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    match good {
        true => Ok(()),
        false => Err(Invalid::new(
            format!("{text:?} is not the path of a request"),
            "a slash first, no spaces, as in /healthz",
        )),
    }
}

/// First and last good status.
pub(crate) fn status(text: &str) -> Result<(u16, u16), Invalid> {
    let one = |part: &str| {
        let code: u16 = part.parse().ok()?;
        (part.len() == 3 && (100..=599).contains(&code)).then_some(code)
    };
    let range = match text.split_once('-') {
        Some((first, last)) => one(first).zip(one(last)),
        None => one(text).map(|code| (code, code)),
    };
    range.filter(|(first, last)| first <= last).ok_or_else(|| {
        Invalid::new(format!("{text:?} is not a status or a range"), "100 to 599, as in \"200\" or \"200-399\"")
    })
}

const DNS_TYPES: &[&str] = &["A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT"];

fn dns_query(text: &str) -> Result<(), Invalid> {
    let help = || format!("a name and one of {}, as in \"example.org A\"", DNS_TYPES.join(", "));
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let good = text.split_once(' ').is_some_and(|(name, kind)| {
        let plain = name.strip_suffix('.').unwrap_or(name);
        DNS_TYPES.contains(&kind) && name.len() <= 253 && (name == "." || plain.split('.').all(label))
    });
    match good {
        true => Ok(()),
        false => Err(Invalid::new(format!("{text:?} is not a DNS question"), help())),
    }
}

/// Fewer characters could be guessed.
const SECRET_MIN: usize = 16;

fn secret(text: &str) -> Result<(), Invalid> {
    line(text)?;
    match text.len() >= SECRET_MIN {
        true => Ok(()),
        // The secret itself stays out of the message.
        false => Err(Invalid::new(
            "the secret is too short",
            format!("at least {SECRET_MIN} characters; omit the key and one is made at first start"),
        )),
    }
}
