//! What each kind of file holds, and what a finished write of it does. Knows no inode.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::audit::Writer;
use super::bundle::{self, BundleFormat};
use super::layout::File;
use super::{Tree, WaitOn, lock};
use crate::cache::{NamedCache, function_caches};
use crate::error::{Error, Result};
use crate::hardware;
use crate::manager::Lookup;
use crate::secret::{Change, SecretName, SecretValue};
use crate::state::audit::Actor;
use crate::state::{Known, ProviderConfigs};

/// How fresh a content must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// A value that may be given to readers.
    Fresh,
    /// The last known value, for callers that have waited already, or that look at names and sizes only.
    LastKnown,
}

/// A content.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) value: SecretValue,
    /// When it last changed.
    pub(super) changed_at: SystemTime,
    /// For how long it may be given to readers if nothing changes.
    pub(super) fresh_for: Duration,
}

/// What is known of a file's content without waiting.
pub(super) enum Resolved {
    Content(Content),
    Missing,
    Failed(Error),
    /// It must be asked for first.
    Blocked(WaitOn),
}

impl Resolved {
    /// Content that does not expire.
    pub(super) fn lasting(value: SecretValue, changed_at: SystemTime) -> Self {
        Resolved::Content(Content {
            value,
            changed_at,
            fresh_for: Duration::MAX,
        })
    }
}

/// How long an answer is kept for the callers that waited for it.
const AT_HAND: Duration = Duration::from_secs(1);

/// What providers have just answered.
#[derive(Default)]
pub(super) struct Answers(Mutex<HashMap<SecretName, (Instant, Lookup)>>);

impl Answers {
    pub(super) fn put(&self, name: SecretName, answer: Lookup) {
        let mut answers = lock(&self.0);
        let now = Instant::now();
        answers.retain(|_, (at, _)| now.duration_since(*at) < AT_HAND);
        answers.insert(name, (now, answer));
    }

    fn get(&self, name: &SecretName) -> Option<Resolved> {
        let answers = lock(&self.0);
        let (at, answer) = answers.get(name)?;
        if at.elapsed() >= AT_HAND {
            return None;
        }
        Some(match answer {
            Lookup::Fresh(version, _) | Lookup::Stale(version) => Resolved::Content(Content {
                value: version.raw.clone(),
                changed_at: version.changed_at,
                fresh_for: Duration::ZERO,
            }),
            Lookup::Missing => Resolved::Missing,
            Lookup::Failed(error) => Resolved::Failed(error.duplicate()),
            Lookup::Unknown => return None,
        })
    }

    /// Drops all answers, because something has changed since.
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }
}

impl Tree {
    /// The content of a file that is not scratch.
    pub(super) fn resolve(&self, file: &File, freshness: Freshness) -> Resolved {
        match file {
            File::Secret(name) => self.secret(name, freshness),
            File::Bundle(format) => self.document(*format, freshness),
            File::Price(id) => match self.hardware.get(id) {
                Some(price) => self.since_begun(&hardware::to_json(&price)),
                None => Resolved::Missing,
            },
            File::PriceTable => self.since_begun(&hardware::table_to_json(&self.hardware.table())),
            File::Config(name) => self.config(name),
            File::Provider(name) => match self.manager.snapshot().report(name) {
                Some(report) => json_text(&report),
                None => Resolved::Missing,
            },
            File::Stats(None) => {
                let mut stats = self.manager.caches().stats();
                stats.extend(function_caches().stats());
                json_text(&stats)
            }
            File::Stats(Some(cache)) => match self.manager.caches().get(cache) {
                Some(cache) => json_text(&cache.stats()),
                None => Resolved::Missing,
            },
            File::Clear(_) => generated(""),
            File::Invalidate(_) => {
                let count = self.invalidated.load(Ordering::Relaxed);
                generated(&format!("{count}\n"))
            }
            File::Status => json_text(&self.status()),
            // A scratch file's bytes are in its inode.
            File::Scratch => Resolved::Missing,
            File::Events => {
                let notes = lock(&self.notes);
                let lines = String::from_utf8_lossy(notes.events.all());
                generated(&lines)
            }
        }
    }

