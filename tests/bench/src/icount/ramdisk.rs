//! The guest: a kernel, the modules that farms and peers use, the programs that set them up, and the plan.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use headgate_bench_guest::{machine, plan};
use headgate_image::kernel::{Kernel, ModuleLists, Sets};
use headgate_image::packages::{Packages, Store, Versions};
use headgate_image::source::Source;
use headgate_image::tool::{run, tool};
use headgate_image::{binaries, tree};
use serde::{Deserialize, Serialize};

/// What QEMU pretends to be. Not its fullest processor: that one has fast string instructions, which count once per
/// iteration. The generator of random numbers is off, so that they are the same each time.
pub(crate) const CPU: &str = "qemu64,+rdtscp,-rdrand,-rdseed";

/// The profile of our programs, whatever the environment wants: the sender's own instructions are counted with the kernel's,
/// and compiled otherwise they move a connection by up to 360.
const PROFILE: &str = "release";
/// Beside those that the image loads at its start.
const MODULES: &[&str] = &["veth", "nft_flow_offload", "nf_flow_table", "nf_flow_table_inet", "nft_fwd_netdev"];
/// For peers; the production image's kernel has none of it.
const IPVS: &[&str] = &["ip_vs", "ip_vs_rr"];
/// The driver of network cards, for guests that have some.
const CARDS: &str = "igb";
/// Taken from the machine, with their libraries.
const TOOLS: &[&str] = &["ip", "nft", "ipvsadm"];

/// What figures depend on: compared with those of another setting they mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// The release of the guest's kernel.
    pub(crate) kernel: String,
    /// The version of nft(8), which writes the peers' rules.
    pub(crate) nft: String,
    /// The version of QEMU.
    pub(crate) qemu: String,
    /// The processor that it shows the guest.
    pub(crate) cpu: String,
}

/// What is there already, and need not be compiled or taken from Debian.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready<'a> {
    /// A directory with our programs, static.
    pub(crate) programs: Option<&'a Path>,
    /// Parts of a production image (see [`headgate_image::base::Base::parts`]), for their kernel.
    pub(crate) parts: Option<&'a Path>,
}

/// What QEMU starts.
#[derive(Debug)]
pub(crate) struct Ramdisk {
    /// The compressed kernel.
    pub(crate) kernel: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
    /// The directory that holds it.
    pub(crate) work: PathBuf,
    /// What it consists of.
    pub(crate) setting: Setting,
}

impl Ramdisk {
    /// Packs the guest, below `build/icount`, with more of the machine's tools if need be. Programs that are not there are
    /// compiled; the kernel is that of the quick image if no other is.
    pub(crate) fn build(source: &Source, plan: &plan::Plan, ready: Ready<'_>, more: &[&str]) -> Result<Self> {
        let lists: ModuleLists = source.read_toml("image/modules.toml")?;
        let programs = match ready.programs {
            Some(directory) => directory.to_owned(),
            None => binaries::compile_as(PROFILE, source, &["headgate", "headgate-init", "headgate-bench-guest"])?,
        };
        let kernel = match ready.parts {
            Some(parts) => Kernel::open(source, &parts.join("kernel"))?,
            None => {
                let packages: Packages = source.read_toml("image/packages.toml")?;
                Kernel::open(source, &Store::open(source, Versions::Offered)?.unpacked(&packages.kernel)?)?
            }
        };
        let peers = if ready.parts.is_none() { IPVS } else { &[] };
        let work = source.join("build/icount");
        let root = work.join("root");
        let _ = std::fs::remove_dir_all(&root);
        tree::directories(&root, &["dev", "proc", "sys", "run", "etc/headgate", "tmp", "sbin", "usr/sbin", "var/lib"])?;
        for (program, place) in
            [("headgate-bench-guest", "init"), ("headgate-init", "sbin/modprobe"), ("headgated", "usr/sbin/headgated")]
        {
            tree::install(&programs.join(program), &root.join(place))?;
        }
        TOOLS.iter().chain(more).try_for_each(|name| install_with_libraries(name, &root))?;
        tree::write_index(&kernel.install(&modules(lists, peers), &root)?, &root)?;
        let file = root.join(plan::PLAN.trim_start_matches('/'));
        std::fs::write(&file, serde_json::to_vec(plan)?)?;
        let initramfs = work.join("initramfs");
        std::fs::write(&initramfs, tree::archive(&root)?)?;
        let setting = Setting {
            kernel: kernel.release().to_owned(),
            nft: version("nft", "--version", 1)?,
            qemu: version("qemu-system-x86_64", "--version", 3)?,
            cpu: CPU.to_owned(),
        };
        Ok(Self { kernel: kernel.image().to_owned(), initramfs, work, setting })
    }
}

/// What the appliance loads at its start, and the rest of the bench; what it loads when asked is there for that.
fn modules(mut lists: ModuleLists, peers: &[&str]) -> Sets {
    let mut loaded = lists.root.remove("netfilter").unwrap_or_default();
    loaded.extend(MODULES.iter().chain(peers).map(|&name| name.to_owned()));
    let mut asked = lists.root.remove("on-request").unwrap_or_default();
    asked.push(CARDS.to_owned());
    [(machine::MODULES.to_owned(), loaded), ("on-request".to_owned(), asked)].into()
}

/// Copies a program and every library that the loader would take for it, to the same places.
fn install_with_libraries(name: &str, root: &Path) -> Result<()> {
    let path = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|directory| Path::new(directory).join(name));
    let path = path.into_iter().find(|path| path.is_file());
    let path = path.with_context(|| format!("{name} is missing: `make deps` brings it"))?;
    if binaries::names_a_loader(&std::fs::read(&path)?) {
        install_libraries(&path, root)?;
    }
    tree::install(&path, &root.join("sbin").join(name))
}

fn install_libraries(program: &Path, root: &Path) -> Result<()> {
    let listing = run(tool("ldd").arg(program))?;
    let listing = String::from_utf8_lossy(&listing);
    let libraries = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    for library in libraries {
        let target = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().context("a library lies in a directory")?)?;
        tree::install(Path::new(library), &target)?;
    }
    Ok(())
}

/// The word with this number of a program's first line about itself.
fn version(program: &str, argument: &str, word: usize) -> Result<String> {
    let output = run(tool(program).arg(argument))?;
    let output = String::from_utf8_lossy(&output);
    let word = output.split_whitespace().nth(word).with_context(|| format!("{program} does not say its version"))?;
    Ok(word.trim_start_matches('v').to_owned())
}
