//! What backends that are down or gone could not be made to let go of, and what began before its farm.
//!
//! The deletion of flows and of remembered clients comes behind the commit of the ruleset, so a failure takes nothing back: it
//! is kept here, tried again with every change of the configuration and every comparison with the kernel, and `status` warns until it has
//! succeeded. A mark stays owed when its backend serves again meanwhile: the flows from before are not known from those that
//! came since, and one that is deleted by mistake only finds a backend anew.

use headgate_plan::flows::Lost;

/// See the module. The default owes nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Owed {
    lost: Lost,
    /// Why, in sentences for people.
    warnings: Vec<String>,
}

impl Owed {
    /// Why something is owed; none when nothing is.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Takes over what somebody else has tried in vain.
    pub fn add(&mut self, other: Owed) {
        self.lost.add(other.lost);
        self.warnings = other.warnings.into_iter().chain(std::mem::take(&mut self.warnings)).collect();
        self.warnings.dedup();
    }

    /// This could not be taken, for this reason.
    pub fn owe(&mut self, lost: Lost, warning: String) {
        if !self.warnings.contains(&warning) {
            tracing::warn!("{warning}");
        }
        self.add(Self { lost, warnings: vec![warning] });
    }

    /// Has `cut` take this and all that is owed; what it says is what failed, and then all of it stays owed. A part that was
    /// taken already is taken again for nothing. Without anything to take, `cut` is not called.
    pub fn settle(&mut self, lost: Lost, cut: impl FnOnce(&Lost) -> Vec<String>) {
        self.add(Owed { lost, warnings: Vec::new() });
        if self.lost.is_empty() {
            return;
        }
        let warnings = cut(&self.lost);
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        if warnings.is_empty() {
            self.lost = Lost::default();
        }
        self.warnings = warnings;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn lost(marks: &[u32], memory: &str) -> Lost {
        let marks: BTreeSet<u32> = marks.iter().copied().collect();
        let cut = marks.iter().copied().filter(|mark| mark % 2 == 1).collect();
        Lost { marks, cut, memories: BTreeSet::from([memory.into()]), ..Lost::default() }
    }

    #[test]
    fn what_failed_is_tried_again_with_what_comes_until_it_succeeds() {
        let mut owed = Owed::default();
        owed.settle(Lost::default(), |_| panic!("nothing is lost"));
        owed.settle(lost(&[1, 2], "sticky4-a"), |tried| {
            assert_eq!(*tried, lost(&[1, 2], "sticky4-a"));
            vec!["no memory".to_owned()]
        });
        assert_eq!(owed.warnings(), ["no memory"]);
        let mut both = lost(&[1, 2, 3], "sticky4-a");
        both.memories.insert("sticky6-b".into());
        owed.settle(lost(&[3], "sticky6-b"), |tried| {
            assert_eq!(*tried, both);
            vec!["no socket".to_owned()]
        });
        assert_eq!(owed.warnings(), ["no socket"], "the newest reason");
        owed.settle(Lost::default(), |tried| {
            assert_eq!(*tried, both);
            Vec::new()
        });
        assert_eq!(owed, Owed::default(), "the warning goes with the debt");
        owed.settle(Lost::default(), |_| panic!("nothing is owed"));
    }

    #[test]
    fn what_others_tried_in_vain_is_owed_too() {
        let mut tried = Owed::default();
        tried.settle(lost(&[7], "sticky4-a"), |_| vec!["refused".to_owned()]);
        let mut owed = Owed::default();
        owed.add(tried);
        assert_eq!(owed.warnings(), ["refused"]);
        owed.settle(lost(&[8], "sticky4-a"), |tried| {
            assert_eq!(*tried, lost(&[7, 8], "sticky4-a"));
            Vec::new()
        });
        assert_eq!(owed, Owed::default());
    }
}
