//! A slot's bytes. There are two kinds, and `image/grub.cfg` starts both:
//!
//! - One squashfs with root, kernel and initramfs. The initramfs finds the slot and makes it the root.
//! - A small squashfs with the kernel and [`START`], then the squashfs of the root, then its hash tree ([`crate::verity`]). The
//!   kernel finds the root by the command line alone and checks each block that it reads. What the hash tree leads up to is in
//!   the first squashfs, because no file system can hold its own checksum.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::kernel::Kernel;
use crate::layout::{Layout, SECTOR};
use crate::tool::{run, tool};
use crate::tree::{archive, copy, directories, stamp, walk};
use crate::verity::{BLOCK, Tree};

/// What GRUB reads of a slot that is verified: two variables, `verity` and `root_is`.
pub const START: &str = "boot/start.cfg";

/// Packs a root file system with its kernel and initramfs as one squashfs.
pub fn with_initramfs(tree: &Path, kernel: &Kernel, initrd: &Path, work: &Path) -> Result<PathBuf> {
    copy(kernel.image(), &tree.join("boot/vmlinuz"), 0o644)?;
    copy(initrd, &tree.join("boot/initrd"), 0o644)?;
    let packed = work.join("slot");
    // GRUB reads no zstd, and copies the kernel fastest when it is not compressed twice.
    squash(tree, &packed, &["-comp", "gzip", "-b", "128K", "-action", "uncompressed@subpathname(boot)"])?;
    Ok(packed)
}

/// Packs a root file system that the kernel verifies. `microcode` is a directory with the files of the processor's vendor.
pub fn verified(
    tree: &Path,
    kernel: &Kernel,
    microcode: Option<&Path>,
    layout: &Layout,
    work: &Path,
) -> Result<PathBuf> {
    let root = work.join("root.squashfs");
    squash(tree, &root, &["-comp", "zstd", "-Xcompression-level", "19", "-b", "256K"])?;
    let root = std::fs::read(root)?;
    // mksquashfs pads to it.
    ensure!(root.len().is_multiple_of(BLOCK), "the squashfs of the root is no whole blocks");
    let hashes = Tree::over(&root);

    let boot = work.join("boot.d");
    directories(&boot, &["boot"])?;
    copy(kernel.image(), &boot.join("boot/vmlinuz"), 0o644)?;
    if let Some(directory) = microcode {
        std::fs::write(boot.join("boot/initrd"), early(directory, work)?)?;
    }
    // Its length does not depend on the numbers in it being the right ones: they have a fixed width here, and then they are.
    let start = boot.join(START);
    std::fs::write(&start, start_script(layout, &hashes, 0)?)?;
    let first = work.join("boot.squashfs");
    let plain = ["-comp", "gzip", "-noI", "-noD", "-noF", "-noX"];
    squash(&boot, &first, &plain)?;
    let offset = std::fs::metadata(&first)?.len();
    std::fs::write(&start, start_script(layout, &hashes, offset)?)?;
    std::fs::remove_file(&first)?;
    squash(&boot, &first, &plain)?;
    ensure!(std::fs::metadata(&first)?.len() == offset, "the first part of the slot has changed its size");

    let packed = work.join("slot");
    let mut file = File::create(&packed)?;
    std::io::copy(&mut File::open(&first)?, &mut file)?;
    file.write_all(&root)?;
    file.write_all(&hashes.bytes)?;
    Ok(packed)
}

/// What GRUB sources. Devices (`Documentation/admin-guide/device-mapper/dm-init.rst`): 0 is what of the partition lies behind its
/// first squashfs, 1 is that verified. A block that is not what it was is a panic: the box reboots, and GRUB counts that try.
fn start_script(layout: &Layout, hashes: &Tree, offset: u64) -> Result<String> {
    let Tree { data_blocks, root, salt, bytes } = hashes;
    let per_block = BLOCK as u64 / SECTOR;
    let data = data_blocks * per_block;
    let all = data + bytes.len() as u64 / SECTOR;
    let [a, b] = ["slot-a", "slot-b"].map(|name| layout.identifier(name));
    let (a, b) = (a?, b?);
    // The width of the offset is fixed, see `verified`; the kernel reads 08 as it reads 8 here (`sscanf` with %llu, dm-linear.c).
    let start = format!("{:010}", offset / SECTOR);
    Ok(format!(
        "if [ \"$slot\" = A ]; then\n  set part={a}\nelse\n  set part={b}\nfi\n\
         set verity=\"dm-mod.create=slot,,,ro,0 {all} linear PARTUUID=$part {start};\
         root,,,ro,0 {data} verity 1 /dev/dm-0 /dev/dm-0 {BLOCK} {BLOCK} {data_blocks} {data_blocks} sha256 {root} {salt} \
         1 panic_on_corruption\"\n\
         set root_is=\"root=/dev/dm-1 rootfstype=squashfs ro\"\n"
    ))
}

