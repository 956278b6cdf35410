//! Changes as one netlink transaction that remembers what each of its messages was.
//!
//! The kernel answers an error with the sequence number of the message it could not carry out; this module knows the object
//! behind the number. No message asks for an acknowledgement: silence is success, and 10,000 acknowledgements would overrun
//! the socket.

use rustables::sys;
use rustables::{MsgType, ProtocolFamily};

use crate::change::Change;
use crate::expr::{ObjectKind, Statement};
use crate::model::{BaseChain, ChainKind, Element, Family, Key, Rule, Set, TableId};
use crate::object::Object;
use crate::text::{ElementText, Name};
use crate::wire::{
    Attributes, BATCH_BEGIN, BATCH_END, FAMILY_HEADER, Header, MESSAGE_HEADER, Messages, NFT_MSG_DESTROYSETELEM,
    SUBSYSTEM, Writer, element_flag, encode, fields::object_number,
};

/// A list of elements is one attribute, whose length is 16 bits; an element takes less than 4 KiB.
const ELEMENTS_BYTES: usize = 60_000;

/// One transaction: all of its changes happen at once, or none does.
#[derive(Debug)]
pub struct Batch<'a> {
    changes: &'a [Change],
    writer: Writer,
    /// What message `n + 1` is.
    labels: Vec<Label>,
    /// Whether its tables go with the socket that commits it.
    ownership: Ownership,
}

/// Whose the tables of a batch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// Everybody's.
    Shared,
    /// The socket's: nobody else can change them, and the kernel removes them when it is closed (Linux 5.12).
    Socket,
}

/// What a message is.
#[derive(Debug, Clone, Copy)]
struct Label {
    /// Index of the change.
    change: usize,
    /// Number of the rule in its chain from 1, or index of the message's first element in its change.
    part: usize,
    /// Where the message begins in the buffer.
    at: usize,
}

impl<'a> Batch<'a> {
    /// Encodes `changes`. With `generation` the kernel refuses the whole when the ruleset of the network namespace has
    /// changed since that generation ([`crate::Socket::generation`]).
    ///
    /// Rules and chains that were only observed ([`Statement::Unknown`], [`ChainKind::Foreign`]) cannot be added and are
    /// left out.
    pub fn new(changes: &'a [Change], generation: Option<u32>) -> Self {
        Self::encode(changes, generation, Ownership::Shared)
    }

    /// As [`Self::new`], but the tables that it adds belong to the socket that commits it.
    pub(crate) fn owned(changes: &'a [Change]) -> Self {
        Self::encode(changes, None, Ownership::Socket)
    }

    fn encode(changes: &'a [Change], generation: Option<u32>, ownership: Ownership) -> Self {
        let labels = Vec::with_capacity(changes.len());
        let mut batch = Self { changes, writer: Writer::default(), labels, ownership };
        batch.frame(BATCH_BEGIN, generation);
        let (mut chain, mut number) = (None, 0);
        for (index, change) in changes.iter().enumerate() {
            if let Change::AddRule { table, chain: name, .. } = change {
                number = if chain == Some((table, name)) { number + 1 } else { 1 };
                chain = Some((table, name));
            }
            batch.add(index, change, number);
        }
        batch.frame(BATCH_END, None);
        batch
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How many messages the kernel will carry out.
    pub fn messages(&self) -> usize {
        self.labels.len()
    }

    /// What is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.writer.buffer
    }

    fn frame(&mut self, kind: u16, generation: Option<u32>) {
        let resource = sys::NFNL_SUBSYS_NFTABLES as u16;
        let header = Header { kind, flags: 0, sequence: 0, family: 0, resource };
        self.writer.message(header, |writer| {
            if let Some(generation) = generation {
                writer.number(sys::NFNL_BATCH_GENID, generation);
            }
        });
    }

    /// The sequence number of the next message, which is entered into the labels.
    fn label(&mut self, change: usize, part: usize) -> u32 {
        self.labels.push(Label { change, part, at: self.writer.buffer.len() });
        u32::try_from(self.labels.len()).expect("a batch of 2^32 messages does not fit into memory")
    }

    /// A message about something in `table`.
    fn message(&mut self, label: (usize, usize), kind: u32, table: &TableId, body: impl FnOnce(&mut Writer)) {
        let sequence = self.label(label.0, label.1);
        let flags = match kind {
            sys::NFT_MSG_NEWRULE => sys::NLM_F_CREATE | sys::NLM_F_APPEND,
            sys::NFT_MSG_NEWCHAIN
            | sys::NFT_MSG_NEWSET
            | sys::NFT_MSG_NEWSETELEM
            | sys::NFT_MSG_NEWOBJ
            | sys::NFT_MSG_NEWFLOWTABLE => sys::NLM_F_CREATE,
            _ => 0,
        };
        let (kind, flags) = (SUBSYSTEM | kind as u16, flags as u16);
        let header = Header { kind, flags, sequence, family: table.family as u8, resource: 0 };
        self.writer.message(header, |writer| {
            // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE, NFTA_OBJ_TABLE and
            // NFTA_FLOWTABLE_TABLE are all 1.
            writer.string(sys::NFTA_CHAIN_TABLE, &table.name);
            body(writer);
        });
    }

