//! `[policies]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::Checker;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::model::{Policy, PolicyAction, Ranges};
use crate::schema::prefix;
use crate::tree::Span;
use crate::types::PolicyName;

pub(super) fn policies(checker: &mut Checker<'_>, root: Fields<'_>) -> BTreeMap<PolicyName, Policy> {
    let mut policies = BTreeMap::new();
    for (name, fields) in root.named("policies") {
        let Ok(name) = PolicyName::new(name) else { continue };
        if !fields.has("action") {
            checker.missing(fields, &format!("policy {name} has no action"), "action = \"allow\" or \"deny\"");
        }
        if !fields.has("elements") && !fields.has("file") {
            let report = Report::warning(fields.span(), format!("policy {name} has neither elements nor file"));
            checker.push(report.help("it matches nothing"));
        }
        let policy = Policy {
            origin: checker.document.origin_at(fields.span()),
            action: fields.word("action").unwrap_or(PolicyAction::Deny),
            ranges: Arc::new(ranges(checker, fields)),
            name: name.clone(),
        };
        policies.insert(name, policy);
    }
    policies
}

fn ranges(checker: &mut Checker<'_>, fields: Fields<'_>) -> Ranges {
    let written = fields.list("elements", |text| prefix(text).ok()).into_iter().map(|(net, _)| net);
    let number = fields.text("file").and_then(|file| checker.document.lists.get(file).copied());
    let mut nets: Vec<IpNet> = written.collect();
    if let Some(number) = number {
        read_list(checker, number, &mut nets);
    }
    nets.into_iter().collect()
}

/// One address or prefix a line; what follows a `#` is for people.
fn read_list(checker: &mut Checker<'_>, number: u16, nets: &mut Vec<IpNet>) {
    let text = checker.document.files.text(number);
    let mut begin = 0;
    for line in text.split_inclusive('\n') {
        let said = line.split('#').next().unwrap_or_default();
        let word = said.trim();
        if !word.is_empty() {
            let start = (begin + said.len() - said.trim_start().len()) as u32;
            match prefix(word) {
                Ok(net) => nets.push(net),
                Err(invalid) => {
                    let span = Span { file: number, start, end: start + word.len() as u32 };
                    checker.push(Report::invalid(span, invalid));
                }
            }
        }
        begin += line.len();
    }
}
