//! Vault through the library: the calls, the handling of each response, and the error messages. Here is what the files have
//! in common.

mod failures;
mod genuine;
mod kv;
mod log_in;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use simpletuner_live::error::Error;
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::backend::{
    Backend, BackendDocument, BackendOptions, BackendProvider, FetchError, Fetched, Retry,
};
use simpletuner_live::provider::vault::{VaultAuth, VaultBackend, VaultOptions, VaultTls};
use simpletuner_live::secret::{SecretName, SecretValue};
use simpletuner_live::settings::Ttl;

use super::*;
use crate::servers::proxy::Fault;
use crate::servers::tls::Authority;
use crate::servers::vault::{AppRole, ROLE_ID, SECRET_ID, VaultServer};
use crate::support::home::{BINARY, Home, ran};

const V2: &str = "secret/data/simpletuner";
const V1: &str = "secret/simpletuner";
const HOUR: Duration = Duration::from_secs(3600);

fn options(url: String, auth: VaultAuth) -> VaultOptions {
    VaultOptions {
        url,
        mount_point: "secret".to_owned(),
        path: "simpletuner".to_owned(),
        namespace: None,
        auth,
        tls: VaultTls::default(),
        proxy: None,
        connect_timeout: Duration::from_secs(10),
    }
}

fn by_token(token: &str) -> VaultAuth {
    VaultAuth::Token(SecretValue::new(token))
}

fn by_approle() -> VaultAuth {
    VaultAuth::AppRole {
        role_id: SecretValue::new(ROLE_ID),
        secret_id: SecretValue::new(SECRET_ID),
    }
}

fn backend(options: VaultOptions) -> VaultBackend {
    VaultBackend::new(options).unwrap()
}

/// A backend whose token may read these paths.
fn reader(server: &VaultServer, may_read: &[&str]) -> VaultBackend {
    backend(options(server.url(), by_token(&server.token("", may_read))))
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap())
}

fn fetch(backend: &VaultBackend) -> Result<Fetched, FetchError> {
    runtime().block_on(backend.fetch())
}

#[track_caller]
fn document(backend: &VaultBackend) -> BackendDocument {
    match fetch(backend).unwrap() {
        Fetched::Document { document, .. } => document,
        Fetched::Missing(why) | Fetched::NotConfigured(why) => panic!("{why}"),
    }
}

#[track_caller]
fn value(backend: &VaultBackend) -> String {
    let document = document(backend);
    let value = document.get(&SecretName::new("KEY").unwrap()).unwrap();
    value.as_str().to_owned()
}

/// Why there is no such document.
#[track_caller]
fn missing(backend: &VaultBackend) -> String {
    match fetch(backend).unwrap() {
        Fetched::Missing(why) => quotes_nothing(why),
        answer => panic!("{answer:?}"),
    }
}

/// Why there is no answer.
#[track_caller]
fn failed(backend: &VaultBackend) -> FetchError {
    let error = fetch(backend).unwrap_err();
    quotes_nothing(format!("{error:?}"));
    error
}

/// All tokens, ids and values of these tests have this in them.
#[track_caller]
fn quotes_nothing(said: String) -> String {
    assert!(!said.contains("hunter2"), "{said}");
    said
}

fn key(value: &str) -> Value {
    json!({ "KEY": value })
}
