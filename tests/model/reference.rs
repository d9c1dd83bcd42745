//! What is right, as plain maps: what each name holds and held, who writes what, which changes of the store are due.
//! Knows no inode, no epoch and no server. One file: each rule reads and changes the same maps.

use std::collections::{BTreeMap, HashMap};

use crate::provider::Mutation;

type Text = Vec<u8>;
/// What was held from when on.
type History = Vec<(u64, Option<Text>)>;

/// A file apart from its name.
#[derive(Clone, Debug, Default)]
struct ModelFile {
    place: Option<String>,
    /// It has no first value yet, and is there for this process only.
    pending: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The opener closes its last descriptor just now.
    Closing,
    /// It has, once.
    Closed,
}

/// What is written through one open file.
#[derive(Clone, Debug)]
struct Writer {
    opener: u32,
    file: usize,
    /// What the buffer may hold: one text, or more where it is not known on which one it began.
    texts: Vec<Text>,
    is_touched: bool,
    /// Something took effect since its opener began to close it.
    is_committed: bool,
    /// Where a backend had to be asked what it begins on, that is what was there at the first write.
    begins_after: Option<u64>,
    synced: Option<Vec<Text>>,
    phase: Phase,
    is_released: bool,
    /// When the tree had done all for its release.
    retired_at: Option<u64>,
    is_killed: bool,
    /// Its file was taken away from outside: whether it still takes effect is the tree's affair.
    is_doubtful: bool,
}

/// What an operation under way may change, and what it has.
#[derive(Clone, Debug)]
pub enum Doing {
    Unlink(String),
    Rename(u32, String, String),
    Truncate(String, usize),
}

#[derive(Clone, Debug)]
struct Under {
    doing: Doing,
    since: u64,
    set: bool,
    deleted: bool,
    /// Its request may have been sent to a second server.
    is_resent: bool,
}

/// An open file that is read.
#[derive(Clone, Debug)]
struct Reader {
    /// What it may have been opened on; `None`: its own writer's file.
    texts: Option<Vec<Text>>,
}

#[derive(Default)]
pub struct Reference {
    clock: u64,
    history: BTreeMap<String, History>,
    /// The same of the backend alone.
    behind: BTreeMap<String, History>,
    files: Vec<ModelFile>,
    public: HashMap<String, usize>,
    writers: BTreeMap<u64, Writer>,
    readers: BTreeMap<u64, Reader>,
    under: BTreeMap<u32, Under>,
    /// When a name was taken from its file last.
    taken: HashMap<String, u64>,
    /// Since when a process may see what a name held, for it opened the name in vain. What it waited for stays good for its
    /// thread for a second, as the kernel may look once more; and no time passes here.
    vain: HashMap<(u32, String), u64>,
    /// The first thing that was wrong.
    pub violation: Option<String>,
}

