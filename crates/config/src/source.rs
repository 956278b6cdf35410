//! Which files make up the configuration, in which order, and their text.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::Draft;
use crate::diagnostic::{Collector, Excerpt, Place, Report};
use crate::model::Origin;
use crate::tree::Span;

mod list;

pub(crate) use list::{DIRECTORY, Lists, is_configuration, read_lists};

/// Largest file, bytes. 40,000 backends take 3.5 MB.
pub const FILE_MAX: u64 = 8 << 20;

/// Most files in one run; a [`Span`] numbers them in 16 bits.
const FILES_MAX: usize = 4096;

/// Where a file comes from, in the order of merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// `/usr/lib/headgate/conf.d`: the image's defaults.
    Vendor,
    /// `/etc/headgate/headgate.toml`: the operator's main file.
    Main,
    /// `/run/headgate/media/esp`: from the EFI system partition.
    Esp,
    /// `/run/headgate/media/usb`: from a stick.
    Usb,
    /// `/run/headgate/media/fw-cfg`: from the hypervisor.
    FwCfg,
    /// `/etc/headgate/conf.d`: the operator's drop-ins.
    Etc,
    /// `/run/headgate/runtime.toml`: what was changed by command and not persisted.
    Runtime,
    /// Named on the command line.
    Given,
}

/// The directories of drop-ins that replace one another by file name, the later wins.
const DROP_INS: [(Layer, &str); 4] = [
    (Layer::Esp, "run/headgate/media/esp"),
    (Layer::Usb, "run/headgate/media/usb"),
    (Layer::FwCfg, "run/headgate/media/fw-cfg"),
    (Layer::Etc, "etc/headgate/conf.d"),
];
const VENDOR: &str = "usr/lib/headgate/conf.d";
const MAIN: &str = "etc/headgate/headgate.toml";
const RUNTIME: &str = "run/headgate/runtime.toml";

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Merged.
    Used,
    /// A file of the same name in a later directory took its place.
    Replaced(PathBuf),
    /// A link to `/dev/null` of the same name took it away; the link names itself.
    Masked(PathBuf),
    /// Could not be read; there is a diagnostic.
    Unreadable,
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileUse {
    /// As the user would open it (`--root` included).
    pub path: PathBuf,
    /// Where it comes from.
    pub layer: Layer,
    /// What became of it.
    pub fate: Fate,
}

/// The texts of a run, in the order of merging.
#[derive(Debug, Default)]
pub(crate) struct Files {
    list: Vec<SourceFile>,
}

#[derive(Debug)]
struct SourceFile {
    path: Arc<PathBuf>,
    text: String,
    marks: OnceLock<Vec<Mark>>,
}

/// A known position: the begin of each line, and one every [`MARK_EVERY`] bytes within long lines, so that 40,000 columns in a
/// file of one line cost no 40,000 walks from its begin.
#[derive(Debug, Clone, Copy)]
struct Mark {
    offset: u32,
    line: u32,
    column: u32,
}

const MARK_EVERY: u32 = 512;

impl Files {
    pub(crate) fn texts(&self) -> impl Iterator<Item = (u16, &str)> {
        (0..).zip(self.list.iter().map(|file| file.text.as_str()))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= FILES_MAX
    }

    pub(crate) fn add(&mut self, path: PathBuf, text: String) {
        self.list.push(SourceFile { path: Arc::new(path), text, marks: OnceLock::new() });
    }

    /// As [`Self::add`] for a text behind all those of the configuration; its number, unless there are too many.
    pub(crate) fn add_list(&mut self, path: PathBuf, text: String) -> Option<u16> {
        let number = u16::try_from(self.list.len()).ok().filter(|_| !self.is_full())?;
        self.add(path, text);
        Some(number)
    }

    pub(crate) fn text(&self, file: u16) -> &str {
        &self.list[usize::from(file)].text
    }

    pub(crate) fn path(&self, file: u16) -> &Arc<PathBuf> {
        &self.list[usize::from(file)].path
    }

    /// The begin of `span` in lines and columns.
    pub(crate) fn origin(&self, span: Span) -> Origin {
        let file = &self.list[usize::from(span.file)];
        let (line, column) = file.position(span.start);
        Origin { file: file.path.clone(), line, column }
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        let origin = self.origin(span);
        let file = &self.list[usize::from(span.file)];
        let text = file.text.as_str();
        let start = (span.start as usize).min(text.len());
        let begin = text.as_bytes()[..start].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end = text.as_bytes()[start..].iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| at + start);
        let line = text[begin..end].trim_end_matches('\r');
        let excerpt = Excerpt::new(line, start - begin, (span.end as usize).saturating_sub(begin));
        Place { file: origin.file, line: origin.line, column: origin.column, excerpt: Some(excerpt) }
    }
}

