//! Debian packages as a source of files: downloaded by apt, pinned, unpacked; nothing is installed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::source::Source;
use crate::tool::{run, tool};
use crate::tree::walk;

/// The lock, in the source tree.
pub const LOCK: &str = "image/packages.lock";
/// In the cache: what was taken instead of what the lock wants.
const STRAYED: &str = "strayed.json";

/// `image/packages.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Packages {
    /// The kernel.
    pub kernel: String,
    /// BusyBox, static.
    pub busybox: String,
    /// GRUB's modules for BIOS.
    pub grub_bios: String,
    /// GRUB's modules for UEFI.
    pub grub_uefi: String,
    /// BusyBox applets that the image has as commands.
    pub applets: Vec<String>,
    /// GRUB modules of both images.
    pub grub_modules: Vec<String>,
    /// Those only of the BIOS image.
    pub grub_modules_bios: Vec<String>,
    /// Those only of the UEFI image.
    pub grub_modules_uefi: Vec<String>,
    /// ssh and its libraries: files by package.
    pub ssh: BTreeMap<String, Vec<String>>,
}

impl Packages {
    /// The names of all packages.
    pub fn names(&self) -> Vec<&str> {
        let base = [&self.kernel, &self.busybox, &self.grub_bios, &self.grub_uefi];
        base.into_iter().chain(self.ssh.keys()).map(String::as_str).collect()
    }
}

/// A package file that an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The package that holds the files; not the asked one when that only depends on it.
    pub package: String,
    /// Debian's version.
    pub version: String,
    /// The name of the file.
    pub file: String,
    /// Its checksum, hexadecimal.
    pub sha256: String,
}

/// Pins by the names that `image/packages.toml` asks for.
pub type Pins = BTreeMap<String, Pin>;

/// Which package files an image may be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// Those of the lock; where the mirror has one no longer, the one that it has, and the builder says so.
    #[default]
    Offered,
    /// Those of the lock and no others: a release.
    Locked,
    /// The newest that the mirror has, to be written into the lock.
    Newest,
}

/// A package that the mirror no longer has as the lock wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strayed {
    /// What the lock wants.
    pub locked: Pin,
    /// What is taken.
    pub taken: Pin,
}

/// The packages of an image: the lock, and the files in the cache.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    versions: Versions,
    locked: Pins,
    taken: Pins,
    strayed: BTreeMap<String, Strayed>,
}

impl Store {
    /// Opens the lock of a source tree and its cache of downloads.
    pub fn open(source: &Source, versions: Versions) -> Result<Self> {
        let path = source.join(LOCK);
        let locked = match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{LOCK} is not as `make lock` writes it"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Pins::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Self::at(source.cache(), versions, locked)
    }

    fn at(directory: PathBuf, versions: Versions, locked: Pins) -> Result<Self> {
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let strayed = std::fs::read(directory.join(STRAYED)).ok();
        // A note that cannot be read is no note: the mirror is asked again.
        let strayed = strayed.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Ok(Self { directory, versions, locked, taken: Pins::new(), strayed })
    }

    /// The files that were asked for.
    pub fn taken(&self) -> &Pins {
        &self.taken
    }

    /// Those of them that are not as the lock wants them.
    pub fn strayed(&self) -> impl Iterator<Item = &Strayed> {
        self.strayed.iter().filter(|(name, stray)| self.taken.get(*name) == Some(&stray.taken)).map(|(_, stray)| stray)
    }

    /// Where the file of a pin lies.
    pub fn file(&self, pin: &Pin) -> PathBuf {
        self.directory.join(&pin.file)
    }