    fn add(&mut self, index: usize, change: &Change, number: usize) {
        let label = (index, 0);
        match change {
            Change::AddTable(table) => self.table(index, table, MsgType::Add),
            Change::DeleteTable(table) => self.table(index, table, MsgType::Del),
            Change::AddChain { base: Some(BaseChain { kind: ChainKind::Foreign, .. }), .. } => {}
            Change::AddChain { table, chain, base } => self.message(label, sys::NFT_MSG_NEWCHAIN, table, |writer| {
                writer.string(sys::NFTA_CHAIN_NAME, chain);
                if let Some(base) = base {
                    encode::base_chain(writer, table.family, base);
                }
            }),
            Change::DeleteChain { table, chain } => self.message(label, sys::NFT_MSG_DELCHAIN, table, |writer| {
                writer.string(sys::NFTA_CHAIN_NAME, chain);
            }),
            Change::FlushChain { table, chain } => self.message(label, sys::NFT_MSG_DELRULE, table, |writer| {
                writer.string(sys::NFTA_RULE_CHAIN, chain);
            }),
            Change::AddRule { rule, .. } if is_unknown(rule) => {}
            Change::AddRule { table, chain, rule } => {
                self.message((index, number), sys::NFT_MSG_NEWRULE, table, |writer| {
                    writer.string(sys::NFTA_RULE_CHAIN, chain);
                    encode::rule(writer, rule);
                });
            }
            Change::AddSet { table, set, value } => self.message(label, sys::NFT_MSG_NEWSET, table, |writer| {
                writer.string(sys::NFTA_SET_NAME, set);
                encode::set(writer, value, index as u32 + 1);
            }),
            Change::DeleteSet { table, set } => self.message(label, sys::NFT_MSG_DELSET, table, |writer| {
                writer.string(sys::NFTA_SET_NAME, set);
            }),
            Change::AddElements { .. } => self.elements(index, change, sys::NFT_MSG_NEWSETELEM),
            Change::DeleteElements { definition, .. } => {
                // An element that goes by itself may have gone just now, which must not undo everything else.
                let lasting = !definition.dynamic && definition.timeout_ms.is_none();
                let kind = if lasting { sys::NFT_MSG_DELSETELEM } else { NFT_MSG_DESTROYSETELEM };
                self.elements(index, change, kind);
            }
            Change::AddObject { .. }
            | Change::DeleteObject { .. }
            | Change::AddFlowtable { .. }
            | Change::DeleteFlowtable { .. }
            | Change::DeleteDevices { .. } => self.add_named(index, change),
        }
    }

    /// Objects and flowtables.
    fn add_named(&mut self, index: usize, change: &Change) {
        match change {
            Change::AddObject { value: Object::Foreign, .. } => {}
            Change::AddObject { table, kind, object, value } => {
                self.object_message(index, sys::NFT_MSG_NEWOBJ, (table, *kind, object), |writer| {
                    encode::object(writer, value);
                });
            }
            Change::DeleteObject { table, kind, object } => {
                self.object_message(index, sys::NFT_MSG_DELOBJ, (table, *kind, object), |_| {});
            }
            Change::AddFlowtable { table, flowtable, value } => {
                self.flowtable_message(index, sys::NFT_MSG_NEWFLOWTABLE, (table, flowtable), |writer| {
                    encode::flowtable(writer, value);
                });
            }
            Change::DeleteFlowtable { table, flowtable } => {
                self.flowtable_message(index, sys::NFT_MSG_DELFLOWTABLE, (table, flowtable), |_| {});
            }
            Change::DeleteDevices { table, flowtable, devices } => {
                self.flowtable_message(index, sys::NFT_MSG_DELFLOWTABLE, (table, flowtable), |writer| {
                    encode::flowtable_devices(writer, devices);
                });
            }
            _ => {}
        }
    }

    fn object_message(
        &mut self,
        index: usize,
        message: u32,
        (table, kind, object): (&TableId, ObjectKind, &str),
        body: impl FnOnce(&mut Writer),
    ) {
        self.message((index, 0), message, table, |writer| {
            writer.string(sys::NFTA_OBJ_NAME, object);
            writer.number(sys::NFTA_OBJ_TYPE, object_number(kind));
            body(writer);
        });
    }

    fn flowtable_message(
        &mut self,
        index: usize,
        message: u32,
        (table, flowtable): (&TableId, &str),
        body: impl FnOnce(&mut Writer),
    ) {
        self.message((index, 0), message, table, |writer| {
            writer.string(sys::NFTA_FLOWTABLE_NAME, flowtable);
            body(writer);
        });
    }

