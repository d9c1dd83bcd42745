//! The end of a write: when the last holder closes the file, its buffer takes effect, whole or not at all.

use std::time::SystemTime;

use super::audit::Writer;
use super::nodes::{Content, Handle, Identity, Private, State};
use super::places::{File, Place};
use super::{Caller, SettlingName, Stop, Tree};
use crate::error::Error;
use crate::process::{Ending, ending, process_of};
use crate::secret::SecretValue;
use crate::state::audit::Actor;

/// A close that may have to be committed, which takes time: it is done elsewhere ([`Tree::commit`]).
#[derive(Debug)]
pub struct Closing {
    node: u64,
    /// The thread that closes; `None`: nobody holds the file any more.
    by: Option<u32>,
    /// The name whose readers wait for the end of it.
    settles: Option<Place>,
}

impl Closing {
    /// The number of the inode that is closed.
    pub fn node(&self) -> u64 {
        self.node
    }

    pub(super) fn of_truncation(node: u64) -> Self {
        Self {
            node,
            by: None,
            settles: None,
        }
    }
}

impl State {
    /// What is to be committed of an inode that nobody holds any more; readers of its name wait for it.
    pub(super) fn begin_to_settle(&mut self, node: u64) -> Option<Closing> {
        let private = self.private_mut(node)?;
        // Held like an open file until it is committed.
        private.opens += 1;
        let target = private.target.clone();
        *self.settling.entry(target.clone()).or_insert(0) += 1;
        Some(Closing {
            node,
            by: None,
            settles: Some(target),
        })
    }
}

impl Tree {
    /// A descriptor of the handle was closed (close(2), dup2(2), exit). Gives what is to be committed before the
    /// answer, if anything may be: its error is close's.
    pub fn flush(&self, caller: &Caller, handle: u64) -> Option<Closing> {
        let mut state = self.state();
        let node = Self::written(&state, handle)?;
        let private = state.private_mut(node)?;
        if !private.is_touched() {
            return None;
        }
        // Here and not at the commit: a caller that is killed is not kept waiting, and its release may come before that.
        private.killed = ending(caller.pid) == Ending::Killed;
        (!private.killed).then_some(Closing {
            node,
            by: Some(caller.pid),
            settles: None,
        })
    }

    /// The last descriptor of the handle is gone. What no close could commit is to be committed now, and then
    /// [`Tree::settle`]d; readers of the name wait for it.
    pub fn release(&self, handle: u64) -> Option<Closing> {
        let mut state = self.state();
        match state.handles.remove(&handle)?.handle {
            Handle::Version { node } | Handle::Read { node, .. } => {
                if let Some(version) = state.version_mut(node) {
                    version.opens -= 1;
                    if version.opens == 0 {
                        state.kept.remove(&node);
                    }
                }
                state.drop_if_unused(node);
                None
            }
            Handle::Write { node, .. } => {
                let private = state.private_mut(node)?;
                private.opens -= 1;
                let finished = private.opens == 0;
                if !finished || !private.is_touched() || private.killed {
                    if finished {
                        // Nothing of a killed writer's may be committed by whoever truncates it later.
                        private.committed = private.changes;
                    }
                    state.drop_if_unused(node);
                    return None;
                }
                state.begin_to_settle(node)
            }
            Handle::Events | Handle::Dir { .. } => None,
        }
    }

