//! What the start of the box has to tell its operator: where `headgate-init` had to warn, and that another system was to run.

use std::path::Path;

use headgate_update::install::Machine;
use headgate_update::milestones::{self, WARNING};

/// Sentences for the status. `list` has the milestones of this start, `root` is that of the machine; elsewhere than on our image
/// there is neither.
pub fn told(list: &Path, root: &Path) -> Vec<String> {
    let milestones = milestones::read(list).unwrap_or_default();
    let warnings = milestones.iter().filter_map(|milestone| milestone.what.strip_prefix(WARNING));
    fell_back(root).into_iter().chain(warnings.map(str::to_owned)).collect()
}

fn fell_back(root: &Path) -> Option<String> {
    let slots = Machine::find(root).ok()?.slots().ok().filter(|slots| slots.fell_back)?;
    let wanted = slots.slots.first()?;
    let version = wanted.version.as_deref().unwrap_or("unknown");
    Some(format!(
        "FELL BACK: slot {}, version {version}, did not come to good, and slot {}, version {}, runs; see `headgate update status`",
        wanted.slot, slots.running, slots.version
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_and_milestones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("boot");
        assert!(told(&list, directory.path()).is_empty(), "a server keeps no such list");
        let lines = "2.31 init\n2.50 WARNING: cannot mount /dev/vda6 on /data: in memory\n2.60 ready\n";
        std::fs::write(&list, lines).unwrap();
        assert_eq!(told(&list, directory.path()), ["cannot mount /dev/vda6 on /data: in memory"]);
    }
}
