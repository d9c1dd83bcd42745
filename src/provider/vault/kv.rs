//! Reads one secret of a KV engine, of version 2 or version 1. Knows neither which version the engine is nor where the
//! token comes from.
//!
//! Formats: Vault API documentation, "KV secrets engine - version 2", "Read secret version", and "version 1", "Read secret".

use std::time::SystemTime;

use rustify::endpoint::Endpoint;
use serde::Deserialize;
use serde_json::value::RawValue;
use vaultrs::api::kv1::requests::GetSecretRequest;
use vaultrs::api::kv2::requests::ReadSecretRequest;

use super::address::Place;
use super::client::{Answer, Client};
use super::failure;
use crate::provider::backend::{BackendDocument, FetchError};
use crate::provider::{parse_rfc3339, rfc3339};
use crate::secret::SecretValue;

/// A version of the KV engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Keeps former values: `GET /v1/{mount}/data/{path}`.
    V2,
    /// Keeps the present value only: `GET /v1/{mount}/{path}`.
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

/// What a read by one version of the engine's API gave.
pub(super) enum Reading {
    /// The secret.
    Found {
        document: BackendDocument,
        changed_at: Option<SystemTime>,
    },
    /// Its present version is gone; says how.
    Gone(String),
    /// 404: nothing there, or the engine is of the other version.
    NotThere,
    /// 403: the token may not read there, whether there is something or not.
    Denied,
}

/// Reads the secret as an engine of this version has it.
pub(super) async fn read(
    client: &Client,
    engine: Engine,
    place: &Place,
    token: &SecretValue,
) -> Result<Reading, FetchError> {
    let answer = match engine {
        Engine::V2 => {
            let endpoint = ReadSecretRequest::builder()
                .mount(&place.mount_point)
                .path(&place.path)
                .build();
            send(client, endpoint.ok(), token).await?
        }
        Engine::V1 => {
            let endpoint = GetSecretRequest::builder()
                .mount(&place.mount_point)
                .path(&place.path)
                .build();
            send(client, endpoint.ok(), token).await?
        }
    };
    let reading = match answer.status.as_u16() {
        403 if answer.is_of_vault() => Some(Reading::Denied),
        // The body tells a version that is gone from no secret at all.
        404 if engine == Engine::V2 => parse_v2(&answer, place, client)?,
        404 => None,
        204 => None,
        200 if engine == Engine::V2 => parse_v2(&answer, place, client)?,
        200 => Some(parse_v1(&answer, place, client)?),
        _ => return Err(failure::unexpected(client.address(), &answer)),
    };
    match reading {
        Some(reading) => Ok(reading),
        None if answer.is_of_vault() => Ok(Reading::NotThere),
        None => Err(failure::not_vault(client.address(), &answer)),
    }
}

async fn send(
    client: &Client,
    endpoint: Option<impl Endpoint>,
    token: &SecretValue,
) -> Result<Answer, FetchError> {
    let endpoint = endpoint.ok_or_else(|| failure::no_request(client.address()))?;
    client.send(endpoint, Some(token)).await
}

/// `{"data": ...}`, whatever is in it.
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
}

/// `None` where the answer is no engine's of version 2: one of version 1 may have a secret at `data/{path}`.
fn parse_v2(
    answer: &Answer,
    place: &Place,
    client: &Client,
) -> Result<Option<Reading>, FetchError> {
    let body: Result<Body<'_>, _> = serde_json::from_slice(answer.body.as_bytes());
    let Ok(Body { data }) = body else {
        return match answer.is_of_vault() {
            true => Ok(None),
            false => Err(failure::not_vault(client.address(), answer)),
        };
    };
    let versioned = data.and_then(|data| serde_json::from_str::<Versioned<'_>>(data.get()).ok());
    let Some(Versioned { data, metadata }) = versioned else {
        return Ok(None);
    };
    let time = |text: Option<String>| text.as_deref().and_then(parse_rfc3339);
    let Some(data) = data else {
        let version = format!(
            "the present version of {place} in Vault at {}",
            client.address()
        );
        return Ok(Some(Reading::Gone(if metadata.destroyed {
            format!("{version} is destroyed; write a new one")
        } else {
            // Parsed, so that nothing else can come into the log.
            let at = time(metadata.deletion_time).map(rfc3339);
            let at = at.map_or(String::new(), |at| format!(" at {at}"));
            format!("{version} was deleted{at}; undelete it, or write a new one")
        })));
    };
    Ok(Some(Reading::Found {
        document: parse_document(data, place, client)?,
        changed_at: time(metadata.created_time),
    }))
}

fn parse_v1(answer: &Answer, place: &Place, client: &Client) -> Result<Reading, FetchError> {
    let body: Result<Body<'_>, _> = serde_json::from_slice(answer.body.as_bytes());
    match body {
        Ok(Body { data: Some(data) }) => Ok(Reading::Found {
            document: parse_document(data, place, client)?,
            changed_at: None,
        }),
        _ => Err(failure::not_vault(client.address(), answer)),
    }
}

fn parse_document(
    data: &RawValue,
    place: &Place,
    client: &Client,
) -> Result<BackendDocument, FetchError> {
    BackendDocument::parse(data.get().as_bytes()).map_err(|why| {
        FetchError::lasting(format!(
            "{place} (vault_path) in Vault at {} cannot be used: {why}; store names and texts in it",
            client.address()
        ))
    })
}
