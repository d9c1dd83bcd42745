//! Entries, versions, promises and retries. What writers do is in `writers`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;

use super::record::{EntryRecord, Record};
use super::writers::{Handle, WriteInode};
use super::{FIRST_FILE, Place};
use crate::process::Process;
use crate::secret::SecretValue;

/// The most promises that are remembered. Opening a forgotten one returns ESTALE, and the kernel looks its name up anew.
const MAX_PROMISES: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// How long a thread that was sent round may take to come back.
const RETRY_LIFETIME: Duration = Duration::from_secs(60);
/// The same for callers of another pid namespace, who share the number 0.
const UNSEEN_RETRY_LIFETIME: Duration = Duration::from_secs(1);
/// How long a thread that came back and found nothing may take to look once more. It must be short: what the thread is
/// shown meanwhile may be old, and a later lookup of its is not told apart.
const MISSED_RETRY_LIFETIME: Duration = Duration::from_secs(1);
/// The most inodes of an earlier server that are kept although the kernel may have forgotten them.
const MAX_DOUBTFUL: usize = 4096;

/// A file as users see it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name; `None`: it was removed or replaced, and only those who have it open still see it.
    pub place: Option<Place>,
    /// Its last name.
    pub last: Place,
    /// Its name before the last rename, as a thread may just have looked that up.
    pub(super) earlier: Option<Place>,
    /// Nobody found anything under its name, which it had only because a backend could not be asked at once. Who opens
    /// it to write makes it.
    pub(super) has_vanished: bool,
    /// The version that its name leads to.
    pub current: Option<u64>,
    /// The inode that a pending or scratch file's name leads to.
    pub own: Option<u64>,
    /// The process that is making it: it has no first value yet, and nobody else sees it.
    pub pending: Option<Process>,
    /// It lies in memory only.
    pub is_scratch: bool,
    /// The modification time that was set for the content with this fingerprint.
    pub mtime: Option<(u64, SystemTime)>,
    /// How many inodes belong to it.
    pub(super) nodes: u32,
}

impl Entry {
    pub(super) fn go_to(&mut self, place: &Place) {
        if self.last != *place {
            self.earlier = Some(std::mem::replace(&mut self.last, place.clone()));
        }
    }
}

/// An inode whose bytes never change.
#[derive(Clone, Debug)]
pub struct Version {
    /// The file it belongs to.
    pub entry: u64,
    /// The bytes.
    pub value: SecretValue,
    /// The modification time: when the bytes became the file's content, or what a program set.
    pub mtime: SystemTime,
    /// The change time: when the bytes became the file's content, or a program set the modification time.
    pub changed_at: SystemTime,
}

/// An inode.
#[derive(Debug)]
pub enum Node {
    /// Readers'.
    Version(Version),
    /// A writer's.
    Write(WriteInode),
}

/// Why the present content of a writer's file is not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A provider must be asked for it.
    Unknown,
    /// It cannot be had, for this errno.
    Failed(i32),
}

/// What a promise stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The name.
    pub place: Place,
    /// The number of its file.
    pub number: u64,
}

/// What a thread was sent round for.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// To write; else to read.
    pub to_write: bool,
    at: Instant,
    /// When it came round and found nothing. The kernel may look once more.
    missed: Option<Instant>,
}

impl Retry {
    fn is_over(&self, tid: u32) -> bool {
        let (since, lifetime) = match (self.missed, tid) {
            (Some(missed), _) => (missed, MISSED_RETRY_LIFETIME),
            (None, 0) => (self.at, UNSEEN_RETRY_LIFETIME),
            (None, _) => (self.at, RETRY_LIFETIME),
        };
        since.elapsed() >= lifetime
    }
}

/// How many lookups of an inode were answered and not forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Lookups {
    count: u64,
    /// An earlier server may have answered lookups of it, too.
    is_restored: bool,
}

/// All files and inodes of a mount.
pub struct State {
    pub(super) entries: HashMap<u64, Entry>,
    /// Names that everybody sees and that have an inode.
    pub(super) names: HashMap<Place, u64>,
    pub(super) pending: HashMap<Place, Vec<u64>>,
    pub(super) nodes: HashMap<u64, Node>,
    /// The scratch files among the entries.
    scratch: BTreeSet<u64>,
    lookups: HashMap<u64, Lookups>,
    promises: LruCache<u64, Promised>,
    pub(super) handles: HashMap<u64, Handle>,
    retries: HashMap<(u32, Place), Retry>,
    /// Inodes of an earlier server that the kernel has forgotten once, perhaps for good; the oldest first.
    doubtful: VecDeque<u64>,
    next: u64,
    /// The records of changes since [`take_records`](Self::take_records) was last called.
    records: Vec<Record>,
}