    /// Content that has no time of its own.
    fn since_begun(&self, text: &str) -> Resolved {
        Resolved::lasting(SecretValue::new(text), lock(&self.notes).begun)
    }

    fn config(&self, name: &str) -> Resolved {
        let Some(configs) = &self.configs else {
            return Resolved::Missing;
        };
        match configs.known(name) {
            Known::Found(config) => Resolved::Content(Content {
                value: config.to_json(),
                changed_at: config.updated_at().unwrap_or(lock(&self.notes).begun),
                // SimpleTuner writes to the database, too, and nothing tells us when.
                fresh_for: Duration::ZERO,
            }),
            Known::Missing => Resolved::Missing,
            Known::Failed(error) => Resolved::Failed(error),
            Known::Pending => Resolved::Blocked(WaitOn::Config(name.into())),
        }
    }

    fn secret(&self, name: &SecretName, freshness: Freshness) -> Resolved {
        let lookup = match freshness {
            Freshness::Fresh => self.manager.look_up(name),
            Freshness::LastKnown => self.manager.snapshot().find(name),
        };
        match (lookup, freshness) {
            (Lookup::Fresh(version, fresh_for), _) => Resolved::Content(Content {
                value: version.raw,
                changed_at: version.changed_at,
                fresh_for,
            }),
            (Lookup::Missing, _) => Resolved::Missing,
            (Lookup::Failed(error), _) => Resolved::Failed(error),
            (Lookup::Stale(_) | Lookup::Unknown, Freshness::Fresh) => {
                Resolved::Blocked(WaitOn::Secret(name.clone()))
            }
            // Callers that waited get what the provider has just answered, even if it may not be cached.
            (held, Freshness::LastKnown) => match self.answers.get(name) {
                Some(answered) => answered,
                None => match held.last_known() {
                    Some(version) => Resolved::Content(Content {
                        value: version.raw,
                        changed_at: version.changed_at,
                        fresh_for: Duration::ZERO,
                    }),
                    None => Resolved::Blocked(WaitOn::Secret(name.clone())),
                },
            },
        }
    }

    /// Carries out a finished write of a file that is not scratch.
    ///
    /// # Errors
    /// Those of the contract's table; nothing has changed then.
    pub(super) fn store(&self, file: &File, bytes: &[u8], writer: &Writer) -> Result<()> {
        self.carry_out(file, bytes, writer)?;
        if !matches!(file, File::Secret(_) | File::Bundle(_)) {
            // Clearing a cache resets prices, too.
            self.note_prices();
        }
        self.changed();
        Ok(())
    }

    fn carry_out(&self, file: &File, bytes: &[u8], writer: &Writer) -> Result<()> {
        match file {
            File::Secret(name) => {
                let value = SecretValue::from_bytes(name.as_str(), bytes)?;
                self.apply(&[Change::Set(name.clone(), value)], &writer.actor)
            }
            File::Bundle(format) => self.store_bundle(*format, bytes, writer),
            File::Price(id) => self.hardware.set(id, hardware::parse_price(bytes)?),
            File::PriceTable => self.hardware.replace(hardware::parse_table(bytes)?),
            File::Config(name) => {
                let configs = self.configs_or_none()?;
                configs.save_text_by(&writer.actor, name, bytes)?;
                self.hardware.invalidate_configured();
                Ok(())
            }
            File::Clear(cache) => {
                match cache {
                    None => {
                        self.manager.caches().clear();
                        function_caches().clear();
                        self.manager.clear_cache();
                    }
                    Some(name) => {
                        self.cache(name)?.clear();
                        self.notify_invalidated(name, None);
                    }
                }
                Ok(())
            }
            File::Invalidate(cache) => {
                let prefix = parse_prefix(bytes)?;
                let count = match cache {
                    None => self.manager.invalidate_prefix(prefix),
                    Some(name) => {
                        self.notify_invalidated(name, Some(prefix));
                        self.cache(name)?.invalidate_prefix(prefix)
                    }
                };
                self.invalidated.store(count as u64, Ordering::Relaxed);
                Ok(())
            }
            File::Provider(_) | File::Stats(_) | File::Events | File::Status | File::Scratch => {
                Err(Error::io(
                    "this file is read-only",
                    std::io::Error::from_raw_os_error(libc::EACCES),
                ))
            }
        }
    }

