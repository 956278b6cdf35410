//! What a thread cannot do that reads what strangers write, whatever its capabilities are.
//!
//! Landlock (landlock(7)) is for files: it reads `/proc` and `/sys`, and our own program for the backtrace of a crash, and opens
//! nothing else; nor does it signal anybody or look into other processes. A seccomp filter (seccomp(2)) is for system calls: no program is
//! started and the machine is not changed. Both are the thread's and its children's, for good. What is open is not asked about again,
//! and sockets are nothing to either, so neither is in the way of a request; of system calls that are let through the kernel
//! keeps a bitmap, and runs no filter for them.

use std::collections::BTreeMap;
use std::path::Path;

use headgate_plan::status::Fence;
use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, sock_filter};

/// Later kernels can refuse more; before it is asked for it has to be tried.
const KNOWN: ABI = ABI::V7;
const READABLE: [&str; 3] = ["/proc", "/sys", "/proc/self/exe"];

/// Refused with EPERM. What starts a program, looks into another process, changes the machine, or is nothing but a large part
/// of the kernel that a fault can be looked for in.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_pidfd_send_signal,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_open_by_handle_at,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// System calls of the x32 ABI have numbers of their own, from this one on, and the architecture of all others: all of them are refused.
#[cfg(target_arch = "x86_64")]
const OTHER_ABI: &[sock_filter] = &[
    // The number of the call is the first word of what a filter sees (`struct seccomp_data`).
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 },
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, jt: 0, jf: 1, k: 0x4000_0000 },
    sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
    },
];
#[cfg(not(target_arch = "x86_64"))]
const OTHER_ABI: &[sock_filter] = &[];

/// Sets it up around the calling thread, and all that it starts; files below `writable` it may write. What of it stands: a kernel may
/// know less.
pub(super) fn set_up(writable: Option<&Path>) -> Fence {
    let landlock = files(writable).unwrap_or_else(|error| {
        tracing::warn!(%error, "no fence of files");
        false
    });
    let seccomp = filter().and_then(|filter| seccompiler::apply_filter(&filter));
    if let Err(error) = &seccomp {
        tracing::debug!(%error, "no fence of system calls");
    }
    Fence { landlock, seccomp: seccomp.is_ok() }
}

