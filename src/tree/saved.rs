//! What is noted of the tree for the server that comes after this one, and how that one goes on from there.
//!
//! Every operation notes what it changed before it is answered, as whole objects under their numbers: so the log says
//! at any time what the kernel has been told. What follows from that (names, how often a file is open, which commits
//! are under way) is not noted, but found out again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize, Serializer};

use super::bundle::Base;
use super::commit::Closing;
use super::marks::Mark;
use super::nodes::{Entry, Handle, Kind, Node, Open, State};
use super::process::Process;
use super::tracked::Tracked;
use crate::ledger::Ledger;
use crate::secret::SecretValue;

/// What sealing adds to a record.
const TAG: usize = 16;

/// An object as it is now; `None`: there is none with this number any more.
#[derive(Serialize)]
pub(super) enum Item<'a> {
    Node(u64, Option<&'a Node>),
    Entry(u64, Option<&'a Entry>),
    Handle(u64, Option<&'a Open>),
    Kept(u64, Option<Bytes<'a>>),
    Mark(u32, Option<&'a Mark>),
    /// Numbers up to these have been given out.
    Numbers(u64, u64),
    Base(Process, &'a Base),
    /// Bytes that were added to the events; `true`: and all before them are gone.
    Events(bool, &'a [u8]),
    /// Prices that were set, as JSON; `None`: those of the configuration.
    Prices(Option<&'a str>),
    Begun(SystemTime),
}

/// The same, as it is read back.
#[derive(Deserialize)]
enum SavedItem {
    Node(u64, Option<Node>),
    Entry(u64, Option<Entry>),
    Handle(u64, Option<Open>),
    Kept(u64, Option<SavedValue>),
    Mark(u32, Option<Mark>),
    Numbers(u64, u64),
    Base(Process, Base),
    Events(bool, Vec<u8>),
    Prices(Option<String>),
    Begun(SystemTime),
}

/// The bytes of a value, on their way into a record that is sealed.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct SavedValue(SecretValue);

impl<'de> Deserialize<'de> for SavedValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        value::deserialize(deserializer).map(Self)
    }
}

/// How a value stands in a record.
pub(super) mod value {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::secret::SecretValue;

    pub(crate) fn serialize<S: Serializer>(
        value: &SecretValue,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(value.as_bytes())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SecretValue, D::Error> {
        // Lent by the record: nothing is copied but into locked memory.
        let bytes = <&[u8]>::deserialize(deserializer)?;
        SecretValue::from_bytes("", bytes).map_err(D::Error::custom)
    }
}

/// How what a writer has written stands in a record.
pub(super) mod buffer {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Bytes;
    use crate::secret::SecretBuffer;

    pub(crate) fn serialize<S: Serializer>(
        buffer: &Result<SecretBuffer, i32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = buffer.as_ref().map(|buffer| Bytes(buffer.as_bytes()));
        bytes.map_err(|errno| *errno).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Result<SecretBuffer, i32>, D::Error> {
        let bytes = Result::<&[u8], i32>::deserialize(deserializer)?;
        Ok(bytes.map(SecretBuffer::new))
    }
}

/// Where it is noted. A tree that ends with its process has nowhere.
#[derive(Clone, Default)]
pub(super) struct Notes(Option<Arc<Mutex<Ledger>>>);

impl Notes {
    pub(super) fn in_ledger(ledger: Ledger) -> Self {
        Self(Some(Arc::new(Mutex::new(ledger))))
    }

    fn ledger(&self) -> Option<MutexGuard<'_, Ledger>> {
        let ledger = self.0.as_ref()?;
        Some(ledger.lock().unwrap_or_else(|e| e.into_inner()))
    }

    pub(super) fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what has changed, in one record: all of it counts, or nothing.
    pub(super) fn note(&self, items: &[Item]) {
        if items.is_empty() {
            return;
        }
        if let Some(mut ledger) = self.ledger() {
            let noted = record(items).and_then(|mut record| ledger.append(&mut record));
            if let Err(error) = noted {
                tracing::error!("what was done is not noted for the next server: {error}");
            }
        }
    }

    /// Whether [`renew`](Self::renew) should be called.
    pub(super) fn are_long(&self) -> bool {
        self.ledger().is_some_and(|ledger| ledger.is_long())
    }

    /// Notes all there is, in the place of what was noted before.
    pub(super) fn renew(&self, all: &[Item]) {
        if let Some(mut ledger) = self.ledger() {
            let renewed = ledger.renew(|write| {
                // In pieces, so that none of them is large.
                all.chunks(64)
                    .try_for_each(|items| write(&mut record(items)?))
            });
            if let Err(error) = renewed {
                tracing::error!("what is there is not noted for the next server: {error}");
            }
        }
    }
}

/// The items one after the other, with room for the seal: memory that has held values is not left behind.
fn record(items: &[Item]) -> std::io::Result<Vec<u8>> {
    let failed = std::io::Error::other;
    let mut len = TAG;
    for item in items {
        len += postcard::serialize_with_flavor(item, Size::default()).map_err(failed)?;
    }
    let mut record = Vec::with_capacity(len);
    for item in items {
        record = postcard::to_extend(item, record).map_err(failed)?;
    }
    Ok(record)
}

/// What was touched since it was noted last, as it is now.
pub(super) fn changes(state: &mut State) -> Vec<Item<'_>> {
    let nodes = state.nodes.take_touched();
    let entries = state.entries.take_touched();
    let handles = state.handles.take_touched();
    let kept = state.kept.take_touched();
    let marks = state.marks.0.take_touched();
    let state = &*state;
    let node = |number| Item::Node(number, state.nodes.get(&number));
    let entry = |number| Item::Entry(number, state.entries.get(&number));
    let handle = |number| Item::Handle(number, state.handles.get(&number));
    let value = |number| Item::Kept(number, state.kept.get(&number).map(bytes));
    let mark = |tid| Item::Mark(tid, state.marks.0.get(&tid));
    let numbered = nodes.into_iter().map(node);
    numbered
        .chain(entries.into_iter().map(entry))
        .chain(handles.into_iter().map(handle))
        .chain(kept.into_iter().map(value))
        .chain(marks.into_iter().map(mark))
        .collect()
}

fn bytes(value: &SecretValue) -> Bytes<'_> {
    Bytes(value.as_bytes())
}

/// All that is in the state.
pub(super) fn all(state: &State) -> Vec<Item<'_>> {
    let numbers = Item::Numbers(state.next_inode, state.next_handle);
    let nodes = state
        .nodes
        .iter()
        .map(|(n, node)| Item::Node(*n, Some(node)));
    let entries = state
        .entries
        .iter()
        .map(|(n, entry)| Item::Entry(*n, Some(entry)));
    let handles = state
        .handles
        .iter()
        .map(|(n, open)| Item::Handle(*n, Some(open)));
    let kept = state
        .kept
        .iter()
        .map(|(n, value)| Item::Kept(*n, Some(bytes(value))));
    let marks = state
        .marks
        .0
        .iter()
        .map(|(tid, mark)| Item::Mark(*tid, Some(mark)));
    std::iter::once(numbers)
        .chain(nodes)
        .chain(entries)
        .chain(handles)
        .chain(kept)
        .chain(marks)
        .collect()
}

/// What the server before this one noted.
#[derive(Default)]
pub(super) struct Saved {
    nodes: Tracked<u64, Node>,
    entries: Tracked<u64, Entry>,
    handles: Tracked<u64, Open>,
    kept: Tracked<u64, SecretValue>,
    marks: Tracked<u32, Mark>,
    next_inode: u64,
    next_handle: u64,
    numbers_from: u64,
    pub(super) bases: Vec<(Process, Base)>,
    pub(super) events: Vec<u8>,
    pub(super) prices: Option<String>,
    pub(super) begun: Option<SystemTime>,
}

fn put<K: Copy + Ord + std::hash::Hash, V>(map: &mut Tracked<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => drop(map.remove(&key)),
    }
    map.untouch();
}

impl Saved {
    pub(super) fn with_numbers_from(numbers_from: u64) -> Self {
        Self {
            numbers_from,
            ..Self::default()
        }
    }

    /// Takes in a record.
    pub(super) fn take_in(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            match postcard::take_from_bytes::<SavedItem>(record) {
                Ok((item, rest)) => {
                    self.put(item);
                    record = rest;
                }
                Err(error) => {
                    tracing::error!("a note of the server before cannot be read: {error}");
                    return;
                }
            }
        }
    }

    fn put(&mut self, item: SavedItem) {
        match item {
            SavedItem::Node(number, node) => {
                self.next_inode = self.next_inode.max(number);
                put(&mut self.nodes, number, node);
            }
            SavedItem::Entry(number, entry) => {
                self.next_inode = self.next_inode.max(number);
                put(&mut self.entries, number, entry);
            }
            SavedItem::Handle(number, open) => {
                self.next_handle = self.next_handle.max(number + 1);
                put(&mut self.handles, number, open);
            }
            SavedItem::Kept(number, value) => {
                put(&mut self.kept, number, value.map(|SavedValue(value)| value));
            }
            SavedItem::Mark(tid, mark) => put(&mut self.marks, tid, mark),
            SavedItem::Numbers(inode, handle) => {
                self.next_inode = self.next_inode.max(inode);
                self.next_handle = self.next_handle.max(handle);
            }
            SavedItem::Base(process, base) => {
                self.bases.retain(|(known, _)| *known != process);
                self.bases.push((process, base));
            }
            SavedItem::Events(anew, bytes) => {
                if anew {
                    self.events.clear();
                }
                self.events.extend_from_slice(&bytes);
            }
            SavedItem::Prices(prices) => self.prices = prices,
            SavedItem::Begun(at) => self.begun = Some(at),
        }
    }

    /// The state to go on from, and the commits that were under way.
    pub(super) fn into_state(self, caches: &[String]) -> (State, Vec<Closing>) {
        let mut state = State::empty();
        state.nodes = self.nodes;
        state.entries = self.entries;
        state.handles = self.handles;
        state.kept = self.kept;
        state.marks.0 = self.marks;
        state.next_inode = state.next_inode.max(self.next_inode);
        state.next_handle = state.next_handle.max(self.next_handle);
        state.add_folders(caches);
        state.next_inode = state.next_inode.max(self.numbers_from);
        state.next_handle = state.next_handle.max(self.numbers_from);
        let named = state.entries.iter().filter(|(_, entry)| entry.named);
        state.names = named
            .map(|(number, entry)| (entry.place.clone(), *number))
            .collect();
        count_opens(&mut state);
        let unfinished = resume_commits(&mut state);
        (state, unfinished)
    }
}

fn count_opens(state: &mut State) {
    let mut opens: HashMap<u64, u32> = HashMap::new();
    for open in state.handles.values() {
        if let Handle::Version { node } | Handle::Read { node, .. } | Handle::Write { node, .. } =
            open.handle
        {
            *opens.entry(node).or_default() += 1;
        }
    }
    for (node, count) in opens {
        match state.nodes.get_mut(&node).map(|node| &mut node.kind) {
            Some(Kind::Version(version)) => version.opens = count,
            Some(Kind::Private(private)) => private.opens = count,
            _ => {}
        }
    }
}

/// What was closed for good and not committed yet.
fn resume_commits(state: &mut State) -> Vec<Closing> {
    let is_left = |kind: &Kind| matches!(kind, Kind::Private(private) if private.opens == 0 && private.is_touched() && !private.killed);
    let left = state.nodes.iter().filter(|(_, node)| is_left(&node.kind));
    let mut left: Vec<u64> = left.map(|(number, _)| *number).collect();
    // In the order in which they were opened.
    left.sort_unstable();
    left.into_iter()
        .filter_map(|node| state.begin_to_settle(node))
        .collect()
}
