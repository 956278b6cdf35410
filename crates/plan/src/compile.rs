//! From a checked configuration and the facts of a machine to the state that is wanted.
//!
//! [`compile`] does the whole. [`Context`] keeps what one farm needs of the rest, so that one backend's change is compiled
//! ([`Context::farm_change`]) and shown ([`Context::farm_fragment`]) without a look at the other farms.

pub mod cap;
pub mod hardware;
pub mod routing;
pub mod slots;

mod chosen;
mod contents;
mod farm;
mod guard;
mod hash;
mod hooks;
mod inspect;
mod local;
mod nat;
mod network;
mod offload;
mod policy;
mod protect;
mod queue;
mod refuse;
mod schedule;
mod stateless;
mod sticky;
mod synproxy;
mod terms;
mod unsupported;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use headgate_config::Config;
use headgate_config::model::{Farm, Profile, RESOLVERS_MAX, Scheduler, TrafficCount};
use headgate_config::types::{BackendName, Listen};
use headgate_nft::{Change, Key, Ruleset};

use self::contents::{Contents, Sets};
use self::farm::Ground;
use self::hardware::Tuned;
use self::hash::Site;
use self::network::Layout;
use self::offload::Offload;
use self::routing::Routing;
pub use self::schedule::Standing;
pub use self::unsupported::Unsupported;
use crate::affinity::Spread;
use crate::facts::Facts;
use crate::features::Feature;
use crate::flows::Lost;
use crate::ids::Ids;
use crate::maps::{Door, Map};
use crate::names::IpVersion;
use crate::state::{Fit, Knob, KnobValue, LinkState, State};
use crate::tunnel;

/// A server has an ssh of its own, which is nothing of ours.
const NO_SSH: &str = "`authorized-keys` let nobody in here: ssh is the appliance's alone";
/// And it has a resolv.conf of its own.
const NO_RESOLVER: &str =
    "`dns-servers` are asked by the appliance alone: here names are resolved as /etc/resolv.conf says";

/// What is wanted of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// To be compared with what is observed.
    pub state: State,
    /// The knobs of `state`, with their reasons.
    pub knobs: Vec<Knob>,
    /// Sentences for people about what cannot be as the configuration says.
    pub warnings: Vec<String>,
    /// The hardware profile in use.
    pub profile: Option<String>,
    /// Where the queues of each NIC go.
    pub spread: Vec<Spread>,
    /// Role → kernel name, of the interfaces that were found.
    pub roles: BTreeMap<String, String>,
    /// The interfaces that need a client of DHCP, by kernel name.
    pub clients: BTreeSet<String>,
    /// Who resolves names for the box, in this order; on the appliance alone.
    pub resolvers: Vec<IpAddr>,
    /// Virtual addresses that no interface has and none gets; `warnings` says why.
    pub unplaced: BTreeSet<IpAddr>,
    /// The ids that the ruleset was compiled with.
    pub ids: Ids,
    /// For changes of one farm.
    pub context: Context,
}

/// What a farm is compiled against. It does not grow with the number of farms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    routing: Routing,
    site: Site,
    offload: Offload,
    /// Helpers that the kernel does not have.
    lacking: BTreeSet<String>,
    /// Features that the kernel does not have.
    without: BTreeSet<Feature>,
    policies: policy::Known,
    traffic: TrafficCount,
}

/// One farm's part of the ruleset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    /// Its chains and its elements; hooks and the shared chain are not in it.
    pub ruleset: Ruleset,
    /// Sentences for people.
    pub warnings: Vec<String>,
}

