use super::*;

fn files(text: &str) -> Vec<SourceText> {
    vec![(PathBuf::from("/etc/headgate/headgate.toml"), text.to_owned())]
}

fn by(reason: &'static str) -> Origin {
    Origin { reason, ..Origin::default() }
}

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(Root::new(directory.path()))
}

#[test]
fn a_configuration_is_recorded_once() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    assert_eq!(store.record(files("a = 1"), by("start")).unwrap(), 1);
    assert_eq!(store.record(files("a = 1"), by("reload")).unwrap(), 1);
    assert_eq!(store.record(files("a = 2"), by("reload")).unwrap(), 2);
    let again = open(&root);
    assert_eq!(again.history(), store.history());
    assert_eq!(again.running(), Some(2));
    assert!(again.faults().is_empty());
}

#[test]
fn rollback_finds_the_one_before_and_remembers_what_it_left() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), by("start")).unwrap();
    store.record(files("a = 2"), by("reload")).unwrap();
    let earlier = store.find(None).unwrap();
    assert_eq!((earlier.number, earlier.files), (1, files("a = 1")));
    store.returned_to(1, Some(hash(&files("a = 2")))).unwrap();
    let mut again = open(&root);
    assert_eq!(again.returned(), Some(hash(&files("a = 2")).as_str()));
    assert!(again.history()[1].returned && again.history()[0].running);
    assert!(matches!(again.find(None), Err(StoreError::NoEarlier)));
    assert!(matches!(again.find(Some(9)), Err(StoreError::NoGeneration(9))));
    // Applying on purpose forgets it.
    again.record(files("a = 2"), by("apply")).unwrap();
    assert_eq!(again.returned(), None);
}

#[test]
fn twenty_are_kept_and_the_running_one_always() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    for n in 0..30 {
        store.record(files(&format!("a = {n}")), by("reload")).unwrap();
    }
    let numbers: Vec<u64> = open(&root).history().iter().map(|generation| generation.number).collect();
    assert_eq!(numbers, (11..=30).collect::<Vec<u64>>());
    store.returned_to(11, Some("x".into())).unwrap();
    for n in 30..60 {
        store.write_generation(format!("{n}"), files(&n.to_string()), by("reload")).unwrap();
    }
    assert!(store.find(Some(11)).is_ok());
    assert_eq!(store.history().len(), KEPT);
}

#[test]
fn damage_is_reported_and_the_rest_is_used() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), by("start")).unwrap();
    store.record(files("a = 2"), by("reload")).unwrap();
    store.record(files("a = 3"), by("reload")).unwrap();
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
    assert_eq!(damaged.record(files("a = 4"), by("reload")).unwrap(), 8);
}

#[test]
fn a_damaged_text_is_found_when_it_is_asked_for_and_never_gone_back_to() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    for text in ["a = 1", "a = 2", "a = 3", "a = 4"] {
        store.record(files(text), by("reload")).unwrap();
    }
    let damage = |number: u64| {
        let path = root.path().join(file_of(number));
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("a = ", "b = ")).unwrap();
    };
    damage(3);
    let mut again = open(&root);
    let numbers = |store: &Store| store.history().iter().map(|one| one.number).collect::<Vec<u64>>();
    assert_eq!((numbers(&again), again.faults().len()), (vec![1, 2, 3, 4], 0));
    assert_eq!(again.find(None).unwrap().number, 2, "the one before that is whole");
    assert_eq!((numbers(&again), again.faults().len()), (vec![1, 2, 4], 1));
    assert!(matches!(again.find(Some(3)), Err(StoreError::NoGeneration(3))));
    damage(4);
    let mut again = open(&root);
    assert_eq!(numbers(&again), [1, 2, 3], "the one that runs is read at once");
    assert_eq!(again.last_good().unwrap().number, 2);
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/lib")).unwrap();
    fs::write(root.path().join("var/lib/headgate"), "a file in the way").unwrap();
    let mut store = open(&root);
    assert!(matches!(store.record(files("a = 1"), by("start")), Err(StoreError::File(_))));
    assert_eq!(store.running(), None);
    assert!(store.history().is_empty());
}

