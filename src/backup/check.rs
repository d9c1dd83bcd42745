//! Whether an archive can be used here: its key is the one of its values, every value can be decrypted, every file is what it should
//! be. Changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::collect::{key_of, undecryptable};
use super::manifest::{KeyInfo, Part, Role};
use super::{Collected, malformed};
use crate::credential::{CredentialCipher, KEY_VARIABLE, key_fingerprint, master_secret};
use crate::error::{Error, Result};
use crate::provider::file::{Document, check_previous_content, is_yaml, parse_document};
use crate::settings::Settings;
use crate::sqlite::Copy;
use crate::views::count_views;

/// The most names that a message lists.
const MAX_LISTED: usize = 10;

/// An archive that can be used.
pub struct Checked {
    pub(super) archive: Collected,
    pub(super) parts: Vec<Part>,
    /// The secrets.
    pub(super) document: Option<Document>,
    /// The archive's key, or the same key where it was found here.
    pub(super) cipher: Option<Arc<CredentialCipher>>,
    pub(super) databases: BTreeMap<Role, Copy>,
}

impl Checked {
    /// Checks the parts that are to be restored. `settings`: those that are in force afterwards.
    ///
    /// # Errors
    /// [`Error::KeyUnusable`] if the key of its values is not at hand, or another one is set here; [`Error::Malformed`] for values that
    /// cannot be decrypted and files that are malformed; [`Error::Settings`] if it has nothing of these parts.
    pub fn new(mut archive: Collected, parts: &[Part], settings: &Settings) -> Result<Self> {
        let has = |role: &Role| parts.contains(&role.part());
        if !archive.members.iter().any(|member| has(&member.role)) {
            let has = Part::ALL
                .into_iter()
                .filter(|part| archive.manifest.has(*part));
            let has: Vec<&str> = has.map(Part::name).collect();
            return Err(Error::Settings(format!(
                "the backup has nothing of what is to be restored; it has: {}",
                has.join(", ")
            )));
        }
        let mut databases = BTreeMap::new();
        for member in &mut archive.members {
            if member.role.is_database() && has(&member.role) {
                let bytes = std::mem::take(&mut member.bytes);
                let copy = Copy::checked(bytes, Path::new(member.role.title()))?;
                databases.insert(member.role, copy);
            }
        }
        let (mut document, mut cipher) = (None, None);
        if parts.contains(&Part::Secrets) {
            document = document_of(&archive)?;
            cipher = match &archive.manifest.key {
                Some(key) => Some(cipher_of(&archive, key, settings)?),
                None => None,
            };
            check_values(&archive, document.as_ref(), cipher.as_ref())?;
            if let Some(earlier) = archive.member(Role::EarlierValues) {
                check_previous_content(earlier).map_err(|error| inside(&error))?;
            }
        }
        if let Some(views) = archive.member(Role::Views).filter(|_| has(&Role::Views)) {
            count_views(views).map_err(|reason| malformed(format!("the views in it: {reason}")))?;
        }
        if let Some(key) = archive
            .member(Role::AuditKey)
            .filter(|_| has(&Role::AuditKey))
        {
            check_audit_key(key, settings)?;
        }
        Ok(Self {
            archive,
            parts: parts.to_vec(),
            document,
            cipher,
            databases,
        })
    }

    /// What the archive holds.
    pub fn manifest(&self) -> &super::Manifest {
        &self.archive.manifest
    }
}

fn inside(error: &Error) -> Error {
    malformed(format!("what is in it: {}", error.reason()))
}

fn document_of(archive: &Collected) -> Result<Option<Document>> {
    let (Some(bytes), Some(name)) = (archive.member(Role::Store), archive.name_of(Role::Store))
    else {
        return Ok(None);
    };
    let document = parse_document(is_yaml(name), bytes);
    document.map(Some).map_err(|error| inside(&error))
}

/// The cipher of the archive's values.
fn cipher_of(
    archive: &Collected,
    key: &KeyInfo,
    settings: &Settings,
) -> Result<Arc<CredentialCipher>> {
    let here = match key_of(settings)? {
        Some(here) => here.text().ok().map(|text| {
            let fingerprint = key_fingerprint(&text);
            (text, fingerprint, here.is_from_variable)
        }),
        None => None,
    };
    let wanted = &key.fingerprint;
    let unusable = |path: &Path, reason: String| Error::KeyUnusable {
        path: path.to_owned(),
        reason,
    };
    if let Some((_, fingerprint, true)) = &here
        && fingerprint != wanted
    {
        return Err(unusable(
            Path::new(KEY_VARIABLE),
            format!(
                "it has another key ({fingerprint}) than the backup ({wanted}), so it would decrypt none of its values; unset it, or give it the \
                 key of the backup"
            ),
        ));
    }
    if let Some(bytes) = archive.member(Role::Key) {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let text = match key.is_from_variable {
            true => text,
            false => master_secret(text),
        };
        return match !text.is_empty() && key_fingerprint(text) == *wanted {
            true => Ok(Arc::new(CredentialCipher::derive(text))),
            false => Err(malformed(
                "the key in it is not the one that its list names",
            )),
        };
    }
    let file = &settings.key_file;
    match here {
        Some((text, fingerprint, _)) if fingerprint == *wanted => {
            Ok(Arc::new(CredentialCipher::derive(&text)))
        }
        Some((_, fingerprint, _)) => Err(unusable(
            file,
            format!(
                "the backup has no key, and its values are encrypted with another one: {wanted}, and this is {fingerprint}; put that one there"
            ),
        )),
        None => Err(unusable(
            file,
            format!(
                "the backup has no key, and that of its values ({wanted}) is not there; put it there, or into {KEY_VARIABLE}"
            ),
        )),
    }
}

/// Every value can be decrypted, but for those that could not be when the backup was made.
fn check_values(
    archive: &Collected,
    document: Option<&Document>,
    cipher: Option<&Arc<CredentialCipher>>,
) -> Result<()> {
    let Some(document) = document else {
        return Ok(());
    };
    let Some(cipher) = cipher else {
        return match document.encrypted().next() {
            None => Ok(()),
            Some(_) => Err(malformed(
                "it has encrypted values, and names no key of them",
            )),
        };
    };
    let known: HashSet<&str> = archive
        .manifest
        .undecryptable
        .iter()
        .map(String::as_str)
        .collect();
    let wrong = undecryptable(document, cipher).filter(|(name, _)| !known.contains(name.as_str()));
    let wrong: Vec<String> = wrong.map(|(name, _)| name.to_string()).collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(malformed(format!(
            "its key does not decrypt {}, so nothing of it is used",
            listed(&wrong)
        ))),
    }
}

/// Names for people, the first ones of many.
pub(super) fn listed(names: &[String]) -> String {
    let first = names
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn check_audit_key(key: &[u8], settings: &Settings) -> Result<()> {
    if key.is_empty() {
        return Err(malformed("the audit trails' key in it is empty"));
    }
    match &settings.audit_key {
        Some(here) if here.as_bytes() != key => Err(Error::KeyUnusable {
            path: crate::audit::KEY_VARIABLE.into(),
            reason: "it has another key than the backup, so the trails could not be verified with it; unset it, or restore without \
                     the trails: --only secrets,settings,views,database"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}
