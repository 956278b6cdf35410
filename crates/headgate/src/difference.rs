//! What two configurations have otherwise, in words: for `headgate diff`, and for what `headgate history` says of each.

use std::collections::BTreeSet;

use headgate_config::document::Change;

use crate::api::Difference;
use crate::steps::printable;

/// So many things are named in the history; the rest is counted.
const NAMED: usize = 12;
/// Tables of named things, and what one of them is called.
const THINGS: [(&[&str], &str); 8] = [
    (&["farms"], "farm"),
    (&["policies"], "policy"),
    (&["services"], "service"),
    (&["network", "interfaces"], "interface"),
    (&["network", "vlans"], "VLAN"),
    (&["network", "bonds"], "bond"),
    (&["network", "vrfs"], "VRF"),
    (&["network", "routes"], "route"),
];

/// What a path is about, and how many of its parts say so.
fn subject(path: &[&str]) -> (String, usize) {
    if let ["farms", farm, "backends", backend, ..] = path {
        return (format!("backend {backend} of farm {farm}"), 4);
    }
    for (table, thing) in THINGS {
        if path.len() > table.len() && path.iter().zip(table).all(|(part, name)| part == name) {
            return (format!("{thing} {}", path[table.len()]), table.len() + 1);
        }
    }
    (path.first().copied().unwrap_or_default().to_owned(), path.len().min(1))
}

/// One difference on one line.
pub fn told(difference: &Difference) -> String {
    let path: Vec<&str> = difference.path.iter().map(String::as_str).collect();
    let (subject, parts) = subject(&path);
    let rest = path[parts..].join(".");
    let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    let text = match (rest.is_empty(), &difference.from, &difference.to) {
        (true, None, Some(value)) => format!("{subject} is new: {value}"),
        (true, Some(_), None) => format!("{subject} is gone"),
        (true, from, to) => format!("{subject}: {} → {}", side(from), side(to)),
        (false, from, to) => format!("{subject}: {rest}: {} → {}", side(from), side(to)),
    };
    printable(&text)
}

/// What was changed, without how: one entry a thing.
#[derive(Debug, Default)]
pub struct Summary {
    things: Vec<String>,
    more: usize,
    last: String,
    /// What a path began with, and the things of which differences began so: a farm, and its backends between what else it has.
    within: (Vec<String>, BTreeSet<String>),
}

impl Summary {
    /// Takes one difference; they come in the order of their paths.
    pub fn add(&mut self, path: &[&str], change: Change) {
        let begin = &path[..path.len().min(2)];
        if self.within.0 != begin {
            self.within = (begin.iter().map(|&part| part.to_owned()).collect(), BTreeSet::new());
        }
        let (subject, parts) = subject(path);
        if self.last == subject || !self.within.1.insert(subject.clone()) {
            return;
        }
        match self.things.len() < NAMED {
            true => self.things.push(match change {
                Change::New if parts == path.len() => format!("{subject} is new"),
                Change::Gone if parts == path.len() => format!("{subject} is gone"),
                _ => subject.clone(),
            }),
            false => self.more += 1,
        }
        self.last = subject;
    }

    /// All of it, cut where it is long.
    pub fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.things.push(format!("and {} more", self.more));
        }
        self.things
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: &str, from: Option<&str>, to: Option<&str>) -> Difference {
        Difference {
            path: path.split('/').map(str::to_owned).collect(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        }
    }

    fn summary(differences: &[Difference]) -> Vec<String> {
        let mut summary = Summary::default();
        for one in differences {
            let path: Vec<&str> = one.path.iter().map(String::as_str).collect();
            summary.add(&path, Change::of(one.from.is_some(), one.to.is_some()));
        }
        summary.finish()
    }

    #[test]
    fn differences_are_told_by_what_they_are_about() {
        let differences = [
            difference("farms/web/backends/b2/weight", Some("3"), Some("8")),
            difference("farms/web/backends/b2/state", None, Some("\"down\"")),
            difference("farms/web/limits/ban", Some("\"2m\""), None),
            difference("farms/dns", None, Some("{ listen = \"10.0.0.1:53/udp\" }")),
            difference("network/interfaces/cl", Some("{}"), None),
            difference("sysctl/net.ipv4.ip_forward", None, Some("1")),
            difference("lists/office.txt", Some("3 lines"), Some("4 \u{1b}lines")),
        ];
        let lines: Vec<String> = differences.iter().map(told).collect();
        assert_eq!(
            lines,
            [
                "backend b2 of farm web: weight: 3 → 8",
                "backend b2 of farm web: state: not set → \"down\"",
                "farm web: limits.ban: \"2m\" → not set",
                "farm dns is new: { listen = \"10.0.0.1:53/udp\" }",
                "interface cl is gone",
                "sysctl: net.ipv4.ip_forward: not set → 1",
                "lists: office.txt: 3 lines → 4 \u{fffd}lines",
            ]
        );
        let things =
            ["backend b2 of farm web", "farm web", "farm dns is new", "interface cl is gone", "sysctl", "lists"];
        assert_eq!(summary(&differences), things);
    }

    #[test]
    fn a_long_summary_is_cut_and_counted() {
        let many: Vec<Difference> =
            (0..100).map(|number| difference(&format!("farms/f{number}"), None, Some("{}"))).collect();
        let told = summary(&many);
        assert_eq!((told.len(), told[0].as_str(), told[12].as_str()), (13, "farm f0 is new", "and 88 more"));
        let each =
            |path: &'static str| (0..100).map(move |at| difference(&path.replace('#', &at.to_string()), None, None));
        assert_eq!(summary(&each("sysctl/net.#").collect::<Vec<_>>()), ["sysctl"]);
        let farm = ["farms/a/address", "farms/a/backends/x/weight", "farms/a/backends/y", "farms/a/listen"];
        let farm = farm.map(|path| difference(path, None, Some("1")));
        assert_eq!(summary(&farm), ["farm a", "backend x of farm a", "backend y of farm a is new"]);
    }
}
