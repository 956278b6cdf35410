//! The appliance over several starts: slots that fail, and a disk that is larger than its image. Minutes each: `make test-boot-all`.
//!
//! Needs QEMU and what `headgate-image build` needs; without them it fails and says so.
#![allow(clippy::unwrap_used)]

mod disk;
mod faults;
mod life;
mod log;
mod menu;
mod power;
mod stick;

use disk::Disk;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use headgate_image::demo::{DROP_IN, Networks, write_drop_in};
use headgate_image::layout::Content;
use headgate_image::qemu::{Firmware, Machine, Options, Writes};
use headgate_image::stop::Stop;
use headgate_image::tool::{run, tool};
use headgate_image::{bundle, release};
use headgate_update::grubenv::Block;
use socket2::{Domain, Protocol, Socket, Type};

const BOOT: Duration = Duration::from_secs(300);
const COMMAND: Duration = Duration::from_secs(60);

/// One boot at a time: two would only share the same two cores.
static TURN: Mutex<()> = Mutex::new(());

/// A system that starts, but whose supervisor ends at once, is tried three times and left for the other slot.
fn falls_back(firmware: Firmware) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    disk.add_parameter("headgate.gate=45");
    // Called by this name it prints its usage and ends.
    disk.put_into_slot_b("headgated", &disk.program("headgate-init"));
    let mut machine = disk.start(firmware);
    for attempt in 1..=3 {
        machine.expect(&format!("headgate-grub slot B of B A, A ok 1 try 0, B ok 1 try {attempt}"), BOOT).unwrap();
        machine.expect("this slot has not come to good in time: rebooting", BOOT).unwrap();
    }
    machine.expect("headgate-grub slot A of B A", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("A_OK") == Some("1") && block.get("A_TRY") == Some("0"));
    // The first thing on the serial port and behind a login.
    let (status, _) = machine.console("status", COMMAND).unwrap();
    assert!(status.contains("FELL BACK: slot B, version 9.9.9, did not come to good, and slot A"), "{status}");
    eprintln!("power-on to the fallback's prompt: {:.1} s", machine.uptime().as_secs_f64());
}

#[test]
fn a_slot_that_never_comes_to_good_is_left_by_bios() {
    falls_back(Firmware::Bios);
}

#[test]
fn a_slot_that_never_comes_to_good_is_left_by_uefi() {
    falls_back(Firmware::Uefi);
}

/// A supervisor that hangs feeds no watchdog: the chipset's own resets the box, long before the gate would.
#[test]
fn a_slot_that_hangs_is_reset_by_the_watchdog() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    // BusyBox, called by a name that is no applet of its own, ends; what hangs is the box: nobody feeds the watchdog.
    disk.put_into_slot_b("headgated", &disk.program("headgate-init"));
    let mut machine = disk.start(Firmware::Bios);
    for attempt in 1..=3 {
        machine.expect(&format!("B ok 1 try {attempt}"), BOOT).unwrap();
        machine.expect("watchdog armed: 60 s", BOOT).unwrap();
    }
    machine.expect("headgate-grub slot A of B A", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    assert!(!machine.transcript().contains("has not come to good in time"), "it was the gate, not the watchdog");
}

#[test]
fn data_grows_to_its_disk_once() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    let small = std::fs::metadata(&disk.image).unwrap().len();
    let large = small + (700 << 20);
    File::options().write(true).open(&disk.image).unwrap().set_len(large).unwrap();
    let mut machine = disk.start(Firmware::Bios);
    machine.expect("data grows to", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("FLOOR").is_some());
    drop(machine);
    run(tool("sfdisk").arg("--verify").arg(&disk.image)).unwrap();
    let place = disk.layout.place(Content::Data).unwrap();
    let data = format!("{}?offset={}", disk.image.display(), place.offset);
    let told = run(tool("dumpe2fs").arg("-h").arg(&data)).unwrap();
    let told = String::from_utf8_lossy(&told);
    let value = |name: &str| -> u64 {
        let line = told.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {told}"));
        line.trim().parse().unwrap()
    };
    let bytes = value("Block count:") * value("Block size:");
    assert!(bytes + (2 << 20) >= place.size + (700 << 20), "{bytes} bytes of file system in {large} of disk");

    let mut machine = disk.start(Firmware::Uefi);
    machine.expect("headgate> ", BOOT).unwrap();
    assert!(!machine.transcript().contains("data grows"), "{}", machine.transcript());
    let (status, _) = machine.console("status", COMMAND).unwrap();
    assert!(!status.contains("in memory"), "{status}");
}

