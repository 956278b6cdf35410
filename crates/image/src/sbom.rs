//! The bill of materials: every package, crate and library that a slot's bytes come from, as CycloneDX 1.5
//! (<https://cyclonedx.org/docs/1.5/json/>). It lies in the slot and beside the image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, Metadata, Package, PackageId};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::binaries::{PACKAGES, TARGET};
use crate::packages::{Pin, Store, hex};
use crate::source::Source;
use crate::tool::{cargo, epoch, missing, run, tool};

/// Where it lies in the slot.
pub const PLACE: &str = "usr/lib/headgate/sbom.cdx.json";

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its package URL (<https://github.com/package-url/purl-spec>).
    pub purl: String,
    /// SHA-256 of the file that it came as; crates and package files have one.
    pub sha256: Option<String>,
    /// SPDX expressions, or what the package's copyright file calls its licences.
    pub licenses: Vec<String>,
}

/// What of a document tells of licences.
#[derive(Debug, Default, Deserialize)]
pub struct Summary {
    /// Its components.
    pub components: Vec<Licensed>,
}

/// The licences of a component.
#[derive(Debug, Default, Deserialize)]
pub struct Licensed {
    #[serde(default)]
    licenses: Vec<Value>,
}

impl Summary {
    /// How many components are under which licence; one that is under several counts for each.
    pub fn licenses(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for choice in self.components.iter().flat_map(|component| &component.licenses) {
            let license = choice["expression"].as_str().or(choice["license"]["name"].as_str());
            *found.entry(license.unwrap_or("unknown").to_owned()).or_default() += 1;
        }
        found
    }
}

/// Everything that goes into a slot: what is not ours, crates, and what the linker adds.
pub fn components(source: &Source, base: Vec<Component>) -> Result<Vec<Component>> {
    let mut found = base;
    found.extend(crates(source)?);
    found.extend(linked()?);
    found.sort_unstable();
    Ok(found)
}

/// A package that was unpacked.
pub fn package(store: &Store, name: &str, unpacked: &Path) -> Result<Component> {
    let pin = store.taken().get(name).with_context(|| format!("{name} was not unpacked"))?;
    Ok(debian(pin, unpacked))
}

/// The document. The same components give the same bytes: its serial number is made of them, and its time is the image's.
pub fn document(version: &str, components: &[Component]) -> Result<Vec<u8>> {
    let list: Vec<Value> = components.iter().map(Component::json).collect();
    let time =
        UNIX_EPOCH + Duration::from_secs(u64::try_from(epoch()).context("the time of the image is before 1970")?);
    let time = humantime::format_rfc3339_seconds(time).to_string();
    let subject = json!({ "type": "firmware", "bom-ref": "headgate", "name": "headgate", "version": version,
                          "licenses": [{ "license": { "id": "GPL-3.0-or-later" } }] });
    let serial = serial(&serde_json::to_vec(&(&subject, &list, &time))?);
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": serial, "version": 1,
        "metadata": { "timestamp": time, "component": subject },
        "components": list,
    });
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

impl Component {
    fn json(&self) -> Value {
        let mut value = json!({ "type": "library", "bom-ref": self.purl, "name": self.name, "version": self.version, "purl": self.purl });
        if let Some(sha256) = &self.sha256 {
            value["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
        }
        if !self.licenses.is_empty() {
            // An expression stands alone (schema: `licenseChoice`), names may be many.
            value["licenses"] = match self.purl.starts_with("pkg:cargo/") {
                true => self.licenses.iter().map(|expression| json!({ "expression": expression })).collect(),
                false => self.licenses.iter().map(|name| json!({ "license": { "name": name } })).collect(),
            };
        }
        value
    }
}

/// A UUID of version 8, RFC 9562 section 5.8: its bits are those of a checksum.
fn serial(content: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(content)[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    format!("urn:uuid:{}", parts.join("-"))
}

fn debian(pin: &Pin, unpacked: &Path) -> Component {
    let copyright = unpacked.join("usr/share/doc").join(&pin.package).join("copyright");
    let text = std::fs::read_to_string(copyright).unwrap_or_default();
    Component {
        name: pin.package.clone(),
        version: pin.version.clone(),
        // purl: what is not unreserved in a URL is percent-encoded, the epoch's colon too.
        purl: format!("pkg:deb/debian/{}@{}?arch=amd64&distro=bookworm", escape(&pin.package), escape(&pin.version)),
        sha256: Some(pin.sha256.clone()),
        licenses: copyright_licenses(&text),
    }
}

/// What is not unreserved in a URL is percent-encoded.
pub fn escape(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What licences are called in prose that names no file of theirs, and here.
const WRITTEN_OUT: [(&str, &str); 2] = [("GNU Lesser General Public", "LGPL"), ("GNU General Public", "GPL")];

/// The short names of a copyright file of the machine-readable format (Debian's copyright-format 1.0). Older files are prose:
/// those name what they are under by where its text lies, or write it out.
fn copyright_licenses(text: &str) -> Vec<String> {
    let mut names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() {
        let mentioned = text.split("/usr/share/common-licenses/").skip(1);
        let word = |rest: &str| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.').next().map(str::to_owned)
        };
        let words = mentioned.filter_map(word).map(|name| name.trim_end_matches('.').to_owned());
        names = words.filter(|name| !name.is_empty()).collect();
    }
    if names.is_empty() {
        let written_out = WRITTEN_OUT.iter().filter(|(long, _)| text.contains(long));
        names = written_out.map(|(_, short)| (*short).to_owned()).collect();
    }
    names.into_iter().collect()
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The crates that are linked into our programs.
fn crates(source: &Source) -> Result<Vec<Component>> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET];
    let output = run(cargo().args(arguments).current_dir(source.root()))?;
    let metadata = cargo_metadata::MetadataCommand::parse(std::str::from_utf8(&output)?)?;
    let Lock { package } = source.read_toml("Cargo.lock")?;
    let sums: BTreeMap<_, _> =
        package.into_iter().map(|locked| ((locked.name, locked.version), locked.checksum)).collect();
    let component = |package: &Package| {
        let (name, version) = (package.name.to_string(), package.version.to_string());
        Component {
            purl: format!("pkg:cargo/{name}@{}", escape(&version)),
            sha256: sums.get(&(name.clone(), version.clone())).cloned().flatten(),
            // `MIT/Apache-2.0` is how it was written before SPDX.
            licenses: package.license.iter().map(|license| license.replace('/', " OR ")).collect(),
            name,
            version,
        }
    };
    Ok(linked_packages(&metadata)?.into_iter().map(component).collect())
}

/// Our packages and what they need when they run; what only builds or tests is not in the programs.
fn linked_packages(metadata: &Metadata) -> Result<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo resolved nothing")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut open: Vec<&PackageId> = metadata
        .packages
        .iter()
        .filter(|package| PACKAGES.contains(&package.name.as_str()))
        .map(|package| &package.id)
        .collect();
    ensure!(open.len() == PACKAGES.len(), "the workspace lacks one of {}", PACKAGES.join(", "));
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo did not resolve {id}"))?;
        let runs = node
            .deps
            .iter()
            .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
        open.extend(runs.map(|dependency| &dependency.pkg));
    }
    Ok(metadata.packages.iter().filter(|package| seen.contains(&package.id)).collect())
}

