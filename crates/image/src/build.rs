//! `headgate-image build`: the steps in their order, and whether they are needed at all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use headgate_update::keys::Keys;
use semver::Version;
use sha2::{Digest, Sha256};

use crate::base::{Base, Start};
use crate::disk;
use crate::kernel::{Kernel, ModuleLists};
use crate::layout::{Content, Layout};
use crate::packages::{LOCK, Packages, Store, Versions, hex};
use crate::progress::{Progress, size};
use crate::source::Source;
use crate::tree::{self, Ingredients, walk};
use crate::{binaries, sbom, slot, tool};

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the image goes.
    pub output: PathBuf,
    /// Its version.
    pub version: String,
    /// A directory with drop-ins to bake in as vendor defaults.
    pub config: Option<PathBuf>,
    /// A directory with the programs, instead of compiling them.
    pub programs: Option<PathBuf>,
    /// A directory with kernel, BusyBox and GRUB ([`Base::parts`]), instead of Debian's packages.
    pub parts: Option<PathBuf>,
    /// Public keys of those whose updates the image takes; without one it takes none.
    pub update_keys: Vec<PathBuf>,
    /// Which package files it may be made of.
    pub versions: Versions,
}

impl Options {
    /// The image as `make image` builds it.
    pub fn standard(source: &Source) -> Self {
        Self {
            output: source.join("build/headgate.img"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: None,
            programs: None,
            parts: None,
            update_keys: Vec::new(),
            versions: Versions::Offered,
        }
    }
}

/// Builds the image, or finds that it is what it would be.
pub fn build(source: &Source, options: &Options, progress: &Progress) -> Result<()> {
    let layout: Layout = source.read_toml("image/layout.toml")?;
    layout.check()?;
    let packages: Packages = source.read_toml("image/packages.toml")?;
    let modules: ModuleLists = source.read_toml("image/modules.toml")?;
    let drop_ins = options.config.as_deref().map(drop_ins).transpose()?.unwrap_or_default();
    let version: Version = options.version.parse().with_context(|| format!("{:?} is no version", options.version))?;
    check_keys(&options.update_keys)?;

    let programs = match &options.programs {
        Some(directory) => directory.clone(),
        None => progress
            .step("static programs", || Ok((binaries::compile(source, &binaries::PACKAGES)?, "compiled".to_owned())))?,
    };
    binaries::check(&programs)?;
    let mut store = Store::open(source, options.versions)?;
    let base = progress.step("parts", || base(options, &mut store, &packages))?;
    for stray in store.strayed() {
        let (locked, taken) = (&stray.locked, &stray.taken);
        progress.line(&format!(
            "WARNING: the mirror no longer has {} {}, which {LOCK} wants: {} {} is taken (`make lock` accepts it)",
            locked.package, locked.version, taken.package, taken.version
        ));
    }

    let inputs = inputs(source, options, &base.identity(&store)?, &programs, &drop_ins)?;
    let notes = options.output.with_extension("img.inputs");
    if options.output.is_file() && std::fs::read_to_string(&notes).is_ok_and(|noted| noted == inputs) {
        progress.line(&format!("{} is up to date", options.output.display()));
        return Ok(());
    }

    let work = work_directory(&options.output)?;
    let kernel = progress.step("kernel", || {
        let kernel = Kernel::open(source, &base.kernel)?;
        let release = kernel.release().to_owned();
        Ok((kernel, release))
    })?;
    let materials = progress.step("bill of materials", || {
        let components = sbom::components(source, base.components(&store)?)?;
        let counted = format!("{} components", components.len());
        Ok((sbom::document(&options.version, &components)?, counted))
    })?;
    let (env, env_offset) = disk::env(&layout, work.path())?;
    let data = disk::data(&layout, work.path())?;
    let parts = Ingredients {
        source,
        kernel: &kernel,
        modules: &modules,
        busybox: &base.busybox,
        ssh: &base.ssh,
        applets: &packages.applets,
        programs,
        drop_ins: &drop_ins,
        version: &version,
        env_offset,
        update_keys: &options.update_keys,
        materials: &materials,
        data: &data,
    };
    let slot = slot(&parts, &base.start, &layout, work.path(), progress)?;
    progress.step("disk", || {
        let contents = [
            (Content::BiosGrub, disk::core(&packages, &base.grub, work.path())?),
            (Content::Esp, disk::esp(source, &layout, &packages, &base.grub, work.path())?),
            (Content::Env, env),
            (Content::Slot, slot),
            (Content::Data, data.clone()),
        ];
        let image = work.path().join("disk");
        disk::assemble(&image, &layout, &base.grub, &contents)?;
        let _ = std::fs::remove_file(&notes);
        std::fs::rename(&image, &options.output)
            .with_context(|| format!("cannot write {}", options.output.display()))?;
        std::fs::write(options.output.with_extension("cdx.json"), &materials)?;
        std::fs::write(&notes, &inputs)?;
        Ok(((), format!("{}, {}", options.output.display(), size(layout.disk_size()))))
    })
}

/// The bytes of a slot, as its kernel wants them.
fn slot(parts: &Ingredients<'_>, start: &Start, layout: &Layout, work: &Path, progress: &Progress) -> Result<PathBuf> {
    let kernel = parts.kernel;
    match start {
        Start::Initramfs => {
            let initrd = progress.step("initramfs", || sized(tree::initramfs(parts, work)?))?;
            progress.step("slot", || sized(slot::with_initramfs(&tree::root(parts, work)?, kernel, &initrd, work)?))
        }
        Start::Verified { microcode } => progress.step("slot", || {
            sized(slot::verified(&tree::root(parts, work)?, kernel, microcode.as_deref(), layout, work)?)
        }),
    }
}

/// Kernel, BusyBox and GRUB, and how they are called.
fn base(options: &Options, store: &mut Store, packages: &Packages) -> Result<(Base, String)> {
    if let Some(directory) = &options.parts {
        return Ok((Base::parts(directory)?, directory.display().to_string()));
    }
    let base = Base::packages(store, packages)?;
    let shown: Vec<String> = store.taken().values().map(|pin| format!("{} {}", pin.package, pin.version)).collect();
    Ok((base, shown.join(", ")))
}

/// Beside the image: a rename then publishes it whole.
pub fn work_directory(output: &Path) -> Result<tempfile::TempDir> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::Builder::new().prefix(".headgate-image-").tempdir_in(parent);
    work.with_context(|| format!("cannot write to {}", parent.display()))
}

