//! What an update file says of itself: `manifest.toml`, the bytes that are signed.

use semver::Version;
use serde::{Deserialize, Serialize};

/// The format that this version writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
/// A longer manifest is none, bytes.
pub const MAX_SIZE: u64 = 16 << 10;

/// The manifest of an update file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// What kind of machine it is for: `x86_64`.
    pub board: String,
    /// The version of the system in it, by the rules of semver.org.
    pub version: Version,
    /// The oldest version that can be updated with it; none: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<Version>,
    /// The image of the slot.
    pub slot: SlotImage,
}

/// The squashfs that goes into a slot, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SlotImage {
    /// Bytes.
    pub size: u64,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not UTF-8.
    #[error("the manifest is not UTF-8")]
    Text(#[source] std::str::Utf8Error),
    /// Not TOML, or not of this shape.
    #[error("the manifest cannot be read")]
    Shape(#[source] toml::de::Error),
    /// Of a later time.
    #[error("the update file has format {found}, this version reads {FORMAT}: install a version between the two first")]
    Format {
        /// What it has.
        found: u32,
    },
    /// A value that cannot be.
    #[error("the manifest has {what}")]
    Value {
        /// Which.
        what: String,
    },
}

impl Manifest {
    /// Reads a manifest whose signature has been checked.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// What every format has.
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        let text = std::str::from_utf8(bytes).map_err(ManifestError::Text)?;
        let Any { format } = toml::from_str(text).map_err(ManifestError::Shape)?;
        if format != FORMAT {
            return Err(ManifestError::Format { found: format });
        }
        let manifest: Self = toml::from_str(text).map_err(ManifestError::Shape)?;
        let SlotImage { size, sha256 } = &manifest.slot;
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if sha256.len() != 64 || !sha256.bytes().all(hexadecimal) {
            return Err(ManifestError::Value { what: format!("{sha256:?} for a SHA-256") });
        }
        if *size == 0 {
            return Err(ManifestError::Value { what: "an empty slot".to_owned() });
        }
        Ok(manifest)
    }

    /// The bytes to sign.
    #[must_use]
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("a manifest has no map with keys that are not strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            board: "x86_64".to_owned(),
            version: Version::new(1, 2, 3),
            minimum_version: None,
            slot: SlotImage { size: 4096, sha256: "ab".repeat(32) },
        }
    }

    #[test]
    fn a_manifest_survives_a_round_trip() {
        assert_eq!(Manifest::parse(manifest().to_text().as_bytes()).unwrap(), manifest());
        let limited = Manifest { minimum_version: Some("1.0.0-rc.1".parse().unwrap()), ..manifest() };
        assert_eq!(Manifest::parse(limited.to_text().as_bytes()).unwrap(), limited);
    }

    #[test]
    fn another_format_is_named_before_its_unknown_keys_are() {
        let text = format!("{}\n[verity]\nroot = \"x\"\n", manifest().to_text().replace("format = 1", "format = 2"));
        let error = Manifest::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Format { found: 2 }), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let text = manifest().to_text();
        for (from, to) in [
            ("size = 4096", "size = 0"),
            ("size = 4096", "size = -1"),
            ("abab", "ABAB"),
            ("\"abab", "\"ab"),
            ("1.2.3", "1.2"),
            ("board = \"x86_64\"", ""),
            ("format = 1", "format = 1\nsurprise = true"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(Manifest::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{from} → {to}");
        }
        assert!(matches!(Manifest::parse(b"\xff"), Err(ManifestError::Text(_))));
        assert!(matches!(Manifest::parse(b""), Err(ManifestError::Shape(_))));
    }
}