/// What the linker puts into a static program beside crates: the standard library and the C library.
fn linked() -> Result<Vec<Component>> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output =
        tool(&rustc).arg("--version").stdin(Stdio::null()).output().map_err(|error| missing("rustc", error))?;
    let rust = String::from_utf8_lossy(&output.stdout).into_owned();
    let rust = rust.split_whitespace().nth(1).context("rustc says no version")?;
    let libc = run(tool("dpkg-query").args(["-W", "-f", "${Version}", "libc6-dev"]))?;
    let libc = String::from_utf8(libc)?.trim().to_owned();
    Ok(vec![
        Component {
            name: "rust-std".to_owned(),
            version: rust.to_owned(),
            purl: format!("pkg:generic/rust-std@{}", escape(rust)),
            sha256: None,
            licenses: vec!["MIT OR Apache-2.0".to_owned()],
        },
        Component {
            name: "libc6-dev".to_owned(),
            purl: format!("pkg:deb/debian/libc6-dev@{}?arch=amd64&distro=bookworm", escape(&libc)),
            version: libc,
            sha256: None,
            licenses: vec!["LGPL-2.1-or-later".to_owned()],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_of_the_programs_are_listed_and_no_others() {
        let found = crates(&Source::find().unwrap()).unwrap();
        let has = |name: &str| found.iter().find(|component| component.name == name);
        let serde = has("serde").unwrap();
        assert_eq!(serde.sha256.as_ref().unwrap().len(), 64);
        assert_eq!(serde.licenses, ["MIT OR Apache-2.0"]);
        assert!(has("headgate").is_some() && has("headgate-init").is_some());
        assert!(has("headgate-image").is_none() && has("proptest").is_none(), "they are in no program of the image");
        assert!(found.iter().all(|component| !component.licenses.is_empty()), "a crate without a licence");
    }

    #[test]
    fn the_same_parts_give_the_same_bytes_and_others_another_number() {
        let part = |version: &str| Component {
            name: "x".to_owned(),
            version: version.to_owned(),
            purl: format!("pkg:cargo/x@{version}"),
            sha256: None,
            licenses: vec!["MIT".to_owned()],
        };
        let document = |version| document("1.0.0", &[part(version)]).unwrap();
        assert_eq!(document("1"), document("1"));
        let number = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap()["serialNumber"].clone();
        assert_ne!(number(document("1")), number(document("2")));
        assert_eq!(number(document("1")).as_str().unwrap().len(), "urn:uuid:".len() + 36);
    }

    #[test]
    fn licences_are_found_in_both_kinds_of_copyright_files() {
        assert_eq!(
            copyright_licenses("Files: *\nLicense: GPL-2\n text\nLicense: BSD-3-clause\nLicense: GPL-2\n"),
            ["BSD-3-clause", "GPL-2"]
        );
        assert_eq!(copyright_licenses("see /usr/share/common-licenses/GPL-2.\n"), ["GPL-2"]);
        let prose =
            "texts are in /usr/share/common-licenses/ .\nunder the GNU Lesser General Public\nLicense, version 2.1";
        assert_eq!(copyright_licenses(prose), ["LGPL"]);
        assert_eq!(escape("1:2.0+deb~1"), "1%3A2.0%2Bdeb~1");
    }
}
