//! The disk of a box, with a healthy system in slot A.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use headgate_image::layout::{Content, Layout};
use headgate_image::parts::System;
use headgate_image::progress::Progress;
use headgate_image::qemu::{Firmware, Machine, Options, Writes};
use headgate_image::source::Source;
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};
use headgate_image::{binaries, build, bundle};
use headgate_update::environment::Environment;
use headgate_update::grubenv::{Block, Slot};

/// A disk that can be written to, with a healthy system in slot A.
pub(crate) struct Disk {
    pub(crate) source: Source,
    pub(crate) layout: Layout,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) image: PathBuf,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let source = Source::find().unwrap();
        let standard = build::Options::standard(&source);
        build::build(&source, &standard, &Progress::new()).unwrap();
        let directory = tempfile::tempdir_in(source.join("build")).unwrap();
        let image = directory.path().join("disk.img");
        run(tool("cp").arg("--sparse=always").arg(&standard.output).arg(&image)).unwrap();
        let layout = source.read_toml("image/layout.toml").unwrap();
        Self { source, layout, directory, image }
    }

    /// A word on the kernel's command line, for every slot.
    pub(crate) fn add_parameter(&self, word: &str) {
        let text = std::fs::read_to_string(self.source.join("image/grub.cfg")).unwrap();
        let line = "headgate.slot=$slot";
        assert!(text.contains(line));
        let changed = self.directory.path().join("grub.cfg");
        std::fs::write(&changed, text.replace(line, &format!("{line} {word}"))).unwrap();
        let esp = format!("{}@@{}", self.image.display(), self.layout.place(Content::Esp).unwrap().offset);
        run(tool("mcopy").args(["-o", "-i", &esp]).arg(&changed).arg("::grub/grub.cfg")).unwrap();
    }

    /// A copy of the data of a box that is off. The power was cut, so the journal is replayed.
    pub(crate) fn data(&self) -> PathBuf {
        let place = self.layout.place(Content::Data).unwrap();
        let mut image = File::open(&self.image).unwrap();
        image.seek(SeekFrom::Start(place.offset)).unwrap();
        let copy = self.directory.path().join("data.ext4");
        std::io::copy(&mut image.take(place.size), &mut File::create(&copy).unwrap()).unwrap();
        let replayed = tool("e2fsck").arg("-fy").arg(&copy).output().unwrap();
        assert!(matches!(replayed.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&replayed.stdout));
        copy
    }

    /// What a box that is off has kept of a medium, as debugfs lists it.
    pub(crate) fn kept(&self, medium: &str) -> String {
        let listed =
            run(tool("debugfs").arg("-R").arg(format!("ls -p state/media/{medium}")).arg(self.data())).unwrap();
        String::from_utf8_lossy(&listed).into_owned()
    }

    /// Puts a system into slot B as an update does, to be tried next. `name` in it is the program at `instead`.
    pub(crate) fn put_into_slot_b(&self, name: &str, instead: &Path) {
        let programs = self.directory.path().join("programs");
        let good = binaries::compile(&self.source, &binaries::PACKAGES).unwrap();
        run(tool("cp").arg("-rL").arg(&good).arg(&programs)).unwrap();
        std::fs::copy(instead, programs.join(name)).unwrap();
        let standard = build::Options::standard(&self.source);
        let output = self.directory.path().join("b.img");
        let options = build::Options { output, programs: Some(programs), version: "9.9.9".to_owned(), ..standard };
        build::build(&self.source, &options, &Progress::new()).unwrap();
        let mut disk = File::options().write(true).open(&self.image).unwrap();
        disk.seek(SeekFrom::Start(self.layout.place(Content::Empty).unwrap().offset)).unwrap();
        std::io::copy(&mut System::find(&options.output).unwrap().open().unwrap(), &mut disk).unwrap();
        self.environment().change(|block| block.prefer(Slot::B, "9.9.9")).unwrap();
    }

    pub(crate) fn environment(&self) -> Environment {
        let place = self.layout.place(Content::Env).unwrap();
        let disk = std::fs::read(&self.image).unwrap();
        let start = usize::try_from(place.offset).unwrap();
        let block = Block::find(&disk[start..][..usize::try_from(place.size).unwrap()]).unwrap();
        Environment { device: self.image.clone(), offset: place.offset + block as u64 }
    }

    /// The system that the box shall become, as an update that is signed by `key`, and its version: that of `IMAGE`, which may be of
    /// the other kind, or the same as in slot A under another version.
    pub(crate) fn next(&self, key: &Path) -> (PathBuf, String) {
        let Some(image) = std::env::var_os("IMAGE").filter(|image| !image.is_empty()) else {
            return (self.update("7.0.0", key), "7.0.0".to_owned());
        };
        let image = self.source.join(image);
        let (version, _) = System::find(&image).unwrap().identity().unwrap();
        (self.bundle(image, "next", key), version.to_string())
    }

    /// The same system as in slot A under another version, as an update that is signed by `key`.
    pub(crate) fn update(&self, version: &str, key: &Path) -> PathBuf {
        let standard = build::Options::standard(&self.source);
        let image = self.directory.path().join(format!("{version}.img"));
        let options = build::Options { output: image.clone(), version: version.to_owned(), ..standard };
        build::build(&self.source, &options, &Progress::new()).unwrap();
        self.bundle(image, version, key)
    }

    fn bundle(&self, image: PathBuf, name: &str, key: &Path) -> PathBuf {
        let output = self.directory.path().join(format!("{name}.update"));
        let options = bundle::Options { image, output: output.clone(), key: key.to_owned(), minimum_version: None };
        bundle::make(&options, &Progress::new()).unwrap();
        // A disk has whole sectors.
        let file = File::options().write(true).open(&output).unwrap();
        file.set_len(file.metadata().unwrap().len().next_multiple_of(4096)).unwrap();
        output
    }

    /// With a key whose updates the system in slot A takes; the secret key.
    pub(crate) fn trusting() -> (Self, PathBuf) {
        let mut disk = Self::new();
        let [key, public] = bundle::make_key(&disk.directory.path().join("release")).unwrap();
        let output = disk.directory.path().join("trusting.img");
        let standard = build::Options::standard(&disk.source);
        let options = build::Options { output: output.clone(), update_keys: vec![public], ..standard };
        build::build(&disk.source, &options, &Progress::new()).unwrap();
        disk.image = output;
        (disk, key)
    }

    pub(crate) fn start(&self, firmware: Firmware) -> Machine {
        let options = Options { firmware, writes: Writes::Kept, ..Options::trial(&self.image) };
        Machine::start(options, &Stop::never()).unwrap()
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        binaries::compile(&self.source, &binaries::PACKAGES).unwrap().join(name)
    }
}
