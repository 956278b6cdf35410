//! From files to a configuration that this version can carry out: what `headgate check`, `plan`, `explain`, `hw` and
//! `headgated --check` begin with. Nothing of the kernel is read.

use std::path::{Path, PathBuf};

use headgate_config::model::Profile;
use headgate_config::{Diagnostics, Loaded, Origin, load, load_files, load_profiles};
use headgate_plan::compile::{Unsupported, compile};
use headgate_plan::facts::Facts;
use headgate_plan::ids::Ids;

/// Where vendors and operators put hardware profiles, below the root; the later wins.
pub const PROFILES: [&str; 2] = ["usr/lib/headgate/hwprofiles", "etc/headgate/hwprofiles"];

/// Why the files are no configuration.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// They are wrong.
    #[error("the configuration is invalid")]
    Config(Diagnostics),
    /// They ask for what this version cannot do; with where they do.
    #[error("the configuration asks for what this version cannot do")]
    Unsupported(Vec<(Unsupported, Option<Origin>)>),
}

impl FilesError {
    /// All of it, for a terminal.
    pub fn full(&self) -> String {
        match self {
            FilesError::Config(diagnostics) => diagnostics.to_string(),
            FilesError::Unsupported(list) => list.iter().map(place).collect(),
        }
    }
}

/// One thing that cannot be done, as a diagnostic.
pub(crate) fn place((unsupported, origin): &(Unsupported, Option<Origin>)) -> String {
    let place = origin.as_ref().map(|origin| format!("  --> {origin}\n")).unwrap_or_default();
    format!("error: {unsupported}\n{place}")
}

/// A configuration and the hardware profiles that it can choose from.
#[derive(Debug)]
pub struct Files {
    /// The configuration.
    pub loaded: Loaded,
    /// The profiles.
    pub profiles: Vec<Profile>,
}

/// What the daemon would load.
///
/// # Errors
/// [`FilesError`].
pub fn read(root: &Path) -> Result<Files, FilesError> {
    let loaded = load(root).map_err(FilesError::Config)?;
    let files = Files { loaded, profiles: profiles(root)? };
    supported(&files)?;
    Ok(files)
}

/// Just these files, and the `.toml` files of these directories.
///
/// # Errors
/// [`FilesError`].
pub fn read_given(root: &Path, paths: &[PathBuf]) -> Result<Files, FilesError> {
    let loaded = load_files(paths, &root.join("etc/headgate")).map_err(FilesError::Config)?;
    let files = Files { loaded, profiles: profiles(root)? };
    supported(&files)?;
    Ok(files)
}

fn profiles(root: &Path) -> Result<Vec<Profile>, FilesError> {
    let directories = PROFILES.map(|directory| root.join(directory));
    load_profiles(&directories).map_err(FilesError::Config)
}

/// What cannot be done does not depend on the machine, so an empty one will do.
fn supported(files: &Files) -> Result<(), FilesError> {
    let compiled = compile(&files.loaded.config, &files.profiles, &Facts::default(), &Ids::default());
    compiled.map(|_| ()).map_err(|list| {
        let origin = |one: Unsupported| {
            let origin = files.loaded.document.origin(&one.path);
            (one, origin)
        };
        FilesError::Unsupported(list.into_iter().map(origin).collect())
    })
}
