//! What a disk was told, as QEMU's blklogwrites writes it down: the format of the kernel's dm-log-writes
//! (`drivers/md/dm-log-writes.c`), little-endian, in sectors of 512 bytes.

use std::path::Path;

/// Bytes.
pub(crate) const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request of the guest, in the order in which they were finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Bytes at an offset. The disk may keep them in its cache until the next flush, in any order.
    Write { offset: u64, data: Vec<u8> },
    /// Everything that was finished before lies on the disk now.
    Flush,
}

/// Reads a log.
pub(crate) fn read(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((number(0), number(8)), (MAGIC, 1), "no log of version 1");
    let sector = SECTOR as usize;
    let mut entries = Vec::new();
    let mut at = sector;
    while at + sector <= bytes.len() {
        let (offset, length, flags) = (number(at) * SECTOR, number(at + 8) * SECTOR, number(at + 16));
        at += sector;
        if flags & FLUSH != 0 {
            entries.push(Entry::Flush);
        }
        if length > 0 {
            let data = if flags & DISCARD == 0 {
                let data = bytes[at..at + length as usize].to_vec();
                at += length as usize;
                data
            } else {
                vec![0; length as usize]
            };
            entries.push(Entry::Write { offset, data });
        }
        // The write itself does not wait in the cache; that others may is the stricter reading.
        if flags & FUA != 0 {
            entries.push(Entry::Flush);
        }
    }
    entries
}

/// Numbers that are the same for the same seed (SplitMix64, Steele et al., OOPSLA 2014).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// A disk whose power is cut at any point of a log.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    entries: &'a [Entry],
    /// What lies on the disk for certain.
    disk: Vec<u8>,
    /// Up to here, in entries, it does.
    settled: usize,
}

impl<'a> Replay<'a> {
    /// Begins with the disk as it was before the first entry.
    pub(crate) fn new(disk: Vec<u8>, entries: &'a [Entry]) -> Self {
        Self { entries, disk, settled: 0 }
    }

    /// The disk after a cut behind the first `count` entries, which must not go down from call to call. Of what was not flushed,
    /// each write is there, or not, or only some of its sectors; a sector is whole.
    pub(crate) fn cut(&mut self, count: usize, dice: &mut Dice, look: impl FnOnce(&[u8])) {
        let flushed = self.entries[..count].iter().rposition(|entry| *entry == Entry::Flush).unwrap_or(0);
        for entry in &self.entries[self.settled..flushed.max(self.settled)] {
            if let Entry::Write { offset, data } = entry {
                self.disk[*offset as usize..][..data.len()].copy_from_slice(data);
            }
        }
        self.settled = self.settled.max(flushed);
        let mut before = Vec::new();
        for entry in &self.entries[self.settled..count] {
            let Entry::Write { offset, data } = entry else { continue };
            let fate = dice.below(4);
            for (index, sector) in data.chunks(SECTOR as usize).enumerate() {
                let lands = match fate {
                    0 => false,
                    1 => dice.below(2) == 0,
                    _ => true,
                };
                if lands {
                    let start = *offset as usize + index * SECTOR as usize;
                    let place = &mut self.disk[start..start + sector.len()];
                    before.push((start, place.to_vec()));
                    place.copy_from_slice(sector);
                }
            }
        }
        look(&self.disk);
        for (start, bytes) in before.into_iter().rev() {
            self.disk[start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

#[test]
fn what_was_flushed_stays_and_the_rest_is_anybodys_guess() {
    let write = |offset: u64, byte: u8| Entry::Write { offset, data: vec![byte; 1024] };
    let entries = [write(0, 1), Entry::Flush, write(0, 2), write(1024, 3)];
    let mut replay = Replay::new(vec![0; 4096], &entries);
    let mut dice = Dice(7);
    replay.cut(0, &mut dice, |disk| assert!(disk.iter().all(|&byte| byte == 0)));
    let mut seen = std::collections::BTreeSet::new();
    // The rarest of the sixteen, both writes torn in one way, comes once in 256 times.
    for _ in 0..4000 {
        replay.cut(4, &mut dice, |disk| {
            assert!(disk[..1024].iter().all(|byte| [1, 2].contains(byte)), "what was flushed is lost");
            assert!(disk.chunks(512).all(|sector| sector.iter().all(|byte| byte == &sector[0])), "a sector is torn");
            assert!(disk[2048..].iter().all(|&byte| byte == 0));
            seen.insert(disk.iter().step_by(512).copied().collect::<Vec<_>>());
        });
    }
    assert_eq!(seen.len(), 16, "each of four sectors is old or new");
}
