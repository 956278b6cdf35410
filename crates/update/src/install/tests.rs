use std::io::Cursor;

use minisign::KeyPair;
use tempfile::TempDir;

use super::*;
use crate::bundle::{self, MANIFEST, SLOT};
use crate::grubenv::SIZE;
use crate::keys::{KeyError, Keys};
use crate::manifest::{FORMAT, SlotImage};

const OFFSET: u64 = 18944;

/// A machine whose partitions are files.
fn machine(directory: &TempDir, running: Slot) -> Machine {
    let environment = Environment { device: directory.path().join("env"), offset: OFFSET };
    let mut disk = vec![0xaa; OFFSET as usize + 4 * SIZE];
    let mut block = Block::fresh();
    block.mark_good(running);
    disk[OFFSET as usize..][..SIZE].copy_from_slice(&block.to_bytes().unwrap());
    std::fs::write(&environment.device, disk).unwrap();
    let other = directory.path().join("slot");
    std::fs::write(&other, vec![0x55; 4 << 20]).unwrap();
    let board = "x86_64".to_owned();
    Machine { running, board, version: Version::new(1, 0, 0), other, environment }
}

fn image() -> Vec<u8> {
    (0..(1 << 20) + 77_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn manifest(version: Version) -> Manifest {
    let (sha256, size) = digest(Cursor::new(image())).unwrap();
    let slot = SlotImage { size, sha256 };
    Manifest { format: FORMAT, board: "x86_64".to_owned(), version, minimum_version: None, slot }
}

/// Somebody who signs.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().unwrap())
    }

    fn trust(&self, keys: &mut Keys, name: &str) {
        keys.add(name, &self.0.pk.to_box().unwrap().into_string(), Path::new(name)).unwrap();
    }

    fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        self.trust(&mut keys, "release");
        keys
    }

    fn sign(&self, text: &str) -> String {
        let signed = minisign::sign(Some(&self.0.pk), &self.0.sk, Cursor::new(text), None, None);
        signed.unwrap().into_string()
    }

    fn bundle(&self, manifest: &Manifest, image: &[u8]) -> Vec<u8> {
        let text = manifest.to_text();
        let mut out = Vec::new();
        bundle::write(&mut out, &text, &self.sign(&text), (image, image.len() as u64)).unwrap();
        out
    }
}

fn install(machine: &Machine, file: &[u8], keys: &Keys, downgrade: Downgrade) -> Result<Manifest, InstallError> {
    let mut archive = bundle::stream(file);
    let bundle = Bundle::open(&mut archive, keys)?;
    machine.check(&bundle.manifest, downgrade)?;
    machine.install(bundle, |_| ())
}

/// What of the two slots counts: `ORDER`, `A_OK`, `B_OK`.
fn counts(machine: &Machine) -> [String; 3] {
    let block = machine.environment.read().unwrap();
    ["ORDER", "A_OK", "B_OK"].map(|name| block.get(name).unwrap().to_owned())
}

#[test]
fn an_update_is_written_read_back_and_tried_next() {
    for (running, order) in [(Slot::A, "B A"), (Slot::B, "A B")] {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(&directory, running);
        let signer = Signer::new();
        let file = signer.bundle(&manifest(Version::new(1, 1, 0)), &image());
        let mut stages = Vec::new();
        let mut archive = bundle::stream(&file[..]);
        let bundle = Bundle::open(&mut archive, &signer.keys()).unwrap();
        assert_eq!(bundle.signed_by, "release");
        machine.install(bundle, |progress| stages.push(progress)).unwrap();
        assert_eq!(&std::fs::read(&machine.other).unwrap()[..image().len()], image());
        assert_eq!(counts(&machine), [order, "1", "1"].map(str::to_owned));
        let block = machine.environment.read().unwrap();
        assert_eq!(block.get(&format!("{}_VERSION", running.other())), Some("1.1.0"));
        assert_eq!(stages.first().map(|first| (first.stage, first.done)), Some((Stage::Writing, 1 << 20)));
        assert_eq!(stages.last().map(|last| (last.stage, last.done)), Some((Stage::Verifying, image().len() as u64)));
    }
}

#[test]
fn whatever_is_wrong_with_the_file_the_running_slot_alone_counts() {
    let signer = Signer::new();
    let keys = signer.keys();
    let good = signer.bundle(&manifest(Version::new(1, 1, 0)), &image());
    let at = |needle: &str| good.windows(needle.len()).position(|bytes| bytes == needle.as_bytes()).unwrap();
    let flipped = |position: usize| {
        let mut file = good.clone();
        file[position] ^= 1;
        file
    };
    let short = image()[..image().len() - 1].to_vec();
    let mut other = image();
    other[99] ^= 1;
    let mut behind = good[..good.len() - 1024].to_vec();
    behind.extend(&signer.bundle(&manifest(Version::new(1, 1, 0)), &image())[..]);
    let hostile: [(&str, Vec<u8>); 12] = [
        ("nothing", Vec::new()),
        ("no tar", image()),
        ("cut in its manifest", good[..600].to_vec()),
        ("cut before the slot", good[..at(SLOT)].to_vec()),
        ("cut in the slot", good[..good.len() / 2].to_vec()),
        ("a bit of the manifest", flipped(at("version = "))),
        ("a bit of the signature", flipped(at("\ntrusted comment") + 20)),
        ("a bit of the slot", flipped(good.len() / 2)),
        ("another image under the same signature", signer.bundle(&manifest(Version::new(1, 1, 0)), &other)),
        ("a shorter image", signer.bundle(&manifest(Version::new(1, 1, 0)), &short)),
        ("something behind its end", behind),
        ("signed by a stranger", Signer::new().bundle(&manifest(Version::new(1, 1, 0)), &image())),
    ];
    for (what, file) in hostile {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(&directory, Slot::A);
        let error = install(&machine, &file, &keys, Downgrade::Allow).expect_err(what);
        assert_eq!(counts(&machine), ["A B", "1", "0"].map(str::to_owned), "{what}: {error}");
    }
}

