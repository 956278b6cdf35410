//! Tables read back as the values that they were made of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::MsgFlags;
use rustables::sys;

use super::{Answer, DONE, ERROR, Header, Message, Messages, SUBSYSTEM, Socket, Writer};
use crate::model::{Chain, Family, Key, Ruleset, Set, Table, TableId};
use crate::wire::{Attributes, decode};

/// How often a dump begins anew because others change the ruleset meanwhile.
pub(super) const ATTEMPTS: usize = 8;

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// `EPERM`: the kernel shows nftables to administrators only.
    #[error("reading nftables needs CAP_NET_ADMIN in this network namespace")]
    Permission,
    /// The kernel does not know nf_tables.
    #[error("this kernel has no nf_tables (CONFIG_NF_TABLES)")]
    NoNftables,
    /// Somebody commits all the time.
    #[error("the ruleset changed during each of {ATTEMPTS} attempts to read it")]
    Unsettled,
    /// What was asked about is not there.
    #[error("there is no such {what}")]
    Absent {
        /// What was asked for.
        what: &'static str,
    },
    /// The kernel's answer lacks something.
    #[error("the kernel's answer about the {what} cannot be read")]
    Malformed {
        /// What was asked for.
        what: &'static str,
    },
    /// Sending or receiving failed.
    #[error("cannot read the {what} of nftables")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// From the kernel.
        #[source]
        source: io::Error,
    },
}

impl DumpError {
    pub(super) fn from_errno(what: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::EPERM => Self::Permission,
            errno => Self::Request { what, source: errno.into() },
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// `NFT_MSG_GET*`.
    pub(super) kind: u32,
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// All of the kind, or the one that is named.
    pub(super) all: bool,
}

/// Whether an answer is all of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    Whole,
    Interrupted,
}

impl Socket {
    /// These tables as they are in the kernel; one that does not exist is absent. What the kernel owns (handles, counters,
    /// elements of dynamic sets, time-outs) is not in it. All of it is of one generation.
    ///
    /// # Errors
    /// Missing privilege or kernel feature; [`DumpError::Unsettled`].
    pub fn dump(&mut self, tables: &[TableId]) -> Result<Ruleset, DumpError> {
        for _ in 0..ATTEMPTS {
            let before = self.generation()?;
            let (ruleset, consistency) = self.dump_once(tables)?;
            if consistency == Consistency::Whole && self.generation()? == before {
                return Ok(ruleset);
            }
        }
        Err(DumpError::Unsettled)
    }

    fn dump_once(&mut self, ids: &[TableId]) -> Result<(Ruleset, Consistency), DumpError> {
        let mut ruleset = Ruleset::default();
        let mut consistency = Consistency::Whole;
        for id in ids {
            let Some(mut table) = self.table(id)? else { continue };
            let interrupted = [
                self.sets(id, &mut table)?,
                self.set_elements(id, &mut table)?,
                self.objects(id, &mut table)?,
                self.flowtables(id, &mut table)?,
            ];
            if interrupted.contains(&Consistency::Interrupted) {
                consistency = Consistency::Interrupted;
            }
            ruleset.tables.insert(id.clone(), table);
        }
        // The kernel filters sets and rules by table, but chains by family only.
        let families: BTreeSet<Family> = ruleset.tables.keys().map(|id| id.family).collect();
        for family in families {
            if self.chains(family, &mut ruleset)? == Consistency::Interrupted {
                consistency = Consistency::Interrupted;
            }
        }
        for (id, table) in &mut ruleset.tables {
            if self.rules(id, table)? == Consistency::Interrupted {
                consistency = Consistency::Interrupted;
            }
        }
        Ok((ruleset, consistency))
    }

