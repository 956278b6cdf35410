//! File systems and the whole disk, made as files: no loop device, no mount, no root.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use headgate_update::grubenv::Block;

use crate::layout::{Content, Extent, Layout, SECTOR};
use crate::packages::Packages;
use crate::source::Source;
use crate::tool::{run, run_with_input, tool};
use crate::tree::{copy, directories, stamp};

/// Where GRUB's images and modules are: the unpacked packages.
#[derive(Debug)]
pub struct Grub {
    /// `usr/lib/grub/i386-pc` of the package for BIOS.
    pub bios: PathBuf,
    /// `usr/lib/grub/x86_64-efi` of the package for UEFI.
    pub uefi: PathBuf,
}

/// The partition with the environment block, and where the block is in it, bytes.
pub fn env(layout: &Layout, work: &Path) -> Result<(PathBuf, u64)> {
    let image = empty(work, "env", layout.place(Content::Env)?.size)?;
    run(tool("mkfs.vfat").args(["-F", "12", "-n", "HG-ENV", "-i", "48470003", "--invariant"]).arg(&image))?;
    let tree = work.join("env.d");
    directories(work, &["env.d"])?;
    std::fs::write(tree.join("grubenv"), Block::fresh().to_bytes()?)?;
    fill(&image, &tree, &["grubenv"])?;
    let offset = Block::find(&std::fs::read(&image)?).context("the environment block is not in its file system")?;
    Ok((image, offset as u64))
}

/// The EFI system partition: GRUB for UEFI, its configuration for both, and the place for drop-ins.
pub fn esp(source: &Source, layout: &Layout, packages: &Packages, grub: &Grub, work: &Path) -> Result<PathBuf> {
    let image = empty(work, "esp", layout.place(Content::Esp)?.size)?;
    run(tool("mkfs.vfat").args(["-F", "32", "-s", "1", "-n", "HG-ESP", "-i", "48470002", "--invariant"]).arg(&image))?;
    let tree = work.join("esp.d");
    directories(&tree, &["EFI/BOOT", "grub", "headgate/conf.d"])?;
    let loader = tree.join("EFI/BOOT/BOOTX64.EFI");
    let modules = packages.grub_modules.iter().chain(&packages.grub_modules_uefi);
    run(tool("grub-mkimage")
        .args(["-O", "x86_64-efi", "-p", "/grub", "-d"])
        .arg(&grub.uefi)
        .arg("-o")
        .arg(&loader)
        .args(modules))?;
    copy(&source.join("image/grub.cfg"), &tree.join("grub/grub.cfg"), 0o644)?;
    std::fs::write(
        tree.join("headgate/conf.d/README.txt"),
        "Put drop-ins here: files with names like 10-web.toml.\r\nThey are read at the first boot.\r\n",
    )?;
    fill(&image, &tree, &["EFI", "grub", "headgate"])?;
    Ok(image)
}

