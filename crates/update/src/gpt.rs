//! The partition table of a disk that is larger than the image that was written to it: its last partition takes the rest.
//!
//! A table is a header of one sector and an array of entries (UEFI Specification 2.10, section 5.3), and both again at the end
//! of the disk. The header holds a checksum of the array, so rewriting the array in place would leave a moment in which the
//! disk has no valid table, and GRUB looks at no other. So the new array goes beside the old one, where nothing lies, and
//! one write of one sector, the header, exchanges the two.

use std::io;
use std::os::unix::fs::FileExt;

/// The unit of all addresses, bytes. Disks whose sectors are larger emulate this one, or do not boot from our image anyway.
pub const SECTOR: u64 = 512;
/// Partitions end at multiples of this, sectors: 1 MiB.
const ALIGNMENT: u64 = 2048;
const SIGNATURE: &[u8] = b"EFI PART";
const HEADER_BYTES: usize = 92;
/// A partition that holds nothing has this type.
const UNUSED: [u8; 16] = [0; 16];

/// Why a table is not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// The disk cannot be read or written.
    #[error("cannot access the partition table")]
    Access(#[from] io::Error),
    /// It is damaged, or none.
    #[error("the partition table is not usable: {0}")]
    Table(&'static str),
}

/// The last partition of a disk, after it has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// Counted from 1, as the kernel does.
    pub number: u32,
    /// From the start of the disk, bytes.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Clone)]
struct Header([u8; SECTOR as usize]);

impl Header {
    fn read(disk: &impl FileExt, sector: u64) -> Result<Self, GptError> {
        let mut bytes = [0; SECTOR as usize];
        disk.read_exact_at(&mut bytes, sector * SECTOR)?;
        let header = Self(bytes);
        if !bytes.starts_with(SIGNATURE) {
            return Err(GptError::Table("it has no signature"));
        }
        if header.u32(12) as usize != HEADER_BYTES {
            return Err(GptError::Table("its header has another size than every other's"));
        }
        if header.checksum() != header.u32(16) {
            return Err(GptError::Table("the checksum of its header is wrong"));
        }
        if header.u64(24) != sector {
            return Err(GptError::Table("its header lies where it does not belong"));
        }
        Ok(header)
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn set(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Over the header with a checksum of zero.
    fn checksum(&self) -> u32 {
        let mut bytes = self.0[..HEADER_BYTES].to_vec();
        bytes[16..20].fill(0);
        crc32fast::hash(&bytes)
    }

    fn seal(&mut self, entries: &[u8]) {
        self.0[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
        let checksum = self.checksum();
        self.0[16..20].copy_from_slice(&checksum.to_le_bytes());
    }

    fn entries(&self, disk: &impl FileExt) -> Result<Entries, GptError> {
        let (count, size) = (self.u32(80) as usize, self.u32(84) as usize);
        // 128 of 128 bytes everywhere; the bound keeps a damaged header from asking for gigabytes.
        if size < 128 || count == 0 || count.saturating_mul(size) > 1 << 20 {
            return Err(GptError::Table("its array has an impossible size"));
        }
        let mut bytes = vec![0; count * size];
        disk.read_exact_at(&mut bytes, self.u64(72) * SECTOR)?;
        if crc32fast::hash(&bytes) != self.u32(88) {
            return Err(GptError::Table("the checksum of its array is wrong"));
        }
        Ok(Entries { bytes, size })
    }
}

#[derive(Debug)]
struct Entries {
    bytes: Vec<u8>,
    size: usize,
}

impl Entries {
    fn sectors(&self) -> u64 {
        (self.bytes.len() as u64).div_ceil(SECTOR)
    }

    /// Index, first and last sector of the partition that lies last on the disk.
    fn last(&self) -> Option<(usize, u64, u64)> {
        let used = self.bytes.chunks_exact(self.size).enumerate().filter(|(_, entry)| entry[..16] != UNUSED);
        let place = |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        used.map(|(index, entry)| (index, place(entry, 32), place(entry, 40))).max_by_key(|(_, _, end)| *end)
    }
}

/// Lets the last partition of a disk of `size` bytes end where the disk does. `None`: it does already, and nothing was written.
///
/// # Errors
/// [`GptError`]. What was written by then is beside the table that counts.
pub fn grow_last(disk: &impl FileExt, size: u64) -> Result<Option<Grown>, GptError> {
    let header = Header::read(disk, 1)?;
    let entries = header.entries(disk)?;
    let (_, _, end) = entries.last().ok_or(GptError::Table("it has no partition"))?;
    if last_end(&entries, size) <= end {
        return Ok(None);
    }
    rewrite(disk, size, header, entries).map(Some)
}

/// Lets the last partition end where a disk of `size` bytes does: the table is that of another disk, smaller or larger.
///
/// # Errors
/// [`GptError`].
pub fn fit_last(disk: &impl FileExt, size: u64) -> Result<Grown, GptError> {
    let header = Header::read(disk, 1)?;
    let entries = header.entries(disk)?;
    rewrite(disk, size, header, entries)
}

/// The last sector that a partition may have, aligned. In front of the second header, the last sector of all, lies the second
/// array.
fn last_end(entries: &Entries, size: u64) -> u64 {
    let usable = (size / SECTOR).saturating_sub(entries.sectors() + 2);
    ((usable + 1) / ALIGNMENT * ALIGNMENT).saturating_sub(1)
}

fn rewrite(disk: &impl FileExt, size: u64, mut header: Header, mut entries: Entries) -> Result<Grown, GptError> {
    let (index, start, _) = entries.last().ok_or(GptError::Table("it has no partition"))?;
    let array = entries.sectors();
    let last_sector = (size / SECTOR).saturating_sub(1);
    let usable = last_sector.saturating_sub(array + 1);
    let new_end = last_end(&entries, size);
    if new_end <= start {
        return Err(GptError::Table("the disk ends before its last partition begins"));
    }
    let at = index * entries.size;
    entries.bytes[at + 40..at + 48].copy_from_slice(&new_end.to_le_bytes());

    let old_array = header.u64(72);
    let beside = if old_array == 2 { 2 + array } else { 2 };
    if beside + array > header.u64(40) {
        return Err(GptError::Table("there is no room beside its array"));
    }
    let mut second = header.clone();
    second.set(24, last_sector);
    second.set(32, 1);
    second.set(48, usable);
    second.set(72, last_sector - array);
    second.seal(&entries.bytes);
    disk.write_all_at(&entries.bytes, (last_sector - array) * SECTOR)?;
    disk.write_all_at(&second.0, last_sector * SECTOR)?;

    header.set(32, last_sector);
    header.set(48, usable);
    header.set(72, beside);
    header.seal(&entries.bytes);
    disk.write_all_at(&entries.bytes, beside * SECTOR)?;
    // `disk` is opened O_SYNC: the array is on the disk before the header that names it.
    disk.write_all_at(&header.0, SECTOR)?;
    let number = u32::try_from(index + 1).map_err(|_| GptError::Table("it has too many partitions"))?;
    Ok(Grown { number, start: start * SECTOR, size: (new_end + 1 - start) * SECTOR })
}

#[cfg(test)]
mod tests;
