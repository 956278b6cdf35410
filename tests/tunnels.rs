//! Real packets through `dsr` farms whose backends are behind tunnels, under the kernel of the image: that of the machine
//! need not have tunnels. `make test-tunnels` runs the last of these tests. It packs and starts a guest with this program, those
//! of the product and the kernel of `image/packages.toml`; there the others make the same lab of namespaces as elsewhere.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use headgate_image::kernel::{Kernel, ModuleLists, Sets};
use headgate_image::packages::{Packages, Refresh, Store};
use headgate_image::source::Source;
use headgate_image::tool::{run, tool};
use headgate_image::tree;
use headgate_tests::binaries;
use headgate_tests::server::{Connection, Talk};
use headgate_tests::wire::{VIP, VIP_6, Wire, alive, at, counts, farm, farm_with, shares, upload};

const IPIP: &str = "dsr = { via = \"ipip\" }";
const GRE: &str = "dsr = { via = \"gre\" }";

/// What farms of mode `dsr` do in any case, and what tunnels add to it.
fn carries(label: &str, via: &str) {
    let wire = Wire::with(label, via);
    wire.lab.once(&farm(via)).unwrap();
    let mut connections = Vec::new();
    for to in [VIP, VIP_6] {
        let opened = wire.connect(to, 12);
        assert_eq!(counts(&opened), shares([("b11", 4), ("b12", 4), ("b13", 4)]), "{to}");
        connections.extend(opened);
    }
    let talk = Talk::open(&wire.lab.client, at(VIP)).unwrap();
    let before = talk.ask().unwrap().server;
    alive("begin", &mut connections);
    for text in [farm_with(via, "drain"), format!("{}\nweight = 7\n", farm(via))] {
        wire.lab.once(&text).unwrap();
        alive("weights changed", &mut connections);
        assert_eq!(talk.ask().unwrap().server, before);
    }
    wire.lab.once(&farm_with(via, "drain")).unwrap();
    assert_eq!(counts(&wire.connect(VIP, 4)), shares([("b11", 2), ("b13", 2)]));
    // Segments as large as the kernel makes them, longer than fits when nobody tells the client.
    upload(&wire, via, VIP, 3_000_000);
    upload(&wire, via, VIP_6, 3_000_000);
    // An unchanged configuration makes no difference to the kernel, tunnel objects and all.
    let generation = || wire.lab.gate.within(|| headgate_nft::Socket::open().unwrap().generation().unwrap()).unwrap();
    wire.lab.once(&farm(via)).unwrap();
    let known = generation();
    wire.lab.once(&farm(via)).unwrap();
    assert_eq!(generation(), known, "an unchanged configuration reached the kernel");
    // What is written for people names each backend's tunnel, and other tables can still be listed.
    let explained = wire.lab.headgate_ok(&["explain", "web"]).unwrap();
    assert!(
        explained.contains("ip daddr 172.16.2.11") && explained.contains("tunnel name meta mark map @tunnels4"),
        "{explained}"
    );
    assert!(wire.lab.nft("list table inet headgate-guard").is_ok());
}

#[test]
#[ignore = "in the guest of the_kernel_of_the_image_carries_tunnels"]
fn ipip_carries_flows_and_they_stay() {
    carries("ipip", IPIP);
}

#[test]
#[ignore = "in the guest of the_kernel_of_the_image_carries_tunnels"]
fn gre_carries_flows_and_they_stay() {
    carries("gre", GRE);
}

