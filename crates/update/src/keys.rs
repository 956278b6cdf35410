//! Who may make updates: public keys of minisign, as files in the image.

use std::io;
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

/// Where an image has the keys it trusts: one `NAME.pub` each, as `minisign -G` writes them.
pub const DIRECTORY: &str = "/usr/lib/headgate/update-keys";

/// The keys that an image trusts. Several at once make a rotation possible: an image that trusts the old and the new one is
/// installed before the first that is signed with the new one only.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<(String, PublicKey)>,
}

/// Why a signature does not count, or keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file of the image cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no key.
    #[error("{path} is no public key of minisign")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: minisign_verify::Error,
    },
    /// The image was built without keys.
    #[error("this image trusts no key, so it takes no updates: it was built without --update-key")]
    None,
    /// The signature is not one.
    #[error("the signature of the update file is damaged")]
    Signature(#[source] minisign_verify::Error),
    /// Somebody else's, or of other bytes.
    #[error("the update file is not signed by a key that this image trusts ({})", trusted.join(", "))]
    Stranger {
        /// The names of the keys that would have counted.
        trusted: Vec<String>,
    },
}

impl Keys {
    /// The keys in a directory, by name. A directory that is not there holds none.
    ///
    /// # Errors
    /// [`KeyError::Read`], [`KeyError::Key`]: a damaged key is not passed over, it may be the one that matters.
    pub fn read(directory: &Path) -> Result<Self, KeyError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Read { path, source }
        };
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries.map_err(read(directory))?,
        };
        let mut keys = Self::default();
        for entry in entries {
            let path = entry.map_err(read(directory))?.path();
            if path.extension().is_some_and(|extension| extension == "pub") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                keys.add(&name, &std::fs::read_to_string(&path).map_err(read(&path))?, &path)?;
            }
        }
        keys.keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(keys)
    }

    /// Trusts one more key; `path` is where `text` is from.
    ///
    /// # Errors
    /// [`KeyError::Key`].
    pub fn add(&mut self, name: &str, text: &str, path: &Path) -> Result<(), KeyError> {
        let key = PublicKey::decode(text.trim_end());
        self.keys.push((name.to_owned(), key.map_err(|source| KeyError::Key { path: path.to_owned(), source })?));
        Ok(())
    }

    /// The name of the key that signed these bytes.
    ///
    /// # Errors
    /// [`KeyError::None`], [`KeyError::Signature`], [`KeyError::Stranger`].
    pub fn verify(&self, bytes: &[u8], signature: &str) -> Result<&str, KeyError> {
        if self.keys.is_empty() {
            return Err(KeyError::None);
        }
        let signature = Signature::decode(signature.trim_end()).map_err(KeyError::Signature)?;
        // Not the legacy mode, which signs the bytes instead of their hash: nobody has ever made such a file for us.
        let by = self.keys.iter().find(|(_, key)| key.verify(bytes, &signature, false).is_ok());
        by.map(|(name, _)| name.as_str()).ok_or_else(|| KeyError::Stranger { trusted: self.names() })
    }

    /// The names of the keys.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.keys.iter().map(|(name, _)| name.clone()).collect()
    }
}
