//! The kernel package: its image, and the modules that an image gets with everything that they need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use headgate_init::modules::{Index, Module};
use serde::Deserialize;

use crate::source::Source;
use crate::tool::{run, tool};

/// Named lists of modules, as `image/modules.toml` has them for one file system.
pub type Sets = BTreeMap<String, Vec<String>>;

/// `image/modules.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleLists {
    /// For the initramfs.
    pub initramfs: Sets,
    /// For the running system.
    pub root: Sets,
}

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    release: String,
    image: PathBuf,
    /// `lib/modules/RELEASE` in the package.
    directory: PathBuf,
    /// Decompressed modules, kept over builds.
    cache: PathBuf,
    dependencies: BTreeMap<String, Dependency>,
    builtin: BTreeSet<String>,
    /// (pattern, module), in depmod's order.
    aliases: Vec<(String, String)>,
}

#[derive(Debug)]
struct Dependency {
    /// From `lib/modules/RELEASE`.
    path: String,
    /// What depmod lists, nearest first.
    needs: Vec<String>,
}

impl Kernel {
    /// Reads what the package in `unpacked` holds; depmod(8) runs there once.
    pub fn open(source: &Source, unpacked: &Path) -> Result<Self> {
        let modules = unpacked.join("lib/modules");
        let entry = std::fs::read_dir(&modules)
            .with_context(|| format!("{} is no kernel package", unpacked.display()))?
            .next()
            .with_context(|| format!("{} is empty", modules.display()))??;
        let release = entry.file_name().to_string_lossy().into_owned();
        let directory = entry.path();
        // depmod writes this file last of those that we read.
        if !directory.join("modules.builtin.alias.bin").is_file() {
            run(tool("depmod").arg("-b").arg(unpacked).arg(&release))?;
        }
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            image: unpacked.join(format!("boot/vmlinuz-{release}")),
            cache: source.cache().join(format!("modules-{release}")),
            dependencies: parse_dependencies(&read("modules.dep")?),
            builtin: read("modules.builtin")?.lines().map(module_name).collect(),
            aliases: parse_aliases(&read("modules.alias")?),
            release,
            directory,
        })
    }

    /// The compressed kernel image.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// As `uname -r` will say.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Puts the modules of `sets` below `tree` and returns their index. Names of modules that are built in are dropped; a
    /// name that the kernel does not know is an error.
    pub fn install(&self, sets: &Sets, tree: &Path) -> Result<Index> {
        let mut index = Index::default();
        for (set, names) in sets {
            let mut present = Vec::new();
            for name in names.iter().filter(|name| !self.builtin.contains(*name)) {
                self.add(&mut index, name)
                    .with_context(|| format!("image/modules.toml: kernel {} has no module {name}", self.release))?;
                present.push(name.clone());
            }
            index.sets.insert(set.clone(), present);
        }
        for (pattern, module) in &self.aliases {
            if index.modules.contains_key(module) {
                index.aliases.entry(module.clone()).or_default().push(pattern.clone());
            }
        }
        self.decompress(&index)?;
        for module in index.modules.values() {
            let inside = module.path.strip_prefix("/").unwrap_or(&module.path);
            let target = tree.join(inside);
            std::fs::create_dir_all(target.parent().context("a module's path has a directory")?)?;
            std::fs::copy(self.cache.join(target.file_name().context("a module has a name")?), &target)?;
        }
        Ok(index)
    }

    fn add(&self, index: &mut Index, name: &str) -> Result<()> {
        let mut needs = Vec::new();
        self.order(name, &mut needs)?;
        for needed in &needs {
            if !index.modules.contains_key(needed) && needed != name {
                self.add(index, needed)?;
            }
        }
        needs.retain(|needed| needed != name);
        let path = Path::new("/usr/lib/modules").join(&self.release).join(uncompressed(&self.dependencies[name].path));
        index.modules.insert(name.to_owned(), Module { path, needs });
        Ok(())
    }

    /// Appends what `name` needs and then `name`, each once, every module behind what it needs.
    fn order(&self, name: &str, order: &mut Vec<String>) -> Result<()> {
        if order.iter().any(|known| known == name) {
            return Ok(());
        }
        let Some(dependency) = self.dependencies.get(name) else { bail!("no module {name}") };
        for needed in &dependency.needs {
            self.order(needed, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }

    /// Makes sure that the cache has each module of the index uncompressed: the signature stays valid, squashfs compresses
    /// them again, and the appliance has nothing to decompress but that.
    fn decompress(&self, index: &Index) -> Result<()> {
        std::fs::create_dir_all(&self.cache)?;
        let mut fresh = Vec::new();
        for name in index.modules.keys() {
            let from = self.directory.join(&self.dependencies[name].path);
            let file = from.file_name().context("a module has a name")?.to_owned();
            let to = self.cache.join(&file);
            if self.cache.join(uncompressed(&file.to_string_lossy())).is_file() {
                continue;
            }
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            fresh.extend(to.extension().is_some_and(|extension| extension == "xz").then_some(to));
        }
        if fresh.is_empty() { Ok(()) } else { run(tool("xz").args(["-d", "-f"]).args(&fresh)).map(drop) }
    }
}

fn uncompressed(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path)
}

