use std::os::unix::fs::symlink;

use crate::{load, load_texts};

/// A root whose policy `p` has the file `lists/p.txt`, as `make` makes it in the directory of lists.
fn root(make: impl FnOnce(&std::path::Path)) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc/headgate");
    std::fs::create_dir_all(etc.join("lists")).unwrap();
    std::fs::write(etc.join("headgate.toml"), "[policies.p]\naction = \"deny\"\nfile = \"lists/p.txt\"\n").unwrap();
    make(&etc.join("lists"));
    root
}

fn refused(root: &tempfile::TempDir) -> String {
    load(root.path()).unwrap_err().to_string()
}

#[test]
fn a_list_is_read_and_goes_with_the_texts_of_the_configuration() {
    let text = "# offenders\n 192.0.2.0/24\t# a network\r\n\n2001:db8::/32\n192.0.2.77\n";
    let root = root(|lists| std::fs::write(lists.join("p.txt"), text).unwrap());
    let loaded = load(root.path()).unwrap();
    let ranges = &loaded.config.policies["p"].ranges;
    assert_eq!((ranges.v4().len(), ranges.v6().len()), (1, 1));
    let texts: Vec<_> = loaded.document.texts().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
    assert!(texts.iter().any(|(path, _)| path.ends_with("lists/p.txt")));
    // What a generation keeps is the list of its time.
    std::fs::remove_file(root.path().join("etc/headgate/lists/p.txt")).unwrap();
    assert_eq!(load_texts(&texts).unwrap().config.policies, loaded.config.policies);
    assert!(load_texts(&texts[..1]).unwrap_err().to_string().contains("not part of the generation"));
}

#[test]
fn a_bad_line_is_told_with_its_place() {
    let root = root(|lists| std::fs::write(lists.join("p.txt"), "192.0.2.1\n\n  10.0.0.1/8 # no\nnobody\n").unwrap());
    let said = refused(&root);
    assert!(
        said.contains("lists/p.txt:3:3") && said.contains("10.0.0.0/8") && said.contains("lists/p.txt:4:1"),
        "{said}"
    );
}

#[test]
fn only_a_regular_file_below_the_directory_is_opened() {
    let missing = root(|_| {});
    assert!(refused(&missing).contains("No such file"), "{}", refused(&missing));
    let link = root(|lists| symlink("/etc/hostname", lists.join("p.txt")).unwrap());
    assert!(refused(&link).contains("symbolic link"), "{}", refused(&link));
    let behind = root(|lists| {
        std::fs::remove_dir(lists).unwrap();
        symlink("/etc", lists).unwrap();
    });
    assert!(refused(&behind).contains("symbolic link"), "{}", refused(&behind));
    let fifo = root(|lists| nix::unistd::mkfifo(&lists.join("p.txt"), nix::sys::stat::Mode::S_IRWXU).unwrap());
    assert!(refused(&fifo).contains("not a regular file"), "{}", refused(&fifo));
    let directory = root(|lists| std::fs::create_dir(lists.join("p.txt")).unwrap());
    assert!(refused(&directory).contains("not a regular file"), "{}", refused(&directory));
    let large = root(|lists| {
        let file = std::fs::File::create(lists.join("p.txt")).unwrap();
        file.set_len(super::FILE_MAX + 1).unwrap();
    });
    assert!(refused(&large).contains("more than"), "{}", refused(&large));
    let binary = root(|lists| std::fs::write(lists.join("p.txt"), b"192.0.2.1\n\xff\n").unwrap());
    assert!(refused(&binary).contains("line 2"), "{}", refused(&binary));
}
