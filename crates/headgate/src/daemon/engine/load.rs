//! From files, or from a generation, to a checked configuration.

use std::path::PathBuf;

use headgate_config::model::{Config, Profile};
use headgate_config::{Draft, Loaded, load_profiles, load_texts, load_with};
use headgate_host::Root;
use headgate_plan::compile::Unsupported;

use super::{Cause, Engine, EngineError, Reason, Untouched, read_overrides};
use crate::daemon::feed::Event;
use crate::daemon::operator::RUNTIME;
use crate::daemon::store::{Generation, SourceText, hash};
use crate::files::PROFILES;
use crate::reconcile::{Knobs, ReconcileError, Reconciled, Until, Wanted, reconcile};
use crate::secret;

/// What a configuration is made of, besides `runtime.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// The files on disk.
    Files,
    /// A generation that was gone back to.
    Generation(u64),
}

/// A checked configuration that does not run yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) config: Config,
    pub(super) base: Base,
    /// Without `runtime.toml`, in the order of merging.
    pub(super) files: Vec<SourceText>,
    pub(super) untouched: Untouched,
    pub(super) warnings: Vec<String>,
}

impl Engine {
    /// The files; that they are refused is told.
    pub(super) fn load(&mut self, cause: Cause<'_>) -> Result<Candidate, EngineError> {
        let loaded = self.load_files(cause.reason);
        if let Err(error) = &loaded
            && !matches!(error, EngineError::NotAgain)
        {
            self.tally.refused += 1;
            self.events.tell(Event::refused(cause.reason.word(), cause.author(), error));
        }
        loaded
    }

    /// From what is there to what this configuration asks for.
    pub(super) fn go(&mut self, candidate: &Candidate, until: Until) -> Result<Reconciled, EngineError> {
        let profiles = profiles(&self.root)?;
        let known = self.running.as_ref().map(|running| running.desired.ids.clone());
        let failed = self.fallen.within(&candidate.config);
        let wanted = Wanted {
            config: &candidate.config,
            profiles: &profiles,
            ids: known.as_ref(),
            failed: &failed,
            knobs: Knobs::All,
        };
        reconcile(&mut self.host, wanted, until).map_err(|error| self.placed(error, candidate))
    }

    /// The files on disk with what was changed at run time.
    pub(super) fn load_files(&mut self, reason: Reason) -> Result<Candidate, EngineError> {
        self.load_drafts(reason, &[])
    }

    /// The same where some of the files are as `drafts` say.
    pub(super) fn load_drafts(&mut self, reason: Reason, drafts: &[Draft]) -> Result<Candidate, EngineError> {
        // Somebody may have edited it; when it is not even TOML, the load below says where.
        if let Ok(overrides) = read_overrides(&self.root, RUNTIME) {
            self.overrides = overrides;
        }
        let mut warnings = Vec::new();
        let mut untouched = Untouched::new();
        if !self.overrides.is_empty() {
            let mut plain = drafts.to_vec();
            plain.push((self.root.file(RUNTIME)?, None));
            // When the files alone are not valid, the load below says so with all the rest.
            if let Ok(plain) = load_with(&self.files_root()?, &plain) {
                (untouched, warnings) = self.settle_overrides(&plain.config)?;
            }
        }
        let loaded = load_with(&self.files_root()?, drafts).map_err(EngineError::Config)?;
        let candidate = self.candidate(loaded, Base::Files, Some((untouched, warnings)))?;
        if reason != Reason::Apply && self.store.returned().is_some_and(|returned| returned == hash(&candidate.files)) {
            return Err(EngineError::NotAgain);
        }
        Ok(candidate)
    }

    /// A generation with what was changed at run time.
    pub(super) fn load_generation(&mut self, generation: Generation) -> Result<Candidate, EngineError> {
        let base = Base::Generation(generation.number);
        let plain = load_texts(&generation.files).map_err(EngineError::Config)?;
        if self.overrides.is_empty() {
            return self.candidate(plain, base, Some((Untouched::new(), Vec::new())));
        }
        let settled = self.settle_overrides(&plain.config)?;
        drop(plain);
        let mut texts = generation.files;
        texts.push((self.root.file(RUNTIME)?, self.overrides.text()));
        let loaded = load_texts(&texts).map_err(EngineError::Config)?;
        self.candidate(loaded, base, Some(settled))
    }

    /// What runs now, with other texts of some files, `runtime.toml` among them.
    pub(super) fn load_changed(&mut self, changed: &[Draft]) -> Result<Candidate, EngineError> {
        let base = self.running.as_ref().ok_or(EngineError::NothingRuns)?.base;
        let loaded = match base {
            Base::Files => load_with(&self.files_root()?, changed),
            Base::Generation(number) => {
                let mut texts = self.store.find(Some(number))?.files;
                texts.extend(changed.iter().filter_map(|(path, text)| Some((path.clone(), text.clone()?))));
                load_texts(&texts)
            }
        };
        self.candidate(loaded.map_err(EngineError::Config)?, base, None)
    }

