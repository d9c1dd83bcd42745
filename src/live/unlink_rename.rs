//! Removing and renaming. Both write the secrets file, so they are for a thread that may wait for the disk.

use std::time::SystemTime;

use super::audit::{Writer, actor};
use super::content::{Look, Resolved};
use super::nodes::{Content, State};
use super::places::{File, Place};
use super::{Caller, Stop, Tree};
use crate::secret::{Change, SecretValue};
use crate::state::audit::Act;

impl Tree {
    /// Removes a name.
    ///
    /// # Errors
    /// EPERM where only another provider has the key, or the file is not one that can be removed; ENOENT.
    pub fn unlink(&self, caller: &Caller, parent: u64, name: &str) -> Result<(), Stop> {
        let place = Place {
            dir: parent,
            name: name.into(),
        };
        let file = self
            .file_at(&self.state(), &place)
            .ok_or(Stop::Errno(libc::EPERM))?;
        match &file {
            File::Secret(name) => {
                let changes = [Change::Delete(name.clone())];
                match self.apply(&changes, &actor(caller)) {
                    // It was done by the server that did not come to answer, nor perhaps to record it.
                    Err(error) if caller.comes_again && error.is_not_found() => {
                        self.record_changes(&actor(caller), &changes);
                    }
                    done => done.map_err(|error| error.at(name.as_str()))?,
                }
            }
            File::Scratch => {}
            File::Price(id) => {
                if !self.hardware.reset(id)? {
                    return Err(Stop::Errno(libc::ENOENT));
                }
            }
            File::PriceTable => self.hardware.reset_all(),
            File::Config(name) => {
                let configs = self.configs_or_none()?;
                if !configs.delete_by(&actor(caller), name)? {
                    if !caller.comes_again {
                        return Err(Stop::Errno(libc::ENOENT));
                    }
                    // It was done by the server that did not come to answer, nor perhaps to record it.
                    self.record(&actor(caller), Act::ProviderDeleted(name.clone()));
                }
                self.hardware.forget_configured();
            }
            _ => return Err(Stop::Errno(libc::EPERM)),
        }
        self.state().detach(&place);
        if matches!(file, File::Price(_) | File::PriceTable) {
            self.note_prices();
        }
        self.tell_outdated(&place);
        Ok(())
    }

