//! A source's last values as a record for the next process, in its own types.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CachedAnswer, Shared};
use crate::clock::Instant;
use crate::provider::Provided;
use crate::provider::backend::{WallTime, to_bytes};
use crate::secret::{SecretName, SecretValue};

/// The version of the record. Records of other versions are ignored.
const FORMAT_VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct KeyedRecord<'a> {
    version: u8,
    /// A record of another source is ignored.
    source: &'a str,
    #[serde(borrow)]
    values: Vec<SavedValue<'a>>,
}

#[derive(Serialize, Deserialize)]
struct SavedValue<'a> {
    name: &'a str,
    text: &'a str,
    changed_at: WallTime,
    /// Since the start of the machine.
    as_of: Duration,
    is_stale: bool,
}

impl Shared {
    pub(super) fn save(&self) -> Zeroizing<Vec<u8>> {
        let state = self.state.lock();
        let value = |(name, answer): (&'_ SecretName, &'_ CachedAnswer)| {
            let as_of = answer.as_of.since_boot();
            let provided = answer.provided.clone()?;
            Some((name.clone(), provided, as_of, answer.is_stale))
        };
        let values: Vec<_> = state.answers.iter().filter_map(value).collect();
        drop(state);
        let values = values
            .iter()
            .map(|(name, provided, as_of, is_stale)| SavedValue {
                name: name.as_str(),
                text: provided.value.as_str(),
                changed_at: provided.changed_at.into(),
                as_of: *as_of,
                is_stale: *is_stale,
            });
        to_bytes(&KeyedRecord {
            version: FORMAT_VERSION,
            source: &self.rules.source.source(),
            values: values.collect(),
        })
    }

    /// Restores a record of this source, unless the source was asked already.
    pub(super) fn restore(&self, saved: &[u8]) {
        let is_known = saved.first() == Some(&FORMAT_VERSION);
        let Some(saved) = is_known
            .then(|| postcard::from_bytes::<KeyedRecord<'_>>(saved).ok())
            .flatten()
        else {
            return;
        };
        let mut state = self.state.lock();
        if saved.source != self.rules.source.source() || !state.answers.is_empty() {
            return;
        }
        let now = Instant::now();
        // The one that was used last is the first.
        for value in saved.values.iter().rev() {
            let Ok(name) = SecretName::new(value.name) else {
                continue;
            };
            // One that is still to come is of an earlier start of the machine.
            let as_of = Some(Instant::from_boot(value.as_of)).filter(|as_of| *as_of <= now);
            let answer = CachedAnswer {
                provided: Some(Provided {
                    value: SecretValue::new(value.text),
                    changed_at: value.changed_at.time(),
                    as_of: as_of.unwrap_or(now),
                }),
                as_of: as_of.unwrap_or(now),
                is_stale: value.is_stale || as_of.is_none(),
                failure: None,
                retry_at: None,
            };
            state.answers.put(name, answer);
        }
        let newest = state.answers.iter().map(|(_, answer)| answer.as_of).max();
        state.last.success = newest
            .and_then(|as_of| SystemTime::now().checked_sub(now.saturating_duration_since(as_of)));
        state.view = None;
    }
}