fn trial(back: u64, text: &str) -> Trial {
    let boot = "boot".into();
    Trial { back, hash: hash(&files(text)), boot, until_ms: 60_000, runtime: String::new(), returned: None }
}

#[test]
fn an_earlier_generation_is_on_trial_until_what_was_before_is_again() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    for text in ["a = 1", "a = 2", "a = 3"] {
        store.record(files(text), by("apply")).unwrap();
    }
    let on_disk = hash(&files("a = 3"));
    let back_to_1 = |store: &mut Store, back: u64| {
        let returned = Some(store.returned_before());
        store.begin_trial(Trial { returned, ..trial(back, "a = 1") }).unwrap();
        store.returned_to(1, Some(on_disk.clone())).unwrap();
        assert_eq!((store.running(), store.returned()), (Some(1), Some(on_disk.as_str())));
        assert!(store.trial().is_some());
    };
    back_to_1(&mut store, 3);
    store.lapse().unwrap();
    assert_eq!((store.running(), store.returned(), store.lapsed(), store.trial()), (Some(3), None, false, None));
    // The files did not run before either.
    store.returned_to(2, Some(on_disk.clone())).unwrap();
    back_to_1(&mut store, 2);
    let mut again = open(&root);
    assert_eq!(again.trial(), store.trial());
    again.lapse().unwrap();
    assert_eq!((again.running(), again.returned(), again.lapsed()), (Some(2), Some(on_disk.as_str()), false));
    // Confirmed it stays, and another generation ends it.
    store.end_trial().unwrap();
    assert_eq!((open(&root).running(), open(&root).trial()), (Some(1), None));
    back_to_1(&mut store, 2);
    store.returned_to(2, Some(on_disk.clone())).unwrap();
    assert_eq!((store.running(), store.trial()), (Some(2), None));
}

#[test]
fn a_trial_ends_with_its_time_and_with_its_boot() {
    let trial = trial(1, "a = 2");
    assert_eq!(trial.left("boot", Duration::from_secs(20)), Some(Duration::from_secs(40)));
    assert_eq!(trial.left("boot", Duration::from_secs(60)), None);
    assert_eq!(trial.left("boot", Duration::from_secs(61)), None);
    assert_eq!(trial.left("another", Duration::from_secs(1)), None);
}

#[test]
fn a_trial_is_there_before_it_runs_and_until_it_is_confirmed() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), by("start")).unwrap();
    store.begin_trial(trial(1, "a = 2")).unwrap();
    assert_eq!((open(&root).running(), open(&root).trial().map(|trial| trial.back)), (Some(1), Some(1)));
    store.record(files("a = 2"), by("apply")).unwrap();
    let again = open(&root);
    assert_eq!((again.running(), again.trial()), (Some(2), store.trial()));
    assert_eq!(store.find(None).unwrap().number, 1);
    store.end_trial().unwrap();
    let again = open(&root);
    assert_eq!((again.running(), again.trial(), again.returned()), (Some(2), None, None));
}

#[test]
fn what_lapsed_is_what_was_returned_from() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), by("start")).unwrap();
    store.begin_trial(trial(1, "a = 2")).unwrap();
    store.record(files("a = 2"), by("apply")).unwrap();
    store.lapse().unwrap();
    let again = open(&root);
    assert_eq!((again.running(), again.trial(), again.lapsed()), (Some(1), None, true));
    assert_eq!(again.returned(), Some(hash(&files("a = 2")).as_str()));
    // A trial of what ran already has nothing to return from.
    store.begin_trial(trial(1, "a = 1")).unwrap();
    store.lapse().unwrap();
    assert_eq!((open(&root).running(), open(&root).returned()), (Some(1), None));
}