    pub(super) fn configs_or_none(&self) -> Result<&Arc<ProviderConfigs>> {
        self.configs.as_ref().ok_or_else(|| {
            let none = std::io::Error::from_raw_os_error(libc::EPERM);
            Error::io("this tree has no provider configurations", none)
        })
    }

    fn store_bundle(&self, format: BundleFormat, bytes: &[u8], writer: &Writer) -> Result<()> {
        let written = bundle::parse(format, bytes)?;
        let current = self.current_document()?;
        let base = writer.process.and_then(|process| self.base_of(process));
        let changes: Vec<Change> = bundle::merge(base.as_deref(), &current, &written)
            .into_iter()
            // A key that only another provider has cannot be deleted from the file; leaving it out of the document is
            // no reason to refuse the rest.
            .filter(|change| match change {
                Change::Delete(name) => self.manager.is_in_store(name),
                Change::Set(..) => true,
            })
            .collect();
        if !changes.is_empty() {
            self.apply(&changes, &writer.actor)?;
        }
        if let Some(process) = writer.process {
            self.put_base(process, Arc::new(bundle::Base::of(&written)));
        }
        Ok(())
    }

    pub(super) fn apply(&self, changes: &[Change], actor: &Actor) -> Result<()> {
        self.manager.apply(changes)?;
        self.record_changes(actor, changes);
        Ok(())
    }

    fn cache(&self, name: &str) -> Result<Arc<dyn NamedCache>> {
        self.manager
            .caches()
            .get(name)
            .ok_or_else(|| Error::NotFound { name: name.into() })
    }

    /// The event for one cache. The manager emits the one for all caches.
    fn notify_invalidated(&self, cache: &str, prefix: Option<&str>) {
        self.add_event(&json!({
            "at": crate::provider::rfc3339(SystemTime::now()),
            "event": "invalidated",
            "key": prefix,
            "cache": cache,
        }));
    }
}

/// Content that is generated at each look.
fn generated(text: &str) -> Resolved {
    Resolved::lasting(SecretValue::new(text), SystemTime::now())
}

fn json_text(value: &impl serde::Serialize) -> Resolved {
    match serde_json::to_string_pretty(value) {
        Ok(mut text) => {
            text.push('\n');
            generated(&text)
        }
        Err(error) => Resolved::Failed(Error::Malformed {
            what: "report".into(),
            reason: error.to_string(),
        }),
    }
}

/// The prefix that was written to an `invalidate` file: one line of printable text.
///
/// # Errors
/// [`Error::Malformed`] where it is empty, of several lines, or no text.
pub fn parse_prefix(bytes: &[u8]) -> Result<&str> {
    let malformed = |reason: &str| Error::Malformed {
        what: "invalidate".into(),
        reason: reason.into(),
    };
    let prefix = std::str::from_utf8(bytes)
        .map_err(|_| malformed("the prefix is not UTF-8 text"))?
        .trim_end_matches('\n');
    if prefix.is_empty() {
        return Err(malformed(
            "the prefix is empty; write to `clear` to drop everything",
        ));
    }
    if prefix.len() > 1024 || prefix.chars().any(char::is_control) {
        return Err(malformed(
            "the prefix must be one line of at most 1024 bytes",
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_one_line_of_text() {
        assert_eq!(parse_prefix(b"secret:HF\n").unwrap(), "secret:HF");
        for bad in [&b""[..], b"\n", b"a\nb\n", b"\xff", b"a\0", &[b'x'; 2000]] {
            assert_eq!(parse_prefix(bad).unwrap_err().errno(), libc::EINVAL);
        }
    }
}
