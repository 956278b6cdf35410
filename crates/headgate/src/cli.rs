//! `headgate`: one file per command.

pub mod console;
