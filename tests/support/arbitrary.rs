//! Random valid configurations, and random changes of them.
//!
//! What is drawn is written down as TOML and takes the way of every configuration, so that the loader has the first word on
//! it. Names, addresses and ports come from small pools: farms share addresses, listeners are exact, ranges and wildcards of
//! one another, ids are freed and given out again. What this version refuses by name ([`Unsupported`]) is left out of a farm,
//! so that a feature is drawn from the day on that it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Write as _};

use headgate_config::Config;
use headgate_plan::compile::{Unsupported, compile};
use headgate_plan::ids::Ids;
use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::hostile::facts;

/// Names that look like one another and like names of ours.
const FARMS: [&str; 8] = ["a", "assign", "web", "web.6", "web-6", "x_y", "dispatch", "Z9"];
const BACKENDS: usize = 6;

/// Some farms by their place in the list of farms.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Farms(pub BTreeMap<usize, Farm>);

/// One farm.
#[derive(Clone, PartialEq, Eq)]
pub struct Farm {
    listen: BTreeSet<Listen>,
    backends: BTreeMap<usize, Backend>,
    /// The backends' port; `None`: the client's is kept.
    port: Option<u16>,
    state: &'static str,
    /// Lines of TOML by the key that refuses them when it is not supported.
    options: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    weight: u16,
    priority: u16,
    state: &'static str,
    options: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listen {
    ipv6: bool,
    address: u8,
    protocol: &'static str,
    ports: &'static str,
}

/// One change of a configuration; farms and backends by their place in what there is at that time.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Edit {
    /// None at all: a reload.
    Nothing,
    BackendState(usize, usize, &'static str),
    Weight(usize, usize, u16),
    FarmState(usize, &'static str),
    AddBackend(usize, usize, u16),
    RemoveBackend(usize, usize),
    /// A farm that is new or replaces one.
    Farm(usize, Box<Farm>),
    RemoveFarm(usize),
    /// Everything else.
    All(Farms),
}

impl Farms {
    /// The configuration, without what this version does not support.
    ///
    /// # Panics
    /// The loader refuses it: this generator is wrong.
    pub fn config(&mut self) -> Config {
        loop {
            let text = self.toml();
            let loaded = headgate_config::load_texts(&[("random.toml".into(), text.clone())]);
            let config = loaded.unwrap_or_else(|problems| panic!("{problems}\n{text}")).config;
            match compile(&config, &[], facts(), &Ids::default()) {
                Ok(_) => return config,
                Err(unsupported) => {
                    let left_out = unsupported.iter().filter(|one| self.leave_out(one)).count();
                    assert!(left_out > 0, "{unsupported:?} cannot be left out of\n{text}");
                }
            }
        }
    }

    /// Whether there was an option to leave out.
    fn leave_out(&mut self, unsupported: &Unsupported) -> bool {
        let key = |number: &usize| {
            let key = unsupported.path.strip_prefix("farms.")?.strip_prefix(FARMS[*number])?.strip_prefix('.');
            key.map(|key| (*number, key.to_owned()))
        };
        // A farm's name may begin with another's and a dot.
        let longest = self.0.keys().filter_map(key).max_by_key(|(number, _)| FARMS[*number].len());
        let Some((farm, key)) = longest.and_then(|(number, key)| Some((self.0.get_mut(&number)?, key))) else {
            return false;
        };
        // `limits` takes all limits along, and `persistence.key` all of persistence.
        let refused = |option: &str, key: &str| {
            let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
            option == key || within(option, key) || within(key, option)
        };
        let backends_key = key.strip_prefix("backends.").and_then(|key| key.split_once('.')).map(|(_, key)| key);
        let options: Vec<_> = match backends_key {
            Some(_) => farm.backends.values_mut().map(|backend| &mut backend.options).collect(),
            None => vec![&mut farm.options],
        };
        let key = backends_key.unwrap_or(&key);
        let mut left_out = false;
        for options in options {
            let before = options.len();
            options.retain(|option, _| !refused(option, key));
            left_out |= options.len() < before;
        }
        left_out
    }

    /// As a file.
    pub fn toml(&self) -> String {
        let mut text = String::from(
            "[site]\nsecret = \"0123456789abcdef0123456789abcdef\"\n[policies.friends]\naction = \"allow\"\n\
             elements = [\"192.0.2.0/24\", \"2001:db8:f::/48\"]\n[policies.foes]\naction = \"deny\"\n\
             elements = [\"198.51.100.7\", \"198.51.100.128/25\"]\n",
        );
        let mut claimed = BTreeSet::new();
        for (number, farm) in &self.0 {
            farm.write(&mut text, *number, &mut claimed);
        }
        text
    }

    /// Carries out one change. What there is nothing for does nothing.
    pub fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::Nothing => {}
            Edit::BackendState(farm, backend, state) => self.backend(*farm, *backend, |one| one.state = state),
            Edit::Weight(farm, backend, weight) => self.backend(*farm, *backend, |one| one.weight = *weight),
            Edit::FarmState(farm, state) => self.farm(*farm, |one| one.state = state),
            Edit::AddBackend(farm, backend, weight) => self.farm(*farm, |one| {
                let added = Backend { weight: *weight, priority: 1, state: "up", options: BTreeMap::new() };
                one.backends.entry(*backend).or_insert(added);
            }),
            Edit::RemoveBackend(farm, backend) => self.farm(*farm, |one| {
                let name = one.backends.keys().nth(backend % one.backends.len()).copied();
                if one.backends.len() > 1 {
                    one.backends.remove(&name.expect("it is within their number"));
                }
            }),
            Edit::Farm(number, farm) => {
                self.0.insert(*number, Farm::clone(farm));
            }
            Edit::RemoveFarm(number) => {
                self.0.remove(number);
            }
            Edit::All(farms) => *self = farms.clone(),
        }
    }

