//! `headgate-image flash`: an image onto a disk, and never onto the wrong one: see [`headgate_update::target`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use headgate_update::bundle::digest;
use indicatif::{ProgressBar, ProgressStyle};

/// Written and read at once, bytes.
const PIECE: usize = 1 << 20;

/// Bytes of an image: a file, or a whole disk, whose metadata say 0 (stat(2) knows the size of files only).
pub fn size(image: &Path) -> Result<u64> {
    let opened = || {
        let mut file = File::open(image)?;
        match file.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => file.seek(io::SeekFrom::End(0)),
        }
    };
    opened().with_context(|| format!("cannot open {}", image.display()))
}

/// Writes the image, and reads it back from the medium.
pub fn write(image: &Path, device: &Path) -> Result<()> {
    let mut from = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let total = from.seek(io::SeekFrom::End(0))?;
    from.rewind()?;
    // Of a block device O_EXCL refuses what is mounted or held, whatever happened since we looked (open(2)).
    let to = OpenOptions::new().write(true).custom_flags(nix::libc::O_EXCL | nix::libc::O_CLOEXEC).open(device);
    let mut to = match to {
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => bail!("{} is in use", device.display()),
        to => to.with_context(|| format!("cannot write to {}", device.display()))?,
    };
    let bar = bar("writing", total);
    copy(&mut from, &mut to, &bar).with_context(|| format!("cannot write to {}", device.display()))?;
    to.sync_all().with_context(|| format!("cannot write to {}", device.display()))?;
    drop(to);
    bar.finish_and_clear();
    verify(image, device, total)
}

fn copy(from: &mut File, to: &mut File, bar: &ProgressBar) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length])?;
        // Else the bar is full while gigabytes are still on their way to a slow stick.
        to.sync_data()?;
        bar.inc(length as u64);
    }
}

fn verify(image: &Path, device: &Path, total: u64) -> Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let medium = File::open(device).with_context(|| format!("cannot read {}", device.display()))?;
    // What the page cache remembers proves nothing.
    posix_fadvise(&medium, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let bar = bar("reading back", total);
    let (wanted, _) = digest(File::open(image)?)?;
    let (found, read) = digest(bar.wrap_read(medium.take(total)))?;
    bar.finish_and_clear();
    ensure!(
        read == total && found == wanted,
        "{} does not give back what was written: the medium is bad, or not as large as it says",
        device.display()
    );
    Ok(())
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    match ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let (image, disk) = (directory.path().join("image"), directory.path().join("disk"));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| ((number * 31) >> 7) as u8).collect();
        std::fs::write(&image, &bytes).unwrap();
        std::fs::write(&disk, vec![0xff; 4_000_000]).unwrap();
        assert_eq!(size(&image).unwrap(), bytes.len() as u64);
        assert!(size(directory.path()).is_err() && size(&directory.path().join("gone")).is_err());
        write(&image, &disk).unwrap();
        let written = std::fs::read(&disk).unwrap();
        assert_eq!(&written[..bytes.len()], bytes);
        assert!(written[bytes.len()..].iter().all(|&byte| byte == 0xff), "what lies behind the image is left alone");
        // A medium that lies about what it holds.
        let error = verify(&image, Path::new("/dev/zero"), bytes.len() as u64).unwrap_err().to_string();
        assert!(error.contains("does not give back"), "{error}");
        let full = write(&image, Path::new("/dev/full")).unwrap_err();
        assert!(format!("{full:#}").contains("No space left"), "{full:#}");
        assert!(write(&image, &directory.path().join("gone/disk")).is_err());
    }
}
