//! Looks at what keys held before a change, and plans what an undo sets back. Writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::previous::{Did, Entry, KeyHistory, Previous, path_for};
use super::{Document, Sealed, Shared, Stored};
use crate::credential::CredentialCipher;
use crate::error::{Error, Result};
use crate::secret::SecretName;

/// A change of a key that can be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastChange {
    /// The key.
    pub name: SecretName,
    /// When.
    pub at: SystemTime,
    /// What was done.
    pub did: Did,
    /// Whether the key had a value before.
    pub had_value: bool,
}

/// What to undo.
#[derive(Clone, Debug)]
pub enum UndoRequest {
    /// The last changes of a key, so many.
    Steps(SecretName, usize),
    /// All changes since a time, of one key or of all.
    Since(SystemTime, Option<SecretName>),
}

/// A key that an undo sets back. It holds the value, and shows none.
#[derive(Clone)]
pub struct Undo {
    /// The key.
    pub name: SecretName,
    /// The change before which the key had what it gets back.
    pub change: PastChange,
    /// Whether the key has a value now.
    pub has_value: bool,
    /// When the key changed between the time that was asked for and `change`: what it held then is no longer kept.
    pub is_partial: bool,
    /// Why what it gets back cannot be decrypted.
    pub problem: Option<String>,
    /// What it gets back; `None`: it is removed.
    pub(super) to: Option<Stored>,
    /// The last change of the key when this was planned.
    pub(super) newest: Option<SystemTime>,
}

impl std::fmt::Debug for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Undo({})", self.name)
    }
}

fn past(name: &SecretName, entry: &Entry) -> PastChange {
    PastChange {
        name: name.clone(),
        at: entry.at,
        did: entry.did.clone(),
        had_value: entry.before.is_some(),
    }
}

impl Shared {
    /// What is kept of all keys.
    fn previous(&self) -> Result<BTreeMap<SecretName, KeyHistory>> {
        let store = self.path_now()?;
        let all = Previous::read(&store).and_then(|previous| previous.all());
        all.map_err(|error| match error {
            Error::Malformed { reason, .. } => Error::Malformed {
                what: path_for(&store).display().to_string(),
                reason,
            },
            other => other,
        })
    }

    /// All changes that are kept, the newest first.
    pub(super) fn history(&self) -> Result<Vec<PastChange>> {
        let previous = self.previous()?;
        let mut changes: Vec<PastChange> = previous
            .iter()
            .flat_map(|(name, history)| history.entries.iter().map(|entry| past(name, entry)))
            .collect();
        changes.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.name.cmp(&b.name)));
        Ok(changes)
    }

    /// What an undo would set back.
    pub(super) fn plan_undo(&self, what: &UndoRequest) -> Result<Vec<Undo>> {
        let found = self.read_now().loaded?;
        let mut planned = Vec::new();
        for (name, history) in &self.previous()? {
            if let Some((entry, is_partial)) = target(what, name, history) {
                planned.extend(self.plan(&found.document, name, history, entry, is_partial));
            }
        }
        Ok(planned)
    }

    /// `None` if the key has that value already.
    fn plan(
        &self,
        document: &Document,
        name: &SecretName,
        history: &KeyHistory,
        entry: &Entry,
        is_partial: bool,
    ) -> Option<Undo> {
        let present = document.get(name);
        if self.is_same(present, entry.before.as_ref()) {
            return None;
        }
        let problem = match &entry.before {
            Some(Stored::Encrypted(sealed)) => self.problem(name, sealed),
            _ => None,
        };
        Some(Undo {
            name: name.clone(),
            change: past(name, entry),
            has_value: present.is_some(),
            is_partial,
            problem,
            to: entry.before.clone(),
            newest: history.newest(),
        })
    }

    fn problem(&self, name: &SecretName, sealed: &Sealed) -> Option<String> {
        match self.options.key.cipher() {
            Ok(cipher) => {
                let problem = sealed.problem(&cipher)?;
                Some(problem.error(name.as_str()).to_string())
            }
            Err(error) => Some(format!("{name}: {error}")),
        }
    }

    /// Whether two stored values stand for the same one.
    pub(super) fn is_same(&self, one: Option<&Stored>, other: Option<&Stored>) -> bool {
        let open = |stored: &Stored| match stored {
            Stored::Plain(value) => Some(value.clone()),
            Stored::Encrypted(sealed) => {
                let cipher = self.options.key.cipher_if_present().ok()??;
                sealed.open("", &cipher).ok()
            }
        };
        match (one, other) {
            (Some(one), Some(other)) if one == other => true,
            (Some(Stored::Plain(_)), Some(Stored::Plain(_))) => false,
            (Some(one), Some(other)) => {
                open(one).is_some_and(|one| open(other).as_ref() == Some(&one))
            }
            (None, None) => true,
            _ => false,
        }
    }

    /// Checks that nothing has changed the keys since this was planned. Returns what each gets back, as it is kept now: a rotation
    /// of the key may have encrypted it anew.
    pub(super) fn check_planned(&self, planned: &[Undo]) -> Result<Vec<Option<Stored>>> {
        let previous = self.previous()?;
        let mut kept = Vec::with_capacity(planned.len());
        for undo in planned {
            let history = previous.get(&undo.name);
            let entries = history.into_iter().flat_map(|history| &history.entries);
            let entry = entries.clone().find(|entry| entry.at == undo.change.at);
            kept.push(match entry {
                Some(entry) => entry.before.clone(),
                None => undo.to.clone(),
            });
            if history.and_then(KeyHistory::newest) != undo.newest {
                return Err(Error::Malformed {
                    what: undo.name.to_string(),
                    reason:
                        "it has changed meanwhile, and nothing is undone; look at the plan again"
                            .to_owned(),
                });
            }
        }
        Ok(kept)
    }

    /// The form in which a value that was kept goes back to the file: that which `encrypt` asks for.
    pub(super) fn restored(
        &self,
        kept: &Stored,
        cipher: impl FnOnce() -> Result<Arc<CredentialCipher>>,
    ) -> Result<Stored> {
        match kept {
            Stored::Plain(value) if self.options.encrypt => self.seal(value, cipher),
            Stored::Encrypted(sealed) if !self.options.encrypt => {
                let at_hand = self.options.key.cipher_if_present()?;
                match at_hand.and_then(|cipher| sealed.open("", &cipher).ok()) {
                    Some(value) => self.seal(&value, cipher),
                    // As it is: it can be read again when its key is back.
                    None => Ok(kept.clone()),
                }
            }
            _ => Ok(kept.clone()),
        }
    }
}

/// The entry that has what the key gets back, and whether an older one would be needed that is no longer kept.
fn target<'a>(
    what: &UndoRequest,
    name: &SecretName,
    history: &'a KeyHistory,
) -> Option<(&'a Entry, bool)> {
    match what {
        UndoRequest::Steps(of, steps) if of == name => {
            let entry = history.entries.get(steps.checked_sub(1)?)?;
            Some((entry, false))
        }
        UndoRequest::Since(since, of) if of.as_ref().is_none_or(|of| of == name) => {
            let since = *since;
            let mut entries = history.entries.iter().rev();
            let first = entries.find(|entry| entry.at >= since)?;
            let is_partial = history.dropped.is_some_and(|at| at >= since);
            Some((first, is_partial))
        }
        _ => None,
    }
}
