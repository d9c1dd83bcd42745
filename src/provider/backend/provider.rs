//! A backend as a provider of the chain. Makes no call itself: the [`Fetcher`] does.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::Backend;
use super::fetcher::{BackendOptions, Fetcher};
use super::record::BackendRecord;
use crate::clock::Instant;
use crate::error::Result;
use crate::metrics::CallCounters;
use crate::provider::{Callback, Done, Provider, ProviderUpdate, View, wait_for};
use crate::secret::SecretName;

/// The provider over one backend. The first read makes the first call.
pub struct BackendProvider {
    fetcher: Arc<Fetcher>,
}

impl BackendProvider {
    /// The provider over this backend.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) if the thread that calls backends cannot be started.
    pub fn new(backend: impl Backend, options: BackendOptions) -> Result<Self> {
        Ok(Self {
            fetcher: Fetcher::new(backend, options)?,
        })
    }
}

impl Drop for BackendProvider {
    fn drop(&mut self) {
        self.fetcher.wake_refresher();
    }
}

impl Provider for BackendProvider {
    fn name(&self) -> &str {
        self.fetcher.backend.name()
    }

    fn view(&self) -> Arc<dyn View> {
        self.fetcher.inner().state.source.view()
    }

    fn take_update(&self) -> ProviderUpdate {
        self.fetcher.inner().state.source.take_update()
    }

    fn ask(&self, name: Option<&SecretName>, done: Done) {
        self.fetcher.ask(name, done);
    }

    fn expire(&self, _prefix: &str) {
        self.fetcher.inner().state.expire(Instant::now());
    }

    fn calls(&self) -> Option<&CallCounters> {
        Some(&self.fetcher.calls)
    }

    fn record_read(&self, name: &SecretName) {
        self.fetcher.record_read(name);
    }

    fn on_change(&self, changed: Callback) {
        drop(self.fetcher.changed.set(changed));
    }

    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        let own = self.fetcher.backend.save();
        let own = own.as_ref().map(|own| own.as_slice());
        let inner = self.fetcher.inner();
        Some(inner.state.source.current().save(own, Instant::now()))
    }

    fn restore(&self, saved: &[u8]) {
        let source = self.fetcher.backend.source();
        let Some(saved) = BackendRecord::read(saved, &source) else {
            return;
        };
        if let Some(own) = saved.own {
            self.fetcher.backend.restore(own);
        }
        let mut inner = self.fetcher.inner();
        if inner.state.is_unused() {
            inner
                .state
                .source
                .current_mut()
                .restore(&saved, Instant::now());
        }
    }

    fn close(&self) {
        wait_for(|done| self.fetcher.clone().close(done));
    }

    fn on_unsaved(&self, changed: Callback) {
        drop(self.fetcher.unsaved.set(changed));
        let fetcher = Arc::downgrade(&self.fetcher);
        self.fetcher.backend.on_unsaved(Box::new(move || {
            if let Some(fetcher) = fetcher.upgrade() {
                fetcher.notify_unsaved();
            }
        }));
    }
}

#[cfg(test)]
mod tests;