#[test]
#[ignore = "in the guest of the_kernel_of_the_image_carries_tunnels"]
fn devices_are_made_kept_and_removed_and_those_of_others_left_alone() {
    let mut wire = Wire::with("device", IPIP);
    let links = |wire: &Wire| wire.lab.gate.ip(&["-br", "link"]).unwrap();
    wire.lab.configure(&farm(IPIP)).unwrap();
    wire.lab.start().unwrap();
    let mut connections = wire.connect(VIP, 6);
    let before = wire.lab.gate.ip(&["-o", "link", "show", "headgate-ipip"]).unwrap();
    wire.lab.crash().unwrap();
    alive("kill -9", &mut connections);
    wire.lab.start().unwrap();
    alive("restart", &mut connections);
    assert_eq!(wire.lab.gate.ip(&["-o", "link", "show", "headgate-ipip"]).unwrap(), before, "another device");
    // What others send us in such a tunnel is not ours to unpack.
    assert!(wire.lab.nft("list chain netdev headgate-tunnels tunnel-ingress").is_ok_and(|text| text.contains("drop")));
    // Somebody takes it down, or away: it comes back.
    for spoil in [&["link", "set", "headgate-ipip", "down"][..], &["link", "delete", "headgate-ipip"]] {
        wire.lab.gate.ip(spoil).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while Connection::open(&wire.lab.client, at(VIP)).unwrap().is_err() {
            assert!(Instant::now() < deadline, "{spoil:?}: {}", links(&wire));
        }
        alive("the device is back", &mut connections);
    }
    wire.lab.stop().unwrap();
    wire.lab.once(&farm("")).unwrap();
    assert!(!links(&wire).contains("headgate-ipip"), "{}", links(&wire));
    assert!(!wire.lab.nft("list tables").unwrap().contains("headgate-tunnels"));
    // The kernel allows one such device: with somebody else's there the farm is out, and nothing else is.
    wire.lab.gate.ip(&["link", "add", "others", "type", "ipip", "external"]).unwrap();
    let other = "[farms.other]\nmode = \"dsr\"\nlisten = \"172.16.1.2:80\"\nbackends.o.address = \"172.16.2.13\"\n";
    // Debian's kernel has no `reject` at ingress (`nft_reject_netdev`).
    let out = format!("{IPIP}\non-empty = \"drop\"");
    wire.lab.once(&[&farm(&out), other].concat()).unwrap();
    let checked = wire.lab.headgate(&["plan"]).unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(said.contains("interface others is external and of kind ipip"), "{said}");
    assert!(links(&wire).contains("others") && !links(&wire).contains("headgate-ipip "), "{}", links(&wire));
    assert!(Connection::open(&wire.lab.client, at(VIP)).unwrap().is_err());
}

#[test]
#[ignore = "in the guest of the_kernel_of_the_image_carries_tunnels"]
fn packets_leave_by_a_vlan_as_well() {
    let wire = Wire::new("vlan");
    let (gate, backends) = (&wire.lab.gate, &wire.backends);
    // The box and the backends also meet in VLAN 7 of the same wire.
    let all = std::iter::once((gate, "backend", 1))
        .chain(backends.iter().zip([11, 12, 13]).map(|(space, n)| (space, "eth0", n)));
    for (space, device, number) in all {
        space.ip(&["link", "add", "link", device, "name", "v7", "type", "vlan", "id", "7"]).unwrap();
        space.ip(&["address", "add", &format!("172.16.7.{number}/24"), "dev", "v7"]).unwrap();
        space.ip(&["link", "set", "v7", "up"]).unwrap();
    }
    let text = farm("").replace("172.16.2.", "172.16.7.");
    wire.lab.once(&text).unwrap();
    let mut connections = wire.connect(VIP, 6);
    assert_eq!(counts(&connections), shares([("b11", 2), ("b12", 2), ("b13", 2)]));
    alive("by VLAN", &mut connections);
    let sent = gate.ip(&["-s", "link", "show", "v7"]).unwrap();
    let packets: u64 = sent.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(packets >= 18, "they went another way: {sent}");
}

/// The guest, and what it says.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Translated instructions on a machine that does other work too.
const PATIENCE: Duration = Duration::from_secs(400);