impl State {
    /// Nothing yet; numbers are given out from `numbers_from` on.
    pub fn new(numbers_from: u64) -> Self {
        Self {
            entries: HashMap::new(),
            names: HashMap::new(),
            pending: HashMap::new(),
            nodes: HashMap::new(),
            scratch: BTreeSet::new(),
            lookups: HashMap::new(),
            promises: LruCache::new(MAX_PROMISES),
            handles: HashMap::new(),
            retries: HashMap::new(),
            doubtful: VecDeque::new(),
            next: numbers_from.max(FIRST_FILE),
            records: Vec::new(),
        }
    }

    /// About how many bytes the [checkpoint](Self::checkpoint) takes.
    pub fn size(&self) -> u64 {
        const RECORD: usize = 64;
        let of_node = |node: &Node| match node {
            Node::Version(version) => RECORD + version.value.len(),
            Node::Write(node) => 3 * RECORD + node.bytes_held(),
        };
        let few = self.entries.len() + self.promises.len() + self.handles.len();
        (few * RECORD + self.nodes.values().map(of_node).sum::<usize>()) as u64
    }

    /// The records of all changes since the last call.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    pub(super) fn record(&mut self, record: Record) {
        self.records.push(record);
    }

    /// A new inode or handle number.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn next_after(&mut self, number: u64) {
        self.next = self.next.max(number);
    }

    pub(super) fn last_number(&self) -> u64 {
        self.next
    }

    // Entries.

    /// A file.
    pub fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// The file that everybody finds under a name, if an inode of it is known.
    pub fn named(&self, place: &Place) -> Option<u64> {
        self.names.get(place).copied()
    }

    /// The scratch file of a name.
    pub fn scratch(&self, place: &Place) -> Option<u64> {
        self.named(place).filter(|entry| {
            self.entries
                .get(entry)
                .is_some_and(|entry| entry.is_scratch)
        })
    }

    /// How many bytes scratch files hold together.
    pub fn scratch_bytes(&self) -> usize {
        let scratch = self.scratch.iter().filter_map(|entry| self.entry(*entry));
        let nodes = scratch.filter_map(|entry| self.write_inode(entry.own?));
        nodes.map(WriteInode::len).sum()
    }

    /// The number that `stat` and a listing show for a name.
    pub fn number_of(&self, place: &Place) -> u64 {
        self.named(place).unwrap_or_else(|| self.free_number(place))
    }

    /// A file that was renamed keeps the number of its old name, and the kernel may know the number as the promise of the
    /// new one.
    fn free_number(&self, place: &Place) -> u64 {
        let is_promised = |number: &u64| {
            let promised = self.promises.peek(number);
            promised.is_some_and(|promised| promised.place != *place)
        };
        let mut number = place.number();
        while self.entries.contains_key(&number) || is_promised(&number) {
            number += 1;
        }
        number
    }

    /// A file that has no name yet.
    pub(super) fn new_entry(&mut self, place: &Place) -> u64 {
        let number = self.free_number(place);
        self.put_entry(
            number,
            Entry {
                place: None,
                last: place.clone(),
                earlier: None,
                has_vanished: false,
                current: None,
                own: None,
                pending: None,
                is_scratch: false,
                mtime: None,
                nodes: 0,
            },
        );
        self.record_entry(number);
        number
    }

    /// The file that everybody finds under a name; where none is known yet, one is made.
    pub fn entry_at(&mut self, place: &Place) -> u64 {
        if let Some(entry) = self.named(place) {
            return entry;
        }
        let entry = self.new_entry(place);
        self.names.insert(place.clone(), entry);
        self.change_entry(entry, |entry| entry.place = Some(place.clone()));
        entry
    }

    pub(super) fn put_entry(&mut self, number: u64, entry: Entry) {
        self.list_scratch(number, entry.is_scratch);
        self.entries.insert(number, entry);
    }

    pub(super) fn remove_entry(&mut self, number: u64) {
        self.list_scratch(number, false);
        self.entries.remove(&number);
    }

    fn list_scratch(&mut self, number: u64, is_scratch: bool) {
        match is_scratch {
            true => self.scratch.insert(number),
            false => self.scratch.remove(&number),
        };
    }

    pub(super) fn record_entry(&mut self, number: u64) {
        let entry = self.entries.get(&number);
        let entry = entry.map(|entry| EntryRecord::of(number, entry));
        self.record(entry.map_or(Record::EntryGone(number), Record::Entry));
    }

    pub(super) fn change_entry(&mut self, number: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&number) {
            change(entry);
            let is_scratch = entry.is_scratch;
            self.list_scratch(number, is_scratch);
            self.record_entry(number);
        }
    }

    /// Takes a name that everybody sees from its file.
    pub fn unlink(&mut self, place: &Place) {
        let promised = self.promises.peek(&place.number());
        if promised.is_some_and(|promised| promised.place == *place) {
            self.promises.pop(&place.number());
        }
        let Some(entry) = self.names.remove(place) else {
            return;
        };
        self.change_entry(entry, |entry| entry.place = None);
        self.drop_unused(entry);
    }

    /// Moves a file that everybody sees, over whatever has the new name.
    pub fn rename(&mut self, from: &Place, to: &Place) {
        self.unlink(to);
        let Some(entry) = self.names.remove(from) else {
            return;
        };
        self.names.insert(to.clone(), entry);
        self.change_entry(entry, |entry| {
            entry.place = Some(to.clone());
            entry.go_to(to);
        });
    }

    /// Sets the modification time of the content with this fingerprint, and of its version.
    pub fn set_mtime(&mut self, entry: u64, fingerprint: u64, mtime: SystemTime) {
        self.change_entry(entry, |entry| entry.mtime = Some((fingerprint, mtime)));
        let current = self.entries.get(&entry).and_then(|entry| entry.current);
        if let Some(ino) = current
            && let Some(Node::Version(version)) = self.nodes.get_mut(&ino)
            && version.value.fingerprint() == fingerprint
        {
            version.mtime = mtime;
            version.changed_at = SystemTime::now();
        }
    }

    // Inodes.

    /// An inode.
    pub fn node(&self, ino: u64) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    /// The file that an inode belongs to.
    pub fn entry_of(&self, ino: u64) -> Option<u64> {
        Some(match self.nodes.get(&ino)? {
            Node::Version(version) => version.entry,
            Node::Write(node) => node.entry,
        })
    }

    /// Where the file of an inode was last.
    pub fn last_place(&self, ino: u64) -> Option<&Place> {
        let entry = self.entry_of(ino)?;
        Some(&self.entries.get(&entry)?.last)
    }

    pub(super) fn add_node(&mut self, ino: u64, entry: u64, node: Node) {
        self.nodes.insert(ino, node);
        if let Some(entry) = self.entries.get_mut(&entry) {
            entry.nodes += 1;
        }
    }

    /// The inode of a name's content: the current version if it has these bytes, else a new one.
    pub fn version(&mut self, place: &Place, value: &SecretValue, changed_at: SystemTime) -> u64 {
        let entry = self.entry_at(place);
        let current = self.entries.get(&entry).and_then(|entry| entry.current);
        if let Some(ino) = current
            && let Some(Node::Version(version)) = self.nodes.get(&ino)
            && version.value == *value
        {
            return ino;
        }
        let set = self.entries.get(&entry).and_then(|entry| entry.mtime);
        let set = set.filter(|(fingerprint, _)| *fingerprint == value.fingerprint());
        let version = Version {
            entry,
            value: value.clone(),
            mtime: set.map_or(changed_at, |(_, mtime)| mtime),
            changed_at,
        };
        let ino = self.number();
        self.record(Record::Version {
            ino,
            entry,
            value: value.clone(),
            mtime: version.mtime.into(),
            changed_at: changed_at.into(),
        });
        self.add_node(ino, entry, Node::Version(version));
        self.change_entry(entry, |entry| entry.current = Some(ino));
        if let Some(old) = current {
            self.drop_if_unused(old);
        }
        ino
    }

    /// The promise of a name: what a lookup gives where a provider must be asked first, and READDIRPLUS always. It is the
    /// same one each time, so that the kernel keeps it however many look the name up at once. Nobody can open it.
    pub fn promise(&mut self, place: &Place) -> u64 {
        let ino = self.number_of(place);
        if self
            .promises
            .get(&ino)
            .is_none_or(|known| known.place != *place)
        {
            self.record(Record::Promise(ino, place.clone()));
            self.put_promise(ino, place.clone());
        }
        ino
    }

    pub(super) fn put_promise(&mut self, ino: u64, place: Place) {
        let number = self.number_of(&place);
        self.promises.push(ino, Promised { place, number });
    }

    /// The name that a promise stands for.
    pub fn promised(&mut self, ino: u64) -> Option<&Promised> {
        self.promises.get(&ino)
    }

    /// Counts a lookup of an inode that is answered.
    pub fn count_lookup(&mut self, ino: u64) {
        if self.nodes.contains_key(&ino) {
            self.lookups.entry(ino).or_default().count += 1;
        }
    }

    /// The kernel forgets `count` lookups of an inode.
    pub fn forget(&mut self, ino: u64, count: u64) {
        if let Some(promised) = self.promises.peek(&ino) {
            // A listing gives the same number again, perhaps before the kernel's word that it has forgotten it is here.
            if ino != promised.place.number() {
                self.promises.pop(&ino);
            }
            return;
        }
        let Some(lookups) = self.lookups.get_mut(&ino) else {
            return;
        };
        if count <= lookups.count {
            // A lookup that the kernel rejected, or all of them.
            lookups.count -= count;
        } else if count > 1 || !lookups.is_restored {
            // An eviction: the kernel forgets the lookups that an earlier server answered, too.
            *lookups = Lookups::default();
        } else {
            // The kernel rejected an earlier server's answer, or has forgotten the only one.
            self.doubt(ino);
            return;
        }
        self.drop_if_unused(ino);
    }

    fn doubt(&mut self, ino: u64) {
        self.doubtful.push_back(ino);
        if self.doubtful.len() > MAX_DOUBTFUL
            && let Some(oldest) = self.doubtful.pop_front()
            && let Some(lookups) = self.lookups.get_mut(&oldest)
        {
            lookups.is_restored = false;
            self.drop_if_unused(oldest);
        }
    }

    pub(super) fn restored(&mut self, ino: u64) {
        self.lookups.entry(ino).or_default().is_restored = true;
    }

    fn is_known_to_kernel(&self, ino: u64) -> bool {
        let lookups = self.lookups.get(&ino);
        lookups.is_some_and(|lookups| lookups.count > 0 || lookups.is_restored)
    }

    /// An inode goes when the kernel has forgotten it and no name leads to it.
    pub(super) fn drop_if_unused(&mut self, ino: u64) {
        if self.is_known_to_kernel(ino) {
            return;
        }
        let Some(number) = self.entry_of(ino) else {
            return;
        };
        let is_held = match self.nodes.get(&ino) {
            Some(Node::Write(node)) => node.is_held(),
            _ => false,
        };
        let is_own = |entry: &Entry| {
            entry.own == Some(ino)
                && (entry.is_scratch && entry.place.is_some() || entry.pending.is_some())
        };
        if is_held || self.entries.get(&number).is_some_and(is_own) {
            return;
        }
        self.nodes.remove(&ino);
        self.lookups.remove(&ino);
        self.record(Record::NodeGone(ino));
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.nodes = entry.nodes.saturating_sub(1);
            if entry.current == Some(ino) {
                entry.current = None;
            }
            if entry.own == Some(ino) {
                entry.own = None;
            }
        }
        self.drop_entry_if_unused(number);
    }

    /// Drops those inodes of a file that nothing needs any more, and then the file itself.
    pub(super) fn drop_unused(&mut self, number: u64) {
        let Some(entry) = self.entries.get(&number) else {
            return;
        };
        let of_entry = [entry.current, entry.own];
        for ino in of_entry.into_iter().flatten() {
            self.drop_if_unused(ino);
        }
        self.drop_entry_if_unused(number);
    }

    fn drop_entry_if_unused(&mut self, number: u64) {
        let Some(entry) = self.entries.get(&number) else {
            return;
        };
        let keeps_time = entry.mtime.is_some() && entry.place.is_some();
        if entry.nodes > 0 || entry.pending.is_some() || keeps_time {
            return;
        }
        if let Some(place) = &entry.place
            && self.names.get(place) == Some(&number)
        {
            self.names.remove(&place.clone());
        }
        self.remove_entry(number);
        self.record(Record::EntryGone(number));
    }

    // Retries.

    /// Sends a thread round that came for an inode which is not known any more: its next lookup, of whatever name,
    /// finds what it came for.
    pub fn send_anywhere(&mut self, tid: u32, to_write: bool) {
        self.send_round(tid, &Place::new(0, ""), to_write);
    }

    /// Sends a thread round: the kernel gets ESTALE, and the thread's next lookup of the name finds what it came for.
    pub fn send_round(&mut self, tid: u32, place: &Place, to_write: bool) {
        if self.retries.len() >= 1000 {
            self.retries.retain(|(tid, _), retry| !retry.is_over(*tid));
        }
        self.record(Record::Retry(tid, place.clone(), to_write));
        self.put_retry(tid, place.clone(), to_write);
    }

    /// The same for an inode. If its file was renamed since the thread looked it up, the thread looks up the old name again.
    pub fn send_round_of(&mut self, tid: u32, ino: u64, place: &Place, to_write: bool) {
        self.send_round(tid, place, to_write);
        for earlier in self.places(ino).iter().filter(|earlier| *earlier != place) {
            self.send_round(tid, earlier, to_write);
        }
    }

    /// Whether the thread was sent round for this inode's file.
    pub fn came_round(&self, tid: u32, ino: u64) -> bool {
        !self.retries.is_empty()
            && self
                .places(ino)
                .iter()
                .any(|place| self.retry(tid, place).is_some())
    }

    fn places(&self, ino: u64) -> Vec<Place> {
        let entry = self.entry_of(ino).and_then(|entry| self.entry(entry));
        let places = entry.map_or([None, None], |entry| {
            [Some(&entry.last), entry.earlier.as_ref()]
        });
        places.into_iter().flatten().cloned().collect()
    }

    pub(super) fn put_retry(&mut self, tid: u32, place: Place, to_write: bool) {
        let at = Instant::now();
        let retry = Retry {
            to_write,
            at,
            missed: None,
        };
        self.retries.insert((tid, place), retry);
    }

    /// The thread has come back and found nothing: once or twice, as the kernel first looks whether the name still leads
    /// where it did.
    pub fn missed(&mut self, tid: u32, place: &Place) {
        let Some(retry) = self.retry(tid, place).filter(|_| tid != 0) else {
            return;
        };
        self.arrived(tid);
        if retry.missed.is_none() {
            self.send_round(tid, place, retry.to_write);
            if let Some(retry) = self.retries.get_mut(&(tid, place.clone())) {
                retry.missed = Some(Instant::now());
            }
        }
    }

    /// What a thread was sent round for.
    pub fn retry(&self, tid: u32, place: &Place) -> Option<Retry> {
        if self.retries.is_empty() {
            return None;
        }
        let places = [place.clone(), Place::new(0, "")].into_iter();
        let retries = places.filter_map(|place| self.retries.get(&(tid, place)));
        let retry = retries.max_by_key(|retry| retry.at)?;
        (!retry.is_over(tid)).then_some(*retry)
    }

    /// The thread has opened something, so it is not on its way any more. Callers who share the number 0 share their
    /// retries, which expire.
    pub fn arrived(&mut self, tid: u32) {
        if tid == 0 || self.retries.is_empty() {
            return;
        }
        let its = self.retries.keys().filter(|(of, _)| *of == tid);
        let its: Vec<Place> = its.map(|(_, place)| place.clone()).collect();
        for place in its {
            self.drop_retry(tid, &place);
            self.record(Record::Arrived(tid, place));
        }
    }

    pub(super) fn drop_retry(&mut self, tid: u32, place: &Place) {
        self.retries.remove(&(tid, place.clone()));
    }

    pub(super) fn retries(&self) -> impl Iterator<Item = (u32, &Place, bool)> {
        let retries = self.retries.iter();
        retries.map(|((tid, place), retry)| (*tid, place, retry.to_write))
    }

    pub(super) fn promises(&self) -> impl Iterator<Item = (u64, &Place)> {
        let promises = self.promises.iter();
        promises.map(|(ino, promised)| (*ino, &promised.place))
    }
}
