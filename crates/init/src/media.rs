//! Drop-ins from media: copied to `/run/headgate/media/MEDIUM/`, where the configuration loader finds them.
//!
//! Whoever can write a medium is root on the box, so by default media are taken until the first boot that came to good with
//! a valid configuration; what they held is then kept on data and used from there ([`keep`]). The word in
//! [`TRUST`] (`first-boot`, `always`, `never`), written by `headgated` from `[system] trust-media`, changes that.

use std::io;
use std::path::{Path, PathBuf};

use headgate_update::stick::{DIRECTORY, Mounted, StickError};

use crate::console::Console;
use crate::initramfs::{report, with_cause};

/// Where `headgated` leaves the word of `[system] trust-media`.
pub const TRUST: &str = "/var/lib/headgate/trust-media";
const KEPT: &str = "/var/lib/headgate/media";
const RUN: &str = "/run/headgate/media";
const TAKEN: &str = "/run/headgate/media-found";
const MOUNT_POINTS: &str = "/run/headgate/mount";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/headgate";

/// Larger drop-ins are refused, bytes. The largest sensible configuration (10,000 farms) is about 4 MB.
const MAX_SIZE: u64 = 8 << 20;
const MAX_FILES: usize = 256;

/// Where a drop-in may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// `headgate/conf.d/` on the EFI system partition.
    Esp,
    /// `headgate/conf.d/` on a stick with the label `HEADGATE`.
    Usb,
    /// QEMU's `-fw_cfg name=opt/headgate/NAME.toml`.
    FwCfg,
}

/// In the order in which they are merged.
const MEDIA: [Medium; 3] = [Medium::Esp, Medium::Usb, Medium::FwCfg];

impl Medium {
    /// The directory below `/run/headgate/media`.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::Esp => "esp",
            Self::Usb => "usb",
            Self::FwCfg => "fw-cfg",
        }
    }
}