impl SourceFile {
    fn position(&self, offset: u32) -> (u32, u32) {
        let marks = self.marks.get_or_init(|| marks(&self.text));
        let mark = marks[marks.partition_point(|mark| mark.offset <= offset).saturating_sub(1)];
        let rest = self.text.as_bytes().get(mark.offset as usize..offset as usize).unwrap_or_default();
        (mark.line, mark.column + characters(rest))
    }
}

/// Characters that begin in `bytes`: every byte but the continuation bytes of UTF-8.
fn characters(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() as u32
}

fn marks(text: &str) -> Vec<Mark> {
    let mut last = Mark { offset: 0, line: 1, column: 1 };
    let mut marks = vec![last];
    let mut column = 1;
    for (offset, &byte) in (0u32..).zip(text.as_bytes()) {
        if byte & 0xc0 != 0x80 && offset - last.offset >= MARK_EVERY {
            last = Mark { offset, line: last.line, column };
            marks.push(last);
        }
        if byte == b'\n' {
            last = Mark { offset: offset + 1, line: last.line + 1, column: 1 };
            marks.push(last);
            column = 1;
        } else if byte & 0xc0 != 0x80 {
            column += 1;
        }
    }
    marks
}

/// What was found: the texts to merge in order, and every file with its fate.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) files: Files,
    pub(crate) uses: Vec<FileUse>,
    pub(crate) lists: Lists,
}

/// A candidate for merging.
struct Found {
    path: PathBuf,
    layer: Layer,
    mask: bool,
}

/// Finds and reads the configuration under `root`, with some files as `drafts` say.
pub(crate) fn read_root(root: &Path, drafts: &[Draft], problems: &mut Collector) -> Sources {
    let lists = Lists::Below(root.join(DIRECTORY));
    let mut reader = Reader { drafts, sources: Sources { lists, ..Sources::default() }, problems };
    if !root.is_dir() {
        let root = Arc::new(root.to_owned());
        reader.problems.push(Report::file(&root, "the root is not a directory").help("--root takes a directory"));
        return reader.sources;
    }
    let vendor = reader.list(Layer::Vendor, &root.join(VENDOR));
    let mut by_name: BTreeMap<std::ffi::OsString, Vec<Found>> = BTreeMap::new();
    for (layer, directory) in DROP_INS {
        for found in reader.list(layer, &root.join(directory)) {
            by_name.entry(found.path.file_name().unwrap_or_default().to_owned()).or_default().push(found);
        }
    }
    for found in vendor {
        // A mask takes the name away wherever a file of that name comes from, or a vendor file could never be got rid of.
        let name = found.path.file_name().unwrap_or_default();
        let mask =
            by_name.get(name).and_then(|same| same.last()).filter(|last| last.mask).map(|last| last.path.clone());
        reader.take(found, mask.map(Fate::Masked));
    }
    reader.single(Layer::Main, root.join(MAIN));
    for mut same in by_name.into_values() {
        let Some(winner) = same.pop() else { continue };
        for found in same {
            let by = winner.path.clone();
            let fate = if winner.mask { Fate::Masked(by) } else { Fate::Replaced(by) };
            reader.take(found, Some(fate));
        }
        reader.take(winner, None);
    }
    reader.single(Layer::Runtime, root.join(RUNTIME));
    reader.sources
}

/// Reads the files of `paths` in this order; a directory stands for its `*.toml` by name. Lists are below `lists`.
pub(crate) fn read_files(paths: &[PathBuf], lists: &Path, problems: &mut Collector) -> Sources {
    let sources = Sources { lists: Lists::Below(lists.to_owned()), ..Sources::default() };
    let mut reader = Reader { drafts: &[], sources, problems };
    for path in paths {
        if path.is_dir() {
            for found in reader.list(Layer::Given, path) {
                reader.take(found, None);
            }
        } else {
            let mask = is_mask(path);
            reader.take(Found { path: path.clone(), layer: Layer::Given, mask }, None);
        }
    }
    reader.sources
}

