//! `headgate explain`.

use std::collections::BTreeMap;
use std::path::Path;

use headgate_config::document::Document;
use headgate_config::model::Farm;
use headgate_nft::{Element, Hook, Key, Ruleset, Table, TableId};
use headgate_plan::compile::{Desired, compile};
use headgate_plan::ids::Ids;
use headgate_plan::names;
use headgate_plan::origins::{self, Object};
use serde::Serialize;

use super::args::Explain;
use super::{Answer, CliError, plan};
use crate::files::Files;
use crate::reconcile::{ReconcileError, Reconciled};

/// What carries a farm.
#[derive(Debug, Serialize)]
struct Explained {
    /// What stands where in the configuration.
    origins: Vec<String>,
    /// The hooks that its packets pass, in their order.
    way: Vec<String>,
    /// In nft(8)'s syntax.
    ruleset: String,
    /// The same in parts.
    objects: Vec<Part>,
    warnings: Vec<String>,
}

/// One object of the ruleset.
#[derive(Debug, Default, Serialize)]
struct Part {
    /// `map services4`, `element of services4`, `chain farm4-web`.
    object: String,
    /// As it stands in the ruleset.
    text: String,
    /// Where in the configuration it comes from: `web.toml:14:1 listen`. None for what all farms share.
    origins: Vec<String>,
}

pub(super) fn run(root: &Path, explain: &Explain) -> Result<Answer, CliError> {
    let (files, looked) = plan::look(root, explain.output)?;
    let name = &explain.name.farm;
    let farm = files.loaded.config.farms.get(name.as_str());
    let farm = farm.ok_or_else(|| CliError::Usage(format!("there is no farm {name:?} in the configuration")))?;
    let alone = alone(&files, &looked, farm)?;
    Answer::of(explain.output, &explained(&files, farm, alone), render)
}

/// The machine with this farm and no other: hooks and shared chains have what this farm needs of them.
fn alone(files: &Files, looked: &Reconciled, farm: &Farm) -> Result<Desired, CliError> {
    let mut config = files.loaded.config.clone();
    config.farms.retain(|name, _| *name == farm.name);
    let compiled = compile(&config, &files.profiles, &looked.facts, &looked.desired.ids);
    let mut alone = compiled.map_err(|list| CliError::Kernel(ReconcileError::Unsupported(list)))?;
    for of_all in [names::GUARD_TABLE, names::PROTECT_TABLE] {
        alone.state.ruleset.tables.remove(&TableId::inet(of_all));
    }
    for (id, table) in &mut alone.state.ruleset.tables {
        let Some(whole) = looked.desired.state.ruleset.tables.get(id) else { continue };
        for (name, set) in &mut table.sets {
            set.size = whole.sets.get(name).map_or(set.size, |whole| whole.size);
        }
    }
    Ok(alone)
}

fn explained(files: &Files, farm: &Farm, alone: Desired) -> Explained {
    let mut origins = vec![format!("farm {}: {}", farm.name, farm.origin)];
    for backend in farm.backends.values() {
        let mark = alone.ids.mark(&farm.name, &backend.name);
        let mark = mark.map(|mark| format!(", ct mark {mark:#010x}")).unwrap_or_default();
        origins.push(format!("backend {} at {}{mark}: {}", backend.name, backend.address, backend.origin));
    }
    let ruleset = &alone.state.ruleset;
    let annotator = Annotator { document: &files.loaded.document, farm, ids: &alone.ids };
    let objects = annotator.parts(ruleset);
    let text = objects.iter().map(|part| part.text.as_str()).collect();
    Explained { origins, way: way(ruleset), ruleset: text, objects, warnings: alone.warnings }
}

