//! What is right, as plain maps: what each name holds and held, who writes what, which changes of the store are due.
//! Knows no inode, no epoch and no server.

use std::collections::{BTreeMap, HashMap};

use crate::provider::Mutation;

type Text = Vec<u8>;

/// A file apart from its name.
#[derive(Clone, Debug, Default)]
struct Known {
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
    synced: Option<Vec<Text>>,
    phase: Phase,
    is_released: bool,
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
    history: BTreeMap<String, Vec<(u64, Option<Text>)>>,
    files: Vec<Known>,
    public: HashMap<String, usize>,
    writers: BTreeMap<u64, Writer>,
    readers: BTreeMap<u64, Reader>,
    under: BTreeMap<u32, Under>,
    /// When a name was taken from its file last.
    taken: HashMap<String, u64>,
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
        let is_gone = value.is_none();
        history.push((self.clock, value));
        if is_gone && by_others {
            let file = self.public.get(name).copied();
            for writer in self.writers.values_mut() {
                writer.is_doubtful |= Some(writer.file) == file;
            }
        }
    }

    /// All that a name held since then.
    pub fn held_since(&self, name: &str, since: u64) -> Vec<Option<Text>> {
        let Some(history) = self.history.get(name) else {
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

    /// Whether the process is making a file of this name.
    pub fn is_making(&self, pid: u32, name: &str) -> bool {
        self.own_writer(pid, name).is_some()
    }

    /// Whether the process has a file open to write that has this name.
    pub fn has_open(&self, pid: u32, name: &str) -> bool {
        self.writers.values().any(|writer| {
            writer.opener == pid
                && !writer.is_released
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
        let texts: Vec<Text> = self.held_since(name, since).into_iter().flatten().collect();
        let is_making = self.is_making(pid, name);
        if texts.is_empty() && !is_making {
            return self.wrong(format!("{name} was opened, and was not there"));
        }
        let texts = (!is_making).then_some(texts);
        self.readers.insert(file, Reader { texts });
    }

    pub fn no_such_file(&mut self, what: &str, pid: u32, name: &str, since: u64) {
        if self.is_making(pid, name) {
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
        let held = self.held_since(name, since);
        let mut sizes = held.iter().flatten().map(Vec::len);
        if !sizes.any(|len| len as u64 == size) && !self.is_making(pid, name) {
            let held: Vec<_> = held.iter().map(|v| v.as_ref().map(|v| v.len())).collect();
            self.wrong(format!("stat {name} said {size} bytes of {held:?}"));
        }
    }

    // Writers.

    fn public_file(&mut self, name: &str) -> usize {
        if let Some(file) = self.public.get(name) {
            return *file;
        }
        self.files.push(Known {
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
        let is_new = creates && held.iter().all(Option::is_none);
        let known = match is_new && !is_scratch(name) {
            true => {
                self.files.push(Known {
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
            false => held.into_iter().map(Option::unwrap_or_default).collect(),
        };
        let writer = Writer {
            opener,
            file: known,
            texts,
            is_touched: truncates || created,
            synced: None,
            phase: Phase::Open,
            is_released: false,
            is_killed: false,
            is_doubtful: was_taken,
        };
        self.writers.insert(file, writer);
    }

    /// Something was written through an open file.
    pub fn wrote(&mut self, file: u64, change: impl Fn(&mut Text)) {
        if let Some(writer) = self.writers.get_mut(&file) {
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
        let mut others = others.iter().filter_map(|other| self.writers.get(other));
        let is_last = !others.any(|other| other.file == known);
        match self.writers.get_mut(&file) {
            Some(writer) if writer.opener == pid && is_last && !writer.is_killed => {
                writer.phase = Phase::Closing;
                writer.is_touched
            }
            _ => false,
        }
    }

    pub fn closed(&mut self, file: u64, must: bool) {
        let Some(writer) = self.writers.get_mut(&file) else {
            return;
        };
        if writer.phase == Phase::Closing {
            writer.phase = Phase::Closed;
        }
        if must && self.is_owed(file) {
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
        self.files[file] = Known {
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
        };
        self.under.insert(tid, under);
    }

    /// The store was changed through the tree: by whom?
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
        let due = self.writers.iter().find(|(_, writer)| {
            let place = self.files[writer.file].place.as_deref();
            let is_over = writer.phase != Phase::Open || writer.is_released;
            (place == Some(name) || writer.is_doubtful)
                && is_over
                && writer.is_touched
                && !writer.is_killed
                && writer.texts.contains(text)
        });
        if let Some(file) = due.map(|(file, _)| *file) {
            let writer = self.writers.get_mut(&file).unwrap();
            writer.is_touched = false;
            writer.texts = vec![text.clone()];
            let known = writer.file;
            self.publish(known, name);
            return true;
        }
        let mut found = None;
        for (tid, under) in &self.under {
            let is_its = match &under.doing {
                Doing::Rename(pid, from, to) if to == name => {
                    let own = self.own_writer(*pid, from);
                    let scratch = self.writers.values().find(|writer| {
                        self.files[writer.file].place.as_deref() == Some(from) && is_scratch(from)
                    });
                    match (own, scratch) {
                        (Some(own), _) => {
                            let synced = self.writers[&own].synced.as_ref();
                            synced.is_some_and(|synced| synced.contains(text))
                        }
                        (None, Some(scratch)) => scratch.texts.contains(text),
                        (None, None) => {
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
                found = Some(*tid);
            }
        }
        let Some(under) = found.and_then(|tid| self.under.get_mut(&tid)) else {
            return false;
        };
        under.set = true;
        true
    }

    fn delete_is_due(&mut self, name: &str) -> bool {
        let mut under = self.under.values_mut();
        let due = under.find(|under| match &under.doing {
            Doing::Unlink(gone) | Doing::Rename(_, gone, _) => gone == name,
            Doing::Truncate(..) => false,
        });
        due.map(|due| due.deleted = true).is_some()
    }

    /// An unlink, rename or truncation is over. `in_store`: whether the store had the (old) name at its begin.
    pub fn ended(&mut self, tid: u32, pid: u32, result: Result<(), i32>) {
        let Some(under) = self.under.remove(&tid) else {
            return;
        };
        let (Doing::Unlink(name) | Doing::Rename(_, name, _) | Doing::Truncate(name, _)) =
            under.doing.clone();
        let own = self.own_writer(pid, &name);
        if let Err(errno) = result {
            let was_missing = self.held_since(&name, under.since).contains(&None);
            // What only the backend has cannot be moved.
            let is_backends = name == "R" && !matches!(under.doing, Doing::Truncate(..));
            let is_right = (errno == libc::ENOENT && own.is_none() && was_missing)
                || (matches!(errno, libc::EPERM | libc::ENOENT) && is_backends);
            if !is_right {
                self.wrong(format!("{:?}: errno {errno}", under.doing));
            }
            return;
        }
        match under.doing.clone() {
            Doing::Unlink(name) => {
                if let Some(own) = own {
                    let file = self.writers[&own].file;
                    self.files[file].place = None;
                    self.public.retain(|_, known| *known != file);
                }
                if !under.deleted && own.is_none() {
                    self.wrong(format!("{under:?}: nothing was removed"));
                }
                if under.deleted {
                    self.detach(&name);
                }
            }
            Doing::Rename(pid, from, to) => self.renamed(pid, &from, &to, own, &under),
            Doing::Truncate(..) if under.set => {}
            Doing::Truncate(name, _) => self.wrong(format!("{name}: not truncated")),
        }
    }

    fn renamed(&mut self, pid: u32, from: &str, to: &str, own: Option<u64>, under: &Under) {
        if from == to {
            return;
        }
        if let Some(own) = own {
            let writer = &self.writers[&own];
            let (file, is_whole) = (writer.file, writer.synced.as_ref() == Some(&writer.texts));
            if writer.synced.is_some() && !under.set {
                self.wrong(format!("{under:?}: what was fsynced is not there"));
            }
            self.public.retain(|_, known| *known != file);
            self.files[file] = Known {
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
        if !under.set || !(under.deleted || is_scratch(from)) {
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
            None => self.detach(to),
        }
    }
}
