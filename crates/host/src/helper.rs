//! Which connection tracking helpers this kernel has.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use headgate_nft::{Batch, Change, CommitError, ObjectKind, TableId};
use headgate_plan::helpers::{Helper, Word as _, nat_module, variants};

use crate::{Host, HostError};

impl Host {
    /// Those of `wanted` that this kernel lacks, by their words. What there is gets loaded on the way, and is not asked for again.
    ///
    /// # Errors
    /// [`HostError::Commit`]: nftables cannot be asked.
    pub fn lacking_helpers(&mut self, wanted: &BTreeSet<Helper>) -> Result<BTreeSet<String>, HostError> {
        let mut lacking = BTreeSet::new();
        for &helper in wanted {
            if self.helpers.contains(&helper) {
                continue;
            }
            if self.has_helper(helper)? {
                load(nat_module(helper));
                self.helpers.insert(helper);
            } else {
                lacking.insert(helper.word().to_owned());
            }
        }
        Ok(lacking)
    }

    /// The question is a transaction whose last change cannot be, so nothing of it ever happens; the kernel loads the module for it.
    fn has_helper(&mut self, helper: Helper) -> Result<bool, HostError> {
        let table = TableId::inet("headgate-probe");
        let mut changes = vec![Change::AddTable(table.clone())];
        changes.extend(variants(helper).into_iter().map(|variant| Change::AddObject {
            table: table.clone(),
            kind: ObjectKind::Helper,
            object: variant.name,
            value: variant.object,
        }));
        changes.push(Change::DeleteTable(TableId::inet("headgate-probe-nowhere")));
        match self.nft.commit(&Batch::new(&changes, None)) {
            Err(CommitError::Refused { failures, .. }) => {
                Ok(failures.iter().all(|failure| failure.change == Some(changes.len() - 1)))
            }
            Err(error) => Err(HostError::Commit(error)),
            Ok(()) => Ok(true),
        }
    }
}

/// As the kernel would. Built into the kernel it is no module, so a failure says nothing.
fn load(module: &str) {
    let modprobe = Command::new("/sbin/modprobe").args(["-q", "--", module]).stdin(Stdio::null()).status();
    tracing::debug!(module, ?modprobe, "loaded, or not a module");
}
