//! `headgate`: one file per command.
