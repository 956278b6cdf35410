//! Configuration: from text to checked values.
//!
//! The way of one value: [`source`] finds the files in their order and reads them, `parse` turns each into a tree that
//! remembers where everything was written, [`document`] merges the trees, [`schema`] (the one table of keys) refuses what is
//! unknown or out of bounds, and `check` turns the merged tree into a [`Config`]. Every step goes on after an error and leaves
//! a [`Diagnostic`], so that one run shows all mistakes of all files. [`profile`] reads the hardware profiles by the same steps.
//!
//! Nothing here touches the kernel; only `source` reads the disk, and nothing writes it.

pub mod diagnostic;
pub mod document;
pub mod model;
pub mod profile;
pub mod schema;
pub mod source;
pub mod types;

mod check;
mod parse;
mod tree;

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use document::Document;
pub use model::{Config, Origin};
pub use profile::load_profiles;
pub use source::{Fate, FileUse, Layer};

use diagnostic::Collector;
use source::{Lists, Sources};

/// A configuration without errors.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What was written, and where. Large: drop it when it has served.
    pub document: Document,
    /// Every file that was found, with its fate, in the order of merging.
    pub files: Vec<FileUse>,
    /// What is likely not meant.
    pub warnings: Diagnostics,
}

/// Loads the configuration under `root` (`/` on a running box).
///
/// # Errors
/// All errors and warnings of all files; then nothing of it can be used.
pub fn load(root: &Path) -> Result<Loaded, Diagnostics> {
    load_with(root, &[])
}

/// A file as it is not, or not yet, on the disk: its full path (`root` included), and its text; `None`: it is not there.
pub type Draft = (PathBuf, Option<String>);

/// As [`load`], with some files as `drafts` say: a change is checked before it is written. They need not exist; where they lie
/// decides their place in the order.
///
/// # Errors
/// As [`load`].
pub fn load_with(root: &Path, drafts: &[Draft]) -> Result<Loaded, Diagnostics> {
    let mut problems = Collector::default();
    let sources = source::read_root(root, drafts, &mut problems);
    finish(sources, problems)
}

/// The files under `root` with their fate, in the order of merging, whatever is in them.
pub fn find(root: &Path) -> Vec<FileUse> {
    source::read_root(root, &[], &mut Collector::default()).uses
}

/// Loads just these files in this order; a directory stands for its `*.toml` by name. The lists that policies name are below
/// `lists`, which is `/etc/headgate` on a running box.
///
/// # Errors
/// As [`load`].
pub fn load_files(paths: &[PathBuf], lists: &Path) -> Result<Loaded, Diagnostics> {
    let mut problems = Collector::default();
    let sources = source::read_files(paths, lists, &mut problems);
    finish(sources, problems)
}

/// Loads these texts in this order; a path is only the name that diagnostics show. What is not named `*.toml` is a list of
/// addresses for the policy that names the end of its path.
///
/// # Errors
/// As [`load`].
pub fn load_texts(texts: &[(PathBuf, String)]) -> Result<Loaded, Diagnostics> {
    let mut sources = Sources::default();
    let (texts, lists): (Vec<_>, Vec<_>) = texts.iter().cloned().partition(|(path, _)| source::is_configuration(path));
    sources.lists = Lists::Texts(lists);
    for (path, text) in texts {
        sources.files.add(path.clone(), text);
        sources.uses.push(FileUse { path, layer: Layer::Given, fate: Fate::Used });
    }
    finish(sources, Collector::default())
}

fn finish(sources: Sources, mut problems: Collector) -> Result<Loaded, Diagnostics> {
    let Sources { files, uses, lists } = sources;
    let mut document = Document::new(files, schema::ROOT, &mut problems);
    // What a broken line took away would be missed everywhere: with syntax errors only the rest of the text is judged.
    let whole = !problems.has_errors();
    schema::walk(&document.root, schema::ROOT, &mut problems);
    source::read_lists(&mut document, &lists, &mut problems);
    let config = if whole { check::check(&document, &mut problems) } else { Config::default() };
    let failed = problems.has_errors();
    let diagnostics = problems.finish(&document.files);
    match failed {
        true => Err(diagnostics),
        false => Ok(Loaded { config, document, files: uses, warnings: diagnostics }),
    }
}
