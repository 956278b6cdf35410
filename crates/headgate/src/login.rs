//! What a login over ssh is: not a shell, but this very program under another name ([`NAME`], the login shell of `/etc/passwd`).
//!
//! Without a command it is the console, as on the serial port. A command (`ssh admin@box status --json`) is a command line of `headgate`: it
//! is split into words as a shell does, and that is all. Nothing is expanded, nothing but `headgate` is run, so there is nothing to inject.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;

/// The name under which a login calls us.
pub const NAME: &str = "headgate-login";

/// Why a login does nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// A quote is open, or the text is none.
    #[error("the command cannot be read: a quote is not closed, or it is not UTF-8")]
    Command,
    /// Somebody else than a server of logins called.
    #[error("{NAME} is called by a server of logins, with nothing or with -c COMMAND")]
    Usage,
    /// Without a command it needs a terminal.
    #[error("there is no terminal: add a command, as in `ssh admin@box status`")]
    NoTerminal,
}

/// The command line of `headgate` that this process was started for: its own, or what a login asks for.
///
/// # Errors
/// See [`LoginError`].
pub fn command_line() -> Result<Vec<OsString>, LoginError> {
    let words = read(std::env::args_os().collect())?;
    match words {
        Words::Own(words) | Words::Asked(words) => Ok(words),
        Words::Console if std::io::stdin().is_terminal() => Ok(vec!["headgate".into(), "console".into()]),
        Words::Console => Err(LoginError::NoTerminal),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Words {
    /// It is no login.
    Own(Vec<OsString>),
    Asked(Vec<OsString>),
    Console,
}

fn read(words: Vec<OsString>) -> Result<Words, LoginError> {
    let program = words.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    // A hyphen before it says that it is a login (login(1)).
    let program = program.strip_prefix('-').unwrap_or(&program);
    if Path::new(program).file_name().is_none_or(|name| name != NAME) {
        return Ok(Words::Own(words));
    }
    let command = match &words[1..] {
        [] => return Ok(Words::Console),
        [flag, command] if flag == "-c" => command.to_str().ok_or(LoginError::Command)?,
        _ => return Err(LoginError::Usage),
    };
    let mut asked = shell_words::split(command).map_err(|_| LoginError::Command)?;
    if asked.is_empty() {
        return Ok(Words::Console);
    }
    if asked[0] != "headgate" {
        asked.insert(0, "headgate".to_owned());
    }
    Ok(Words::Asked(asked.into_iter().map(OsString::from).collect()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn login(command: &str) -> Result<Words, LoginError> {
        read(vec![NAME.into(), "-c".into(), command.into()])
    }

    fn asked(words: &[&str]) -> Words {
        Words::Asked(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn a_command_is_words_and_nothing_more() {
        assert_eq!(login("status --json"), Ok(asked(&["headgate", "status", "--json"])));
        assert_eq!(login("headgate farm show 'a b'"), Ok(asked(&["headgate", "farm", "show", "a b"])));
        for hostile in
            ["status; reboot", "status && sh", "$(sh)", "`sh`", "status > /etc/x", "* ~ $HOME", "/usr/lib/sftp-server"]
        {
            let words: Vec<&str> = std::iter::once("headgate").chain(hostile.split(' ')).collect();
            assert_eq!(login(hostile), Ok(asked(&words)));
        }
        assert_eq!(login("farm show 'x"), Err(LoginError::Command));
        assert_eq!(login("  "), Ok(Words::Console));
    }

    #[test]
    fn a_login_is_known_by_its_name() {
        for program in ["headgate-login", "-headgate-login", "/usr/bin/headgate-login"] {
            assert_eq!(read(vec![program.into()]), Ok(Words::Console));
            assert_eq!(read(vec![program.into(), "status".into()]), Err(LoginError::Usage));
            assert_eq!(read(vec![program.into(), "-c".into()]), Err(LoginError::Usage));
            let bytes = OsString::from_vec(vec![0xff]);
            assert_eq!(read(vec![program.into(), "-c".into(), bytes]), Err(LoginError::Command));
        }
        let own = vec![OsString::from("/usr/bin/headgate"), "-c".into(), "x".into()];
        assert_eq!(read(own.clone()), Ok(Words::Own(own)));
        assert_eq!(read(Vec::new()), Ok(Words::Own(Vec::new())));
    }
}