    /// Tables are what rustables builds completely; its messages are taken over between its own frame.
    fn table(&mut self, index: usize, id: &TableId, kind: MsgType) {
        let family = match id.family {
            Family::Inet => ProtocolFamily::Inet,
            Family::Ip => ProtocolFamily::Ipv4,
            Family::Netdev => ProtocolFamily::NetDev,
            Family::Ip6 => ProtocolFamily::Ipv6,
        };
        // The flags are sent, since no flags is what wakes a dormant table up.
        let flags = match self.ownership {
            Ownership::Shared => 0,
            Ownership::Socket => sys::NFT_TABLE_F_OWNER,
        };
        let table = rustables::Table::new(family).with_name(&*id.name).with_flags(flags);
        let mut batch = rustables::Batch::new();
        batch.add(&table, kind);
        let framed = batch.finalize();
        for message in Messages(&framed).filter(|message| message.kind & 0xff00 == SUBSYSTEM) {
            let sequence = self.label(index, 0);
            self.writer.splice(&message, sequence);
        }
    }

    /// As many messages as the length of an attribute asks for.
    fn elements(&mut self, index: usize, change: &Change, kind: u32) {
        let Some((table, set, definition, elements)) = elements_of(change) else { return };
        let mut done = 0;
        while done < elements.len() {
            let first = done;
            self.message((index, first), kind, table, |writer| {
                writer.string(sys::NFTA_SET_ELEM_LIST_SET, set);
                writer.nest(sys::NFTA_SET_ELEM_LIST_ELEMENTS, |writer| {
                    let start = writer.buffer.len();
                    for (key, element) in &elements[first..] {
                        encode::element(writer, definition, key, element);
                        done += 1;
                        if writer.buffer.len() - start > ELEMENTS_BYTES {
                            break;
                        }
                    }
                });
            });
        }
    }

    /// The change that the message with this sequence number belongs to.
    pub(crate) fn change(&self, sequence: u32) -> Option<usize> {
        self.find(sequence).map(|label| label.change)
    }

    fn find(&self, sequence: u32) -> Option<&Label> {
        self.labels.get(usize::try_from(sequence).ok()?.checked_sub(1)?)
    }

    /// What the message with this sequence number is, for people. `offset` is where in the message the kernel stumbled, when
    /// it says so.
    pub(crate) fn object(&self, sequence: u32, offset: Option<u32>) -> String {
        let Some(label) = self.find(sequence) else { return "the transaction".into() };
        match &self.changes[label.change] {
            Change::AddTable(table) | Change::DeleteTable(table) => format!("table {table}"),
            Change::AddChain { table, chain, .. }
            | Change::DeleteChain { table, chain }
            | Change::FlushChain { table, chain } => format!("chain {} in table {table}", Name(chain)),
            Change::AddRule { table, chain, .. } => {
                format!("rule {} of chain {} in table {table}", label.part, Name(chain))
            }
            Change::AddSet { table, set, .. } | Change::DeleteSet { table, set } => {
                format!("set {} in table {table}", Name(set))
            }
            Change::AddObject { table, kind, object, .. } | Change::DeleteObject { table, kind, object } => {
                format!("{kind} {} in table {table}", Name(object))
            }
            Change::AddFlowtable { table, flowtable, .. }
            | Change::DeleteFlowtable { table, flowtable }
            | Change::DeleteDevices { table, flowtable, .. } => {
                format!("flowtable {} in table {table}", Name(flowtable))
            }
            change => self.describe_elements(change, label, offset),
        }
    }

    fn describe_elements(&self, change: &Change, label: &Label, offset: Option<u32>) -> String {
        let Some((table, set, definition, elements)) = elements_of(change) else { return "the transaction".into() };
        let set = Name(set);
        match offset.and_then(|offset| self.element_at(label, offset as usize)).and_then(|at| elements.get(at)) {
            Some((key, element)) => {
                format!("element {} of set {set} in table {table}", ElementText(definition, key, element))
            }
            None => format!("elements {} and following of set {set} in table {table}", label.part + 1),
        }
    }

    /// The index in its change of the element that has the byte at `offset` of the message.
    fn element_at(&self, label: &Label, offset: usize) -> Option<usize> {
        let message = Messages(self.writer.buffer.get(label.at..)?).next()?.whole;
        let list = message.get(MESSAGE_HEADER + FAMILY_HEADER..).map(Attributes)?;
        let list = list.get(sys::NFTA_SET_ELEM_LIST_ELEMENTS)?;
        let mut index = None;
        for (_, element) in Attributes(list) {
            let flags = Attributes(element).number(sys::NFTA_SET_ELEM_FLAGS).unwrap_or_default();
            if flags & element_flag::INTERVAL_END == 0 {
                index = Some(index.map_or(label.part, |index: usize| index + 1));
            }
            let end = element.as_ptr_range().end as usize - message.as_ptr() as usize;
            if offset < end {
                return index;
            }
        }
        None
    }
}

fn is_unknown(rule: &Rule) -> bool {
    rule.statements.iter().any(|statement| matches!(statement, Statement::Unknown { .. }))
}

/// Table, set, definition and elements of a change of elements.
type Elements<'a> = (&'a TableId, &'a str, &'a Set, &'a [(Key, Element)]);

fn elements_of(change: &Change) -> Option<Elements<'_>> {
    match change {
        Change::AddElements { table, set, definition, elements }
        | Change::DeleteElements { table, set, definition, elements } => Some((table, set, definition, elements)),
        _ => None,
    }
}
