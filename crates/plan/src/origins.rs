//! Which keys of the configuration the kernel objects of a farm come from.
//!
//! Computed from names and keys when somebody asks, so that compiling carries nothing along for it.

use headgate_config::model::Farm;
use headgate_nft::{Data, Element, Key};

use crate::ids::Ids;
use crate::names::{self, Part};

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// A set or map as a whole.
    Set(&'a str),
    /// One element of a set.
    Element(&'a str, &'a Key, &'a Element),
    /// A chain.
    Chain(&'a str),
    /// A named object.
    Named(&'a str),
}

/// A path in the configuration, part by part.
pub type Path = Vec<String>;

/// The paths that say why `object` is there, the most telling first; those that are not written anywhere have defaults, so
/// the first that is written is the answer. None for what all farms share.
pub fn paths(farm: &Farm, ids: &Ids, object: Object<'_>) -> Vec<Path> {
    let own = |keys: &[&str]| {
        let of = |key: &str| [farm_path(farm), key.split('.').map(str::to_owned).collect()].concat();
        keys.iter().map(|key| of(key)).chain([farm_path(farm)]).collect()
    };
    match object {
        Object::Set(name) => match key_of_own_set(name) {
            Some(Place::Farm(keys)) => own(keys),
            Some(Place::Policy(policy)) => vec![vec!["policies".to_owned(), policy.to_owned()]],
            None => Vec::new(),
        },
        Object::Chain(name) => {
            let Some(owner) = names::owner_of_chain(name) else { return Vec::new() };
            if let Some(reason) = owner.reason {
                return own(&[&format!("limits.{reason}"), reason, "limits"]);
            }
            own(keys_of_part(owner.part))
        }
        // `FARM/REASON`.
        Object::Named(name) => match name.split_once('/') {
            Some((_, reason)) => own(&[&format!("limits.{reason}"), reason, "limits"]),
            None => own(&["helper", "limits.syn-protection"]),
        },
        Object::Element(set, key, element) => element_paths(farm, ids, (set, key, element)),
    }
}

fn farm_path(farm: &Farm) -> Path {
    vec!["farms".to_owned(), farm.name.to_string()]
}

/// Where a set that is not shared comes from.
enum Place<'a> {
    Farm(&'static [&'static str]),
    Policy(&'a str),
}

fn key_of_own_set(name: &str) -> Option<Place<'_>> {
    let (stem, rest) = name.split_once('-')?;
    Some(match stem.strip_suffix(['4', '6'])? {
        "sticky" | "kept" => Place::Farm(&["persistence"]),
        "static" => Place::Farm(&["persistence.static", "persistence"]),
        "pool" => Place::Farm(&["source-addresses"]),
        "ban" => Place::Farm(&["limits.ban", "limits"]),
        // `clients4-web/RATE` has a rate in it, `clients4-web/20` a number of connections.
        "clients" if rest.matches('/').count() > 1 => Place::Farm(&["limits.new-connections", "limits"]),
        "clients" => Place::Farm(&["limits.connections-per-client", "limits"]),
        "policy" => Place::Policy(rest.rsplit_once('/')?.0),
        _ => return None,
    })
}

fn keys_of_part(part: Part) -> &'static [&'static str] {
    match part {
        Part::Guard | Part::Refuse => &["limits", "policies"],
        Part::Inspect => &["limits"],
        Part::Queue => &["queue"],
        Part::New => &["log"],
        Part::Proxy => &["limits.syn-proxy", "limits"],
        Part::Policies => &["policies"],
        Part::Total => &["limits.new-connections-total", "limits"],
        Part::Farm | Part::Hash => &["scheduler"],
        Part::Chosen => &["persistence", "log"],
        Part::Pool => &["source-addresses"],
        Part::Flow => &["mode"],
    }
}

fn element_paths(farm: &Farm, ids: &Ids, (set, key, element): (&str, &Key, &Element)) -> Vec<Path> {
    let mark = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(u32::from_ne_bytes).ok();
    let backend_of = |wanted: Option<u32>| {
        farm.backends.values().find(|backend| wanted.is_some() && ids.mark(&farm.name, &backend.name) == wanted)
    };
    let stem = set.trim_end_matches(['4', '6']);
    let by_value = || match &element.data {
        Some(Data::Value(value)) if stem == "slots" => backend_of(mark(value)),
        _ => None,
    };
    let farm_key = |key: &str| [farm_path(farm), vec![key.to_owned()]].concat();
    let Some(backend) = backend_of(mark(&key.start)).filter(|_| stem != "slots").or_else(by_value) else {
        let whole = paths(farm, ids, Object::Set(set));
        return if whole.is_empty() { vec![farm_key("listen"), farm_path(farm)] } else { whole };
    };
    let path = [farm_path(farm), vec!["backends".to_owned(), backend.name.to_string()]].concat();
    let backend_key = |key: &str| [path.clone(), vec![key.to_owned()]].concat();
    let mut found = match stem {
        "slots" => vec![backend_key("weight")],
        "sources" | "pooled" => vec![backend_key("source-address"), farm_key("source-addresses")],
        "down" => vec![backend_key("state")],
        "marks" => vec![backend_key("mark"), farm_key("mark")],
        "egress" | "tunnels" => vec![farm_key("dsr")],
        "offloaded" => vec![farm_key("offload")],
        "caps" | "capped" | "admitted" | "overflow" => vec![backend_key("max-connections")],
        "silent" => vec![farm_key("on-empty")],
        "chosen" => vec![farm_key("persistence"), farm_key("log")],
        _ => vec![backend_key("address")],
    };
    found.extend([path, farm_path(farm)]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::maps::Place as Table;
    use crate::samples::{config, facts, web};

    #[test]
    fn every_object_of_a_farm_has_a_path() {
        let desired = compile(&config(vec![web()]), &[], &facts(), &Ids::default()).unwrap();
        let table = &desired.state.ruleset.tables[&Table::Inet.table()];
        let first = |object| paths(&web(), &desired.ids, object).first().map(|path| path.join("."));
        let of_first = |set: &'static str| {
            let (key, element) = table.sets[set].elements.iter().next().unwrap();
            first(Object::Element(set, key, element))
        };
        assert_eq!(of_first("services4").as_deref(), Some("farms.web.listen"));
        assert_eq!(of_first("slots").as_deref(), Some("farms.web.backends.b1.weight"));
        assert_eq!(of_first("targets4").as_deref(), Some("farms.web.backends.b1.address"));
        assert_eq!(of_first("sources4").as_deref(), Some("farms.web.backends.b1.source-address"));
        assert_eq!(first(Object::Chain("farm4-web")).as_deref(), Some("farms.web.scheduler"));
        assert_eq!(first(Object::Chain("refuse6-web/ban")).as_deref(), Some("farms.web.limits.ban"));
        assert_eq!(first(Object::Named("web/policies")).as_deref(), Some("farms.web.limits.policies"));
        assert_eq!(first(Object::Set("policy4-bad/0123")).as_deref(), Some("policies.bad"));
        assert_eq!(first(Object::Set("clients4-web/3/1s/3")).as_deref(), Some("farms.web.limits.new-connections"));
        assert_eq!(first(Object::Set("clients4-web/3")).as_deref(), Some("farms.web.limits.connections-per-client"));
        for shared in [Object::Set("services4"), Object::Chain("dispatch"), Object::Chain("prerouting")] {
            assert_eq!(first(shared), None);
        }
    }
}
