//! `[policies]`.

use std::collections::BTreeMap;

use super::Checker;
use super::fields::Fields;
use crate::diagnostic::Report;
use crate::model::{Policy, PolicyAction};
use crate::schema::prefix;
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
            elements: fields.list("elements", |text| prefix(text).ok()).into_iter().map(|(net, _)| net).collect(),
            file: fields.text("file").map(str::to_owned),
            name: name.clone(),
        };
        policies.insert(name, policy);
    }
    policies
}
