//! A secret is renamed onto a scratch name: it leaves the store, and is not lost.

use super::audit::actor;
use super::{Caller, OpError, Tree};
use crate::secret::{Change, SecretName};
use crate::versions::DirEntry;

impl Tree {
    /// Takes a secret out of the store. Its value lies under the scratch name until that is removed, or until a process
    /// that is writing the secret closes it.
    pub(super) fn move_to_scratch(
        &self,
        caller: &Caller,
        secret: &SecretName,
        from: &DirEntry,
        to: &DirEntry,
    ) -> Result<(), OpError> {
        let value = self.manager.value_in_store(secret)?;
        let (opener, replaced) = (self.opener(caller)?, self.state().scratch_data(to));
        // It lies there before the store is without it, so that the next server has it.
        {
            let mut state = self.state();
            let moved = state.scratch(to).and_then(|file| state.file(file));
            let is_moved = caller.is_resend && moved.is_some_and(|file| file.was_at(from));
            if !is_moved {
                let write_ino = state.rename_to_scratch(from, to, &opener, value.as_bytes());
                // It has no writer.
                let changes = state.buffer(write_ino).map_or(0, |buffer| buffer.changes);
                state.committed(write_ino, changes);
            }
        }
        let deleted = self.apply(&[Change::Delete(secret.clone())], &actor(caller));
        let Err(error) = deleted else {
            return Ok(());
        };
        let mut state = self.state();
        if let Some(file) = state.scratch(to) {
            state.publish(file, from);
        }
        if let Some(data) = replaced {
            state.create_scratch(to, &opener, data.as_bytes());
        }
        Err(error.into())
    }
}