    /// What is on disk now; `None` when it is not even valid.
    pub(super) fn files_on_disk(&self) -> Option<Vec<SourceText>> {
        let runtime = self.root.file(RUNTIME).ok()?;
        let loaded = load_with(&self.files_root().ok()?, &[(runtime, None)]).ok()?;
        self.sources(&loaded).ok()
    }

    /// Its hash.
    pub(super) fn hash_on_disk(&self) -> Option<String> {
        self.files_on_disk().map(|files| hash(&files))
    }

    fn candidate(
        &mut self,
        loaded: Loaded,
        base: Base,
        settled: Option<(Untouched, Vec<String>)>,
    ) -> Result<Candidate, EngineError> {
        let files = self.sources(&loaded)?;
        let mut config = loaded.config;
        if config.site_secret.is_none() {
            config.site_secret = self.site_secret();
        }
        let (untouched, mut warnings) = settled.unwrap_or_else(|| (self.untouched.clone(), Vec::new()));
        warnings.extend(loaded.warnings.iter().map(|warning| warning.message.clone()));
        Ok(Candidate { config, base, files, untouched, warnings })
    }

    /// The secret of this machine. Without one farms still work, seeded with their names alone; `status` says so then.
    fn site_secret(&mut self) -> Option<String> {
        if self.secret.is_none() {
            match secret::read_or_make(&self.root) {
                Ok(secret) => self.secret = Some(secret),
                Err(error) => {
                    let why = crate::explain(&error);
                    let note =
                        format!("clients can aim at a backend of farms that hash: there is no site secret: {why}");
                    if !self.notes.contains(&note) {
                        tracing::error!("{note}");
                        self.notes.push(note);
                    }
                }
            }
        }
        self.secret.clone()
    }

    /// The texts that a generation is made of.
    fn sources(&self, loaded: &Loaded) -> Result<Vec<SourceText>, EngineError> {
        let runtime = self.root.file(RUNTIME)?;
        let texts = loaded.document.texts().filter(|(path, _)| *path != runtime);
        Ok(texts.map(|(path, text)| (path.to_owned(), text.to_owned())).collect())
    }

    /// The error with where the candidate asks for what this version cannot do. Where each value stands is not kept, so the
    /// texts are read once more.
    pub(super) fn placed(&self, error: ReconcileError, candidate: &Candidate) -> EngineError {
        let ReconcileError::Unsupported(list) = error else { return error.into() };
        let mut texts = candidate.files.clone();
        texts.extend(self.root.file(RUNTIME).map(|runtime| (runtime, self.overrides.text())));
        let loaded = load_texts(&texts).ok();
        let origin = |one: Unsupported| {
            let origin = loaded.as_ref().and_then(|loaded| loaded.document.origin(&one.path));
            (one, origin)
        };
        EngineError::Unsupported(list.into_iter().map(origin).collect())
    }

    pub(super) fn files_root(&self) -> Result<PathBuf, EngineError> {
        Ok(self.root.file("")?)
    }

    /// Takes out of `runtime.toml` what the files have overtaken: changes of farms and backends that are gone, and those
    /// that say what the files say. Left in, the first would make every later configuration invalid.
    fn settle_overrides(&mut self, plain: &Config) -> Result<(Untouched, Vec<String>), EngineError> {
        let mut untouched = Untouched::new();
        let mut warnings = Vec::new();
        for target in self.overrides.targets() {
            let farm = plain.farms.get(&target.farm);
            let Some(name) = &target.backend else {
                if farm.is_none() && !self.overrides.sets(&target, "listen") {
                    self.overrides.unset(&target, &[]);
                    warnings.push(format!("{target} is gone, and with it what was changed of it at run time"));
                }
                continue;
            };
            let backend = farm.and_then(|farm| farm.backends.get(name));
            match backend {
                Some(backend) => {
                    let plain = (backend.state, backend.weight);
                    self.overrides.drop_same(&target, plain);
                    untouched.insert((target.farm, name.clone()), plain);
                }
                None if self.overrides.sets(&target, "address") => {}
                None => {
                    self.overrides.unset(&target, &[]);
                    warnings.push(format!("{target} is gone, and with it what was changed of it at run time"));
                }
            }
        }
        let text = self.overrides.text();
        if self.root.read_file(RUNTIME).ok().as_deref() != Some(text.as_str()) {
            self.root.write_file(RUNTIME, text.as_bytes())?;
        }
        Ok((untouched, warnings))
    }
}

/// The hardware profiles that there are.
pub(super) fn profiles(root: &Root) -> Result<Vec<Profile>, EngineError> {
    let directories = PROFILES.iter().map(|directory| root.file(directory));
    let directories = directories.collect::<Result<Vec<PathBuf>, _>>()?;
    load_profiles(&directories).map_err(EngineError::Config)
}
