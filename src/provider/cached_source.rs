//! A source's last document, replaced or invalidated, and what that changes for the chain. Asks no source and never waits.

use std::sync::Arc;
use std::time::SystemTime;

use super::source_view::{CachedDocument, Failure, Rules, SourceDocument, SourceView};
use super::{KeyChange, ProviderChanges, ProviderUpdate};
use crate::clock::Instant;
use crate::error::Error;
use crate::logging::PROVIDER_FAILURES;

/// A source's last document, and its changes for the chain.
pub(super) struct CachedSource<D> {
    current: SourceView<D>,
    /// A copy of `current` that readers share; `None` if `current` has changed since.
    published: Option<Arc<SourceView<D>>>,
    /// The changes that the chain has not taken yet.
    pending: ProviderChanges,
}

impl<D: SourceDocument> CachedSource<D> {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            current: SourceView {
                rules: Arc::new(rules),
                source: String::new(),
                is_configured: true,
                cached: None,
                invalidated_at: None,
                failure: None,
                last_success: None,
                last_error: None,
                latency: None,
            },
            published: None,
            pending: ProviderChanges::default(),
        }
    }

    /// What readers see now.
    pub(super) fn current(&self) -> &SourceView<D> {
        &self.current
    }

    /// The same, to be changed.
    pub(super) fn current_mut(&mut self) -> &mut SourceView<D> {
        self.published = None;
        &mut self.current
    }

    /// The same, shared. It is the same `Arc` until something changes.
    pub(super) fn view(&mut self) -> Arc<SourceView<D>> {
        let current = &self.current;
        let published = &mut self.published;
        published
            .get_or_insert_with(|| Arc::new(current.clone()))
            .clone()
    }

    pub(super) fn take_update(&mut self) -> ProviderUpdate {
        ProviderUpdate {
            view: self.view(),
            changes: std::mem::take(&mut self.pending),
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.current.failure.is_some()
    }

    /// The source still has the document. Keeps the published view: a new one each time would be a new snapshot.
    pub(super) fn confirm(&mut self) {
        if let SourceView {
            cached: Some(cached),
            failure: None,
            ..
        } = &mut self.current
        {
            cached.as_of = Instant::now();
        }
    }

    /// The source has this document. Records what changed.
    pub(super) fn apply(&mut self, document: Arc<D>, as_of: Instant, changed_at: SystemTime) {
        self.apply_answer(document, false, as_of, changed_at);
    }

    /// The source has no document: `document` is an empty one.
    pub(super) fn apply_absence(&mut self, document: Arc<D>, as_of: Instant) {
        self.apply_answer(document, true, as_of, SystemTime::now());
    }

    fn apply_answer(
        &mut self,
        document: Arc<D>,
        is_absent: bool,
        as_of: Instant,
        changed_at: SystemTime,
    ) {
        if self.current.failure.is_some() {
            tracing::info!("the {} provider answers again", self.current.rules.provider);
            self.pending.health = true;
        }
        let changes = match self.current.document() {
            Some(before) => before.changes_to(&document),
            None => Vec::new(),
        };
        self.pending.keys.extend_from_slice(&changes);
        self.replace(document, is_absent, as_of, changed_at, &changes);
    }

    /// This process wrote this document.
    pub(super) fn apply_own_write(
        &mut self,
        document: Arc<D>,
        changed_at: SystemTime,
        changes: &[KeyChange],
    ) {
        self.pending.own.extend_from_slice(changes);
        self.replace(document, false, Instant::now(), changed_at, changes);
    }

    fn replace(
        &mut self,
        document: Arc<D>,
        is_absent: bool,
        as_of: Instant,
        changed_at: SystemTime,
        changes: &[KeyChange],
    ) {
        let current = self.current_mut();
        (current.failure, current.last_success) = (None, Some(SystemTime::now()));
        if !is_absent {
            current.last_error = None;
        }
        match &mut current.cached {
            Some(cached) => {
                cached.record_change_times(changes, changed_at);
                (cached.document, cached.as_of) = (document, as_of);
                cached.is_absent = is_absent;
            }
            None => {
                current.cached = Some(CachedDocument {
                    document,
                    is_absent,
                    as_of,
                    changed_at,
                    keys_changed_at: Arc::default(),
                });
            }
        }
    }

    /// Replaces the document by one with the same keys, whose values may differ if `any_changed`.
    pub(super) fn replace_same(&mut self, document: Arc<D>, any_changed: bool) {
        self.pending.any |= any_changed;
        if let Some(cached) = &mut self.current_mut().cached {
            cached.document = document;
        }
    }

    /// A rotation has replaced the key that the values are encrypted with.
    pub(super) fn report_rotated_key(&mut self) {
        // A new view, because the change must be noticed.
        self.published = None;
        self.pending.key_rotated = true;
    }

    /// The source gave no document.
    pub(super) fn fail(&mut self, error: Error, retry_at: Option<Instant>) {
        let reason = error.reason();
        let is_new = self.record_error(&reason);
        let now = Instant::now();
        let current = self.current_mut();
        let times = current.failure.as_ref().map_or(0, |failure| failure.times);
        if is_new || times == 0 {
            let meanwhile = match current.is_servable(now) {
                true => "; its last document is served meanwhile",
                false => "",
            };
            tracing::warn!(
                target: PROVIDER_FAILURES,
                "the {} provider failed: {reason}{meanwhile}",
                current.rules.provider
            );
        }
        current.failure = Some(Failure {
            error: Arc::new(error),
            retry_at,
            times: times.saturating_add(1),
        });
        self.pending.health |= times == 0;
    }

    /// Records why there are no secrets; returns whether the reason is new.
    pub(super) fn record_error(&mut self, reason: &str) -> bool {
        let last_error = &mut self.current_mut().last_error;
        let is_new = last_error.as_ref().is_none_or(|(last, _)| last != reason);
        *last_error = Some((reason.to_owned(), SystemTime::now()));
        is_new
    }
}
