//! Announcing added addresses again: frames get lost, and an interface that has just been set up has no carrier yet.

use headgate_host::announce::{Announcement, Unannounced};
use headgate_plan::state::Address;
use headgate_plan::step::{Outcome, Step};

use super::Engine;

/// Announcements after the first, one at each tick of the daemon. RFC 5227 section 2.3 asks for two in all, 2 s apart,
/// RFC 4861 section 7.2.6 for up to three.
const REPEATS: u32 = 2;

/// The addresses that are to be announced again, and how often.
#[derive(Debug, Default)]
pub(super) struct Announcements(Vec<(Address, u32)>);

impl Announcements {
    /// Takes note of what was added; what was removed must not be announced any more.
    pub(super) fn remember(&mut self, done: &[(Step, Outcome)]) {
        for (step, outcome) in done {
            match (step, outcome) {
                (Step::AddAddress(address), Outcome::Set) => self.0.push((address.clone(), REPEATS)),
                (Step::RemoveAddress(address), _) => self.0.retain(|(known, _)| known != address),
                _ => {}
            }
        }
    }

    /// What is left after a round: an address whose interface has no carrier waits for it, one whose interface is gone or
    /// has no neighbours has nobody to be announced to.
    fn settle(&mut self, round: &[Announcement]) {
        self.0.retain_mut(|(address, left)| {
            let Some(result) = round.iter().find(|result| result.link == address.link) else { return false };
            match result.unsent {
                Some((_, Unannounced::Down)) => true,
                Some((_, Unannounced::NoNeighbours)) => false,
                None | Some(_) => {
                    *left -= 1;
                    *left > 0
                }
            }
        });
    }
}

impl Engine {
    /// Announces what is to be announced again. Called every two seconds.
    pub fn announce_again(&mut self) {
        if self.announcements.0.is_empty() {
            return;
        }
        match self.host.announce(self.announcements.0.iter().map(|(address, _)| address)) {
            Ok(round) => self.announcements.settle(&round),
            Err(error) => tracing::warn!(error = %crate::explain(&error), "addresses cannot be announced again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(link: &str, last: u8) -> Address {
        Address { link: link.to_owned(), net: format!("10.0.0.{last}/32").parse().unwrap() }
    }

    fn result(link: &str, unsent: Option<Unannounced>) -> Announcement {
        Announcement { link: link.to_owned(), sent: 0, unsent: unsent.map(|reason| (1, reason)) }
    }

    #[test]
    fn each_is_announced_twice_more_and_waits_for_the_carrier() {
        let mut announcements = Announcements::default();
        announcements.remember(&[
            (Step::AddAddress(address("a", 1)), Outcome::Set),
            (Step::AddAddress(address("a", 2)), Outcome::Refused("no".to_owned())),
            (Step::AddAddress(address("b", 3)), Outcome::Set),
            (Step::AddAddress(address("c", 4)), Outcome::Set),
            (Step::AddAddress(address("d", 5)), Outcome::Set),
        ]);
        assert_eq!(announcements.0.len(), 4, "what was refused is not ours to announce");
        let round =
            [result("a", None), result("b", Some(Unannounced::Down)), result("c", Some(Unannounced::NoNeighbours))];
        announcements.settle(&round);
        assert_eq!(announcements.0, [(address("a", 1), 1), (address("b", 3), 2)]);
        announcements.settle(&round);
        assert_eq!(announcements.0, [(address("b", 3), 2)]);
        announcements.remember(&[(Step::RemoveAddress(address("b", 3)), Outcome::Set)]);
        assert!(announcements.0.is_empty());
    }
}
