//! Clients that farms remember: the elements of maps that the packet path fills.

use std::collections::BTreeSet;
use std::sync::Arc;

use headgate_nft::{Change, Data, DumpError, Element, ElementState, Key, Set};
use headgate_plan::maps::Place;

use crate::{Host, HostError};

/// An element that goes away by itself so soon is left to do so. Deleting one that has gone fails, and with it the whole
/// transaction.
const SOON_MS: u64 = 1000;
/// How often it is tried again when an element went away nevertheless.
const ATTEMPTS: usize = 5;

impl Host {
    /// What a map that the packet path fills has now; nothing when there is no such map.
    ///
    /// # Errors
    /// [`HostError::Dump`].
    pub fn remembered(&mut self, map: &str) -> Result<Vec<(Key, ElementState)>, HostError> {
        match self.nft.elements(&Place::Inet.table(), map) {
            Err(DumpError::Absent { .. }) => Ok(Vec::new()),
            other => other.map_err(HostError::Dump),
        }
    }

    /// Removes the elements of some maps that lead to these ct marks, or all where none are named; how many there were.
    ///
    /// # Errors
    /// [`HostError::Dump`], [`HostError::Commit`].
    pub fn forget(&mut self, maps: &BTreeSet<Arc<str>>, marks: Option<&BTreeSet<u32>>) -> Result<usize, HostError> {
        let mut forgotten = 0;
        for map in maps {
            let mut attempts = 0;
            forgotten += loop {
                attempts += 1;
                match self.forget_in(map, marks) {
                    Err(HostError::Commit(_)) if attempts < ATTEMPTS => {}
                    other => break other?,
                }
            };
        }
        Ok(forgotten)
    }

    fn forget_in(&mut self, map: &Arc<str>, marks: Option<&BTreeSet<u32>>) -> Result<usize, HostError> {
        let is_meant = |element: &ElementState| {
            element.expires_ms.is_none_or(|left| left > SOON_MS)
                && marks.is_none_or(|marks| mark(element).is_some_and(|mark| marks.contains(&mark)))
        };
        let elements: Vec<_> = self.remembered(map)?.into_iter().filter(|(_, element)| is_meant(element)).collect();
        if elements.is_empty() {
            return Ok(0);
        }
        let count = elements.len();
        let change = Change::DeleteElements {
            table: Place::Inet.table(),
            set: Arc::clone(map),
            // A key is all that the kernel asks for.
            definition: Box::new(Set { dynamic: true, ..Set::default() }),
            elements: elements.into_iter().map(|(key, _)| (key, Element::default())).collect(),
        };
        self.commit(&[change], None)?;
        Ok(count)
    }
}

/// The ct mark that an element leads to.
pub fn mark(element: &ElementState) -> Option<u32> {
    match &element.data {
        Some(Data::Value(bytes)) => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(u32::from_ne_bytes),
        _ => None,
    }
}
