//! What may be asked on the console: a closed list of commands that only look.
//!
//! Nobody has logged in here. So nothing that changes, nothing that names a file, no flag that is not listed.

/// A command line of `headgate` that is allowed.
#[derive(Debug)]
pub(super) struct Command {
    words: &'static [&'static str],
    /// What follows: least and most names (of farms and backends).
    names: (usize, usize),
    /// As `help` shows them.
    names_shown: &'static str,
    flags: &'static [&'static str],
    text: &'static str,
}

const JSON: &[&str] = &["--json"];

/// In the order of the menu, where each has its number; a command that needs a name asks for it.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        words: &["status"],
        names: (0, 0),
        names_shown: "",
        flags: JSON,
        text: "health of everything, worst first",
    },
    Command { words: &["farm", "list"], names: (0, 0), names_shown: "", flags: JSON, text: "farms" },
    Command {
        words: &["farm", "show"],
        names: (1, 1),
        names_shown: "FARM",
        flags: JSON,
        text: "one farm with its backends",
    },
    Command { words: &["connections"], names: (0, 2), names_shown: "[FARM [BACKEND]]", flags: JSON, text: "flows" },
    Command {
        words: &["explain"],
        names: (1, 1),
        names_shown: "FARM",
        flags: &[],
        text: "the kernel objects of a farm",
    },
    Command {
        words: &["hw", "show"],
        names: (0, 0),
        names_shown: "",
        flags: JSON,
        text: "hardware, interrupts, knobs",
    },
    Command {
        words: &["config", "show"],
        names: (0, 0),
        names_shown: "",
        flags: &["--origins"],
        text: "the configuration",
    },
    Command { words: &["check"], names: (0, 0), names_shown: "", flags: &[], text: "validate the configuration" },
    Command { words: &["plan"], names: (0, 0), names_shown: "", flags: JSON, text: "what apply would change" },
    Command {
        words: &["history"],
        names: (0, 0),
        names_shown: "",
        flags: JSON,
        text: "generations of the configuration",
    },
    Command {
        words: &["update", "status"],
        names: (0, 0),
        names_shown: "",
        flags: JSON,
        text: "what is in both slots",
    },
    Command { words: &["--version"], names: (0, 0), names_shown: "", flags: &[], text: "the version" },
    Command {
        words: &["boot-times"],
        names: (0, 0),
        names_shown: "",
        flags: JSON,
        text: "where the time of the last start went",
    },
    Command {
        words: &["config", "list"],
        names: (0, 0),
        names_shown: "",
        flags: JSON,
        text: "the files of the configuration",
    },
];

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// An empty line.
    Nothing,
    Help,
    /// End the session.
    Leave,
    /// Arguments for `headgate`.
    Run(Vec<String>),
    /// Why not, for the person at the keyboard.
    Refused(String),
}

/// Reads a line: a number of the menu, `help`, `exit`, or a command with or without `headgate` before it.
pub(super) fn read(line: &str) -> Request {
    let mut words: Vec<&str> = line.split_ascii_whitespace().collect();
    if words.first() == Some(&"headgate") {
        words.remove(0);
    }
    let [first, rest @ ..] = words.as_slice() else { return Request::Nothing };
    match (*first, rest) {
        ("help" | "?" | "menu", []) => return Request::Help,
        ("exit" | "quit" | "logout", []) => return Request::Leave,
        _ => {}
    }
    if let Ok(number) = first.parse::<usize>() {
        return match number.checked_sub(1).and_then(|index| COMMANDS.get(index)) {
            Some(command) => command.with(rest),
            None => Request::Refused(format!("the menu goes from 1 to {}", COMMANDS.len())),
        };
    }
    match COMMANDS.iter().find(|command| words.starts_with(command.words)) {
        Some(command) => command.with(&words[command.words.len()..]),
        None => Request::Refused("not available here: this console only looks. Type help.".into()),
    }
}

impl Command {
    fn with(&self, rest: &[&str]) -> Request {
        let (flags, names): (Vec<&str>, Vec<&str>) = rest.iter().partition(|word| word.starts_with('-'));
        if let Some(flag) = flags.iter().find(|flag| !self.flags.contains(flag)) {
            return Request::Refused(format!("{flag} is not available here. {}", self.usage()));
        }
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Request::Refused(format!("{name} is not a name. {}", self.usage()));
        }
        if names.len() < self.names.0 || names.len() > self.names.1 {
            return Request::Refused(self.usage());
        }
        Request::Run(self.words.iter().chain(&names).chain(&flags).map(|word| (*word).to_owned()).collect())
    }

    fn usage(&self) -> String {
        format!("Usage: {}", self.line())
    }

    /// `farm show FARM [--json]`.
    fn line(&self) -> String {
        let flags = self.flags.iter().map(|flag| format!("[{flag}]"));
        let words = self.words.iter().map(|word| (*word).to_owned());
        let names = (!self.names_shown.is_empty()).then(|| self.names_shown.to_owned());
        words.chain(names).chain(flags).collect::<Vec<String>>().join(" ")
    }
}