#[test]
#[ignore = "a guest on a busy machine takes minutes: make test-tunnels"]
fn the_kernel_of_the_image_carries_tunnels() {
    let source = Source::find().unwrap();
    let work = tempfile::tempdir().unwrap();
    let (kernel, initramfs) = pack(&source, work.path());
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "tcg,thread=single",
        "-smp",
        "1",
        "-m",
        "1536",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
    ]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut guest = Guest(qemu.spawn().expect("qemu-system-x86_64 is needed: `make deps` brings it"));
    let output = guest.0.stdout.take().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let _ = tell.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let (deadline, mut said) = (Instant::now() + PATIENCE, Vec::new());
    let ended = loop {
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.starts_with("guest: ") => break line,
            Ok(line) => said.push(line),
            Err(RecvTimeoutError::Timeout) => panic!("the guest takes too long:\n{}", said.join("\n")),
            Err(RecvTimeoutError::Disconnected) => panic!("the guest died:\n{}", said.join("\n")),
        }
    };
    assert_eq!(ended, "guest: 0", "{}", said.join("\n"));
    let passed = said.iter().any(|line| line.starts_with("test result: ok. 4 passed; 0 failed;"));
    assert!(passed, "not all of them ran:\n{}", said.join("\n"));
}

/// Kernel and initramfs.
fn pack(source: &Source, work: &Path) -> (PathBuf, PathBuf) {
    let packages: Packages = source.read_toml("image/packages.toml").unwrap();
    let lists: ModuleLists = source.read_toml("image/modules.toml").unwrap();
    let mut store = Store::open(source, Refresh::Keep).unwrap();
    let kernel = Kernel::open(source, &store.unpacked(&packages.kernel).unwrap()).unwrap();
    let root = work.join("root");
    let directories = ["bin", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var/lib"];
    tree::directories(&root, &directories).unwrap();
    let built = binaries::directory();
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args([
        "build",
        "-q",
        "-p",
        "headgate-init",
    ]))
    .unwrap();
    let programs =
        [("headgated", "sbin"), ("headgate", "sbin")].map(|(name, to)| (built.join(name), format!("{to}/{name}")));
    let modprobe = (built.join("headgate-init"), "sbin/modprobe".to_owned());
    let tests = (std::env::current_exe().unwrap(), "tests".to_owned());
    let found = |name: &str| {
        let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|directory| Path::new(directory).join(name));
        places
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{name} is missing: `make deps` brings it"))
    };
    let tools = ["ip", "nft", "dash", "busybox"].map(|name| (found(name), format!("sbin/{name}")));
    for (from, to) in programs.into_iter().chain([modprobe, tests]).chain(tools) {
        install(&from, &root, &to);
    }
    std::fs::write(root.join("init"), INIT).unwrap();
    run(tool("chmod").arg("755").arg(root.join("init"))).unwrap();
    tree::write_index(&kernel.install(&modules(lists), &root).unwrap(), &root).unwrap();
    let initramfs = work.join("initramfs");
    std::fs::write(&initramfs, tree::archive(&root).unwrap()).unwrap();
    (kernel.image().to_owned(), initramfs)
}

/// Those of the image, which loads them when they are asked for, and one for the lab's switch.
fn modules(mut lists: ModuleLists) -> Sets {
    let mut asked = lists.root.remove("netfilter").unwrap_or_default();
    asked.extend(lists.root.remove("on-request").unwrap_or_default());
    asked.push("bridge".to_owned());
    [("on-request".to_owned(), asked)].into()
}

/// Copies a program without what debuggers want, and every library that the loader would take for it.
fn install(from: &Path, root: &Path, to: &str) {
    let to = root.join(to);
    run(tool("strip").arg("-o").arg(&to).arg(from)).unwrap();
    let listing = tool("ldd").arg(from).output().unwrap();
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    for library in listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))) {
        let target = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        tree::install(Path::new(library), &target).unwrap();
    }
}

/// BusyBox' own shell would take its own `ip` before that of iproute2.
const INIT: &str = "#!/sbin/dash
/sbin/busybox --install -s /bin
/sbin/busybox ln -sf /sbin/dash /bin/sh
export PATH=/sbin:/bin HEADGATE_BINARIES=/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
ip link set lo up
/tests --ignored --test-threads=1 --skip the_kernel_of_the_image 2>&1
echo \"guest: $?\"
poweroff -f
";
