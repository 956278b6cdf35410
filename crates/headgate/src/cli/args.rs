//! The command line of `headgate`. The help texts are the operator's first manual: each says what happens and shows an
//! example. `docs/commands.md` and the man pages are made from here.

// clap takes doc comments as help texts; a flattened field must not have one.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::steps::Listing;

/// Operate a Headgate load balancer
///
/// Headgate turns TOML files into kernel objects. `check`, `config show`, `plan`, `explain`, `trace` and `hw` read files and the kernel
/// by themselves; everything else talks to the daemon headgated. Nothing is ever half applied: a change is one
/// transaction, and what ran before runs on when it is refused.
#[derive(Debug, Parser)]
#[command(name = "headgate", version, propagate_version = true, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = EXAMPLES)]
pub struct Cli {
    /// Directory below which configuration, state and the daemon's socket lie
    #[arg(long, global = true, value_name = "DIR", default_value = "/", value_hint = ValueHint::DirPath)]
    pub root: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  headgate check                    is the configuration valid?
  headgate plan                     what would apply change?
  headgate apply                    do it
  headgate apply --confirm 60s      do it, and go back unless `headgate confirm` comes in time
  headgate status                   what is wrong, worst first
  headgate backend drain web b1     no new flows to b1 of farm web
  headgate trace web                what happens to packets for farm web?
  headgate rollback                 back to the configuration before this one
  headgate diff                     what do the files say that does not run?

Exit status:
   0  good
   1  the configuration is invalid
   2  wrong usage, or a name that does not exist
   3  the kernel or the disk refused; what ran before still runs
   4  the daemon cannot be reached
   5  status: something is degraded
  10  plan: there are changes";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate the configuration; nothing is touched
    ///
    /// Without arguments the files that the daemon would load are checked, with arguments only these files, or the .toml
    /// files of these directories. All errors of all files are shown in one run, each with its place and what would be
    /// right.
    #[command(after_help = "Examples:\n  headgate check\n  headgate check new.toml\n  headgate check /mnt/usb/conf.d")]
    Check(Check),
    /// Show the configuration as it is merged from all files; put, read and remove drop-ins
    #[command(subcommand)]
    Config(super::config::ConfigCommand),
    /// Show what apply would change; exit status 10 when there are changes
    ///
    /// Reads the files and the kernel; needs root, and no daemon.
    #[command(after_help = "Examples:\n  headgate plan\n  headgate plan --json | jq .steps")]
    Plan(Plan),
    /// Load the files and make the kernel follow them
    ///
    /// Also loads a configuration that was returned from. When anything is refused, everything is put back and the
    /// running configuration stays.
    ///
    /// With --confirm the configuration before returns by itself unless `headgate confirm` comes in time: for a change that
    /// could cut off the one who makes it. It returns although headgated is killed or the machine boots meanwhile; it is then
    /// not loaded again by a start or SIGHUP until the files change or `headgate apply` asks for it.
    #[command(
        after_help = "Examples:\n  headgate apply\n  headgate apply --confirm 60s   and then `headgate confirm`, if you still can"
    )]
    Apply(Apply),
    /// Keep the configuration that --confirm put on trial
    Confirm(Output),
    /// Go back to an earlier generation of the configuration
    ///
    /// The files under /etc stay as they are; they are not loaded again by SIGHUP or a restart until they change or
    /// `headgate apply` asks for them. What would close the way that you came by needs --confirm, which is that of `headgate apply`.
    #[command(
        after_help = "Examples:\n  headgate rollback        to the one before\n  headgate rollback 12     to generation 12 of `headgate history`\n  headgate rollback --confirm 60s   and then `headgate confirm`, if you still can"
    )]
    Rollback(Rollback),
    /// List the generations that can be gone back to: when, by whom, and what each changed
    History(Output),
    /// Show in words what two configurations have otherwise
    ///
    /// Each is the number of a generation of `headgate history`, or `running`: what runs, with what was changed at run
    /// time, or `files`: what apply would load.
    #[command(
        after_help = "Examples:\n  headgate diff            from what runs to what the files say\n  headgate diff 3 4        what generation 4 changed\n  headgate diff 3 --json   from generation 3 to the files"
    )]
    Diff(super::diff::Diff),
    /// Show the health of everything, worst first; exit status 5 when degraded
    Status(Output),
    /// Watch farms, backends and CPUs on a live screen
    ///
    /// Enter opens the backends of a farm; there d drains, u and x bring up and take down, w sets the weight. Each asks before it
    /// acts, and lasts until the next boot. h shows each CPU with its load, its packets and the queues of NICs that it serves.
    /// Works on a serial line of 80 columns and 24 rows. NO_COLOR is honoured.
    #[command(after_help = "Examples:\n  headgate top\n  headgate top --every 5s --ascii")]
    Top(super::top::Options),
    /// List, show and change farms
    ///
    /// Changes act at once. They last until the next boot, or for good with --persist.
    #[command(subcommand)]
    Farm(FarmCommand),
    /// Add, remove, drain and weigh backends
    ///
    /// Changes act at once. They last until the next boot, or for good with --persist.
    #[command(subcommand)]
    Backend(BackendCommand),
    /// List or cut the flows of farms
    #[command(
        after_help = "Examples:\n  headgate connections web\n  headgate connections web b1 --flush   cut what b1 still has"
    )]
    Connections(Connections),
    /// List or forget the clients that a farm remembers
    #[command(
        after_help = "Examples:\n  headgate persistence web\n  headgate persistence web --flush   let the schedule choose anew for everybody"
    )]
    Persistence(Persistence),
    /// Show the kernel objects that carry a farm, in nft syntax, and the line of TOML behind each
    ///
    /// Reads the files and the kernel; needs root, and no daemon.
    #[command(after_help = "Examples:\n  headgate explain web")]
    Explain(Explain),
    /// Follow packets to a farm through the box, one sentence each
    ///
    /// Says which farm took a packet, who chose its backend, how it was translated and where it left, or which limit, rule or
    /// table refused it; rules of other people's tables are named too. Of TCP only what opens a connection is followed, unless
    /// --all is given: in an established flow nothing is decided any more.
    ///
    /// Reads the files and the kernel; needs root, and no daemon. While it runs the kernel looks at every packet of the machine
    /// once more. What it adds to nftables belongs to this process and goes with it, however it ends.
    #[command(after_help = TRACE)]
    Trace(Trace),
    /// Show the hardware and how it is tuned
    #[command(subcommand)]
    Hw(super::hw::HwCommand),
    /// Install firmware, or go back to the one before: the appliance only
    ///
    /// An update goes into the slot that does not run, is read back, and is tried at the next boot. When it does not come to
    /// good in three boots, the box comes back to the slot that runs now by itself. Needs root, and no daemon.
    #[command(subcommand)]
    Update(super::update::UpdateCommand),
    /// Put the running system onto another disk, from a stick onto the one inside: the appliance only
    ///
    /// Everything on that disk is gone then. Firmware, both slots and the drop-ins of the EFI system partition go over; data
    /// begins as the image came with it. The disk is refused when it is in use, is too small, or is what the box runs from, and it
    /// starts nothing before all of it was read back. Needs root, and no daemon.
    Install(super::install::Install),
    /// Put the box back to what its image came with, at the next start: the appliance only
    ///
    /// Configuration, history, tokens, logs and leases are gone then; firmware and slots stay as they are. A stick with the label
    /// HEADGATE that has a file headgate/factory-reset when the box starts does the same. Needs root, and no daemon.
    FactoryReset(super::factory_reset::FactoryReset),
    /// Start the box anew: the appliance only
    ///
    /// What is on trial (`headgate apply --confirm`) returns by this, and an update that was installed is tried. Needs root, and no
    /// daemon.
    #[command(after_help = "Examples:\n  ssh admin@lb1 reboot --yes")]
    Reboot(super::reboot::Reboot),
    /// Show where the time of the last start went: the appliance only
    BootTimes(Output),
    /// Make, list and remove the tokens that the API over TLS takes
    ///
    /// A token is shown once, when it is made; only its hash is kept.
    #[command(subcommand)]
    Token(super::token::TokenCommand),
    /// Serve a terminal that can only look: what the appliance runs on its serial console
    Console(super::console::Options),
    /// Print the completions of a shell
    #[command(after_help = "Examples:\n  headgate completions bash > /etc/bash_completion.d/headgate")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        /// Where to
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
    /// Print the reference of all commands as Markdown
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Steps {
    /// Print every step, not only the first of many alike; JSON always has all of them
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub output: Output,
}

