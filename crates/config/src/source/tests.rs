use std::os::unix::fs::symlink;

use super::*;
use crate::{Diagnostics, find, load, load_files, load_with};

const FARM: &str = "[farms.web]\nlisten = \"172.16.1.1:80\"\n[farms.web.backends.b1]\naddress = \"172.16.2.11:8080\"\n";

struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn link(self, name: &str, target: &str) -> Self {
        symlink(target, self.path(name)).unwrap();
        self
    }

    /// Layer, name and fate of each file, in order.
    fn fates(&self) -> Vec<(Layer, String, Fate)> {
        let loaded = load(self.0.path()).unwrap();
        let name = |path: &Path| path.strip_prefix(self.0.path()).unwrap().display().to_string();
        let fate = |fate| match fate {
            Fate::Replaced(by) => Fate::Replaced(name(&by).into()),
            Fate::Masked(by) => Fate::Masked(name(&by).into()),
            fate => fate,
        };
        loaded.files.into_iter().map(|file| (file.layer, name(&file.path), fate(file.fate))).collect()
    }

    fn refused(&self) -> Diagnostics {
        load(self.0.path()).map(|loaded| loaded.config).unwrap_err()
    }
}

/// Message and help of each diagnostic.
fn told(diagnostics: &Diagnostics) -> Vec<String> {
    diagnostics.iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

#[test]
fn nothing_at_all_is_an_empty_configuration() {
    let tree = Tree::new();
    let loaded = load(tree.0.path()).unwrap();
    assert_eq!(loaded.config, crate::Config::default());
    assert!(loaded.files.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn a_root_that_is_none_is_refused() {
    let diagnostics = load(Path::new("/nonexistent/root")).map(|loaded| loaded.config).unwrap_err();
    assert_eq!(told(&diagnostics), ["the root is not a directory"]);
}

#[test]
fn files_come_in_the_order_of_the_contract() {
    let tree = Tree::new()
        .file("run/headgate/runtime.toml", "")
        .file("etc/headgate/conf.d/30-etc.toml", "")
        .file("etc/headgate/headgate.toml", "")
        .file("run/headgate/media/esp/40-esp.toml", "")
        .file("run/headgate/media/usb/20-usb.toml", "")
        .file("run/headgate/media/fw-cfg/10-fw.toml", "")
        .file("usr/lib/headgate/conf.d/90-vendor.toml", "");
    let order: Vec<(Layer, String)> = tree.fates().into_iter().map(|(layer, name, _)| (layer, name)).collect();
    let expected = [
        (Layer::Vendor, "usr/lib/headgate/conf.d/90-vendor.toml"),
        (Layer::Main, "etc/headgate/headgate.toml"),
        (Layer::FwCfg, "run/headgate/media/fw-cfg/10-fw.toml"),
        (Layer::Usb, "run/headgate/media/usb/20-usb.toml"),
        (Layer::Etc, "etc/headgate/conf.d/30-etc.toml"),
        (Layer::Esp, "run/headgate/media/esp/40-esp.toml"),
        (Layer::Runtime, "run/headgate/runtime.toml"),
    ];
    assert_eq!(order, expected.map(|(layer, name)| (layer, name.to_owned())));
}

#[test]
fn a_later_directory_replaces_a_name_and_a_link_to_null_masks_it() {
    let tree = Tree::new()
        .file("run/headgate/media/esp/10-a.toml", "not even toml")
        .file("run/headgate/media/usb/10-a.toml", "[system]\nhostname = \"usb\"\n")
        .file("run/headgate/media/usb/20-b.toml", "not even toml")
        .link("etc/headgate/conf.d/20-b.toml", "/dev/null")
        .file("usr/lib/headgate/conf.d/20-b.toml", "not even toml")
        .link("usr/lib/headgate/conf.d/30-c.toml", "/dev/null")
        .file("etc/headgate/conf.d/30-c.toml", "[system]\nprotect = true\n");
    let masked = |by: &str| Fate::Masked(by.into());
    let expected = [
        (Layer::Vendor, "usr/lib/headgate/conf.d/20-b.toml", masked("etc/headgate/conf.d/20-b.toml")),
        (Layer::Vendor, "usr/lib/headgate/conf.d/30-c.toml", masked("usr/lib/headgate/conf.d/30-c.toml")),
        (Layer::Esp, "run/headgate/media/esp/10-a.toml", Fate::Replaced("run/headgate/media/usb/10-a.toml".into())),
        (Layer::Usb, "run/headgate/media/usb/10-a.toml", Fate::Used),
        (Layer::Usb, "run/headgate/media/usb/20-b.toml", masked("etc/headgate/conf.d/20-b.toml")),
        (Layer::Etc, "etc/headgate/conf.d/20-b.toml", masked("etc/headgate/conf.d/20-b.toml")),
        (Layer::Etc, "etc/headgate/conf.d/30-c.toml", Fate::Used),
    ];
    assert_eq!(tree.fates(), expected.map(|(layer, name, fate)| (layer, name.to_owned(), fate)));
    assert_eq!(load(tree.0.path()).unwrap().config.system.hostname.as_deref(), Some("usb"));
}

#[test]
fn what_is_no_configuration_file_is_passed_over() {
    let tree = Tree::new()
        .file("etc/headgate/conf.d/.20-web.toml", "nonsense")
        .file("etc/headgate/conf.d/20-web.toml~", "nonsense")
        .file("etc/headgate/conf.d/README", "nonsense")
        .file("etc/headgate/conf.d/.toml", "nonsense");
    assert_eq!(tree.fates(), []);
}

#[test]
fn each_unreadable_file_is_told_and_the_others_are_judged() {
    let tree = Tree::new()
        .file("etc/headgate/conf.d/10-large.toml", vec![b'#'; 10 << 20])
        .file("etc/headgate/conf.d/20-latin1.toml", b"# one\nhostname = \"caf\xe9\"\n")
        .file("etc/headgate/conf.d/30-directory.toml/x", "")
        .link("etc/headgate/conf.d/40-broken.toml", "/nonexistent/file")
        .link("etc/headgate/conf.d/50-loop.toml", "50-loop.toml")
        .link("etc/headgate/conf.d/60-device.toml", "/dev/zero")
        .file("etc/headgate/conf.d/80-wrong.toml", "colour = 1\n");
    nix::unistd::mkfifo(&tree.path("etc/headgate/conf.d/70-fifo.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(
        told(&tree.refused()),
        [
            "the file has 10485760 bytes, more than the 8388608 that are read",
            "not UTF-8 text: an invalid byte in line 2",
            "a directory where a file is expected",
            "a link to \"/nonexistent/file\", which does not exist",
            "cannot read the file: Too many levels of symbolic links",
            "not a regular file",
            "not a regular file",
            "unknown key \"colour\"",
        ]
    );
}

#[test]
fn a_file_in_place_of_a_directory_is_told() {
    let tree = Tree::new().file("etc/headgate/conf.d", "");
    assert_eq!(told(&tree.refused()), ["cannot list the directory: Not a directory"]);
}

#[test]
fn a_change_is_judged_before_it_is_written() {
    let tree = Tree::new().file("etc/headgate/headgate.toml", FARM);
    let runtime = tree.path("run/headgate/runtime.toml");
    let with = |text: &str| load_with(tree.0.path(), &[(runtime.clone(), Some(text.to_owned()))]);
    let drained = with("[farms.web.backends.b1]\nstate = \"drain\"\n").unwrap();
    let backend = drained.config.farms.values().next().unwrap().backends.values().next().unwrap();
    assert_eq!(backend.state, crate::model::BackendState::Drain);
    assert_eq!(drained.files.last().unwrap().layer, Layer::Runtime);
    assert!(with("[farms.web.backends.b1]\nstate = \"gone\"\n").is_err());
    assert!(!runtime.exists());
    // The text in memory stands for what is on the disk, in the place of that file, also where there is no directory yet.
    let operator = tree.0.path().join("etc/headgate/conf.d/90-operator.toml");
    let text = "[farms.web.backends.b2]\naddress = \"172.16.2.12:80\"\n".to_owned();
    let added = load_with(tree.0.path(), &[(operator, Some(text))]).unwrap();
    assert_eq!(added.config.farms.values().next().unwrap().backends.len(), 2);
}

#[test]
fn a_file_that_will_be_gone_gives_its_name_back() {
    let name = |name: &str| format!("[system]\nhostname = \"{name}\"\n");
    let tree = Tree::new()
        .file("run/headgate/media/usb/10-a.toml", name("usb"))
        .file("etc/headgate/conf.d/10-a.toml", name("etc"))
        .file("etc/headgate/headgate.toml", name("main"));
    let without = |path: &str| {
        let loaded = load_with(tree.0.path(), &[(tree.path(path), None)]).unwrap();
        (loaded.config.system.hostname.unwrap(), loaded.files.len())
    };
    assert_eq!(load(tree.0.path()).unwrap().config.system.hostname.unwrap(), "etc");
    assert_eq!(without("etc/headgate/conf.d/10-a.toml"), ("usb".to_owned(), 2));
    assert_eq!(without("etc/headgate/headgate.toml"), ("etc".to_owned(), 2));
    assert_eq!(without("etc/headgate/conf.d/20-none.toml"), ("etc".to_owned(), 3));
    let found: Vec<_> = find(tree.0.path()).into_iter().map(|file| (file.layer, file.fate)).collect();
    let etc = tree.path("etc/headgate/conf.d/10-a.toml");
    assert_eq!(
        found,
        [(Layer::Main, Fate::Used), (Layer::Usb, Fate::Replaced(etc)), (Layer::Etc, Fate::Used)],
        "in the order of merging"
    );
}

#[test]
fn named_files_are_taken_as_they_come() {
    let tree =
        Tree::new().file("b.toml", "[system]\nhostname = \"b\"\n").file("a/a.toml", "[system]\nhostname = \"a\"\n");
    let hostname = |names: &[&str]| {
        let paths: Vec<PathBuf> = names.iter().map(|name| tree.path(name)).collect();
        load_files(&paths, tree.0.path()).map(|loaded| loaded.config.system.hostname.unwrap())
    };
    assert_eq!(hostname(&["b.toml", "a"]).unwrap(), "a");
    assert_eq!(hostname(&["a", "b.toml"]).unwrap(), "b");
    let missing = hostname(&["c.toml"]).unwrap_err();
    assert_eq!(told(&missing), ["cannot read the file: No such file or directory"]);
}

#[test]
fn positions_count_characters() {
    let mut files = Files::default();
    files.add("x".into(), format!("a\r\n\täöü = 1\n{}é!\n", "日".repeat(1000)));
    let at = |offset: u32| {
        let origin = files.origin(Span { file: 0, start: offset, end: offset });
        (origin.line, origin.column)
    };
    assert_eq!([at(0), at(1), at(3), at(4), at(6), at(10)], [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (2, 5)]);
    assert_eq!(at(15), (3, 1));
    assert_eq!([at(15 + 3 * 999), at(15 + 3000), at(15 + 3002)], [(3, 1000), (3, 1001), (3, 1002)]);
    // Beyond the end: the end.
    assert_eq!(at(u32::MAX).0, 4);
}
