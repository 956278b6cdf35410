//! The numbers that must not move: ids of farms and backends, sizes of maps.
//!
//! Nothing of this is kept on disk. The kernel is the memory: the comments on the elements of the backends' maps say which
//! id is whose, the offsets of the number generators say the ids of the farms. So a restart, even onto an older
//! configuration, goes on with the marks that live flows carry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headgate_config::Config;
use headgate_config::model::{Farm, Scheduler};
use headgate_config::types::{BackendName, FarmName};
use headgate_nft::{Chain, Data, Ruleset, Statement, Table, Value};

use crate::health::Failed;
use crate::logged::Logged;
use crate::maps::{Map, Place};
use crate::names::{self, IpVersion};

/// Ids of farms and backends, and the sizes of the maps that hold them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ids {
    /// Shared by copies until one of them gives out an id: who looks at the kernel takes a copy with each look.
    farms: Arc<BTreeMap<FarmName, FarmIds>>,
    /// The id given out last; the next search begins behind it, so that an id rests as long as possible before it returns.
    last_farm: u16,
    last_backend: u32,
    sizes: BTreeMap<(Place, Arc<str>), u32>,
    /// The slots of backends of farms that are steered, by ct mark.
    shares: BTreeMap<u32, u32>,
    /// The ct marks of backends that have all the flows that they may.
    full: BTreeSet<u32>,
    /// The backends that are down by their checks.
    failed: Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct FarmIds {
    id: Option<u16>,
    backends: BTreeMap<BackendName, u32>,
}

/// The ct marks of one farm's backends, for whoever asks for all of them: the farm is searched for among 10,000 but once.
#[derive(Debug, Clone, Copy)]
pub struct Marks<'a>(Option<&'a FarmIds>);

impl Marks<'_> {
    /// The ct mark of a backend's flows.
    pub fn of(self, backend: &BackendName) -> Option<u32> {
        Some(names::MARK_TAG | self.0?.backends.get(backend)?)
    }
}

/// Most farms: a farm's id is 16 bits of a slot, 0 is nobody's, and some would make slots that look like marks.
pub const FARMS_MAX: usize = 0xffff - (RESERVED.end - RESERVED.start) as usize;
/// Not given to farms: their slots would begin as the ct marks of backends do, and one lookup in the slots must leave a mark
/// that is a backend's already (a remembered client's) as it is.
const RESERVED: std::ops::Range<u32> = names::MARK_TAG >> 16..(names::MARK_TAG >> 16) + 0x100;
/// Most backends of all farms together: 20 bits of the ct mark, and 0 is nobody's.
pub const BACKENDS_MAX: usize = names::MARK_ID_MASK as usize;

impl Ids {
    /// The same in memory of its own, but for the names, which are those of `config` where it has them.
    #[must_use]
    pub fn copied(&self, config: &Config) -> Self {
        let farms = self.farms.iter().map(|(name, ids)| {
            let (name, farm) = config.farms.get_key_value(name).map_or((name, None), |(name, farm)| (name, Some(farm)));
            let backends = ids.backends.iter().map(|(backend, id)| {
                let known = farm.and_then(|farm| farm.backends.get(backend));
                (known.map_or(backend, |known| &known.name).clone(), *id)
            });
            (name.clone(), FarmIds { id: ids.id, backends: backends.collect() })
        });
        Self { farms: Arc::new(farms.collect()), ..self.clone() }
    }

    /// Reads back what an earlier run wrote into our table. What is not ours, or contradicts itself, is passed over.
    pub fn observe(ruleset: &Ruleset) -> Self {
        let mut ids = Self::default();
        ids.remember_sizes(ruleset);
        let tables = || Place::ALL.into_iter().filter_map(|place| Some((place, ruleset.tables.get(&place.table())?)));
        let mut seen = BTreeSet::new();
        for (_, table) in tables() {
            ids.observe_backends(table, &mut seen);
        }
        let mut seen = BTreeSet::new();
        for (_, table) in tables() {
            ids.observe_farms(table, &mut seen);
            ids.observe_shares(table);
        }
        ids
    }

