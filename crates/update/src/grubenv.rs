//! GRUB's environment block: 1 KiB of `NAME=VALUE` lines, padded with `#` (`grub-core/lib/envblk.c`).
//!
//! The variables are those of RAUC's GRUB backend: `ORDER`, and `OK` and `TRY` of each slot.

use std::fmt;

/// The size of a block, bytes: `save_env` writes no other.
pub const SIZE: usize = 1024;
const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// One of the two places for a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Partition `slot-a`.
    A,
    /// Partition `slot-b`.
    B,
}

impl Slot {
    /// From `headgate.slot=` on the command line.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "A" => Some(Self::A),
            "B" => Some(Self::B),
            _ => None,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The GPT name of its partition.
    #[must_use]
    pub fn partition(self) -> &'static str {
        match self {
            Self::A => "slot-a",
            Self::B => "slot-b",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// Why bytes are no block, or variables make none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The signature is missing: torn, or another place on the disk.
    #[error("no GRUB environment block here")]
    Signature,
    /// A line without `=`.
    #[error("the environment block has a line that is no assignment: {line:?}")]
    Assignment {
        /// The line.
        line: String,
    },
    /// The variables need more than 1 KiB.
    #[error("the variables need {bytes} bytes, an environment block has 1024")]
    Full {
        /// What they need.
        bytes: usize,
    },
}

/// The variables of a block, in their order. Variables that we do not know are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    variables: Vec<(String, String)>,
}

impl Block {
    /// What a new disk starts with: A first, B only when something was put there.
    #[must_use]
    pub fn fresh() -> Self {
        let mut block = Self::default();
        for (name, value) in [("ORDER", "A B"), ("A_OK", "1"), ("A_TRY", "0"), ("B_OK", "0"), ("B_TRY", "0")] {
            block.set(name, value);
        }
        block
    }

    /// Reads a block; what follows the variables must be padding only in that nothing of it is read.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvironmentError> {
        let body = bytes.get(..SIZE).and_then(|bytes| bytes.strip_prefix(SIGNATURE));
        let body = body.ok_or(EnvironmentError::Signature)?;
        let mut block = Self::default();
        for line in String::from_utf8_lossy(body).split('\n') {
            // Padding, or a comment as grub-editenv writes below the signature.
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| EnvironmentError::Assignment { line: line.to_owned() })?;
            block.variables.push((name.to_owned(), value.to_owned()));
        }
        Ok(block)
    }

    /// The value as it stands in the block.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets a variable; neither name nor value may hold a newline or a backslash (GRUB would want them escaped).
    pub fn set(&mut self, name: &str, value: &str) {
        debug_assert!(!name.contains(['\n', '\\', '=']) && !value.contains(['\n', '\\']), "{name}={value}");
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Notes that `slot` is healthy: tries 0, OK.
    pub fn mark_good(&mut self, slot: Slot) {
        self.set(&format!("{slot}_OK"), "1");
        self.set(&format!("{slot}_TRY"), "0");
    }

    /// Notes that `slot` holds nothing that may be started: it is about to be overwritten. The other one comes first.
    pub fn forbid(&mut self, slot: Slot) {
        self.set("ORDER", &format!("{} {slot}", slot.other()));
        self.set(&format!("{slot}_OK"), "0");
        self.set(&format!("{slot}_TRY"), "0");
        self.set(&format!("{slot}_VERSION"), "");
    }

    /// Notes that `slot` holds `version` whole and is to be tried at the next boot. Three boots that do not come to good lead
    /// back to the other one.
    pub fn prefer(&mut self, slot: Slot, version: &str) {
        self.put_first(slot);
        self.set(&format!("{slot}_VERSION"), version);
    }

    /// Lets the next boot try `slot`, as if it had not been tried before.
    pub fn put_first(&mut self, slot: Slot) {
        self.set("ORDER", &format!("{slot} {}", slot.other()));
        self.mark_good(slot);
    }

    /// The slot that is tried first.
    #[must_use]
    pub fn first(&self) -> Option<Slot> {
        Slot::parse(self.get("ORDER")?.split(' ').next()?)
    }

    /// The bytes of the block.
    pub fn to_bytes(&self) -> Result<[u8; SIZE], EnvironmentError> {
        let mut bytes = SIGNATURE.to_vec();
        for (name, value) in &self.variables {
            bytes.extend_from_slice(format!("{name}={value}\n").as_bytes());
        }
        let used = bytes.len();
        bytes.resize(used.max(SIZE), b'#');
        bytes.try_into().map_err(|_| EnvironmentError::Full { bytes: used })
    }

    /// The offset of the first block in `bytes`, which begins at a sector: GRUB and FAT align files so.
    #[must_use]
    pub fn find(bytes: &[u8]) -> Option<usize> {
        (0..bytes.len()).step_by(512).find(|&offset| bytes[offset..].starts_with(SIGNATURE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_survives_a_round_trip_and_has_grubs_form() {
        let bytes = Block::fresh().to_bytes().unwrap();
        assert!(bytes.starts_with(b"# GRUB Environment Block\nORDER=A B\nA_OK=1\n"));
        assert_eq!(bytes.last(), Some(&b'#'));
        assert_eq!(Block::parse(&bytes).unwrap(), Block::fresh());
    }

    #[test]
    fn marking_good_touches_only_the_slot() {
        let mut block = Block::fresh();
        block.set("saved_entry", "x=y");
        block.set("B_TRY", "2");
        block.set("A_TRY", "3");
        block.mark_good(Slot::A);
        let values = ["A_OK", "A_TRY", "B_OK", "B_TRY", "saved_entry"].map(|name| block.get(name).unwrap().to_owned());
        assert_eq!(values, ["1", "0", "0", "2", "x=y"]);
    }

    #[test]
    fn torn_foreign_and_overfull_blocks_are_refused() {
        assert_eq!(Block::parse(&[0; SIZE]), Err(EnvironmentError::Signature));
        assert_eq!(Block::parse(b"# GRUB Environment Block\n"), Err(EnvironmentError::Signature));
        let mut bytes = Block::fresh().to_bytes().unwrap();
        bytes[30..34].fill(0xff);
        assert!(matches!(Block::parse(&bytes), Err(EnvironmentError::Assignment { .. })));
        let mut block = Block::fresh();
        block.set("LONG", &"x".repeat(1000));
        assert!(matches!(block.to_bytes(), Err(EnvironmentError::Full { bytes }) if bytes > SIZE));
    }

    #[test]
    fn the_block_is_found_at_a_sector() {
        let mut disk = vec![0; 64 * 512];
        disk[700..724].copy_from_slice(&SIGNATURE[..24]);
        disk[37 * 512..37 * 512 + SIZE].copy_from_slice(&Block::fresh().to_bytes().unwrap());
        assert_eq!(Block::find(&disk), Some(37 * 512));
        assert_eq!(Block::find(&disk[..36 * 512]), None);
    }

    #[test]
    fn grubs_own_tool_reads_our_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("grubenv");
        std::fs::write(&path, Block::fresh().to_bytes().unwrap()).unwrap();
        let list = std::process::Command::new("grub-editenv")
            .arg(&path)
            .arg("list")
            .output()
            .expect("grub-editenv is needed (Debian package grub-common)");
        assert_eq!(String::from_utf8_lossy(&list.stdout), "ORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=0\nB_TRY=0\n");
    }
}