#[test]
fn a_lapse_holds_although_it_cannot_be_written() {
    let root = tempfile::tempdir().unwrap();
    let mut store = open(&root);
    store.record(files("a = 1"), by("start")).unwrap();
    store.begin_trial(trial(1, "a = 2")).unwrap();
    store.record(files("a = 2"), by("apply")).unwrap();
    let state = root.path().join("var/lib/headgate");
    fs::rename(&state, root.path().join("aside")).unwrap();
    fs::write(&state, "a file in the way").unwrap();
    store.lapse().unwrap_err();
    assert_eq!((store.running(), store.lapsed(), store.trial()), (Some(1), true, None));
    fs::remove_file(&state).unwrap();
    fs::rename(root.path().join("aside"), &state).unwrap();
    let mut next = open(&root);
    assert_eq!((next.running(), next.trial().map(|trial| trial.back)), (Some(2), Some(1)));
    next.lapse().unwrap();
    assert_eq!(open(&root).running(), Some(1));
}

#[test]
fn what_a_killed_daemon_left_beside_the_files_goes() {
    let root = tempfile::tempdir().unwrap();
    open(&root).record(files("a = 1"), by("start")).unwrap();
    let state = root.path().join("var/lib/headgate");
    let left = [state.join(".store.json.77.new"), state.join("generations/.2.json.77.new")];
    for path in &left {
        fs::write(path, "half").unwrap();
    }
    let store = open(&root);
    assert!(left.iter().all(|path| !path.exists()) && store.faults().is_empty());
    assert_eq!(store.history().len(), 1);
}

/// Lets `work` run in a child up to its stop number `stop` (two for each system call: before and after) and kills it there;
/// `false`: it came to its end.
fn killed_at(stop: usize, work: impl FnOnce()) -> bool {
    use nix::libc;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    // SAFETY: the child has one thread, allocates (glibc's malloc can after fork) and ends by _exit; it holds no lock of others.
    let child = match unsafe { libc::fork() } {
        0 => {
            // SAFETY: both calls take no pointers here; the parent waits for the stop.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
            }
            work();
            // SAFETY: nothing of the parent's is run on the way out.
            unsafe { libc::_exit(0) }
        }
        child => Pid::from_raw(child),
    };
    let wait = || waitpid(child, None).expect("a child of ours");
    wait();
    for _ in 0..stop {
        // SAFETY: the child is stopped, and no pointer is given.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child.as_raw(), 0, 0) };
        if let WaitStatus::Exited(..) = wait() {
            return false;
        }
    }
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("it is stopped");
    wait();
    true
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// The states that `work` leaves, one after the other, when it is killed at each of its system calls.
fn states(before: &tempfile::TempDir, work: impl Fn(&mut Store)) -> Vec<(Option<u64>, bool, Option<String>)> {
    let mut states = Vec::new();
    for stop in 1.. {
        let root = tempfile::tempdir().unwrap();
        copy(before.path(), root.path());
        let killed = killed_at(stop, || work(&mut open(&root)));
        let mut found = open(&root);
        assert_eq!(found.faults(), [""; 0], "killed at stop {stop}");
        let running = found.running();
        assert_eq!(found.last_good().map(|generation| generation.number), running, "killed at stop {stop}");
        let state = (running, found.trial().is_some(), found.returned().map(str::to_owned));
        if states.last() != Some(&state) {
            states.push(state);
        }
        if !killed {
            assert!(stop > 20, "only {stop} stops: it was not followed");
            return states;
        }
    }
    unreachable!("numbers do not end")
}

#[test]
fn killed_at_any_step_there_is_the_old_or_the_new() {
    let before = tempfile::tempdir().unwrap();
    open(&before).record(files("a = 1"), by("start")).unwrap();
    let trial = trial(1, "a = 2");
    let tried = states(&before, |store| {
        store.begin_trial(trial.clone()).unwrap();
        store.record(files("a = 2"), by("apply")).unwrap();
        store.end_trial().unwrap();
    });
    assert_eq!(tried, [(Some(1), false, None), (Some(1), true, None), (Some(2), true, None), (Some(2), false, None)]);

    let mut store = open(&before);
    store.begin_trial(trial.clone()).unwrap();
    store.record(files("a = 2"), by("apply")).unwrap();
    let lapsed = states(&before, |store| store.lapse().unwrap());
    assert_eq!(lapsed, [(Some(2), true, None), (Some(1), false, Some(trial.hash.clone()))]);
}
