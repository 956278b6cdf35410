//! Looking for some bytes in an answer that comes in pieces.

/// So much of an answer is looked at.
pub(super) const ANSWER_MAX: usize = 64 * 1024;

/// An answer so far, and what must occur in it.
#[derive(Debug)]
pub(super) struct Sought<'a> {
    needle: &'a [u8],
    /// The end of what came that may be the begin of the needle.
    tail: Vec<u8>,
    seen: usize,
    found: bool,
}

impl<'a> Sought<'a> {
    pub(super) fn new(needle: &'a str) -> Self {
        Self { needle: needle.as_bytes(), tail: Vec::new(), seen: 0, found: needle.is_empty() }
    }

    /// Takes the next piece; true once the needle was in it, or in it and what came before.
    pub(super) fn feed(&mut self, piece: &[u8]) -> bool {
        if self.found {
            return true;
        }
        self.seen = self.seen.saturating_add(piece.len());
        self.tail.extend_from_slice(piece);
        self.found = self.tail.windows(self.needle.len()).any(|window| window == self.needle);
        let kept = self.tail.len().min(self.needle.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
        self.found
    }

    /// More is not looked at.
    pub(super) fn is_exhausted(&self) -> bool {
        self.seen >= ANSWER_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_across_pieces() {
        for pieces in [&["pong"][..], &["xpo", "ngx"], &["p", "o", "n", "g"], &["pppopo", "nng", "..pon", "g"]] {
            let mut sought = Sought::new("pong");
            let found = pieces.iter().fold(false, |_, piece| sought.feed(piece.as_bytes()));
            assert!(found, "{pieces:?}");
        }
        let mut sought = Sought::new("pong");
        assert!(!sought.feed(b"po") && !sought.feed(b"mg") && !sought.feed(b"on"));
        assert!(Sought::new("").feed(b""));
    }

    #[test]
    fn an_answer_without_end_costs_no_memory() {
        let mut sought = Sought::new("pong");
        for _ in 0..ANSWER_MAX / 1024 {
            assert!(!sought.is_exhausted());
            assert!(!sought.feed(&[b'p'; 1024]));
        }
        assert!(sought.is_exhausted() && sought.tail.len() == 3);
    }
}
