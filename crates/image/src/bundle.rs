//! `headgate-image bundle`, `sign` and `verify`: update files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use headgate_update::bundle::{self, Bundle, digest};
use headgate_update::keys::Keys;
use headgate_update::manifest::{FORMAT, Manifest, SlotImage};
use minisign::{KeyPair, PublicKey, SecretKeyBox};
use semver::Version;
use serde::Serialize;

use crate::parts::System;
use crate::progress::{Progress, size};

/// Makes a pair of keys without a password: `NAME.key`, which signs, and `NAME.pub`, which goes into images. The same files as
/// `minisign -G -W` makes.
pub fn make_key(name: &Path) -> Result<[PathBuf; 2]> {
    let paths = ["key", "pub"].map(|extension| name.with_extension(extension));
    for path in &paths {
        ensure!(!path.exists(), "{} exists: it is not overwritten", path.display());
    }
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair()?;
    let [secret, public] = &paths;
    write_secret(secret, &sk.to_box(Some("Headgate update key, secret"))?.into_string())?;
    std::fs::write(public, pk.to_box()?.into_string()).with_context(|| format!("cannot write {}", public.display()))?;
    Ok(paths)
}

/// Readable by its owner alone from its first byte on.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What to make an update file from.
#[derive(Debug, Clone)]
pub struct Options {
    /// A disk image, or the squashfs of a slot.
    pub image: PathBuf,
    /// Where the update file goes.
    pub output: PathBuf,
    /// The secret key that signs it.
    pub key: PathBuf,
    /// The oldest version that can be updated with it.
    pub minimum_version: Option<Version>,
}

/// Makes an update file of an image's system.
pub fn make(options: &Options, progress: &Progress) -> Result<Manifest> {
    let system = System::find(&options.image)?;
    let (version, board) = system.identity()?;
    let (sha256, size) = progress.step("checksum", || {
        let (sha256, bytes) = digest(system.open()?)?;
        let shown = format!("{} {sha256}", size(bytes));
        Ok(((sha256, bytes), shown))
    })?;
    let slot = SlotImage { size, sha256 };
    let minimum_version = options.minimum_version.clone();
    let manifest = Manifest { format: FORMAT, board, version, minimum_version, slot };
    let text = manifest.to_text();
    let signature = sign_text(&text, &options.key)?;
    progress.step("update file", || {
        publish(&options.output, |out| Ok(bundle::write(out, &text, &signature, (system.open()?, size))?))?;
        Ok(((), options.output.display().to_string()))
    })?;
    Ok(manifest)
}

/// Signs an update file anew: the system in it stays. Whether it was signed before, and by whom, does not matter.
pub fn sign(path: &Path, key: &Path) -> Result<()> {
    let file = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let mut archive = bundle::stream(BufReader::new(file()?));
    let mut entries = archive.entries()?;
    let mut part = |wanted: &str| -> Result<Vec<u8>> {
        let mut entry = entries.next().with_context(|| format!("{} ends before {wanted}", path.display()))??;
        ensure!(entry.path_bytes() == wanted.as_bytes(), "{} is no update file: {wanted} is missing", path.display());
        let mut bytes = Vec::new();
        entry.by_ref().take(1 << 20).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = part(bundle::MANIFEST)?;
    part(bundle::SIGNATURE)?;
    let manifest = Manifest::parse(&text)?;
    let text = String::from_utf8(text)?;
    let signature = sign_text(&text, key)?;
    let image = entries.next().with_context(|| format!("{} ends before its image", path.display()))??;
    ensure!(image.size() == manifest.slot.size, "{}: its image is not what its manifest says", path.display());
    publish(path, |out| Ok(bundle::write(out, &text, &signature, (image, manifest.slot.size))?))
}

/// Written beside its place and renamed: whole or not at all.
fn publish(path: &Path, write: impl FnOnce(BufWriter<&File>) -> Result<()>) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = tempfile::NamedTempFile::new_in(parent).with_context(|| format!("cannot write {}", parent.display()))?;
    write(BufWriter::new(new.as_file())).with_context(|| format!("cannot write {}", path.display()))?;
    new.as_file().sync_all()?;
    new.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Asks for the password on the terminal when the key has one.
fn sign_text(text: &str, key: &Path) -> Result<String> {
    let read = std::fs::read_to_string(key).with_context(|| format!("cannot read {}", key.display()))?;
    let boxed = || SecretKeyBox::from_string(&read).with_context(|| format!("{} is no secret key", key.display()));
    let secret = match boxed()?.into_unencrypted_secret_key() {
        Ok(secret) => secret,
        Err(_) => boxed()?
            .into_secret_key(None)
            .with_context(|| format!("{} is no secret key of minisign, or its password is another", key.display()))?,
    };
    let public = PublicKey::from_secret_key(&secret)?;
    let comment = Some("Headgate update");
    Ok(minisign::sign(Some(&public), &secret, Cursor::new(text), comment, comment)?.into_string())
}

/// What an update file says, once it was found to be whole and signed.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// What is in it.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// The name of the key that signed it.
    pub signed_by: String,
}

