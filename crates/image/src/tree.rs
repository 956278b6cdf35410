//! The initramfs and the root file system, as trees of files.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use headgate_init::modules::{INDEX, Index};
use headgate_update::{install as update, keys, reset};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use semver::Version;

use crate::binaries::PROGRAMS;
use crate::kernel::{Kernel, ModuleLists};
use crate::sbom;
use crate::source::Source;
use crate::tool::{epoch, run_with_input, tool};

/// The kind of machine that an image is for; an update for another kind is refused.
pub const BOARD: &str = "x86_64";

/// Everything that a slot is made of.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// The source tree.
    pub source: &'a Source,
    /// The kernel package.
    pub kernel: &'a Kernel,
    /// Which modules go where.
    pub modules: &'a ModuleLists,
    /// BusyBox, static.
    pub busybox: &'a Path,
    /// The files of ssh, with their places.
    pub ssh: &'a [(PathBuf, PathBuf)],
    /// BusyBox applets that become commands.
    pub applets: &'a [String],
    /// The directory with our programs.
    pub programs: PathBuf,
    /// Drop-ins to bake in.
    pub drop_ins: &'a [PathBuf],
    /// The version of the image.
    pub version: &'a Version,
    /// Where `headgate-init` finds GRUB's environment block in its partition, bytes.
    pub env_offset: u64,
    /// Public keys of those whose updates the image takes.
    pub update_keys: &'a [PathBuf],
    /// The bill of materials.
    pub materials: &'a [u8],
    /// The data partition as a box gets it, for a factory reset.
    pub data: &'a Path,
}

/// Packs the initramfs into a file below `work`.
pub fn initramfs(parts: &Ingredients<'_>, work: &Path) -> Result<PathBuf> {
    let tree = work.join("initramfs");
    directories(&tree, &["dev", "proc", "sys", "new", "usr/sbin"])?;
    symlink("usr/sbin", tree.join("sbin"))?;
    install(&parts.programs.join("headgate-init"), &tree.join("init"))?;
    symlink("/init", tree.join("usr/sbin/modprobe"))?;
    let index = parts.kernel.install(&parts.modules.initramfs, &tree)?;
    write_index(&index, &tree)?;
    let archive = archive(&tree)?;
    let packed = work.join("initrd");
    std::fs::write(&packed, run_with_input(tool("zstd").args(["-q", "-19", "-T1", "-c"]), &archive)?)?;
    Ok(packed)
}

/// The files of `tree` as the kernel unpacks them at its start (`Documentation/driver-api/early-userspace/buffer-format.rst`).
pub fn archive(tree: &Path) -> Result<Vec<u8>> {
    stamp(tree)?;
    let mut list = Vec::new();
    for path in walk(tree)? {
        list.extend_from_slice(path.strip_prefix(tree)?.as_os_str().as_bytes());
        list.push(0);
    }
    let cpio = ["--null", "--quiet", "-o", "-H", "newc", "--reproducible", "-R", "0:0"];
    run_with_input(tool("cpio").args(cpio).current_dir(tree), &list)
}

/// Lays out the root file system below `work`.
pub fn root(parts: &Ingredients<'_>, work: &Path) -> Result<PathBuf> {
    let tree = work.join("root");
    skeleton(parts, &tree)?;
    for (program, directory) in PROGRAMS {
        install(&parts.programs.join(program), &tree.join(directory).join(program))?;
    }
    symlink("headgate-init", tree.join("usr/sbin/modprobe"))?;
    install(parts.busybox, &tree.join("usr/bin/busybox"))?;
    for (from, to) in parts.ssh {
        install(from, &tree.join(to))?;
    }
    for applet in parts.applets {
        // `umount` is a command of everybody, the others of the administrator: BusyBox' own places. Relative links, so that
        // they also lead there before the slot is the root.
        match applet.as_str() {
            "umount" => symlink("busybox", tree.join("usr/bin/umount"))?,
            _ => symlink("../bin/busybox", tree.join("usr/sbin").join(applet))?,
        }
    }
    copy_tree(&parts.source.join("rootfs-overlay"), &tree)?;
    copy_tree(&parts.source.join("hwprofiles"), &tree.join("usr/lib/headgate/hwprofiles"))?;
    for path in parts.drop_ins {
        let name = path.file_name().context("a drop-in has a name")?;
        copy(path, &tree.join("usr/lib/headgate/conf.d").join(name), 0o644)?;
    }
    for path in parts.update_keys {
        let name = path.file_name().context("a key has a name")?;
        copy(path, &tree.join(keys::DIRECTORY.trim_start_matches('/')).join(name), 0o644)?;
    }
    let index = parts.kernel.install(&parts.modules.root, &tree)?;
    write_index(&index, &tree)?;
    Ok(tree)
}