/// What a release has for virtual machines. Its second start counts one try: the first one wrote into it that it was good.
#[test]
fn the_disk_of_a_virtual_machine_starts_and_keeps_what_is_written() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    let image = disk.directory.path().join("disk.qcow2");
    release::virtual_disk(&disk.image, &image).unwrap();
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let options = Options { firmware, writes: Writes::Kept, ..Options::trial(&image) };
        let mut machine = Machine::start(options, &Stop::never()).unwrap();
        machine.expect("A ok 1 try 1", BOOT).unwrap();
        machine.expect("headgate> ", BOOT).unwrap();
        let told = wait_for_console(&mut machine, "update status", |said| !said.contains("without coming to good"));
        assert!(told.contains("slot A runs") && !told.contains("without coming to good"), "{told}");
    }
}

/// Whoever can write to the box puts the file on a disk, and says so in a drop-in. Traffic is not looked at here: nothing of the
/// running system changes until the next start.
#[test]
fn an_update_is_installed_while_the_box_runs_and_runs_after_the_next_start() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (disk, key) = Disk::trusting();
    let [stranger, _] = bundle::make_key(&disk.directory.path().join("stranger")).unwrap();
    let (good, forged) = (disk.update("7.0.0", &key), disk.update("7.0.1", &stranger));
    let install = |device: &str| {
        let text = format!(
            "[services.update]\ncommand = [\"/usr/bin/headgate\", \"update\", \"install\", {device:?}]\nrestart = \"never\"\n"
        );
        write_drop_in(disk.directory.path(), "10-update.toml", &text).unwrap()
    };
    let boot = |drop_in: PathBuf, update: &Path| {
        let drop_ins = vec![drop_in];
        let disks = vec![update.to_owned()];
        let options = Options { writes: Writes::Kept, drop_ins, disks, ..Options::trial(&disk.image) };
        let mut machine = Machine::start(options, &Stop::never()).unwrap();
        machine.expect("headgate> ", BOOT).unwrap();
        machine
    };

    let mut machine = boot(install("/dev/vdb"), &forged);
    let refused = wait_for_console(&mut machine, "status", |said| said.contains("update"));
    assert!(refused.contains("update"), "the service that failed is told: {refused}");
    assert_eq!(disk.environment().read().unwrap().get("B_OK"), Some("0"));
    drop(machine);

    let mut machine = boot(install("/dev/vdb"), &good);
    wait_until(&disk, |block| block.get("ORDER") == Some("B A") && block.get("B_VERSION") == Some("7.0.0"));
    let (told, _) = machine.console("update status", COMMAND).unwrap();
    assert!(told.contains("at the next boot first slot B: version 7.0.0"), "{told}");
    drop(machine);

    let mut machine = disk.start(Firmware::Uefi);
    machine.expect("headgate-grub slot B of B A", BOOT).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    wait_until(&disk, |block| block.get("FLOOR") == Some("7.0.0") && block.get("B_TRY") == Some("0"));
    let (told, _) = machine.console("--version", COMMAND).unwrap();
    let (slots, status) = machine.console("update status", COMMAND).unwrap();
    assert!(slots.contains("slot B runs, version 7.0.0") && status == 0, "{told}\n{slots}");
}

/// What leaves towards the backends is the client's packet, as it came but for its time to live, inside one from the box to a
/// backend; both checksums are right.
#[test]
fn a_farm_behind_tunnels_sends_its_packets_inside_others() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    let (networks, links) = Networks::create().unwrap();
    let interfaces = DROP_IN.split_once("[farms.web]").unwrap().0;
    let farm = "[farms.web]\nmode = \"dsr\"\ndsr = { via = \"ipip\" }\nlisten = \"172.16.1.1:80\"\n\
                backends.b1.address = \"172.16.2.11\"\nbackends.b2.address = \"172.16.2.12\"\n";
    let drop_ins =
        vec![write_drop_in(disk.directory.path(), "10-tunnels.toml", &format!("{interfaces}{farm}")).unwrap()];
    let options = Options { links, drop_ins, ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    let wire = networks.backend.within(Wire::open).unwrap();
    let mut backends = BTreeSet::new();
    let deadline = Instant::now() + BOOT;
    while backends.len() < 2 {
        assert!(Instant::now() < deadline, "packets to {backends:?} only: {}", machine.transcript());
        // Nobody unpacks it here, so nobody answers.
        let knock = || TcpStream::connect_timeout(&"172.16.1.1:80".parse().unwrap(), Duration::from_millis(300));
        assert!(networks.client.within(knock).unwrap().is_err());
        while let Some(packet) = wire.ipip() {
            let (outer, inner) = packet.split_at(20);
            assert_eq!((checksum(outer), checksum(&inner[..20])), (0, 0), "{packet:?}");
            assert_eq!(outer[12..16], [172, 16, 2, 1], "the box sends it");
            assert_eq!(inner[12..20], [172, 16, 1, 2, 172, 16, 1, 1], "the client's own addresses");
            assert_eq!(
                (inner[8], inner[9], &inner[22..24]),
                (63, 6, &80_u16.to_be_bytes()[..]),
                "time to live, TCP, port"
            );
            assert_eq!(inner[33] & 0x3f, 2, "a SYN");
            assert_eq!(
                usize::from(u16::from_be_bytes([outer[2], outer[3]])),
                20 + usize::from(u16::from_be_bytes([inner[2], inner[3]]))
            );
            backends.insert(<[u8; 4]>::try_from(&outer[16..20]).unwrap());
        }
    }
    assert_eq!(backends, [[172, 16, 2, 11], [172, 16, 2, 12]].into());
    // The first packets went before it could be asked.
    let status = wait_for_console(&mut machine, "status", |said| !said.contains("does not answer"));
    assert!(!status.contains("no tunnels") && !status.contains("external"), "{status}");
}

