//! The text format of OpenMetrics 1.0.

use std::fmt::{Display, Write};

/// What a family measures. Names of counters end in `_total` where they have samples, and the unit ends the family's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    Histogram,
    Info,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// The samples of one name. Families must not be interleaved, so each has a text of its own until all are there.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    kind: Kind,
    text: String,
    samples: usize,
}

impl Family {
    /// `unit` is the last part of the name: `seconds`, `bytes`; empty: a number of things.
    pub(super) fn new(name: &'static str, kind: Kind, unit: &str, help: &str) -> Self {
        let mut text = format!("# TYPE {name} {}\n", kind.word());
        if !unit.is_empty() {
            debug_assert!(name.ends_with(unit), "{name} does not end in {unit}");
            push(&mut text, format_args!("# UNIT {name} {unit}\n"));
        }
        push(&mut text, format_args!("# HELP {name} {help}\n"));
        Self { name, kind, text, samples: 0 }
    }

    /// A sample of a gauge, a counter or an info.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.line(suffix, labels, value);
    }

    /// A line of the family with a suffix of its own, as histograms have.
    pub(super) fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        push(&mut self.text, format_args!(" {value}\n"));
        self.samples += 1;
    }
}

/// All families that have samples, and the mark that none is missing.
pub(super) fn join(families: &[Family]) -> String {
    let families = families.iter().filter(|family| family.samples > 0);
    let mut page: String = families.map(|family| family.text.as_str()).collect();
    page.push_str("# EOF\n");
    page
}

/// A label's value ("Escaping"): backslash, quote and line feed; the rest is as it is, in UTF-8.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes all that is written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_stay_in_their_quotes() {
        let mut family = Family::new("x", Kind::Counter, "", "Things.");
        family.sample(&[("a", "q\"} 1\nx_total 2 \\ ü"), ("b", "")], 3);
        let text = join(&[family, Family::new("nothing", Kind::Gauge, "", "No sample, no line.")]);
        assert_eq!(
            text,
            "# TYPE x counter\n# HELP x Things.\nx_total{a=\"q\\\"} 1\\nx_total 2 \\\\ ü\",b=\"\"} 3\n# EOF\n"
        );
    }
}