    /// Renames within a folder. A scratch file renamed onto a secret, a document or a price is a write of it.
    ///
    /// # Errors
    /// EXDEV across folders; EINVAL for an exchange or a name outside the rule; EEXIST with RENAME_NOREPLACE; EPERM
    /// where the key is only another provider's; those of a write.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
        new_parent: u64,
        new_name: &str,
        flags: u32,
    ) -> Result<(), Stop> {
        if parent != new_parent {
            return Err(Stop::Errno(libc::EXDEV));
        }
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Stop::Errno(libc::EINVAL));
        }
        let from = Place {
            dir: parent,
            name: name.into(),
        };
        let to = Place {
            dir: parent,
            name: new_name.into(),
        };
        match self.rename_place(caller, &from, &to, flags) {
            // It was done by the server that did not come to answer.
            Err(stop) if caller.comes_again && self.was_renamed(&stop, &from, &to) => {
                let mut state = self.state();
                if state.names.contains_key(&from) {
                    state.rename(&from, &to);
                }
                // Nor perhaps to record it.
                let files = (self.file_at(&state, &from), self.file_at(&state, &to));
                drop(state);
                if let (Some(from), Some(to)) = files {
                    self.record_rename(caller, from, to);
                }
                Ok(())
            }
            renamed => renamed,
        }
    }

    fn record_rename(&self, caller: &Caller, from: File, to: File) {
        let act = match (from, to) {
            (File::Secret(old), File::Secret(new)) => Act::SecretRenamed(old, new),
            (File::Config(old), File::Config(new)) => Act::ProviderRenamed(old, new),
            _ => return,
        };
        self.record(&actor(caller), act);
    }

    /// Whether what keeps it from being renamed is that it has been.
    fn was_renamed(&self, stop: &Stop, from: &Place, to: &Place) -> bool {
        let in_the_way = match stop {
            Stop::Errno(errno) => matches!(*errno, libc::ENOENT | libc::EEXIST),
            Stop::Error(error) => error.is_not_found(),
            Stop::Wait(_) => false,
        };
        let state = self.state();
        in_the_way && !self.lookup_exists(&state, from) && self.lookup_exists(&state, to)
    }

    fn rename_place(
        &self,
        caller: &Caller,
        from: &Place,
        to: &Place,
        flags: u32,
    ) -> Result<(), Stop> {
        let (parent, name, new_name) = (from.dir, from.name.as_str(), to.name.as_str());
        let (source, target, scratch, target_exists) = {
            let state = self.state();
            if state.subdir(parent, name).is_some() || state.subdir(parent, new_name).is_some() {
                return Err(Stop::Errno(libc::EPERM));
            }
            let source = self
                .file_at(&state, from)
                .ok_or(Stop::Errno(libc::ENOENT))?;
            // What was scratch under its old name is what the new name says: `sed -i` renames `sedXXXXXX`.
            let target = state
                .dir(parent)
                .and_then(|dir| dir.file(new_name))
                .ok_or(Stop::Errno(libc::EINVAL))?;
            let scratch = state.scratch(from).cloned();
            let exists = self.lookup_exists(&state, to);
            (source, target, scratch, exists)
        };
        if flags & libc::RENAME_NOREPLACE != 0 && target_exists {
            return Err(Stop::Errno(libc::EEXIST));
        }
        match (&source, &target) {
            (File::Scratch, File::Scratch) => {}
            (File::Scratch, file) if file.is_writable() => {
                let content = scratch.ok_or(Stop::Errno(libc::ENOENT))?;
                self.store(file, content.value.as_bytes(), &Writer::of(caller))
                    .map_err(|error| error.at(new_name))?;
            }
            (File::Secret(old), File::Secret(new)) => {
                let renamed = self.manager.rename(old, new);
                renamed.map_err(|error| error.at(name))?;
                self.record_rename(caller, source, target.clone());
            }
            (File::Config(old), File::Config(new)) => {
                let configs = self.configs_or_none()?;
                if !configs.rename_by(&actor(caller), old, new)? {
                    return Err(Stop::Errno(libc::ENOENT));
                }
                self.hardware.forget_configured();
            }
            (File::Secret(old), File::Scratch) => {
                // The value is not lost with its name: it lies under the scratch name until that is removed.
                let value = self.value_of(old)?;
                self.apply(&[Change::Delete(old.clone())], &actor(caller))?;
                return self.become_scratch(from, to, value);
            }
            _ => return Err(Stop::Errno(libc::EPERM)),
        }
        let mut state = self.state();
        state.rename(from, to);
        if target != File::Scratch {
            Self::end_scratch(&mut state, to);
        }
        drop(state);
        self.tell_outdated(from);
        self.tell_outdated(to);
        Ok(())
    }

    fn lookup_exists(&self, state: &State, place: &Place) -> bool {
        match self.file_at(state, place) {
            Some(File::Secret(name)) => {
                self.manager.names().iter().any(|(known, _)| *known == name)
            }
            Some(File::Price(id)) => self.hardware.get(&id).is_some(),
            Some(File::Scratch) => state.scratch(place).is_some(),
            Some(file @ File::Config(_)) => {
                !matches!(self.resolve(&file, Look::LastKnown), Resolved::Missing)
            }
            Some(_) => true,
            None => false,
        }
    }

    fn become_scratch(&self, from: &Place, to: &Place, value: SecretValue) -> Result<(), Stop> {
        let mut state = self.state();
        state.entry_at(from);
        state.rename(from, to);
        let entry = state.entry_at(to);
        if let Some(entry) = state.entries.get_mut(&entry) {
            entry.scratch = Some(Content {
                value,
                changed_at: SystemTime::now(),
            });
        }
        drop(state);
        self.tell_outdated(from);
        self.tell_outdated(to);
        Ok(())
    }

    fn end_scratch(state: &mut State, place: &Place) {
        let Some(&number) = state.names.get(place) else {
            return;
        };
        if let Some(entry) = state.entries.get_mut(&number) {
            entry.scratch = None;
        }
    }
}