    /// Carries out the change of a backend's state or weight as an operator would: the arguments of `headgate`. `None`: it is
    /// another kind of change, or there is nothing for it.
    pub fn command(&self, edit: &Edit) -> Option<Vec<String>> {
        let (place, backend, words) = match edit {
            Edit::BackendState(farm, backend, state) => (farm, backend, [*state, ""].map(str::to_owned)),
            Edit::Weight(farm, backend, weight) => (farm, backend, ["weight".to_owned(), weight.to_string()]),
            _ => return None,
        };
        let (number, farm) = self.0.iter().nth(place % self.0.len().max(1))?;
        let backend = farm.backends.keys().nth(backend % farm.backends.len())?;
        // As written for the one family or the other.
        let letter = if farm.listen.iter().any(|listen| !listen.ipv6) { 'b' } else { 'B' };
        let [verb, value] = words;
        let words = ["backend".to_owned(), verb, FARMS[*number].to_owned(), format!("{letter}{backend}"), value];
        Some(words.into_iter().filter(|word| !word.is_empty()).collect())
    }

    fn farm(&mut self, place: usize, change: impl FnOnce(&mut Farm)) {
        let count = self.0.len().max(1);
        if let Some(farm) = self.0.values_mut().nth(place % count) {
            change(farm);
        }
    }

    fn backend(&mut self, farm: usize, place: usize, change: impl FnOnce(&mut Backend)) {
        self.farm(farm, |farm| {
            let count = farm.backends.len();
            farm.backends.values_mut().nth(place % count).map(change);
        });
    }
}

impl Debug for Farms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.toml())
    }
}

impl Debug for Farm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, 0, &mut BTreeSet::new());
        f.write_str(&text)
    }
}

impl Listen {
    /// What no other listener may be: `*/any` is the same of every protocol.
    fn claim(self) -> (bool, u8, &'static str, &'static str) {
        let protocol = if self.ports == ANY { "" } else { self.protocol };
        (self.ipv6, self.address, protocol, self.ports)
    }
}

const ANY: &str = "any";

