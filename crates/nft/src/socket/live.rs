//! What only the kernel knows: counts, elements that packets made, and what this kernel can do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use nix::errno::Errno;
use rustables::sys;

use super::dump::{ATTEMPTS, Consistency, Request};
use super::{CommitError, DumpError, Message, Socket, Writer};
use crate::batch::Batch;
use crate::change::{Change, between};
use crate::expr::{Field, ObjectKind, Statement, Value};
use crate::model::{Bytes, Datatype, Family, Key, Rule, Ruleset, Set, SetData, TableId};
use crate::object::{Counts, ElementState, Flowtable, Object, Tunnel};
use crate::wire::decode;

impl Socket {
    /// The elements of a set as they are now, by key; also of a dynamic set, whose elements come and go meanwhile.
    ///
    /// # Errors
    /// [`DumpError::Absent`] without such a table or set; [`DumpError::Unsettled`] when somebody commits all the time.
    pub fn elements(&mut self, table: &TableId, set: &str) -> Result<Vec<(Key, ElementState)>, DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETSET, family: table.family as u8, all: false };
        let names = |writer: &mut Writer| {
            writer.string(sys::NFTA_SET_TABLE, &table.name);
            writer.string(sys::NFTA_SET_NAME, set);
        };
        for _ in 0..ATTEMPTS {
            let mut definition = None;
            let read = |message: Message<'_>| definition = decode::set(message.attributes()).map(|(_, set)| set);
            self.request(request, names, read).map_err(|errno| match errno {
                Errno::ENOENT => DumpError::Absent { what: "set" },
                errno => DumpError::from_errno("set", errno),
            })?;
            let definition = definition.ok_or(DumpError::Malformed { what: "set" })?;
            let (elements, consistency) = self.elements_of(table, (set, &definition), decode::element_state)?;
            if consistency == Consistency::Whole {
                return Ok(elements.into_iter().collect());
            }
        }
        Err(DumpError::Unsettled)
    }

    /// What the counter objects of a table have counted, by name.
    ///
    /// # Errors
    /// [`DumpError::Unsettled`] when somebody commits all the time.
    pub fn counters(&mut self, table: &TableId) -> Result<BTreeMap<Arc<str>, Counts>, DumpError> {
        let request = Request { kind: sys::NFT_MSG_GETOBJ, family: table.family as u8, all: true };
        let wanted = |writer: &mut Writer| {
            writer.string(sys::NFTA_OBJ_TABLE, &table.name);
            writer.number(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER);
        };
        for _ in 0..ATTEMPTS {
            let mut counters = BTreeMap::new();
            let read = |message: Message<'_>| {
                counters.extend(decode::named_counts(message.attributes()).map(|(name, counts)| (name.into(), counts)));
            };
            let consistency = self.request(request, wanted, read);
            if consistency.map_err(|errno| DumpError::from_errno("counters", errno))? == Consistency::Whole {
                return Ok(counters);
            }
        }
        Err(DumpError::Unsettled)
    }

    /// Makes tables that are this socket's: nobody else can change them, and the kernel removes them when the socket is closed,
    /// however the program ends (Linux 5.12).
    ///
    /// # Errors
    /// As [`Self::commit`]; [`CommitError::NoOwnership`] on an older kernel.
    pub fn own(&mut self, tables: &Ruleset) -> Result<(), CommitError> {
        let changes = between(&Ruleset::default(), tables);
        self.commit(&Batch::owned(&changes)).map_err(|error| match error {
            CommitError::Refused { failures, .. }
                if failures.iter().any(|failure| {
                    let is_table = failure.change.is_some_and(|at| matches!(changes[at], Change::AddTable(_)));
                    is_table && matches!(failure.errno, Errno::EINVAL | Errno::EOPNOTSUPP)
                }) =>
            {
                CommitError::NoOwnership
            }
            error => error,
        })
    }

    /// The rules of a table by handle, each with its chain; nothing when there is no such table.
    ///
    /// # Errors
    /// Missing privilege or kernel feature.
    pub fn handles(&mut self, table: &TableId) -> Result<BTreeMap<u64, (Arc<str>, Rule)>, DumpError> {
        let Some(mut found) = self.table(table)? else { return Ok(BTreeMap::new()) };
        self.sets(table, &mut found)?;
        let request = Request { kind: sys::NFT_MSG_GETRULE, family: table.family as u8, all: true };
        let name = |writer: &mut Writer| writer.string(sys::NFTA_RULE_TABLE, &table.name);
        let mut rules = BTreeMap::new();
        let read = |message: Message<'_>| {
            let attributes = message.attributes();
            let place = (attributes.long(sys::NFTA_RULE_HANDLE), attributes.string(sys::NFTA_RULE_CHAIN));
            if let (Some(handle), Some(chain)) = place {
                rules.insert(handle, (chain.into(), decode::rule(attributes, &found.sets)));
            }
        };
        self.request(request, name, read).map_err(|errno| DumpError::from_errno("rules", errno))?;
        Ok(rules)
    }

    /// Whether packets can be sent through tunnels by objects: `tunnel`, `objref` and `fwd` in tables of the netdev family.
    ///
    /// # Errors
    /// Missing privilege or kernel feature.
    pub fn supports_tunnels(&mut self) -> Result<bool, CommitError> {
        let table = TableId { family: Family::Netdev, name: "headgate-probe".into() };
        let [set, chain, object] = ["tunnels", "probe", "probe"].map(Arc::<str>::from);
        let kind = ObjectKind::Tunnel;
        let (source, destination) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let tunnel = Tunnel { id: 1, source, destination, ttl: 64, zero_checksum: true };
        let value = Set { key: vec![Datatype::Mark], data: Some(SetData::Objects(kind)), ..Set::default() };
        let outer = Statement::ObjectMap { kind, key: Value::Field(Field::Mark), map: Arc::clone(&set) };
        let four = |bytes: [u8; 4]| Value::Constant(Bytes::from_slice(&bytes));
        let device = Box::new(four(1_u32.to_ne_bytes()));
        let send = Statement::Fwd { ipv6: false, device, address: four([0; 4]) };
        self.has(vec![
            Change::AddTable(table.clone()),
            Change::AddObject { table: table.clone(), kind, object, value: Object::Tunnel(tunnel) },
            Change::AddSet { table: table.clone(), set, value: Box::new(value) },
            Change::AddChain { table: table.clone(), chain: Arc::clone(&chain), base: None },
            Change::AddRule { table, chain, rule: Rule { statements: vec![outer, send], comment: None } },
        ])
    }

    /// Whether this kernel has flowtables (`CONFIG_NF_FLOW_TABLE_INET`, `CONFIG_NFT_FLOW_OFFLOAD`).
    ///
    /// # Errors
    /// Missing privilege or kernel feature.
    pub fn supports_flowtable(&mut self) -> Result<bool, CommitError> {
        self.supports(Family::Inet, Statement::FlowAdd { flowtable: Arc::from("probe") })
    }

    /// Whether this kernel takes a statement in a table of this family, with a flowtable `probe`. Asked as for
    /// [`supports_flowtable`](Self::supports_flowtable).
    ///
    /// # Errors
    /// Missing privilege or kernel feature.
    pub fn supports(&mut self, family: Family, statement: Statement) -> Result<bool, CommitError> {
        let (table, chain) = (TableId { family, name: "headgate-probe".into() }, Arc::<str>::from("probe"));
        let mut changes = vec![Change::AddTable(table.clone())];
        if let Statement::FlowAdd { flowtable } = &statement {
            let (table, flowtable) = (table.clone(), Arc::clone(flowtable));
            changes.push(Change::AddFlowtable { table, flowtable, value: Flowtable::default() });
        }
        changes.push(Change::AddChain { table: table.clone(), chain: Arc::clone(&chain), base: None });
        changes.push(Change::AddRule { table, chain, rule: Rule { statements: vec![statement], comment: None } });
        self.has(changes)
    }

    /// Whether the kernel would take these changes. The question is a transaction with a last change that cannot be, so nothing
    /// of it ever happens; modules are loaded on the way.
    fn has(&mut self, mut changes: Vec<Change>) -> Result<bool, CommitError> {
        changes.push(Change::DeleteTable(TableId::inet("headgate-probe-nowhere")));
        match self.commit(&Batch::new(&changes, None)) {
            Err(CommitError::Refused { failures, .. }) => {
                Ok(failures.iter().all(|failure| failure.change == Some(changes.len() - 1)))
            }
            Err(error) => Err(error),
            // Somebody else has a table of that name, which is gone now.
            Ok(()) => Ok(true),
        }
    }
}
