//! What can be said about Vault: where it is, who asks, what is read there, and whom to trust. Makes no call and reads
//! no file.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::settings::Settings;

/// What a [`VaultBackend`](super::VaultBackend) is built from.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    /// Vault's address (`vault_url`, `VAULT_ADDR`): `https://vault.example.com:8200`, where a proxy wants it with a path.
    pub url: String,
    /// Where the KV engine is mounted (`vault_mount_point`): `secret`, or `team/kv`.
    pub mount_point: String,
    /// The secret's path in the engine (`vault_path`): `simpletuner`, or `a/b/c`.
    pub path: String,
    /// The namespace of Vault Enterprise and HCP (`VAULT_NAMESPACE`), for every request.
    pub namespace: Option<String>,
    /// Who asks.
    pub auth: VaultAuth,
    /// Whom to trust, and as whom.
    pub tls: VaultTls,
    /// How long a connection may take to come about. The whole of a fetch is bounded by who calls it.
    pub connect_timeout: Duration,
}

/// Where the token comes from that Vault lets us in with.
#[derive(Clone, Debug)]
pub enum VaultAuth {
    /// The token itself (`vault_token`, `VAULT_TOKEN`). It is used as it is and never renewed.
    Token(SecretValue),
    /// A file that somebody else keeps a token in (`vault_token_file`, `VAULT_TOKEN_FILE`), as the Vault Agent does. It
    /// is read at each fetch.
    TokenFile(PathBuf),
    /// An AppRole (`vault_role_id` and `vault_secret_id`) of the auth method at `auth/approle`. Its token is renewed, or
    /// replaced by another log-in, before it ends.
    AppRole {
        /// The RoleID.
        role_id: SecretValue,
        /// The SecretID.
        secret_id: SecretValue,
    },
    /// The file that `vault login` leaves its token in (`~/.vault-token`), read at each fetch.
    LoginFile(PathBuf),
}

/// How Vault's certificate is checked, and which one is shown to it.
#[derive(Clone, Debug, Default)]
pub struct VaultTls {
    /// A PEM file of certificates to trust besides the system's (`VAULT_CACERT`).
    pub ca_file: Option<PathBuf>,
    /// A folder of such files (`VAULT_CAPATH`); used where there is no `ca_file`.
    pub ca_folder: Option<PathBuf>,
    /// The PEM files of our own certificate and its key (`VAULT_CLIENT_CERT`, `VAULT_CLIENT_KEY`).
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate at all will do (`VAULT_SKIP_VERIFY`).
    pub skip_verify: bool,
}

impl VaultOptions {
    /// The options by the settings; `None` where no `vault_url` is set.
    ///
    /// Of several ways to be let in the first of these counts: a token, a token file, an AppRole, `~/.vault-token`.
    ///
    /// # Errors
    /// [`Error::Settings`] where a client certificate is set without its key, or the other way round.
    pub fn from_settings(settings: &Settings) -> Result<Option<Self>> {
        let Some(url) = settings.vault_url.clone() else {
            return Ok(None);
        };
        let approle = settings.vault_role_id.clone();
        let auth = match (&settings.vault_token, &settings.vault_token_file) {
            (Some(token), _) => VaultAuth::Token(token.clone()),
            (None, Some(file)) => VaultAuth::TokenFile(file.clone()),
            (None, None) => match approle.zip(settings.vault_secret_id.clone()) {
                Some((role_id, secret_id)) => VaultAuth::AppRole { role_id, secret_id },
                None => VaultAuth::LoginFile(settings.home.join(".vault-token")),
            },
        };
        let (cert, key) = (&settings.vault_client_cert, &settings.vault_client_key);
        if cert.is_some() != key.is_some() {
            return Err(Error::Settings(
                "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY must be set both, or neither".to_owned(),
            ));
        }
        Ok(Some(Self {
            url,
            mount_point: settings.vault_mount_point.clone(),
            path: settings.vault_path.clone(),
            namespace: settings.vault_namespace.clone(),
            auth,
            tls: VaultTls {
                ca_file: settings.vault_ca_file.clone(),
                ca_folder: settings.vault_ca_folder.clone(),
                client: cert.clone().zip(key.clone()),
                skip_verify: settings.vault_skip_verify,
            },
            connect_timeout: settings.timeout.connect,
        }))
    }
}