/// `kernel/net/8021q/8021q.ko.xz` is module `8021q`; `-` is written as `_`, as the kernel does.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn parse_dependencies(text: &str) -> BTreeMap<String, Dependency> {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        let needs = needs.split_whitespace().map(module_name).collect();
        Some((module_name(path), Dependency { path: path.to_owned(), needs }))
    };
    text.lines().filter_map(line).collect()
}

fn parse_aliases(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("alias ")?.split_whitespace();
        // A pattern with a space (some DMI strings) has one word more; no device of ours has that.
        let (pattern, module) = (words.next()?, words.next()?);
        words.next().is_none().then(|| (pattern.to_owned(), module.replace('-', "_")))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel package of five modules that call themselves compressed and are not: nothing here looks into them.
    fn kernel(directory: &Path) -> Kernel {
        let dependencies = parse_dependencies(
            "kernel/net/nft-ct.ko: kernel/net/nf_tables.ko kernel/net/nf_conntrack.ko kernel/lib/crc.ko\n\
             kernel/net/nf_tables.ko: kernel/lib/crc.ko\nkernel/net/nf_conntrack.ko: kernel/lib/crc.ko\n\
             kernel/lib/crc.ko:\nkernel/drivers/igb.ko:\n",
        );
        for dependency in dependencies.values() {
            let path = directory.join("modules").join(&dependency.path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &dependency.path).unwrap();
        }
        Kernel {
            release: "6.0".to_owned(),
            image: directory.join("vmlinuz"),
            directory: directory.join("modules"),
            cache: directory.join("cache"),
            dependencies,
            builtin: BTreeSet::from(["virtio_pci".to_owned()]),
            aliases: parse_aliases("alias nft-expr-1-ct nft_ct\nalias pci:v1* igb\nalias pci:v2* e1000\n"),
        }
    }

    #[test]
    fn modules_come_with_what_they_need_in_loading_order() {
        let directory = tempfile::tempdir().unwrap();
        let sets = Sets::from([("netfilter".to_owned(), vec!["nft_ct".to_owned(), "virtio_pci".to_owned()])]);
        let tree = directory.path().join("tree");
        let index = kernel(directory.path()).install(&sets, &tree).unwrap();
        assert_eq!(index.modules["nft_ct"].needs, ["crc", "nf_tables", "nf_conntrack"]);
        assert_eq!(index.sets["netfilter"], ["nft_ct"], "what is built in needs no loading");
        assert_eq!(index.modules.len(), 4, "and igb was not asked for");
        assert_eq!(index.aliases.keys().collect::<Vec<_>>(), ["nft_ct"]);
        assert!(tree.join("usr/lib/modules/6.0/kernel/net/nft-ct.ko").is_file());
    }

    #[test]
    fn a_module_that_does_not_exist_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let sets = Sets::from([("x".to_owned(), vec!["floppy".to_owned()])]);
        let error = kernel(directory.path()).install(&sets, directory.path()).unwrap_err().to_string();
        assert_eq!(error, "image/modules.toml: kernel 6.0 has no module floppy");
    }
}
