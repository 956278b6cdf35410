//! The files of addresses that policies name.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use super::{FILE_MAX, Unreadable, reason};
use crate::diagnostic::{Collector, Report};
use crate::document::Document;
use crate::schema;
use crate::tree::Value;

/// Where the files are below which policies name theirs, relative to the root.
pub(crate) const DIRECTORY: &str = "etc/headgate";

/// Where lists come from.
#[derive(Debug)]
pub(crate) enum Lists {
    /// Below this directory.
    Below(PathBuf),
    /// From memory: full paths and texts.
    Texts(Vec<(PathBuf, String)>),
}

impl Default for Lists {
    fn default() -> Self {
        Self::Texts(Vec::new())
    }
}

/// Whether a text is one of the configuration, not a list.
pub(crate) fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

/// Reads the lists of all policies into the document, each once.
pub(crate) fn read_lists(document: &mut Document, lists: &Lists, problems: &mut Collector) {
    let Some(policies) = document.root.table("policies") else { return };
    let mut wanted = Vec::new();
    for entry in policies.iter() {
        let Value::Table(policy) = &entry.node.value else { continue };
        let off = policy.get("enabled").is_some_and(|node| node.value == Value::Boolean(false));
        if let Some(node) = policy.get("file").filter(|_| !off)
            && let Value::Text(file) = &node.value
            // Others have been refused by their form.
            && schema::file(file).is_ok()
        {
            wanted.push((file.clone(), node.span));
        }
    }
    for (file, span) in wanted {
        if document.lists.contains_key(&*file) {
            continue;
        }
        match lists.read(&file) {
            Ok((path, text)) => {
                if let Some(number) = document.files.add_list(path, text) {
                    document.lists.insert(file.to_string(), number);
                }
            }
            Err(why) => problems.push(Report::error(span, why.message).maybe_help(why.help)),
        }
    }
}

impl Lists {
    fn read(&self, file: &str) -> Result<(PathBuf, String), Unreadable> {
        if is_configuration(Path::new(file)) {
            return Err(Unreadable::new("a list of addresses is no .toml file").help("name it .txt, say"));
        }
        match self {
            Self::Below(directory) => Ok((directory.join(file), read(directory, file)?)),
            Self::Texts(texts) => {
                let end = Path::new(DIRECTORY).join(file);
                let found = texts.iter().find(|(path, _)| path.ends_with(&end));
                found.cloned().ok_or_else(|| Unreadable::new("this list is not part of the generation"))
            }
        }
    }
}

/// Opens a regular file below a directory, wherever somebody moves it meanwhile: no link leads out of it, `..` neither.
fn read(directory: &Path, file: &str) -> Result<String, Unreadable> {
    let cannot = |error: std::io::Error| Unreadable::new(format!("cannot read the list: {}", reason(&error)));
    let base = fs::File::open(directory).map_err(cannot)?;
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let opened = openat2(base.as_fd(), file, how).map_err(|errno| match errno {
        Errno::ELOOP | Errno::EXDEV => Unreadable::new("cannot read the list: it is, or lies behind, a symbolic link")
            .help("put the file itself there"),
        errno => cannot(errno.into()),
    })?;
    let opened = fs::File::from(opened);
    let metadata = opened.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(Unreadable::new("cannot read the list: not a regular file"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(FILE_MAX) as usize + 1);
    opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_MAX {
        let message = format!("the list has more than the {FILE_MAX} bytes that are read");
        return Err(Unreadable::new(message).help("split it into several policies"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Unreadable::new(format!("the list is not UTF-8 text: an invalid byte in line {line}"))
    })
}

#[cfg(test)]
mod tests;
