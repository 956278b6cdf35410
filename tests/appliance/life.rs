//! A box as its operator has it, who is never there: everything by ssh, over several starts, with clients that go on asking.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headgate_image::demo::{DROP_IN, Networks, write_drop_in};
use headgate_image::qemu::{Machine, Options, Writes};
use headgate_image::stop::Stop;
use headgate_tests::ssh::Ssh;

use super::disk::Disk;
use super::{BOOT, TURN};

const ADMIN: &str = "admin@172.16.1.1";
const TRIAL: &[u8] = b"[farms.web.backends.b2]\nweight = 8\n";

/// What `status` says when it is `good`.
fn status(ssh: &Ssh<'_>, good: impl Fn(&str) -> bool) -> String {
    let begin = Instant::now();
    loop {
        let Output { stdout, stderr, .. } = ssh.run("ours", &[ADMIN, "status"], &[]);
        let told = String::from_utf8_lossy(&stdout).into_owned();
        if good(&told) {
            return told;
        }
        assert!(begin.elapsed() < BOOT, "{told}\n{}", String::from_utf8_lossy(&stderr));
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn is_up(told: &str) -> bool {
    told.contains("web")
}

/// Down, and up again from this slot.
fn reboot(ssh: &Ssh<'_>, machine: &mut Machine, slot: char) {
    ssh.is_refused("ours", &[ADMIN, "reboot"], "--yes says that it is meant");
    ssh.does(&[ADMIN, "reboot", "--yes"]);
    machine.expect(&format!("headgate-grub slot {slot} "), BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
}

/// How many clients were served while the box does something, and how many were not.
fn served_during<T>(networks: &Networks, action: impl FnOnce() -> T) -> (T, usize, usize) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let (mut served, mut failed) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                match networks.ask(1) {
                    Ok(_) => served += 1,
                    Err(error) => {
                        eprintln!("a client: {error:#}");
                        failed += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            (served, failed)
        });
        let done = action();
        over.store(true, Ordering::Relaxed);
        let (served, failed) = clients.join().unwrap();
        (done, served, failed)
    })
}

#[test]
fn an_operator_far_away_tries_updates_and_resets_the_box() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (disk, key) = Disk::trusting();
    let (update, version) = disk.next(&key);
    let update = (std::fs::read(update).unwrap(), version);
    let (networks, links) = Networks::create().unwrap();
    let ssh = Ssh::new(&networks.client, disk.directory.path());
    let public = ssh.key("ours");
    let open = DROP_IN.replace("[\"172.16.1.1/24\"]", "[\"172.16.1.1/24\"]\nallow = [\"ping\", \"ssh\"]");
    let text = format!("{open}\n[system]\nauthorized-keys = [{public:?}]\n");
    let drop_ins = vec![write_drop_in(disk.directory.path(), "10-box.toml", &text).unwrap()];
    let options = Options { links, drop_ins, writes: Writes::Kept, ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    networks.wait_until_served(BOOT, &Stop::never()).unwrap();
    status(&ssh, is_up);

    a_reboot_ends_what_is_on_trial(&ssh, &networks, &mut machine);
    an_update_is_sent_while_clients_are_served(&ssh, &networks, &mut machine, &update);
    a_reset_leaves_nothing(&ssh, &networks, &mut machine);
}

fn a_reboot_ends_what_is_on_trial(ssh: &Ssh<'_>, networks: &Networks, machine: &mut Machine) {
    let weight = || {
        let farm: serde_json::Value =
            serde_json::from_str(&ssh.does(&[ADMIN, "farm", "show", "web", "--json"])).unwrap();
        let backends = farm["backends"].as_array().unwrap();
        backends.iter().find(|backend| backend["name"] == "b2").unwrap()["weight"].as_u64().unwrap()
    };
    let before = weight();
    let told = ssh.does_with(&[ADMIN, "config", "put", "50-trial.toml", "--confirm", "1h"], TRIAL);
    assert!(told.contains("on trial"), "{told}");
    assert_eq!(weight(), 8);
    reboot(ssh, machine, 'A');
    networks.wait_until_served(BOOT, &Stop::never()).unwrap();
    let told = status(ssh, |told| told.contains("since nobody confirmed them"));
    assert!(!told.contains("is on trial"), "{told}");
    assert_eq!(weight(), before);
    // Who means it says so.
    ssh.does(&[ADMIN, "apply"]);
    assert_eq!(weight(), 8);
}

fn an_update_is_sent_while_clients_are_served(
    ssh: &Ssh<'_>,
    networks: &Networks,
    machine: &mut Machine,
    (update, version): &(Vec<u8>, String),
) {
    let install = || ssh.does_with(&[ADMIN, "update", "install", "-"], update);
    let (told, served, failed) = served_during(networks, install);
    assert!(told.contains(&format!("version {version} is in slot B")), "{told}");
    eprintln!("while an update was installed {served} clients were served, {failed} were not");
    assert!(served > 0 && failed == 0, "{failed} of {served} clients");
    // The slot's host key, configuration and what was asked for are those of before.
    let begin = Instant::now();
    reboot(ssh, machine, 'B');
    networks.wait_until_served(BOOT, &Stop::never()).unwrap();
    eprintln!("from `reboot` to the first client that is served: {:.1} s", begin.elapsed().as_secs_f64());
    status(ssh, is_up);
    assert!(ssh.does(&[ADMIN, "update", "status"]).contains(&format!("slot B runs, version {version}")));
    assert!(ssh.does(&[ADMIN, "config", "show"]).contains("50-trial.toml"));
    let (_, served, failed) = served_during(networks, || ssh.does(&[ADMIN, "status"]));
    assert!(served > 0 && failed == 0, "{failed} of {served} clients");
}

fn a_reset_leaves_nothing(ssh: &Ssh<'_>, networks: &Networks, machine: &mut Machine) {
    ssh.is_refused("ours", &[ADMIN, "factory-reset"], "--yes says that it is meant");
    ssh.does(&[ADMIN, "factory-reset", "--yes"]);
    reboot(ssh, machine, 'B');
    // The medium is taken anew, as at a first boot.
    networks.wait_until_served(BOOT, &Stop::never()).unwrap();
    let begin = Instant::now();
    let told = loop {
        let Output { status, stderr, .. } = ssh.run("ours", &[ADMIN, "status"], &[]);
        let told = String::from_utf8_lossy(&stderr).into_owned();
        if status.success() || told.contains("IDENTIFICATION HAS CHANGED") || begin.elapsed() > BOOT {
            break told;
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    assert!(told.contains("IDENTIFICATION HAS CHANGED"), "the host key of before: {told}");
    ssh.forget();
    status(ssh, is_up);
    assert!(!ssh.does(&[ADMIN, "config", "show"]).contains("50-trial.toml"));
}
