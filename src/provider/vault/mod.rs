//! HashiCorp Vault as a backend: one secret of a KV engine is the document. The caller caches, retries and bounds the
//! time of a fetch; this module does none of these.
//!
//! - `options`: the settings for Vault
//! - `address`: address, mount point and path, validated
//! - `client`, `response`, `trust`, `failure`: one request, its response, the trusted certificates, the error messages
//! - `token`, `login`: the token for a request, and the log-in that gives one
//! - `diagnosis`: what `doctor` asks of Vault, and the least policy
//! - `kv`: one read through version 2 or version 1 of the KV engine's API

mod address;
mod client;
mod diagnosis;
mod failure;
mod kv;
mod login;
mod options;
mod response;
mod token;
mod trust;

use std::pin::Pin;
use std::sync::{Arc, Once};

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::provider::backend::{Backend, BackendProvider, FetchError, Fetched, Fetching, Retry};
use crate::provider::{BackendKind, ChainLink};
use crate::secret::SecretValue;
use crate::settings::{BackendSettings, as_options};
use crate::sync::Mutex;
use address::{Address, SecretPath};
use client::Client;
use kv::{Engine, Reading};
use token::{Token, Tokens};

pub use options::{VaultAuth, VaultOptions, VaultTls};

pub(super) const KIND: BackendKind = BackendKind {
    name: "vault",
    settings: BackendSettings {
        title: "HashiCorp Vault",
        switch: "vault_url",
        read: |reader, settings| Ok(as_options(VaultOptions::read(reader, settings)?)),
    },
    credentials: &[],
    paths: &[],
    open: |settings, options| {
        let backend = settings.backend().cloned().map(VaultBackend::new);
        let provider = backend.map(|backend| match backend {
            Ok(backend) => BackendProvider::new(backend, options),
            Err(Error::Settings(why)) => BackendProvider::new(Misconfigured(why), options),
            Err(error) => Err(error),
        });
        Ok(ChainLink::only(&KIND, provider.transpose()?))
    },
    diagnose: |settings, asking| {
        let options = settings.backend::<VaultOptions>()?.clone();
        Some(Box::pin(diagnosis::diagnose(options, asking.may_log_in)))
    },
    policy: |settings| settings.backend().map(diagnosis::policy),
};

/// One secret in Vault, read through version 2 of the KV engine's API, or else version 1.
///
/// A fetch is one request. The first ones cost more (a log-in, finding out the engine's version), and so does renewing
/// the token of a log-in. The token needs only the right to read the one path.
pub struct VaultBackend {
    options: VaultOptions,
    address: Address,
    path: SecretPath,
    tokens: Tokens,
    connection: Mutex<Connection>,
    plain_host_warned: Once,
}

/// What earlier fetches found out. Dropped when a fetch fails for good.
#[derive(Default)]
struct Connection {
    client: Option<Arc<Client>>,
    engine: Option<Engine>,
}

impl VaultBackend {
    /// The backend. Makes no connection and reads no file: the first fetch does.
    ///
    /// # Errors
    /// [`Error::Settings`] names the setting that is wrong: the address, the mount point, the path or the namespace.
    pub fn new(options: VaultOptions) -> Result<Self> {
        Self::with_clock(options, Instant::now)
    }

