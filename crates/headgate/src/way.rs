//! The way by which somebody came to this machine: a change that would close it behind them is not made unasked.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// Shells in shells, `sudo`, a terminal multiplexer: no tree of processes is deeper that a person sits at the end of.
const ANCESTORS_MAX: usize = 32;

/// A TCP connection to this machine that somebody's request came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Where they are.
    pub client: IpAddr,
    /// The address and port that they came to.
    pub server: SocketAddr,
}

impl Way {
    /// Of a process below an `sshd`: the `SSH_CONNECTION` of its own environment or an ancestor's, since `sudo` takes it away.
    /// A process that is gone, or not ours to look at, came by no way that we know of.
    pub fn of_process(pid: i32) -> Option<Self> {
        let mut pid = pid;
        for _ in 0..ANCESTORS_MAX {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if let Some(way) = in_environment(&environment) {
                return Some(way);
            }
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            pid = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())?;
            if pid <= 1 {
                return None;
            }
        }
        None
    }
}

/// `SSH_CONNECTION=CLIENT PORT SERVER PORT`, as sshd(8) and dropbear(8) set it.
fn in_environment(environment: &[u8]) -> Option<Way> {
    let value = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="))?;
    let mut words = std::str::from_utf8(value).ok()?.split_ascii_whitespace();
    let (client, _, server, port) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Way { client: client.parse().ok()?, server: SocketAddr::new(server.parse().ok()?, port.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_says_where_somebody_sits() {
        let way = in_environment(b"HOME=/root\0SSH_CONNECTION=172.16.1.10 50000 172.16.1.254 22\0");
        assert_eq!(
            way,
            Some(Way { client: "172.16.1.10".parse().unwrap(), server: "172.16.1.254:22".parse().unwrap() })
        );
        let way = in_environment(b"SSH_CONNECTION=2001:db8::10 50000 2001:db8::1 2222").unwrap();
        assert_eq!(way.server, "[2001:db8::1]:2222".parse().unwrap());
    }

    #[test]
    fn what_is_no_connection_is_none() {
        for environment in [
            "",
            "SSH_CONNECTION=",
            "SSH_CONNECTION=a b c d",
            "SSH_CONNECTION=1.2.3.4 1 1.2.3.4",
            "X=1\0SSH_CONNECTIONS=1",
        ] {
            assert_eq!(in_environment(environment.as_bytes()), None, "{environment}");
        }
        assert_eq!(in_environment(b"SSH_CONNECTION=\xff\xfe 1 2 3\0"), None);
        assert_eq!(Way::of_process(i32::MAX), None);
    }
}
