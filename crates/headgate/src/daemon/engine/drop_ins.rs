//! `headgate config list`, `get`, `put` and `remove`: whole files of `/etc/headgate/conf.d`, for whoever has no shell on the box.
//!
//! A file that is put goes the way that all files go: it is checked with all the others, written, and applied as one transaction. What
//! an operator may not bring in over the API is decided by what the whole configuration means with it and without it, not by its words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Config, Farm, HealthCheck, Service};
use headgate_config::{FileUse, find, load_with};
use toml_edit::{DocumentMut, Item};

use super::load::Candidate;
use super::rewrite::{Change, Rewrite};
use super::{Cause, Engine, EngineError, Reason};
use crate::api::{Applied, Scope};
use crate::daemon::caller::Caller;
use crate::daemon::operator::PERSISTENT;
use crate::drop_in::DropInName;

/// Too short for a secret, so that what is shown is not taken for what was written when somebody puts it back.
const CONCEALED: &str = "(not shown)";

/// A drop-in as it is to be.
#[derive(Debug, Clone)]
pub struct DropIn {
    /// Its file.
    pub name: DropInName,
    /// `None`: it goes.
    pub text: Option<String>,
}

impl Engine {
    /// The files that the configuration is made of and what became of each, in the order of merging.
    ///
    /// # Errors
    /// The root cannot be had.
    pub fn drop_ins(&self) -> Result<Vec<FileUse>, EngineError> {
        Ok(find(&self.files_root()?))
    }

    /// The text of a drop-in as it is on disk, the site's secret concealed.
    ///
    /// # Errors
    /// There is none, or it is no file itself.
    pub fn drop_in(&self, name: &DropInName) -> Result<String, EngineError> {
        self.require_file(name)?;
        match self.root.read_own_file(name.file()) {
            Ok(text) => Ok(concealed(&text)),
            Err(error) if error.is_missing() => Err(not_found(name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a drop-in in its place, or takes it away, and makes the kernel follow all files; until `window` is over, if there is one,
    /// unless somebody confirms it.
    ///
    /// # Errors
    /// Why files and kernel are as before.
    pub fn change_drop_in(
        &mut self,
        drop_in: &DropIn,
        window: Option<Duration>,
        by: &Caller,
    ) -> Result<Applied, EngineError> {
        self.unless_refused(|engine, runtime| {
            let change = engine.load_with_drop_in(drop_in, by)?;
            let cause = Cause { reason: Reason::Apply, by: Some(by) };
            if let Some(window) = window {
                return engine.try_out(change, cause, window, runtime.to_owned());
            }
            engine.require_no_other_trial(&change.candidate)?;
            engine.require_nothing_else_back(&change.candidate, &drop_in.name)?;
            engine.require_way_back(&change.candidate, Some(by))?;
            engine.write_and_run(change, cause)
        })
    }

    /// Everything that can be known before anything is written.
    fn load_with_drop_in(&mut self, drop_in: &DropIn, by: &Caller) -> Result<Change, EngineError> {
        let DropIn { name, text } = drop_in;
        if name.file() == PERSISTENT {
            return Err(EngineError::Own(name.clone()));
        }
        let there = self.require_file(name)?;
        if text.is_none() && !there {
            return Err(not_found(name));
        }
        let drafts = [(self.root.file(name.file())?, text.clone())];
        let candidate = self.load_drafts(Reason::Apply, &drafts)?;
        self.require_reach(&candidate.config, by)?;
        Ok(Change { candidate, rewrites: vec![Rewrite::new(name.file(), text.as_deref())] })
    }

    /// Whether there is such a file. What is there and is no file is somebody's who has a shell: it is neither followed nor replaced.
    fn require_file(&self, name: &DropInName) -> Result<bool, EngineError> {
        match self.root.file(name.file())?.symlink_metadata() {
            Ok(found) if found.is_file() => Ok(true),
            Ok(found) => Err(EngineError::NoFile { name: name.clone(), is_link: found.is_symlink() }),
            Err(_) => Ok(false),
        }
    }

    /// What only root may change: see [`of_root`].
    fn require_reach(&self, config: &Config, by: &Caller) -> Result<(), EngineError> {
        if by.scope() >= Scope::Root {
            return Ok(());
        }
        let nothing = Config::default();
        let loaded = load_with(&self.files_root()?, &[]).ok();
        let before = loaded.as_ref().map(|loaded| &loaded.config);
        let before = before.or(self.running.as_ref().map(|running| &running.config)).unwrap_or(&nothing);
        match of_root(before, config) {
            Some(what) => Err(EngineError::Reach { what, by: by.name().to_owned() }),
            None => Ok(()),
        }
    }

    /// After a return, a file brings in itself alone: what was returned from does not come back with it.
    fn require_nothing_else_back(&mut self, candidate: &Candidate, name: &DropInName) -> Result<(), EngineError> {
        let running = self.running.as_ref().and_then(|running| running.generation);
        let (Some(number), true) = (running, self.store.returned().is_some()) else { return Ok(()) };
        let (before, own) = (self.store.find(Some(number))?.files, self.root.file(name.file())?);
        let is_other = |path: &Path| path != own && text_of(&before, path) != text_of(&candidate.files, path);
        let paths = before.iter().chain(&candidate.files).map(|(path, _)| path.as_path());
        let other = paths.into_iter().find(|path| is_other(path)).map(|path| path.display().to_string());
        match other {
            Some(file) => Err(EngineError::ComesBack { number, file }),
            None => Ok(()),
        }
    }
}

fn not_found(name: &DropInName) -> EngineError {
    EngineError::NotFound(format!("drop-in {name} in /{}", crate::drop_in::DIRECTORY))
}

fn text_of<'a>(files: &'a [crate::daemon::store::SourceText], path: &Path) -> Option<&'a str> {
    files.iter().find(|(other, _)| other == path).map(|(_, text)| text.as_str())
}

/// What `after` has otherwise, or anew, that lets whoever wrote it do anything: programs, sysctls, and keys that let somebody in.
fn of_root(before: &Config, after: &Config) -> Option<&'static str> {
    // A line that moved is no change.
    let same = |(a, b): (&Service, &Service)| Service { origin: b.origin.clone(), ..a.clone() } == *b;
    let (old, new) = (&before.services, &after.services);
    if old.len() != new.len() || !old.values().zip(new.values()).all(same) {
        return Some("[services]");
    }
    if before.sysctl != after.sysctl {
        return Some("[sysctl]");
    }
    if before.system.authorized_keys != after.system.authorized_keys {
        return Some("system.authorized-keys");
    }
    let known = |farm: &Arc<Farm>| before.farms.get(&farm.name).and_then(|old| program(old)) == program(farm);
    let news = after.farms.values().any(|farm| program(farm).is_some() && !known(farm));
    news.then_some("a health check that runs a program")
}

fn program(farm: &Farm) -> Option<&[String]> {
    match &farm.health.as_ref()?.check {
        HealthCheck::Exec { command } => Some(command),
        _ => None,
    }
}

/// A text that is no TOML has no place of its secret that could be known, so every value that may be one goes.
fn concealed(text: &str) -> String {
    let Ok(mut document) = text.parse::<DocumentMut>() else {
        return text.lines().map(|line| without_secret(line) + "\n").collect();
    };
    let site = document.get_mut("site").and_then(Item::as_table_like_mut);
    let Some(secret) = site.and_then(|site| site.get_mut("secret")) else { return text.to_owned() };
    let Some(value) = secret.as_value_mut() else { return text.to_owned() };
    let decor = value.decor().clone();
    *value = CONCEALED.into();
    *value.decor_mut() = decor;
    document.to_string()
}

fn without_secret(line: &str) -> String {
    let word = line.find("secret").and_then(|word| line[word..].find('=').map(|equals| word + equals));
    word.map_or_else(|| line.to_owned(), |equals| format!("{}= \"{CONCEALED}\"", &line[..equals]))
}

#[cfg(test)]
mod tests {
    use headgate_config::load_texts;

