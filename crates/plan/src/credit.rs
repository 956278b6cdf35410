//! `max-connections`: how many more flows a backend may be sent before somebody counts again.
//!
//! The kernel's own `ct count` will not do: it counts flows that were sent elsewhere, and walks a list of them for
//! each new one. Here the packet path takes a token for each flow that it sends; the supervisor counts the flows that
//! the backend has, and hands out tokens for the rest. The bound is strict, whatever happens between a count and the commit
//! that follows it: tokens that were out when the count began may all have become flows that the count did not see, so new ones
//! are handed out for the room without them only, and no more often than it takes. How many are out the kernel says: a
//! counter begins anew with each grant, in the same transaction.

/// Most tokens at once: the kernel keeps them as nanoseconds in 64 bits, a week for each.
pub const CREDIT_MAX: u32 = 30_000;

/// The tokens that a backend has from now on; `None`: what it has stays. `left` are those that were out before its `active`
/// flows were counted, at most.
///
/// Tokens are replaced and not added to, so what is left is given up, and counted as taken once more: only worth it when it is
/// less than half of the room.
pub fn next(most: u32, active: u64, left: u64) -> Option<u32> {
    let room = u64::from(most).saturating_sub(active);
    if left > room {
        return Some(0);
    }
    if left > room / 2 || room == 0 {
        return None;
    }
    let credit = u32::try_from(room - left).unwrap_or(u32::MAX);
    Some(credit.min(CREDIT_MAX))
}

/// Whether a backend is to be taken out of the schedule, or to stay out: it is full, and comes back with a sixteenth of
/// its connections free.
pub fn is_full(most: u32, active: u64, was_full: Fullness) -> bool {
    let room = u64::from(most).saturating_sub(active);
    match was_full {
        Fullness::Open => room == 0,
        Fullness::Full => room < u64::from(most / 16).max(1),
    }
}

/// What a backend was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fullness {
    /// It is in the schedule.
    Open,
    /// It is not.
    Full,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_room_is_handed_out_when_nothing_is_left() {
        assert_eq!(next(10, 0, 0), Some(10));
        assert_eq!(next(10, 9, 0), Some(1));
        assert_eq!(next(10, 10, 0), None, "it has none, and gets none");
        assert_eq!(next(10, 3, 5), None, "five of seven are still out");
        assert_eq!(next(10, 0, 2), Some(8));
        assert_eq!(next(5, 10, 3), Some(0), "the operator has lowered it");
        assert_eq!(next(u32::MAX, 0, 0), Some(CREDIT_MAX));
    }

    #[test]
    fn a_full_backend_comes_back_with_some_room() {
        assert!(is_full(64, 64, Fullness::Open) && is_full(64, 61, Fullness::Full));
        assert!(!is_full(64, 63, Fullness::Open) && !is_full(64, 60, Fullness::Full));
        assert!(!is_full(1, 0, Fullness::Full));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        /// New flows try to get in.
        Arrive(u32),
        /// Flows end.
        End(u32),
        /// The counter is read, and then flows are counted.
        Count,
        /// New tokens are committed, by what was counted last.
        Commit,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..40u32).prop_map(Event::Arrive),
            (0..20u32).prop_map(Event::End),
            Just(Event::Count),
            Just(Event::Commit)
        ]
    }

    proptest! {
        /// Whenever flows come and go between reading, counting and committing: never more than the maximum.
        #[test]
        fn the_bound_is_strict(most in 0..50u32, events in prop::collection::vec(event(), 0..200)) {
            let (mut tokens, mut active) = (0u32, 0u32);
            let mut counted = None;
            for event in events {
                match event {
                    Event::Arrive(flows) => {
                        let taken = flows.min(tokens);
                        (tokens, active) = (tokens - taken, active + taken);
                    }
                    Event::End(flows) => active = active.saturating_sub(flows),
                    Event::Count => counted = Some((u64::from(tokens), u64::from(active))),
                    // One commit for each count: a second one would not know of the tokens of the first.
                    Event::Commit => {
                        if let Some((left, active)) = counted.take()
                            && let Some(credit) = next(most, active, left)
                        {
                            tokens = credit;
                        }
                    }
                }
                prop_assert!(active <= most, "{active} of {most}");
            }
        }

        #[test]
        fn who_waits_gets_all_the_room(most in 1..50u32, active in 0..50u32) {
            let active = active.min(most);
            let mut tokens = 0;
            // Others take what is handed out, and nobody ends.
            let mut flows = active;
            for _ in 0..8 {
                if let Some(credit) = next(most, u64::from(flows), u64::from(tokens)) {
                    tokens = credit;
                }
                flows += tokens;
                tokens = 0;
            }
            prop_assert_eq!(flows, most);
        }
    }
}
