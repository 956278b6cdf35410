//! Who asks.

use std::fs;

use crate::api::Scope;
use crate::way::Way;

/// Where the names of users are. A static program has no other way to them.
const USERS: &str = "/etc/passwd";
/// `loginuid` of a process that nobody logged in for (include/linux/audit.h, `AUDIT_UID_UNSET`).
const NOBODY: u32 = u32::MAX;

/// Who is at the other end of the Unix socket, as the kernel says. The permissions of its file have let them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Their user.
    pub uid: u32,
    /// Their process.
    pub pid: Option<i32>,
}

/// Who asks for something, as `history` and the log name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: String,
    scope: Scope,
    way: Option<Way>,
}

impl Caller {
    /// The user at the other end of the socket; with the user who once logged in, where that is another: behind `sudo`
    /// everybody is root. The kernel vouches for the first; a process can end before it is asked for the second. Reads files, so it is
    /// nothing for a thread behind the fence.
    pub fn of(Peer { uid, pid }: Peer) -> Self {
        let users = fs::read_to_string(USERS).unwrap_or_default();
        let login = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
        let login = login.and_then(|text| text.trim().parse().ok()).filter(|&login| login != NOBODY && login != uid);
        let name = match login {
            Some(login) => format!("{} (login {})", name(&users, uid), name(&users, login)),
            None => name(&users, uid),
        };
        Self { name, scope: Scope::Root, way: pid.and_then(Way::of_process) }
    }

    /// Who came with a token.
    pub fn token(name: &str, scope: Scope) -> Self {
        Self { name: format!("token {name}"), scope, way: None }
    }

    /// The connection that the request came over.
    pub fn over(self, way: Option<Way>) -> Self {
        Self { way: way.or(self.way), ..self }
    }

    /// How they came to this machine, if it is known.
    pub fn way(&self) -> Option<Way> {
        self.way
    }

    /// What they may do.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// As `history` names them.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn name(users: &str, uid: u32) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    named.map_or_else(|| format!("uid {uid}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_strangers_numbers() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nops:x:1000:1000::/:/bin/sh\n";
        assert_eq!(name(users, 0), "root");
        assert_eq!(name(users, 1000), "ops");
        assert_eq!(name(users, 7), "uid 7");
        assert_eq!(name("", 0), "uid 0");
        assert!(!Caller::of(Peer { uid: 0, pid: Some(1) }).name().is_empty());
        assert_eq!(Caller::of(Peer { uid: 4_000_000, pid: None }).name(), "uid 4000000");
    }
}
