//! The token for the next request: from the settings, a file, or a log-in. Knows no secret.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use reqwest::header::HeaderValue;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::VaultAuth;
use super::client::Client;
use super::login::{self, Lease};
use crate::clock::Instant;
use crate::error::in_words;
use crate::files::{ReadError, read_file_of_anybody};
use crate::provider::backend::FetchError;
use crate::secret::SecretValue;
use crate::sync;
use crate::text::shell_path;

/// The largest token file, in bytes. Vault's longest tokens, batch tokens, have some hundreds.
const MAX_TOKEN: usize = 8 * 1024;

/// Gives the current time; tests replace it.
pub(super) type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The source of tokens.
pub(super) struct Tokens {
    auth: VaultAuth,
    /// Whether requests without a token may be answered: the agent behind a socket adds its own.
    may_lack_token: bool,
    clock: Clock,
    // Held across a log-in or a renewal, so that concurrent fetches log in once.
    login_lock: Mutex<()>,
    // A leaf lock.
    lease: sync::Mutex<Option<Lease>>,
    /// Called when there is a new lease to save.
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Whether the token of a new log-in was denied, too: another log-in would not help.
    denied: AtomicBool,
    /// Whether a token was there before.
    had_token: AtomicBool,
    /// Whether the warning that others can read the token file was logged.
    warned: AtomicBool,
}

/// A token, and whether a log-in gave it just now.
pub(super) struct Token {
    pub(super) value: SecretValue,
    pub(super) is_new: bool,
}

impl Token {
    fn of(lease: &Lease, is_new: bool) -> Self {
        Self {
            value: lease.token.clone(),
            is_new,
        }
    }
}

impl Tokens {
    pub(super) fn new(auth: VaultAuth, may_lack_token: bool, clock: Clock) -> Self {
        Self {
            auth,
            may_lack_token,
            clock,
            login_lock: Mutex::default(),
            lease: sync::Mutex::default(),
            changed: OnceLock::new(),
            denied: AtomicBool::new(false),
            had_token: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        }
    }

    /// The token to use now: reads the file, logs in or renews if needed.
    pub(super) async fn current(&self, client: &Client) -> Result<Token, FetchError> {
        let value = match &self.auth {
            VaultAuth::Token(token) => checked(token.as_str(), "vault_token (or VAULT_TOKEN)")?,
            VaultAuth::TokenFile(path) => self.read("vault_token_file", path)?,
            VaultAuth::LoginFile(path) => self.read("the file of `vault login`", path)?,
            VaultAuth::AppRole { .. } => return self.log_in_or_renew(client).await,
        };
        Ok(Token {
            value,
            is_new: false,
        })
    }

    /// Another token after Vault refused this one; `None` if there is no way to get one, or none that would help.
    pub(super) async fn replace(
        &self,
        client: &Client,
        refused: &Token,
    ) -> Result<Option<Token>, FetchError> {
        if !self.logs_in() || refused.is_new || self.denied.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let _login = self.login_lock.lock().await;
        let current = self.lease.lock().clone();
        if let Some(current) = current.filter(|current| current.token != refused.value) {
            return Ok(Some(Token::of(&current, false)));
        }
        let another = self.log_in(client, (self.clock)()).await?;
        // It may be alive, and only have no right to the path.
        login::revoke(client, &refused.value).await;
        Ok(Some(another))
    }

    /// Records whether Vault lets the last token read. After a denial there is no other log-in until this token expires.
    pub(super) fn record_denied(&self, is_denied: bool) {
        self.denied.store(is_denied, Ordering::Relaxed);
    }

    /// Whether tokens come from a log-in at Vault.
    pub(super) fn logs_in(&self) -> bool {
        matches!(self.auth, VaultAuth::AppRole { .. })
    }

    /// Whether it holds the token of a log-in.
    pub(super) fn has_lease(&self) -> bool {
        self.lease.lock().is_some()
    }

    /// Revokes the token of the log-in.
    pub(super) async fn revoke(&self, client: &Client) {
        let lease = self.lease.lock().take();
        if let Some(lease) = lease {
            login::revoke(client, &lease.token).await;
        }
    }

    /// Why Vault counts as not configured: nothing gives a token, and nothing did before.
    pub(super) fn not_configured(&self) -> Option<String> {
        match &self.auth {
            VaultAuth::LoginFile(path) if !self.may_lack_token && !path.exists() => {
                (!self.had_token.load(Ordering::Relaxed)).then(|| self.no_token(path))
            }
            _ => None,
        }
    }

    fn no_token(&self, path: &Path) -> String {
        format!(
            "there is no token for Vault; set VAULT_TOKEN, vault_token_file, or vault_role_id and vault_secret_id, or log in \
             (`vault login` leaves {})",
            path.display()
        )
    }

