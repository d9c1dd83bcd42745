//! A backend as a provider of the chain. Makes no call itself: the [`Fetcher`] does.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use zeroize::Zeroizing;

use super::Backend;
use super::fetcher::{BackendOptions, Fetcher, Waiter};
use super::saved::Saved;
use crate::error::{Error, Result};
use crate::provider::{
    Cached, Changes, Done, GetDone, ListingState, Provided, Provider, ProviderReport,
    ProviderUpdate,
};
use crate::secret::{SecretName, SecretValue};

/// The provider over one backend. The first read makes the first call.
pub struct BackendProvider {
    fetcher: Arc<Fetcher>,
}

impl BackendProvider {
    /// The provider over this backend.
    ///
    /// # Errors
    /// [`Error::Io`] if the thread that calls backends cannot be started.
    pub fn new(backend: impl Backend, options: BackendOptions) -> Result<Self> {
        Ok(Self {
            fetcher: Fetcher::new(backend, options)?,
        })
    }

    /// Waits until the document is fresh or could not be fetched.
    fn wait_for_document(&self) {
        let (done, ended) = mpsc::channel();
        self.refresh_async(Box::new(move || {
            let _ = done.send(());
        }));
        // An error means that the waiter was dropped unanswered.
        let _ = ended.recv();
    }
}

impl Drop for BackendProvider {
    fn drop(&mut self) {
        self.fetcher.wake_refresher();
    }
}

impl Provider for BackendProvider {
    fn name(&self) -> &str {
        self.fetcher.rules.provider
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        let (sender, receiver) = mpsc::channel();
        drop(self.get_async(name, Box::new(move |cached| drop(sender.send(cached)))));
        match receiver.recv() {
            Ok(Cached::Value(provided)) => Ok(Some(provided)),
            Ok(Cached::Absent { .. }) => Ok(None),
            Ok(Cached::Failed(error)) => Err(error),
            Ok(Cached::Unknown) | Err(mpsc::RecvError) => Err(Error::Unavailable {
                provider: self.name().to_owned(),
                reason: "its answer was lost".to_owned(),
            }),
        }
    }

    fn cached(&self, name: &SecretName) -> Cached {
        let inner = self.fetcher.inner();
        inner
            .state
            .cached(name, &self.fetcher.rules, Instant::now())
    }

    fn get_async(&self, name: &SecretName, done: GetDone) -> Result<(), GetDone> {
        let now = Instant::now();
        let mut inner = self.fetcher.inner();
        match inner.state.cached(name, &self.fetcher.rules, now) {
            Cached::Unknown => {
                let waiter = Waiter::Key(name.clone(), done);
                self.fetcher.wait(&mut inner, waiter, now);
            }
            answer => {
                drop(inner);
                done(answer);
            }
        }
        Ok(())
    }

    fn get_by_key(&self, key: &str) -> Result<Option<SecretValue>> {
        self.wait_for_document();
        let inner = self.fetcher.inner();
        match inner
            .state
            .listing_state(&self.fetcher.rules, Instant::now())
        {
            ListingState::Failed(error) => Err(error),
            ListingState::Complete | ListingState::Outdated | ListingState::Unknown => {
                let document = inner.state.document();
                Ok(document.and_then(|document| document.get_by_key(key).cloned()))
            }
        }
    }

    fn listing_state(&self) -> ListingState {
        let inner = self.fetcher.inner();
        inner
            .state
            .listing_state(&self.fetcher.rules, Instant::now())
    }

    fn refresh_async(&self, done: Done) {
        self.fetcher.refresh(done);
    }

    fn expire(&self) {
        self.fetcher.inner().change().expire(Instant::now());
    }

    fn record_read(&self, name: &SecretName) {
        self.fetcher.record_read(name);
    }

    fn on_change(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.fetcher.changed.set(changed));
    }

    fn names(&self) -> Vec<SecretName> {
        let inner = self.fetcher.inner();
        let names = inner.state.document().map(|document| document.names());
        names.into_iter().flatten().cloned().collect()
    }

    fn has(&self, name: &SecretName) -> bool {
        let inner = self.fetcher.inner();
        let document = inner.state.document();
        document.is_some_and(|document| document.get(name).is_some())
    }

    fn poll_changes(&self) -> Changes {
        self.fetcher.take_changes()
    }

    fn keeps_documents(&self) -> bool {
        true
    }

    fn take_update(&self) -> ProviderUpdate {
        self.fetcher.take_update()
    }

    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        let own = self.fetcher.backend.save();
        let own = own.as_ref().map(|own| own.as_slice());
        let source = self.fetcher.backend.source();
        let inner = self.fetcher.inner();
        Some(inner.state.save(&source, own, Instant::now()))
    }

    fn restore(&self, saved: &[u8]) {
        let source = self.fetcher.backend.source();
        let Some(saved) = Saved::read(saved, &source) else {
            return;
        };
        if let Some(own) = saved.own {
            self.fetcher.backend.restore(own);
        }
        self.fetcher
            .inner()
            .change()
            .restore(&saved, Instant::now());
    }

    fn on_unsaved(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.fetcher.unsaved.set(changed));
        let fetcher = Arc::downgrade(&self.fetcher);
        self.fetcher.backend.on_unsaved(Box::new(move || {
            if let Some(fetcher) = fetcher.upgrade() {
                fetcher.notify_unsaved();
            }
        }));
    }

    fn report(&self) -> ProviderReport {
        let source = self.fetcher.backend.source();
        let inner = self.fetcher.inner();
        inner
            .state
            .report(&self.fetcher.rules, &source, Instant::now())
    }
}

#[cfg(test)]
mod tests;
