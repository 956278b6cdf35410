//! What a system is made of beside our own programs: Debian packages, or parts that another builder has made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::disk::Grub;
use crate::packages::{Packages, Store, checksum};
use crate::sbom::{self, Component};
use crate::tree::walk;

/// Kernel, BusyBox and GRUB, as files.
#[derive(Debug)]
pub struct Base {
    /// Holds `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`.
    pub kernel: PathBuf,
    /// BusyBox, static.
    pub busybox: PathBuf,
    /// The files of ssh, with their places in the root; none when ready parts have none.
    pub ssh: Vec<(PathBuf, PathBuf)>,
    /// GRUB's modules.
    pub grub: Grub,
    /// How the kernel gets at its root.
    pub start: Start,
    origin: Origin,
}

/// How the kernel gets at its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Its drivers are modules: an initramfs loads them.
    Initramfs,
    /// Its drivers are built in: it finds and verifies the root by itself.
    Verified {
        /// A directory with microcode for the processor.
        microcode: Option<PathBuf>,
    },
}

#[derive(Debug)]
enum Origin {
    /// The names of the packages with where they are unpacked.
    Packages(Vec<(String, PathBuf)>),
    Parts(PathBuf),
}

/// `components.toml` of ready parts: what they were built from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Components {
    component: Vec<Part>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    version: String,
    licenses: Vec<String>,
    /// Of the archive with its source.
    sha256: Option<String>,
}

impl Base {
    /// The packages of the quick image.
    pub fn packages(store: &mut Store, packages: &Packages) -> Result<Self> {
        let names = packages.names();
        let mut unpacked = Vec::new();
        for name in names {
            unpacked.push((name.to_owned(), store.unpacked(name)?));
        }
        let [kernel, busybox, bios, uefi] = [0, 1, 2, 3].map(|index| &unpacked[index].1);
        let ssh = ssh(&unpacked, packages)?;
        let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| busybox.join(path));
        Ok(Self {
            kernel: kernel.clone(),
            busybox: busybox
                .into_iter()
                .find(|path| path.is_file())
                .context("the package of BusyBox has no busybox")?,
            ssh,
            grub: Grub { bios: bios.join("usr/lib/grub/i386-pc"), uefi: uefi.join("usr/lib/grub/x86_64-efi") },
            start: Start::Initramfs,
            origin: Origin::Packages(unpacked),
        })
    }

    /// Parts in a directory: `kernel/boot/vmlinuz-RELEASE`, `kernel/lib/modules/RELEASE`, `busybox` (static), `grub/i386-pc` and
    /// `grub/x86_64-efi` (GRUB's modules), `components.toml`, `ssh/` with what of it goes into the root, and `microcode/`, where there is some.
    pub fn parts(directory: &Path) -> Result<Self> {
        let at = |path: &str| directory.join(path);
        for path in
            ["kernel/boot", "kernel/lib/modules", "busybox", "grub/i386-pc", "grub/x86_64-efi", "components.toml"]
        {
            ensure!(at(path).exists(), "{} has no {path}", directory.display());
        }
        Ok(Self {
            kernel: at("kernel"),
            busybox: at("busybox"),
            ssh: tree_of(&at("ssh"))?,
            grub: Grub { bios: at("grub/i386-pc"), uefi: at("grub/x86_64-efi") },
            start: Start::Verified { microcode: Some(at("microcode")).filter(|path| path.is_dir()) },
            origin: Origin::Parts(directory.to_owned()),
        })
    }

    /// What it was built from, for the bill of materials.
    pub fn components(&self, store: &Store) -> Result<Vec<Component>> {
        match &self.origin {
            Origin::Packages(unpacked) => {
                unpacked.iter().map(|(name, path)| sbom::package(store, name, path)).collect()
            }
            Origin::Parts(directory) => {
                let path = directory.join("components.toml");
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let read: Components =
                    toml::from_str(&text).with_context(|| format!("{} is not as it should be", path.display()))?;
                Ok(read.component.into_iter().map(Component::from).collect())
            }
        }
    }

    /// What changes when any of it does.
    pub fn identity(&self, store: &Store) -> Result<Vec<u8>> {
        match &self.origin {
            Origin::Packages(_) => Ok(serde_json::to_vec(store.taken())?),
            Origin::Parts(directory) => {
                let mut sums = Vec::new();
                for path in walk(directory)?.into_iter().filter(|path| path.is_file()) {
                    sums.push((path.strip_prefix(directory)?.to_owned(), checksum(&path)?));
                }
                Ok(serde_json::to_vec(&sums)?)
            }
        }
    }
}

/// The files of ssh in unpacked packages. A library lies in `usr/lib`, where the loader looks without a cache (ld.so(8)).
fn ssh(unpacked: &[(String, PathBuf)], packages: &Packages) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut files = Vec::new();
    for (name, paths) in &packages.ssh {
        let (_, directory) = unpacked.iter().find(|(known, _)| known == name).context("each package is unpacked")?;
        for path in paths.iter().map(Path::new) {
            let from = directory.join(path);
            ensure!(from.is_file(), "the package {name} has no {}", path.display());
            let file = path.file_name().context("a path ends in a name")?;
            let to = if path.starts_with("usr/sbin") { path.to_owned() } else { Path::new("usr/lib").join(file) };
            files.push((from, to));
        }
    }
    Ok(files)
}

/// The files below a directory that need not be there, with their places in it.
fn tree_of(directory: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let files = walk(directory)?.into_iter().filter(|path| path.is_file());
    files.map(|path| Ok((path.clone(), path.strip_prefix(directory)?.to_owned()))).collect()
}

impl From<Part> for Component {
    fn from(Part { name, version, licenses, sha256 }: Part) -> Self {
        let purl = format!("pkg:generic/{}@{}", sbom::escape(&name), sbom::escape(&version));
        Self { name, version, purl, sha256, licenses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["kernel/boot", "kernel/lib/modules", "grub/i386-pc", "grub/x86_64-efi"] {
            std::fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        let said = || Base::parts(directory.path()).map(drop).unwrap_err().to_string();
        assert!(said().ends_with("has no busybox"), "{}", said());
        std::fs::write(directory.path().join("busybox"), "").unwrap();
        assert!(said().ends_with("has no components.toml"), "{}", said());
        std::fs::write(directory.path().join("components.toml"), "").unwrap();
        assert_eq!(Base::parts(directory.path()).unwrap().start, Start::Verified { microcode: None });
        std::fs::create_dir(directory.path().join("microcode")).unwrap();
        let microcode = Some(directory.path().join("microcode"));
        assert_eq!(Base::parts(directory.path()).unwrap().start, Start::Verified { microcode });
    }
}
