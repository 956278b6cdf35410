//! What of root's power each thread keeps. Capabilities belong to threads: those that parse what servers answer to probes, and
//! what comes over the API, have no use for most of them, and none that they do not have can be turned against the machine by
//! whoever finds a fault in a parser. Those threads stand behind a fence ([`Thread`]) as well, which asks nobody who they are.
//!
//! Programs that are started (services, health checks, `modprobe`) are root's own and find all of it again, but what
//! nobody here ever needs: the kernel gives a program of user 0 whatever its bounding set has (capabilities(7)). `no_new_privs`,
//! seccomp filters and landlock would be theirs too, for good, and a service may be anything: so no thread behind the fence starts
//! one ([`Errands`](super::errands::Errands)).

mod thread;
mod wall;

use std::path::Path;

use rustix::io;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

pub use self::thread::Thread;

/// Taken from the whole process, and from every program that it starts.
const NOBODY: CapabilitySet = CapabilitySet::MAC_ADMIN
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::WAKE_ALARM)
    .union(CapabilitySet::BLOCK_SUSPEND)
    .union(CapabilitySet::CHECKPOINT_RESTORE)
    .union(CapabilitySet::IPC_OWNER);

/// A part of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Writes to the kernel: rules, addresses, routes, knobs, the host's name.
    Engine,
    /// Hears signals and what changes, starts and ends programs, opens files for those behind the fence. Starts the two that follow.
    Supervisor,
    /// Answers the API, asks time servers, hears what rules log, sends the log elsewhere.
    Front,
    /// Probes backends.
    Probes,
    /// Has neighbours asked for again when a carrier comes.
    Carriers,
}

impl Part {
    /// Of its thread.
    fn name(self) -> &'static str {
        match self {
            Part::Engine => "engine",
            Part::Supervisor => "headgated",
            Part::Front => "front",
            Part::Probes => "health",
            Part::Carriers => "carriers",
        }
    }

    fn needs(self) -> CapabilitySet {
        // Files of other users: certificates, and what is written below a root that is somebody's.
        let files = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        match self {
            // SYS_ADMIN: sethostname(2) and sysctls that ask for it.
            Part::Engine => {
                files
                    | CapabilitySet::CHOWN
                    | CapabilitySet::FOWNER
                    | CapabilitySet::KILL
                    | CapabilitySet::NET_ADMIN
                    | CapabilitySet::NET_RAW
                    | CapabilitySet::SYS_ADMIN
                    | CapabilitySet::SYS_MODULE
                    | CapabilitySet::SYS_NICE
                    | CapabilitySet::SYS_PTRACE
                    | CapabilitySet::SYS_RESOURCE
                    | CapabilitySet::SYS_TIME
            }
            // SYS_PTRACE: which connection a process came over, and what belongs to a service that changed its user.
            Part::Supervisor => {
                files
                    | CapabilitySet::KILL
                    | CapabilitySet::NET_ADMIN
                    | CapabilitySet::NET_BIND_SERVICE
                    | CapabilitySet::NET_RAW
                    | CapabilitySet::SYS_PTRACE
            }
            // NET_ADMIN: what rules log.
            Part::Front => CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE,
            // NET_RAW: echo requests. NET_ADMIN: marks of probes, and the flows of backends.
            Part::Probes => CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW,
            Part::Carriers => CapabilitySet::NET_ADMIN,
        }
    }
}

/// Takes from the process what nobody needs. Before there are other threads.
pub fn begin() {
    let taken = NOBODY.iter().try_for_each(|one| match remove_capability_from_bounding_set(one) {
        // The kernel is older than the capability.
        Err(io::Errno::INVAL) => Ok(()),
        other => other,
    });
    if let Err(error) = taken.and_then(|()| limit(!NOBODY)) {
        tracing::warn!(%error, "capabilities that nobody needs are kept");
    }
}

/// Takes from the calling thread, and from those that it will start, what `part` does not need.
pub fn enter(part: Part) {
    if let Err(error) = limit(part.needs()) {
        tracing::warn!(%error, ?part, "capabilities that it does not need are kept");
    }
}

/// Sets the fence up around the calling thread, which writes files below `directory` and has nothing else to do: a program that is started
/// for one thing that a stranger said. A kernel without does without.
pub fn confine(directory: &Path) {
    let _ = limit(CapabilitySet::DAC_OVERRIDE);
    wall::set_up(Some(directory));
}

/// A container may have less to begin with.
fn limit(to: CapabilitySet) -> io::Result<()> {
    let now = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: now.effective & to,
            permitted: now.permitted & to,
            inheritable: now.inheritable & to,
        },
    )
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a thread of its own, which takes what it lost with it.
    fn within<T: Send>(part: Part, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let work = || {
                enter(part);
                work()
            };
            scope.spawn(work).join().unwrap()
        })
    }

    #[test]
    fn who_parses_cannot_change_the_machine() {
        assert!(nix::unistd::geteuid().is_root(), "this test gives up what root has, and needs it first");
        for part in [Part::Front, Part::Probes] {
            let nothing: Option<&str> = None;
            let mounted = within(part, || mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing));
            assert_eq!(mounted, Err(Errno::EPERM), "{part:?}");
            assert_eq!(within(part, || unshare(CloneFlags::CLONE_NEWNS)), Err(Errno::EPERM), "{part:?}");
            let again = within(part, || {
                set_capabilities(
                    None,
                    CapabilitySets {
                        effective: CapabilitySet::SYS_ADMIN,
                        permitted: CapabilitySet::SYS_ADMIN,
                        inheritable: CapabilitySet::empty(),
                    },
                )
            });
            assert_eq!(again, Err(io::Errno::PERM), "what is given up does not come back");
        }
        let raw = within(Part::Probes, || {
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4)).map(|_| ())
        });
        assert!(raw.is_ok(), "{raw:?}");
        // This thread still has everything.
        assert!(capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_ADMIN));
    }
}
