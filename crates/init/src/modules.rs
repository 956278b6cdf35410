//! Kernel modules: an index that the image builder resolved, and loading by it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::{conntrack, modalias};

/// Where the index lies, in the initramfs and in the root file system alike.
pub const INDEX: &str = "/usr/lib/headgate/modules";

/// The modules of an image: where they are, what they need, what they answer to, and in which sets they are loaded.
///
/// The text form, one statement a line: `module NAME PATH [NEEDED…]`, `alias NAME PATTERN`, `set SET NAME…`.
/// `NEEDED` is the whole closure in loading order, so loading needs neither a graph nor depmod's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// By name with underscores, as `/proc/modules` spells them.
    pub modules: BTreeMap<String, Module>,
    /// What each module answers to: patterns of modaliases and names that the kernel asks for.
    pub aliases: BTreeMap<String, Vec<String>>,
    /// Named lists, in the order in which they are to be loaded.
    pub sets: BTreeMap<String, Vec<String>>,
}

/// One module of the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// The file, from the root of the file system that holds the index.
    pub path: PathBuf,
    /// Every module that must be loaded before it, in that order.
    pub needs: Vec<String>,
}

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is none of the three statements.
    #[error("line {line} of the module index is no statement: {text:?}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

/// Why a module was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The index does not know it.
    #[error("module {name} is not in this image")]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// Its file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused it.
    #[error("the kernel refused {path}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, as `finit_module(2)` says.
        source: Errno,
    },
}

impl Index {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, IndexError> {
        let mut index = Self::default();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            match words.as_slice() {
                [] => {}
                ["module", name, path, needs @ ..] => {
                    let module = Module { path: PathBuf::from(path), needs: owned(needs) };
                    index.modules.insert((*name).to_owned(), module);
                }
                ["alias", name, pattern] => {
                    index.aliases.entry((*name).to_owned()).or_default().push((*pattern).to_owned());
                }
                ["set", set, names @ ..] => {
                    index.sets.insert((*set).to_owned(), owned(names));
                }
                _ => return Err(IndexError::Line { line: number + 1, text: line.to_owned() }),
            }
        }
        Ok(index)
    }

    /// Reads the index of the file system that we run from.
    pub fn read() -> Result<Self, IndexError> {
        let text =
            std::fs::read_to_string(INDEX).map_err(|source| IndexError::Read { path: PathBuf::from(INDEX), source })?;
        Self::parse(&text)
    }

    /// The modules of `set`, in its order; empty when there is no such set.
    pub fn set(&self, set: &str) -> impl Iterator<Item = &str> {
        self.sets.get(set).into_iter().flatten().map(String::as_str)
    }

    /// The modules of `set` that answer to one of `modaliases`, in the order of the set.
    #[must_use]
    pub fn wanted<'a>(&'a self, set: &str, modaliases: &[String]) -> Vec<&'a str> {
        self.sets
            .get(set)
            .into_iter()
            .flatten()
            .filter(|name| modaliases.iter().any(|modalias| self.answers(name, modalias)))
            .map(String::as_str)
            .collect()
    }

    /// Every module that is called `name` or answers to it. The kernel and people write `-` and `_` alike.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<&str> {
        let spelled = name.replace('-', "_");
        match self.modules.get_key_value(&spelled) {
            Some((module, _)) => vec![module],
            None => self.modules.keys().filter(|module| self.answers(module, name)).map(String::as_str).collect(),
        }
    }

    fn answers(&self, module: &str, modalias: &str) -> bool {
        self.aliases
            .get(module)
            .is_some_and(|patterns| patterns.iter().any(|pattern| modalias::matches(pattern, modalias)))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, module) in &self.modules {
            write!(f, "module {name} {}", module.path.display())?;
            for needed in &module.needs {
                write!(f, " {needed}")?;
            }
            writeln!(f)?;
        }
        for (name, patterns) in &self.aliases {
            for pattern in patterns {
                writeln!(f, "alias {name} {pattern}")?;
            }
        }
        for (set, names) in &self.sets {
            writeln!(f, "set {set} {}", names.join(" "))?;
        }
        Ok(())
    }
}

