//! Random valid configurations, and random changes of them.
//!
//! What is drawn is written down as TOML and takes the way of every configuration, so that the loader has the first word on
//! it. Names, addresses and ports come from small pools: farms share addresses, listeners are exact, ranges and wildcards of
//! one another, ids are freed and given out again. What this version refuses by name ([`Unsupported`]) is left out of a farm,
//! so that a feature is drawn from the day on that it is there. Not drawn: `health`, since which backends live is no matter of
//! the configuration, and `dsr.via`, whose rulesets nft(8) 1.0.6 aborts on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Write as _};

use headgate_config::Config;
use headgate_plan::compile::{Unsupported, compile};
use headgate_plan::ids::Ids;

use crate::hostile::facts;

mod draw;

pub use self::draw::{edit, farms};

/// Names that look like one another and like names of ours.
const FARMS: [&str; 8] = ["a", "assign", "web", "web.6", "web-6", "x_y", "dispatch", "Z9"];
const BACKENDS: usize = 6;

/// Some farms by their place in the list of farms, and what they share.
#[derive(Clone, PartialEq, Eq)]
pub struct Farms {
    farms: BTreeMap<usize, Farm>,
    shared: Shared,
}

/// What is written beside the farms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Whether bytes are counted: lines of TOML.
    metrics: &'static str,
    /// What policy `foes` covers.
    foes: &'static str,
    /// What the box itself answers: lines of TOML.
    filter: &'static str,
}

/// One farm.
#[derive(Clone, PartialEq, Eq)]
pub struct Farm {
    listen: BTreeSet<Listen>,
    backends: BTreeMap<usize, Backend>,
    /// The backends' port; `None`: the client's is kept.
    port: Option<u16>,
    state: &'static str,
    mode: &'static str,
    /// Of `persistence.static`: the last digits of clients, and their backends.
    fixed: BTreeMap<u8, usize>,
    /// Lines of TOML by the key that refuses them when it is not supported.
    options: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    weight: u16,
    priority: u16,
    state: &'static str,
    /// The last digits of `source-address`.
    source: Option<u8>,
    options: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listen {
    ipv6: bool,
    /// The last digits; 0: every address.
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
    /// What farms share.
    Shared(Shared),
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
        let longest = self.farms.keys().filter_map(key).max_by_key(|(number, _)| FARMS[*number].len());
        let Some((farm, key)) = longest.and_then(|(number, key)| Some((self.farms.get_mut(&number)?, key))) else {
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
        let Shared { metrics, foes, filter } = self.shared;
        let mut text = format!(
            "[site]\nsecret = \"0123456789abcdef0123456789abcdef\"\n{metrics}{filter}\
             [policies.friends]\naction = \"allow\"\nelements = [\"192.0.2.0/24\", \"2001:db8:f::/48\"]\n\
             [policies.foes]\naction = \"deny\"\nelements = [{foes}]\n",
        );
        let mut claimed = BTreeSet::new();
        for (number, farm) in &self.farms {
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
                let added =
                    Backend { weight: *weight, priority: 1, state: "up", source: None, options: BTreeMap::new() };
                one.backends.entry(*backend).or_insert(added);
            }),
            Edit::RemoveBackend(farm, backend) => self.farm(*farm, |one| {
                let name = one.backends.keys().nth(backend % one.backends.len()).copied();
                if one.backends.len() > 1 {
                    one.backends.remove(&name.expect("it is within their number"));
                }
            }),
            Edit::Farm(number, farm) => {
                self.farms.insert(*number, Farm::clone(farm));
            }
            Edit::RemoveFarm(number) => {
                self.farms.remove(number);
            }
            Edit::Shared(shared) => self.shared = *shared,
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
        let (number, farm) = self.farms.iter().nth(place % self.farms.len().max(1))?;
        if farm.mode == LOCAL {
            return None;
        }
        let backend = farm.backends.keys().nth(backend % farm.backends.len())?;
        // As written for the one family or the other.
        let letter = if farm.listen.iter().any(|listen| !listen.ipv6) { 'b' } else { 'B' };
        let [verb, value] = words;
        let words = ["backend".to_owned(), verb, FARMS[*number].to_owned(), format!("{letter}{backend}"), value];
        Some(words.into_iter().filter(|word| !word.is_empty()).collect())
    }

