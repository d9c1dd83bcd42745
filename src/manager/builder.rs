//! Constructors: a manager from the settings, from given providers, or one for the whole process.

use std::sync::Arc;
use std::time::Duration;

use super::event::Listeners;
use super::publish::ChangeListeners;
use super::{ChainEntry, SecretCacheHandle, SecretsManager, Snapshot};
use crate::cache::{CacheOptions, CacheRegistry, SECRETS, TtlCache};
use crate::credential::KeySource;
use crate::error::Result;
use crate::provider::file::{FileOptions, StoreLocation};
use crate::provider::{
    BACKENDS, ChainLink, EnvironmentProvider, FileProvider, KeyedProvider, KeyedSource, Provider,
    in_order,
};
use crate::secret::SecretName;
use crate::settings::{Flags, Settings, Ttl};
use crate::sync::Mutex;
use crate::users::user_permission_cache;

/// How long a new manager waits for the first read of the store.
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a provider, given the time to live of its answers and `max_stale`.
type MakeProvider = Box<dyn FnOnce(&Ttl, Duration) -> Arc<dyn Provider>>;

/// Builds a manager over a chain of providers.
pub struct Builder {
    providers: Vec<MakeProvider>,
    ttl: Ttl,
    max_stale: Duration,
}

impl Builder {
    /// Appends a provider to the chain.
    #[must_use]
    pub fn with_provider(mut self, provider: Arc<dyn Provider>) -> Self {
        self.providers.push(Box::new(|_, _| provider));
        self
    }

    /// Appends a source that answers key by key.
    #[must_use]
    pub fn with_source(mut self, source: Arc<dyn KeyedSource>) -> Self {
        self.providers.push(Box::new(|ttl, max_stale| {
            Arc::new(KeyedProvider::new(source, ttl.clone(), max_stale))
        }));
        self
    }

    /// How long values, "no such key" and single keys are cached. Zero: not at all.
    #[must_use]
    pub fn ttl(
        mut self,
        default: Duration,
        missing: Duration,
        keys: impl IntoIterator<Item = (SecretName, Duration)>,
    ) -> Self {
        self.ttl = Ttl {
            default,
            missing,
            keys: keys.into_iter().collect(),
        };
        self
    }

    /// How long the last value of a failing source is served that answers key by key.
    #[must_use]
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.max_stale = max_stale;
        self
    }

    /// The manager. Reads the local providers, for a second at most.
    pub fn build(self) -> Arc<SecretsManager> {
        let ttl = Arc::new(self.ttl);
        let cache = TtlCache::new(CacheOptions {
            default_ttl: ttl.default,
            ..SECRETS
        });
        let providers = self.providers.into_iter();
        let chain: Arc<[ChainEntry]> = providers
            .map(|make| ChainEntry::new(make(&ttl, self.max_stale)))
            .collect();
        let caches = CacheRegistry::default();
        let manager = Arc::new_cyclic(|weak_self| {
            let secrets = SecretCacheHandle {
                manager: weak_self.clone(),
                cache: cache.clone(),
                chain: chain.clone(),
            };
            caches.register("secrets", Arc::new(secrets));
            caches.register("user_permission", Arc::new(user_permission_cache().clone()));
            SecretsManager {
                weak_self: weak_self.clone(),
                chain,
                cache,
                caches,
                listeners: Listeners::default(),
                changes: ChangeListeners::default(),
                current: Mutex::new(Arc::new(Snapshot::new(0, Vec::new(), ttl.clone()))),
                ttl,
                publish_lock: Mutex::new(()),
                closing: Mutex::default(),
                logged_shadows: Mutex::default(),
            }
        });
        for entry in manager.chain.iter() {
            let weak = manager.weak_self.clone();
            entry.provider.on_change(Box::new(move || {
                if let Some(manager) = weak.upgrade() {
                    manager.publish();
                }
            }));
        }
        // A store that hangs must not keep the manager from starting.
        manager.refresh_within(FIRST_READ_TIMEOUT);
        manager
    }
}

impl SecretsManager {
    /// An empty chain, to be filled with providers.
    pub fn builder() -> Builder {
        Builder {
            providers: Vec::new(),
            ttl: Ttl::default(),
            max_stale: Duration::from_secs(3600),
        }
    }

    /// The chain in the default settings.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings).
    pub fn open() -> Result<Arc<Self>> {
        Self::from_settings(&Settings::load(&Flags::default(), BACKENDS)?)
    }

    /// The chain in these settings, with this process's environment.
    ///
    /// # Errors
    /// [`Error::Settings`](crate::error::Error::Settings) if those of a backend are wrong;
    /// [`Error::Io`](crate::error::Error::Io) if the backends' thread cannot be started. Calls no backend yet.
    pub fn from_settings(settings: &Settings) -> Result<Arc<Self>> {
        let environment = EnvironmentProvider::from_settings(settings);
        Self::from_settings_with(settings, environment)
    }

    /// The chain in these settings, with another environment.
    ///
    /// # Errors
    /// As for [`from_settings`](Self::from_settings).
    pub fn from_settings_with(
        settings: &Settings,
        environment: EnvironmentProvider,
    ) -> Result<Arc<Self>> {
        Ok(Self::builder_from(settings, environment)?.build())
    }

    fn builder_from(settings: &Settings, environment: EnvironmentProvider) -> Result<Builder> {
        let file = FileProvider::new(file_options(settings));
        let local: [Arc<dyn Provider>; 2] = [Arc::new(environment), Arc::new(file)];
        let local = local.map(|provider| ChainLink {
            provider,
            priority: None,
        });
        let mut links = Vec::from(local);
        for backend in BACKENDS {
            links.extend(backend.links(settings)?);
        }
        let builder = in_order(links)
            .into_iter()
            .fold(Self::builder(), Builder::with_provider);
        Ok(builder
            .ttl(
                settings.ttl.default,
                settings.ttl.missing,
                settings.ttl.keys.clone(),
            )
            .max_stale(settings.max_stale))
    }

    /// The chain in the default settings, one for the whole process.
    ///
    /// # Errors
    /// As for [`open`](Self::open); the next call tries again.
    pub fn global() -> Result<Arc<Self>> {
        static GLOBAL: Mutex<Option<Arc<SecretsManager>>> = Mutex::new(None);
        let mut global = GLOBAL.lock();
        match &*global {
            Some(manager) => Ok(manager.clone()),
            None => {
                let settings = Settings::load(&Flags::default(), BACKENDS)?;
                let environment = EnvironmentProvider::from_settings(&settings);
                let manager = Self::from_settings_with(&settings, environment)?;
                Ok(global.insert(manager).clone())
            }
        }
    }
}

/// The source of the key that the store's values are encrypted with.
pub(crate) fn key_source(settings: &Settings) -> KeySource {
    let key = settings.credential_key.as_ref();
    KeySource::new(
        key.map(|key| key.as_str().to_owned()),
        settings.key_file.clone(),
    )
}

/// The options of the file provider from the settings.
pub(crate) fn file_options(settings: &Settings) -> FileOptions {
    FileOptions {
        location: StoreLocation::new(
            settings.file_path.clone(),
            &settings.base_dir,
            &settings.mount_point,
        )
        .named_by_adopt(settings.is_store_of_adopt),
        key: key_source(settings),
        encrypt: settings.encrypt,
        max_stale: settings.max_stale,
        max_keys: settings.max_keys as usize,
        keep_previous: settings.keep_previous as usize,
        lock_timeout: settings.timeout.total,
    }
}
