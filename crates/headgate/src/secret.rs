//! The site's secret, when the configuration names none: made once, kept on this machine.
//!
//! Every hash is seeded with it, so another one moves every client: it is read before it is made, and never replaced.

use std::fs::File;
use std::io::{self, Read};

use headgate_host::root::{Root, RootError};

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
#[allow(missing_docs)]
pub enum SecretError {
    #[error(transparent)]
    File(#[from] RootError),
    #[error("/{FILE} holds no secret: {CHARACTERS} hexadecimal digits are expected")]
    Damaged,
    #[error("cannot read {RANDOM}")]
    Random(#[from] io::Error),
}

/// The secret, if one has been made.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn read(root: &Root) -> Result<Option<String>, SecretError> {
    match root.read_file(FILE) {
        Ok(text) => {
            let secret = text.trim();
            let whole = secret.len() == CHARACTERS && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
            if whole { Ok(Some(secret.to_owned())) } else { Err(SecretError::Damaged) }
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The secret; it is made now if there is none.
///
/// # Errors
/// As [`read`], or it cannot be kept.
pub fn read_or_make(root: &Root) -> Result<String, SecretError> {
    if let Some(secret) = read(root)? {
        return Ok(secret);
    }
    let mut random = [0; BYTES];
    File::open(RANDOM)?.read_exact(&mut random)?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    root.write_file(FILE, format!("{secret}\n").as_bytes())?;
    Ok(secret)
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