    use super::*;

    #[test]
    fn the_secret_is_not_shown_and_all_else_is() {
        for (text, shown) in [
            ("[site]\nsecret = \"0123456789abcdef\" # ours\n", "[site]\nsecret = \"(not shown)\" # ours\n"),
            ("site.secret = '0123456789abcdef'\n", "site.secret = \"(not shown)\"\n"),
            ("site = { secret = \"0123456789abcdef\" }\n", "site = { secret = \"(not shown)\" }\n"),
            ("# secret = x\n[farms.secret]\nlisten = \"a\"\r\n", "# secret = x\n[farms.secret]\nlisten = \"a\"\r\n"),
            ("[site]\nsecret = \"0123456789abcdef\n= x\n", "[site]\nsecret = \"(not shown)\"\n= x\n"),
            ("", ""),
        ] {
            assert_eq!(concealed(text), shown);
        }
        let error = load_texts(&[("a.toml".into(), concealed("site.secret = \"0123456789abcdef\""))]).unwrap_err();
        assert!(error.to_string().contains("secret"), "{error}");
    }

    fn config(text: &str) -> Config {
        load_texts(&[("a.toml".into(), text.to_owned())]).unwrap().config
    }

    #[test]
    fn what_runs_programs_is_roots() {
        let farm = |health: &str| {
            format!("[farms.w]\nlisten = \"10.0.0.1:80\"\n{health}\n[farms.w.backends.b]\naddress = \"10.0.0.2:80\"\n")
        };
        let exec = |program: &str| farm(&format!("health = {{ type = \"exec\", command = [\"{program}\"] }}"));
        let service = "[services.s]\ncommand = [\"/bin/true\"]\n";
        let free = [
            (String::new(), farm("")),
            (farm(""), farm("health = { type = \"tcp\" }")),
            (exec("/bin/true"), farm("")),
            (exec("/bin/true"), format!("\n\n{}", exec("/bin/true"))),
            (service.to_owned(), format!("\n{service}{}", farm(""))),
            (String::new(), "[system]\nhostname = \"x\"\n".to_owned()),
        ];
        for (before, after) in free {
            assert_eq!(of_root(&config(&before), &config(&after)), None, "{after}");
        }
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ops";
        let taken = [
            (String::new(), service.to_owned(), "[services]"),
            (service.to_owned(), String::new(), "[services]"),
            (service.to_owned(), service.replace("true", "false"), "[services]"),
            (String::new(), "[sysctl]\n\"net.ipv4.tcp_syncookies\" = 1\n".to_owned(), "[sysctl]"),
            (String::new(), format!("[system]\nauthorized-keys = [\"{key}\"]\n"), "system.authorized-keys"),
            (farm(""), exec("/bin/true"), "a health check that runs a program"),
            (exec("/bin/true"), exec("/bin/false"), "a health check that runs a program"),
        ];
        for (before, after, what) in taken {
            assert_eq!(of_root(&config(&before), &config(&after)), Some(what), "{after}");
        }
    }
}
