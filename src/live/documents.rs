//! The content of the bundles. A document is rendered once per snapshot and format, from that snapshot alone. It has the
//! secrets of every provider that answers; what it lacks is logged.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::resolved::{Content, Freshness, Resolved};
use super::{Tree, WaitOn};
use crate::bundle::{self, Base, BundleFormat, Document};
use crate::clock::Instant;
use crate::error::Error;
use crate::manager::{Lookup, Snapshot};
use crate::secret::{SecretName, SecretValue};
use crate::sync::{self, LARGE_STACK, Mutex};

/// A document with more names than this is rendered on a thread of its own.
const LARGE_DOCUMENT: usize = 200;

/// The last rendered document of each format.
#[derive(Default)]
pub(super) struct Documents {
    rendered: Mutex<HashMap<BundleFormat, Rendered>>,
    /// What the last one lacked, as it was logged.
    lacking: Mutex<BTreeSet<String>>,
}

impl Documents {
    /// Logs what a document lacks, unless the one before lacked it, too.
    fn log_lacking(&self, lacking: BTreeSet<String>) {
        let before = std::mem::replace(&mut *self.lacking.lock(), lacking.clone());
        for line in lacking.difference(&before) {
            tracing::warn!("{line}");
        }
        if lacking.is_empty() && !before.is_empty() {
            tracing::info!("the bundle has all secrets again");
        }
    }
}

#[derive(Clone)]
struct Rendered {
    /// The snapshot's generation.
    generation: u64,
    value: SecretValue,
    changed_at: SystemTime,
    /// `None`: until something changes.
    fresh_until: Option<Instant>,
    base: Arc<Base>,
}

/// All secrets of a snapshot.
struct Secrets {
    document: Document,
    /// When the latest of them changed.
    changed_at: SystemTime,
    /// For how long they may be given to readers.
    fresh_for: Duration,
    /// What is not among them, and why: lines for the log.
    lacking: BTreeSet<String>,
}

impl Secrets {
    fn insert(&mut self, name: &SecretName, content: Content) {
        self.changed_at = self.changed_at.max(content.changed_at);
        self.fresh_for = self.fresh_for.min(content.fresh_for);
        self.document
            .insert(name.clone(), content.value.without_newline());
    }
}

impl Tree {
    /// The document in this format.
    pub(super) fn document(&self, format: BundleFormat, freshness: Freshness) -> Resolved {
        let snapshot = self.manager.snapshot();
        let now = Instant::now();
        if let Some(rendered) = self.documents.rendered.lock().get(&format)
            && rendered.generation == snapshot.generation()
            && rendered.fresh_until.is_none_or(|until| until > now)
        {
            return Resolved::Content(Content {
                value: rendered.value.clone(),
                changed_at: rendered.changed_at,
                fresh_for: match rendered.fresh_until {
                    Some(until) => until - now,
                    None => Duration::MAX,
                },
            });
        }
        if freshness == Freshness::Fresh && snapshot.names().len() > LARGE_DOCUMENT {
            return Resolved::Blocked(WaitOn::Document(format));
        }
        self.render(format, &snapshot, freshness)
    }

    /// Renders a large document on a thread of its own, and wakes the requests that wait for it.
    pub(super) fn render_in_background(
        self: &Arc<Self>,
        format: BundleFormat,
        done: crate::provider::Done,
    ) {
        let tree = self.clone();
        let done = Arc::new(Mutex::new(Some(done)));
        let call = |done: &Mutex<Option<crate::provider::Done>>| {
            if let Some(done) = done.lock().take() {
                done();
            }
        };
        let on_thread = done.clone();
        let render = move || {
            let snapshot = tree.manager.snapshot();
            match tree.render(format, &snapshot, Freshness::Fresh) {
                Resolved::Blocked(on) => {
                    tree.when_unblocked(&on, Box::new(move || call(&on_thread)))
                }
                _ => call(&on_thread),
            }
        };
        if let Err(error) = sync::spawn("render", LARGE_STACK, render) {
            tracing::warn!("no thread could be started that renders the bundle: {error}");
            call(&done);
        }
    }

    /// The merge base for a process that reads this content of a document.
    pub(super) fn base_of_document(
        &self,
        format: BundleFormat,
        value: &SecretValue,
    ) -> Option<Arc<Base>> {
        if !format.is_writable() {
            return None;
        }
        if let Some(rendered) = self.documents.rendered.lock().get(&format)
            && rendered.value == *value
        {
            return Some(rendered.base.clone());
        }
        let document = bundle::parse(format, value.as_bytes()).ok()?;
        Some(Arc::new(Base::of(&document)))
    }

