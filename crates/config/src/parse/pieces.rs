//! The tokens of a file, some tables at a time.

use toml_parser::Source;
use toml_parser::lexer::{Lexer, Token, TokenKind};

/// Pieces of a document that are documents too: each but the first begins with a header.
pub(super) struct Pieces<'t> {
    lexer: Lexer<'t>,
    /// A piece has at least so many tokens, the last one apart.
    least: usize,
    /// The header's bracket that the next piece begins with.
    ahead: Option<Token>,
    /// The brackets that are open. One that closes what is not open stays: nothing behind it is a header for certain.
    open: Vec<TokenKind>,
}

impl<'t> Pieces<'t> {
    pub(super) fn new(source: Source<'t>, least: usize) -> Self {
        Self { lexer: source.lex(), least, ahead: None, open: Vec::new() }
    }

    fn follow(&mut self, kind: TokenKind) {
        let opened = match kind {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => return self.open.push(kind),
            TokenKind::RightSquareBracket => TokenKind::LeftSquareBracket,
            TokenKind::RightCurlyBracket => TokenKind::LeftCurlyBracket,
            _ => return,
        };
        match self.open.last() {
            Some(&last) if last == opened => drop(self.open.pop()),
            _ => self.open.push(kind),
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Vec<Token>;

    fn next(&mut self) -> Option<Vec<Token>> {
        let mut piece: Vec<Token> = self.ahead.take().into_iter().collect();
        while let Some(token) = self.lexer.next() {
            let kind = token.kind();
            let is_line = piece.last().is_some_and(|last| last.kind() == TokenKind::Newline);
            let is_header = is_line && kind == TokenKind::LeftSquareBracket && self.open.is_empty();
            self.follow(kind);
            if is_header && piece.len() >= self.least {
                self.ahead = Some(token);
                break;
            }
            piece.push(token);
        }
        (!piece.is_empty()).then_some(piece)
    }
}