/// Reads an update file to its end, as a box does that installs it.
pub fn verify(path: &Path, keys: &[PathBuf]) -> Result<Verified> {
    ensure!(!keys.is_empty(), "whose signature? --key names a public key, once or several times");
    let mut trusted = Keys::default();
    for key in keys {
        let text = std::fs::read_to_string(key).with_context(|| format!("cannot read {}", key.display()))?;
        trusted.add(&key.file_stem().unwrap_or_default().to_string_lossy(), &text, key)?;
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut archive = bundle::stream(BufReader::new(file));
    let bundle = Bundle::open(&mut archive, &trusted)?;
    let verified = Verified { manifest: bundle.manifest.clone(), signed_by: bundle.signed_by.clone() };
    bundle.copy_slot(&mut std::io::sink(), |_| ())?;
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{run, tool};

    /// A slot with nothing in it but what an update needs to know.
    fn slot(directory: &Path, version: &str) -> PathBuf {
        let tree = directory.join("tree");
        std::fs::create_dir_all(tree.join("usr/lib/headgate")).unwrap();
        let notes = format!("version={version}\nboard=x86_64\nenv-offset=18944\n");
        std::fs::write(tree.join("usr/lib/headgate/image"), notes).unwrap();
        let slot = directory.join("slot.squashfs");
        run(tool("mksquashfs").arg(&tree).arg(&slot).args(["-noappend", "-quiet", "-no-progress"])).unwrap();
        slot
    }

    #[test]
    fn an_update_is_made_verified_and_signed_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let [old_key, old_pub] = make_key(&path("old")).unwrap();
        let [new_key, new_pub] = make_key(&path("new")).unwrap();
        assert!(make_key(&path("old")).unwrap_err().to_string().contains("not overwritten"));
        let minimum_version = Some(Version::new(1, 0, 0));
        let (image, output) = (slot(directory.path(), "1.2.3-rc.1"), path("headgate.update"));
        let options = Options { image, output: output.clone(), key: old_key, minimum_version };
        let manifest = make(&options, &Progress::new()).unwrap();
        assert_eq!((manifest.version.to_string().as_str(), manifest.board.as_str()), ("1.2.3-rc.1", "x86_64"));
        let verified = verify(&output, &[old_pub.clone(), new_pub.clone()]).unwrap();
        assert_eq!((verified.signed_by.as_str(), &verified.manifest), ("old", &manifest));
        assert!(verify(&output, std::slice::from_ref(&new_pub)).is_err());
        sign(&output, &new_key).unwrap();
        assert_eq!(verify(&output, &[new_pub]).unwrap().signed_by, "new");
        assert!(verify(&output, &[old_pub]).is_err());
    }

    #[test]
    fn what_is_no_image_or_no_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let junk = directory.path().join("junk");
        std::fs::write(&junk, vec![7; 8192]).unwrap();
        let [key, public] = make_key(&directory.path().join("a")).unwrap();
        let options = |image: &Path, key: &Path| Options {
            image: image.to_owned(),
            output: directory.path().join("out"),
            key: key.to_owned(),
            minimum_version: None,
        };
        let error = make(&options(&junk, &key), &Progress::new()).unwrap_err();
        assert!(error.to_string().contains("no partition table"), "{error:#}");
        let good = slot(directory.path(), "1.0.0");
        let error = make(&options(&good, &junk), &Progress::new()).unwrap_err();
        assert!(error.to_string().contains("no secret key"), "{error:#}");
        assert!(!directory.path().join("out").exists());
        assert!(verify(&junk, &[public]).is_err());
        assert!(sign(&junk, &key).is_err());
        assert_eq!(std::fs::read(&junk).unwrap(), vec![7; 8192], "what is no update file is left alone");
    }
}