    /// Definition of one table; `None` when it does not exist.
    pub(super) fn table(&mut self, id: &TableId) -> Result<Option<Table>, DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETTABLE, family: id.family as u8, all: false };
        let mut flags = 0;
        let name = |writer: &mut Writer| writer.string(sys::NFTA_TABLE_NAME, &id.name);
        let read = |message: Message<'_>| {
            flags = message.attributes().number(sys::NFTA_TABLE_FLAGS).unwrap_or_default();
        };
        match self.request(request, name, read) {
            Ok(_) => Ok(Some(Table { dormant: flags & sys::NFT_TABLE_F_DORMANT != 0, ..Table::default() })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(DumpError::from_errno("table", errno)),
        }
    }

    pub(super) fn sets(&mut self, id: &TableId, table: &mut Table) -> Result<Consistency, DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETSET, family: id.family as u8, all: true };
        let name = |writer: &mut Writer| writer.string(sys::NFTA_SET_TABLE, &id.name);
        let read = |message: Message<'_>| {
            if let Some((name, set)) = decode::set(message.attributes()) {
                table.sets.insert(name.into(), set);
            }
        };
        match self.request(request, name, read) {
            // Gone since the table was read: another generation.
            Err(Errno::ENOENT) => Ok(Consistency::Interrupted),
            result => result.map_err(|errno| DumpError::from_errno("sets", errno)),
        }
    }

    /// Elements of all sets whose elements are ours.
    fn set_elements(&mut self, id: &TableId, table: &mut Table) -> Result<Consistency, DumpError> {
        let mut consistency = Consistency::Whole;
        for (name, set) in table.sets.iter_mut().filter(|(_, set)| set.has_own_elements()) {
            let (elements, found) = self.elements_of(id, (name, set), decode::element)?;
            if found == Consistency::Interrupted {
                consistency = found;
            }
            set.elements = elements;
        }
        Ok(consistency)
    }

    /// The elements of one set, each as `read` says.
    pub(super) fn elements_of<T>(
        &mut self,
        id: &TableId,
        (name, set): (&str, &Set),
        read: impl Fn(Attributes<'_>) -> T,
    ) -> Result<(BTreeMap<Key, T>, Consistency), DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETSETELEM, family: id.family as u8, all: true };
        let names = |writer: &mut Writer| {
            writer.string(sys::NFTA_SET_ELEM_LIST_TABLE, &id.name);
            writer.string(sys::NFTA_SET_ELEM_LIST_SET, name);
        };
        let mut elements = decode::Elements::default();
        let message = |message: Message<'_>| {
            let list = message.attributes().nested(sys::NFTA_SET_ELEM_LIST_ELEMENTS);
            list.into_iter().flatten().for_each(|(_, element)| elements.push(set, Attributes(element), &read));
        };
        let consistency = match self.request(request, names, message) {
            Ok(consistency) => consistency,
            // Gone since the sets were read: another generation.
            Err(Errno::ENOENT) => Consistency::Interrupted,
            Err(errno) => return Err(DumpError::from_errno("elements", errno)),
        };
        Ok((elements.finish(), consistency))
    }

    fn objects(&mut self, id: &TableId, table: &mut Table) -> Result<Consistency, DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETOBJ, family: id.family as u8, all: true };
        let name = |writer: &mut Writer| writer.string(sys::NFTA_OBJ_TABLE, &id.name);
        let read = |message: Message<'_>| {
            if let Some((kind, name, object)) = decode::object(message.attributes()) {
                table.objects.insert((kind, name.into()), object);
            }
        };
        self.request(request, name, read).map_err(|errno| DumpError::from_errno("objects", errno))
    }

    fn flowtables(&mut self, id: &TableId, table: &mut Table) -> Result<Consistency, DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETFLOWTABLE, family: id.family as u8, all: true };
        let name = |writer: &mut Writer| writer.string(sys::NFTA_FLOWTABLE_TABLE, &id.name);
        let read = |message: Message<'_>| {
            if let Some((name, flowtable)) = decode::flowtable(message.attributes()) {
                table.flowtables.insert(name.into(), flowtable);
            }
        };
        self.request(request, name, read).map_err(|errno| DumpError::from_errno("flowtables", errno))
    }

    fn chains(&mut self, family: Family, ruleset: &mut Ruleset) -> Result<Consistency, DumpError> {
        let mut tables: BTreeMap<&str, &mut BTreeMap<Arc<str>, Chain>> = BTreeMap::new();
        for (id, table) in ruleset.tables.iter_mut().filter(|(id, _)| id.family == family) {
            tables.insert(&id.name, &mut table.chains);
        }
        let request = Request { kind: sys::NFT_MSG_GETCHAIN, family: family as u8, all: true };
        let read = |message: Message<'_>| {
            if let Some((table, name, chain)) = decode::chain(family, message.attributes())
                && let Some(chains) = tables.get_mut(table)
            {
                chains.insert(name.into(), chain);
            }
        };
        self.request(request, |_| {}, read).map_err(|errno| DumpError::from_errno("chains", errno))
    }

    fn rules(&mut self, id: &TableId, table: &mut Table) -> Result<Consistency, DumpError> {
        let Table { sets, chains, .. } = table;
        let request = Request { kind: sys::NFT_MSG_GETRULE, family: id.family as u8, all: true };
        let name = |writer: &mut Writer| writer.string(sys::NFTA_RULE_TABLE, &id.name);
        let read = |message: Message<'_>| {
            let attributes = message.attributes();
            if let Some(chain) = attributes.string(sys::NFTA_RULE_CHAIN).and_then(|chain| chains.get_mut(chain)) {
                chain.rules.push(decode::rule(attributes, sets));
            }
        };
        self.request(request, name, read).map_err(|errno| DumpError::from_errno("rules", errno))
    }

    /// Sends a request and reads all of its answer.
    pub(super) fn request(
        &mut self,
        request: Request,
        body: impl FnOnce(&mut Writer),
        mut read: impl FnMut(Message<'_>),
    ) -> Result<Consistency, Errno> {
        self.drain();
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let sequence = self.sequence;
        let flags = if request.all { sys::NLM_F_DUMP as u16 } else { 0 };
        let kind = SUBSYSTEM | request.kind as u16;
        let mut writer = Writer::default();
        writer.message(Header { kind, flags, sequence, family: request.family, resource: 0 }, body);
        self.send(&writer.buffer)?;
        let mut consistency = Consistency::Whole;
        loop {
            let length = self.receive(MsgFlags::empty())?;
            for message in Messages(&self.buffer[..length]).filter(|message| message.sequence == sequence) {
                if message.flags & libc::NLM_F_DUMP_INTR as u16 != 0 {
                    consistency = Consistency::Interrupted;
                }
                match message.kind {
                    ERROR => return Answer::read(&message).map_or(Ok(consistency), |answer| Err(answer.errno)),
                    DONE => return Ok(consistency),
                    _ => read(message),
                }
                if !request.all {
                    return Ok(consistency);
                }
            }
        }
    }
}
