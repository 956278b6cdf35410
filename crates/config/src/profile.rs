//! Hardware profiles: the files of `hwprofiles/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::check;
use crate::diagnostic::{Collector, Diagnostics, Report};
use crate::document::Document;
use crate::model::Profile;
use crate::schema;
use crate::source::{self, Files};

/// Loads every `*.toml` of `dirs`; a file of the same name in a later directory replaces the earlier. The result is sorted by id.
/// A directory that does not exist holds no profiles.
///
/// # Errors
/// All errors of all files.
pub fn load_profiles(dirs: &[PathBuf]) -> Result<Vec<Profile>, Diagnostics> {
    let mut problems = Collector::default();
    let mut by_id: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in dirs {
        for path in source::list(dir, &mut problems) {
            by_id.insert(id_of(&path), path);
        }
    }
    // One registry of texts for the diagnostics; each profile is a document of its own.
    let mut all = Files::default();
    let mut profiles = Vec::new();
    for path in by_id.into_values() {
        let Some(text) = source::read_one(&path, &mut problems) else { continue };
        all.add(path, text);
    }
    let mut documents = Vec::new();
    for (file, text) in all.texts() {
        documents.push((file, crate::parse::parse(text, file)));
    }
    let mut document = Document::empty(all);
    for (file, (table, errors)) in documents {
        let broken = !errors.is_empty();
        errors.into_iter().for_each(|error| problems.push(Report::syntax(error)));
        schema::walk(&table, schema::PROFILE, &mut problems);
        document.root = table;
        if !broken {
            let id = id_of(document.files.path(file));
            profiles.push(check::profile(&document, id, &mut problems));
        }
    }
    match problems.has_errors() {
        true => Err(problems.finish(&document.files)),
        false => Ok(profiles),
    }
}

fn id_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
