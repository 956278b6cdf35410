//! Network namespaces, and programs in them. All of it needs root.

use std::process::{Command, Stdio};

use headgate_nft::*;
use nix::sched::{CloneFlags, unshare};

/// Moves this test's thread into a new network namespace, where programs that it starts live too.
pub(crate) fn fresh_namespace() -> Socket {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root (CAP_SYS_ADMIN): a network namespace of their own");
    Socket::open().expect("root may open it")
}

pub(crate) fn commit(socket: &mut Socket, changes: &[Change]) -> Result<(), CommitError> {
    socket.commit(&Batch::new(changes, None))
}

pub(crate) fn load(socket: &mut Socket, ruleset: &Ruleset) {
    commit(socket, &between(&Ruleset::default(), ruleset)).expect("the kernel takes it");
}

pub(crate) fn dump(socket: &mut Socket, ruleset: &Ruleset) -> Ruleset {
    let tables: Vec<TableId> = ruleset.tables.keys().cloned().collect();
    socket.dump(&tables).expect("nobody else is in this namespace")
}

/// Runs nft(8) with `input` and returns what it prints; it must succeed.
pub(crate) fn nft(arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("these tests need nft(8)");
    child.stdin.take().expect("it was piped").write_all(input.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {errors}\n{input}");
    String::from_utf8(output.stdout).expect("nft prints text")
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("these tests need iproute2");
    assert!(status.success(), "{program} {arguments:?}");
}
