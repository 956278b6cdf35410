//! Debian packages as a source of files: downloaded by apt, pinned, unpacked; nothing is installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::source::Source;
use crate::tool::{run, tool};

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
}

/// What was downloaded under a name: the pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The package that holds the files; not the asked one when that only depends on it.
    pub package: String,
    /// Debian's version.
    pub version: String,
    /// The file in the cache.
    pub file: String,
    /// Its checksum, hexadecimal.
    pub sha256: String,
}

/// The packages of an image in the cache.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    pins: BTreeMap<String, Pin>,
}

impl Store {
    /// Opens the cache of downloads; `refresh` forgets the pins, so that newer packages are looked for.
    pub fn open(source: &Source, refresh: Refresh) -> Result<Self> {
        let directory = source.cache();
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let pins = match (refresh, std::fs::read(directory.join("packages.json"))) {
            // A cache that cannot be read is an empty cache.
            (Refresh::Keep, Ok(text)) => serde_json::from_slice(&text).unwrap_or_default(),
            _ => BTreeMap::new(),
        };
        Ok(Self { directory, pins })
    }

    /// The pins, by the names that were asked for.
    pub fn pins(&self) -> &BTreeMap<String, Pin> {
        &self.pins
    }

    /// The unpacked files of a package, downloaded when the cache does not have it.
    pub fn unpacked(&mut self, name: &str) -> Result<PathBuf> {
        let pin = match self.pins.get(name) {
            Some(pin) if self.directory.join(&pin.file).is_file() => pin.clone(),
            _ => self.download(name)?,
        };
        let to = self.directory.join(format!("{}_{}", pin.package, pin.version));
        if !to.is_dir() {
            let deb = self.directory.join(&pin.file);
            ensure!(checksum(&deb)? == pin.sha256, "{} is damaged: delete it and build again", deb.display());
            // Complete or absent, whenever the build is cut off.
            let new = to.with_extension("unpacking");
            let _ = std::fs::remove_dir_all(&new);
            run(tool("dpkg-deb").arg("-x").arg(&deb).arg(&new))?;
            std::fs::rename(&new, &to)?;
        }
        Ok(to)
    }

    fn download(&mut self, name: &str) -> Result<Pin> {
        let package = resolve(name)?;
        let before = self.debs(&package)?;
        run(tool("apt-get").args(["download", "-q", &package]).current_dir(&self.directory))
            .with_context(|| format!("cannot download {package} (`apt-get update` as root may be needed)"))?;
        let after = self.debs(&package)?;
        // The newest: apt-get does not touch a file that it has already.
        let file = after.iter().find(|file| !before.contains(file)).or(after.last());
        let file = file.with_context(|| format!("apt-get download left no file of {package}"))?.clone();
        let deb = self.directory.join(&file);
        let version = run(tool("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?;
        let version = String::from_utf8(version)?.trim().to_owned();
        let pin = Pin { package, version, sha256: checksum(&deb)?, file };
        self.pins.insert(name.to_owned(), pin.clone());
        std::fs::write(self.directory.join("packages.json"), serde_json::to_vec_pretty(&self.pins)?)?;
        Ok(pin)
    }

    fn debs(&self, package: &str) -> Result<Vec<String>> {
        let prefix = format!("{package}_");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(".deb") {
                found.push(name);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Whether packages that the cache has are good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// What is pinned is used, without the network.
    Keep,
    /// apt is asked for the newest.
    Ask,
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
