//! `headgate install`: the running appliance onto another disk.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use headgate_update::target::{self, Target, TargetError};
use headgate_update::transfer::{Origin, TransferError};
use serde_json::json;

use super::args::Output;
use super::update::Meter;
use super::{Answer, CliError};

#[derive(Debug, Args)]
pub struct Install {
    /// The whole disk: /dev/sda
    #[arg(value_hint = ValueHint::FilePath)]
    pub disk: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Why the disk does not hold the system.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is left alone.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It could not be written.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

pub(super) fn run(options: &Install) -> Result<Answer, CliError> {
    let device = install(options)?;
    let value = json!({ "disk": device });
    Answer::of(options.output, &value, |_| {
        format!(
            "{} holds this system, with data as it came. Take out what the box runs from and start it again.\n",
            device.display()
        )
    })
}

fn install(options: &Install) -> Result<PathBuf, CliError> {
    let root = Path::new("/");
    let origin = Origin::find(root).map_err(InstallError::from)?;
    let target = Target::look(root, &options.disk, origin.needed()).map_err(InstallError::from)?;
    target.check().map_err(InstallError::from)?;
    if !options.yes {
        if !std::io::stdin().is_terminal() {
            return Err(CliError::Usage("nobody can be asked here: --yes says that it is meant".to_owned()));
        }
        target::ask(&target, &mut std::io::stdin().lock(), &mut std::io::stderr()).map_err(InstallError::from)?;
    }
    let mut meter = Meter::new();
    origin.write(&target.device, |progress| meter.show(progress)).map_err(InstallError::from)?;
    meter.end();
    Ok(target.device)
}
