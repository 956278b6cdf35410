//! `headgate update`: firmware of the appliance. Reads and writes the slots by itself: an update has to work also when the
//! daemon does not.

// clap takes doc comments as help texts; a flattened field must not have one.
#![allow(missing_docs)]

mod source;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use headgate_update::bundle::{self, Bundle, BundleError};
use headgate_update::environment::AccessError;
use headgate_update::install::{Downgrade, InstallError, Machine, MachineError, Progress, Stage};
use headgate_update::keys::{self, KeyError, Keys};
use headgate_update::slots::RollbackError;
use serde_json::json;

use self::source::SourceError;
use super::args::Output;
use super::{Answer, CliError};
use crate::exit::Exit;

#[derive(Debug, Subcommand)]
pub enum UpdateCommand {
    /// Put an update into the slot that does not run; the next boot tries it
    ///
    /// The file has to be signed by a key that the running image trusts, made for this kind of machine, and not older than
    /// what has been good here. Whatever is wrong with it, the running slot stays as it is.
    #[command(
        after_help = "Examples:\n  headgate update install https://updates.example/headgate.update\n  headgate update install --stick\n  ssh build cat headgate.update | headgate update install -"
    )]
    Install(Install),
    /// Show what is in both slots; exit status 5 after a fallback
    Status(Output),
    /// Let the next boot try the other slot
    Rollback(Output),
    /// Note that the slot that runs is good; headgated does so by itself
    MarkGood,
}

#[derive(Debug, Args)]
pub struct Install {
    /// The update: a file, a URL (http or https), or - for standard input; with --stick, the file's name there
    #[arg(value_name = "FILE|URL", value_hint = ValueHint::FilePath, required_unless_present = "stick")]
    pub file: Option<String>,
    /// Take it from the stick with the label HEADGATE: headgate/FILE, or the only headgate/*.update
    #[arg(long)]
    pub stick: bool,
    /// Only trust servers that a certificate of this PEM file vouches for, instead of Mozilla's list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "stick")]
    pub certificates: Option<PathBuf>,
    /// Take a version that is older than what has been good here
    #[arg(long)]
    pub allow_downgrade: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Why the firmware was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is nothing to update.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The image's keys cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is nothing to read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The update file is not what it should be.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It was not installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// There is no way back.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// GRUB's variables failed.
    #[error(transparent)]
    Environment(#[from] AccessError),
}

pub(super) fn run(command: &UpdateCommand) -> Result<Answer, CliError> {
    match command {
        UpdateCommand::Install(options) => install(options),
        UpdateCommand::Status(output) => status(*output),
        UpdateCommand::Rollback(output) => rollback(*output),
        UpdateCommand::MarkGood => mark_good(),
    }
}

/// Slots are the machine's: `--root`, which moves configuration and state, does not move them.
fn machine() -> Result<Machine, UpdateError> {
    Ok(Machine::find(Path::new("/"))?)
}

fn install(options: &Install) -> Result<Answer, CliError> {
    let machine = machine()?;
    let keys = Keys::read(Path::new(keys::DIRECTORY)).map_err(UpdateError::from)?;
    // Mounted until the end.
    let (_stick, source) = match (options.stick, options.file.as_deref()) {
        (true, name) => source::from_stick(name).map(|(mounted, file)| (Some(mounted), file)),
        (false, name) => source::open(name.unwrap_or("-"), options.certificates.as_deref()).map(|file| (None, file)),
    }
    .map_err(UpdateError::from)?;
    let mut archive = bundle::stream(source);
    let bundle = Bundle::open(&mut archive, &keys).map_err(UpdateError::from)?;
    let signed_by = bundle.signed_by.clone();
    let downgrade = if options.allow_downgrade { Downgrade::Allow } else { Downgrade::Refuse };
    machine.check(&bundle.manifest, downgrade).map_err(UpdateError::from)?;
    let mut meter = Meter::new();
    let manifest = machine.install(bundle, |progress| meter.show(progress)).map_err(UpdateError::from)?;
    meter.end();
    let slot = machine.running.other();
    let value = json!({ "version": manifest.version, "slot": slot.to_string(), "signed-by": signed_by });
    Answer::of(options.output, &value, |_| {
        format!(
            "version {} is in slot {slot}, signed by {signed_by}. The next boot tries it; when it does not come to good, \
             this one comes back by itself.\n",
            manifest.version
        )
    })
}

fn status(output: Output) -> Result<Answer, CliError> {
    let slots = machine()?.slots().map_err(UpdateError::from)?;
    let exit = if slots.fell_back { Exit::Degraded } else { Exit::Good };
    Ok(Answer::of(output, &slots, |slots| slots.to_string())?.exit(exit))
}

fn rollback(output: Output) -> Result<Answer, CliError> {
    let machine = machine()?;
    let slot = machine.rollback().map_err(UpdateError::from)?;
    let value = json!({ "slot": slot.to_string() });
    Answer::of(output, &value, |_| format!("the next boot tries slot {slot}; nothing changes before\n"))
}

fn mark_good() -> Result<Answer, CliError> {
    let machine = machine()?;
    machine.mark_good().map_err(UpdateError::from)?;
    Ok(Answer::good(format!("slot {} is marked good\n", machine.running)))
}

/// How far it is, on a terminal: one line that is written over, once for each percent.
pub(super) struct Meter {
    shown: Option<(Stage, u64)>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { shown: None }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        let percent = progress.done.saturating_mul(100) / progress.total.max(1);
        if self.shown == Some((progress.stage, percent)) || !std::io::stderr().is_terminal() {
            return;
        }
        self.shown = Some((progress.stage, percent));
        let what = match progress.stage {
            Stage::Writing => "writing",
            Stage::Verifying => "reading back",
        };
        let _ = write!(std::io::stderr(), "\r{what:<12} {percent:3} %");
    }

    pub(super) fn end(&self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}