/// Loads modules; several threads may share it.
#[derive(Debug)]
pub struct Loader<'a> {
    index: &'a Index,
    loaded: Mutex<BTreeSet<&'a str>>,
}

impl<'a> Loader<'a> {
    /// A loader for this index.
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        Self { index, loaded: Mutex::default() }
    }

    /// Loads a module after everything that it needs. A module that is loaded already is no error.
    pub fn load(&self, name: &str) -> Result<(), LoadError> {
        let (name, module) =
            self.index.modules.get_key_value(name).ok_or_else(|| LoadError::Unknown { name: name.to_owned() })?;
        for needed in &module.needs {
            let (needed, module) =
                self.index.modules.get_key_value(needed).ok_or_else(|| LoadError::Unknown { name: needed.clone() })?;
            self.insert(needed, module)?;
        }
        self.insert(name, module)
    }

    fn insert(&self, name: &'a str, module: &Module) -> Result<(), LoadError> {
        if self.loaded.lock().is_ok_and(|loaded| loaded.contains(name)) {
            return Ok(());
        }
        let path = &module.path;
        let file = File::open(path).map_err(|source| LoadError::Open { path: path.clone(), source })?;
        let is_table = name == conntrack::MODULE;
        let parameters = if is_table { conntrack::parameters() } else { CString::default() };
        match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
            Ok(()) if is_table => conntrack::limit(),
            // Two threads may want the same one: the kernel lets the second wait for the first.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(source) => return Err(LoadError::Refused { path: path.clone(), source }),
        }
        // Only now: whoever finds the name here goes on to what needs the module.
        if let Ok(mut loaded) = self.loaded.lock() {
            loaded.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
module dca /lib/modules/6/dca.ko
module igb /lib/modules/6/igb.ko dca
module nft_chain_nat /lib/modules/6/nft_chain_nat.ko
alias igb pci:v00008086d00001533sv*sd*bc*sc*i*
alias igb pci:v00008086d000010C9sv*sd*bc*sc*i*
alias nft_chain_nat nft-chain-2-nat
set hardware igb missing
";

    #[test]
    fn the_text_form_survives_a_round_trip() {
        let index = Index::parse(TEXT).unwrap();
        assert_eq!(index.to_string(), TEXT);
        assert_eq!(index.modules["igb"].needs, ["dca"]);
    }

    #[test]
    fn a_strange_line_is_named() {
        for text in ["module x", "alias a", "alias a b c", "blah", "\0\u{fffd}"] {
            let error = Index::parse(&format!("\n{text}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn hardware_and_names_find_their_modules() {
        let index = Index::parse(TEXT).unwrap();
        let present = ["pci:v00008086d000010C9sv00008086sd0000A03Cbc02sc00i00".to_owned()];
        assert_eq!(index.wanted("hardware", &present), ["igb"]);
        assert_eq!(index.wanted("hardware", &[]), Vec::<&str>::new());
        assert_eq!(index.wanted("no such set", &present), Vec::<&str>::new());
        assert_eq!(index.named("nft-chain-2-nat"), ["nft_chain_nat"]);
        assert_eq!(index.named("nft-chain-nat"), ["nft_chain_nat"]);
        assert_eq!(index.named("floppy"), Vec::<&str>::new());
    }

    #[test]
    fn what_is_absent_is_named_in_the_error() {
        let index = Index::parse(TEXT).unwrap();
        let loader = Loader::new(&index);
        assert_eq!(loader.load("floppy").unwrap_err().to_string(), "module floppy is not in this image");
        assert_eq!(loader.load("igb").unwrap_err().to_string(), "cannot open /lib/modules/6/dca.ko");
    }
}