    /// As [`new`](Self::new), with another clock for the age of tokens.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(
        options: VaultOptions,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = options.namespace.as_deref().unwrap_or_default();
        // vaultrs panics on a namespace that is no header value.
        if HeaderValue::from_str(namespace).is_err() {
            return Err(Error::Settings(
                "VAULT_NAMESPACE holds characters that no namespace has".to_owned(),
            ));
        }
        let address = Address::parse(&options.url)
            .map_err(|why| Error::Settings(format!("vault_url (or VAULT_ADDR) {why}")))?;
        let may_lack_token = address.socket.is_some();
        Ok(Self {
            address,
            path: SecretPath::new(&options.mount_point, &options.path)?,
            tokens: Tokens::new(options.auth.clone(), may_lack_token, Arc::new(clock)),
            options,
            connection: Mutex::default(),
            plain_host_warned: Once::new(),
        })
    }

    async fn fetch_once(&self) -> Result<Fetched, FetchError> {
        if let Some(why) = self.tokens.not_configured() {
            return Ok(Fetched::NotConfigured(why));
        }
        let client = self.client()?;
        if let Some(host) = &self.address.plain_host {
            self.plain_host_warned.call_once(|| {
                tracing::warn!(
                    "the token for Vault goes to {host} over plain http, where others can read it; use https://"
                );
            });
        }
        let token = match self.tokens.current(&client).await {
            Err(error) if !self.tokens.logs_in() => return Err(error),
            token => token,
        };
        let fetched = match token {
            Ok(token) => self.fetch_by(&client, token).await,
            Err(error) => Err(error),
        };
        fetched.map_err(|error| client.by_proxy(error))
    }

    async fn fetch_by(&self, client: &Client, token: Token) -> Result<Fetched, FetchError> {
        let answer = match self.read(client, &token.value).await? {
            // Vault may have revoked or lost the token before its time.
            ReadOutcome::Denied => match self.tokens.replace(client, &token).await? {
                Some(another) => self.read(client, &another.value).await?,
                None => ReadOutcome::Denied,
            },
            answer => answer,
        };
        self.tokens
            .record_denied(matches!(answer, ReadOutcome::Denied));
        match answer {
            ReadOutcome::Fetched(fetched) => Ok(fetched),
            ReadOutcome::Denied => Err(FetchError::lasting(self.denied())),
        }
    }

    /// Reads through the known version of the API (version 2 if none is known), then through the other.
    async fn read(&self, client: &Client, token: &SecretValue) -> Result<ReadOutcome, FetchError> {
        let first = self.connection.lock().engine.unwrap_or(Engine::V2);
        let mut refusals = Vec::new();
        let mut not_vaults = None;
        for engine in [first, first.other()] {
            match kv::read(client, engine, &self.path, token).await? {
                Reading::Found {
                    document,
                    changed_at,
                } => {
                    self.connection.lock().engine = Some(engine);
                    return Ok(ReadOutcome::Fetched(Fetched::Document {
                        document,
                        changed_at,
                    }));
                }
                Reading::Gone(how) => {
                    self.connection.lock().engine = Some(engine);
                    return Ok(ReadOutcome::Fetched(Fetched::Missing(how)));
                }
                Reading::NotThere => refusals.push((engine, Refusal::NotThere)),
                Reading::NotVaults(error) => not_vaults = Some(error),
                Reading::OtherVersion => refusals.push((engine, Refusal::OtherVersion)),
                Reading::Denied => refusals.push((engine, Refusal::Denied)),
            }
            self.connection.lock().engine = None;
        }
        if let Some(error) = not_vaults {
            return Err(error);
        }
        // A key that might be there must not read as missing: only a 404 that is about the path itself says so.
        let is_missing = |engine| refusals.contains(&(engine, Refusal::NotThere));
        Ok(match is_missing(Engine::V1) || is_missing(Engine::V2) {
            true => ReadOutcome::Fetched(Fetched::Missing(self.missing())),
            // A token that Vault knows: it answers another path than the one that it denies.
            false if refusals.contains(&(Engine::V1, Refusal::OtherVersion)) => {
                return Err(FetchError::lasting(self.denied_data()));
            }
            false
                if refusals
                    .iter()
                    .any(|(_, refusal)| *refusal == Refusal::Denied) =>
            {
                ReadOutcome::Denied
            }
            false => ReadOutcome::Fetched(Fetched::Missing(self.missing())),
        })
    }

    /// The client; built at the first fetch, and again after a failure.
    fn client(&self) -> Result<Arc<Client>, FetchError> {
        let mut connection = self.connection.lock();
        if let Some(client) = &connection.client {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::new(&self.options, &self.address)?);
        connection.client = Some(client.clone());
        Ok(client)
    }

    // A leaf lock, never held across an await.

    fn missing(&self) -> String {
        let namespace = match &self.options.namespace {
            Some(namespace) => format!(" (namespace {namespace})"),
            None => String::new(),
        };
        format!(
            "Vault at {}{namespace} has no secret at {}, by version 2 of the KV engine nor by version 1; \
             check vault_mount_point ({}) and vault_path ({})",
            self.address, self.path, self.path.mount_point, self.path.path
        )
    }

    fn denied_data(&self) -> String {
        let SecretPath { mount_point, path } = &self.path;
        format!(
            "Vault at {} denied the token (403): the engine at {mount_point} is of version 2, so its policy must let it read \
             {mount_point}/data/{path}",
            self.address
        )
    }

    fn denied(&self) -> String {
        let SecretPath { mount_point, path } = &self.path;
        format!(
            "Vault at {} denied the token (403): it may have expired, or its policy lets it read neither \
             {mount_point}/data/{path} nor {mount_point}/{path}; {}",
            self.address,
            self.tokens.advice()
        )
    }
}

/// Vault with settings that cannot be right. It fails alone: no command needs Vault to be right.
struct Misconfigured(String);

impl Backend for Misconfigured {
    fn name(&self) -> &str {
        "vault"
    }

    fn source(&self) -> String {
        "not to be asked".to_owned()
    }

    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async { Err(FetchError::lasting(&*self.0)) })
    }
}

/// The outcome of a read through both versions.
enum ReadOutcome {
    Fetched(Fetched),
    Denied,
}

#[derive(PartialEq)]
enum Refusal {
    NotThere,
    OtherVersion,
    Denied,
}

impl Backend for VaultBackend {
    fn name(&self) -> &str {
        "vault"
    }

    fn source(&self) -> String {
        let source = format!("{} {}", self.address, self.path);
        match &self.address.plain_host {
            Some(host) => format!("{source} (the token goes to {host} over plain http)"),
            None => source,
        }
    }

    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            let fetched = self.fetch_once().await;
            if let Err(failure) = &fetched
                && failure.retry == Retry::No
            {
                // The cause may be a certificate file; the next client reads it again.
                self.connection.lock().client = None;
            }
            fetched
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if self.tokens.has_lease()
                && let Ok(client) = self.client()
            {
                self.tokens.revoke(&client).await;
            }
        })
    }

    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.tokens.save()
    }

    fn restore(&self, saved: &[u8]) {
        self.tokens.restore(saved);
    }

    fn on_unsaved(&self, changed: Box<dyn Fn() + Send + Sync>) {
        self.tokens.on_unsaved(changed);
    }
}

#[cfg(test)]
mod tests;
