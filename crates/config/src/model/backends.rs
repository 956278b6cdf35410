//! The backends of a farm.

use std::borrow::Borrow;
use std::ops::Index;

use super::Backend;
use crate::types::BackendName;

/// The backends of a farm by name, each name once.
///
/// A sorted list and no map: the node of a map has room for eleven, which at 10,000 farms with four each is 9 MB of nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    list: Vec<Backend>,
}

impl Backends {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The one of this name.
    pub fn get<Name>(&self, name: &Name) -> Option<&Backend>
    where
        BackendName: Borrow<Name>,
        Name: Ord + ?Sized,
    {
        self.position(name).ok().map(|at| &self.list[at])
    }

    /// The same, to change all of it but its name.
    pub fn get_mut<Name>(&mut self, name: &Name) -> Option<&mut Backend>
    where
        BackendName: Borrow<Name>,
        Name: Ord + ?Sized,
    {
        self.position(name).ok().map(|at| &mut self.list[at])
    }

    /// There is one of this name.
    pub fn contains_key<Name>(&self, name: &Name) -> bool
    where
        BackendName: Borrow<Name>,
        Name: Ord + ?Sized,
    {
        self.position(name).is_ok()
    }

    /// Their names, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &BackendName> + Clone {
        self.list.iter().map(|backend| &backend.name)
    }

    /// In the order of their names.
    pub fn values(&self) -> std::slice::Iter<'_, Backend> {
        self.list.iter()
    }

    /// The same, to change all of them but their names.
    pub fn values_mut(&mut self) -> std::slice::IterMut<'_, Backend> {
        self.list.iter_mut()
    }

    /// Names and backends, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&BackendName, &Backend)> + Clone {
        self.list.iter().map(|backend| (&backend.name, backend))
    }

    /// Adds one, in the place of the one of its name.
    pub fn insert(&mut self, backend: Backend) {
        match self.position(&backend.name) {
            Ok(at) => self.list[at] = backend,
            Err(at) => self.list.insert(at, backend),
        }
    }

    /// Takes one out.
    pub fn remove<Name>(&mut self, name: &Name) -> Option<Backend>
    where
        BackendName: Borrow<Name>,
        Name: Ord + ?Sized,
    {
        self.position(name).ok().map(|at| self.list.remove(at))
    }

    fn position<Name>(&self, name: &Name) -> Result<usize, usize>
    where
        BackendName: Borrow<Name>,
        Name: Ord + ?Sized,
    {
        self.list.binary_search_by(|backend| backend.name.borrow().cmp(name))
    }
}

/// Of several with one name the last stays.
impl FromIterator<Backend> for Backends {
    fn from_iter<I: IntoIterator<Item = Backend>>(backends: I) -> Self {
        let mut list: Vec<Backend> = backends.into_iter().collect();
        // Stable, so that the last of a name is behind the others.
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        list.shrink_to_fit();
        Self { list }
    }
}

impl<Name> Index<&Name> for Backends
where
    BackendName: Borrow<Name>,
    Name: Ord + ?Sized,
{
    type Output = Backend;

    fn index(&self, name: &Name) -> &Backend {
        self.get(name).expect("there is a backend of this name")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::{BackendState, Origin};

    fn backend(name: &str, weight: u16) -> Backend {
        Backend {
            name: BackendName::new(name).unwrap(),
            origin: Origin { file: Arc::default(), line: 1, column: 1 },
            address: "172.16.2.11:80".parse().unwrap(),
            weight,
            priority: 1,
            state: BackendState::Up,
            max_connections: None,
            mark: None,
            source_address: None,
        }
    }

    #[test]
    fn they_are_what_a_map_would_be() {
        let names = ["b10", "b2", "a", "b2", "z", "a", "a"];
        let of = |names: &[&str]| names.iter().zip(1..).map(|(name, weight)| backend(name, weight)).collect::<Vec<_>>();
        for count in 0..=names.len() {
            let list = of(&names[..count]);
            let map: BTreeMap<BackendName, Backend> = list.iter().map(|one| (one.name.clone(), one.clone())).collect();
            let mut inserted = Backends::default();
            list.iter().cloned().for_each(|one| inserted.insert(one));
            let collected: Backends = list.into_iter().collect();
            assert_eq!(collected, inserted);
            assert!(collected.iter().eq(map.iter()) && collected.keys().eq(map.keys()));
            assert!(collected.values().eq(map.values()));
            assert_eq!((collected.len(), collected.is_empty()), (map.len(), map.is_empty()));
            for name in names.iter().chain(&["", "b", "zz"]) {
                assert_eq!(collected.get(*name), map.get(*name));
                assert_eq!(collected.contains_key(*name), map.contains_key(*name));
            }
        }
    }

    #[test]
    fn one_goes_and_one_changes() {
        let mut backends: Backends = [backend("a", 1), backend("b", 2)].into_iter().collect();
        assert_eq!(backends.remove("a").unwrap().weight, 1);
        assert!(backends.remove("a").is_none() && backends.get_mut("a").is_none());
        backends.get_mut("b").unwrap().weight = 7;
        backends.values_mut().for_each(|backend| backend.priority = 3);
        assert_eq!((backends["b"].weight, backends["b"].priority), (7, 3));
    }
}