/// The archive from which the kernel takes microcode before anything else (`Documentation/arch/x86/microcode.rst`). It holds no
/// init, so the root is mounted as without it.
fn early(microcode: &Path, work: &Path) -> Result<Vec<u8>> {
    let tree = work.join("early");
    directories(&tree, &["kernel/x86/microcode"])?;
    let mut all = Vec::new();
    for path in walk(microcode)? {
        all.extend(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    ensure!(!all.is_empty(), "{} holds no microcode", microcode.display());
    std::fs::write(tree.join("kernel/x86/microcode/GenuineIntel.bin"), all)?;
    archive(&tree)
}

fn squash(tree: &Path, to: &Path, options: &[&str]) -> Result<()> {
    stamp(tree)?;
    let always = ["-noappend", "-all-root", "-no-progress", "-quiet"];
    run(tool("mksquashfs").arg(tree).arg(to).args(always).args(options)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::System;
    use crate::source::Source;

    #[test]
    fn grub_is_told_what_the_kernel_needs() {
        let layout: Layout = toml::from_str(include_str!("../../../image/layout.toml")).unwrap();
        let hashes = Tree::over(&vec![7; 300 * BLOCK]);
        let script = start_script(&layout, &hashes, 12 << 20).unwrap();
        assert_eq!(script.len(), start_script(&layout, &hashes, 0).unwrap().len());
        // 300 blocks, and 3 + 1 of hashes.
        assert!(
            script.contains("slot,,,ro,0 2432 linear PARTUUID=$part 0000024576;root,,,ro,0 2400 verity 1"),
            "{script}"
        );
        assert!(
            script.contains("48474154-0000-4000-8000-000000000004") && script.contains("-000000000005"),
            "{script}"
        );
        // COMMAND_LINE_SIZE is 2048 (arch/x86/include/asm/setup.h), and DM_MAX_STR_SIZE 4096 (drivers/md/dm-init.c).
        assert!(script.len() < 1024);
    }

    /// A kernel package without modules.
    fn kernel(directory: &Path) -> Kernel {
        let modules = directory.join("kernel/lib/modules/6.0");
        std::fs::create_dir_all(&modules).unwrap();
        for name in ["modules.dep", "modules.builtin", "modules.alias", "modules.builtin.alias.bin"] {
            std::fs::write(modules.join(name), "").unwrap();
        }
        std::fs::create_dir(directory.join("kernel/boot")).unwrap();
        std::fs::write(directory.join("kernel/boot/vmlinuz-6.0"), vec![1; 70_000]).unwrap();
        Kernel::open(&Source::find().unwrap(), &directory.join("kernel")).unwrap()
    }

    #[test]
    fn a_verified_slot_is_found_whole_and_the_same_twice() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        let kernel = kernel(directory.path());
        for path in ["root/usr/lib/headgate", "microcode", "one", "two"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        let noise: Vec<u8> = (0..600_000_u64).map(|index| ((index * index) >> 7) as u8).collect();
        std::fs::write(at("root/usr/lib/headgate/large"), &noise).unwrap();
        std::fs::write(at("root/usr/lib/headgate/image"), "version=1.0.0\nboard=x86_64\n").unwrap();
        std::fs::write(at("microcode/06-5e-03"), vec![3; 5000]).unwrap();
        let layout: Layout = toml::from_str(include_str!("../../../image/layout.toml")).unwrap();
        let pack = |work: &str| {
            let slot = verified(&at("root"), &kernel, Some(&at("microcode")), &layout, &at(work)).unwrap();
            std::fs::read(slot).unwrap()
        };
        let slot = pack("one");
        assert_eq!(slot, pack("two"));

        let system = System::find(&at("one/slot")).unwrap();
        assert!(system.is_verified());
        assert_eq!(system.size, slot.len() as u64);
        assert_eq!(system.identity().unwrap().1, "x86_64");
        let files: Vec<String> = system.files().unwrap().into_iter().map(|(path, _)| path).collect();
        for path in ["boot/vmlinuz", "boot/initrd", START, "usr/lib/headgate/large"] {
            assert!(files.iter().any(|file| file == path), "{path}: {files:?}");
        }
        system.unpack(&at("unpacked")).unwrap();
        assert_eq!(std::fs::read(at("unpacked/usr/lib/headgate/large")).unwrap(), noise);

        // What GRUB hands over leads the kernel to a root that is whole.
        let script = std::fs::read_to_string(at("unpacked").join(START)).unwrap();
        let words: Vec<&str> = script.split([' ', '"', ';', '\n']).collect();
        let after = |word: &str, count: usize| words[words.iter().position(|other| *other == word).unwrap() + count];
        let root = &slot[after("linear", 2).parse::<usize>().unwrap() * 512..];
        std::fs::write(at("root.img"), root).unwrap();
        let blocks: usize = after("verity", 6).parse().unwrap();
        let verify = |hash: &str| {
            let mut command = tool("veritysetup");
            command.args(["verify", "--no-superblock", "--salt", after("sha256", 2)]);
            command.args([format!("--hash-offset={}", blocks * BLOCK), format!("--data-blocks={blocks}")]);
            run(command.arg(at("root.img")).arg(at("root.img")).arg(hash))
        };
        verify(after("sha256", 1)).unwrap();
        assert!(verify(after("sha256", 2)).is_err());

        std::fs::write(at("short"), &slot[..slot.len() - 1]).unwrap();
        assert!(System::find(&at("short")).is_err());
    }

    #[test]
    fn a_directory_without_microcode_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("none")).unwrap();
        let error = early(&directory.path().join("none"), directory.path()).unwrap_err().to_string();
        assert!(error.ends_with("holds no microcode"), "{error}");
    }
}
