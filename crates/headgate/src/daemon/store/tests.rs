use super::*;

fn files(text: &str) -> Vec<SourceText> {
    vec![(PathBuf::from("/etc/headgate/headgate.toml"), text.to_owned())]
}

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(Root::new(directory.path()))
}

#[test]
fn a_configuration_is_recorded_once() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    assert_eq!(store.record(files("a = 1"), "start").unwrap(), 1);
    assert_eq!(store.record(files("a = 1"), "reload").unwrap(), 1);
    assert_eq!(store.record(files("a = 2"), "reload").unwrap(), 2);
    let again = open(&root);
    assert_eq!(again.history(), store.history());
    assert_eq!(again.running(), Some(2));
    assert!(again.faults().is_empty());
}

#[test]
fn rollback_finds_the_one_before_and_remembers_what_it_left() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), "start").unwrap();
    store.record(files("a = 2"), "reload").unwrap();
    let earlier = store.find(None).unwrap();
    assert_eq!((earlier.number, earlier.files), (1, files("a = 1")));
    store.returned_to(1, Some(hash(&files("a = 2")))).unwrap();
    let mut again = open(&root);
    assert_eq!(again.returned(), Some(hash(&files("a = 2")).as_str()));
    assert!(again.history()[1].returned && again.history()[0].running);
    assert!(matches!(again.find(None), Err(StoreError::NoEarlier)));
    assert!(matches!(again.find(Some(9)), Err(StoreError::NoGeneration(9))));
    // Applying on purpose forgets it.
    again.record(files("a = 2"), "apply").unwrap();
    assert_eq!(again.returned(), None);
}

#[test]
fn twenty_are_kept_and_the_running_one_always() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    for n in 0..30 {
        store.record(files(&format!("a = {n}")), "reload").unwrap();
    }
    let numbers: Vec<u64> = open(&root).history().iter().map(|generation| generation.number).collect();
    assert_eq!(numbers, (11..=30).collect::<Vec<u64>>());
    store.returned_to(11, Some("x".into())).unwrap();
    for n in 30..60 {
        store.write_generation(format!("{n}"), files(&n.to_string()), "reload").unwrap();
    }
    assert!(store.find(Some(11)).is_ok());
    assert_eq!(store.history().len(), KEPT);
}

#[test]
fn damage_is_reported_and_the_rest_is_used() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), "start").unwrap();
    store.record(files("a = 2"), "reload").unwrap();
    store.record(files("a = 3"), "reload").unwrap();
    let path = |name: &str| root.path().join("var/lib/headgate").join(name);
    let whole = fs::read(path("generations/3.json")).unwrap();
    fs::write(path("generations/3.json"), &whole[..whole.len() / 2]).unwrap();
    fs::write(path("generations/2.json"), fs::read(path("generations/1.json")).unwrap()).unwrap();
    fs::write(path("generations/7.json"), b"\xff\0\xfe").unwrap();
    fs::write(path("store.json"), b"{").unwrap();
    let mut damaged = open(&root);
    assert_eq!(damaged.last_good().unwrap().number, 1);
    assert!(damaged.faults().len() >= 4, "{:?}", damaged.faults());
    // A number whose file is damaged is not given out again.
    assert_eq!(damaged.record(files("a = 4"), "reload").unwrap(), 8);
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/lib")).unwrap();
    fs::write(root.path().join("var/lib/headgate"), "a file in the way").unwrap();
    let mut store = open(&root);
    assert!(matches!(store.record(files("a = 1"), "start"), Err(StoreError::File(_))));
    assert_eq!(store.running(), None);
    assert!(store.history().is_empty());
}
