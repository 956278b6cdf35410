//! The site's secret, when the configuration names none: made once, kept on this machine.
//!
//! Every hash is seeded with it, so another one moves every client: it is read before it is made, and never replaced.

use std::fs::File;
use std::io::{self, Read};

use headgate_host::root::{Root, RootError};

use super::Engine;

/// Readable by its owner only, as all state is.
const FILE: &str = "var/lib/headgate/secret";
/// The kernel's generator; it does not block once the machine has booted.
const RANDOM: &str = "/dev/urandom";
/// 128 bits.
const BYTES: usize = 16;
/// An empty or cut file is no secret.
const CHARACTERS: usize = 2 * BYTES;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error(transparent)]
    File(#[from] RootError),
    #[error("/{FILE} holds no secret: {CHARACTERS} hexadecimal digits are expected")]
    Damaged,
    #[error("cannot read {RANDOM}")]
    Random(#[from] io::Error),
}

impl Engine {
    /// The secret of this machine. Without one farms still work, seeded with their names alone; `status` says so then.
    pub(super) fn site_secret(&mut self) -> Option<String> {
        if self.secret.is_none() {
            match read_or_make(&self.root) {
                Ok(secret) => self.secret = Some(secret),
                Err(error) => {
                    let why = crate::explain(&error);
                    let note =
                        format!("clients can aim at a backend of farms that hash: there is no site secret: {why}");
                    if !self.notes.contains(&note) {
                        tracing::error!("{note}");
                        self.notes.push(note);
                    }
                }
            }
        }
        self.secret.clone()
    }
}

fn read_or_make(root: &Root) -> Result<String, SecretError> {
    match root.read_file(FILE) {
        Ok(text) => {
            let secret = text.trim();
            let whole = secret.len() == CHARACTERS && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
            if whole { Ok(secret.to_owned()) } else { Err(SecretError::Damaged) }
        }
        Err(error) if error.is_missing() => {
            let mut random = [0; BYTES];
            File::open(RANDOM)?.read_exact(&mut random)?;
            let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            root.write_file(FILE, format!("{secret}\n").as_bytes())?;
            Ok(secret)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_never_replaced() {
        let [directory, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let root = Root::new(directory.path());
        let made = read_or_make(&root).unwrap();
        assert_eq!(made.len(), CHARACTERS);
        assert_eq!(read_or_make(&root).unwrap(), made);
        assert_ne!(read_or_make(&Root::new(other.path())).unwrap(), made);
        let path = directory.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for damaged in ["", "0123", "x123456789abcdef0123456789abcdef"] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(read_or_make(&root), Err(SecretError::Damaged)));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        }
    }
}
