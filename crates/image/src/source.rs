//! Where things lie in the source tree.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// The source tree that an image is built from.
#[derive(Debug, Clone)]
pub struct Source {
    root: PathBuf,
}

impl Source {
    /// The tree around the working directory.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir()?;
        here.ancestors()
            .find(|directory| directory.join("image/layout.toml").is_file())
            .map(|root| Self { root: root.to_owned() })
            .with_context(|| format!("{} is not in Headgate's source tree (no image/layout.toml)", here.display()))
    }

    /// The top of the tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the tree.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// What is downloaded or derived from downloads; may be deleted at any time.
    pub fn cache(&self) -> PathBuf {
        self.root.join("build/cache")
    }

    /// Reads a TOML file of the tree. Errors show file and line.
    pub fn read_toml<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let file = self.join(path);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{path} is not as it should be"))
    }
}
