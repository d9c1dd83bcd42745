//! What is held of the secrets file at one moment, for readers who cannot wait. Touches no file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Stored;
use super::state::{Key, State};
use crate::provider::{AsOf, Provided, ProviderReport, Standing, View, Viewed};
use crate::secret::SecretName;

/// The file's document with its times, its health, and what opens its values.
pub(super) struct FileView {
    state: State,
    max_stale: Duration,
}

impl FileView {
    pub(super) fn new(state: State, max_stale: Duration) -> Arc<Self> {
        Arc::new(Self { state, max_stale })
    }
}

impl View for FileView {
    fn find(&self, name: &SecretName, now: Instant) -> Viewed {
        let state = &self.state;
        if state.is_unread() && !state.is_hanging() {
            return Viewed::Unknown;
        }
        let valid_for = Some(state.usable_for(self.max_stale));
        let (stored, changed_at) = match state.find(name, self.max_stale) {
            Ok(Some(found)) => found,
            Ok(None) => {
                return Viewed::Absent {
                    is_answer: true,
                    passed_for: valid_for,
                };
            }
            Err(error) => return Viewed::Failed(error),
        };
        let value = match (stored, state.key()) {
            (Stored::Plain(value), _) => value,
            (Stored::Encrypted(_), Key::Unwanted | Key::Wanted) => return Viewed::Unknown,
            (Stored::Encrypted(_), Key::Unusable(error)) => {
                return Viewed::Failed(error.duplicate());
            }
            (Stored::Encrypted(sealed), Key::Usable(cipher)) => {
                match sealed.open(name.as_str(), cipher) {
                    Ok(value) => value,
                    Err(error) => return Viewed::Failed(error),
                }
            }
        };
        let as_of = AsOf {
            at: now,
            is_stale: !state.is_good(),
        };
        Viewed::Value {
            provided: Provided {
                value,
                changed_at,
                as_of,
            },
            valid_for,
        }
    }

    fn names(&self) -> Vec<SecretName> {
        self.state.names()
    }

    fn has(&self, name: &SecretName) -> bool {
        self.state.has(name)
    }

    fn standing(&self, _now: Instant) -> Standing {
        match self.state.failure(self.max_stale) {
            Some(error) => Standing::Failed(error),
            None if self.state.is_unread() => Standing::Unknown,
            None => Standing::Whole,
        }
    }

    fn report(&self, _now: Instant) -> ProviderReport {
        self.state.report(self.max_stale)
    }
}
