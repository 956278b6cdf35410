//! Tokens for the API over TLS and for metrics beyond loopback.
//!
//! A token is 256 random bits, so its SHA-256 is as good as a slow hash: there is nothing to guess. Only the hash is kept, and
//! a token is shown once, when it is made.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use headgate_host::root::{Root, RootError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::caller::Caller;
use crate::api::{self, Scope};

/// Readable by its owner only, as all state is.
const FILE: &str = "var/lib/headgate/tokens.json";
/// The kernel's generator; it does not block once the machine has booted.
const RANDOM: &str = "/dev/urandom";
/// 256 bits.
const BYTES: usize = 32;
/// By which people, and programs that look for lost secrets, know one.
const PREFIX: &str = "headgate_";
/// Each request is compared with all of them.
const TOKENS_MAX: usize = 256;
/// Longest name, and what it is made of.
const NAME_MAX: usize = 63;

/// Why a token was not made or removed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TokenError {
    #[error("a token's name is 1 to {NAME_MAX} letters, digits, dots, dashes and underscores")]
    Name,
    #[error("token {0} exists already; remove it first")]
    Exists(String),
    #[error("there is no token {0}")]
    NotFound(String),
    #[error("there are {TOKENS_MAX} tokens already")]
    TooMany,
    #[error("the tokens cannot be kept")]
    File(#[from] RootError),
    #[error("the tokens cannot be kept")]
    Encode(#[from] serde_json::Error),
    #[error("cannot read {RANDOM}")]
    Random(#[from] io::Error),
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    name: String,
    scope: Scope,
    /// SHA-256 of the token, hexadecimal.
    hash: String,
    /// Seconds since 1970.
    made: u64,
}

/// The tokens of a root.
#[derive(Debug, Clone)]
pub struct Tokens {
    root: Root,
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl Tokens {
    /// Those that there are. A file that cannot be read lets nobody in.
    pub fn open(root: Root) -> Self {
        let kept = match root.read_file(FILE) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::error!(%error, "/{FILE} is damaged: no token is valid");
                Vec::new()
            }),
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => {
                tracing::error!(error = %crate::explain(&error), "no token is valid");
                Vec::new()
            }
        };
        Self { root, kept: Arc::new(Mutex::new(kept)) }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, by name, without what would let anybody in.
    pub fn list(&self) -> Vec<api::Token> {
        let told = |kept: &Kept| api::Token { name: kept.name.clone(), scope: kept.scope, made: kept.made };
        self.kept().iter().map(told).collect()
    }

    /// Makes one. It is in force, and nowhere to be read again.
    ///
    /// # Errors
    /// Any [`TokenError`] but `NotFound`.
    pub fn add(&self, name: &str, scope: Scope) -> Result<api::NewToken, TokenError> {
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !(1..=NAME_MAX).contains(&name.len()) || !letters {
            return Err(TokenError::Name);
        }
        let mut random = [0; BYTES];
        File::open(RANDOM)?.read_exact(&mut random)?;
        let token = format!("{PREFIX}{}", hex(&random));
        let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut kept = self.kept();
        if kept.iter().any(|other| other.name == name) {
            return Err(TokenError::Exists(name.to_owned()));
        }
        if kept.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let mut all = kept.clone();
        all.push(Kept { name: name.to_owned(), scope, hash: hash(&token), made });
        all.sort_by(|a, b| a.name.cmp(&b.name));
        self.write(&all)?;
        *kept = all;
        Ok(api::NewToken { name: name.to_owned(), scope, token })
    }

    /// Takes one out of force, from the next request on.
    ///
    /// # Errors
    /// There is none of this name, or the disk.
    pub fn remove(&self, name: &str) -> Result<(), TokenError> {
        let mut kept = self.kept();
        let left: Vec<Kept> = kept.iter().filter(|token| token.name != name).cloned().collect();
        if left.len() == kept.len() {
            return Err(TokenError::NotFound(name.to_owned()));
        }
        self.write(&left)?;
        *kept = left;
        Ok(())
    }

    /// Who comes with this token. All hashes are compared in full, whichever fits.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let hash = hash(token);
        let mut found = None;
        for kept in self.kept().iter() {
            if bool::from(kept.hash.as_bytes().ct_eq(hash.as_bytes())) {
                found = Some(Caller::token(&kept.name, kept.scope));
            }
        }
        found
    }

    fn write(&self, tokens: &[Kept]) -> Result<(), TokenError> {
        Ok(self.root.write_file(FILE, &serde_json::to_vec_pretty(tokens)?)?)
    }
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_valid_from_its_making_to_its_removal_and_only_its_hash_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(Root::new(directory.path()));
        let made = tokens.add("ci", Scope::Operate).unwrap();
        let path = directory.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&made.token) && text.contains(&hash(&made.token)));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for tokens in [&tokens, &Tokens::open(Root::new(directory.path()))] {
            let caller = tokens.caller(&made.token).unwrap();
            assert_eq!((caller.name(), caller.scope()), ("token ci", Scope::Operate));
            for wrong in ["", "headgate_", &made.token[1..], &made.token.to_uppercase(), &hash(&made.token)] {
                assert!(tokens.caller(wrong).is_none(), "{wrong}");
            }
        }
        assert!(matches!(tokens.add("ci", Scope::Root), Err(TokenError::Exists(_))));
        for wrong in ["", "a b", "ü", "../x", &"x".repeat(64)] {
            assert!(matches!(tokens.add(wrong, Scope::Read), Err(TokenError::Name)), "{wrong}");
        }
        assert_eq!(tokens.list().len(), 1);
        tokens.remove("ci").unwrap();
        assert!(tokens.caller(&made.token).is_none());
        assert!(matches!(tokens.remove("ci"), Err(TokenError::NotFound(_))));
    }

    #[test]
    fn a_damaged_file_lets_nobody_in() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let made = Tokens::open(root.clone()).add("ci", Scope::Root).unwrap();
        std::fs::write(directory.path().join(FILE), "[{").unwrap();
        assert!(Tokens::open(root).caller(&made.token).is_none());
    }
}