    /// Notes the sizes that maps have, or will have once this is committed.
    pub(crate) fn remember_sizes(&mut self, ruleset: &Ruleset) {
        let tables = Place::ALL.into_iter().filter_map(|place| Some((place, ruleset.tables.get(&place.table())?)));
        let sizes = tables.flat_map(|(place, table)| {
            table.sets.iter().filter_map(move |(name, set)| Some(((place, name.clone()), set.size?)))
        });
        self.sizes = sizes.collect();
    }

    /// What a farm that is steered had of slots. A farm that only looks like one is sorted out by [`Self::assign`].
    fn observe_shares(&mut self, table: &Table) {
        let steered: BTreeSet<u16> =
            table.chains.values().filter(|chain| looks_steered(chain)).filter_map(farm_id_of_chain).collect();
        let Some(slots) = table.sets.get(&Map::Slots(Place::Inet).name()).filter(|_| !steered.is_empty()) else {
            return;
        };
        for (key, element) in &slots.elements {
            let slot = <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_ne_bytes).unwrap_or(0);
            if let Some(Data::Value(mark)) = &element.data
                && steered.contains(&((slot >> 16) as u16))
                && let Ok(mark) = <[u8; 4]>::try_from(mark.as_slice()).map(u32::from_ne_bytes)
            {
                *self.shares.entry(mark).or_default() += 1;
            }
        }
    }

    fn observe_backends(&mut self, table: &Table, seen: &mut BTreeSet<u32>) {
        for map in Map::BACKENDS {
            let Some(set) = table.sets.get(&map.name()) else { continue };
            for (key, element) in &set.elements {
                let Ok(mark) = <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_ne_bytes) else { continue };
                let Some(id) = id_of_mark(mark) else { continue };
                let Some((farm, backend)) = element.comment.as_deref().and_then(names::backend_of_comment) else {
                    continue;
                };
                if seen.insert(id) {
                    self.last_backend = self.last_backend.max(id);
                    Arc::make_mut(&mut self.farms).entry(farm).or_default().backends.entry(backend).or_insert(id);
                }
            }
        }
    }

    fn observe_farms(&mut self, table: &Table, seen: &mut BTreeSet<u16>) {
        for (name, chain) in &table.chains {
            let Some((_, farm)) = names::farm_of_chain(name) else { continue };
            let Some(id) = farm_id_of_chain(chain) else { continue };
            self.observe_farm(farm, id, seen);
        }
        // A farm that tells of its packets says its id there, also while it has no slot, or none at all (mode `local`).
        for (name, chain) in &table.chains {
            let told = chain.rules.iter().flat_map(|rule| &rule.statements).find_map(|statement| match statement {
                Statement::Log { prefix, .. } => Logged::parse(prefix)?.farm(),
                _ => None,
            });
            if let (Some(owner), Some(id @ 1..)) = (names::owner_of_chain(name), told) {
                self.observe_farm(owner.farm, id, seen);
            }
        }
        // Those of stateless farms are also in what their backends answer, when no slot of theirs is there.
        for map in IpVersion::ALL.map(Map::Virtual) {
            for (key, element) in table.sets.get(&map.name()).into_iter().flat_map(|set| &set.elements) {
                let farm = element.comment.as_deref().and_then(|comment| FarmName::new(comment).ok());
                let number = <[u8; 4]>::try_from(key.start.as_slice()).map(u32::from_ne_bytes);
                if let (Some(farm), Ok(number @ 0x1_0000..)) = (farm, number) {
                    self.observe_farm(farm, (number >> 16) as u16, seen);
                }
            }
        }
    }

    fn observe_farm(&mut self, farm: FarmName, id: u16, seen: &mut BTreeSet<u16>) {
        let known = Arc::make_mut(&mut self.farms).entry(farm).or_default();
        if known.id.is_none() && seen.insert(id) {
            known.id = Some(id);
            self.last_farm = self.last_farm.max(id);
        }
    }

    /// Gives ids to all farms and backends that have none, and forgets those that are no longer configured. An id that
    /// becomes free in this step is not given out in it: a packet could still carry it. Beyond [`FARMS_MAX`] and
    /// [`BACKENDS_MAX`] the rest stays without.
    pub fn assign(&mut self, config: &Config) {
        let farms: Vec<&Farm> = config.farms.values().map(AsRef::as_ref).collect();
        self.assign_farms(&farms);
        self.forget_gone(config);
        let steered = config.farms.values().filter(|farm| farm.scheduler == Scheduler::LeastConnections);
        let marks: BTreeSet<u32> = steered.flat_map(|farm| self.marks_of(farm)).collect();
        self.shares.retain(|mark, _| marks.contains(mark));
        let all: BTreeSet<u32> =
            if self.full.is_empty() { BTreeSet::new() } else { self.marks().map(|(_, _, mark)| mark).collect() };
        self.full.retain(|mark| all.contains(mark));
        self.failed.retain(|name, backends| {
            let farm = config.farms.get(name).filter(|farm| farm.health.is_some());
            backends.retain(|backend| farm.is_some_and(|farm| farm.backends.contains_key(backend)));
            !backends.is_empty()
        });
    }

    fn forget_gone(&mut self, config: &Config) {
        let is_gone = |farm: &FarmName, backend: &BackendName| {
            config.farms.get(farm).is_none_or(|farm| !farm.backends.contains_key(backend))
        };
        let any = self.farms.iter().any(|(farm, ids)| {
            !config.farms.contains_key(farm) || ids.backends.keys().any(|backend| is_gone(farm, backend))
        });
        if any {
            Arc::make_mut(&mut self.farms).retain(|farm, ids| {
                ids.backends.retain(|backend, _| !is_gone(farm, backend));
                config.farms.contains_key(farm)
            });
        }
    }

    /// Gives ids to one farm and those of its backends that have none; nothing is forgotten.
    pub fn assign_farm(&mut self, farm: &Farm) {
        self.assign_farms(&[farm]);
    }

    fn assign_farms(&mut self, farms: &[&Farm]) {
        if farms.iter().all(|farm| self.is_complete(farm)) {
            return;
        }
        let mut used_farms: BTreeSet<u32> = self.farms.values().filter_map(|ids| ids.id.map(u32::from)).collect();
        used_farms.extend(RESERVED);
        let mut used: BTreeSet<u32> = self.farms.values().flat_map(|ids| ids.backends.values().copied()).collect();
        for farm in farms {
            let ids = Arc::make_mut(&mut self.farms).entry(farm.name.clone()).or_default();
            if ids.id.is_none()
                && let Some(id) = free_after(u32::from(self.last_farm), u32::from(u16::MAX), &mut used_farms)
            {
                self.last_farm = id as u16;
                ids.id = Some(self.last_farm);
            }
            for backend in farm.backends.keys() {
                if !ids.backends.contains_key(backend)
                    && let Some(id) = free_after(self.last_backend, names::MARK_ID_MASK, &mut used)
                {
                    self.last_backend = id;
                    ids.backends.insert(backend.clone(), id);
                }
            }
        }
    }

    fn is_complete(&self, farm: &Farm) -> bool {
        self.farms.get(&farm.name).is_some_and(|ids| {
            ids.id.is_some() && farm.backends.keys().all(|backend| ids.backends.contains_key(backend))
        })
    }

    /// The id of a farm.
    pub fn farm(&self, farm: &FarmName) -> Option<u16> {
        self.farms.get(farm)?.id
    }

    /// The ct mark of a backend's flows.
    pub fn mark(&self, farm: &FarmName, backend: &BackendName) -> Option<u32> {
        self.within(farm).of(backend)
    }

    /// The ct marks of a farm's backends by name.
    pub fn within(&self, farm: &FarmName) -> Marks<'_> {
        Marks(self.farms.get(farm))
    }

    /// The ct marks of a farm's backends.
    pub fn marks_of(&self, farm: &Farm) -> impl Iterator<Item = u32> {
        let marks = self.within(&farm.name);
        farm.backends.keys().filter_map(move |backend| marks.of(backend))
    }

    /// How many slots a backend of a steered farm has; `None` until it is given some.
    pub fn share(&self, mark: u32) -> Option<u32> {
        self.shares.get(&mark).copied()
    }

    /// Gives the backends of one farm these slots, and the others of it none.
    pub fn set_shares(&mut self, farm: &Farm, shares: impl IntoIterator<Item = (u32, u32)>) {
        let marks: Vec<u32> = self.marks_of(farm).collect();
        for mark in &marks {
            self.shares.remove(mark);
        }
        self.shares.extend(shares);
    }

    /// Whether a backend has all the flows that it may.
    pub fn is_full(&self, mark: u32) -> bool {
        self.full.contains(&mark)
    }

    /// Says of one backend whether it has all the flows that it may.
    pub fn set_full(&mut self, mark: u32, full: bool) {
        match full {
            true => self.full.insert(mark),
            false => self.full.remove(&mark),
        };
    }

    /// Whether a backend is down by its checks.
    pub fn is_failed(&self, farm: &FarmName, backend: &BackendName) -> bool {
        self.failed.get(farm).is_some_and(|backends| backends.contains(backend))
    }

    /// Says of all backends which are down by their checks.
    pub fn set_failed(&mut self, failed: Failed) {
        self.failed = failed;
    }

    /// Says of the backends of one farm which are down by their checks.
    pub fn set_failed_of(&mut self, farm: &FarmName, failed: BTreeSet<BackendName>) {
        match failed.is_empty() {
            true => self.failed.remove(farm),
            false => self.failed.insert(farm.clone(), failed),
        };
    }

    /// All backends with the ct marks of their flows, by name.
    pub fn marks(&self) -> impl Iterator<Item = (&FarmName, &BackendName, u32)> {
        self.farms
            .iter()
            .flat_map(|(farm, ids)| ids.backends.iter().map(move |(backend, id)| (farm, backend, names::MARK_TAG | id)))
    }

    /// The size to declare a map with that holds `count` elements.
    ///
    /// Room for twice as many, so that a farm more is an element more and not another map: a power of two, or three quarters of
    /// one where that is enough, for which the kernel makes half as many buckets (`nft_hash_buckets`). Each 32 KiB that are read
    /// back walk over all buckets up to where the last ones ended. A size that the kernel has already is kept while it suffices
    /// and is not absurd: another number is another map, and every rule that uses it would have to be written again.
    pub fn size(&self, place: Place, map: &Arc<str>, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX / 4);
        let twice = count.saturating_mul(2);
        let power = twice.checked_next_power_of_two().unwrap_or(1 << 31);
        let wanted = if power / 4 * 3 >= twice { power / 4 * 3 } else { power }.max(SIZE_MIN);
        match self.sizes.get(&(place, map.clone())) {
            Some(&size) if size >= count && size <= wanted.saturating_mul(SIZE_SLACK) => size,
            _ => wanted,
        }
    }
}

