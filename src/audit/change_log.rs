//! The thread that writes rare rows into SimpleTuner's chain. Whoever records something goes on at once; while the
//! database cannot be written, rows are held and tried again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::actor::Actor;
use super::chain::Chain;
use super::key::SigningKey;
use super::user_names::Names;
use super::row::{Act, Entry, refusal};
use super::{AuditOptions, Gate, check_once};
use crate::error::Result;
use crate::sqlite::timestamp;

/// So often the same refusal makes a row.
const REFUSALS: Duration = Duration::from_secs(60);
/// So many things a user can be refused before the others become one.
const REFUSED_THINGS: usize = 20;
/// What stands for the others.
const OTHERS: &str = "*";
/// How long until a database that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The most rows that are held.
const MOST: usize = 10_000;

pub(super) struct Rare(Arc<Shared>);

struct Shared {
    chain: Chain,
    key: SigningKey,
    state: Mutex<State>,
    /// There is something to do, or something is done.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    acts: VecDeque<(SystemTime, Actor, Act)>,
    refused: HashMap<(u32, String), Refused>,
    /// What is not written yet.
    entries: Vec<Entry>,
    is_running: bool,
    has_ended: bool,
    gate: Gate,
    /// How many flushes were asked for, and how many of them are done.
    wanted: u64,
    flushed: u64,
    lost: u64,
}

impl State {
    /// The rows that are not in the database, with names as far as they are known.
    fn unwritten(&self) -> Vec<Entry> {
        let names = Names::default();
        let acts = self
            .acts
            .iter()
            .map(|(at, actor, act)| act.entry(actor, &names.get(actor.uid), timestamp(*at)));
        let refused = self.refused.iter().map(|((uid, what), refused)| {
            let (user, at) = (names.get(*uid), timestamp(refused.at));
            refusal(what, &refused.actor, &user, at, refused.count)
        });
        let entries = self.entries.iter().cloned();
        entries.chain(acts).chain(refused).collect()
    }
}

struct Refused {
    at: SystemTime,
    actor: Actor,
    count: u64,
}

/// A minute in which a refusal has had its row.
struct Window {
    ends: Instant,
    since: Option<Refused>,
}

