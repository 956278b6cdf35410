//! The name of a drop-in: one file of `/etc/headgate/conf.d`, and never another.

use std::fmt;
use std::str::FromStr;

/// Where drop-ins of the operator are, below the root.
pub const DIRECTORY: &str = "etc/headgate/conf.d";
/// What the loader takes for a drop-in.
const EXTENSION: &str = ".toml";
/// The longest name, bytes; as those of farms.
const NAME_MAX: usize = 63;

/// `[A-Za-z0-9_.-]{1,63}`, not hidden, with `.toml` at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropInName(String);

/// It is no name of a drop-in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a drop-in: up to {NAME_MAX} of A-Z a-z 0-9 _ . - with .toml at the end, which is added where it is missing, and no dot at the begin"
)]
pub struct NotADropIn(String);

impl DropInName {
    /// With `.toml`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The file, below the root.
    pub fn file(&self) -> String {
        format!("{DIRECTORY}/{self}")
    }
}

impl FromStr for DropInName {
    type Err = NotADropIn;

    fn from_str(text: &str) -> Result<Self, NotADropIn> {
        let stem = text.strip_suffix(EXTENSION).unwrap_or(text);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let fits = stem.len() + EXTENSION.len() <= NAME_MAX && stem.chars().all(allowed);
        if stem.is_empty() || stem.starts_with('.') || !fits {
            // Whoever asks for a page of nonsense need not get it back.
            return Err(NotADropIn(text.chars().take(NAME_MAX).collect()));
        }
        Ok(Self(format!("{stem}{EXTENSION}")))
    }
}

impl fmt::Display for DropInName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_file_of_the_directory() {
        for (text, name) in [
            ("50-web", "50-web.toml"),
            ("50-web.toml", "50-web.toml"),
            ("a.b_C-9", "a.b_C-9.toml"),
            ("x.toml.toml", "x.toml.toml"),
            (&"x".repeat(58), &format!("{}.toml", "x".repeat(58))),
        ] {
            assert_eq!(text.parse::<DropInName>().unwrap().as_str(), name);
        }
        assert_eq!("50-web".parse::<DropInName>().unwrap().file(), "etc/headgate/conf.d/50-web.toml");
    }

    #[test]
    fn what_would_lead_elsewhere_is_no_name() {
        let long = "x".repeat(300);
        for text in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            ".toml",
            ".hidden",
            "..toml",
            "a b",
            "a\0",
            "a\n",
            "ü",
            "a%2Fb",
            &long,
            &long[..59],
        ] {
            assert!(text.parse::<DropInName>().is_err(), "{text:?}");
        }
        assert!(long.parse::<DropInName>().unwrap_err().to_string().len() < 300);
    }
}