impl Steps {
    pub(super) fn listing(self) -> Listing {
        if self.all { Listing::All } else { Listing::Short }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Apply {
    /// Return to the configuration before after this time, 1s to 24h, unless it is confirmed
    #[arg(long, value_name = "TIME", value_parser = window)]
    pub confirm: Option<Duration>,
    #[command(flatten)]
    pub steps: Steps,
}

fn window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    if allowed.contains(&window) { Ok(window) } else { Err("1s to 24h is possible".to_owned()) }
}

#[derive(Debug, Args)]
pub struct Check {
    /// Files, or directories of .toml files, instead of what the daemon would load
    #[arg(value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// Every element of a map, not only how many
    #[arg(long, short)]
    pub verbose: bool,
    #[command(flatten)]
    pub steps: Steps,
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// Number of a generation; default: the one before the running one
    #[arg(value_name = "N")]
    pub number: Option<u64>,
    /// Return to what runs now after this time, 1s to 24h, unless it is confirmed
    #[arg(long, value_name = "TIME", value_parser = window)]
    pub confirm: Option<Duration>,
    #[command(flatten)]
    pub steps: Steps,
}

#[derive(Debug, Clone, Copy, Args)]
pub struct Change {
    /// Keep the change in /etc/headgate/conf.d/90-operator.toml instead of until the next boot
    #[arg(long)]
    pub persist: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct FarmName {
    /// The farm's name
    pub farm: String,
}

#[derive(Debug, Subcommand)]
pub enum FarmCommand {
    /// List the farms, worst first
    List(Output),
    /// Show one farm and its backends
    Show {
        #[command(flatten)]
        name: FarmName,
        #[command(flatten)]
        output: Output,
    },
    /// Add a farm
    #[command(
        after_help = "Examples:\n  headgate farm add web --listen 172.16.1.1:80 --backend b1=172.16.2.11:8080 --backend b2=172.16.2.12:8080\n  headgate farm add dns --listen 172.16.1.1:53/udp --backend 172.16.2.21 mode=dnat --persist"
    )]
    Add {
        #[command(flatten)]
        name: FarmName,
        /// Address to answer on: ADDR:PORT, ADDR:LO-HI or ADDR:*, with /tcp (default), /udp, /sctp or /any
        #[arg(long, required = true, value_name = "LISTEN")]
        listen: Vec<String>,
        /// A backend; without a name they are called b1, b2, …; without a port the client's is kept
        #[arg(long, value_name = "[NAME=]ADDR[:PORT]")]
        backend: Vec<String>,
        /// Further keys of [farms.NAME], as in the configuration
        #[arg(value_name = "KEY=VALUE")]
        values: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Remove a farm; established flows go on until they end
    Remove {
        #[command(flatten)]
        name: FarmName,
        #[command(flatten)]
        change: Change,
    },
    /// Print the commands that make a farm's backends answer
    ///
    /// Reads the files; needs neither root nor a daemon. The commands last until the backend's next boot.
    #[command(
        after_help = "Examples:\n  headgate farm backend-setup dns\n  headgate farm backend-setup dns --json | jq -r '.[] | select(.backend == \"b1\") | .commands[]'"
    )]
    BackendSetup {
        #[command(flatten)]
        name: FarmName,
        #[command(flatten)]
        output: Output,
    },
    /// Set keys of a farm
    #[command(
        after_help = "Examples:\n  headgate farm set web scheduler=random on-empty=drop\n  headgate farm set web state=down              refuse new flows\n  headgate farm set web 'listen=[\"172.16.1.1:80\", \"172.16.1.1:81\"]'"
    )]
    Set {
        #[command(flatten)]
        name: FarmName,
        /// Keys of [farms.NAME] and their values; a.b=c sets a key of a table
        #[arg(required = true, value_name = "KEY=VALUE")]
        values: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Args)]