impl Farm {
    /// Without the listeners that are claimed; a farm that has none left is not written.
    fn write(&self, text: &mut String, number: usize, claimed: &mut BTreeSet<(bool, u8, &'static str, &'static str)>) {
        let mut own: Vec<Listen> =
            self.listen.iter().copied().filter(|listen| claimed.insert(listen.claim())).collect();
        let mode = self.options.get("mode").map_or("", String::as_str);
        if mode.contains("stateless") {
            // The way back from a backend is found by its address and port: one listener a family.
            let mut seen = BTreeSet::new();
            own.retain(|listen| seen.insert(listen.ipv6));
        }
        if own.is_empty() {
            return;
        }
        let port = self.port.filter(|_| !mode.contains("dsr") && own.iter().all(|listen| listen.ports != ANY));
        let listen: Vec<String> = own.iter().map(Listen::to_string).collect();
        let options: Vec<&str> = self.options.values().map(String::as_str).collect();
        let (name, state, options) = (FARMS[number], self.state, options.join("\n"));
        // Writing to a String does not fail.
        let _ = writeln!(text, "[farms.\"{name}\"]\nlisten = [{}]\nstate = \"{state}\"\n{options}", listen.join(", "));
        for (place, backend) in &self.backends {
            for ipv6 in [false, true] {
                if own.iter().any(|listen| listen.ipv6 == ipv6) {
                    backend.write(text, (number, *place), ipv6, port);
                }
            }
        }
    }
}

impl Backend {
    fn write(&self, text: &mut String, (farm, place): (usize, usize), ipv6: bool, port: Option<u16>) {
        let Self { weight, priority, state, options } = self;
        // Each farm has backends of its own: one of a stateless farm must be nobody else's.
        let host = 20 + farm * BACKENDS + place;
        let (name, address) = match ipv6 {
            false => (format!("b{place}"), format!("172.16.2.{host}")),
            true => (format!("B{place}"), format!("2001:db8:2::{host:x}")),
        };
        let address = match (port, ipv6) {
            (None, _) => address,
            (Some(port), false) => format!("{address}:{port}"),
            (Some(port), true) => format!("[{address}]:{port}"),
        };
        let options: Vec<&str> = options.values().map(String::as_str).collect();
        let _ = writeln!(
            text,
            "[farms.\"{}\".backends.{name}]\naddress = \"{address}\"\nweight = {weight}\npriority = {priority}\n\
             state = \"{state}\"\n{}",
            FARMS[farm],
            options.join("\n")
        );
    }
}

impl fmt::Display for Listen {
    /// In quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol, ports, .. } = self;
        let address = match self.ipv6 {
            false => format!("172.16.1.{address}"),
            true => format!("[2001:db8:1::{address}]"),
        };
        match *ports {
            ANY => write!(f, "\"{address}:*/any\""),
            ports => write!(f, "\"{address}:{ports}/{protocol}\""),
        }
    }
}

fn listen() -> impl Strategy<Value = Listen> {
    let ports = prop_oneof![6 => select(vec!["80", "443", "1050"]), 2 => select(vec!["1000-1100", "7-9"]),
        1 => Just("*"), 1 => Just(ANY)];
    (any::<bool>(), 1..4u8, select(vec!["tcp", "tcp", "udp", "sctp"]), ports)
        .prop_map(|(ipv6, address, protocol, ports)| Listen { ipv6, address, protocol, ports })
}

fn backend_state() -> impl Strategy<Value = &'static str> {
    select(vec!["up", "up", "up", "drain", "down"])
}

fn farm_state() -> impl Strategy<Value = &'static str> {
    select(vec!["up", "up", "up", "up", "down", "off"])
}

fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 1..6u16, 1 => Just(0), 1 => 0..300u16]
}

/// Each of these lines or not.
fn options(lines: &[(&'static str, &'static str)], probability: f64) -> BoxedStrategy<BTreeMap<&'static str, String>> {
    let each = lines.iter().map(|&(key, line)| option::weighted(probability, Just((key, line.to_owned()))));
    each.collect::<Vec<_>>().prop_map(|drawn| drawn.into_iter().flatten().collect()).boxed()
}

fn backend() -> impl Strategy<Value = Backend> {
    let options = options(&[("max-connections", "max-connections = 1000"), ("mark", "mark = 7")], 0.1);
    (weight(), select(vec![1, 1, 1, 2, 3u16]), backend_state(), options)
        .prop_map(|(weight, priority, state, options)| Backend { weight, priority, state, options })
}

/// One that sends equal packets to one backend.
fn hashing() -> impl Strategy<Value = String> {
    let fields =
        btree_set(select(vec!["source-address", "source-port", "destination-address", "destination-port"]), 1..4);
    (select(vec!["hash", "maglev"]), fields, select(vec![13, 31, 101])).prop_map(|(name, fields, slots)| {
        let fields: Vec<&str> = fields.into_iter().collect();
        format!("scheduler = \"{name}\"\nhash = [\"{}\"]\nslots = {slots}", fields.join("\", \""))
    })
}

