//! `headgate token`.

// clap takes doc comments as help texts; a flattened field must not have one.
#![allow(missing_docs)]

use clap::Subcommand;
use hyper::Method;

use super::args::Output;
use super::history::time;
use super::table::Table;
use super::{Answer, CliError};
use crate::api::{NewToken, Removed, Scope, Token, TokenWanted};
use crate::client::{Client, segment};

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it
    #[command(
        after_help = "Examples:\n  headgate token add grafana --scope read\n  curl --cacert api.pem -H \"Authorization: Bearer $TOKEN\" https://lb1:8443/v1/status"
    )]
    Add {
        /// Its name, as `headgate history` will tell it
        name: String,
        /// read: look. operate: also drain, weigh, close until the next boot, cut flows. configure: also change farms for
        /// good, apply, roll back. root: everything
        #[arg(long, value_parser = scope)]
        scope: Scope,
        #[command(flatten)]
        output: Output,
    },
    /// List the tokens
    List(Output),
    /// Take a token out of force
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

fn scope(text: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|scope| scope.word() == text);
    found.ok_or_else(|| format!("it is one of {}", Scope::ALL.map(Scope::word).join(", ")))
}

pub(super) fn run(client: &Client, command: TokenCommand) -> Result<Answer, CliError> {
    match command {
        TokenCommand::Add { name, scope, output } => {
            let made: NewToken = client.call(Method::POST, "/v1/tokens", &TokenWanted { name, scope })?;
            // Alone on standard output: it goes into a file or a variable.
            Answer::of(output, &made, |made| format!("{}\n", made.token))
        }
        TokenCommand::List(output) => {
            let tokens: Vec<Token> = client.get("/v1/tokens")?;
            Answer::of(output, &tokens, |tokens| render(tokens))
        }
        TokenCommand::Remove { name, output } => {
            let target = format!("/v1/tokens/{}", segment(&name));
            let removed: Removed = client.call(Method::DELETE, &target, &())?;
            Answer::of(output, &removed, |removed| format!("token {} is not valid any more\n", removed.name))
        }
    }
}

fn render(tokens: &[Token]) -> String {
    if tokens.is_empty() {
        return "no tokens\n".to_owned();
    }
    let mut table = Table::new(&["TOKEN", "SCOPE", "MADE"]);
    for token in tokens {
        table.row([token.name.clone(), token.scope.word().to_owned(), time(token.made)]);
    }
    table.to_string()
}