    fn farm(&mut self, place: usize, change: impl FnOnce(&mut Farm)) {
        let count = self.farms.len().max(1);
        if let Some(farm) = self.farms.values_mut().nth(place % count) {
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
const LOCAL: &str = "local";

impl Farm {
    /// Without the listeners that are claimed; a farm that has none left is not written.
    fn write(&self, text: &mut String, number: usize, claimed: &mut BTreeSet<(bool, u8, &'static str, &'static str)>) {
        let mut own: Vec<Listen> =
            self.listen.iter().copied().filter(|listen| claimed.insert(listen.claim())).collect();
        if self.mode == "stateless" {
            // The way back from a backend is found by its address and port: one listener a family.
            let mut seen = BTreeSet::new();
            own.retain(|listen| seen.insert(listen.ipv6));
        }
        if own.is_empty() {
            return;
        }
        let listen: Vec<String> = own.iter().map(Listen::to_string).collect();
        let (name, mode, state) = (FARMS[number], self.mode, self.state);
        // Writing to a String does not fail.
        let _ = writeln!(text, "[farms.\"{name}\"]\nmode = \"{mode}\"\nlisten = [{}]", listen.join(", "));
        let _ = writeln!(text, "state = \"{state}\"\n{}", self.options_for(&own).join("\n"));
        if mode != LOCAL {
            self.write_backends(text, number, &own);
        }
    }

    /// The lines that mean something to these listeners.
    fn options_for(&self, own: &[Listen]) -> Vec<&str> {
        let takes =
            |protocols: &[&str]| own.iter().any(|listen| listen.ports == ANY || protocols.contains(&listen.protocol));
        let fits = |(key, line): &(&&str, &String)| match **key {
            "helper" if line.contains("ftp") && !line.contains("tftp") || line.contains("pptp") => takes(&["tcp"]),
            "helper" if line.contains("sip") => takes(&["tcp", "udp"]),
            "helper" => takes(&["udp"]),
            _ => true,
        };
        self.options.iter().filter(fits).map(|(_, line)| line.as_str()).collect()
    }

    fn write_backends(&self, text: &mut String, number: usize, own: &[Listen]) {
        let port = self.port.filter(|_| self.mode != "dsr" && own.iter().all(|listen| listen.ports != ANY));
        let is_served = |ipv6| own.iter().any(|listen| listen.ipv6 == ipv6);
        let families: Vec<bool> = [false, true].into_iter().filter(|ipv6| is_served(*ipv6)).collect();
        if self.options.contains_key("persistence") && !self.fixed.is_empty() {
            let _ = writeln!(text, "[farms.\"{}\".persistence.static]", FARMS[number]);
            for (client, place) in self.fixed.iter().filter(|(_, place)| self.backends.contains_key(place)) {
                for ipv6 in &families {
                    let _ = match ipv6 {
                        false => writeln!(text, "\"172.16.1.{client}\" = \"b{place}\""),
                        true => writeln!(text, "\"2001:db8:1::{client}\" = \"B{place}\""),
                    };
                }
            }
        }
        for (place, backend) in &self.backends {
            for ipv6 in &families {
                backend.write(text, (number, *place), *ipv6, port);
                if let Some(source) = backend.source.filter(|_| self.mode == "snat") {
                    let prefix = if *ipv6 { "2001:db8:2::" } else { "172.16.2." };
                    let _ = writeln!(text, "source-address = \"{prefix}{source}\"");
                }
            }
        }
    }
}

impl Backend {
    fn write(&self, text: &mut String, (farm, place): (usize, usize), ipv6: bool, port: Option<u16>) {
        let Self { weight, priority, state, options, .. } = self;
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
            false if *address == 0 => "0.0.0.0".to_owned(),
            true if *address == 0 => "[::]".to_owned(),
            false => format!("172.16.1.{address}"),
            true => format!("[2001:db8:1::{address}]"),
        };
        match *ports {
            ANY => write!(f, "\"{address}:*/any\""),
            ports => write!(f, "\"{address}:{ports}/{protocol}\""),
        }
    }
}