/// The configuration files of one directory, by name; none when there is no such directory.
pub(crate) fn list(directory: &Path, problems: &mut Collector) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let message = format!("cannot list the directory: {}", reason(&error));
            problems.push(Report::file(&Arc::new(directory.to_owned()), message));
            Vec::new()
        }
    };
    paths.retain(|path| is_ours(path));
    paths.sort();
    paths
}

/// The text of one file; `None` leaves a diagnostic.
pub(crate) fn read_one(path: &Path, problems: &mut Collector) -> Option<String> {
    match read(path) {
        Ok(text) => Some(text),
        Err(why) => {
            problems.push(Report::file(&Arc::new(path.to_owned()), why.message).maybe_help(why.help));
            None
        }
    }
}

struct Reader<'a> {
    drafts: &'a [Draft],
    sources: Sources,
    problems: &'a mut Collector,
}

impl Reader<'_> {
    fn list(&mut self, layer: Layer, directory: &Path) -> Vec<Found> {
        let mut paths = list(directory, self.problems);
        paths.retain(|path| !self.is_gone(path));
        let written = self.drafts.iter().filter(|(_, text)| text.is_some()).map(|(path, _)| path);
        paths.extend(written.filter(|path| path.parent() == Some(directory) && is_ours(path)).cloned());
        paths.sort();
        paths.dedup();
        paths
            .into_iter()
            .map(|path| Found { mask: self.text(&path).is_none() && is_mask(&path), path, layer })
            .collect()
    }

    fn text(&self, path: &Path) -> Option<&str> {
        self.drafts.iter().find(|(other, _)| *other == path)?.1.as_deref()
    }

    fn is_gone(&self, path: &Path) -> bool {
        self.drafts.iter().any(|(other, text)| *other == path && text.is_none())
    }

    /// A file that need not exist.
    fn single(&mut self, layer: Layer, path: PathBuf) {
        if self.text(&path).is_some() || (fs::symlink_metadata(&path).is_ok() && !self.is_gone(&path)) {
            let mask = self.text(&path).is_none() && is_mask(&path);
            self.take(Found { path, layer, mask }, None);
        }
    }

    /// Reads a file unless its fate is settled already.
    fn take(&mut self, found: Found, fate: Option<Fate>) {
        let Found { path, layer, mask } = found;
        let fate = match fate {
            Some(fate) => fate,
            None if mask => Fate::Masked(path.clone()),
            None => match self.text(&path).map_or_else(|| read(&path), |text| Ok(text.to_owned())) {
                Ok(text) if !self.sources.files.is_full() => {
                    self.sources.files.add(path.clone(), text);
                    Fate::Used
                }
                Ok(_) => self.refuse(&path, Unreadable::new(format!("more than {FILES_MAX} files"))),
                Err(why) => self.refuse(&path, why),
            },
        };
        self.sources.uses.push(FileUse { path, layer, fate });
    }

    fn refuse(&mut self, path: &Path, why: Unreadable) -> Fate {
        self.problems.push(Report::file(&Arc::new(path.to_owned()), why.message).maybe_help(why.help));
        Fate::Unreadable
    }
}

/// `*.toml`, not hidden: editors leave `.20-web.toml.swp` and `20-web.toml~` behind.
fn is_ours(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}

fn is_mask(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

struct Unreadable {
    message: String,
    help: Option<String>,
}

impl Unreadable {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn read(path: &Path) -> Result<String, Unreadable> {
    let cannot = |error: std::io::Error| Unreadable::new(format!("cannot read the file: {}", reason(&error)));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Err(match fs::read_link(path) {
                Ok(target) if error.kind() == std::io::ErrorKind::NotFound => {
                    Unreadable::new(format!("a link to {target:?}, which does not exist"))
                        .help("remove the link, or point it at /dev/null to mask this name")
                }
                _ => cannot(error),
            });
        }
    };
    if metadata.is_dir() {
        return Err(Unreadable::new("a directory where a file is expected")
            .help("move it away, or give it a name without .toml"));
    }
    if !metadata.is_file() {
        return Err(Unreadable::new("not a regular file"));
    }
    // Should it become a FIFO between the two calls, opening must not wait for a writer.
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let mut bytes = Vec::with_capacity(metadata.len().min(FILE_MAX) as usize + 1);
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_MAX {
        let size = metadata.len().max(bytes.len() as u64);
        return Err(Unreadable::new(format!("the file has {size} bytes, more than the {FILE_MAX} that are read"))
            .help("split it into several files of conf.d"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Unreadable::new(format!("not UTF-8 text: an invalid byte in line {line}")).help("TOML files are UTF-8")
    })
}

/// An error of the system without its number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests;