fn sized(path: PathBuf) -> Result<(PathBuf, String)> {
    let bytes = std::fs::metadata(&path)?.len();
    Ok((path, size(bytes)))
}

/// Keys that could not be read on the box must not get there.
fn check_keys(paths: &[PathBuf]) -> Result<()> {
    let mut keys = Keys::default();
    for path in paths {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        ensure!(path.extension().is_some_and(|extension| extension == "pub"), "{} is no NAME.pub", path.display());
        ensure!(!keys.names().contains(&name.to_string()), "two update keys are named {name}");
        keys.add(&name, &text, path)?;
    }
    Ok(())
}

/// The drop-ins in a directory, by name.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            ensure!(path.is_file(), "{} is no file", path.display());
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "{} has no drop-ins (*.toml)", directory.display());
    found.sort_unstable();
    Ok(found)
}

/// One line that changes when any input of the image does.
fn inputs(source: &Source, options: &Options, base: &[u8], programs: &Path, drop_ins: &[PathBuf]) -> Result<String> {
    let mut files = Vec::new();
    // The builder itself is an input, too: as source, because a debug and a release build of it make the same image.
    for directory in
        ["image", "rootfs-overlay", "hwprofiles", "crates/image/src", "crates/init/src", "crates/update/src"]
    {
        files.extend(walk(&source.join(directory))?);
    }
    files.extend(binaries::PROGRAMS.map(|(program, _)| programs.join(program)));
    files.extend_from_slice(drop_ins);
    files.extend_from_slice(&options.update_keys);
    let mut hash = Sha256::new();
    hash.update(format!("{} {}\n", options.version, tool::epoch()));
    for file in files {
        hash.update(format!("{}\n", file.strip_prefix(source.root()).unwrap_or(&file).display()));
        if file.is_file() {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    hash.update(base);
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_a_box_could_not_read_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let [secret, public] = crate::bundle::make_key(&directory.path().join("release")).unwrap();
        check_keys(std::slice::from_ref(&public)).unwrap();
        assert!(check_keys(&[public.clone(), public]).unwrap_err().to_string().contains("two update keys"));
        assert!(check_keys(&[secret]).unwrap_err().to_string().contains("is no NAME.pub"));
        let junk = directory.path().join("junk.pub");
        std::fs::write(&junk, "nonsense").unwrap();
        assert!(check_keys(&[junk]).is_err());
    }

    #[test]
    fn a_directory_without_drop_ins_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(drop_ins(directory.path()).unwrap_err().to_string().contains("has no drop-ins"));
        assert!(drop_ins(&directory.path().join("gone")).is_err());
        std::fs::write(directory.path().join("10-a.toml"), "").unwrap();
        std::fs::write(directory.path().join("notes.txt"), "").unwrap();
        assert_eq!(drop_ins(directory.path()).unwrap(), [directory.path().join("10-a.toml")]);
    }
}