/// The state that a configuration means on a machine.
///
/// `ids` is what the kernel remembers ([`Ids::observe`]); farms and backends that are new get theirs in [`Desired::ids`].
/// Everything that this version cannot do is an error, all of them at once.
pub fn compile(config: &Config, profiles: &[Profile], facts: &Facts, ids: &Ids) -> Result<Desired, Vec<Unsupported>> {
    let mut unsupported = unsupported::find(config);
    let mut ids = ids.clone();
    ids.assign(config);
    let mut layout = Layout::new(config, facts);
    let routing = layout.routing(facts);
    let addresses = layout.addresses(config, facts, &routing);
    let on_links = addresses.iter().map(|address| &address.link);
    let managed = layout.links.keys().chain(on_links).cloned().collect();
    let tuned = hardware::knobs(config, profiles, facts, &managed).unwrap_or_else(|unknown| {
        unsupported.push(unknown.into());
        Tuned::default()
    });
    if !unsupported.is_empty() {
        return Err(unsupported);
    }
    // Before those of forwarding: with it the kernel drops what it learned from routers where it is not to go on learning.
    let of_network = layout.knobs().filter(|knob| !tuned.knobs.iter().any(|other| other.path == knob.path));
    let mut knobs: Vec<Knob> = host_name(config).into_iter().chain(of_network).collect();
    knobs.extend(tuned.knobs);
    let mut warnings = layout.warnings;
    warnings.extend(tuned.notes);
    let system = &config.system;
    let alone = [(system.authorized_keys.is_empty(), NO_SSH), (system.dns_servers.is_empty(), NO_RESOLVER)];
    let useless = alone.into_iter().filter(|(unused, _)| !unused && !facts.appliance);
    warnings.extend(useless.map(|(_, why)| why.to_owned()));
    let site = Site::new(config.site_secret.as_deref());
    let (lacking, without) = (facts.lacking_helpers.clone(), facts.lacking_features.clone());
    let traffic = config.metrics.as_ref().map_or_else(TrafficCount::default, |metrics| metrics.traffic);
    let (offload, policies) = (Offload::new(facts), policy::known(config));
    let context = Context { routing, site, offload, lacking, without, policies, traffic };
    let mut ruleset = ruleset(config, context.ground(&ids), &mut warnings);
    ruleset.tables.extend(protect::table(config, facts, &layout.roles));
    // Not only what is read back from the kernel is kept: one farm's changes add elements until a map is full, and that is
    // no reason to want another map.
    ids.remember_sizes(&ruleset);
    let mut tunnels = tunnel::wanted(config);
    tunnels.retain(|device| context.routing.has_tunnel(*device));
    let state = State {
        ruleset,
        links: layout.links,
        tunnels: tunnels.into_iter().map(|device| (device, LinkState { up: true, mtu: None })).collect(),
        uppers: layout.uppers,
        masters: layout.masters,
        addresses,
        routes: layout.routes.into_iter().collect(),
        rules: layout.rules,
        neighbours: layout.neighbours,
        knobs: knobs.iter().map(|knob| (knob.path.clone(), knob.want.clone())).collect(),
    };
    Ok(Desired {
        state,
        knobs,
        warnings,
        profile: tuned.profile,
        spread: tuned.spread,
        roles: layout.roles,
        clients: layout.clients,
        resolvers: resolvers(config, facts, layout.resolvers),
        unplaced: layout.unplaced,
        ids,
        context,
    })
}

/// Those of the configuration, or else of the leases: the first of them, as a resolver asks no more.
fn resolvers(config: &Config, facts: &Facts, of_leases: Vec<IpAddr>) -> Vec<IpAddr> {
    let named = &config.system.dns_servers;
    let mut resolvers = if named.is_empty() { of_leases } else { named.clone() };
    resolvers.truncate(if facts.appliance { RESOLVERS_MAX } else { 0 });
    resolvers
}

/// Why the API would not be there any more for a client that came to it at this address and port of the box; `None`: it
/// would, or the client did not come to the API.
pub fn stops_listening(before: &Config, after: &Config, way: (IpAddr, SocketAddr)) -> Option<String> {
    protect::stops_listening(before, after, way)
}

impl Desired {
    /// Why `system.protect` would not let a TCP client in again that came to this address and port of the box; `None`: it
    /// would, or nobody knows.
    pub fn shuts_out(&self, config: &Config, facts: &Facts, way: (IpAddr, SocketAddr)) -> Option<String> {
        protect::shuts_out(config, facts, &self.roles, way)
    }
}

fn ruleset(config: &Config, ground: Ground<'_>, warnings: &mut Vec<String>) -> Ruleset {
    let mut contents = Contents::default();
    for farm in config.farms.values() {
        farm::add(&mut contents, farm, ground);
    }
    policy::add_sets(&mut contents, config, ground.policies);
    warnings.append(&mut contents.warnings);
    let mut ruleset = contents.into_ruleset(ground.ids);
    ruleset.tables.extend([contents::guard(&ruleset)]);
    ruleset
}

/// What a farm listens on, and the map that has it; at which [`Door`] says nothing here.
pub(crate) fn listeners(farm: &Farm) -> Vec<(Map, Key)> {
    let one = |listen: &Listen| {
        let version = IpVersion::of(listen.address);
        if farm::is_anywhere(listen) {
            return local::anywhere(listen, version);
        }
        let (reach, key) = farm::listener(listen);
        (Map::Listeners(Door::Nat, version, reach), key)
    };
    farm.listen.iter().map(one).collect()
}

fn host_name(config: &Config) -> Option<Knob> {
    config.system.hostname.as_ref().map(|name| Knob {
        path: "proc/sys/kernel/hostname".to_owned(),
        want: KnobValue::Text(name.clone()),
        fit: Fit::Exact,
        why: "system.hostname".to_owned(),
        origin: None,
    })
}

