use std::cell::Cell;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;

const MIB: u64 = 1 << 20;

fn sfdisk(arguments: &[&str], disk: &Path, input: &str) -> (bool, String) {
    let mut child = Command::new("sfdisk")
        .args(arguments)
        .arg(disk)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sfdisk is needed (Debian package fdisk)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// An image of 16 MiB with two partitions, the second of them not the last entry's neighbour on the disk.
fn image(directory: &Path) -> PathBuf {
    let path = directory.join("disk");
    File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    let script = "label: gpt\nstart=2048, size=4096, name=slot\nstart=6144, size=8192, name=data\n";
    let (good, said) = sfdisk(&["-q"], &path, script);
    assert!(good, "{said}");
    path
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn the_last_partition_takes_the_rest_and_sfdisk_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path());
    for megabytes in [16_u64, 100, 1000] {
        let disk = open(&path);
        disk.set_len(megabytes * MIB).unwrap();
        let grown = grow_last(&disk, megabytes * MIB).unwrap().unwrap();
        assert_eq!((grown.number, grown.start), (2, 3 * MIB));
        assert_eq!(grown.size, (megabytes - 1 - 3) * MIB, "the last MiB is the second table's");
        assert_eq!(grow_last(&disk, megabytes * MIB).unwrap(), None, "once");
        let (good, said) = sfdisk(&["--verify"], &path, "");
        assert!(good && said.contains("No errors detected"), "{said}");
        // The second table is as good as the first: without the first, sfdisk takes it.
        let copy = directory.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        open(&copy).write_all_at(&[0; 512], SECTOR).unwrap();
        let (_, backup) = sfdisk(&["-d"], &copy, "");
        assert!(backup.contains("name=\"data\""), "{backup}");
        assert!(backup.contains(&(grown.size / SECTOR).to_string()), "{backup}");
    }
}

#[test]
fn a_disk_as_large_as_its_image_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path());
    grow_last(&open(&path), 16 * MIB).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_eq!(grow_last(&open(&path), 16 * MIB).unwrap(), None);
    assert_eq!(grow_last(&open(&path), 8 * MIB).unwrap(), None, "never smaller");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn damaged_tables_are_refused_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path());
    let good = std::fs::read(&path).unwrap();
    for (at, what) in [(512, "signature"), (512 + 40, "header"), (512 + 12, "size"), (1024 + 40, "array")] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes.resize(32 << 20, 0);
        std::fs::write(&path, &bytes).unwrap();
        assert!(grow_last(&open(&path), 32 * MIB).is_err(), "{what}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    }
    std::fs::write(&path, b"short").unwrap();
    assert!(matches!(grow_last(&open(&path), 32 * MIB), Err(GptError::Access(_))));
}

/// A disk whose power goes after so many writes, in the middle of the last one where it has several sectors.
struct Cut<'a> {
    disk: &'a File,
    left: Cell<usize>,
}

impl FileExt for Cut<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.left.get() {
            0 => Err(io::Error::other("power cut")),
            1 => {
                self.left.set(0);
                let sectors = bytes.len() as u64 / SECTOR;
                self.disk.write_all_at(&bytes[..(sectors / 2 * SECTOR) as usize], offset)?;
                Err(io::Error::other("power cut"))
            }
            left => {
                self.left.set(left - 1);
                self.disk.write_all_at(bytes, offset)?;
                Ok(bytes.len())
            }
        }
    }
}

#[test]
fn power_may_go_at_any_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path());
    let original = std::fs::read(&path).unwrap();
    for writes in 0..8 {
        std::fs::write(&path, &original).unwrap();
        let disk = open(&path);
        disk.set_len(64 * MIB).unwrap();
        let cut = Cut { disk: &disk, left: Cell::new(writes) };
        let whole = grow_last(&cut, 64 * MIB).is_ok();
        // The first table, which is the only one that GRUB looks at, is valid at every moment.
        let header = Header::read(&disk, 1).unwrap_or_else(|error| panic!("after {writes} writes: {error}"));
        let entries = header.entries(&disk).unwrap_or_else(|error| panic!("after {writes} writes: {error}"));
        let (_, start, _) = entries.last().unwrap();
        assert_eq!(start, 6144);
        // The next start finishes it.
        grow_last(&disk, 64 * MIB).unwrap();
        let grown = Header::read(&disk, 1).unwrap().entries(&disk).unwrap().last().unwrap();
        assert_eq!((grown.2 + 1) * SECTOR, 63 * MIB, "after {writes} writes (whole: {whole})");
    }
}
