//! HashiCorp Vault as a backend: one secret of a KV engine is the document. Knows no cache, no retries and no bound on
//! the whole time; who calls does.
//!
//! - `options`: what can be said about Vault
//! - `address`: the address, the mount point and the path, checked
//! - `client`, `trust`, `failure`: one request and its answer, whom to trust, what can go wrong
//! - `token`, `login`: the token to ask with, and how one is come by
//! - `kv`: one read by version 2 or version 1 of the KV engine

mod address;
mod client;
mod failure;
mod kv;
mod login;
mod options;
mod token;
mod trust;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::provider::backend::{Backend, FetchError, Fetched, Fetching, Retry};
use crate::secret::SecretValue;
use address::{Address, Place};
use client::Client;
use kv::{Engine, Reading};
use token::Tokens;

pub use options::{VaultAuth, VaultOptions, VaultTls};

/// One secret in Vault, by the KV engine's version 2 or else version 1.
///
/// A fetch is one request, but for the first ones (a log-in; whether the engine is of version 2 or 1) and for what keeps
/// the token of a log-in alive. The token needs no other right than to read the one path.
pub struct VaultBackend {
    options: VaultOptions,
    address: Address,
    place: Place,
    tokens: Tokens,
    held: Mutex<Held>,
}

/// What was found out, and is good until it fails.
#[derive(Default)]
struct Held {
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

    /// As [`new`](Self::new), where the tokens of log-ins grow old by another clock.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(
        options: VaultOptions,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = options.namespace.as_deref().unwrap_or_default();
        // vaultrs would panic.
        if HeaderValue::from_str(namespace).is_err() {
            return Err(Error::Settings(
                "VAULT_NAMESPACE holds characters that no namespace has".to_owned(),
            ));
        }
        Ok(Self {
            address: Address::parse(&options.url)?,
            place: Place::new(&options.mount_point, &options.path)?,
            tokens: Tokens::new(options.auth.clone(), Arc::new(clock)),
            options,
            held: Mutex::default(),
        })
    }

    async fn fetch_once(&self) -> Result<Fetched, FetchError> {
        let client = self.client()?;
        let token = self.tokens.current(&client).await?;
        let answer = match self.read(&client, &token.value).await? {
            // The token may have ended before its time: revoked, or Vault lost it.
            Answer::Denied => match self.tokens.another(&client, &token).await? {
                Some(another) => self.read(&client, &another.value).await?,
                None => Answer::Denied,
            },
            answer => answer,
        };
        match answer {
            Answer::Fetched(fetched) => Ok(fetched),
            Answer::Denied => Err(FetchError::lasting(self.denied())),
        }
    }

    /// Reads by the version that is known, then by the other; by version 2 first where none is known.
    async fn read(&self, client: &Client, token: &SecretValue) -> Result<Answer, FetchError> {
        let first = self.held().engine.unwrap_or(Engine::V2);
        let mut refusals = Vec::new();
        for engine in [first, first.other()] {
            match kv::read(client, engine, &self.place, token).await? {
                Reading::Found {
                    document,
                    changed_at,
                } => {
                    self.held().engine = Some(engine);
                    return Ok(Answer::Fetched(Fetched::Document {
                        document,
                        changed_at,
                    }));
                }
                Reading::Gone(how) => {
                    self.held().engine = Some(engine);
                    return Ok(Answer::Fetched(Fetched::Missing(how)));
                }
                Reading::NotThere => refusals.push((engine, Refusal::NotThere)),
                Reading::Denied => refusals.push((engine, Refusal::Denied)),
            }
            self.held().engine = None;
        }
        let denied = |version| refusals.contains(&(version, Refusal::Denied));
        Ok(match (denied(Engine::V2), denied(Engine::V1)) {
            (true, true) => Answer::Denied,
            (true, false) => Answer::Fetched(Fetched::Missing(format!(
                "{}; if the engine is of version 2, the token's policy must let it read {}/data/{}",
                self.missing(),
                self.place.mount_point,
                self.place.path
            ))),
            (false, _) => Answer::Fetched(Fetched::Missing(self.missing())),
        })
    }

    /// The client, made at the first fetch and after a failure.
    fn client(&self) -> Result<Arc<Client>, FetchError> {
        let mut held = self.held();
        if let Some(client) = &held.client {
            return Ok(client.clone());
        }
        let client = Arc::new(Client::new(&self.options, &self.address)?);
        held.client = Some(client.clone());
        Ok(client)
    }

    // A leaf lock, never held while anything is awaited.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn missing(&self) -> String {
        let namespace = match &self.options.namespace {
            Some(namespace) => format!(" (namespace {namespace})"),
            None => String::new(),
        };
        format!(
            "Vault at {}{namespace} has no secret at {}, by version 2 of the KV engine nor by version 1; \
             check vault_mount_point ({}) and vault_path ({})",
            self.address, self.place, self.place.mount_point, self.place.path
        )
    }

    fn denied(&self) -> String {
        let Place { mount_point, path } = &self.place;
        format!(
            "Vault at {} denied the token (403): it may have expired, or its policy lets it read neither \
             {mount_point}/data/{path} nor {mount_point}/{path}; {}",
            self.address,
            self.tokens.advice()
        )
    }
}

/// What came of a read by both versions.
enum Answer {
    Fetched(Fetched),
    Denied,
}

#[derive(PartialEq)]
enum Refusal {
    NotThere,
    Denied,
}

impl Backend for VaultBackend {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn source(&self) -> String {
        format!("{} {}", self.address, self.place)
    }

    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            let fetched = self.fetch_once().await;
            if let Err(failure) = &fetched
                && failure.retry == Retry::No
            {
                // What must be mended may be a certificate, which the next client reads anew.
                self.held().client = None;
            }
            fetched
        })
    }

    fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.tokens.save()
    }

    fn restore(&self, saved: &[u8]) {
        self.tokens.restore(saved);
    }

    fn on_save(&self, changed: Box<dyn Fn() + Send + Sync>) {
        self.tokens.on_save(changed);
    }
}