    /// The unpacked files of a package, downloaded when the cache does not have it.
    pub fn unpacked(&mut self, name: &str) -> Result<PathBuf> {
        let pin = self.take(name)?;
        self.taken.insert(name.to_owned(), pin.clone());
        let to = self.directory.join(format!("{}_{}", pin.package, pin.version));
        if !to.is_dir() {
            let deb = self.file(&pin);
            ensure!(checksum(&deb)? == pin.sha256, "{} is damaged: delete it and build again", deb.display());
            // Complete or absent, whenever the build is cut off.
            let new = to.with_extension("unpacking");
            let _ = std::fs::remove_dir_all(&new);
            run(tool("dpkg-deb").arg("-x").arg(&deb).arg(&new))?;
            std::fs::rename(&new, &to)?;
        }
        Ok(to)
    }

    /// The file for a name, in the cache.
    fn take(&mut self, name: &str) -> Result<Pin> {
        let locked = match (self.versions, self.locked.get(name)) {
            (Versions::Newest, _) => return self.download(&resolve(name)?, None),
            (Versions::Locked, None) => bail!("{LOCK} has no {name}: `make lock` writes it"),
            (Versions::Offered, None) => return self.download(&resolve(name)?, None),
            (_, Some(locked)) => locked.clone(),
        };
        if self.file(&locked).is_file() {
            return Ok(locked);
        }
        let noted = self.strayed.get(name).filter(|stray| stray.locked == locked && self.file(&stray.taken).is_file());
        if let (Versions::Offered, Some(stray)) = (self.versions, noted) {
            return Ok(stray.taken.clone());
        }
        let gone = match self.download(&locked.package, Some(&locked.version)) {
            Ok(pin) if pin.sha256 == locked.sha256 => return Ok(pin),
            Ok(pin) => {
                let _ = std::fs::remove_file(self.file(&pin));
                bail!(
                    "the mirror's {} is not the file of {LOCK}: its SHA-256 is {}, not {}",
                    pin.file,
                    pin.sha256,
                    locked.sha256
                );
            }
            Err(error) => error,
        };
        let package = resolve(name)?;
        if self.versions == Versions::Locked {
            let offered = offered(&package)?;
            return Err(gone.context(format!(
                "{LOCK} wants {} {}, the mirror has {package} {offered}: `make lock` takes that",
                locked.package, locked.version
            )));
        }
        let taken = self.download(&package, None)?;
        self.strayed.insert(name.to_owned(), Strayed { locked, taken: taken.clone() });
        std::fs::write(self.directory.join(STRAYED), serde_json::to_vec_pretty(&self.strayed)?)?;
        Ok(taken)
    }

