//! Text to the small values: listeners, endpoints, rates, durations, sizes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use super::{ByteSize, Endpoint, Invalid, Listen, Ports, Protocol, Rate};

const LISTEN_HELP: &str =
    "ADDR:PORT, ADDR:LO-HI or ADDR:*, then /tcp (the default), /udp or /sctp; ADDR:*/any; IPv6 as [ADDR]:PORT";
const ENDPOINT_HELP: &str = "ADDR:PORT or ADDR; IPv6 with a port as [ADDR]:PORT";

impl FromStr for Listen {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (place, protocol) = match text.rsplit_once('/') {
            Some((place, protocol)) => (place, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let (address, ports) = split_port(place, LISTEN_HELP)?;
        let Some(ports) = ports else {
            return Err(Invalid::new(format!("{text:?} has no port"), LISTEN_HELP));
        };
        let ports = ports.parse()?;
        if protocol == Protocol::Any && ports != Ports::All {
            return Err(Invalid::new("/any takes every port", "write ADDR:*/any, or name a protocol"));
        }
        Ok(Self { address, ports, protocol })
    }
}

impl FromStr for Protocol {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            "any" => Ok(Protocol::Any),
            _ => Err(Invalid::new(format!("unknown protocol {text:?}"), "tcp, udp, sctp or any")),
        }
    }
}

impl FromStr for Ports {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Ports::All);
        }
        let Some((first, last)) = text.split_once('-') else { return port(text).map(Ports::One) };
        let (first, last) = (port(first)?, port(last)?);
        match first.cmp(&last) {
            std::cmp::Ordering::Less => Ok(Ports::Range(first, last)),
            std::cmp::Ordering::Equal => Ok(Ports::One(first)),
            std::cmp::Ordering::Greater => {
                Err(Invalid::new("the range of ports ends before it begins", format!("{last}-{first}")))
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self { address: checked(address.into())?, port: None });
        }
        if let Some((_, rest)) = text.rsplit_once(':')
            && (rest == "*" || rest.contains('-') || rest.contains('/'))
        {
            return Err(Invalid::new(format!("{text:?} is not one address and port"), ENDPOINT_HELP));
        }
        let (address, rest) = split_port(text, ENDPOINT_HELP)?;
        let port = rest.map(port).transpose()?;
        Ok(Self { address, port })
    }
}

/// `ADDR:REST`, `[ADDR]:REST`, `ADDR`, `[ADDR]`.
fn split_port<'t>(text: &'t str, help: &str) -> Result<(IpAddr, Option<&'t str>), Invalid> {
    let not_an_address = |part: &str| Invalid::new(format!("{part:?} is not an IP address"), help.to_owned());
    if let Some(inner) = text.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return Err(Invalid::new(format!("{text:?} has no closing bracket"), help.to_owned()));
        };
        let address: Ipv6Addr = address.parse().map_err(|_| not_an_address(address))?;
        let rest = match rest.strip_prefix(':') {
            Some(rest) => Some(rest),
            None if rest.is_empty() => None,
            None => return Err(Invalid::new(format!("{rest:?} after the bracket"), help.to_owned())),
        };
        return Ok((checked(address.into())?, rest));
    }
    let (address, rest) = match text.split_once(':') {
        Some((address, rest)) => (address, Some(rest)),
        None => (text, None),
    };
    if rest.is_some_and(|rest| rest.contains(':')) {
        return Err(Invalid::new(format!("{text:?} is ambiguous"), "write an IPv6 address with a port as [ADDR]:PORT"));
    }
    let address: Ipv4Addr = address.parse().map_err(|_| not_an_address(address))?;
    Ok((address.into(), rest))
}

/// An address in the one form that the kernel will see.
pub(crate) fn address(text: &str) -> Result<IpAddr, Invalid> {
    let address = text.parse().map_err(|_| Invalid {
        message: format!("{text:?} is not an IP address"),
        help: Some("as in 192.0.2.1 or 2001:db8::1, without port or prefix length".to_owned()),
    })?;
    checked(address)
}

fn checked(address: IpAddr) -> Result<IpAddr, Invalid> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(Invalid::new(format!("{v6} is an IPv4 address in IPv6 clothes"), format!("write {v4}")));
    }
    Ok(address)
}

fn port(text: &str) -> Result<u16, Invalid> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if port > 0 && digits => Ok(port),
        _ => Err(Invalid { message: format!("port {text:?} is not 1 to 65535"), help: None }),
    }
}

/// A bucket fills in at most so many seconds. The kernel counts it in nanoseconds of 64 bits, and refuses what does not fit.
const BURST_MAX_S: u64 = 365 * 86400;

impl FromStr for Rate {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const HELP: &str =
            "N/second, N/minute, N/hour or N/day, then \"burst M\" if wanted, as in \"200/second burst 400\"";
        let not_a_rate = || Invalid::new(format!("{text:?} is not a rate"), HELP);
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate.trim(), Some(burst.trim())),
            None => (text.trim(), None),
        };
        let (count, unit) = rate.split_once('/').ok_or_else(not_a_rate)?;
        let seconds = match unit.trim() {
            "second" => 1,
            "minute" => 60,
            "hour" => 3600,
            "day" => 86400,
            _ => return Err(not_a_rate()),
        };
        let count = count.trim().parse().map_err(|_| not_a_rate())?;
        let burst: Option<u32> = burst.map(|burst| burst.parse().map_err(|_| not_a_rate())).transpose()?;
        if count == 0 || burst == Some(0) {
            return Err(Invalid::new(
                "a rate or burst of 0 lets nothing through",
                "at least 1; omit the key for no limit",
            ));
        }
        if u64::from(burst.unwrap_or(0)) * seconds / u64::from(count) > BURST_MAX_S {
            let help = "a smaller burst, or a higher rate";
            return Err(Invalid::new("the burst would take more than a year to come back", help));
        }
        Ok(Self { count, per: Duration::from_secs(seconds), burst })
    }
}

/// Parses `"500ms"`, `"2s"`, `"5m"`, `"2h"`.
///
/// # Errors
/// When there is no number, no unit, or more milliseconds than 64 bits hold.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    let not_a_duration = || {
        Invalid::new(
            format!("{text:?} is not a duration"),
            "a whole number and ms, s, m or h, as in \"500ms\" or \"2s\"",
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let count: u64 = text[..digits].parse().map_err(|_| not_a_duration())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(not_a_duration()),
    };
    count.checked_mul(unit).map(Duration::from_millis).ok_or_else(not_a_duration)
}

/// The shortest text that [`duration`] reads back; less than a millisecond is cut off.
pub fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if milliseconds > 0 && milliseconds.is_multiple_of(unit) {
            return format!("{}{name}", milliseconds / unit);
        }
    }
    format!("{milliseconds}ms")
}

const SIZE_UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let not_a_size = || {
            Invalid::new(format!("{text:?} is not a size"), "a whole number and B, KiB, MiB or GiB, as in \"64MiB\"")
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = text[..digits].parse().map_err(|_| not_a_size())?;
        let (_, shift) = SIZE_UNITS.into_iter().find(|(unit, _)| *unit == &text[digits..]).ok_or_else(not_a_size)?;
        count.checked_mul(1 << shift).map(ByteSize).ok_or_else(not_a_size)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fits = |shift: u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        let (unit, shift) = SIZE_UNITS.into_iter().find(|&(_, shift)| fits(shift)).unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}