#[test]
fn a_refusal_touches_nothing() {
    let signer = Signer::new();
    let refused = |manifest: Manifest, wanted: fn(&InstallError) -> bool| {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(&directory, Slot::A);
        machine.environment.change(|block| block.set(FLOOR, "1.2.0")).unwrap();
        let before = std::fs::read(&machine.environment.device).unwrap();
        let file = signer.bundle(&manifest, &image());
        let error = install(&machine, &file, &signer.keys(), Downgrade::Refuse).unwrap_err();
        assert!(wanted(&error), "{error}");
        assert_eq!(std::fs::read(&machine.environment.device).unwrap(), before);
        assert!(std::fs::read(&machine.other).unwrap().iter().all(|&byte| byte == 0x55));
    };
    let newer = manifest(Version::new(2, 0, 0));
    let board = Manifest { board: "aarch64".to_owned(), ..newer.clone() };
    refused(board, |error| matches!(error, InstallError::Board { .. }));
    let minimum = Manifest { minimum_version: Some(Version::new(1, 0, 1)), ..newer.clone() };
    refused(minimum, |error| matches!(error, InstallError::TooOld { .. }));
    let huge = Manifest { slot: SlotImage { size: 5 << 20, ..newer.slot.clone() }, ..newer };
    refused(huge, |error| matches!(error, InstallError::NoRoom { capacity, .. } if *capacity == 4 << 20));
    // Replayed: it was signed once, and has run here, but something newer has as well.
    refused(manifest(Version::new(1, 1, 9)), |error| matches!(error, InstallError::Downgrade { .. }));
    refused(manifest(Version::new(0, 9, 0)), |error| matches!(error, InstallError::Downgrade { .. }));
}

#[test]
fn who_insists_gets_an_older_version() {
    let signer = Signer::new();
    let directory = tempfile::tempdir().unwrap();
    let machine = machine(&directory, Slot::A);
    let file = signer.bundle(&manifest(Version::new(0, 9, 0)), &image());
    install(&machine, &file, &signer.keys(), Downgrade::Allow).unwrap();
    assert_eq!(counts(&machine), ["B A", "1", "1"].map(str::to_owned));
}

#[test]
fn keys_are_rotated_by_trusting_both_for_a_while() {
    let (old, new) = (Signer::new(), Signer::new());
    let mut keys = old.keys();
    new.trust(&mut keys, "release-2");
    let text = manifest(Version::new(1, 1, 0)).to_text();
    assert_eq!(keys.verify(text.as_bytes(), &old.sign(&text)).unwrap(), "release");
    assert_eq!(keys.verify(text.as_bytes(), &new.sign(&text)).unwrap(), "release-2");
    let error = new.keys().verify(text.as_bytes(), &old.sign(&text)).unwrap_err();
    assert!(matches!(error, KeyError::Stranger { .. }), "{error}");
    assert!(matches!(Keys::default().verify(b"", ""), Err(KeyError::None)));
    assert!(matches!(keys.verify(text.as_bytes(), "garbage"), Err(KeyError::Signature(_))));
}

#[test]
fn a_damaged_key_of_the_image_is_an_error_and_no_directory_is_no_key() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(Keys::read(&directory.path().join("gone")).unwrap().names(), Vec::<String>::new());
    let signer = Signer::new();
    std::fs::write(directory.path().join("b.pub"), signer.0.pk.to_box().unwrap().into_string()).unwrap();
    std::fs::write(directory.path().join("README"), "no key").unwrap();
    assert_eq!(Keys::read(directory.path()).unwrap().names(), ["b"]);
    std::fs::write(directory.path().join("a.pub"), "untrusted comment: x\nnonsense\n").unwrap();
    assert!(matches!(Keys::read(directory.path()), Err(KeyError::Key { .. })));
}

#[test]
fn minisigns_own_program_makes_and_reads_what_we_do() {
    let directory = tempfile::tempdir().unwrap();
    let minisign = |arguments: &[&str]| {
        let run = std::process::Command::new("minisign").args(arguments).current_dir(directory.path()).output();
        let run = run.expect("minisign is needed (Debian package minisign)");
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    };
    minisign(&["-G", "-W", "-p", "theirs.pub", "-s", "theirs.key"]);
    let text = manifest(Version::new(1, 1, 0)).to_text();
    std::fs::write(directory.path().join(MANIFEST), &text).unwrap();
    minisign(&["-S", "-s", "theirs.key", "-m", MANIFEST]);
    let signature = std::fs::read_to_string(directory.path().join(format!("{MANIFEST}.minisig"))).unwrap();
    let keys = Keys::read(directory.path()).unwrap();
    assert_eq!(keys.verify(text.as_bytes(), &signature).unwrap(), "theirs");

    let ours = Signer::new();
    std::fs::write(directory.path().join("ours.pub"), ours.0.pk.to_box().unwrap().into_string()).unwrap();
    std::fs::write(directory.path().join("ours.minisig"), ours.sign(&text)).unwrap();
    minisign(&["-V", "-p", "ours.pub", "-m", MANIFEST, "-x", "ours.minisig"]);
}
