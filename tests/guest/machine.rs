//! What the guest is: the image's kernel, and a file system in memory with what the tests call.

use std::path::{Path, PathBuf};

use headgate_image::kernel::{Kernel, ModuleLists, Sets};
use headgate_image::packages::{Packages, Store, Versions};
use headgate_image::source::Source;
use headgate_image::tool::{cargo, run, tool};
use headgate_image::tree;
use headgate_tests::binaries;

/// Kernel and initramfs; the guest runs this program with these arguments.
pub(crate) fn pack(source: &Source, work: &Path, arguments: &[String]) -> (PathBuf, PathBuf) {
    let mut packages: Packages = source.read_toml("image/packages.toml").unwrap();
    if let Ok(kernel) = std::env::var("KERNEL") {
        packages.kernel = kernel;
    }
    let lists: ModuleLists = source.read_toml("image/modules.toml").unwrap();
    let mut store = Store::open(source, Versions::Offered).unwrap();
    let kernel = Kernel::open(source, &store.unpacked(&packages.kernel).unwrap()).unwrap();
    let root = work.join("root");
    let directories = ["bin", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var/lib"];
    tree::directories(&root, &directories).unwrap();
    let built = binaries::directory();
    let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    run(cargo().args(["build", "-q", "-p", "headgate-init"]).args(profile)).unwrap();
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
    let tools =
        ["ip", "nft", "conntrack", "ethtool", "dash", "busybox"].map(|name| (found(name), format!("sbin/{name}")));
    for (from, to) in programs.into_iter().chain([modprobe, tests]).chain(tools) {
        install(&from, &root, &to);
    }
    run(tool("cp").arg("-r").arg(source.join("hwprofiles")).arg(root.join("hwprofiles"))).unwrap();
    std::fs::write(root.join("init"), INIT.replace("ARGUMENTS", &arguments.join(" "))).unwrap();
    run(tool("chmod").arg("755").arg(root.join("init"))).unwrap();
    tree::write_index(&kernel.install(&modules(lists), &root).unwrap(), &root).unwrap();
    let initramfs = work.join("initramfs");
    std::fs::write(&initramfs, tree::archive(&root).unwrap()).unwrap();
    (kernel.image().to_owned(), initramfs)
}

/// Those of the image, which loads them when they are asked for, one for the lab's switch, and those for NICs.
fn modules(mut lists: ModuleLists) -> Sets {
    let mut asked = lists.root.remove("netfilter").unwrap_or_default();
    asked.extend(lists.root.remove("on-request").unwrap_or_default());
    asked.extend(["bridge", "igb", "virtio_net"].map(str::to_owned));
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
# What a rule asks for is loaded while a test waits.
for module in nf_flow_table_inet nft_flow_offload nft_queue nfnetlink_queue nft_tunnel nft_fwd_netdev veth dummy bridge; do modprobe $module; done
/tests ARGUMENTS 2>&1
echo \"guest: $?\"
poweroff -f
";
