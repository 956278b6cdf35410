//! The update file: a tar of `manifest.toml`, `manifest.toml.minisig` and `slot.squashfs`, in this order.
//!
//! So it can be looked into with tar(1) and signed with minisign(1), and read as a stream: what says whether the rest may be
//! believed comes first.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use tar::{Archive, Entries, EntryType, Header};

use crate::keys::{KeyError, Keys};
use crate::manifest::{self, Manifest, ManifestError};

/// The names in the file.
pub const MANIFEST: &str = "manifest.toml";
/// The signature of [`MANIFEST`], as minisign(1) writes it.
pub const SIGNATURE: &str = "manifest.toml.minisig";
/// The image of the slot.
pub const SLOT: &str = "slot.squashfs";
/// A longer signature is none, bytes.
const SIGNATURE_MAX: u64 = 4096;
/// How much is read and written at once, bytes.
const PIECE: usize = 1 << 20;

/// Why an update file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Reading failed, or the file ended too early.
    #[error("cannot read the update file")]
    Read(#[source] io::Error),
    /// Something else stands where this was expected.
    #[error("this is no update file: it has {found} where {wanted} should be")]
    Order {
        /// What is there.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// A part is larger than it can be.
    #[error("{name} of the update file has {size} bytes")]
    Size {
        /// Which.
        name: &'static str,
        /// Its size.
        size: u64,
    },
    /// Not signed by somebody who is trusted.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What was signed is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The slot's image is not what was signed.
    #[error("the image in the update file is not the one that was signed: its {what}")]
    Slot {
        /// What differs.
        what: &'static str,
    },
    /// What it is copied to failed.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
}

/// An update file whose manifest is signed by a trusted key; its image has not been looked at yet.
pub struct Bundle<'a, R: Read> {
    /// What it is.
    pub manifest: Manifest,
    /// The name of the key that signed it.
    pub signed_by: String,
    entries: Entries<'a, R>,
}

/// The stream of an update file.
pub fn stream<R: Read>(reader: R) -> Archive<R> {
    Archive::new(reader)
}

impl<'a, R: Read> Bundle<'a, R> {
    /// Reads the manifest and its signature.
    ///
    /// # Errors
    /// All of [`BundleError`] but those of the slot.
    pub fn open(archive: &'a mut Archive<R>, keys: &Keys) -> Result<Self, BundleError> {
        let mut entries = archive.entries().map_err(BundleError::Read)?;
        let text = read(&mut entries, MANIFEST, manifest::MAX_SIZE)?;
        let signature = read(&mut entries, SIGNATURE, SIGNATURE_MAX)?;
        let signed_by = keys.verify(&text, &String::from_utf8_lossy(&signature))?.to_owned();
        Ok(Self { manifest: Manifest::parse(&text)?, signed_by, entries })
    }

    /// Copies the slot's image, piece by piece; `progress` is told how many bytes have been. What was written must not be
    /// used when this fails: whether the image is the signed one is known at its end.
    ///
    /// # Errors
    /// [`BundleError::Read`], [`BundleError::Order`], [`BundleError::Slot`], [`BundleError::Write`].
    pub fn copy_slot(mut self, out: &mut impl Write, mut progress: impl FnMut(u64)) -> Result<(), BundleError> {
        let wanted = &self.manifest.slot;
        let mut image = next(&mut self.entries, SLOT)?;
        if image.size() != wanted.size {
            return Err(BundleError::Slot { what: "size" });
        }
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        while done < wanted.size {
            let length = usize::try_from(wanted.size - done).map_or(PIECE, |rest| rest.min(PIECE));
            // `read_exact`, so that a file which ends early is an error here and not a shorter image.
            image.read_exact(&mut piece[..length]).map_err(BundleError::Read)?;
            hash.update(&piece[..length]);
            out.write_all(&piece[..length]).map_err(BundleError::Write)?;
            done += length as u64;
            progress(done);
        }
        if hexadecimal(&hash.finalize()) != wanted.sha256 {
            return Err(BundleError::Slot { what: "checksum" });
        }
        drop(image);
        match self.entries.next() {
            None => Ok(()),
            Some(more) => {
                let found = more.map_or_else(|error| error.to_string(), |entry| name(&entry));
                Err(BundleError::Order { found, wanted: "its end" })
            }
        }
    }
}

/// The next part, which must have this name and be a regular file.
fn next<'a, R: Read>(entries: &mut Entries<'a, R>, wanted: &'static str) -> Result<tar::Entry<'a, R>, BundleError> {
    let order = |found: String| BundleError::Order { found, wanted };
    let entry = match entries.next() {
        None => return Err(order("its end".to_owned())),
        // A file that is no tar at all.
        Some(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(order(format!("no tar header ({error})")));
        }
        Some(entry) => entry.map_err(BundleError::Read)?,
    };
    let found = name(&entry);
    if found != wanted || entry.header().entry_type() != EntryType::Regular {
        return Err(order(found));
    }
    Ok(entry)
}

/// A name as it may be shown: it can hold anything.
fn name<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    let name = entry.path_bytes();
    let shown: String = String::from_utf8_lossy(&name).chars().take(64).collect();
    if shown.chars().all(|c| c.is_ascii_graphic()) { shown } else { format!("{shown:?}") }
}

fn read<R: Read>(entries: &mut Entries<'_, R>, name: &'static str, most: u64) -> Result<Vec<u8>, BundleError> {
    let mut entry = next(entries, name)?;
    let size = entry.size();
    if size > most {
        return Err(BundleError::Size { name, size });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(BundleError::Read)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(BundleError::Read(io::ErrorKind::UnexpectedEof.into())) }
}

/// Writes an update file. `image` must be what the manifest in `text` says. The same inputs give the same bytes; a signature is
/// another one each time (minisign's have noise in them).
///
/// # Errors
/// Those of `out` and `image`.
pub fn write(out: impl Write, text: &str, signature: &str, image: (impl Read, u64)) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    for (name, bytes) in [(MANIFEST, text), (SIGNATURE, signature)] {
        tar.append_data(&mut header(bytes.len() as u64), name, bytes.as_bytes())?;
    }
    let (image, size) = image;
    tar.append_data(&mut header(size), SLOT, image)?;
    tar.into_inner()?.flush()
}

fn header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The digest of a whole stream and its length in bytes.
///
/// # Errors
/// Those of `reader`.
pub fn digest(mut reader: impl Read) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok((hexadecimal(&hash.finalize()), total)),
            Ok(length) => {
                hash.update(&piece[..length]);
                total += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