pub struct BackendName {
    /// The farm's name
    pub farm: String,
    /// The backend's name
    pub backend: String,
}

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Add a backend to a farm
    #[command(after_help = "Examples:\n  headgate backend add web b3 172.16.2.13:8080 weight=5")]
    Add {
        #[command(flatten)]
        name: BackendName,
        /// ADDR:PORT, or ADDR to keep the client's port
        address: String,
        /// Further keys of [farms.FARM.backends.BACKEND]
        #[arg(value_name = "KEY=VALUE")]
        values: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Remove a backend
    Remove(BackendChange),
    /// Give it no new flows; established ones stay
    Drain(BackendChange),
    /// Let it serve again
    Up(BackendChange),
    /// Take it out of service
    Down(BackendChange),
    /// Set its share of new flows, 0 to 65535; 0 takes none
    #[command(after_help = "Examples:\n  headgate backend weight web b1 5")]
    Weight {
        #[command(flatten)]
        name: BackendName,
        /// 0 to 65535
        #[arg(allow_negative_numbers = true)]
        weight: i64,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Args)]
pub struct BackendChange {
    #[command(flatten)]
    pub name: BackendName,
    #[command(flatten)]
    pub change: Change,
}

#[derive(Debug, Args)]
pub struct Connections {
    /// Only of this farm
    pub farm: Option<String>,
    /// Only of this backend of it
    pub backend: Option<String>,
    /// Cut them; clients have to connect again
    #[arg(long, requires = "farm")]
    pub flush: bool,
    /// Most flows listed
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Persistence {
    #[command(flatten)]
    pub name: FarmName,
    /// Forget them; open connections stay, and so do assignments
    #[arg(long)]
    pub flush: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    pub name: FarmName,
    #[command(flatten)]
    pub output: Output,
}

const TRACE: &str = "\
Examples:
  headgate trace web                          until Ctrl-C
  headgate trace web --client 172.16.1.10     only what this client sends
  headgate trace web --count 1 --seconds 10   the next packet, or nothing for 10 seconds
  headgate trace dns --all --json | jq .backend

A line reads from left to right:
  client 172.16.1.10:4711 → 172.16.1.1:80/tcp → farm web → scheduler chose b2 → dnat 172.16.2.12:80 → out eth1

  farm web            the listener of this farm took the packet
  scheduler chose b2  or persistence, or a hash: who decided for backend b2
  dnat, snat          the addresses after translation
  out eth1            it left by this interface; whether b2 answers is not seen here
  known flow          it belongs to a connection that has its backend already
  no farm took it     no listener of the running ruleset is for it: is the configuration applied?
  not seen any more   the kernel itself dropped it: no route, no neighbour, rp_filter, forwarding off";

#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    pub name: FarmName,
    /// Only packets from this address
    #[arg(long, value_name = "ADDR")]
    pub client: Option<std::net::IpAddr>,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "S")]
    pub seconds: Option<u64>,
    /// Follow every packet, not only those that open a TCP connection
    #[arg(long)]
    pub all: bool,
    /// Follow at most so many packets a second
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rate: u32,
    #[command(flatten)]
    pub output: Output,
}
