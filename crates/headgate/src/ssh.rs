//! ssh into the appliance: dropbear as a service, for as long as the configuration has keys.
//!
//! There are no passwords, and no shell behind it: the one account that can log in has [`crate::login`] in its place. Host keys are made when
//! the first client needs them, in `/etc/dropbear`, which on the appliance is a link onto the data partition: updates keep them, and a
//! factory reset does not.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Backoff, Origin, Ready, Restart, Service};
use headgate_config::types::ServiceName;
use headgate_host::Root;
use headgate_host::root::RootError;

/// In the home of the account (`/etc/passwd` of the image), where dropbear looks.
const AUTHORIZED_KEYS: &str = "run/headgate/ssh/.ssh/authorized_keys";
/// Where the host keys are.
const HOST_KEYS: &str = "var/lib/headgate/dropbear";
/// Before each key, should the flags of the server ever be others.
const OPTIONS: &str = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding";
/// `-F -E`: a service, with its log to us. `-R`: make host keys. `-s`: no passwords. `-j -k`: no forwarding. `-m`: no motd. `-T`: tries.
/// `-K`: a client that is gone is noticed.
const COMMAND: [&str; 12] = ["/usr/sbin/dropbear", "-F", "-E", "-R", "-s", "-j", "-k", "-m", "-T", "3", "-K", "60"];

/// Why nobody can log in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshError {
    /// The keys cannot be laid where dropbear looks.
    #[error("the keys of ssh cannot be written")]
    Keys(#[from] RootError),
    /// There is no place for host keys.
    #[error("no place for the host keys of ssh")]
    HostKeys(#[source] io::Error),
}

/// The service, once its keys are where it looks; `None` without keys, and then nobody is let in who was before.
///
/// # Errors
/// See [`SshError`].
pub fn service(keys: &[String], root: &Root) -> Result<Option<Service>, SshError> {
    if keys.is_empty() {
        return match root.read_file(AUTHORIZED_KEYS) {
            Ok(text) if !text.is_empty() => Ok(root.write_file(AUTHORIZED_KEYS, b"").map(|()| None)?),
            _ => Ok(None),
        };
    }
    let text: String = keys.iter().map(|key| format!("{OPTIONS} {key}\n")).collect();
    if root.read_file(AUTHORIZED_KEYS).ok().as_ref() != Some(&text) {
        root.write_file(AUTHORIZED_KEYS, text.as_bytes())?;
    }
    let host_keys = root.file(HOST_KEYS)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&host_keys).map_err(SshError::HostKeys)?;
    remove_torn(&host_keys).map_err(SshError::HostKeys)?;
    Ok(Some(Service {
        name: ServiceName::new("ssh").expect("it is a name"),
        origin: Origin { file: Arc::new(PathBuf::from("[system]")), line: 1, column: 1 },
        command: COMMAND.map(str::to_owned).to_vec(),
        restart: Restart::Always,
        backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(30) },
        after: vec!["network".to_owned()],
        ready: Some(Ready::Tcp(([127, 0, 0, 1], 22).into())),
        stop_timeout: Duration::from_secs(2),
    }))
}

/// dropbear does not wait until a new key is on the disk, and when the power goes within half a minute the file is there and empty
/// (ext4's delayed allocation). It makes no other in its place, and would let nobody in any more.
fn remove_torn(host_keys: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(host_keys)? {
        let path = entry?.path();
        // Not the file that a key is just being made in, which has another name until it is whole.
        let is_key = path.to_string_lossy().ends_with("_host_key");
        if is_key && path.metadata().is_ok_and(|found| found.is_file() && found.len() == 0) {
            tracing::warn!(path = %path.display(), "a host key of ssh is empty: it is made anew, and clients will ask whether that is right");
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_that_never_reached_the_disk_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let host_keys = directory.path().join(HOST_KEYS);
        std::fs::create_dir_all(&host_keys).unwrap();
        std::fs::write(host_keys.join("dropbear_ed25519_host_key"), b"").unwrap();
        std::fs::write(host_keys.join("dropbear_rsa_host_key"), b"a key").unwrap();
        std::fs::write(host_keys.join("dropbear_ecdsa_host_key.tmp4711"), b"").unwrap();
        service(&["ssh-ed25519 A a".to_owned()], &Root::new(directory.path())).unwrap().unwrap();
        assert!(!host_keys.join("dropbear_ed25519_host_key").exists());
        assert_eq!(std::fs::read(host_keys.join("dropbear_rsa_host_key")).unwrap(), b"a key");
        assert!(host_keys.join("dropbear_ecdsa_host_key.tmp4711").exists(), "dropbear is at work on it");
    }

    #[test]
    fn keys_are_laid_down_and_taken_away_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        assert!(service(&[], &root).unwrap().is_none());
        assert!(!directory.path().join(AUTHORIZED_KEYS).exists());
        let service_of = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            service(&keys, &root).unwrap()
        };
        let first = service_of(&["ssh-ed25519 A a"]).unwrap();
        assert_eq!(root.read_file(AUTHORIZED_KEYS).unwrap(), format!("{OPTIONS} ssh-ed25519 A a\n"));
        for flag in ["-s", "-j", "-k"] {
            assert!(first.command.iter().any(|word| word == flag), "{flag}");
        }
        // Other keys are no other service: whoever is logged in stays.
        assert_eq!(service_of(&["ssh-ed25519 B b", "ssh-ed25519 C"]).unwrap(), first);
        assert_eq!(root.read_file(AUTHORIZED_KEYS).unwrap().lines().count(), 2);
        assert!(service_of(&[]).is_none());
        assert_eq!(root.read_file(AUTHORIZED_KEYS).unwrap(), "");
    }
}