/// Directories, links and what the builder writes itself.
fn skeleton(parts: &Ingredients<'_>, tree: &Path) -> Result<()> {
    let empty = ["boot", "data", "dev", "proc", "run", "sys", "tmp", "etc/headgate", "var/lib/headgate", "var/log"];
    directories(tree, &empty)?;
    directories(tree, &["usr/bin", "usr/sbin", "usr/lib/headgate/conf.d", "usr/lib/headgate/hwprofiles"])?;
    directories(tree, &[keys::DIRECTORY.trim_start_matches('/')])?;
    for directory in ["bin", "sbin", "lib"] {
        symlink(format!("usr/{directory}"), tree.join(directory))?;
    }
    // Where a program looks for its loader, which is a library like any other.
    symlink("usr/lib", tree.join("lib64"))?;
    // The root is read-only: what changes lies in memory.
    symlink("/run/headgate/resolv.conf", tree.join("etc/resolv.conf"))?;
    let Ingredients { version, env_offset, .. } = parts;
    std::fs::write(
        tree.join("etc/os-release"),
        format!("ID=headgate\nNAME=Headgate\nPRETTY_NAME=\"Headgate {version}\"\nVERSION_ID={version}\n"),
    )?;
    let (version_is, board, offset) = (update::VERSION, update::BOARD, update::ENV_OFFSET);
    let notes = format!("{version_is}={version}\n{board}={BOARD}\n{offset}={env_offset}\n");
    std::fs::write(tree.join(update::IMAGE), notes)?;
    std::fs::write(tree.join(sbom::PLACE), parts.materials)?;
    copy(parts.data, &tree.join(reset::TEMPLATE), 0o644)?;
    Ok(())
}

/// Writes the index of modules where `headgate-init` looks for it.
pub fn write_index(index: &Index, tree: &Path) -> Result<()> {
    let path = tree.join(INDEX.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().context("the index has a directory")?)?;
    Ok(std::fs::write(path, index.to_string())?)
}

/// Makes directories in `tree`.
pub fn directories(tree: &Path, paths: &[&str]) -> Result<()> {
    for path in paths {
        let path = tree.join(path);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(())
}

/// Copies a program.
pub fn install(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, 0o755)
}

/// Copies a file and sets its mode: what the builder's umask or checkout made of it must not show.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode))?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for path in walk(from)? {
        let target = to.join(path.strip_prefix(from)?);
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            std::fs::create_dir_all(&target)?;
        } else if metadata.is_symlink() {
            symlink(std::fs::read_link(&path)?, &target)?;
        } else {
            let executable = metadata.permissions().mode() & 0o100 != 0;
            copy(&path, &target, if executable { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

/// Everything below `directory`, sorted, each directory before what it holds.
pub fn walk(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if std::fs::symlink_metadata(&path)?.is_dir() {
            paths.extend(walk(&path)?);
        }
        paths.push(path);
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Gives everything in `tree` the time of the image, and the mode that everybody expects.
pub fn stamp(tree: &Path) -> Result<()> {
    let time = TimeSpec::new(epoch(), 0);
    let mut paths = walk(tree)?;
    paths.push(tree.to_owned());
    for path in paths {
        let metadata = std::fs::symlink_metadata(&path)?;
        // What the builder's umask made of a file must not show.
        let is_program = metadata.permissions().mode() & 0o100 != 0;
        if metadata.is_dir() || metadata.is_file() {
            let mode = if metadata.is_dir() || is_program { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink)
            .with_context(|| format!("cannot set the time of {}", path.display()))?;
    }
    Ok(())
}
