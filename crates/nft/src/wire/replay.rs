//! Messages without a kernel: what a transaction that was encoded, or a dump that was recorded, says.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustables::sys;

use super::{Attributes, FAMILY_HEADER, Message, Messages, SUBSYSTEM, decode};
use crate::model::{Element, Family, Ruleset, Table, TableId};

/// The ruleset that these messages make of nothing: those of a transaction ([`crate::Batch::as_bytes`]) that only adds, or
/// the kernel's answers to the requests of [`crate::Socket::dump`], one behind the other. `None` when a message is about
/// something that no message before it has made, makes a set twice, or is cut off; messages about other things than tables,
/// sets, elements, chains, rules, objects and flowtables are passed over.
///
/// With it `decode(encode(ruleset)) == ruleset` is a law without a kernel, and the decoder can be given anything.
pub fn decode_messages(bytes: &[u8]) -> Option<Ruleset> {
    let mut replay = Replay::default();
    let mut messages = Messages(bytes);
    for message in &mut messages {
        if message.kind & 0xff00 == SUBSYSTEM {
            replay.message(&message)?;
        }
    }
    let Replay { mut ruleset, elements } = replay;
    for ((id, set), collected) in elements {
        ruleset.tables.get_mut(&id)?.sets.get_mut(&set)?.elements = collected.finish();
    }
    messages.0.is_empty().then_some(ruleset)
}

#[derive(Default)]
struct Replay {
    ruleset: Ruleset,
    /// A set's elements may come in several messages, and make ranges only together.
    elements: BTreeMap<(TableId, Arc<str>), decode::Elements<Element>>,
}

impl Replay {
    fn message(&mut self, message: &Message<'_>) -> Option<()> {
        let attributes = message.body.get(FAMILY_HEADER..).map(Attributes)?;
        let family = family(message.body[0])?;
        // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE, NFTA_OBJ_TABLE and
        // NFTA_FLOWTABLE_TABLE are all 1.
        let id = TableId { family, name: attributes.string(sys::NFTA_TABLE_NAME)?.into() };
        match u32::from(message.kind & 0xff) {
            sys::NFT_MSG_NEWTABLE => {
                let flags = attributes.number(sys::NFTA_TABLE_FLAGS).unwrap_or_default();
                let dormant = flags & sys::NFT_TABLE_F_DORMANT != 0;
                self.ruleset.tables.insert(id, Table { dormant, ..Table::default() });
            }
            sys::NFT_MSG_NEWSET => {
                let table = self.ruleset.tables.get_mut(&id)?;
                if let Some((name, set)) = decode::set(attributes)
                    && table.sets.insert(name.into(), set).is_some()
                {
                    // The kernel refuses a second one, and what has been read with the first would be of another shape.
                    return None;
                }
            }
            sys::NFT_MSG_NEWSETELEM => {
                let name: Arc<str> = attributes.string(sys::NFTA_SET_ELEM_LIST_SET)?.into();
                let set = self.ruleset.tables.get(&id)?.sets.get(&name)?;
                if !set.has_own_elements() {
                    return Some(());
                }
                let collected = self.elements.entry((id, name)).or_default();
                let list = attributes.nested(sys::NFTA_SET_ELEM_LIST_ELEMENTS);
                list.into_iter()
                    .flatten()
                    .for_each(|(_, element)| collected.push(set, Attributes(element), decode::element));
            }
            sys::NFT_MSG_NEWCHAIN => {
                let table = self.ruleset.tables.get_mut(&id)?;
                if let Some((_, name, chain)) = decode::chain(family, attributes) {
                    table.chains.insert(name.into(), chain);
                }
            }
            sys::NFT_MSG_NEWRULE => {
                let Table { sets, chains, .. } = self.ruleset.tables.get_mut(&id)?;
                let chain = chains.get_mut(attributes.string(sys::NFTA_RULE_CHAIN)?)?;
                chain.rules.push(decode::rule(attributes, sets));
            }
            sys::NFT_MSG_NEWOBJ => {
                let table = self.ruleset.tables.get_mut(&id)?;
                if let Some((kind, name, object)) = decode::object(attributes) {
                    table.objects.insert((kind, name.into()), object);
                }
            }
            sys::NFT_MSG_NEWFLOWTABLE => {
                let table = self.ruleset.tables.get_mut(&id)?;
                if let Some((name, flowtable)) = decode::flowtable(attributes) {
                    table.flowtables.insert(name.into(), flowtable);
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn family(number: u8) -> Option<Family> {
    [Family::Inet, Family::Ip, Family::Netdev, Family::Ip6].into_iter().find(|family| *family as u8 == number)
}
