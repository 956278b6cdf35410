//! Clients of DHCP: which process asks, and what is done with its answer.
//!
//! BusyBox's udhcpc speaks the protocol, supervised as a service for each interface. At every turn it calls [`HOOK`], which is
//! this very program under another name, with what the server said in its environment. The hook puts the words on file, behind a fence
//! that lets it do nothing else ([`fence`]), and does nothing with them; the daemon sees the file, and what it makes of it is decided with all the rest of the network.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headgate_config::model::{Backoff, Origin, Restart, Service};
use headgate_config::types::ServiceName;
use headgate_host::root::RootError;
use headgate_host::{Root, lease};
use headgate_plan::lease::Offer;
use nix::unistd::getppid;

use crate::daemon::fence;

/// The name under which the client calls us, below the state directory.
pub const HOOK: &str = "headgate-dhcp";
/// The state directory.
const STATE: &str = "run/headgate";
/// Where a client is: Debian's package udhcpc, the appliance's BusyBox.
const CLIENTS: [&str; 4] = ["/usr/sbin/udhcpc", "/sbin/udhcpc", "/usr/bin/busybox", "/bin/busybox"];
/// Five questions two seconds apart, then ten seconds of silence: a server that comes late is found within that time.
const PATIENCE: [&str; 6] = ["-t", "5", "-T", "2", "-A", "10"];
/// An option of DHCP has 255 bytes; a list of addresses in it is longer as text, and at most the first three count.
const WORD_BYTES_MAX: usize = 255;

/// Why an answer of a server is not on file.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Somebody else than the client called.
    #[error("{HOOK} is called by udhcpc, with an event and the name of an interface")]
    Usage,
    /// The file cannot be written.
    #[error("the lease cannot be kept")]
    File(#[from] RootError),
}

/// Makes the directory of the leases and the name that clients call.
///
/// # Errors
/// One of them cannot be made.
pub fn prepare(root: &Root) -> io::Result<()> {
    let directory = root.file(lease::DIRECTORY).map_err(io::Error::other)?;
    fs::create_dir_all(directory)?;
    let hook = root.file(STATE).map_err(io::Error::other)?.join(HOOK);
    // An update may have moved the program.
    match fs::remove_file(&hook) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink(env::current_exe()?, hook),
    }
}

/// A service for each interface that needs a client, by name: `dhcp.eth0`.
pub fn services(links: impl IntoIterator<Item = String>, root: &Root) -> BTreeMap<ServiceName, Service> {
    let hook = root.file(STATE).and_then(|state| std::path::absolute(&state).map_err(|_| RootError::Outside(state)));
    let Ok(hook) = hook.map(|state| state.join(HOOK)) else { return BTreeMap::new() };
    let services = links.into_iter().filter_map(|link| service(&link, &hook));
    services.map(|service| (service.name.clone(), service)).collect()
}

fn service(link: &str, hook: &Path) -> Option<Service> {
    let name = ServiceName::new(&format!("dhcp.{link}"));
    let name = name.inspect_err(|_| tracing::error!(link, "no client of DHCP can have this interface's name")).ok()?;
    let client = CLIENTS.into_iter().find(|client| Path::new(client).exists()).unwrap_or(CLIENTS[0]);
    let mut command = vec![client.to_owned()];
    if client.ends_with("busybox") {
        command.push("udhcpc".to_owned());
    }
    command.extend(["-f", "-i", link, "-s"].map(str::to_owned));
    command.push(hook.to_string_lossy().into_owned());
    command.extend(PATIENCE.map(str::to_owned));
    Some(Service {
        name,
        origin: Origin { file: Arc::new(PathBuf::from("[network]")), line: 1, column: 1 },
        command,
        restart: Restart::Always,
        backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(30) },
        after: Vec::new(),
        ready: None,
        stop_timeout: Duration::from_secs(2),
    })
}

/// What [`HOOK`] does: `program` is how it was called, `event` what happened. The rest is in the environment.
///
/// # Errors
/// Any [`HookError`].
pub fn hook(program: &OsStr, event: Option<&str>) -> Result<(), HookError> {
    let root = root_of(Path::new(program)).ok_or(HookError::Usage)?;
    let link = word("interface");
    let is_name = !link.is_empty() && !link.starts_with('.') && !link.contains('/');
    let event = event.filter(|_| is_name).ok_or(HookError::Usage)?;
    if let Ok(leases) = root.file(lease::DIRECTORY) {
        fence::confine(&leases);
    }
    let client = getppid().as_raw();
    match event {
        "bound" | "renew" => {
            let [ip, subnet, router, lease, dns, serverid] =
                ["ip", "subnet", "router", "lease", "dns", "serverid"].map(word);
            let offer = Offer { ip, subnet, router, lease, dns, serverid, received: lease::now(), client };
            lease::write(&root, &link, &offer)?;
        }
        // A client begins with this word too, and then knows nothing of the lease of the one before it.
        "deconfig" if lease::read(&root, &link).is_some_and(|offer| offer.client == client) => {
            lease::remove(&root, &link)?;
        }
        _ => {}
    }
    Ok(())
}

/// `ROOT/run/headgate/headgate-dhcp` is below `ROOT`.
fn root_of(program: &Path) -> Option<Root> {
    let state = program.is_absolute().then(|| program.parent()).flatten()?;
    state.ends_with(STATE).then(|| state.ancestors().nth(2)).flatten().map(Root::new)
}

/// A word of the server's, or what is left of it.
fn word(name: &str) -> String {
    let value = env::var_os(name).unwrap_or_default();
    let mut text = value.to_string_lossy().into_owned();
    text.truncate(text.floor_char_boundary(WORD_BYTES_MAX));
    text
}