/// The data partition, empty: `headgate-init` makes its directories. Nothing is copied into it here, because mke2fs would
/// keep the change times of what it copies and make each image a different one.
pub fn data(layout: &Layout, work: &Path) -> Result<PathBuf> {
    let image = empty(work, "data", layout.place(Content::Data)?.size)?;
    let extended =
        "hash_seed=48474154-0000-4000-8000-0000000000f1,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0";
    run(tool("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "hg-data", "-U", "48474154-0000-4000-8000-0000000000f0"])
        // Not the 1 KiB that mke2fs takes for so small a file system: it grows to a disk, and would need 16 times the groups.
        // No checksum of the superblock, whose two sectors are written without the journal: the power may go between them, and a
        // file system of one group has no copy. Group descriptors have one (`uninit_bg`): growing need not write inode tables.
        .args(["-b", "4096", "-O", "^metadata_csum,^metadata_csum_seed,uninit_bg", "-E", extended])
        .arg(&image))?;
    Ok(image)
}

/// GRUB's core image for BIOS, not yet told where it lies.
pub fn core(packages: &Packages, grub: &Grub, work: &Path) -> Result<PathBuf> {
    let image = work.join("core");
    let modules = packages.grub_modules.iter().chain(&packages.grub_modules_bios);
    // Without a disk in the prefix GRUB takes the one that it was started from.
    run(tool("grub-mkimage")
        .args(["-O", "i386-pc", "-p", "(,gpt2)/grub", "-d"])
        .arg(&grub.bios)
        .arg("-o")
        .arg(&image)
        .args(modules))?;
    Ok(image)
}

/// Puts a disk together: partition table, the parts with their contents, and GRUB's boot sector.
pub fn assemble(disk: &Path, layout: &Layout, grub: &Grub, parts: &[(Content, PathBuf)]) -> Result<()> {
    let file = File::create(disk).with_context(|| format!("cannot write {}", disk.display()))?;
    file.set_len(layout.disk_size())?;
    drop(file);
    run_with_input(tool("sfdisk").arg("-q").arg(disk), layout.sfdisk_script().as_bytes())?;
    let mut file = File::options().read(true).write(true).open(disk)?;
    for (content, path) in parts {
        let place = layout.place(*content)?;
        put(&mut file, place, path).with_context(|| format!("cannot write {} to the image", path.display()))?;
    }
    install_grub(&mut file, layout.place(Content::BiosGrub)?, &grub.bios.join("boot.img"))?;
    file.sync_all().context("cannot write the image")
}

/// What grub-bios-setup(8) does, for a disk that is a file. Offsets: `grub-core/boot/i386/pc/boot.S` and `diskboot.S`,
/// names in `include/grub/i386/pc/boot.h`.
fn install_grub(disk: &mut File, place: Extent, boot: &Path) -> Result<()> {
    const CODE: usize = 440;
    const KERNEL_SECTOR: usize = 0x5c;
    const DRIVE_CHECK: usize = 0x66;
    const BLOCK_LIST_START: u64 = 0x1f4;
    let mut sector = std::fs::read(boot).with_context(|| format!("cannot read {}", boot.display()))?;
    ensure!(sector.len() == 512, "{} is no boot sector", boot.display());
    let core = place.offset / SECTOR;
    sector[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&core.to_le_bytes());
    // Two no-operations in place of a jump: take the drive number that the BIOS gives, as for any hard disk.
    sector[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    write_at(disk, 0, &sector[..CODE])?;
    write_at(disk, place.offset + BLOCK_LIST_START, &(core + 1).to_le_bytes())
}

fn write_at(disk: &mut File, offset: u64, bytes: &[u8]) -> Result<()> {
    disk.seek(SeekFrom::Start(offset))?;
    Ok(disk.write_all(bytes)?)
}

/// Copies `path` to its place; stretches of zeros stay holes.
fn put(disk: &mut File, place: Extent, path: &Path) -> Result<()> {
    let mut from = File::open(path)?;
    let size = from.metadata()?.len();
    ensure!(size <= place.size, "it has {size} bytes, its partition in image/layout.toml {}", place.size);
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = place.offset;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|&byte| byte != 0) {
            write_at(disk, offset, &buffer[..count])?;
        }
        offset += count as u64;
    }
}

fn empty(work: &Path, name: &str, size: u64) -> Result<PathBuf> {
    let path = work.join(name);
    File::create(&path)?.set_len(size)?;
    Ok(path)
}

/// Copies `names` from `tree` to the top of a FAT file system.
fn fill(image: &Path, tree: &Path, names: &[&str]) -> Result<()> {
    stamp(tree)?;
    run(tool("mcopy").arg("-smp").arg("-i").arg(image).args(names).arg("::").current_dir(tree)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part");
        std::fs::write(&path, vec![1; 1025]).unwrap();
        let mut disk = File::create(directory.path().join("disk")).unwrap();
        let error = put(&mut disk, Extent { offset: 0, size: 1024 }, &path).unwrap_err().to_string();
        assert!(error.contains("1025 bytes"), "{error}");
    }

    #[test]
    fn zeros_become_holes_and_everything_else_is_written() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part");
        let mut bytes = vec![0; 1 << 20];
        bytes[700_000] = 7;
        std::fs::write(&path, &bytes).unwrap();
        let disk = directory.path().join("disk");
        let mut file = File::options().create_new(true).write(true).open(&disk).unwrap();
        file.set_len(2 << 20).unwrap();
        put(&mut file, Extent { offset: 1 << 20, size: 1 << 20 }, &path).unwrap();
        assert_eq!(std::fs::read(&disk).unwrap()[1 << 20..], bytes);
        assert!(std::fs::metadata(&disk).unwrap().blocks() * 512 <= 128 * 1024);
    }

    #[test]
    fn the_environment_block_is_where_the_builder_says() {
        let layout: Layout = toml::from_str(include_str!("../../../image/layout.toml")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (image, offset) = env(&layout, directory.path()).unwrap();
        let block = Block::parse(&std::fs::read(&image).unwrap()[usize::try_from(offset).unwrap()..]).unwrap();
        assert_eq!(block, Block::fresh());
        assert_eq!(offset % SECTOR, 0);
    }
}