impl Context {
    /// What one farm puts into the ruleset, for people.
    pub fn farm_fragment(&self, farm: &Farm, ids: &Ids) -> Fragment {
        let mut contents = self.contents(farm, ids);
        let warnings = std::mem::take(&mut contents.warnings);
        Fragment { ruleset: contents.into_fragment(Sets::Declared(ids)), warnings }
    }

    /// The changes of the ruleset that turn one farm into its next version; no work is done for any other farm.
    ///
    /// `None` when more than its own chains and elements would change (listeners, the first backend without a port, `off`,
    /// …): then [`compile`] has to be asked. `ids` must have been [assigned](Ids::assign_farm) for `new`. A commit that
    /// fails with ENFILE means that a map is full, and that [`compile`] has to be asked as well: it declares a larger one.
    pub fn farm_change(&self, old: &Farm, new: &Farm, ids: &Ids) -> Option<Vec<Change>> {
        let same_addresses = old.listen == new.listen
            && old.address_interface == new.address_interface
            && old.address_manage == new.address_manage;
        if old.name != new.name || !same_addresses {
            return None;
        }
        let (old, new) = (self.contents(old, ids), self.contents(new, ids));
        if old.shape() != new.shape() {
            return None;
        }
        let [old, new] = [old, new].map(|contents| contents.into_fragment(Sets::Comparable));
        Some(headgate_nft::change::between(&old, &new))
    }

    /// Moves the slots of a farm by the flows that each backend has, by ct mark: its backends' shares in `ids` when the
    /// scheduler is `least-connections`, and whose slots go while they are `full`. What has to be changed of the ruleset.
    pub fn steer(&self, farm: &Farm, ids: &mut Ids, flows: &BTreeMap<u32, u64>, full: &BTreeSet<u32>) -> Vec<Change> {
        let turned: Vec<u32> = ids.marks_of(farm).filter(|mark| ids.is_full(*mark) != full.contains(mark)).collect();
        let before = (!turned.is_empty()).then(|| self.contents(farm, ids));
        for mark in turned {
            ids.set_full(mark, full.contains(&mark));
        }
        let next = match farm.scheduler {
            Scheduler::LeastConnections => schedule::steered(farm, self.ground(ids), flows),
            _ => BTreeMap::new(),
        };
        let moves = next.iter().any(|(&mark, &share)| ids.share(mark) != Some(share));
        if before.is_none() && !moves {
            return Vec::new();
        }
        let before = before.unwrap_or_else(|| self.contents(farm, ids));
        ids.set_shares(farm, next);
        let [old, new] = [before, self.contents(farm, ids)].map(|contents| contents.into_fragment(Sets::Comparable));
        headgate_nft::change::between(&old, &new)
    }

    /// Takes the backends of a farm out that are down by their checks, and brings the others back. What has to be changed of
    /// the ruleset, and what has to go behind that; `None` when [`compile`] has to be asked.
    pub fn turn(&self, farm: &Farm, ids: &mut Ids, failed: BTreeSet<BackendName>) -> Option<(Vec<Change>, Lost)> {
        let before = self.contents(farm, ids);
        ids.set_failed_of(&farm.name, failed);
        let after = self.contents(farm, ids);
        if before.shape() != after.shape() {
            return None;
        }
        let [old, new] = [before, after].map(|contents| contents.into_fragment(Sets::Comparable));
        Some((headgate_nft::change::between(&old, &new), crate::flows::lost(&old, &new)))
    }

    /// What has to go when one farm turns into its next version; see [`crate::flows`].
    pub fn flows_lost(&self, old: &Farm, new: &Farm, ids: &Ids) -> Lost {
        crate::flows::lost(&self.farm_fragment(old, ids).ruleset, &self.farm_fragment(new, ids).ruleset)
    }

    /// Whether each backend of a farm takes flows, in the order of their names.
    pub fn standings(&self, farm: &Farm, ids: &Ids) -> Vec<Standing> {
        schedule::standings(farm, &self.routing, ids)
    }

    fn contents(&self, farm: &Farm, ids: &Ids) -> Contents {
        let mut contents = Contents::default();
        farm::add(&mut contents, farm, self.ground(ids));
        contents
    }

    fn ground<'a>(&'a self, ids: &'a Ids) -> Ground<'a> {
        let Self { routing, site, offload, lacking, without, policies, traffic } = self;
        Ground { routing, ids, site: *site, offload, lacking, without, policies, traffic: *traffic }
    }
}

#[cfg(test)]
mod tests;