    fn written(state: &State, handle: u64) -> Option<u64> {
        match state.handle(handle)? {
            Handle::Write { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Commits what a close or a truncation left. It waits for the disk, and for others that write the secrets file:
    /// not for the thread that reads requests.
    ///
    /// # Errors
    /// Those of the contract's table; then nothing has changed.
    pub fn commit(&self, closing: &Closing) -> Result<(), Stop> {
        if let Some(tid) = closing.by
            && !self.is_last_close(closing.node, tid)
        {
            return Ok(());
        }
        self.commit_node(closing.node)
    }

    /// Ends a commit that came of [`Tree::release`]; gives the name whose readers can go on.
    pub fn settle(&self, closing: Closing) -> Option<SettlingName> {
        let place = closing.settles?;
        let mut state = self.state();
        if let Some(private) = state.private_mut(closing.node) {
            private.opens -= 1;
        }
        state.drop_if_unused(closing.node);
        if let Some(count) = state.settling.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                state.settling.remove(&place);
            }
        }
        Some(SettlingName(place))
    }

    /// Whether a write of the name is still under way.
    pub fn is_settling(&self, name: &SettlingName) -> bool {
        self.state().settling.contains_key(&name.0)
    }

    /// Whether this close was the last one. If not, a later close or the release commits; if that cannot be told, the
    /// release does, and its error is only logged.
    fn is_last_close(&self, node: u64, tid: u32) -> bool {
        let (inodes, opener, since) = {
            let state = self.state();
            let Some(private) = state.private(node).filter(|private| private.opens == 1) else {
                return false;
            };
            ([node, private.entry], private.opener, private.since)
        };
        let closer = process_of(tid);
        closer.zip(opener).is_some_and(|(closer, opener)| {
            !super::process::is_held(inodes, closer, opener.pid, since)
        })
    }

    fn commit_node(&self, node: u64) -> Result<(), Stop> {
        let private = |private: &Private| private.is_touched().then_some(private.changes);
        let Some(changes) = self.state().private(node).and_then(private) else {
            return Ok(());
        };
        let done = self.commit_content(node);
        // Not before: a server that ends meanwhile leaves it to the one that comes next. What failed is given up, as
        // whoever closes is told.
        if let Some(private) = self.state().private_mut(node) {
            private.committed = changes;
        }
        done
    }

    fn commit_content(&self, node: u64) -> Result<(), Stop> {
        let (target, file, value, writer) = {
            let mut state = self.state();
            let Some(private) = state.private_mut(node) else {
                return Ok(());
            };
            let (entry, is_new) = (private.entry, private.is_new);
            let target = private.target.clone();
            let writer = Writer {
                process: private.opener,
                // Truncated by name: it was opened by nobody.
                actor: private.actor.clone().unwrap_or(Actor {
                    uid: self.owner.0,
                    pid: 0,
                    program: None,
                }),
            };
            let name = target.name.clone();
            let value = match &private.buffer {
                Ok(buffer) => buffer.to_value(&name),
                Err(errno) if *errno == libc::EFBIG => Err(Error::TooLarge {
                    what: name,
                    limit: crate::secret::MAX_VALUE,
                }),
                Err(errno) => return Err(Stop::Errno(*errno)),
            };
            // The file may have been renamed since, and then this is a write of its new name; one that was removed, or
            // that another was renamed over, takes what is written along.
            let target = match state.place(entry) {
                Some(place) => place,
                None if is_new => target,
                None => return Ok(()),
            };
            let Some(file) = self.file_at(&state, &target) else {
                return Ok(());
            };
            if file == File::Scratch {
                return Self::keep_scratch(&mut state, &target, node, value?);
            }
            (target, file, value?, writer)
        };
        self.store(&file, value.as_bytes(), &writer)
            .map_err(|error| error.at(&target.name))?;
        self.name_committed(node, &target, &value);
        self.tell_outdated(&target);
        Ok(())
    }

    fn keep_scratch(
        state: &mut State,
        place: &Place,
        node: u64,
        value: SecretValue,
    ) -> Result<(), Stop> {
        let mtime = state
            .private_mut(node)
            .and_then(|private| private.mtime.take());
        if let Some(entry) = state
            .names
            .get(place)
            .copied()
            .and_then(|entry| state.entries.get_mut(&entry))
        {
            entry.mtime = mtime.map(|mtime| (Identity::of(&value), mtime));
            entry.scratch = Some(Content {
                value,
                changed_at: SystemTime::now(),
            });
        }
        Ok(())
    }

    /// The name of a new file appears with its first content.
    fn name_committed(&self, node: u64, place: &Place, value: &SecretValue) {
        let mut state = self.state();
        let Some(private) = state.private_mut(node) else {
            return;
        };
        let (entry, was_new, mtime) = (private.entry, private.is_new, private.mtime.take());
        private.is_new = false;
        if was_new && !state.names.contains_key(place) {
            state.names.insert(place.clone(), entry);
            if let Some(entry) = state.entries.get_mut(&entry) {
                entry.named = true;
            }
        }
        if let Some(&entry) = state.names.get(place)
            && let Some(entry) = state.entries.get_mut(&entry)
        {
            let stored =
                SecretValue::from_bytes("", super::content::without_echo_newline(value.as_bytes()));
            entry.mtime = mtime
                .zip(stored.ok())
                .map(|(mtime, stored)| (Identity::of(&stored), mtime));
        }
    }
}