    fn render(&self, format: BundleFormat, snapshot: &Snapshot, freshness: Freshness) -> Resolved {
        let secrets = match self.all_secrets(snapshot, freshness) {
            Ok(secrets) => secrets,
            Err(on) => return Resolved::Blocked(on),
        };
        self.documents.log_lacking(secrets.lacking);
        let bytes = bundle::render(format, &secrets.document);
        let value = match SecretValue::from_bytes("bundle", &bytes) {
            Ok(value) => value,
            Err(error) => return Resolved::Failed(error),
        };
        let rendered = Rendered {
            generation: snapshot.generation(),
            value: value.clone(),
            changed_at: secrets.changed_at,
            fresh_until: Instant::now().checked_add(secrets.fresh_for),
            base: Arc::new(Base::of(&secrets.document)),
        };
        self.documents.rendered.lock().insert(format, rendered);
        Resolved::Content(Content {
            value,
            changed_at: secrets.changed_at,
            fresh_for: secrets.fresh_for,
        })
    }

    /// All secrets of a snapshot as one document. A secret that cannot be read is left out, so that the others can be read:
    /// writing the document back leaves it alone.
    fn all_secrets(
        &self,
        snapshot: &Snapshot,
        freshness: Freshness,
    ) -> std::result::Result<Secrets, WaitOn> {
        let is_fresh = freshness == Freshness::Fresh;
        // Also where one has failed: the others may answer.
        if is_fresh && snapshot.must_ask_for_names() {
            return Err(WaitOn::Listing);
        }
        let missing = snapshot.missing_sources();
        let mut secrets = Secrets {
            document: Document::new(),
            changed_at: self.started_at(),
            // Not for longer than until it answers.
            fresh_for: match missing.is_empty() {
                true => Duration::MAX,
                false => Duration::ZERO,
            },
            lacking: BTreeSet::new(),
        };
        for (source, error) in &missing {
            let reason = match error {
                Some(error) => error.reason(),
                None => "it gives no answer".to_owned(),
            };
            let line = format!("the bundle is without the secrets of {source}: {reason}");
            secrets.lacking.insert(line);
        }
        for (name, _) in snapshot.names() {
            let lookup = match freshness {
                Freshness::Fresh => snapshot.find(name),
                Freshness::LastKnown => snapshot.find_settled(name),
            };
            let content = match lookup {
                Lookup::Stale(_) if is_fresh => return Err(WaitOn::Listing),
                Lookup::Fresh(version, fresh_for) => Resolved::of(version, fresh_for),
                Lookup::Stale(version) => Resolved::of(version, Duration::ZERO),
                Lookup::Missing => Resolved::Missing,
                Lookup::Failed(error) => Resolved::Failed(error),
                Lookup::Unknown => {
                    let answered = self.recent_lookups.get(name).filter(|_| !is_fresh);
                    answered.unwrap_or_else(|| Resolved::Blocked(WaitOn::Secret(name.clone())))
                }
            };
            match content {
                Resolved::Content(content) => secrets.insert(name, content),
                Resolved::Missing => {}
                Resolved::Blocked(on) => return Err(on),
                // The lines of its providers say so.
                Resolved::Failed(Error::ProviderFailed {
                    provider, others, ..
                }) if std::iter::once(&provider)
                    .chain(others.iter().map(|(provider, _)| provider))
                    .all(|provider| missing.iter().any(|(source, _)| **source == **provider)) => {}
                Resolved::Failed(error) => {
                    let line = format!("left out of the bundle: {error}");
                    secrets.lacking.insert(line);
                }
            }
        }
        Ok(secrets)
    }

    /// The values that are known now, for a merge. It never waits for a backend, and lacks a value that must be asked for.
    pub(super) fn current_document(&self) -> Document {
        let snapshot = self.manager.snapshot();
        let names = snapshot.names().iter();
        let known = names.filter_map(|(name, _)| {
            let value = match snapshot.find_settled(name) {
                Lookup::Fresh(version, _) | Lookup::Stale(version) => version.value(),
                // It is in the store, and was not decrypted yet.
                Lookup::Unknown => {
                    let stored = self.manager.value_in_store(name).ok()?;
                    stored.without_newline()
                }
                Lookup::Missing | Lookup::Failed(_) => return None,
            };
            Some((name.clone(), value))
        });
        known.collect()
    }
}
