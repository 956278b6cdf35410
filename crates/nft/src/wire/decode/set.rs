//! Sets and their elements.

use std::collections::BTreeMap;

use rustables::sys;

use super::object::counts;
use super::rule::stateful_body;
use super::{comment, verdict};
use crate::expr::Stateful;
use crate::model::{Bytes, Data, Datatype, Element, Key, Own, Set, SetData, width};
use crate::object::ElementState;
use crate::wire::encode::{VERDICT_TYPE, type_id};
use crate::wire::fields::object_kind;
use crate::wire::{Attributes, element_flag, set_flag, text};

/// Name and definition of a set. `None`: without a name, or a nameless set inside a rule, which goes with it.
pub(crate) fn set(attributes: Attributes<'_>) -> Option<(&str, Set)> {
    use set_flag::{ANONYMOUS, CONCAT, EVAL, INTERVAL, MAP, OBJECT, TIMEOUT};
    let flags = attributes.number(sys::NFTA_SET_FLAGS).unwrap_or_default();
    if flags & ANONYMOUS != 0 {
        return None;
    }
    let key_length = attributes.number(sys::NFTA_SET_KEY_LEN)?;
    let mut key = types(attributes.number(sys::NFTA_SET_KEY_TYPE).unwrap_or_default(), key_length);
    let each = attributes.nested(sys::NFTA_SET_EXPR);
    let counters = each.and_then(stateful_body) == Some(Stateful::Counter);
    if flags & !(INTERVAL | CONCAT | MAP | TIMEOUT | EVAL | OBJECT) != 0 || (each.is_some() && !counters) {
        // Something else that each element has: it must not pass for a set of ours.
        key = vec![other(0, key_length)];
    }
    let kind = attributes.number(sys::NFTA_SET_OBJ_TYPE).filter(|_| flags & OBJECT != 0).map(object_kind);
    let data = (flags & (MAP | OBJECT) != 0).then(|| match (kind, attributes.number(sys::NFTA_SET_DATA_TYPE)) {
        (Some(kind), _) => SetData::Objects(kind),
        (None, Some(VERDICT_TYPE)) => SetData::Verdict,
        (None, id) => {
            let length = attributes.number(sys::NFTA_SET_DATA_LEN).unwrap_or_default();
            SetData::Value(types(id.unwrap_or_default(), length))
        }
    });
    let set = Set {
        key,
        data,
        interval: flags & INTERVAL != 0,
        dynamic: flags & EVAL != 0,
        timeout_ms: (flags & TIMEOUT != 0).then(|| attributes.long(sys::NFTA_SET_TIMEOUT).unwrap_or_default()),
        size: attributes.nested(sys::NFTA_SET_DESC).and_then(|desc| desc.number(sys::NFTA_SET_DESC_SIZE)),
        counters,
        elements: BTreeMap::new(),
    };
    Some((attributes.string(sys::NFTA_SET_NAME)?, set))
}

fn other(id: u32, length: u32) -> Datatype {
    Datatype::Other { id: id as u8, len: u8::try_from(length).unwrap_or(u8::MAX) }
}

/// The fields of a type number. What does not add up to `length` is one field of an unknown type.
fn types(id: u32, length: u32) -> Vec<Datatype> {
    const KNOWN: [Datatype; 9] = [
        Datatype::Number,
        Datatype::Ipv4Addr,
        Datatype::Ipv6Addr,
        Datatype::EtherAddr,
        Datatype::InetProto,
        Datatype::InetService,
        Datatype::Mark,
        Datatype::IfIndex,
        Datatype::IfName,
    ];
    let known = |id: u32| KNOWN.into_iter().find(|datatype| type_id(*datatype) == id);
    let ids = (0..5).rev().map(|field| id >> (6 * field) & 0x3f).skip_while(|id| *id == 0);
    match ids.map(known).collect::<Option<Vec<_>>>() {
        Some(fields) if width(&fields) == length as usize && !fields.is_empty() => fields,
        _ => vec![other(id & 0x3f, length)],
    }
}