/// Whether the kernel knows any of it. `no_new_privs` is set by the way.
fn files(writable: Option<&Path>) -> Result<bool, RulesetError> {
    let (read, write) = (AccessFs::ReadFile | AccessFs::ReadDir, AccessFs::WriteFile | AccessFs::Truncate);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, read))?
        .add_rules(path_beneath_rules(writable, read | write | AccessFs::MakeReg | AccessFs::RemoveFile))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), arch)?;
    let program = BpfProgram::try_from(filter)?;
    Ok([OTHER_ABI, &program].concat())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::process::{Child, Command};

    use headgate_host::Root;

    use super::*;
    use crate::daemon::fence::{Part, Thread};

    /// In the thread of a part, or in one that it starts.
    fn behind<T: Send + 'static>(thread: &Thread, work: impl FnOnce() -> T + Send + Clone + 'static) -> [T; 2] {
        let queue = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let again = work.clone();
        queue.block_on(async {
            let itself = thread.spawn(async move { work() }).await.unwrap();
            let child = thread.spawn(async { tokio::task::spawn_blocking(again).await.unwrap() }).await.unwrap();
            [itself, child]
        })
    }

    fn refused<T: std::fmt::Debug + Send + 'static>(
        thread: &Thread,
        what: &str,
        errno: libc::c_int,
        work: impl FnOnce() -> io::Result<T> + Send + Clone + 'static,
    ) {
        for done in behind(thread, work) {
            assert_eq!(done.as_ref().err().and_then(io::Error::raw_os_error), Some(errno), "{what}: {done:?}");
        }
    }

    fn opens<T: std::fmt::Debug + Send + 'static>(
        thread: &Thread,
        what: &str,
        work: impl FnOnce() -> io::Result<T> + Send + Clone + 'static,
    ) {
        for done in behind(thread, work) {
            assert!(done.is_ok(), "{what}: {done:?}");
        }
    }

    /// Arguments of nought: what is let through is refused by the kernel itself, for another reason than EPERM.
    fn call(number: libc::c_long) -> io::Result<()> {
        // SAFETY: a null pointer is no memory of this process, and no descriptor or process has this number.
        let done = unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Ends with the test.
    struct Other(Child);

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn who_reads_what_strangers_write_opens_no_file_and_starts_no_program() {
        assert!(nix::unistd::geteuid().is_root(), "what root could do is to be refused");
        let directory = tempfile::tempdir().unwrap();
        let other = Other(Command::new("/bin/sleep").arg("100").spawn().unwrap());
        let pid = other.0.id();
        for part in [Part::Front, Part::Probes] {
            let thread = Thread::begin(part).unwrap();
            assert_eq!(thread.fence(), Fence { landlock: true, seccomp: true }, "a test of a kernel that has both");
            for path in ["/etc/shadow", "/etc/passwd", "/dev/null", "/dev/urandom", "/"] {
                refused(&thread, path, libc::EACCES, move || File::open(path));
            }
            for path in [directory.path(), Path::new("/run"), Path::new("/etc")] {
                let path = path.join("made-by-a-stranger");
                refused(&thread, "a file", libc::EACCES, move || File::create(path));
            }
            let below = directory.path().join("made-by-a-stranger");
            refused(&thread, "a directory", libc::EACCES, move || fs::create_dir(below));
            let writing = || OpenOptions::new().write(true).open("/proc/sys/net/ipv4/ip_forward");
            refused(&thread, "a sysctl", libc::EACCES, writing);
            refused(&thread, "a program", libc::EPERM, || Command::new("/bin/true").spawn());
            refused(&thread, "another's environment", libc::EACCES, move || fs::read(format!("/proc/{pid}/environ")));
            opens(&thread, "figures of the kernel", || fs::read_to_string("/proc/stat"));
            opens(&thread, "interfaces", || fs::read_dir("/sys/class/net").map(Iterator::count));
            opens(&thread, "our own program", || File::open(std::env::current_exe()?));
            opens(&thread, "what another has used", move || fs::read_to_string(format!("/proc/{pid}/stat")));
            opens(&thread, "a connection", || {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                TcpStream::connect(listener.local_addr()?)
            });
            thread.end();
        }
        // Whoever started them is as before.
        File::open("/etc/shadow").unwrap();
        File::create(directory.path().join("made-by-us")).unwrap();
        assert!(Command::new("/bin/true").status().unwrap().success());
        // SAFETY: no signal is sent.
        assert_eq!(unsafe { libc::kill(pid as i32, 0) }, 0);
    }

    #[test]
    fn capabilities_are_no_way_around() {
        let refused = || {
            set_up(None);
            // It still has all of them.
            REFUSED
                .iter()
                .filter(|number| call(**number).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)))
                .count()
        };
        assert_eq!(std::thread::scope(|scope| scope.spawn(refused).join().unwrap()), REFUSED.len());
    }

    #[test]
    fn who_is_confined_writes_in_its_directory_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (directory.path().join("leases"), directory.path().join("other"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&other).unwrap();
        let root = Root::new(directory.path());
        let work = || {
            crate::daemon::fence::confine(&own);
            let written = [b"one", b"two"].map(|text| root.write_file("leases/eth0", text).is_ok());
            let read = root.read_file("leases/eth0").ok();
            let elsewhere = File::create(other.join("eth0")).map_err(|error| error.raw_os_error());
            let moved = fs::rename(own.join("eth0"), other.join("eth0")).map_err(|error| error.raw_os_error());
            let linked =
                std::os::unix::fs::symlink("/etc/shadow", own.join("eth1")).map_err(|error| error.raw_os_error());
            let ran = Command::new("/bin/true").spawn().map_err(|error| error.raw_os_error());
            let removed = fs::remove_file(own.join("eth0")).is_ok();
            (written, read, (elsewhere.err(), moved.err(), linked.err(), ran.err()), removed)
        };
        let (written, read, refused, removed) = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
        assert_eq!((written, read.as_deref(), removed), ([true, true], Some("two"), true));
        let [file, program] = [libc::EACCES, libc::EPERM].map(|errno| Some(Some(errno)));
        assert_eq!(refused, (file, file, file, program));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_of_another_abi_are_no_way_around() {
        let thread = Thread::begin(Part::Front).unwrap();
        // execve(2) and getpid(2) of x32.
        for number in [520, 39] {
            refused(&thread, "x32", libc::EPERM, move || call(0x4000_0000 | number));
        }
    }
}