/// The hooks in the order in which a packet comes to them.
fn way(ruleset: &Ruleset) -> Vec<String> {
    const ORDER: [Hook; 6] =
        [Hook::Ingress, Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    let mut hooks = Vec::new();
    for (id, table) in &ruleset.tables {
        for (name, chain) in &table.chains {
            if let Some(base) = &chain.base {
                let place = ORDER.iter().position(|hook| *hook == base.hook);
                let line = format!("{} {}, table {id}, chain {name}: {}", base.hook, base.priority, meaning(name));
                hooks.push(((place, base.priority), line));
            }
        }
    }
    hooks.sort();
    hooks.into_iter().map(|(_, line)| line).collect()
}

fn meaning(chain: &str) -> &'static str {
    match chain {
        names::INGRESS => "every packet of these interfaces; those of dsr farms are sent on from here",
        names::TUNNEL_INGRESS => "what comes in by our tunnels, which are for sending, is dropped",
        names::RAW => "every packet; those of stateless farms are rewritten, without connection tracking",
        names::INSPECT => "every packet of farms that look at each",
        names::PREROUTING => {
            "the first packet of a flow: finds the farm, chooses the backend, translates the destination"
        }
        names::INPUT => "what is for the box itself: local farms let it in or refuse it",
        names::FORWARD => "established flows that are offloaded leave from here for the flowtable",
        names::OUTPUT => "as prerouting, for what the box itself sends",
        names::RAW_POSTROUTING => "answers of stateless backends get the virtual address back",
        names::MARK_PREROUTING | names::MARK_OUTPUT => "packets are marked for policy routing",
        names::POSTROUTING => "the first packet of a flow: translates the source",
        _ => "what farms have asked for",
    }
}

/// Finds the origins of objects.
struct Annotator<'a> {
    document: &'a Document,
    farm: &'a Farm,
    ids: &'a Ids,
}

impl Annotator<'_> {
    /// The text of a ruleset, cut into objects, each with a comment that says where it comes from.
    fn parts(&self, ruleset: &Ruleset) -> Vec<Part> {
        let mut parts = Vec::new();
        for (id, table) in &ruleset.tables {
            let one = Ruleset { tables: BTreeMap::from([(id.clone(), table.clone())]) };
            self.table_parts(table, &one.to_string(), &mut parts);
        }
        parts
    }

    /// The text of a table has an object's kind and name behind one tab, its elements behind three, in their order.
    fn table_parts(&self, table: &Table, text: &str, parts: &mut Vec<Part>) {
        let mut elements: Option<(&str, std::collections::btree_map::Iter<'_, Key, Element>)> = None;
        for line in text.lines() {
            let begins = line.strip_prefix('\t').filter(|rest| !rest.starts_with('\t') && rest.ends_with(" {"));
            if let Some(header) = begins.and_then(|rest| rest.strip_suffix(" {")) {
                let (kind, name) = header.split_once(' ').unwrap_or((header, ""));
                elements = table.sets.get_key_value(name).map(|(name, set)| (&**name, set.elements.iter()));
                let origins = self.origins(match kind {
                    "chain" => Object::Chain(name),
                    "set" | "map" => Object::Set(name),
                    _ => Object::Named(name),
                });
                let mut text: String = origins.iter().map(|origin| format!("\t# {origin}\n")).collect();
                text += &format!("{line}\n");
                parts.push(Part { object: header.to_owned(), text, origins });
                continue;
            }
            let element = elements.as_mut().filter(|_| line.starts_with("\t\t\t"));
            if let Some((set, (key, element))) = element.and_then(|(set, rest)| Some((*set, rest.next()?))) {
                let origins = self.origins(Object::Element(set, key, element));
                let comment: String = origins.iter().map(|origin| format!("  # {origin}")).collect();
                parts.push(Part { object: format!("element of {set}"), text: format!("{line}{comment}\n"), origins });
                continue;
            }
            match parts.last_mut() {
                // What follows elements closes their set.
                Some(part) if !part.object.starts_with("element of") && line.starts_with('\t') => {
                    part.text += &format!("{line}\n");
                }
                _ => parts.push(Part { text: format!("{line}\n"), ..Part::default() }),
            }
        }
    }

    /// Where the most telling key that is written anywhere stands.
    fn origins(&self, object: Object<'_>) -> Vec<String> {
        let paths = origins::paths(self.farm, self.ids, object);
        let written = paths.iter().find_map(|path| {
            let parts: Vec<&str> = path.iter().map(String::as_str).collect();
            Some(format!("{} {}", self.document.origin_of(&parts)?, parts.last()?))
        });
        written.into_iter().collect()
    }
}

/// The comments of the elements carry `FARM/BACKEND`; what those are is said above them.
fn render(explained: &Explained) -> String {
    let mut text: String = explained.origins.iter().map(|line| format!("# {line}\n")).collect();
    text += "#\n# The way of a packet of this farm:\n";
    text += &explained.way.iter().map(|line| format!("#   {line}\n")).collect::<String>();
    text += "#\n# Of what all farms share (objects without an origin) this is what this farm needs.\n";
    text += &explained.ruleset;
    text += &explained.warnings.iter().map(|warning| format!("# warning: {warning}\n")).collect::<String>();
    text
}
