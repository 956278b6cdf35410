//! The hash tree of dm-verity: the kernel reads no block of the root that is not the one that was built.
//!
//! The form is the one that the kernel expects with `hash_type` 1 and no superblock
//! (`Documentation/admin-guide/device-mapper/verity.rst`); veritysetup(8) reads it too.

use sha2::{Digest, Sha256};

use crate::packages::hex;

/// Of data and of hashes, bytes.
pub const BLOCK: usize = 4096;
const DIGEST: usize = 32;
const PER_BLOCK: usize = BLOCK / DIGEST;

/// A tree over some blocks of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// How many blocks of data it covers.
    pub data_blocks: u64,
    /// What the kernel is told, hexadecimal: whoever changes a block has to change this.
    pub root: String,
    /// Put before each block before it is hashed, hexadecimal.
    pub salt: String,
    /// What lies behind the data: the level below the root first.
    pub bytes: Vec<u8>,
}

impl Tree {
    /// The tree over `data`, which is whole blocks, more than one. The salt is the data's own checksum: the same data give the same tree.
    pub fn over(data: &[u8]) -> Self {
        let salt = Sha256::digest(data);
        let mut levels = Vec::new();
        let mut below = level(data, &salt);
        while below.len() > BLOCK {
            let above = level(&below, &salt);
            levels.push(below);
            below = above;
        }
        let root = digest(&below, &salt);
        levels.push(below);
        levels.reverse();
        Self { data_blocks: (data.len() / BLOCK) as u64, root: hex(&root), salt: hex(&salt), bytes: levels.concat() }
    }
}

/// How many bytes the tree over so many blocks has.
pub fn size(data_blocks: u64) -> u64 {
    let mut blocks = data_blocks;
    let mut total = 0;
    while blocks > 1 {
        blocks = blocks.div_ceil(PER_BLOCK as u64);
        total += blocks;
    }
    total * BLOCK as u64
}

/// The digests of all blocks, in whole blocks.
fn level(blocks: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut digests: Vec<u8> = blocks.chunks(BLOCK).flat_map(|block| digest(block, salt)).collect();
    digests.resize(digests.len().next_multiple_of(BLOCK), 0);
    digests
}

fn digest(block: &[u8], salt: &[u8]) -> [u8; DIGEST] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{run, tool};

    /// One level, exactly one block of digests, two levels.
    const BLOCKS: [usize; 4] = [2, 128, 129, 300];

    fn data(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK).map(|index| (index / 3 % 251) as u8 ^ (index / BLOCK) as u8).collect()
    }

    #[test]
    fn a_third_level_begins_where_one_block_no_longer_holds_the_second() {
        assert_eq!(size(128 * 128), (128 + 1) * 4096);
        assert_eq!(size(128 * 128 + 1), (129 + 2 + 1) * 4096);
    }

    #[test]
    fn veritysetup_finds_the_tree_whole_and_a_changed_byte() {
        for blocks in BLOCKS {
            let data = data(blocks);
            let tree = Tree::over(&data);
            assert_eq!((tree.bytes.len() as u64, tree.data_blocks), (size(blocks as u64), blocks as u64));
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("file");
            let verify = |bytes: &[&[u8]]| {
                std::fs::write(&file, bytes.concat()).unwrap();
                let mut command = tool("veritysetup");
                command.args(["verify", "--no-superblock", "--salt", &tree.salt]);
                command.args([format!("--hash-offset={}", data.len()), format!("--data-blocks={blocks}")]);
                run(command.arg(&file).arg(&file).arg(&tree.root))
            };
            verify(&[&data, &tree.bytes]).unwrap();
            let mut changed = data.clone();
            changed[blocks * BLOCK - 1] ^= 1;
            assert!(verify(&[&changed, &tree.bytes]).is_err(), "{blocks} blocks");
        }
    }
}
