//! What our table has counted.

use std::collections::BTreeMap;

use headgate_nft::{Counts, DumpError};
use headgate_plan::maps::{Map, Place};
use headgate_plan::names::IpVersion;
use headgate_plan::status::{Counted, Traffic};

use crate::{Host, HostError};

impl Host {
    /// What the kernel has counted by rules of ours: new flows, packets and bytes, refusals. Active flows are not in it:
    /// connection tracking knows them. A set that is not there has counted nothing.
    ///
    /// # Errors
    /// [`HostError::Dump`].
    pub fn counted(&mut self) -> Result<Counted, HostError> {
        let mut counted = Counted { new: self.new_flows()?, ..Counted::default() };
        let traffic = |Counts { packets, bytes }| Traffic { packets, bytes };
        for place in Place::ALL {
            let marks = self.marks(Map::Traffic(place))?;
            counted.traffic.extend(marks.into_iter().map(|(mark, counts)| (mark, traffic(counts))));
            let refused = self.nft.counters(&place.table()).map_err(HostError::Dump)?;
            counted.refused.extend(refused.into_iter().map(|(name, counts)| (name, counts.packets)));
        }
        Ok(counted)
    }

    /// The flows that each backend was given, by ct mark.
    ///
    /// # Errors
    /// [`HostError::Dump`].
    pub fn new_flows(&mut self) -> Result<BTreeMap<u32, u64>, HostError> {
        let mut flows = BTreeMap::new();
        let translated = IpVersion::ALL.into_iter().flat_map(|version| [Map::Targets(version), Map::Hosts(version)]);
        for map in translated.chain(Place::INGRESS.map(Map::Begun)) {
            flows.extend(self.marks(map)?.into_iter().map(|(mark, counts)| (mark, counts.packets)));
        }
        Ok(flows)
    }

    /// The counters of a set whose keys are marks.
    fn marks(&mut self, map: Map) -> Result<Vec<(u32, Counts)>, HostError> {
        let elements = match self.nft.elements(&map.place().table(), &map.name()) {
            Err(DumpError::Absent { .. }) => return Ok(Vec::new()),
            elements => elements.map_err(HostError::Dump)?,
        };
        let mark = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(u32::from_ne_bytes);
        let counts = elements.into_iter().filter_map(|(key, state)| Some((mark(&key.start)?, state.counter?)));
        Ok(counts.collect())
    }
}
