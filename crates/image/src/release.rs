//! `headgate-image release`: what is published of an image, in one directory: the disk compressed and as qcow2, the update
//! file, the bill of materials, all inputs, and the checksums of everything.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::build;
use crate::bundle;
use crate::packages::{LOCK, Packages, Store, Versions, checksum};
use crate::progress::{Progress, size};
use crate::source::Source;
use crate::tool::{cargo, epoch, run, tool};
use crate::tree::{stamp, walk};

/// The file with the checksums, as sha256sum(1) checks them.
pub const SUMS: &str = "SHA256SUMS";

/// What to publish.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory, which must not exist.
    pub output: PathBuf,
    /// The version.
    pub version: String,
    /// The secret key of the update file; without it there is none.
    pub key: Option<PathBuf>,
    /// Public keys of those whose updates the image takes.
    pub update_keys: Vec<PathBuf>,
    /// A directory with the programs, instead of compiling them.
    pub programs: Option<PathBuf>,
    /// A directory with kernel, BusyBox and GRUB, instead of Debian's packages. What they were built from is not among the inputs
    /// then: who has built them archives it.
    pub parts: Option<PathBuf>,
}

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Its path in the directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its checksum, hexadecimal.
    pub sha256: String,
}

/// Makes the directory, whole or not at all.
pub fn make(source: &Source, options: &Options, progress: &Progress) -> Result<Vec<Published>> {
    ensure!(!options.output.exists(), "{} exists: a release is never written over", options.output.display());
    let work = build::work_directory(&options.output)?;
    let name = format!("headgate-{}-{}", options.version, crate::tree::BOARD);
    let place = |extension: &str| work.path().join(format!("{name}.{extension}"));
    let image = place("img");
    let standard = build::Options::standard(source);
    let build = build::Options {
        output: image.clone(),
        version: options.version.clone(),
        programs: options.programs.clone(),
        parts: options.parts.clone(),
        update_keys: options.update_keys.clone(),
        versions: Versions::Locked,
        ..standard
    };
    build::build(source, &build, progress)?;
    std::fs::remove_file(place("img.inputs"))?;
    progress.step("virtual disk", || {
        let qcow2 = place("qcow2");
        virtual_disk(&image, &qcow2)?;
        Ok(((), size(std::fs::metadata(qcow2)?.len())))
    })?;
    if let Some(key) = &options.key {
        let update =
            bundle::Options { image: image.clone(), output: place("update"), key: key.clone(), minimum_version: None };
        bundle::make(&update, progress)?;
    }
    progress.step("compressed disk", || {
        run(tool("zstd").args(["-q", "-19", "-T0", "--rm"]).arg(&image))?;
        Ok(((), size(std::fs::metadata(place("img.zst"))?.len())))
    })?;
    progress.step("inputs", || {
        let packages = if options.parts.is_some() { None } else { Some(source.read_toml("image/packages.toml")?) };
        inputs(source, packages.as_ref(), &place("inputs.tar"))?;
        Ok(((), size(std::fs::metadata(place("inputs.tar"))?.len())))
    })?;
    let published = sums(work.path())?;
    // The files were made as temporary ones, which are their owner's alone; a web server is somebody else.
    for file in &published {
        std::fs::set_permissions(work.path().join(&file.path), std::fs::Permissions::from_mode(0o644))?;
    }
    std::fs::set_permissions(work.path(), std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(work.path(), &options.output)
        .with_context(|| format!("cannot write {}", options.output.display()))?;
    progress.line(&format!("{}: {} files", options.output.display(), published.len() + 1));
    Ok(published)
}

/// Makes the disk of a virtual machine, compressed, from a raw one.
pub fn virtual_disk(image: &Path, qcow2: &Path) -> Result<()> {
    run(tool("qemu-img").args(["convert", "-q", "-c", "-f", "raw", "-O", "qcow2"]).arg(image).arg(qcow2)).map(drop)
}

/// The package files, the crates and our own source in one tar: with it and the toolchain the release can be built again when
/// no mirror has its parts any more.
fn inputs(source: &Source, packages: Option<&Packages>, to: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(to.parent().context("it has a directory")?)?;
    let tree = work.path().join("inputs");
    std::fs::create_dir_all(tree.join("packages"))?;
    let mut store = Store::open(source, Versions::Locked)?;
    for name in packages.into_iter().flat_map(Packages::names) {
        store.unpacked(name)?;
    }
    for pin in store.taken().values() {
        std::fs::copy(store.file(pin), tree.join("packages").join(&pin.file))?;
    }
    let vendor = ["vendor", "--quiet", "--locked", "--versioned-dirs"];
    // What it prints is how cargo is told to take them from there.
    let configuration = run(cargo().args(vendor).arg(tree.join("crates")).current_dir(source.root()))?;
    let configuration = String::from_utf8(configuration)?.replace(&tree.display().to_string(), "..");
    std::fs::write(tree.join("cargo-config.toml"), configuration)?;
    let archive =
        run(tool("git").args(["archive", "--format=tar", "--prefix=source/", "HEAD"]).current_dir(source.root()))
            .context("the release is made of a commit: this is no git repository")?;
    std::fs::write(tree.join("source.tar"), archive)?;
    std::fs::copy(source.join(LOCK), tree.join("packages.lock"))?;
    stamp(&tree)?;
    let sorted = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
    run(tool("tar")
        .args(sorted)
        .arg(format!("--mtime=@{}", epoch()))
        .arg("-cf")
        .arg(to)
        .arg("-C")
        .arg(work.path())
        .arg("inputs"))?;
    Ok(())
}

/// Writes the checksums of all files below `directory` into it.
fn sums(directory: &Path) -> Result<Vec<Published>> {
    let mut published = Vec::new();
    for path in walk(directory)? {
        if path.is_file() {
            let name = path.strip_prefix(directory)?.display().to_string();
            published.push(Published { path: name, size: std::fs::metadata(&path)?.len(), sha256: checksum(&path)? });
        }
    }
    let lines: String = published.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
    std::fs::write(directory.join(SUMS), lines)?;
    Ok(published)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_those_that_sha256sum_finds() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.img"), "disk").unwrap();
        std::fs::write(directory.path().join("b c.json"), "{}").unwrap();
        assert_eq!(sums(directory.path()).unwrap().len(), 2);
        run(tool("sha256sum").args(["--check", "--strict", SUMS]).current_dir(directory.path())).unwrap();
        std::fs::write(directory.path().join("a.img"), "disc").unwrap();
        assert!(run(tool("sha256sum").args(["--check", SUMS]).current_dir(directory.path())).is_err());
    }

    #[test]
    fn a_release_is_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            output: directory.path().to_owned(),
            version: "1.0.0".to_owned(),
            key: None,
            update_keys: Vec::new(),
            programs: None,
            parts: None,
        };
        let refused = make(&Source::find().unwrap(), &options, &Progress::new()).unwrap_err().to_string();
        assert!(refused.contains("exists"), "{refused}");
    }
}
