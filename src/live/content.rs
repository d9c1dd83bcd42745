//! What each kind of file holds, and what a finished write of it does. Knows no inode.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::audit::Writer;
use super::kind::FileKind;
use super::resolved::{Content, Freshness, Resolved};
use super::{Tree, WaitOn};
use crate::audit::{Actor, AuditEvent};
use crate::bundle::{self, BundleFormat};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::hardware;
use crate::manager::Lookup;
use crate::secret::{Change, SecretName, SecretValue};
use crate::simpletuner_db::{ProviderConfigs, TryGet};
use crate::sync::Mutex;

/// How long a lookup is kept for the callers that waited for it.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// The last lookups that callers waited for. The snapshot does not have each answer: to it, a failure that no document stands
/// in for and a missing key with `ttl.missing: 0` are unknown again at once.
#[derive(Default)]
pub(super) struct RecentLookups(Mutex<HashMap<SecretName, (Instant, Lookup)>>);

impl RecentLookups {
    pub(super) fn put(&self, name: SecretName, answer: Lookup) {
        let mut recent_lookups = self.0.lock();
        let now = Instant::now();
        recent_lookups.retain(|_, (at, _)| now.duration_since(*at) < KEPT_FOR);
        recent_lookups.insert(name, (now, answer));
    }

    pub(super) fn get(&self, name: &SecretName) -> Option<Resolved> {
        let recent_lookups = self.0.lock();
        let (at, answer) = recent_lookups.get(name)?;
        if at.elapsed() >= KEPT_FOR {
            return None;
        }
        Some(match answer {
            Lookup::Fresh(version, _) | Lookup::Stale(version) => {
                Resolved::of(version.clone(), Duration::ZERO)
            }
            Lookup::Missing => Resolved::Missing,
            Lookup::Failed(error) => Resolved::Failed(error.duplicate()),
            Lookup::Unknown => return None,
        })
    }

    /// Drops all answers, because something has changed since.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Tree {
    /// The content of a file that is not scratch.
    pub(super) fn resolve(&self, kind: &FileKind, freshness: Freshness) -> Resolved {
        match kind {
            FileKind::Secret(name) => self.secret(name, freshness),
            FileKind::Bundle(format) => self.document(*format, freshness),
            FileKind::Price(id) => match self.hardware.get(id) {
                Some(price) => self.since_start(&hardware::price_to_json(&price)),
                None => Resolved::Missing,
            },
            FileKind::PriceTable => {
                self.since_start(&hardware::table_to_json(&self.hardware.table()))
            }
            FileKind::Config(name) => self.config(name),
            FileKind::View(name) => self.view(name),
            FileKind::Control(control, of) => (control.read)(self, of.as_deref()),
            // A scratch file's bytes are in its inode.
            FileKind::Scratch => Resolved::Missing,
        }
    }

    /// Content that has no time of its own.
    fn since_start(&self, text: &str) -> Resolved {
        Resolved::lasting(SecretValue::new(text), self.journaled.lock().started_at)
    }

    fn config(&self, name: &str) -> Resolved {
        let Some(configs) = &self.configs else {
            return Resolved::Missing;
        };
        match configs.try_get(name) {
            TryGet::Found(config) => Resolved::Content(Content {
                value: config.to_json(),
                changed_at: config
                    .updated_at()
                    .unwrap_or(self.journaled.lock().started_at),
                // SimpleTuner writes to the database, too, without a notification.
                fresh_for: Duration::ZERO,
            }),
            TryGet::Missing => Resolved::Missing,
            TryGet::Failed(error) => Resolved::Failed(error),
            TryGet::Locked => Resolved::Blocked(WaitOn::Config(name.into())),
        }
    }

    fn secret(&self, name: &SecretName, freshness: Freshness) -> Resolved {
        let lookup = match freshness {
            Freshness::Fresh => self.manager.look_up(name),
            Freshness::LastKnown => self.manager.snapshot().find(name),
        };
        match (lookup, freshness) {
            (Lookup::Fresh(version, fresh_for), _) => Resolved::of(version, fresh_for),
            (Lookup::Missing, _) => Resolved::Missing,
            (Lookup::Failed(error), _) => Resolved::Failed(error),
            (Lookup::Stale(_) | Lookup::Unknown, Freshness::Fresh) => {
                Resolved::Blocked(WaitOn::Secret(name.clone()))
            }
            // Callers that waited get what the provider has just answered, even if it may not be cached.
            (held, Freshness::LastKnown) => match self.recent_lookups.get(name) {
                Some(answered) => answered,
                None => match held.last_known() {
                    Some(version) => Resolved::of(version, Duration::ZERO),
                    None => Resolved::Blocked(WaitOn::Secret(name.clone())),
                },
            },
        }
    }

    /// Applies a finished write of a file that is not scratch.
    ///
    /// # Errors
    /// Those of the contract's table; nothing has changed then.
    pub(super) fn store(&self, kind: &FileKind, bytes: &[u8], writer: &Writer) -> Result<()> {
        self.apply_write(kind, bytes, writer)?;
        if !matches!(kind, FileKind::Secret(_) | FileKind::Bundle(_)) {
            // Clearing a cache resets prices, too.
            self.journal_prices();
        }
        self.changed();
        Ok(())
    }

    fn apply_write(&self, kind: &FileKind, bytes: &[u8], writer: &Writer) -> Result<()> {
        match kind {
            FileKind::Secret(name) => {
                let value = SecretValue::from_bytes(name.as_str(), bytes)?;
                self.apply(&[Change::Set(name.clone(), value)], &writer.actor)
            }
            FileKind::Bundle(format) => self.store_bundle(*format, bytes, writer),
            FileKind::Price(id) => self.hardware.set(id, hardware::parse_price(bytes)?),
            FileKind::PriceTable => self.hardware.replace(hardware::parse_table(bytes)?),
            FileKind::Config(name) => {
                let configs = self.configs_or_eperm()?;
                configs.save_text_as(&writer.actor, name, bytes)?;
                self.hardware.invalidate_configured();
                Ok(())
            }
            FileKind::View(name) => {
                let views = self.views_or_eperm()?;
                // The attribute `user.simpletuner.error.NAME` is found by the name.
                views.put(name, bytes).map_err(|error| match error.name() {
                    Some(of) if of == name => error,
                    _ => Error::At {
                        name: name.clone(),
                        source: Box::new(error),
                    },
                })?;
                self.record(&writer.actor, AuditEvent::ViewSet(name.clone()));
                Ok(())
            }
            FileKind::Control(control, of) => (control.write)(self, of.as_deref(), bytes),
            // Scratch is never committed.
            FileKind::Scratch => Ok(()),
        }
    }

    pub(super) fn configs_or_eperm(&self) -> Result<&Arc<ProviderConfigs>> {
        self.configs.as_ref().ok_or_else(|| {
            let none = std::io::Error::from_raw_os_error(libc::EPERM);
            Error::io("this tree has no provider configurations", none)
        })
    }

    fn store_bundle(&self, format: BundleFormat, bytes: &[u8], writer: &Writer) -> Result<()> {
        let written = bundle::parse(format, bytes)?;
        let current = self.current_document();
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
}