/// As the configuration allows names, and no flag.
fn is_name(word: &str) -> bool {
    headgate_config::types::FarmName::new(word).is_ok() && !word.starts_with('-')
}

/// The menu.
pub(super) fn help() -> String {
    let mut text = String::new();
    for (index, command) in COMMANDS.iter().enumerate() {
        text.push_str(&format!("{:>3}  {:<42} {}\n", index + 1, command.line(), command.text));
    }
    text.push_str("     help                                       this list\n");
    text.push_str("     exit                                       start over\n");
    text.push_str("A number does as well as the words: `3 web` is `farm show web`. Ctrl-C stops a command.\n");
    text
}

/// A line of `config show` without what must not be shown to whoever stands at the box.
pub(super) fn without_secrets(line: &str) -> String {
    let words = ["secret", "password", "token"];
    let Some(word) = words.iter().filter_map(|word| line.find(word)).min() else { return line.to_owned() };
    match line[word..].find('=') {
        Some(equals) => format!("{}= (not shown here)", &line[..word + equals]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Request {
        Request::Run(words.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn only_looking_is_allowed() {
        let table = [
            ("", Request::Nothing),
            ("  headgate ", Request::Nothing),
            ("help", Request::Help),
            ("?", Request::Help),
            ("exit", Request::Leave),
            ("status", run(&["status"])),
            ("headgate  status --json", run(&["status", "--json"])),
            ("1", run(&["status"])),
            ("1 --json", run(&["status", "--json"])),
            ("3 web", run(&["farm", "show", "web"])),
            ("farm show --json web", run(&["farm", "show", "web", "--json"])),
            ("connections web b1", run(&["connections", "web", "b1"])),
            ("boot-times --json", run(&["boot-times", "--json"])),
            ("config show --origins", run(&["config", "show", "--origins"])),
            ("14", run(&["config", "list"])),
            ("check", run(&["check"])),
            ("12", run(&["--version"])),
        ];
        for (line, want) in table {
            assert_eq!(read(line), want, "{line:?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("farm show {}", "x".repeat(64));
        let lines = [
            "sh",
            "/bin/sh",
            "!sh",
            "status; sh",
            "status | sh",
            "status > /etc/x",
            "$(sh)",
            "`sh`",
            "apply",
            "rollback",
            "reboot",
            "backend drain web b1",
            "farm add x",
            "farm remove web",
            "connections --flush",
            "connections web --flush",
            "connections a b c",
            "status --root /x",
            "status --root=/x",
            "--root /x status",
            "check /etc/shadow",
            "check ../x",
            "farm show",
            "farm show -x",
            "farm show a b",
            "farm show ../../etc",
            "farm show a/b",
            "farm",
            "hw apply",
            "hw record",
            "config",
            "explain",
            "explain web --json",
            "console",
            "headgate console",
            "headgate headgate status",
            "completions bash",
            "man /tmp",
            "0",
            "15",
            "config put x",
            "config get x",
            "config remove x",
            "99999999999999999999",
            "-1",
            "3",
            "3 a b",
            "1 sh",
            "--help",
            "-h",
            "status -h",
            "--version --x",
            "STATUS",
            "exit now",
            "help me",
            "update install x",
            &long,
        ];
        for line in lines {
            assert!(matches!(read(line), Request::Refused(_)), "{line:?} gives {:?}", read(line));
        }
    }

    #[test]
    fn help_names_every_command() {
        let help = help();
        assert!(help.contains("  3  farm show FARM [--json]"), "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }

    #[test]
    fn secrets_are_left_out() {
        for line in [
            "secret = \"abc\"",
            "site.secret = \"abc\"  # x",
            "api-token=\"abc\"",
            "\"password\" = \"abc\"",
            "site = { secret = \"abc\" }",
        ] {
            assert!(!without_secrets(line).contains("abc"), "{line}");
        }
        for line in ["[site]", "listen = \"secret\"", "# no = sign"] {
            assert_eq!(without_secrets(line), line);
        }
    }
}
