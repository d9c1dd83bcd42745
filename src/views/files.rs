//! Which files a view has, and what each holds: from the definition and the manager's snapshot. Knows no inode.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::answer::{Answer, Ask, ViewError};
use super::definition::{DocumentFormat, FileContent, ViewDefinition};
use super::view::View;
use crate::bundle::{self, BundleFormat, Document};
use crate::manager::{Lookup, SecretVersion, SecretsManager, Snapshot};
use crate::provider::ListingState;
use crate::secret::{SecretName, SecretValue};

/// The provider whose secrets a pattern matches only if it lists them.
const ENVIRONMENT: &str = "environment";

/// What a file holds at one moment.
pub(super) struct Content {
    pub(super) value: SecretValue,
    pub(super) changed_at: SystemTime,
    /// For how long it may be given to readers if nothing changes.
    pub(super) fresh_for: Duration,
}

/// The content of a view's file, as it can be had without waiting. `answer` is what was waited for.
pub(super) fn content(
    manager: &SecretsManager,
    view: &View,
    file: &str,
    answer: Option<Answer>,
) -> Result<Content, ViewError> {
    let content = view.definition.content_of(file);
    match content.ok_or(ViewError::Errno(libc::ENOENT))? {
        FileContent::Secret(name) => secret(manager, &name, false, answer),
        FileContent::Matched(name) => secret(manager, &name, true, answer),
        FileContent::Document(format) => document(&manager.snapshot(), view, format, answer),
    }
}

fn secret(
    manager: &SecretsManager,
    name: &SecretName,
    is_matched: bool,
    answer: Option<Answer>,
) -> Result<Content, ViewError> {
    let missing = Err(ViewError::Errno(libc::ENOENT));
    let (lookup, has_waited) = match answer {
        Some(Answer::Secret(lookup)) => (lookup, true),
        _ => (manager.look_up(name), false),
    };
    match lookup {
        Lookup::Fresh(version, _) | Lookup::Stale(version)
            if is_matched && !is_listed(manager, name, &version) =>
        {
            missing
        }
        Lookup::Fresh(version, fresh_for) => Ok(of_version(&version, fresh_for)),
        Lookup::Stale(version) if has_waited => Ok(of_version(&version, Duration::ZERO)),
        Lookup::Missing => missing,
        Lookup::Failed(error) => Err(ViewError::Error(error)),
        Lookup::Stale(_) | Lookup::Unknown if !has_waited => {
            Err(ViewError::Ask(Ask::Secret(name.clone())))
        }
        Lookup::Stale(_) | Lookup::Unknown => Err(ViewError::Errno(libc::EIO)),
    }
}

fn of_version(version: &SecretVersion, fresh_for: Duration) -> Content {
    Content {
        value: version.value(),
        changed_at: version.changed_at,
        fresh_for,
    }
}

/// The environment finds variables that it does not list, and under other spellings: a pattern does not.
fn is_listed(manager: &SecretsManager, name: &SecretName, version: &SecretVersion) -> bool {
    if &*version.provider != ENVIRONMENT {
        return true;
    }
    let snapshot = manager.snapshot();
    let names = snapshot.names();
    names
        .binary_search_by(|(listed, _)| listed.cmp(name))
        .is_ok()
}

/// The secrets of a view that are there now, as far as is known: the name of each file, and its secret.
pub(super) fn secrets_of(
    definition: &ViewDefinition,
    snapshot: &Snapshot,
) -> BTreeMap<SecretName, SecretName> {
    let names = snapshot.names().iter().map(|(name, _)| name);
    let matched = names.filter(|name| definition.matches(name.as_str()));
    let mut secrets: BTreeMap<_, _> = matched.map(|name| (name.clone(), name.clone())).collect();
    for (file, secret) in definition.named_secrets() {
        match snapshot.find(&secret) {
            Lookup::Missing => drop(secrets.remove(&file)),
            _ => drop(secrets.insert(file, secret)),
        }
    }
    for format in &definition.documents {
        secrets.remove(format.file_name());
    }
    secrets
}

/// The patterns, and the secrets that are named, of which there is none.
pub(super) fn unmatched(definition: &ViewDefinition, snapshot: &Snapshot) -> Vec<String> {
    let is_missing = |name: &SecretName| matches!(snapshot.find(name), Lookup::Missing);
    let named = definition.named_secrets().map(|(_, secret)| secret);
    let mut missing: Vec<String> = named
        .filter(is_missing)
        .map(|name| name.to_string())
        .collect();
    let patterns = definition
        .secrets
        .iter()
        .filter(|pattern| !pattern.is_name());
    let matches_none = |pattern: &&super::Pattern| {
        let mut names = snapshot.names().iter();
        !names.any(|(name, _)| pattern.matches(name.as_str()))
    };
    missing.extend(
        patterns
            .filter(matches_none)
            .map(|pattern| pattern.as_str().to_owned()),
    );
    missing
}

/// All secrets of a view as one document, of one snapshot. If one of them cannot be had, there is no document: a program must not
/// begin with a part of its secrets.
fn document(
    snapshot: &Arc<Snapshot>,
    view: &View,
    format: DocumentFormat,
    answer: Option<Answer>,
) -> Result<Content, ViewError> {
    let has_waited = answer.is_some();
    let ask = || Err(ViewError::Ask(Ask::All));
    if !has_waited && matches!(snapshot.listing_state(), ListingState::Unknown) {
        return ask();
    }
    let mut document = Document::new();
    let (mut changed_at, mut fresh_for) = (view.changed_at, Duration::MAX);
    for (file, secret) in secrets_of(&view.definition, snapshot) {
        let lookup = match has_waited {
            true => snapshot.find_settled(&secret),
            false => snapshot.find(&secret),
        };
        let (version, valid) = match lookup {
            Lookup::Fresh(version, valid) => (version, valid),
            Lookup::Stale(version) if has_waited => (version, Duration::ZERO),
            Lookup::Missing => continue,
            Lookup::Failed(error) => return Err(ViewError::Error(error)),
            Lookup::Stale(_) | Lookup::Unknown if !has_waited => return ask(),
            Lookup::Stale(_) | Lookup::Unknown => return Err(ViewError::Errno(libc::EIO)),
        };
        changed_at = changed_at.max(version.changed_at);
        fresh_for = fresh_for.min(valid);
        document.insert(file, version.value());
    }
    let format = match format {
        DocumentFormat::Env => BundleFormat::Env,
        DocumentFormat::Json => BundleFormat::Json,
    };
    let bytes = bundle::render(format, &document);
    let value = SecretValue::from_bytes(view.name.as_str(), &bytes).map_err(ViewError::Error)?;
    Ok(Content {
        value,
        changed_at,
        fresh_for,
    })
}