    /// The token of the last log-in, renewed or replaced by another log-in when it is due. If both fail, the old token
    /// serves until it expires.
    async fn log_in_or_renew(&self, client: &Client) -> Result<Token, FetchError> {
        let _login = self.login_lock.lock().await;
        let current = self.lease.lock().clone();
        let now = (self.clock)();
        if let Some(lease) = &current {
            if !lease.should_renew(now) {
                return Ok(Token::of(lease, false));
            }
            if lease.can_be_renewed(now) {
                match login::renew(client, lease, now).await {
                    Ok(Some(renewed)) => return Ok(self.store_lease(renewed, false)),
                    Ok(None) => {}
                    Err(_) => return Ok(Token::of(lease, false)),
                }
            }
        }
        match self.log_in(client, now).await {
            Ok(token) => Ok(token),
            Err(failure) => match &current {
                Some(lease) if !lease.has_expired(now) => {
                    tracing::warn!(
                        "{}; the token of the last log-in is used until it expires",
                        failure.reason
                    );
                    Ok(Token::of(lease, false))
                }
                _ => Err(failure),
            },
        }
    }

    async fn log_in(&self, client: &Client, now: Instant) -> Result<Token, FetchError> {
        let VaultAuth::AppRole { role_id, secret_id } = &self.auth else {
            return Err(FetchError::lasting("there is no AppRole to log in by"));
        };
        let lease = login::log_in(client, role_id, secret_id, now).await?;
        Ok(self.store_lease(lease, true))
    }

    fn store_lease(&self, lease: Lease, is_new: bool) -> Token {
        let token = Token::of(&lease, is_new);
        *self.lease.lock() = Some(lease);
        if let Some(changed) = self.changed.get() {
            changed();
        }
        token
    }

    /// The lease, for the next process: a SecretID may allow only one log-in.
    pub(super) fn save(&self) -> Option<Zeroizing<Vec<u8>>> {
        let VaultAuth::AppRole { role_id, .. } = &self.auth else {
            return None;
        };
        let lease = self.lease.lock();
        Some(lease.as_ref()?.save(role_id))
    }

    pub(super) fn restore(&self, saved: &[u8]) {
        if let VaultAuth::AppRole { role_id, .. } = &self.auth {
            let restored = Lease::restore(saved, role_id, (self.clock)());
            let mut lease = self.lease.lock();
            *lease = lease.take().or(restored);
        }
    }

    pub(super) fn on_unsaved(&self, changed: Box<dyn Fn() + Send + Sync>) {
        drop(self.changed.set(changed));
    }

    /// Reads a token file; each time, because the Vault Agent replaces it, and may do so as another user.
    fn read(&self, what: &str, path: &Path) -> Result<SecretValue, FetchError> {
        let shown = path.display();
        let invalid = |why: &str| FetchError::lasting(format!("{what}, {shown}, {why}"));
        let content = match read_file_of_anybody(path, MAX_TOKEN) {
            Ok(content) => content,
            Err(ReadError::Missing) if matches!(self.auth, VaultAuth::LoginFile(_)) => {
                if self.may_lack_token {
                    return Ok(SecretValue::new(""));
                }
                return Err(FetchError::lasting(self.no_token(path)));
            }
            Err(ReadError::Missing) => return Err(invalid("does not exist")),
            Err(ReadError::NotAFile(why)) => {
                return Err(invalid(&format!("cannot be used: {why}")));
            }
            Err(ReadError::TooLarge) => {
                return Err(invalid("is over 8 KiB, too large for a token"));
            }
            Err(ReadError::Io(error)) => {
                return Err(invalid(&format!("cannot be read: {}", in_words(&error))));
            }
        };
        if content.is_open_to_others() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{shown} holds a Vault token and can be read by others; fix it with: chmod 600 {}",
                shell_path(path)
            );
        }
        self.had_token.store(true, Ordering::Relaxed);
        let text = std::str::from_utf8(&content.bytes).map_err(|_| invalid("is not text"))?;
        checked(text, &format!("{what}, {shown},"))
    }

    /// What the user can do when Vault refuses the token.
    pub(super) fn advice(&self) -> String {
        match &self.auth {
            VaultAuth::Token(_) => "set a valid one in VAULT_TOKEN (or vault_token)".to_owned(),
            VaultAuth::TokenFile(path) => {
                format!("put a valid one into vault_token_file, {}", path.display())
            }
            VaultAuth::AppRole { .. } => {
                "check the policies of the AppRole (vault_role_id); after a change of its list of policies, mount anew"
                    .to_owned()
            }
            VaultAuth::LoginFile(path) => {
                let path = path.display();
                format!("log in again (`vault login` writes {path}), or set VAULT_TOKEN")
            }
        }
    }
}

/// A token, trimmed and validated.
fn checked(text: &str, what: &str) -> Result<SecretValue, FetchError> {
    let token = text.trim();
    if token.is_empty() {
        return Err(FetchError::lasting(format!("{what} holds no token")));
    }
    // Checked here, because the error of a header value does not say where the token comes from.
    if token.bytes().any(|b| !b.is_ascii_graphic()) || HeaderValue::from_str(token).is_err() {
        return Err(FetchError::lasting(format!(
            "{what} does not hold a token: it contains white space or characters that no token has"
        )));
    }
    Ok(SecretValue::new(token))
}