impl Rare {
    pub(super) fn new(options: &AuditOptions) -> Self {
        Self(Arc::new(Shared {
            chain: options.chain(),
            key: options.signing_key(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    pub(super) fn record(&self, actor: Actor, act: Act) {
        let mut state = self.0.admitted();
        if state.acts.len() + state.entries.len() >= MOST {
            state.lost += 1;
            return;
        }
        state.acts.push_back((SystemTime::now(), actor, act));
        self.wake(&mut state);
    }

    pub(super) fn record_refusal(&self, uid: u32, tid: u32, what: &str) {
        let what: String = what.chars().take(300).collect();
        let mut state = self.0.admitted();
        let things = state.refused.len();
        let key = match state.refused.contains_key(&(uid, what.clone())) {
            false if things >= MOST => (uid, OTHERS.to_owned()),
            _ => (uid, what),
        };
        let refused = state.refused.entry(key).or_insert_with(|| Refused {
            at: SystemTime::now(),
            actor: Actor::of_thread(uid, tid),
            count: 0,
        });
        refused.count += 1;
        self.wake(&mut state);
    }

    fn wake(&self, state: &mut State) {
        if !state.is_running {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new()
                .name("audit".into())
                .stack_size(256 * 1024);
            match thread.spawn(move || shared.write_all()) {
                Ok(_) => state.is_running = true,
                Err(error) => tracing::error!("the audit trail cannot be written: {error}"),
            }
        }
        self.0.changed.notify_all();
    }

    pub(super) fn flush(&self, until: Instant) -> bool {
        let mut state = self.0.state();
        if !state.is_running {
            return true;
        }
        state.wanted += 1;
        let wanted = state.wanted;
        self.0.changed.notify_all();
        while state.flushed < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        // Better in the log than nowhere.
        for entry in state.unwritten() {
            let Entry {
                timestamp,
                username,
                action,
                ..
            } = entry;
            tracing::error!(
                "this could not be written to the audit trail: {timestamp} {username}: {action}"
            );
        }
        // The thread may be stuck with nothing left to see here.
        state.flushed >= wanted && state.entries.is_empty() && state.acts.is_empty()
    }

    pub(super) fn freeze(&self) {
        self.0.state().gate.close();
    }

    pub(super) fn end(&self) {
        self.0.state().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The state, for whoever records something.
    fn admitted(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while let Some(left) = state.gate.closed_for() {
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
        state
    }

    fn write_all(self: Arc<Self>) {
        let mut writer = Writer::default();
        while writer.wait(&self) {
            writer.work(&self);
        }
    }
}

/// What the thread knows.
#[derive(Default)]
struct Writer {
    windows: HashMap<(u32, String), Window>,
    /// The database has failed, and is to be tried again then.
    again: Option<Instant>,
    has_told: bool,
    was_checked: bool,
}

impl Writer {
    /// Waits for something to do; `false`: there will be nothing any more.
    fn wait(&self, shared: &Shared) -> bool {
        let mut state = shared.state();
        loop {
            if state.has_ended {
                return false;
            }
            if state.wanted > state.flushed {
                return true;
            }
            let is_new = !state.acts.is_empty() || !state.refused.is_empty();
            let counted = self
                .windows
                .values()
                .filter(|window| window.since.is_some());
            let next = match self.again {
                Some(again) => Some(again),
                None if is_new => return true,
                None => counted.map(|window| window.ends).min(),
            };
            let left = next.map(|next| next.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => return true,
                Some(left) => {
                    let waited = shared.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(|e| e.into_inner()).0
                }
                None => {
                    let waited = shared.changed.wait(state);
                    waited.unwrap_or_else(|e| e.into_inner())
                }
            };
        }
    }

    fn work(&mut self, shared: &Shared) {
        let uids = self.uids(&shared.state());
        let names = Names::of(uids);
        let (all, wanted, is_last) = {
            // From one to the other under the lock, so that a flush sees all that is not written.
            let mut state = shared.state();
            let (wanted, is_last) = (state.wanted, state.wanted > state.flushed);
            let acts = std::mem::take(&mut state.acts);
            let refused = std::mem::take(&mut state.refused);
            let acts = acts
                .into_iter()
                .map(|(at, actor, act)| act.entry(&actor, &names.get(actor.uid), timestamp(at)));
            state.entries.extend(acts);
            let refused = self.refusals(refused, &names, is_last);
            state.entries.extend(refused);
            let lost = std::mem::take(&mut state.lost);
            if lost > 0 {
                tracing::error!(
                    "{lost} rows of the audit trail are lost: too many wait to be written"
                );
            }
            (state.entries.clone(), wanted, is_last)
        };
        let written = match all.is_empty() {
            true => Ok(()),
            false => self.append(shared, &all),
        };
        let mut state = shared.state();
        match written {
            Ok(()) => {
                state.entries.drain(..all.len());
                self.again = None;
                self.has_told = false;
            }
            Err(error) => {
                self.again = Some(Instant::now() + AGAIN);
                if !std::mem::replace(&mut self.has_told, true) {
                    tracing::error!(
                        "the audit trail cannot be written, and is tried again: {error}"
                    );
                }
            }
        }
        if is_last {
            state.flushed = state.flushed.max(wanted);
            shared.changed.notify_all();
        }
    }

    /// Who is in the rows that may be made now.
    fn uids(&self, state: &State) -> BTreeSet<u32> {
        let acts = state.acts.iter().map(|(_, actor, _)| actor.uid);
        let refused = state.refused.keys().map(|(uid, _)| *uid);
        let windows = self.windows.iter();
        let counted = windows.filter(|(_, window)| window.since.is_some());
        let counted = counted.map(|((uid, _), _)| *uid);
        acts.chain(refused).chain(counted).collect()
    }

    fn append(&mut self, shared: &Shared, entries: &[Entry]) -> Result<()> {
        let key = shared.key.key_or_create()?;
        shared.chain.append(&key, entries)?;
        if !std::mem::replace(&mut self.was_checked, true) {
            check_once(&shared.chain, key);
        }
        Ok(())
    }

    /// The rows that refusals make now: the first of a minute at once, the others with its end.
    fn refusals(
        &mut self,
        refused: HashMap<(u32, String), Refused>,
        names: &Names,
        is_last: bool,
    ) -> Vec<Entry> {
        let now = Instant::now();
        let mut rows = Vec::new();
        for ((uid, what), refused) in refused {
            let of_user = self.windows.keys().filter(|(other, _)| *other == uid);
            let key = match self.windows.contains_key(&(uid, what.clone())) {
                false if of_user.count() >= REFUSED_THINGS => (uid, OTHERS.to_owned()),
                _ => (uid, what),
            };
            match self.windows.get_mut(&key) {
                Some(window) => match &mut window.since {
                    Some(since) => since.count += refused.count,
                    None => window.since = Some(refused),
                },
                None => {
                    rows.push((key.1.clone(), refused));
                    let window = Window {
                        ends: now + REFUSALS,
                        since: None,
                    };
                    self.windows.insert(key, window);
                }
            }
        }
        self.windows.retain(|(_, what), window| {
            if !is_last && window.ends > now {
                return true;
            }
            match window.since.take() {
                Some(refused) => {
                    rows.push((what.clone(), refused));
                    window.ends = now + REFUSALS;
                    true
                }
                None => window.ends > now,
            }
        });
        rows.sort_by_key(|(_, refused)| refused.at);
        rows.into_iter()
            .map(|(what, refused)| {
                let user = names.get(refused.actor.uid);
                let at = timestamp(refused.at);
                refusal(&what, &refused.actor, &user, at, refused.count)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uid: u32, what: &str, count: u64) -> HashMap<(u32, String), Refused> {
        let refused = Refused {
            at: SystemTime::now(),
            actor: Actor::of_thread(uid, 0),
            count,
        };
        HashMap::from([((uid, what.to_owned()), refused)])
    }

    fn counts(entries: &[Entry]) -> Vec<(String, u64)> {
        let count = |entry: &Entry| {
            let details: serde_json::Value = serde_json::from_str(&entry.details).unwrap();
            (
                entry.target_id.clone().unwrap(),
                details["count"].as_u64().unwrap(),
            )
        };
        entries.iter().map(count).collect()
    }

    #[test]
    fn the_same_refusal_makes_one_row_a_minute_with_a_count() {
        let mut writer = Writer::default();
        let one = |count| vec![("A".to_owned(), count)];
        assert_eq!(
            counts(&writer.refusals(refused(1, "A", 2), &Names::default(), false)),
            one(2)
        );
        assert!(
            writer
                .refusals(refused(1, "A", 3), &Names::default(), false)
                .is_empty()
        );
        assert!(
            writer
                .refusals(refused(1, "A", 4), &Names::default(), false)
                .is_empty()
        );
        assert_eq!(
            counts(&writer.refusals(refused(2, "A", 1), &Names::default(), false)),
            one(1)
        );
        for window in writer.windows.values_mut() {
            window.ends = Instant::now();
        }
        assert_eq!(
            counts(&writer.refusals(HashMap::new(), &Names::default(), false)),
            one(7)
        );
        assert!(
            writer
                .refusals(refused(1, "A", 5), &Names::default(), false)
                .is_empty()
        );
        assert_eq!(
            counts(&writer.refusals(HashMap::new(), &Names::default(), true)),
            one(5)
        );
    }

    #[test]
    fn a_writer_that_is_stuck_is_no_flush_that_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let rare = Rare::new(&AuditOptions {
            state_dir: folder.path().to_owned(),
            key: None,
            reads: false,
            keep_days: None,
        });
        // Nobody writes, and nothing is left to see.
        rare.0.state().is_running = true;
        assert!(!rare.flush(Instant::now()));
        rare.record_refusal(1, 0, "A");
        rare.record(
            Actor::of_thread(1, 0),
            Act::ProviderDeleted("gone".to_owned()),
        );
        let unwritten = rare.0.state().unwritten();
        let actions: Vec<_> = unwritten
            .iter()
            .map(|entry| entry.action.as_str())
            .collect();
        assert_eq!(
            actions,
            [
                "Configuration of provider gone deleted",
                "Access to A denied"
            ]
        );
        assert!(!rare.flush(Instant::now()));
    }

    #[test]
    fn whoever_asks_for_very_much_fills_no_trail() {
        let mut writer = Writer::default();
        let mut rows = 0;
        for thing in 0..1000 {
            rows += writer
                .refusals(
                    refused(1, &format!("K{thing}"), 1),
                    &Names::default(),
                    false,
                )
                .len();
        }
        assert_eq!(rows, REFUSED_THINGS + 1);
        let last = writer.refusals(HashMap::new(), &Names::default(), true);
        assert_eq!(
            counts(&last),
            [(OTHERS.to_owned(), 1000 - REFUSED_THINGS as u64 - 1)]
        );
    }
}
