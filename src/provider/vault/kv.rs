//! Reads one secret through version 2 or version 1 of the KV engine's API. Does not know which version the engine has,
//! nor where the token comes from.
//!
//! Formats: Vault API documentation, "KV secrets engine - version 2", "Read secret version", and "version 1", "Read
//! secret".

use std::time::SystemTime;

use rustify::endpoint::Endpoint;
use serde::Deserialize;
use serde_json::value::RawValue;
use vaultrs::api::kv1::requests::GetSecretRequest;
use vaultrs::api::kv2::requests::ReadSecretRequest;

use super::address::SecretPath;
use super::client::Client;
use super::failure;
use super::response::{NotFoundBy, Response};
use crate::provider::backend::{BackendDocument, FetchError};
use crate::provider::{parse_rfc3339, rfc3339};
use crate::secret::SecretValue;

/// A version of the KV engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Keeps earlier values: `GET /v1/{mount}/data/{path}`.
    V2,
    /// Keeps only the current value: `GET /v1/{mount}/{path}`.
    V1,
}

impl Engine {
    pub(super) fn other(self) -> Self {
        match self {
            Engine::V2 => Engine::V1,
            Engine::V1 => Engine::V2,
        }
    }
}

/// The outcome of a read through one version of the API.
pub(super) enum Reading {
    /// The secret.
    Found {
        document: BackendDocument,
        changed_at: Option<SystemTime>,
    },
    /// Its current version was deleted or destroyed; says which.
    Gone(String),
    /// 404: no secret there.
    NotThere,
    /// 404: the engine has the other version.
    OtherVersion,
    /// An answer that Vault does not give: of a gateway that has lost its route to Vault, or of a server of another kind,
    /// which may still have the secret in the other version.
    NotVaults(FetchError),
    /// 403: the token may not read there, whether a secret exists or not.
    Denied,
}

/// Reads the secret through this version of the API.
pub(super) async fn read(
    client: &Client,
    engine: Engine,
    path: &SecretPath,
    token: &SecretValue,
) -> Result<Reading, FetchError> {
    let response = match engine {
        Engine::V2 => {
            let endpoint = ReadSecretRequest::builder()
                .mount(&path.mount_point)
                .path(&path.path)
                .build();
            send(client, endpoint.ok(), token).await?
        }
        Engine::V1 => {
            let endpoint = GetSecretRequest::builder()
                .mount(&path.mount_point)
                .path(&path.path)
                .build();
            send(client, endpoint.ok(), token).await?
        }
    };
    let reading = match response.status.as_u16() {
        403 if response.is_from_vault() => Some(Reading::Denied),
        // The body distinguishes a deleted version from no secret at all.
        404 if engine == Engine::V2 => parse_v2(&response, path, client)?,
        404 if is_envelope(&response) => return Err(failure::data_in_path(path, client.address())),
        404 | 204 => None,
        200 if engine == Engine::V2 => parse_v2(&response, path, client)?,
        200 => Some(parse_v1(&response, path, client)?),
        _ => return Err(failure::unexpected(client.address(), &response)),
    };
    match (reading, response.not_found_by()) {
        (Some(reading), _) => Ok(reading),
        // An engine of version 1 may have a secret at `data/{path}`.
        (None, _) if response.status.as_u16() == 200 => Ok(Reading::OtherVersion),
        (None, NotFoundBy::Vault) => Ok(Reading::NotThere),
        (None, NotFoundBy::VaultForAnotherWay) => Ok(Reading::OtherVersion),
        (None, NotFoundBy::Other) => {
            let why = failure::not_vault(client.address(), &response);
            Ok(Reading::NotVaults(why))
        }
    }
}

async fn send(
    client: &Client,
    endpoint: Option<impl Endpoint>,
    token: &SecretValue,
) -> Result<Response, FetchError> {
    let endpoint = endpoint.ok_or_else(|| failure::no_request(client.address()))?;
    client.send(endpoint, Some(token)).await
}

/// `{"data": ...}`, with any content.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    created_time: Option<String>,
    deletion_time: Option<String>,
    #[serde(default)]
    destroyed: bool,
    version: Option<u64>,
}

/// Whether the data is what version 2 wraps a secret in. Asked for as version 1, it is not the secret.
fn is_envelope(response: &Response) -> bool {
    let body: Result<Body<'_>, _> = serde_json::from_slice(response.body.as_bytes());
    let data = body.ok().and_then(|body| body.data);
    let versioned = data.and_then(|data| serde_json::from_str::<Versioned<'_>>(data.get()).ok());
    let metadata = versioned.map(|versioned| versioned.metadata);
    metadata.is_some_and(|metadata| metadata.created_time.is_some() && metadata.version.is_some())
}

/// `None` if the response is not of version 2.
fn parse_v2(
    response: &Response,
    path: &SecretPath,
    client: &Client,
) -> Result<Option<Reading>, FetchError> {
    let body: Result<Body<'_>, _> = serde_json::from_slice(response.body.as_bytes());
    let Ok(Body { data }) = body else {
        return match response.status.as_u16() == 200 && !response.is_from_vault() {
            true => Err(failure::not_vault(client.address(), response)),
            false => Ok(None),
        };
    };
    let versioned = data.and_then(|data| serde_json::from_str::<Versioned<'_>>(data.get()).ok());
    let Some(Versioned { data, metadata }) = versioned else {
        return Ok(None);
    };
    let time = |text: Option<String>| text.as_deref().and_then(parse_rfc3339);
    let Some(data) = data else {
        let version = format!(
            "the present version of {path} in Vault at {}",
            client.address()
        );
        return Ok(Some(Reading::Gone(if metadata.destroyed {
            format!("{version} is destroyed; write a new one")
        } else {
            // Parsed and formatted again, so that no other text of the server reaches the log.
            let at = time(metadata.deletion_time).map(rfc3339);
            let at = at.map_or(String::new(), |at| format!(" at {at}"));
            let which = metadata.version;
            let which = which.map_or("it".to_owned(), |number| format!("version {number}"));
            format!("{version} was deleted{at}; undelete {which}, or write a new one")
        })));
    };
    Ok(Some(Reading::Found {
        document: parse_document(data, path, client)?,
        changed_at: time(metadata.created_time),
    }))
}

fn parse_v1(
    response: &Response,
    path: &SecretPath,
    client: &Client,
) -> Result<Reading, FetchError> {
    if is_envelope(response) {
        return Err(failure::data_in_path(path, client.address()));
    }
    let body: Result<Body<'_>, _> = serde_json::from_slice(response.body.as_bytes());
    match body {
        Ok(Body { data: Some(data) }) => Ok(Reading::Found {
            document: parse_document(data, path, client)?,
            changed_at: None,
        }),
        _ => Err(failure::not_vault(client.address(), response)),
    }
}

fn parse_document(
    data: &RawValue,
    path: &SecretPath,
    client: &Client,
) -> Result<BackendDocument, FetchError> {
    BackendDocument::parse(data.get().as_bytes()).map_err(|why| {
        FetchError::lasting(format!(
            "{path} (vault_path) in Vault at {} cannot be used: {why}; store names and texts in it",
            client.address()
        ))
    })
}