/// What a hand at the box turns, in this order.
const TURNED: [&str; 10] =
    ["queues", "rings", "coalescing", "pause", "hash", "interrupt", "rps", "xps", "sysctl", "driver"];

/// The image has no shell and no ethtool: both come on a disk, and a service runs them.
#[test]
fn cards_that_are_turned_by_hand_or_bound_anew_are_tuned_again() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = Disk::new();
    let script = disk.source.join("tests/appliance/hand");
    let tools = disk.directory.path().join("tools.tar");
    let mut tar = tool("tar");
    tar.args(["--dereference", "--transform", "s,.*/,,", "--absolute-names", "-cf"]).arg(&tools).arg(&script);
    run(tar.args(with_libraries("/usr/sbin/ethtool"))).unwrap();
    let file = File::options().write(true).open(&tools).unwrap();
    file.set_len(file.metadata().unwrap().len().next_multiple_of(4096)).unwrap();
    let begin = "busybox mkdir /run/hand && busybox tar -x -f /dev/vdb -C /run/hand && exec busybox ash /run/hand/hand";
    let service = format!(
        "[services.hand]\ncommand = [\"/usr/bin/busybox\", \"ash\", \"-c\", \"{begin}\"]\nafter = [\"network\"]\nrestart = \"never\"\n"
    );
    let drop_ins = vec![write_drop_in(disk.directory.path(), "10-hand.toml", &format!("{DROP_IN}{service}")).unwrap()];
    let options = Options { drop_ins, disks: vec![tools], ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    for what in TURNED {
        machine.expect(&format!("by hand: {what} mended in "), BOOT).unwrap();
        eprintln!("{what}: {}", machine.expect(" s", COMMAND).unwrap());
    }
    machine.expect("by hand: nothing is left to do", COMMAND).unwrap();
    let (shown, _) = machine.console("hw show", COMMAND).unwrap();
    assert!(shown.contains("rings: rx 2048") && shown.contains(" 0 differ, 0 refused"), "{shown}");
}

/// A program, its loader and its libraries.
fn with_libraries(program: &str) -> Vec<String> {
    let told = run(tool("ldd").arg(program)).unwrap();
    let told = String::from_utf8_lossy(&told);
    let libraries = told.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    std::iter::once(program).chain(libraries).map(str::to_owned).collect()
}

/// Ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The backend is behind the router that the lease names, so it sees somebody only by the lease's address and route. So does a server of
/// updates, whose name the resolver of the lease knows.
#[test]
fn a_lease_is_address_route_source_and_resolver_of_the_box() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (disk, _) = Disk::trusting();
    let (networks, links) = Networks::create().unwrap();
    networks.backend.ip(&["address", "add", "10.9.0.9/32", "dev", "backend"]).unwrap();
    let listen = || TcpListener::bind("10.9.0.9:8081");
    let backend = networks.backend.within(listen).unwrap().unwrap();
    backend.set_nonblocking(true).unwrap();
    let drop_in = "[network.interfaces.service]\nmatch = { driver = \"igb\", index = 0 }\naddresses = [\"172.16.1.1/24\"]\n\
                   [network.interfaces.backend]\nmatch = { driver = \"igb\", index = 1 }\naddresses = [\"dhcp\"]\n\
                   [farms.web]\nlisten = \"172.16.1.1:80\"\nbackends.b1.address = \"10.9.0.9:8081\"\n\
                   [services.update]\nbackoff = { initial = \"1s\", max = \"2s\" }\n\
                   command = [\"/usr/bin/headgate\", \"update\", \"install\", \"http://updates.test:8082/headgate.update\"]\n";
    let drop_ins = vec![write_drop_in(disk.directory.path(), "10-lease.toml", drop_in).unwrap()];
    let options = Options { links, drop_ins, ..Options::trial(&disk.image) };
    let mut machine = Machine::start(options, &Stop::never()).unwrap();
    machine.expect("headgate> ", BOOT).unwrap();
    let status = wait_for_console(&mut machine, "status", |said| said.contains("no lease"));
    assert!(status.contains("network.interfaces.backend: no lease from a DHCP server"), "{status}");

    let server = disk.directory.path().join("udhcpd.conf");
    let leases = disk.directory.path().join("leases");
    std::fs::write(&leases, "").unwrap();
    let given = "start 172.16.2.101\nend 172.16.2.101\ninterface backend\nauto_time 0\noption subnet 255.255.255.0\n\
                 option router 172.16.2.11\noption dns 172.16.2.11\noption lease 600\n";
    let pid = disk.directory.path().join("udhcpd.pid");
    std::fs::write(&server, format!("{given}pidfile {}\nlease_file {}\n", pid.display(), leases.display())).unwrap();
    let mut command = networks.backend.command("busybox");
    let _server = Server(command.args(["udhcpd", "-f", "-I", "172.16.2.11"]).arg(&server).spawn().unwrap());
    let updates = networks.backend.within(|| TcpListener::bind("10.9.0.9:8082")).unwrap().unwrap();
    let names = networks.backend.within(|| UdpSocket::bind("172.16.2.11:53")).unwrap().unwrap();
    std::thread::spawn(move || resolve(&names, [10, 9, 0, 9]));
    let begin = Instant::now();
    let seen = loop {
        let connect = || TcpStream::connect_timeout(&"172.16.1.1:80".parse().unwrap(), Duration::from_secs(1));
        let _client = networks.client.within(connect).unwrap();
        match backend.accept() {
            Ok((_, peer)) => break peer.ip(),
            Err(_) => assert!(begin.elapsed() < BOOT, "nobody came: {}", machine.transcript()),
        }
    };
    eprintln!("a server to the first flow: {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(seen, "172.16.2.101".parse::<IpAddr>().unwrap());
    let status = wait_for_console(&mut machine, "status", |said| !said.contains("no lease"));
    assert!(status.contains("dhcp.") && !status.contains("no lease"), "{status}");
    let (rules, _) = machine.console("explain web", COMMAND).unwrap();
    assert!(rules.contains("172.16.2.101"), "{rules}");
    assert_eq!(machine.console("plan", COMMAND).unwrap(), ("nothing to do".to_owned(), 0));

    updates.set_nonblocking(true).unwrap();
    let begin = Instant::now();
    let (mut update, peer) = loop {
        match updates.accept() {
            Ok(came) => break came,
            Err(_) => assert!(begin.elapsed() < BOOT, "nobody came for the update: {}", machine.transcript()),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    update.set_nonblocking(false).unwrap();
    update.set_read_timeout(Some(COMMAND)).unwrap();
    let mut request = [0; 1024];
    let length = update.read(&mut request).unwrap();
    let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
    assert!(request.starts_with("get /headgate.update ") && request.contains("host: updates.test:8082"), "{request}");
    assert_eq!(peer.ip(), seen);
}

/// Answers each question with one address (RFC 1035, section 4), for ever.
fn resolve(names: &UdpSocket, address: [u8; 4]) {
    let mut question = [0; 512];
    while let Ok((length, from)) = names.recv_from(&mut question) {
        // Header, name with its final zero, type and class; what lies behind (EDNS) is left out of the answer.
        let name = question.get(12..length).and_then(|rest| rest.iter().position(|byte| *byte == 0));
        let Some(end) = name.map(|name| 12 + name + 5).filter(|end| *end <= length) else { continue };
        let is_a = question[end - 4..end - 2] == [0, 1];
        let mut answer = question[..end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address);
        }
        let _ = names.send_to(&answer, from);
    }
}

/// A header's checksum together with what it says of it: 0 when that is right.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// All that comes to the cards of a namespace.
struct Wire(Socket);

impl Wire {
    fn open() -> Self {
        // ETH_P_IP, in the order of the network.
        let socket =
            Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(0x0800_u16.to_be())))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self(socket)
    }

    /// The next packet of IPv4 that has another one in it, with the whole header of TCP.
    fn ipip(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        loop {
            let length = (&self.0).read(&mut buffer).ok()?;
            if length >= 60 && buffer[9] == 4 {
                return Some(buffer[..length].to_vec());
            }
        }
    }
}

/// Asks the console until the answer is `good`.
fn wait_for_console(machine: &mut Machine, line: &str, good: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + BOOT;
    loop {
        let said = machine.console(line, COMMAND).unwrap().0;
        if good(&said) || Instant::now() > deadline {
            return said;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Waits until GRUB's variables on the disk are so.
fn wait_until(disk: &Disk, good: impl Fn(&Block) -> bool) {
    let environment = disk.environment();
    let mut block = Block::default();
    for _ in 0..120 {
        block = environment.read().unwrap();
        if good(&block) {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("GRUB's variables did not become so: {block:?}");
}