    fn download(&self, package: &str, version: Option<&str>) -> Result<Pin> {
        // By itself in a directory: whatever lies in the cache, this is the file.
        let new = tempfile::Builder::new().prefix(".download-").tempdir_in(&self.directory)?;
        let asked = version.map_or_else(|| package.to_owned(), |version| format!("{package}={version}"));
        run(tool("apt-get").args(["download", "-q", &asked]).current_dir(new.path()))
            .with_context(|| format!("cannot download {asked} (`apt-get update` as root may be needed)"))?;
        let deb = walk(new.path())?.into_iter().next().with_context(|| format!("apt-get left no file of {asked}"))?;
        let version = run(tool("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?;
        let version = String::from_utf8(version)?.trim().to_owned();
        let file = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pin = Pin { package: package.to_owned(), version, sha256: checksum(&deb)?, file };
        std::fs::rename(&deb, self.file(&pin))?;
        Ok(pin)
    }
}

/// `headgate-image lock`: writes the newest files of the mirror into the lock; what has changed, in words.
pub fn lock(source: &Source) -> Result<Vec<String>> {
    let packages: Packages = source.read_toml("image/packages.toml")?;
    let mut store = Store::open(source, Versions::Newest)?;
    for name in packages.names() {
        store.unpacked(name)?;
    }
    let mut changes = Vec::new();
    for (name, pin) in &store.taken {
        match store.locked.get(name) {
            Some(old) if old == pin => {}
            Some(old) => {
                changes.push(format!("{name}: {} {} -> {} {}", old.package, old.version, pin.package, pin.version))
            }
            None => changes.push(format!("{name}: {} {}", pin.package, pin.version)),
        }
    }
    let head =
        "# The package files that images are made of, by the names of packages.toml. Written by `make lock`.\n\n";
    std::fs::write(source.join(LOCK), format!("{head}{}", toml::to_string(&store.taken)?))?;
    Ok(changes)
}

/// The version of a package that the mirror has.
fn offered(package: &str) -> Result<String> {
    let policy = run(tool("apt-cache").args(["policy", package]))?;
    let policy = String::from_utf8_lossy(&policy).into_owned();
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(candidate
        .with_context(|| format!("apt does not know {package} (`apt-get update` as root may be needed)"))?
        .to_owned())
}

/// `linux-image-6.12-amd64` holds nothing and depends on the package of the newest build.
fn resolve(name: &str) -> Result<String> {
    if !name.starts_with("linux-image-") {
        return Ok(name.to_owned());
    }
    let output = run(tool("apt-cache").args(["depends", "--important", name]))
        .with_context(|| format!("apt does not know {name} (`apt-get update` as root may be needed)"))?;
    let output = String::from_utf8_lossy(&output);
    let mut depends = output.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    match depends.find(|package| package.starts_with("linux-image-")) {
        Some(package) => Ok(package.to_owned()),
        None if output.contains("Depends:") => Ok(name.to_owned()),
        None => bail!("apt does not know what {name} depends on"),
    }
}

/// SHA-256 of a file, hexadecimal.
pub fn checksum(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&hash.finalize()))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "busybox-static";

    fn pin(version: &str, file: &str) -> Pins {
        let pin = Pin {
            package: NAME.to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            sha256: "0".repeat(64),
        };
        Pins::from([(NAME.to_owned(), pin)])
    }

    #[test]
    fn what_the_mirror_no_longer_has_is_named_and_replaced_only_where_that_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let store = |versions| Store::at(directory.path().to_owned(), versions, pin("0.0.1", "gone.deb")).unwrap();
        let refused = format!("{:#}", store(Versions::Locked).unpacked(NAME).unwrap_err());
        assert!(refused.contains("wants busybox-static 0.0.1, the mirror has busybox-static 1:"), "{refused}");

        let mut offered = store(Versions::Offered);
        let unpacked = offered.unpacked(NAME).unwrap();
        assert!(unpacked.join("bin/busybox").is_file() || unpacked.join("usr/bin/busybox").is_file());
        let strayed: Vec<_> = offered.strayed().cloned().collect();
        assert_eq!((strayed.len(), strayed[0].locked.version.as_str()), (1, "0.0.1"));

        // The second time nobody is asked.
        let mut again = store(Versions::Offered);
        assert_eq!(again.take(NAME).unwrap(), strayed[0].taken);
        again.unpacked(NAME).unwrap();
        assert_eq!(again.strayed().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_the_one_of_the_lock_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let version = offered(NAME).unwrap();
        let mut store = Store::at(directory.path().to_owned(), Versions::Offered, pin(&version, "other.deb")).unwrap();
        let refused = store.unpacked(NAME).unwrap_err().to_string();
        assert!(refused.contains("is not the file of image/packages.lock"), "{refused}");
        assert!(walk(directory.path()).unwrap().is_empty());
    }

    #[test]
    fn a_release_needs_a_lock_and_a_damaged_file_is_not_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::at(directory.path().to_owned(), Versions::Locked, Pins::new()).unwrap();
        assert!(store.unpacked(NAME).unwrap_err().to_string().contains("`make lock` writes it"));
        std::fs::write(directory.path().join("here.deb"), "no package").unwrap();
        let mut store = Store::at(directory.path().to_owned(), Versions::Locked, pin("1", "here.deb")).unwrap();
        assert!(store.unpacked(NAME).unwrap_err().to_string().contains("is damaged"));
    }
}
