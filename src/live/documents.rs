//! The content of the bundles. A document is rendered once per snapshot and format, from that snapshot alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bundle::{self, Base, BundleFormat, Document};
use super::resolved::{Content, Freshness, Resolved};
use super::{Tree, WaitOn};
use crate::clock::Instant;
use crate::error::Result;
use crate::manager::{Lookup, Snapshot};
use crate::provider::ListingState;
use crate::secret::SecretValue;
use crate::sync::{self, LARGE_STACK, Mutex};

/// A document with more names than this is rendered on a thread of its own.
const LARGE_DOCUMENT: usize = 200;

/// The last rendered document of each format.
#[derive(Default)]
pub(super) struct Documents(Mutex<HashMap<BundleFormat, Rendered>>);

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
}

impl Tree {
    /// The document in this format.
    pub(super) fn document(&self, format: BundleFormat, freshness: Freshness) -> Resolved {
        let snapshot = self.manager.snapshot();
        let now = Instant::now();
        if let Some(rendered) = self.documents.0.lock().get(&format)
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
        if let Some(rendered) = self.documents.0.lock().get(&format)
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
        self.documents.0.lock().insert(format, rendered);
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
        match snapshot.listing_state() {
            ListingState::Outdated | ListingState::Unknown if freshness == Freshness::Fresh => {
                return Err(WaitOn::Listing);
            }
            _ => {}
        }
        let mut secrets = Secrets {
            document: Document::new(),
            changed_at: self.started_at(),
            fresh_for: Duration::MAX,
        };
        for (source, error) in snapshot.missing_sources() {
            let reason = error.map_or_else(
                || "it has not answered yet".to_owned(),
                |error| error.to_string(),
            );
            tracing::warn!("the bundle is without the secrets of {source}: {reason}");
            // Not for longer than until it answers.
            secrets.fresh_for = Duration::ZERO;
        }
        for (name, _) in snapshot.names() {
            match snapshot.find(name) {
                Lookup::Fresh(version, fresh_for) => {
                    secrets.changed_at = secrets.changed_at.max(version.changed_at);
                    secrets.fresh_for = secrets.fresh_for.min(fresh_for);
                    secrets.document.insert(name.clone(), version.value());
                }
                Lookup::Stale(_) if freshness == Freshness::Fresh => return Err(WaitOn::Listing),
                Lookup::Stale(version) => {
                    secrets.changed_at = secrets.changed_at.max(version.changed_at);
                    secrets.fresh_for = Duration::ZERO;
                    secrets.document.insert(name.clone(), version.value());
                }
                Lookup::Missing => {}
                Lookup::Failed(error) => tracing::warn!("left out of the bundle: {error}"),
                Lookup::Unknown => return Err(WaitOn::Secret(name.clone())),
            }
        }
        Ok(secrets)
    }

    /// The present document, for a merge.
    pub(super) fn current_document(&self) -> Result<Document> {
        let snapshot = self.manager.snapshot();
        match self.all_secrets(&snapshot, Freshness::LastKnown) {
            Ok(secrets) => Ok(secrets.document),
            Err(_) => Ok(Document::new()),
        }
    }
}
