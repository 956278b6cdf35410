//! Where everything is on the disk: `image/layout.toml` as numbers.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A sector, bytes. Disks with 4 KiB sectors emulate these; firmware boots from nothing else.
pub const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// The first MiB is the GPT and alignment; the last one the second GPT.
const MARGIN: u64 = MIB;

/// A partition table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Layout {
    disk_id: String,
    partitions: Vec<Partition>,
}

/// One partition.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Partition {
    /// The GPT name; `headgate-init` finds partitions by it.
    pub name: String,
    size_mib: u64,
    #[serde(rename = "type")]
    kind: String,
    /// What the builder puts there.
    pub content: Content,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// GRUB's core image.
    BiosGrub,
    /// The EFI system partition.
    Esp,
    /// GRUB's environment block.
    Env,
    /// The system.
    Slot,
    /// Room for an update.
    Empty,
    /// What survives updates.
    Data,
}

/// Where a partition is, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// From the start of the disk.
    pub offset: u64,
    /// Its size.
    pub size: u64,
}

impl Layout {
    /// Checks what the rest relies on.
    pub fn check(&self) -> Result<()> {
        for content in [Content::BiosGrub, Content::Esp, Content::Env, Content::Slot, Content::Data] {
            let count = self.partitions.iter().filter(|partition| partition.content == content).count();
            ensure!(count == 1, "image/layout.toml: {count} partitions with content {content:?}, one is needed");
        }
        for (index, partition) in self.partitions.iter().enumerate() {
            let (name, size) = (&partition.name, partition.size_mib);
            ensure!(size > 0, "image/layout.toml: partition {name} has no size");
            ensure!(
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
                "image/layout.toml: {name:?} is no name (letters, digits and '-')"
            );
            let earlier = &self.partitions[..index];
            ensure!(!earlier.iter().any(|other| other.name == *name), "image/layout.toml: two partitions named {name}");
        }
        let last = self.partitions.last().context("image/layout.toml has no partitions")?;
        ensure!(
            last.content == Content::Data,
            "image/layout.toml: data must be the last partition, so that it can grow"
        );
        Ok(())
    }

    /// The size of the whole disk, bytes.
    pub fn disk_size(&self) -> u64 {
        2 * MARGIN + self.partitions.iter().map(|partition| partition.size_mib * MIB).sum::<u64>()
    }

    /// The partitions with their places, in their order on the disk.
    pub fn places(&self) -> Vec<(&Partition, Extent)> {
        let mut offset = MARGIN;
        let place = |partition: &_| {
            let Partition { size_mib, .. } = partition;
            let extent = Extent { offset, size: size_mib * MIB };
            offset += extent.size;
            extent
        };
        let extents: Vec<Extent> = self.partitions.iter().map(place).collect();
        self.partitions.iter().zip(extents).collect()
    }

    /// The place of the partition that holds `content`.
    pub fn place(&self, content: Content) -> Result<Extent> {
        let found = self.places().into_iter().find(|(partition, _)| partition.content == content);
        found.map(|(_, extent)| extent).with_context(|| format!("no partition with content {content:?}"))
    }

    /// The identifier of a partition, as the kernel knows it by `PARTUUID=`.
    pub fn identifier(&self, name: &str) -> Result<String> {
        let index = self.partitions.iter().position(|partition| partition.name == name);
        let index = index.with_context(|| format!("image/layout.toml has no partition {name}"))?;
        Ok(self.numbered(index + 1))
    }

    /// Partition identifiers are the disk's with the number in the last digits.
    fn numbered(&self, number: usize) -> String {
        let family = &self.disk_id[..self.disk_id.len().saturating_sub(2)];
        format!("{family}{number:02X}")
    }

    /// The table as sfdisk(8) reads it.
    pub fn sfdisk_script(&self) -> String {
        let mut script = format!("label: gpt\nlabel-id: {}\n", self.disk_id);
        for (index, (partition, extent)) in self.places().into_iter().enumerate() {
            let (start, size) = (extent.offset / SECTOR, extent.size / SECTOR);
            let Partition { name, kind, .. } = partition;
            let identifier = self.numbered(index + 1);
            writeln!(script, "start={start}, size={size}, type={kind}, name={name}, uuid={identifier}")
                .expect("writing to a string cannot fail");
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::tool::{run, run_with_input, tool};

    fn layout() -> Layout {
        toml::from_str(include_str!("../../../image/layout.toml")).unwrap()
    }

    #[test]
    fn partitions_follow_each_other_and_leave_room_for_both_tables() {
        let layout = layout();
        layout.check().unwrap();
        let places = layout.places();
        assert_eq!(places[0].1.offset, MIB);
        for pair in places.windows(2) {
            assert_eq!(pair[0].1.offset + pair[0].1.size, pair[1].1.offset);
        }
        let last = places.last().unwrap().1;
        assert_eq!(last.offset + last.size + MIB, layout.disk_size());
    }

    #[test]
    fn grub_finds_its_partitions_by_number() {
        // image/grub.cfg and the prefix in the core image name them so.
        let names: Vec<String> = layout().partitions.into_iter().map(|partition| partition.name).collect();
        assert_eq!(names, ["bios-grub", "esp", "env", "slot-a", "slot-b", "data"]);
    }

    #[test]
    fn sfdisk_writes_the_table_that_we_meant() {
        let layout = layout();
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        std::fs::File::create(&disk).unwrap().set_len(layout.disk_size()).unwrap();
        run_with_input(tool("sfdisk").arg("-q").arg(&disk), layout.sfdisk_script().as_bytes()).unwrap();
        let table: Value = serde_json::from_slice(&run(tool("sfdisk").arg("-J").arg(&disk)).unwrap()).unwrap();
        let table = &table["partitiontable"];
        assert_eq!(table["label"], "gpt");
        assert_eq!(table["id"].as_str().unwrap().to_lowercase(), layout.disk_id);
        for (index, (partition, extent)) in layout.places().into_iter().enumerate() {
            let written = &table["partitions"][index];
            assert_eq!(written["name"], *partition.name);
            assert_eq!(written["start"], extent.offset / SECTOR);
            assert_eq!(written["size"], extent.size / SECTOR);
            assert_eq!(written["type"], *partition.kind);
        }
    }

    #[test]
    fn layouts_that_cannot_work_are_refused() {
        let text = include_str!("../../../image/layout.toml");
        for (change, to, expected) in [
            ("name = \"slot-b\"", "name = \"slot-a\"", "two partitions named slot-a"),
            ("content = \"env\"", "content = \"empty\"", "0 partitions with content Env"),
            ("size-mib = 40", "size-mib = 0", "esp has no size"),
            ("name = \"esp\"", "name = \"e,s\"", "is no name"),
        ] {
            let layout: Layout = toml::from_str(&text.replace(change, to)).unwrap();
            let error = layout.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(toml::from_str::<Layout>(&text.replace("size-mib = 40", "size = 40")).is_err());
    }
}
