//! Every parser of the product, given the seeds of `fuzz/`, and each of them damaged in fifty ways. `make fuzz` is the
//! long form of this: it looks for bytes that reach new code.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use headgate_nft::wire::decode_messages;
use headgate_tests::hostile;

/// Versions of each seed.
const DAMAGED: usize = 50;

/// xorshift64: the same damage in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Bytes changed, taken out, doubled, or put in from another seed.
fn damage(dice: &mut Dice, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let from = dice.below(bytes.len() + 1);
        let to = (from + dice.below(40)).min(bytes.len());
        match dice.below(5) {
            0 => bytes.truncate(from.max(1)),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 if !other.is_empty() => {
                let piece = dice.below(other.len());
                let piece = &other[piece..(piece + 40).min(other.len())];
                drop(bytes.splice(from..to, piece.iter().copied()));
            }
            _ => bytes[from..to].iter_mut().take(4).for_each(|byte| *byte = dice.below(256) as u8),
        }
    }
    bytes
}

fn files(directory: &Path, name: fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false if name(path.file_name().unwrap().to_str().unwrap()) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no seeds in {}", directory.display());
    found
}

fn seeds(directory: &str, name: fn(&str) -> bool) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    files(&root.join(directory), name).into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn endure(seeds: &[Vec<u8>], parser: fn(&[u8])) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        parser(seed);
        for _ in 0..DAMAGED {
            let other = &seeds[dice.below(seeds.len())];
            parser(&damage(&mut dice, seed, other));
        }
    }
}

#[test]
fn configurations() {
    endure(&seeds("cases", |name| name.ends_with(".toml")), hostile::configuration);
}

#[test]
fn messages_about_rulesets() {
    let seeds = seeds("../fuzz/seeds/ruleset_messages", |_| true);
    assert!(seeds.iter().all(|seed| decode_messages(seed).is_some()), "a dump cannot be read: record it again");
    endure(&seeds, hostile::ruleset_messages);
}

#[test]
fn messages_about_interfaces_and_flows() {
    endure(&seeds("../fuzz/seeds/kernel_messages", |_| true), hostile::kernel_messages);
}

#[test]
fn files_of_the_boot() {
    endure(&seeds("../fuzz/seeds/boot_files", |_| true), hostile::boot_files);
}
