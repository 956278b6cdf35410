//! Who resolves names for the appliance: what `/etc/resolv.conf` of its image links to (resolv.conf(5)).
//!
//! The data plane has no names. They are for people: the address of an update, a command of theirs that is run as a service.

use std::net::IpAddr;

use headgate_host::Root;
use headgate_host::root::RootError;

const FILE: &str = "run/headgate/resolv.conf";

/// Says whom to ask from now on: programs read it again at each name, at the latest when they start.
///
/// # Errors
/// The file cannot be written.
pub fn lay_down(servers: &[IpAddr], root: &Root) -> Result<(), RootError> {
    let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    match root.read_file(FILE) {
        Ok(found) if found == text => Ok(()),
        Err(_) if text.is_empty() => Ok(()),
        _ => root.write_file(FILE, text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_laid_down_and_taken_away_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let there = || std::fs::read_to_string(directory.path().join(FILE)).ok();
        lay_down(&[], &root).unwrap();
        assert_eq!(there(), None, "a server has a file of its own");
        lay_down(&["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()], &root).unwrap();
        assert_eq!(there().unwrap(), "nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
        lay_down(&[], &root).unwrap();
        assert_eq!(there().unwrap(), "");
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("run"), "no directory").unwrap();
        assert!(lay_down(&["192.0.2.53".parse().unwrap()], &Root::new(directory.path())).is_err());
    }
}