fn counting() -> impl Strategy<Value = String> {
    select(vec!["round-robin", "round-robin", "random", "least-connections"])
        .prop_map(|name| format!("scheduler = \"{name}\""))
}

/// What any mode may have.
const SHARED: &[(&str, &str)] = &[
    ("on-empty", "on-empty = \"drop\""),
    ("address", "address.manage = \"never\""),
    ("mark", "mark = 0x00000042"),
    ("policies", "policies = [\"friends\", \"foes\"]"),
    ("log", "log = [\"new\", \"denied\"]"),
];
/// What needs connection tracking.
const TRACKED: &[(&str, &str)] = &[
    ("queue", "queue = 5"),
    ("persistence", "persistence.key = [\"source-address\"]\npersistence.timeout = \"90s\"\npersistence.size = 512"),
    ("limits.new-connections", "limits.new-connections = \"10/second burst 20\""),
    ("limits.new-connections-total", "limits.new-connections-total = \"1000/minute\""),
    ("limits.connections-per-client", "limits.connections-per-client = 20"),
    ("limits.tcp-resets", "limits.tcp-resets = \"5/second\""),
    ("limits.strict-tcp", "limits.strict-tcp = true"),
    ("limits.ban", "limits.ban = \"30s\""),
];

fn farm_options() -> impl Strategy<Value = BTreeMap<&'static str, String>> {
    let modes = ["snat", "snat", "snat", "dnat", "dnat", "stateless", "dsr"];
    (select(modes.to_vec()), options(SHARED, 0.15), options(TRACKED, 0.15), option::of(counting()), hashing()).prop_map(
        |(mode, mut options, tracked, counting, hashing)| {
            options.insert("mode", format!("mode = \"{mode}\""));
            if mode != "stateless" {
                options.extend(tracked);
            }
            let scheduler = match counting {
                // Nobody counts the packets of one flow as one, or sees both of its directions.
                Some(counting) if mode != "stateless" && !(mode == "dsr" && counting.contains("least")) => counting,
                _ => hashing,
            };
            options.insert("scheduler", scheduler);
            options
        },
    )
}

/// One farm, with at least one listener and one backend.
pub fn farm() -> impl Strategy<Value = Farm> {
    let backends = btree_map(0..BACKENDS, backend(), 1..BACKENDS);
    let port = option::weighted(0.7, select(vec![80, 8080u16]));
    (btree_set(listen(), 1..5), backends, port, farm_state(), farm_options()).prop_map(
        |(listen, mut backends, port, state, options)| {
            if options["mode"].contains("stateless") || options["mode"].contains("dsr") {
                backends.values_mut().for_each(|backend| drop(backend.options.remove("max-connections")));
            }
            Farm { listen, backends, port, state, options }
        },
    )
}

/// Any number of farms.
pub fn farms() -> impl Strategy<Value = Farms> {
    btree_map(0..FARMS.len(), farm(), 0..FARMS.len()).prop_map(Farms)
}

/// One change: mostly a small one.
pub fn edit() -> impl Strategy<Value = Edit> {
    let place = || 0..FARMS.len();
    prop_oneof![
        1 => Just(Edit::Nothing),
        8 => (place(), 0..BACKENDS, backend_state()).prop_map(|(farm, backend, state)| Edit::BackendState(farm, backend, state)),
        8 => (place(), 0..BACKENDS, weight()).prop_map(|(farm, backend, weight)| Edit::Weight(farm, backend, weight)),
        3 => (place(), farm_state()).prop_map(|(farm, state)| Edit::FarmState(farm, state)),
        3 => (place(), 0..BACKENDS, weight()).prop_map(|(farm, backend, weight)| Edit::AddBackend(farm, backend, weight)),
        3 => (place(), 0..BACKENDS).prop_map(|(farm, backend)| Edit::RemoveBackend(farm, backend)),
        4 => (place(), farm()).prop_map(|(number, farm)| Edit::Farm(number, Box::new(farm))),
        3 => place().prop_map(Edit::RemoveFarm),
        1 => farms().prop_map(Edit::All),
    ]
}