pub fn is_scratch(name: &str) -> bool {
    name.starts_with('.')
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

impl Reference {
    pub fn wrong(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    // What names hold.

    pub fn now(&self) -> u64 {
        self.clock
    }

    /// What a name holds from now on.
    pub fn holds(&mut self, name: &str, value: Option<Text>, by_others: bool) {
        let history = self.history.entry(name.into()).or_default();
        if history.last().is_some_and(|(_, last)| *last == value) {
            return;
        }
        self.clock += 1;
        history.push((self.clock, value));
        if by_others {
            self.disturb(name, None);
        }
    }

    /// Something happens to a name that is no write of this file: whether what others write there still takes effect
    /// depends on when the tree came to know of it.
    fn disturb(&mut self, name: &str, by: Option<usize>) {
        for writer in self.writers.values_mut() {
            let is_there = self.files[writer.file].place.as_deref() == Some(name);
            writer.is_doubtful |= is_there && Some(writer.file) != by && !is_scratch(name);
        }
    }

    /// What a backend has for a name from now on, if the store has nothing.
    pub fn backend_has(&mut self, name: &str, value: Option<Text>) {
        self.clock += 1;
        let history = self.behind.entry(name.into()).or_default();
        history.push((self.clock, value));
    }

    /// All that a name held since then.
    pub fn held_since(&self, name: &str, since: u64) -> Vec<Option<Text>> {
        Self::all_since(self.history.get(name), since)
    }

    /// All that a process may be shown under a name since then.
    fn shown_since(&self, pid: u32, name: &str, since: u64) -> Vec<Option<Text>> {
        let mut shown = self.held_since(name, since);
        if let Some(vain) = self.vain.get(&(pid, name.to_owned())) {
            shown.extend(self.held_since(name, *vain));
            shown.extend(Self::all_since(self.behind.get(name), *vain));
        }
        shown
    }

    fn all_since(history: Option<&History>, since: u64) -> Vec<Option<Text>> {
        let Some(history) = history else {
            return vec![None];
        };
        let first = history.iter().rposition(|(at, _)| *at <= since);
        let values = history[first.unwrap_or(0)..].iter();
        let values = values.map(|(_, value)| value.clone());
        match first {
            Some(_) => values.collect(),
            None => std::iter::once(None).chain(values).collect(),
        }
    }

    /// Whether the process has a file open to write that has this name.
    pub fn has_open(&self, pid: u32, name: &str) -> bool {
        self.writers.values().any(|writer| {
            writer.opener == pid
                && !writer.is_released
                && self.files[writer.file].place.as_deref() == Some(name)
        })
    }

    /// Whether the process may find a file that it made under this name: until the tree has done all for its release.
    /// Where nobody can tell what it writes under which name, under any.
    fn may_see_its_own(&self, pid: u32, name: &str, since: u64) -> bool {
        let mut writers = self.writers.values();
        let is_named = writers.any(|writer| {
            writer.opener == pid
                && writer.retired_at.is_none_or(|at| at > since)
                && self.files[writer.file].place.as_deref() == Some(name)
        });
        is_named || self.doubtful_of(pid).next().is_some()
    }

    /// Whether others write a file of this name, or have and it is not there yet.
    pub fn is_written_by_others(&self, pid: u32, name: &str) -> bool {
        self.writers.values().any(|writer| {
            let is_done = writer.is_released && (!writer.is_touched || writer.is_killed);
            writer.opener != pid
                && !is_done
                && self.files[writer.file].place.as_deref() == Some(name)
        })
    }

    fn own_writer(&self, pid: u32, name: &str) -> Option<u64> {
        let mut writers = self.writers.iter();
        let its = |writer: &Writer| {
            writer.opener == pid
                && writer.phase == Phase::Open
                && writer.is_touched
                && !writer.is_released
                && self.files[writer.file].place.as_deref() == Some(name)
        };
        writers.find_map(|(file, writer)| its(writer).then_some(*file))
    }

    // Readers.

    pub fn opened_to_read(&mut self, file: u64, pid: u32, name: &str, since: u64) {
        let shown = self.shown_since(pid, name, since);
        self.vain.remove(&(pid, name.into()));
        let texts: Vec<Text> = shown.into_iter().flatten().collect();
        let is_making = self.may_see_its_own(pid, name, since);
        if texts.is_empty() && !is_making {
            return self.wrong(format!("{name} was opened, and was not there"));
        }
        let texts = (!is_making).then_some(texts);
        self.readers.insert(file, Reader { texts });
    }

    pub fn no_such_file(&mut self, what: &str, pid: u32, name: &str, since: u64) {
        if what == "open" {
            self.vain.insert((pid, name.into()), since);
        }
        let own = self.own_writer(pid, name);
        if own.is_some_and(|own| !self.writers[&own].is_doubtful) {
            return self.wrong(format!("{what} {name}: ENOENT for its maker"));
        }
        if !self.held_since(name, since).contains(&None) {
            self.wrong(format!("{what} {name}: ENOENT, and it was there"));
        }
    }

    pub fn was_read(&mut self, file: u64, at: usize, size: usize, bytes: &[u8]) {
        let Some(Reader { texts: Some(texts) }) = self.readers.get_mut(&file) else {
            return;
        };
        let part = |text: &Text| text[at.min(text.len())..(at + size).min(text.len())].to_vec();
        let before = texts.clone();
        texts.retain(|text| part(text) == bytes);
        if texts.is_empty() {
            let before: Vec<String> = before.iter().map(|text| shown(text)).collect();
            self.wrong(format!("read {:?} at {at} of {before:?}", shown(bytes)));
        }
    }

    pub fn stat_said(&mut self, pid: u32, name: &str, size: u64, since: u64) {
        let held = self.shown_since(pid, name, since);
        let mut sizes = held.iter().flatten().map(Vec::len);
        if !sizes.any(|len| len as u64 == size) && !self.may_see_its_own(pid, name, since) {
            let held: Vec<_> = held.iter().map(|v| v.as_ref().map(|v| v.len())).collect();
            self.wrong(format!("stat {name} said {size} bytes of {held:?}"));
        }
    }

    // Writers.

    fn public_file(&mut self, name: &str) -> usize {
        if let Some(file) = self.public.get(name) {
            return *file;
        }
        self.files.push(ModelFile {
            place: Some(name.into()),
            pending: None,
        });
        self.public.insert(name.into(), self.files.len() - 1);
        self.files.len() - 1
    }

    /// A file was opened to write. `creates`: the open is to make it if it is not there, `created`: and it has;
    /// `truncates`: what is there goes. What a backend must be asked for is taken to be there: who opens a new name of
    /// that kind makes it by writing to it, not by the open alone.
    pub fn opened_to_write(
        &mut self,
        file: u64,
        opener: u32,
        name: &str,
        (creates, created, truncates): (bool, bool, bool),
        since: u64,
    ) {
        let held = self.held_since(name, since);
        let shown = self.shown_since(opener, name, since);
        self.vain.remove(&(opener, name.into()));
        let is_new = creates && held.iter().all(Option::is_none);
        let known = match is_new && !is_scratch(name) {
            true => {
                self.files.push(ModelFile {
                    place: Some(name.into()),
                    pending: Some(opener),
                });
                self.files.len() - 1
            }
            false => self.public_file(name),
        };
        let was_taken = self.taken.get(name).is_some_and(|at| *at > since)
            || held.len() > 1 && held.contains(&None);
        let texts = match truncates || is_new {
            true => vec![Vec::new()],
            false => shown.into_iter().map(Option::unwrap_or_default).collect(),
        };
        let writer = Writer {
            opener,
            file: known,
            texts,
            is_touched: truncates || created,
            is_committed: false,
            begins_after: (!truncates && !created).then_some(since),
            synced: None,
            phase: Phase::Open,
            is_released: false,
            retired_at: None,
            is_killed: false,
            is_doubtful: was_taken,
        };
        self.writers.insert(file, writer);
    }

    /// Something was written through an open file.
    pub fn wrote(&mut self, file: u64, change: impl Fn(&mut Text)) {
        let Some(writer) = self.writers.get(&file) else {
            return;
        };
        let begun = match (writer.begins_after, &self.files[writer.file].place) {
            (Some(since), Some(name)) => Some(self.held_since(name, since)),
            _ => None,
        };
        if let Some(writer) = self.writers.get_mut(&file) {
            writer.begins_after = None;
            let begun = begun.into_iter().flatten();
            writer.texts.extend(begun.map(Option::unwrap_or_default));
            writer.texts.iter_mut().for_each(change);
            writer.is_touched = true;
        }
    }

    pub fn synced(&mut self, file: u64) {
        if let Some(writer) = self.writers.get_mut(&file)
            && writer.is_touched
        {
            writer.synced = Some(writer.texts.clone());
        }
    }

    /// A process closes a descriptor, and keeps others. Gives whether that must commit.
    pub fn closes(&mut self, file: u64, pid: u32, others: &[u64]) -> bool {
        let Some(known) = self.writers.get(&file).map(|writer| writer.file) else {
            return false;
        };
        let is_last = !others.contains(&file);
        let others = others.iter().filter_map(|other| self.writers.get(other));
        let others: Vec<&Writer> = others.collect();
        // What looks like another descriptor of it leaves the commit to the release.
        let is_clear = !others
            .iter()
            .any(|other| other.is_doubtful || other.file == known);
        let writer = &self.writers[&file];
        if writer.opener != pid || !is_last || writer.is_killed {
            return false;
        }
        let must = writer.is_touched && is_clear;
        // With it goes what else the process has written to the file.
        for other in self.writers.values_mut() {
            let is_its = other.file == known || other.is_doubtful;
            if other.opener == pid && is_its && !other.is_killed {
                other.phase = Phase::Closing;
            }
        }
        self.writers.get_mut(&file).unwrap().is_committed = false;
        must
    }

    pub fn closed(&mut self, file: u64, pid: u32, must: bool) {
        let Some(writer) = self.writers.get(&file) else {
            return;
        };
        if writer.opener != pid {
            return;
        }
        let is_committed = writer.is_committed;
        for writer in self.writers.values_mut() {
            if writer.opener == pid && writer.phase == Phase::Closing {
                writer.phase = Phase::Closed;
            }
        }
        if must && !is_committed && self.is_owed(file) {
            self.wrong(format!(
                "a close ended, and nothing is there: {:?}",
                self.writers[&file]
            ));
        }
    }

    /// Whether something that was written should have taken effect.
    fn is_owed(&self, file: u64) -> bool {
        let writer = &self.writers[&file];
        let place = self.files[writer.file].place.as_ref();
        writer.is_touched
            && !writer.is_killed
            && !writer.is_doubtful
            && place.is_some_and(|place| !is_scratch(place))
    }

    pub fn killed(&mut self, pid: u32) {
        for writer in self.writers.values_mut() {
            if writer.opener == pid && writer.phase == Phase::Open && !writer.is_released {
                writer.is_killed = true;
            }
        }
    }

    /// The last descriptor is gone.
    pub fn released(&mut self, file: u64) {
        self.readers.remove(&file);
        if let Some(writer) = self.writers.get_mut(&file) {
            writer.is_released = true;
            if writer.is_killed {
                self.forget_pending(file);
            }
        }
    }

    fn forget_pending(&mut self, file: u64) {
        let known = &mut self.files[self.writers[&file].file];
        if known.pending.is_some() {
            known.place = None;
        }
    }

    /// The tree has done all for an open file that is gone.
    pub fn retired(&mut self, file: u64) {
        self.clock += 1;
        if let Some(writer) = self.writers.get_mut(&file) {
            writer.retired_at = Some(self.clock);
        }
    }

    pub fn server_is_replaced(&mut self) {
        for under in self.under.values_mut() {
            under.is_resent = true;
        }
    }

    /// Nothing is under way any more.
    pub fn is_quiet(&mut self) {
        for file in self.writers.keys().copied().collect::<Vec<_>>() {
            if self.writers[&file].is_released && self.is_owed(file) {
                self.wrong(format!("it never took effect: {:?}", self.writers[&file]));
            }
        }
    }

    // Names.

    fn detach(&mut self, name: &str) {
        if let Some(file) = self.public.remove(name) {
            self.files[file].place = None;
            self.clock += 1;
            self.taken.insert(name.into(), self.clock);
        }
    }

    fn publish(&mut self, file: usize, name: &str) {
        if self.public.get(name) == Some(&file) {
            return;
        }
        self.detach(name);
        self.public.retain(|_, known| *known != file);
        self.public.insert(name.into(), file);
        self.files[file] = ModelFile {
            place: Some(name.into()),
            pending: None,
        };
    }

    pub fn begins(&mut self, tid: u32, doing: Doing) {
        let under = Under {
            doing,
            since: self.clock,
            set: false,
            deleted: false,
            is_resent: false,
        };
        self.disturbed_by(tid, &under.doing);
        self.under.insert(tid, under);
    }

    /// What the process writes, and nobody can tell under which name.
    fn doubtful_of(&self, pid: u32) -> impl Iterator<Item = &Writer> {
        let writers = self.writers.values();
        writers
            .filter(move |writer| writer.is_doubtful && writer.opener == pid && !writer.is_released)
    }

    /// Whether the process closes a file just now that may be any of those it writes.
    fn closes_doubtful(&self, pid: u32) -> bool {
        let mut doubtful = self.doubtful_of(pid);
        doubtful.any(|writer| writer.phase == Phase::Closing)
    }

    fn disturbed_by(&mut self, pid: u32, doing: &Doing) {
        let (Doing::Unlink(name) | Doing::Rename(_, name, _) | Doing::Truncate(name, _)) = doing;
        let own = self
            .own_writer(pid, name)
            .map(|own| self.writers[&own].file);
        self.disturb(name, own);
        if let Doing::Rename(_, _, to) = doing {
            self.disturb(to, None);
        }
    }

    /// The store was changed through the tree: finds the writer of the change.
    pub fn mutated(&mut self, Mutation { name, value }: Mutation) {
        let is_due = match &value {
            Some(text) => self.set_is_due(&name, text),
            None => self.delete_is_due(&name),
        };
        if !is_due {
            let value = value.as_ref().map(|value| shown(value));
            self.wrong(format!("nobody's change: {name} = {value:?}"));
        }
    }

    fn set_is_due(&mut self, name: &str, text: &Text) -> bool {
        let of_other_calls = self.set_is_anothers(name, text);
        let due = self.writers.iter().filter(|(_, writer)| {
            let place = self.files[writer.file].place.as_deref();
            let is_over = writer.phase == Phase::Closing
                || writer.is_released
                || self.closes_doubtful(writer.opener);
            let is_sure = place == Some(name) && !writer.is_doubtful;
            (is_sure || !of_other_calls)
                && (place == Some(name) || writer.is_doubtful)
                && is_over
                && writer.is_touched
                && !writer.is_killed
                && writer.texts.contains(text)
        });
        // Writers of the same value cannot be distinguished.
        let due: Vec<u64> = due.map(|(file, _)| *file).collect();
        for file in &due {
            let writer = self.writers.get_mut(file).unwrap();
            writer.is_committed = true;
            let known = writer.file;
            if writer.is_doubtful {
                // It may be this one's, or that of another with the same text.
                continue;
            }
            writer.is_touched = false;
            writer.texts = vec![text.clone()];
            self.disturb(name, Some(known));
            self.publish(known, name);
        }
        let history = self.history.get(name).and_then(|history| history.last());
        let changes_nothing = history.is_some_and(|(_, last)| last.as_ref() == Some(text));
        !due.is_empty() || of_other_calls || changes_nothing
    }

    /// Whether the change may be a rename's or a truncation's.
    fn set_is_anothers(&mut self, name: &str, text: &Text) -> bool {
        let mut found = Vec::new();
        for (tid, under) in &self.under {
            let is_its = match &under.doing {
                Doing::Rename(pid, from, to) if to == name => {
                    let own = self.own_writer(*pid, from);
                    let scratch = self.writers.values().find(|writer| {
                        self.files[writer.file].place.as_deref() == Some(from) && is_scratch(from)
                    });
                    let mut doubtful = self.doubtful_of(*pid).flat_map(|writer| &writer.synced);
                    match (own, scratch) {
                        _ if doubtful.any(|synced| synced.contains(text)) => true,
                        (Some(own), _) if !self.writers[&own].is_doubtful => {
                            let synced = self.writers[&own].synced.as_ref();
                            synced.is_some_and(|synced| synced.contains(text))
                        }
                        (None, Some(scratch)) => scratch.texts.contains(text),
                        _ => {
                            let held = self.held_since(from, under.since);
                            held.contains(&Some(text.clone()))
                        }
                    }
                }
                Doing::Truncate(truncated, len) if truncated == name => {
                    let held = self.held_since(name, under.since);
                    held.into_iter().flatten().any(|mut held| {
                        held.resize(*len, 0);
                        held == *text
                    })
                }
                _ => false,
            };
            if is_its {
                found.push(*tid);
            }
        }
        // Of processes that do the same at once it may be any.
        for tid in &found {
            self.under.get_mut(tid).unwrap().set = true;
        }
        !found.is_empty()
    }

    fn delete_is_due(&mut self, name: &str) -> bool {
        let under = self.under.values_mut();
        let due = under.filter(|under| match &under.doing {
            Doing::Unlink(gone) | Doing::Rename(_, gone, _) => gone == name,
            Doing::Truncate(..) => false,
        });
        due.map(|due| due.deleted = true).count() > 0
    }

    /// An unlink, rename or truncation is over. `in_store`: whether the store had the (old) name at its begin.
    pub fn ended(&mut self, tid: u32, pid: u32, result: Result<(), i32>) {
        let Some(under) = self.under.remove(&tid) else {
            return;
        };
        let (Doing::Unlink(name) | Doing::Rename(_, name, _) | Doing::Truncate(name, _)) =
            under.doing.clone();
        self.disturbed_by(pid, &under.doing);
        let own = self.own_writer(pid, &name);
        // What somebody else removed meanwhile need not be done, and a request that came twice is done once.
        let was_removed = self.held_since(&name, under.since).contains(&None)
            || self.taken.get(&name).is_some_and(|at| *at > under.since);
        let is_clear = self.doubtful_of(pid).next().is_none() && (result.is_err() || !was_removed);
        if let Err(errno) = result {
            let was_missing = self.held_since(&name, under.since).contains(&None);
            // What only the backend has cannot be moved.
            let is_backends = name == "R" && !matches!(under.doing, Doing::Truncate(..));
            let is_right = (errno == libc::ENOENT && own.is_none() && was_missing)
                || (matches!(errno, libc::EPERM | libc::ENOENT) && is_backends);
            if !is_right && is_clear {
                self.wrong(format!("{:?}: errno {errno}", under.doing));
            }
            return;
        }
        match under.doing.clone() {
            Doing::Unlink(name) => {
                self.clock += 1;
                self.taken.insert(name.clone(), self.clock);
                if let Some(own) = own {
                    let file = self.writers[&own].file;
                    self.files[file].place = None;
                    self.public.retain(|_, known| *known != file);
                }
                // A second server cannot tell whether the first one has removed what it does not find.
                let is_done = under.deleted || (under.is_resent && name == "R");
                if !is_done && own.is_none() && is_clear {
                    self.wrong(format!("{under:?}: nothing was removed"));
                }
                if under.deleted {
                    self.detach(&name);
                }
            }
            Doing::Rename(pid, from, to) => self.renamed(pid, &from, &to, own, &under, is_clear),
            Doing::Truncate(..) if under.set => {}
            Doing::Truncate(..) if !is_clear => {}
            Doing::Truncate(name, _) => self.wrong(format!("{name}: not truncated")),
        }
    }

    fn renamed(
        &mut self,
        pid: u32,
        from: &str,
        to: &str,
        own: Option<u64>,
        under: &Under,
        is_clear: bool,
    ) {
        for name in [from, to] {
            self.clock += 1;
            self.taken.insert(name.into(), self.clock);
        }
        if let Some(own) = own {
            let writer = &self.writers[&own];
            let (file, is_whole) = (writer.file, writer.synced.as_ref() == Some(&writer.texts));
            if writer.synced.is_some() && !under.set && is_clear {
                self.wrong(format!("{under:?}: what was fsynced is not there"));
            }
            self.public.retain(|_, known| *known != file);
            self.files[file] = ModelFile {
                place: Some(to.into()),
                pending: Some(pid),
            };
            if under.set && is_whole {
                self.publish(file, to);
                let writer = self.writers.get_mut(&own).unwrap();
                (writer.is_touched, writer.synced) = (false, None);
            }
            return;
        }
        if is_clear && (!under.set || !(under.deleted || is_scratch(from))) {
            self.wrong(format!("{under:?}: it was not renamed"));
        }
        match self.public.remove(from) {
            Some(file) => {
                self.publish(file, to);
                for writer in self.writers.values_mut() {
                    if writer.file == file && is_scratch(from) {
                        (writer.is_touched, writer.synced) = (false, None);
                    }
                }
            }
            None => {
                self.detach(to);
                self.move_pending(pid, from, to);
            }
        }
    }

    /// A new file in which nothing is written yet has its name for its maker alone.
    fn move_pending(&mut self, pid: u32, from: &str, to: &str) {
        let mut writers = self.writers.values();
        let its = |writer: &&Writer| {
            let file = &self.files[writer.file];
            !writer.is_released && file.pending == Some(pid) && file.place.as_deref() == Some(from)
        };
        if let Some(file) = writers.find(its).map(|writer| writer.file) {
            self.files[file].place = Some(to.into());
        }
    }
}
