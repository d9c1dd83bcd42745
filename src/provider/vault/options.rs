//! The settings for Vault: its address, the log-in, the path to read, and the trusted certificates. Makes no call and
//! reads no file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::address::Address;
use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::settings::{
    RawSetting, Reader, SettingValue, Settings, setting, settings_table, variables,
};

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
    /// The proxy for all requests (`VAULT_PROXY_ADDR`); `None`: those of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
    pub proxy: Option<SecretValue>,
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
    /// The name that the certificate must have, sent in the handshake, instead of the address's (`VAULT_TLS_SERVER_NAME`).
    pub server_name: Option<String>,
    /// Whether to accept any certificate (`VAULT_SKIP_VERIFY`).
    pub skip_verify: bool,
}

settings_table! {
    /// The settings for Vault.
    struct VaultSettings {
        /// Vault's address, with a path if a proxy needs one, or `unix://` and the path of a socket
        url: Option<AddressText> = setting("vault_url").or_variables(&["VAULT_ADDR"]),
        /// The secret's path in the KV engine; its fields are the secrets
        path: String = setting("vault_path").or_variables(&["SIMPLETUNER_VAULT_PATH"]).default(|| "simpletuner".to_owned()),
        /// Where the KV engine is mounted
        mount_point: String = setting("vault_mount_point").default(|| "secret".to_owned()),
        /// The token; the first that is set counts: token, token file, AppRole, `~/.vault-token`
        token: Option<SecretValue> = setting("vault_token").or_variables(&["VAULT_TOKEN"]),
        /// A file in which another program, such as the Vault Agent, keeps a token
        token_file: Option<PathBuf> = setting("vault_token_file").or_variables(&["VAULT_TOKEN_FILE"]),
        /// The RoleID of an AppRole; set both or neither
        role_id: Option<SecretValue> = setting("vault_role_id").or_variables(&["VAULT_ROLE_ID"]),
        /// The SecretID of the AppRole
        secret_id: Option<SecretValue> = setting("vault_secret_id").or_variables(&["VAULT_SECRET_ID"]),
        /// The namespace of Vault Enterprise and HCP
        namespace: Option<String> = variables(&["VAULT_NAMESPACE"]),
        /// A PEM file of certificates to trust besides the system's
        ca_file: Option<PathBuf> = variables(&["VAULT_CACERT"]),
        /// A folder of such files, used if there is no `VAULT_CACERT`
        ca_folder: Option<PathBuf> = variables(&["VAULT_CAPATH"]),
        /// The PEM file of the client certificate; set both or neither
        client_cert: Option<PathBuf> = variables(&["VAULT_CLIENT_CERT"]),
        /// The PEM file of the client certificate's key
        client_key: Option<PathBuf> = variables(&["VAULT_CLIENT_KEY"]),
        /// The name that the certificate must have, instead of the address's
        server_name: Option<String> = variables(&["VAULT_TLS_SERVER_NAME"]),
        /// The proxy for all requests, instead of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`
        proxy: Option<SecretValue> = variables(&["VAULT_PROXY_ADDR", "VAULT_HTTP_PROXY"]),
        /// Whether to accept any certificate: anybody could then pose as Vault, and get the token
        skip_verify: bool = variables(&["VAULT_SKIP_VERIFY"]),
    }
}

impl VaultOptions {
    /// The options from the settings; `None` if `vault_url` is not set. If several log-ins are set, the first of these counts: a
    /// token, a token file, an AppRole, `~/.vault-token`.
    pub(super) fn read(reader: &Reader<'_>, settings: &Settings) -> Result<Option<Self>> {
        let vault = VaultSettings::read(reader)?;
        both(
            ("vault_role_id", vault.role_id.is_some()),
            ("vault_secret_id", vault.secret_id.is_some()),
        )?;
        both(
            ("VAULT_CLIENT_CERT", vault.client_cert.is_some()),
            ("VAULT_CLIENT_KEY", vault.client_key.is_some()),
        )?;
        let Some(AddressText(url)) = vault.url else {
            return Ok(None);
        };
        let auth = match (
            vault.token,
            vault.token_file,
            vault.role_id.zip(vault.secret_id),
        ) {
            (Some(token), ..) => VaultAuth::Token(token),
            (None, Some(file), _) => VaultAuth::TokenFile(file),
            (None, None, Some((role_id, secret_id))) => VaultAuth::AppRole { role_id, secret_id },
            (None, None, None) => VaultAuth::LoginFile(settings.home.join(".vault-token")),
        };
        Ok(Some(Self {
            url,
            mount_point: vault.mount_point,
            path: vault.path,
            namespace: vault.namespace,
            auth,
            tls: VaultTls {
                ca_file: vault.ca_file,
                ca_folder: vault.ca_folder,
                client: vault.client_cert.zip(vault.client_key),
                server_name: vault.server_name,
                skip_verify: vault.skip_verify,
            },
            proxy: vault.proxy,
            connect_timeout: settings.timeout.connect,
        }))
    }
}

/// Refuses one of two settings without the other.
fn both(first: (&str, bool), second: (&str, bool)) -> Result<()> {
    let (set, missing) = match (first, second) {
        ((first, true), (second, false)) => (first, second),
        ((first, false), (second, true)) => (second, first),
        _ => return Ok(()),
    };
    Err(Error::Settings(format!(
        "{set} is set without {missing}; set both, or neither"
    )))
}

/// The text of an address. One that is wrong fails Vault and no command, so it is not checked here; nor is it shown, because it
/// may contain a password.
#[derive(Clone, Default)]
struct AddressText(String);

impl SettingValue for AddressText {
    const FORM: &'static str = String::FORM;
    const EXAMPLE: &'static str = "https://vault.example.com:8200";

    fn parse(raw: &RawSetting<'_>) -> Result<Self> {
        String::parse(raw).map(Self)
    }

    fn to_json(&self) -> serde_json::Value {
        match Address::parse(&self.0) {
            Ok(address) => address.to_string().into(),
            Err(_) => "(not an address)".into(),
        }
    }
}

impl fmt::Debug for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_json(), f)
    }
}
