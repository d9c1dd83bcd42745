//! The secrets as documents: each is rendered once for each state of the secrets, and holds one state only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::bundle::{self, Base, BundleFormat, Document};
use super::content::{Content, Freshness, Resolved};
use super::{Tree, WaitOn, lock};
use crate::error::{Error, Result};
use crate::manager::Answer;
use crate::provider::Standing;
use crate::secret::SecretValue;

/// The documents that were rendered last.
#[derive(Default)]
pub(super) struct Documents {
    /// Counts the changes of the secrets.
    generation: AtomicU64,
    rendered: Mutex<HashMap<BundleFormat, Rendered>>,
}

#[derive(Clone)]
struct Rendered {
    generation: u64,
    content: Content,
    base: Arc<Base>,
}

impl Documents {
    /// The secrets have changed.
    pub(super) fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

impl Tree {
    /// All secrets in a form.
    pub(super) fn document(&self, format: BundleFormat, freshness: Freshness) -> Resolved {
        match self.render(format, freshness) {
            Ok(rendered) => Resolved::Content(rendered.content),
            Err(stopped) => stopped,
        }
    }

    /// What a process that reads this content of a document has seen: the base of its next write.
    pub(super) fn base_of_document(
        &self,
        format: BundleFormat,
        value: &SecretValue,
    ) -> Option<Arc<Base>> {
        if format == BundleFormat::Env {
            return None;
        }
        if let Some(rendered) = lock(&self.documents.rendered).get(&format)
            && rendered.content.value == *value
        {
            return Some(rendered.base.clone());
        }
        let document = bundle::parse(format, value.as_bytes()).ok()?;
        Some(Arc::new(Base::of(&document)))
    }

    fn render(
        &self,
        format: BundleFormat,
        freshness: Freshness,
    ) -> std::result::Result<Rendered, Resolved> {
        let generation = self.documents.generation();
        let (document, changed_at, fresh_for) = self.all_secrets(freshness)?;
        let bytes = bundle::render(format, &document);
        let value = SecretValue::from_bytes("bundle", &bytes).map_err(Resolved::Failed)?;
        let rendered = Rendered {
            generation,
            content: Content {
                value,
                changed_at,
                fresh_for,
            },
            base: Arc::new(Base::of(&document)),
        };
        lock(&self.documents.rendered).insert(format, rendered.clone());
        Ok(rendered)
    }

    /// All secrets as one document, when the latest of them changed, and for how long it may be given to readers. A
    /// secret that cannot be decrypted is left out, so that the others can be read: writing the document back leaves it
    /// alone.
    fn all_secrets(
        &self,
        freshness: Freshness,
    ) -> std::result::Result<(Document, SystemTime, Duration), Resolved> {
        match self.manager.standing() {
            Standing::Whole => {}
            Standing::Outdated if freshness == Freshness::LastKnown => {}
            Standing::Outdated | Standing::Unknown => {
                return Err(Resolved::Blocked(WaitOn::Listing));
            }
            Standing::Failed(reason) => return Err(Resolved::Failed(reason)),
        }
        let mut document = Document::new();
        let mut changed_at = lock(&self.notes).begun;
        let mut fresh_for = Duration::MAX;
        for (name, _) in self.manager.names() {
            match self.known(&name, freshness) {
                Answer::Found(found) => {
                    changed_at = changed_at.max(found.changed_at);
                    fresh_for = fresh_for.min(found.expires_in);
                    document.insert(name, found.value);
                }
                Answer::Missing => {}
                Answer::Failed(
                    error @ (Error::CannotDecrypt { .. } | Error::KeyUnusable { .. }),
                ) => {
                    tracing::warn!("left out of the bundle: {error}");
                }
                Answer::Failed(error) => return Err(Resolved::Failed(error)),
                Answer::Pending => return Err(Resolved::Blocked(WaitOn::Secret(name))),
            }
        }
        Ok((document, changed_at, fresh_for))
    }

    /// The document as it is now, for what is merged into it.
    pub(super) fn current_document(&self) -> Result<Document> {
        match self.all_secrets(Freshness::LastKnown) {
            Ok((document, _, _)) => Ok(document),
            Err(Resolved::Failed(error)) => Err(error),
            Err(_) => Ok(Document::new()),
        }
    }
}
