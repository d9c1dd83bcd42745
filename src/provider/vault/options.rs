//! The settings for Vault: its address, the log-in, the path to read, and the trusted certificates. Makes no call and
//! reads no file.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::settings::Settings;

/// What a [`VaultBackend`](super::VaultBackend) is built from.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    /// Vault's address (`vault_url`, `VAULT_ADDR`): `https://vault.example.com:8200`, with a path if a proxy needs one.
    pub url: String,
    /// Where the KV engine is mounted (`vault_mount_point`): `secret`, or `team/kv`.
    pub mount_point: String,
    /// The secret's path in the engine (`vault_path`): `simpletuner`, or `a/b/c`.
    pub path: String,
    /// The namespace of Vault Enterprise and HCP (`VAULT_NAMESPACE`), sent with every request.
    pub namespace: Option<String>,
    /// Where the token comes from.
    pub auth: VaultAuth,
    /// Which certificates to trust and to present.
    pub tls: VaultTls,
    /// How long connecting may take. The caller bounds the whole fetch.
    pub connect_timeout: Duration,
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum VaultAuth {
    /// The token itself (`vault_token`, `VAULT_TOKEN`). Never renewed.
    Token(SecretValue),
    /// A file in which another program, such as the Vault Agent, keeps a token (`vault_token_file`,
    /// `VAULT_TOKEN_FILE`). Read at each fetch.
    TokenFile(PathBuf),
    /// An AppRole (`vault_role_id` and `vault_secret_id`) of the auth method at `auth/approle`. Its token is renewed,
    /// or replaced by another log-in, before it expires.
    AppRole {
        /// The RoleID.
        role_id: SecretValue,
        /// The SecretID.
        secret_id: SecretValue,
    },
    /// The file where `vault login` stores its token (`~/.vault-token`). Read at each fetch.
    LoginFile(PathBuf),
}

/// How Vault's certificate is verified, and which client certificate Vault gets.
#[derive(Clone, Debug, Default)]
pub struct VaultTls {
    /// A PEM file of certificates to trust besides the system's (`VAULT_CACERT`).
    pub ca_file: Option<PathBuf>,
    /// A folder of such files (`VAULT_CAPATH`); used if there is no `ca_file`.
    pub ca_folder: Option<PathBuf>,
    /// The PEM files of the client certificate and its key (`VAULT_CLIENT_CERT`, `VAULT_CLIENT_KEY`).
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether to accept any certificate (`VAULT_SKIP_VERIFY`).
    pub skip_verify: bool,
}

impl VaultOptions {
    /// The options from the settings; `None` if `vault_url` is not set.
    ///
    /// If several log-ins are set, the first of these counts: a token, a token file, an AppRole, `~/.vault-token`.
    ///
    /// # Errors
    /// [`Error::Settings`] if a client certificate is set without its key, or a key without its certificate.
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
                "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY must both be set, or neither".to_owned(),
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
