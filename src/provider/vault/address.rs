//! Vault's address and the path of the secret, validated before the first request. Makes no call.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::error::{Error, Result};

const NO_SCHEME: &str =
    "must begin with https:// or http:// (or unix://, with the path of a socket)";
/// The longest path, in bytes.
const MAX_PATH: usize = 1024;

/// Vault's address. `Display` is safe to log: [`parse`](Self::parse) refuses an address with a password.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Scheme, host and port, without a slash at the end. Through a socket, any host.
    pub(super) origin: String,
    /// The path before `/v1`, for a proxy; empty, or with a leading slash and without a trailing one.
    prefix: String,
    pub(super) is_https: bool,
    /// The socket of `unix://`, as of the Vault Agent and the Vault Proxy.
    pub(super) socket: Option<PathBuf>,
    /// Another host than this one, to which the token goes without encryption.
    pub(super) plain_host: Option<String>,
}

impl Address {
    /// The error continues the sentence after the setting's name. It does not quote the text, which may contain a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let invalid = ToOwned::to_owned;
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix://") {
            return match Path::new(path).is_absolute() {
                true => Ok(Self {
                    origin: "http://localhost".to_owned(),
                    prefix: String::new(),
                    is_https: false,
                    plain_host: None,
                    socket: Some(path.into()),
                }),
                false => Err(invalid("must have an absolute path after unix://")),
            };
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(invalid("contains white space"));
        }
        let url = match Url::parse(text) {
            // `vault.example.com:8200` is a URL of the scheme `vault.example.com`.
            Ok(url) if !matches!(url.scheme(), "https" | "http") => {
                return Err(invalid(NO_SCHEME));
            }
            Ok(url) => url,
            Err(_) if !text.contains("://") => return Err(invalid(NO_SCHEME)),
            Err(error) => return Err(format!("is not the address of a server: {error}")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(
                "must not contain a user or a password; the token goes into vault_token",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("must end before any '?' or '#'"));
        }
        let host = url.host_str().unwrap_or_default();
        let is_https = url.scheme() == "https";
        Ok(Self {
            plain_host: (!is_https && !is_this_host(host)).then(|| host.to_owned()),
            origin: url.origin().ascii_serialization(),
            prefix: url.path().trim_end_matches('/').to_owned(),
            is_https,
            socket: None,
        })
    }

    /// The path between the host and that of an endpoint: `v1`, or `PREFIX/v1`.
    pub(super) fn version(&self) -> String {
        format!("{}/v1", self.prefix).trim_matches('/').to_owned()
    }
}

fn is_this_host(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(path) => write!(f, "unix://{}", path.display()),
            None => write!(f, "{}{}", self.origin, self.prefix),
        }
    }
}

/// The path of the document: the KV engine's mount point and the path in the engine, both without slashes at the ends.
#[derive(Clone, Debug)]
pub(super) struct SecretPath {
    pub(super) mount_point: String,
    pub(super) path: String,
}

impl SecretPath {
    pub(super) fn new(mount_point: &str, path: &str) -> Result<Self> {
        Ok(Self {
            mount_point: checked("vault_mount_point", mount_point)?,
            path: checked("vault_path (or SIMPLETUNER_VAULT_PATH)", path)?,
        })
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mount_point, self.path)
    }
}

fn checked(setting: &str, text: &str) -> Result<String> {
    let trimmed = text.trim_matches('/');
    let invalid = |why: &str| Err(Error::Settings(format!("{setting} {why}")));
    if trimmed.trim().is_empty() {
        return invalid("is empty; set a path in Vault, such as team/kv");
    }
    if trimmed.len() > MAX_PATH {
        return invalid("is over 1024 bytes long");
    }
    if trimmed.chars().any(char::is_control) {
        return invalid("contains a control character");
    }
    // A URL drops such segments, so that the request would read another path.
    let is_odd = |segment: &str| matches!(segment, "" | "." | "..");
    if trimmed.split('/').any(is_odd) {
        return invalid("must not have an empty segment, '.' or '..' in it");
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_server_with_an_optional_path_before_the_version() {
        for (text, shown, version) in [
            ("http://127.0.0.1:8200", "http://127.0.0.1:8200", "v1"),
            (
                "https://Vault.Example.com:443/",
                "https://vault.example.com",
                "v1",
            ),
            ("https://proxy/a/b/", "https://proxy/a/b", "a/b/v1"),
            ("http://[::1]:8200", "http://[::1]:8200", "v1"),
            (" HTTPS://V:8200/ \n", "https://v:8200", "v1"),
            ("unix:///run/v.sock", "unix:///run/v.sock", "v1"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.version(), version);
        }
    }

    #[test]
    fn plain_http_to_another_host_is_known() {
        for (text, host) in [
            ("http://vault.example.com:8200", Some("vault.example.com")),
            ("http://10.0.0.7", Some("10.0.0.7")),
            ("http://[fe80::1]:8200", Some("[fe80::1]")),
            (
                "http://localhost.example.com",
                Some("localhost.example.com"),
            ),
            ("https://vault.example.com", None),
            ("http://localhost:8200", None),
            ("http://127.0.0.7:8200", None),
            ("http://[::1]", None),
        ] {
            assert_eq!(Address::parse(text).unwrap().plain_host.as_deref(), host);
        }
    }

    #[test]
    fn an_invalid_address_is_refused_without_quoting_it() {
        for text in [
            "vault.example.com:8200",
            "hunter2",
            "",
            "https://",
            "unix://hunter2",
            "https://hunter2 x",
            "https://user:hunter2@vault",
            "https://hunter2@vault",
            "https://vault?token=hunter2",
            "https://vault#hunter2",
            "https://vault:99999",
        ] {
            let said = Address::parse(text).unwrap_err();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_path_with_empty_or_dot_segments_is_refused() {
        let path = SecretPath::new("/team/kv/", "a/b c/ä%2e/").unwrap();
        assert_eq!(path.to_string(), "team/kv/a/b c/ä%2e");
        let long = "x".repeat(MAX_PATH + 1);
        for path in [
            "", "/", " ", "..", "a/../b", "./a", "a//b", "a\nb", "a\0", &long,
        ] {
            let said = SecretPath::new("secret", path).unwrap_err().to_string();
            assert!(said.starts_with("vault_path "), "{said}");
            let said = SecretPath::new(path, "p").unwrap_err().to_string();
            assert!(said.starts_with("vault_mount_point "), "{said}");
        }
    }
}
