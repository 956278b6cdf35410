use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn empty() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::with_machine(directory.path().join("files"), directory.path().join("machine"));
    fs::create_dir_all(directory.path().join("machine/proc")).unwrap();
    (directory, root)
}

#[test]
fn nothing_leaves_the_root() {
    let (_directory, root) = empty();
    for path in ["../etc/passwd", "run/../../etc/passwd", "/..", ".."] {
        assert!(matches!(root.file(path), Err(RootError::Outside(_))), "{path}");
        assert!(matches!(root.machine(path), Err(RootError::Outside(_))), "{path}");
        assert!(matches!(root.write_file(path, b""), Err(RootError::Outside(_))), "{path}");
        assert!(matches!(root.write_machine(path, ""), Err(RootError::Outside(_))), "{path}");
    }
    assert_eq!(Root::new("/").file("/run/./x").unwrap(), Path::new("/run/x"));
    assert_eq!(Root::new("/srv/a").file("/run/x").unwrap(), Path::new("/srv/a/run/x"));
    assert_eq!(Root::new("/srv/a").machine("proc/x").unwrap(), Path::new("/proc/x"));
}

#[test]
fn a_state_file_is_replaced_whole_and_private() {
    let (_directory, root) = empty();
    root.write_file("run/headgate/a.json", b"one").unwrap();
    root.write_file("run/headgate/a.json", b"two").unwrap();
    assert_eq!(root.read_file("run/headgate/a.json").unwrap(), "two");
    let directory = root.file("run/headgate").unwrap();
    let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a.json"]);
    assert_eq!(fs::metadata(directory.join("a.json")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_is_no_file_itself_is_not_read_and_only_the_link_goes() {
    let (_directory, root) = empty();
    root.write_file("etc/a", b"one").unwrap();
    root.write_file("other", b"other").unwrap();
    symlink(root.file("other").unwrap(), root.file("etc/link").unwrap()).unwrap();
    fs::create_dir(root.file("etc/directory").unwrap()).unwrap();
    nix::unistd::mkfifo(&root.file("etc/pipe").unwrap(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(root.read_own_file("etc/a").unwrap(), "one");
    assert_eq!(root.read_own_file("etc/link").unwrap_err().errno(), Some(nix::libc::ELOOP));
    for path in ["etc/directory", "etc/pipe"] {
        let error = root.read_own_file(path).unwrap_err();
        assert!(!error.is_missing() && error.errno().is_none(), "{path}: {error:?}");
    }
    root.remove_file("etc/link").unwrap();
    assert_eq!(root.read_file("other").unwrap(), "other");
    root.remove_file("etc/a").unwrap();
    assert!(root.read_own_file("etc/a").unwrap_err().is_missing());
    assert!(root.remove_file("etc/a").unwrap_err().is_missing());
    assert!(matches!(root.remove_file("../x"), Err(RootError::Outside(_))));
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    let (_directory, root) = empty();
    root.write_file("run/a", b"old").unwrap();
    // The temporary file cannot be written: its name leads to a device that is always full.
    let temporary = root.file("run").unwrap().join(format!(".a.{}.new", std::process::id()));
    symlink("/dev/full", &temporary).unwrap();
    let error = root.write_file("run/a", b"new").unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::ENOSPC), "{error}");
    assert_eq!(root.read_file("run/a").unwrap(), "old");
    assert!(fs::symlink_metadata(&temporary).is_err(), "the attempt is cleaned up");
}

#[test]
fn a_file_in_place_of_a_directory_is_an_error_with_the_path() {
    let (_directory, root) = empty();
    root.write_file("run", b"").unwrap();
    let error = root.write_file("run/headgate/a", b"").unwrap_err();
    assert!(error.to_string().ends_with("files/run/headgate/a"), "{error}");
    assert!(!error.is_missing());
}

#[test]
fn machine_files_are_never_created_and_never_block() {
    let (_directory, root) = empty();
    assert!(root.write_machine("proc/none", "1").unwrap_err().is_missing());
    assert!(root.read_machine("proc/none").unwrap_err().is_missing());
    assert_eq!(root.list_machine("proc/none").unwrap(), Vec::<String>::new());
    nix::unistd::mkfifo(&root.machine("proc/fifo").unwrap(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(root.write_machine("proc/fifo", "1").unwrap_err().errno(), Some(nix::libc::ENXIO));
    fs::create_dir(root.machine("proc/directory").unwrap()).unwrap();
    assert_eq!(root.write_machine("proc/directory", "1").unwrap_err().errno(), Some(nix::libc::EISDIR));
    symlink("/dev/full", root.machine("proc/full").unwrap()).unwrap();
    assert_eq!(root.write_machine("proc/full", "1").unwrap_err().errno(), Some(nix::libc::ENOSPC));
}

#[test]
fn garbage_is_an_error_not_a_value() {
    let (_directory, root) = empty();
    fs::write(root.machine("proc/garbage").unwrap(), b"\xff\xfe").unwrap();
    assert!(root.read_machine("proc/garbage").is_err());
    let large = File::create(root.machine("proc/large").unwrap()).unwrap();
    large.set_len(MACHINE_FILE_MAX_BYTES + 1).unwrap();
    assert!(matches!(root.read_machine("proc/large"), Err(RootError::TooLarge { .. })));
}