/// Why drop-ins were not copied.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// A partition cannot be mounted.
    #[error(transparent)]
    Mount(#[from] StickError),
    /// Reading or writing failed.
    #[error("cannot copy {path}")]
    Copy {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Copies the drop-ins of a partition aside; [`collect`] decides whether they count.
pub fn copy_from_partition(medium: Medium, device: &Path, console: &Console) -> Result<(), MediaError> {
    let mounted = Mounted::at(device, &Path::new(MOUNT_POINTS).join(medium.directory()))?;
    let from = mounted.path().join(DIRECTORY).join("conf.d");
    copy(&from, &Path::new(TAKEN).join(medium.directory()), console)
}

/// Puts together what `headgated` will find: fresh drop-ins, or those that were kept from the first boot.
pub fn collect(console: &Console) {
    let to = Path::new(TAKEN).join(Medium::FwCfg.directory());
    report(console, copy(Path::new(FW_CFG), &to, console));
    let trust = std::fs::read_to_string(TRUST).unwrap_or_default();
    let (from, word) = choose(trust.trim(), Path::new(KEPT).exists());
    for medium in MEDIA {
        let (from, to) = (Path::new(from).join(medium.directory()), Path::new(RUN).join(medium.directory()));
        report(console, copy(&from, &to, console));
        let names = names(&to);
        if !names.is_empty() {
            console.say(format_args!("drop-ins {word} {}: {}", medium.directory(), names.join(" ")));
        }
    }
}

/// Where drop-ins are taken from, and the word for it.
fn choose(trust: &str, kept: bool) -> (&'static str, &'static str) {
    match (trust, kept) {
        ("always", _) => (TAKEN, "from"),
        ("never", _) | (_, true) => (KEPT, "kept from the first boot,"),
        _ => (TAKEN, "from"),
    }
}

/// When it was that they were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In another start.
    Before,
    /// By this call.
    Now,
}

/// Keeps on data what the media held, when nothing was kept yet: from now on that counts.
pub fn keep() -> Result<Kept, MediaError> {
    let kept = Path::new(KEPT);
    if kept.exists() {
        return Ok(Kept::Before);
    }
    // Complete or absent: a cut in between must not leave half a configuration that then counts for ever.
    let new = kept.with_extension("new");
    let _ = std::fs::remove_dir_all(&new);
    make(&new)?;
    let silent = Console::open_none();
    for medium in MEDIA {
        copy(&Path::new(RUN).join(medium.directory()), &new.join(medium.directory()), &silent)?;
    }
    nix::unistd::sync();
    // The name itself lies on the disk only once its directory does: without that a cut within the journal's five seconds takes it.
    let renamed =
        std::fs::rename(&new, kept).and_then(|()| std::fs::File::open(kept.parent().unwrap_or(kept))?.sync_all());
    renamed.map_err(|source| MediaError::Copy { path: kept.to_owned(), source })?;
    Ok(Kept::Now)
}

fn make(directory: &Path) -> Result<(), MediaError> {
    std::fs::create_dir_all(directory).map_err(|source| MediaError::Copy { path: directory.to_owned(), source })
}

/// Copies the drop-ins of one directory; each one that is refused is named on the console and the others still count.
/// An absent directory holds none.
fn copy(from: &Path, to: &Path, console: &Console) -> Result<(), MediaError> {
    make(to)?;
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    let mut copied = 0;
    for path in paths {
        let shown = path.file_name().unwrap_or_default().to_string_lossy().escape_default().to_string();
        match read(&path) {
            Ok(None) => {}
            Ok(Some(_)) if copied == MAX_FILES => {
                console.warn(format_args!("more than {MAX_FILES} drop-ins: {shown} refused"))
            }
            Ok(Some((name, text))) => {
                let target = to.join(name);
                std::fs::write(&target, text).map_err(|source| MediaError::Copy { path: target, source })?;
                copied += 1;
            }
            Err(error) => console.warn(format_args!("drop-in {shown} refused: {}", with_cause(&error))),
        }
    }
    Ok(())
}

/// The name and bytes of a drop-in; nothing for files that are none. In `fw_cfg` a file is a directory with `raw` in it.
fn read(path: &Path) -> io::Result<Option<(String, Vec<u8>)>> {
    use std::io::Read;
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(io::Error::other("its name is not UTF-8"));
    };
    // Other systems write their own notes beside files: `._10-web.toml`.
    let Some((stem, extension)) = name.rsplit_once('.') else { return Ok(None) };
    if name.starts_with('.') || !extension.eq_ignore_ascii_case("toml") {
        return Ok(None);
    }
    if name.len() > 128 || !stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Err(io::Error::other("a name may have letters, digits, '_', '.' and '-', 128 at most"));
    }
    let raw = path.join("raw");
    let file = if raw.is_file() { raw } else { path.to_owned() };
    if !std::fs::symlink_metadata(&file)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    std::fs::File::open(&file)?.take(MAX_SIZE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("it is larger than 8 MiB"));
    }
    Ok(Some((format!("{stem}.toml"), text)))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_drop_ins_are_copied() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(from.path().join(name), bytes).unwrap();
        put("10-web.toml", b"a = 1");
        put("20-UPPER.TOML", b"b = 2");
        put("README.txt", b"no drop-in");
        put("._10-web.toml", b"a note of another system");
        put("sp ace.toml", b"");
        put("new\nline.toml", b"");
        put("huge.toml", &vec![b'#'; MAX_SIZE as usize + 1]);
        std::fs::create_dir_all(from.path().join("30-qemu.toml")).unwrap();
        put("30-qemu.toml/raw", b"c = 3");
        std::fs::create_dir_all(from.path().join("directory.toml")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.path().join("link.toml")).unwrap();
        copy(from.path(), to.path(), &Console::open_none()).unwrap();
        assert_eq!(names(to.path()), ["10-web.toml", "20-UPPER.toml", "30-qemu.toml"]);
        assert_eq!(std::fs::read(to.path().join("30-qemu.toml")).unwrap(), b"c = 3");
    }

    #[test]
    fn an_absent_medium_holds_nothing_and_a_full_directory_is_capped() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        copy(&from.path().join("absent"), to.path(), &Console::open_none()).unwrap();
        assert_eq!(names(to.path()), Vec::<String>::new());
        for number in 0..MAX_FILES + 10 {
            std::fs::write(from.path().join(format!("{number:04}.toml")), "").unwrap();
        }
        copy(from.path(), to.path(), &Console::open_none()).unwrap();
        assert_eq!(names(to.path()).len(), MAX_FILES);
    }

    #[test]
    fn media_count_until_something_was_kept_unless_the_operator_says_otherwise() {
        assert_eq!(choose("", false).0, TAKEN);
        assert_eq!(choose("", true).0, KEPT);
        assert_eq!(choose("first-boot", true).0, KEPT);
        assert_eq!(choose("always", true).0, TAKEN);
        assert_eq!(choose("never", false).0, KEPT);
        assert_eq!(choose("garbage", true).0, KEPT);
    }
}