/// No map is declared smaller: 8 KiB of buckets.
const SIZE_MIN: u32 = 1024;
/// How many times too large a map may be before it is declared again.
const SIZE_SLACK: u32 = 16;

/// The backend's id in a mark of ours; `None` for any other mark.
pub(crate) fn id_of_mark(mark: u32) -> Option<u32> {
    let id = mark & names::MARK_ID_MASK;
    (mark & !names::MARK_ID_MASK == names::MARK_TAG && id != 0).then_some(id)
}

/// The farm's id in the number that picks a slot.
fn farm_id_of_chain(chain: &Chain) -> Option<u16> {
    chain.rules.iter().flat_map(|rule| &rule.statements).find_map(|statement| {
        let Statement::Set { value, .. } = statement else { return None };
        let offset = match value {
            Value::Numgen(numgen) => numgen.offset,
            Value::Jhash { offset, .. } => *offset,
            _ => return None,
        };
        u16::try_from(offset >> 16).ok().filter(|&id| id != 0)
    })
}

/// The chain of a steered farm counts through as many slots as [`slot_count`](crate::steering::slot_count) says.
fn looks_steered(chain: &Chain) -> bool {
    let value = chain.rules.first().and_then(|rule| match rule.statements.first()? {
        Statement::Set { value: Value::Numgen(numgen), .. } => Some(numgen),
        _ => None,
    });
    value.is_some_and(|numgen| !numgen.random && numgen.modulus.is_power_of_two() && numgen.modulus >= 64)
}

/// The first number behind `last`, from 1 to `max` and around, that is not in `used`; it is then.
fn free_after(last: u32, max: u32, used: &mut BTreeSet<u32>) -> Option<u32> {
    if used.len() >= max as usize {
        return None;
    }
    let id = (last + 1..=max).chain(1..=last).find(|id| !used.contains(id))?;
    used.insert(id);
    Some(id)
}

#[cfg(test)]
mod tests;
