//! Compares what an archive has with what is here. Changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::manifest::Role;
use crate::audit::{first_difference, has_row, last_row};
use crate::credential::CredentialCipher;
use crate::error::Result;
use crate::provider::file::{Document, Stored};
use crate::secret::SecretName;
use crate::sqlite::{Copy, from_sqlite};
use crate::text::counted;

/// How a file of the archive stands to what is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none here.
    New,
    /// It is here.
    Same,
    /// Another one is here.
    Differs,
}

impl State {
    /// Its name, for people and JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::New => "new",
            State::Same => "same",
            State::Differs => "differs",
        }
    }
}

/// What a restore does to the secrets.
#[derive(Default)]
pub(super) struct SecretChanges {
    pub(super) set: usize,
    pub(super) added: usize,
    pub(super) removed: usize,
}

impl SecretChanges {
    pub(super) fn is_none(&self) -> bool {
        self.set + self.added + self.removed == 0
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let parts = [
            (self.added, "added"),
            (self.set, "changed"),
            (self.removed, "removed"),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        match parts.is_empty() {
            true => "the same values, encrypted otherwise".to_owned(),
            false => parts.join(", "),
        }
    }
}

/// A document with the cipher of its values.
pub(super) struct Readable<'a> {
    pub(super) document: &'a Document,
    pub(super) cipher: Option<&'a Arc<CredentialCipher>>,
}

impl Readable<'_> {
    fn value(&self, name: &SecretName) -> Option<String> {
        let value = match self.document.get(name)? {
            Stored::Plain(value) => value.clone(),
            Stored::Encrypted(sealed) => sealed.open(name.as_str(), self.cipher?).ok()?,
        };
        Some(value.without_newline().as_str().to_owned())
    }
}

/// What becomes of the secrets here if those of an archive take their place.
pub(super) fn secret_changes(here: &Readable<'_>, there: &Readable<'_>) -> SecretChanges {
    let mut changes = SecretChanges::default();
    for name in there.document.names() {
        let stored = (here.document.get(name), there.document.get(name));
        match stored {
            (None, _) => changes.added += 1,
            (mine, theirs) if mine == theirs => {}
            _ => {
                let value = there.value(name).map(zeroize::Zeroizing::new);
                let is_same =
                    value.is_some() && value == here.value(name).map(zeroize::Zeroizing::new);
                changes.set += usize::from(!is_same);
            }
        }
    }
    let is_gone = |name: &&SecretName| !there.document.contains(name);
    changes.removed = here.document.names().filter(is_gone).count();
    changes
}

/// The state of a database, and what a restore does to it.
pub(super) fn database(role: Role, copy: &Copy, path: &Path) -> Result<(State, String)> {
    let Some(here) = Copy::of(path)? else {
        return Ok((State::New, String::new()));
    };
    if here.is_same_as(copy) {
        return Ok((State::Same, String::new()));
    }
    let failed = |error| from_sqlite(path, &error);
    let (mine, theirs) = (here.open(path)?, copy.open(path)?);
    if role == Role::Database {
        return Ok((State::Differs, "it has changed since the backup".to_owned()));
    }
    let last = last_row(&theirs).map_err(failed)?;
    let goes_on = match &last {
        Some(last) => has_row(&mine, last).map_err(failed)?,
        None => true,
    };
    let changed = first_difference(&mine, &theirs).map_err(failed)?;
    if let Some(id) = changed.filter(|_| goes_on) {
        let detail = format!("row {id} of the one here is not what it was");
        return Ok((State::Differs, detail));
    }
    if goes_on {
        return Ok((State::Same, "the one here goes on from it".to_owned()));
    }
    let mine = last_row(&mine).map_err(failed)?;
    let is_behind = match &mine {
        Some(mine) => has_row(&theirs, mine).map_err(failed)?,
        None => return Ok((State::New, String::new())),
    };
    let rows = |row: Option<&crate::audit::LastRow>| {
        let id = row.map_or(0, |row| u64::try_from(row.id).unwrap_or_default());
        counted(id, "row")
    };
    Ok((
        State::Differs,
        match is_behind {
            true => format!("the one here ends earlier, at {}", rows(mine.as_ref())),
            false => "it is another trail".to_owned(),
        },
    ))
}
