//! What configurations have otherwise: of generations, of what runs, of the files.

use headgate_config::document::Change;
use headgate_config::{Document, load_with};

use super::{Engine, EngineError, RUNTIME};
use crate::api::{Compared, Diff, Difference};
use crate::daemon::store::SourceText;
use crate::difference::Summary;

impl Engine {
    /// What `query.to` has otherwise than `query.from`.
    ///
    /// # Errors
    /// No such generation, nothing runs, or the files are invalid.
    pub fn diff(&mut self, query: &Diff) -> Result<Vec<Difference>, EngineError> {
        let from = self.texts_of(query.from)?;
        let to = self.texts_of(query.to)?;
        Ok(differences(&from, &to))
    }

    fn texts_of(&mut self, side: Compared) -> Result<Vec<SourceText>, EngineError> {
        match side {
            Compared::Generation(number) => Ok(self.store.find(Some(number))?.files),
            Compared::Running => {
                let running = self.running.as_ref().ok_or(EngineError::NothingRuns)?;
                let generation = running.generation.filter(|_| self.unkept.is_none()).ok_or(EngineError::NotKept)?;
                let mut texts = self.store.find(Some(generation))?.files;
                texts.push((self.root.file(RUNTIME)?, self.overrides.text()));
                Ok(texts)
            }
            Compared::Files => {
                let loaded = load_with(&self.root.file("")?, &[]).map_err(EngineError::Config)?;
                Ok(loaded.document.texts().map(|(path, text)| (path.to_owned(), text.to_owned())).collect())
            }
        }
    }

    /// What `files` change of the generation that runs, in words; nothing when that cannot be said.
    pub(super) fn changes(&mut self, files: &[SourceText]) -> Vec<String> {
        let Some(before) = self.store.running().and_then(|number| self.store.find(Some(number)).ok()) else {
            return Vec::new();
        };
        let mut summary = Summary::default();
        let lists = lists(&before.files, files);
        let (from, to) = (Document::merged(before.files), Document::merged(files.iter().cloned()));
        from.each_difference(&to, |path, change| summary.add(path, change));
        for list in lists {
            let path: Vec<&str> = list.path.iter().map(String::as_str).collect();
            summary.add(&path, Change::of(list.from.is_some(), list.to.is_some()));
        }
        summary.finish()
    }
}

fn differences(from: &[SourceText], to: &[SourceText]) -> Vec<Difference> {
    let found = Document::merged(from.iter().cloned()).differences(&Document::merged(to.iter().cloned()));
    let values = found.into_iter().map(|one| Difference { path: one.path, from: one.from, to: one.to });
    values.chain(lists(from, to)).collect()
}

/// The lists of addresses that policies name, by their names alone: they have thousands of lines.
fn lists(from: &[SourceText], to: &[SourceText]) -> Vec<Difference> {
    let find = |texts: &'_ [SourceText], path: &std::path::Path| {
        texts.iter().find(|(other, _)| other == path).map(|(_, text)| text.clone())
    };
    let is_list = |(path, _): &&SourceText| path.extension().is_none_or(|extension| extension != "toml");
    let mut paths: Vec<_> = from.iter().chain(to).filter(is_list).map(|(path, _)| path.clone()).collect();
    paths.sort();
    paths.dedup();
    let lines = |text: String| format!("{} lines", text.lines().count());
    let differs = paths.into_iter().filter_map(|path| {
        let (from, to) = (find(from, &path), find(to, &path));
        (from != to).then(|| Difference {
            path: vec!["lists".to_owned(), path.display().to_string()],
            from: from.map(lines),
            to: to.map(lines),
        })
    });
    differs.collect()
}