/// What belongs to a key: all of it in one pass over the attributes, since there are hundreds of thousands.
pub(crate) fn element(attributes: Attributes<'_>) -> Element {
    let (mut element, mut own) = (Element::default(), Own::default());
    for (kind, value) in attributes {
        match kind as u16 {
            sys::NFTA_SET_ELEM_DATA => element.data = data(Attributes(value)),
            sys::NFTA_SET_ELEM_OBJREF => element.data = text(value).map(|name| Data::Object(name.into())),
            sys::NFTA_SET_ELEM_USERDATA => element.comment = comment(value),
            sys::NFTA_SET_ELEM_TIMEOUT => own.timeout_ms = value.try_into().ok().map(u64::from_be_bytes),
            sys::NFTA_SET_ELEM_EXPR => {
                if let Some(Stateful::Limit(limit)) = stateful_body(Attributes(value)) {
                    own.limit = Some(limit);
                }
            }
            _ => {}
        }
    }
    element.own = own.boxed();
    element
}

/// All that is known about an element.
pub(crate) fn element_state(attributes: Attributes<'_>) -> ElementState {
    let Element { data, comment, own } = element(attributes);
    let counter = attributes.nested(sys::NFTA_SET_ELEM_EXPR).and_then(|one| {
        let counts = one.nested(sys::NFTA_EXPR_DATA).map(counts);
        counts.filter(|_| one.string(sys::NFTA_EXPR_NAME) == Some("counter"))
    });
    let expires_ms = attributes.long(sys::NFTA_SET_ELEM_EXPIRATION);
    ElementState { data, comment, expires_ms, counter, limit: own.and_then(|own| own.limit) }
}

fn data(data: Attributes<'_>) -> Option<Data> {
    let decision = || data.nested(sys::NFTA_DATA_VERDICT).and_then(verdict).map(Data::Verdict);
    data.get(sys::NFTA_DATA_VALUE).map(|value| Data::Value(Bytes::from_slice(value))).or_else(decision)
}

/// Collects the elements of one set as the kernel sends them, in any order.
#[derive(Debug)]
pub(crate) struct Elements<T> {
    whole: Vec<(Key, T)>,
    /// In sets of single-field ranges: where something begins, or where the one before it ends.
    borders: Vec<(Bytes, Option<T>)>,
}

impl<T> Default for Elements<T> {
    fn default() -> Self {
        Self { whole: Vec::new(), borders: Vec::new() }
    }
}

impl<T> Elements<T> {
    /// Takes one element of `set`, of which `read` makes what is kept with its key.
    pub(crate) fn push(&mut self, set: &Set, attributes: Attributes<'_>, read: impl Fn(Attributes<'_>) -> T) {
        let flags = attributes.number(sys::NFTA_SET_ELEM_FLAGS).unwrap_or_default();
        let bytes = |attribute: u16| {
            let value = attributes.nested(attribute).and_then(|data: Attributes<'_>| data.get(sys::NFTA_DATA_VALUE));
            value.map(Bytes::from_slice)
        };
        let start = bytes(sys::NFTA_SET_ELEM_KEY).unwrap_or_default();
        if flags & element_flag::INTERVAL_END != 0 {
            self.borders.push((start, None));
        } else if set.interval && set.key.len() == 1 && flags & element_flag::CATCHALL == 0 {
            self.borders.push((start, Some(read(attributes))));
        } else {
            let end = bytes(sys::NFTA_SET_ELEM_KEY_END).filter(|end| *end != start).map(Box::new);
            self.whole.push((Key { start, end }, read(attributes)));
        }
    }

    /// All of them.
    pub(crate) fn finish(mut self) -> BTreeMap<Key, T> {
        // Where one range ends the next may begin: the end comes first.
        self.borders.sort_by(|(a, begins), (b, ends)| a.cmp(b).then(begins.is_some().cmp(&ends.is_some())));
        let mut open: Option<(Bytes, T)> = None;
        for (at, begins) in self.borders {
            if let Some((start, element)) = open.take() {
                let last = before(&at);
                self.whole.push((range(start, last), element));
            }
            open = begins.map(|element| (at, element));
        }
        if let Some((start, element)) = open {
            let last = Bytes::from_elem(0xff, start.len());
            self.whole.push((range(start, last), element));
        }
        self.whole.into_iter().collect()
    }
}

fn range(start: Bytes, last: Bytes) -> Key {
    let end = (start != last).then(|| Box::new(last));
    Key { start, end }
}

/// The value before `bytes`, which is not the lowest.
fn before(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.clone();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    bytes
}
