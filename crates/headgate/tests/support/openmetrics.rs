//! A parser of OpenMetrics text that takes nothing but what the specification allows ("Text format", "Metric types").

use std::collections::{BTreeMap, BTreeSet};

/// One line with a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All samples of a page, or why it is none.
pub fn parse(page: &str) -> Result<Vec<Sample>, String> {
    let body = page.strip_suffix("# EOF\n").ok_or("the page does not end in # EOF")?;
    let mut parser = Parser::default();
    for (number, line) in body.lines().enumerate() {
        parser.line(line).map_err(|error| format!("line {}: {error}: {line}", number + 1))?;
    }
    parser.end_family()?;
    Ok(parser.samples)
}

#[derive(Default)]
struct Parser {
    /// Name, type and the number of its first sample.
    family: Option<(String, String, usize)>,
    known: BTreeSet<String>,
    series: BTreeSet<String>,
    samples: Vec<Sample>,
}

fn is_name(text: &str, colon: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        match line.strip_prefix("# ") {
            Some(comment) => self.metadata(comment),
            None => self.sample(line),
        }
    }

    fn metadata(&mut self, comment: &str) -> Result<(), String> {
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name), Some(text)) = (words.next(), words.next(), words.next()) else {
            return Err("a comment that is no metadata".into());
        };
        if what == "TYPE" {
            self.end_family()?;
            if !is_name(name, true) || !self.known.insert(name.to_owned()) {
                return Err("no name, or one that was there before".into());
            }
            if !["gauge", "counter", "histogram", "info"].contains(&text) {
                return Err("an unknown type".into());
            }
            self.family = Some((name.to_owned(), text.to_owned(), self.samples.len()));
            return Ok(());
        }
        let (family, _, first) = self.family.as_ref().ok_or("metadata of no family")?;
        if family != name || *first != self.samples.len() {
            return Err("metadata in the wrong place".into());
        }
        match what {
            "UNIT" if name.ends_with(&format!("_{text}")) => Ok(()),
            "HELP" if !text.is_empty() => Ok(()),
            _ => Err("neither UNIT that ends the name nor HELP".into()),
        }
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                let (label, text) = rest.split_once("=\"").ok_or("no label")?;
                let (value, text) = quoted(text)?;
                if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
                    return Err(format!("label {label:?}"));
                }
                match text.strip_prefix(',') {
                    Some(text) => rest = text,
                    None => {
                        rest = text.strip_prefix('}').ok_or("labels do not end")?;
                        break;
                    }
                }
            }
        }
        let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
        let value: f64 = value.parse().map_err(|_| "no number")?;
        self.belongs(name, &labels, value)?;
        if !self.series.insert(format!("{name}{labels:?}")) {
            return Err("the same series twice".into());
        }
        self.samples.push(Sample { name: name.to_owned(), labels, value });
        Ok(())
    }

    fn belongs(&self, name: &str, labels: &BTreeMap<String, String>, value: f64) -> Result<(), String> {
        let (family, kind, _) = self.family.as_ref().ok_or("a sample of no family")?;
        let suffix = name.strip_prefix(family.as_str()).ok_or("a sample of another family")?;
        let fits = match (kind.as_str(), suffix) {
            ("gauge", "") => !value.is_nan(),
            ("counter", "_total") => value >= 0.0,
            ("info", "_info") => value == 1.0,
            ("histogram", "_bucket") => labels.contains_key("le"),
            ("histogram", "_count" | "_sum") => value >= 0.0,
            _ => false,
        };
        if fits { Ok(()) } else { Err("not a sample of this type".into()) }
    }

    fn end_family(&mut self) -> Result<(), String> {
        let Some((name, kind, first)) = self.family.take() else { return Ok(()) };
        let samples = &self.samples[first..];
        if samples.is_empty() {
            return Err(format!("{name} has no samples"));
        }
        if kind != "histogram" {
            return Ok(());
        }
        let buckets: Vec<(f64, f64)> =
            samples.iter().filter_map(|sample| Some((sample.labels.get("le")?.parse().ok()?, sample.value))).collect();
        let count = samples.iter().find(|sample| sample.name.ends_with("_count")).map(|sample| sample.value);
        let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let whole = buckets.last().is_some_and(|last| last.0.is_infinite() && Some(last.1) == count);
        if rising && whole { Ok(()) } else { Err(format!("the buckets of {name} are wrong")) }
    }
}

/// The value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                _ => return Err("an unknown escape".into()),
            },
            c => value.push(c),
        }
    }
    Err("a value does not end".into())
}

#[test]
fn what_is_not_openmetrics_is_refused() {
    let family = "# TYPE a counter\n# HELP a Things.\n";
    for wrong in [
        "",
        "# EOF",
        "a_total 1\n# EOF\n",
        &format!("{family}# EOF\n"),
        &format!("{family}a 1\n# EOF\n"),
        &format!("{family}a_total -1\n# EOF\n"),
        &format!("{family}a_total 1\na_total 2\n# EOF\n"),
        &format!("{family}a_total{{x=\"1\",x=\"2\"}} 1\n# EOF\n"),
        &format!("{family}a_total{{x=\"\n\"}} 1\n# EOF\n"),
        &format!("{family}a_total 1\n\n# EOF\n"),
        &format!("{family}a_total 1\n{family}a_total{{x=\"1\"}} 1\n# EOF\n"),
        "# TYPE a gauge\n# UNIT a bytes\na 1\n# EOF\n",
        "# TYPE a histogram\na_bucket{le=\"+Inf\"} 2\na_count 1\na_sum 1\n# EOF\n",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    let samples = parse(&format!("{family}a_total{{x=\"\\\"\\n\\\\\"}} 1\n# EOF\n")).expect("it is right");
    assert_eq!(samples[0].labels["x"], "\"\n\\");
}
