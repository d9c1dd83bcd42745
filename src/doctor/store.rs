//! The secrets file and its key: whether they can be read and written, and whether each value can be decrypted. Names secrets, and
//! shows no value.

use std::path::{Path, PathBuf};

use super::access::{Owned, set_aside};
use super::files::{of_disk, store_path};
use super::{Finding, Subject};
use crate::backup::KEPT;
use crate::credential::{KEY_VARIABLE, KeySource, Undecryptable};
use crate::files::beside;
use crate::manager::file_options;
use crate::provider::file::{
    Document, FileProvider, Stored, check_previous, path_of_previous, read_document,
};
use crate::provider::{SecretStore, wait_for};
use crate::secret::SecretName;
use crate::settings::Settings;
use crate::text::{as_root, counted, shell_path, shell_word};

/// So many names are shown.
const MAX_SHOWN: usize = 10;
/// So many kept keys are tried: each takes some 50 ms.
const MAX_KEYS: usize = 20;

pub(super) fn store(_: &Subject, settings: &Settings) -> Vec<Finding> {
    let provider = FileProvider::new(file_options(settings));
    let path = store_path(settings);
    let (shown, word) = (path.display(), shell_path(&path));
    let mut findings = Vec::new();
    match read_document(&path) {
        Err(error) => {
            let why = error.to_string();
            let edit = || format!("${{EDITOR:-vi}} {word}");
            let fix = Owned::file(&path).mending();
            let fix = fix.or_else(|| is_malformed(&error).then(edit));
            let finding = Finding::failed(why.clone());
            return vec![match fix {
                Some(fix) => finding.mended_as(&why, fix),
                None => finding,
            }];
        }
        Ok(None) => findings.push(Finding::ok(format!(
            "there is no {shown} yet; the first `set` makes it"
        ))),
        Ok(Some((document, _))) => {
            let secrets = counted(document.names().count() as u64, "secret");
            findings.push(Finding::ok(format!("{shown} has {secrets}")));
            if document.skipped() > 0 {
                let entries = counted(document.skipped() as u64, "entry");
                findings.push(
                    Finding::warning(format!(
                        "{entries} of {shown} are no secrets: not a text, or without a name that is allowed"
                    ))
                    .mended_by(format!("${{EDITOR:-vi}} {word}")),
                );
            }
        }
    }
    wait_for(|done| provider.check_writable(done));
    if let Some(refusal) = provider.refusal(None) {
        let why = format!("no secret can be written: {refusal}");
        let finding = Finding::failed(why.clone());
        findings.push(match mending_of_write(settings, &path) {
            Some(fix) => finding.mended_as(&why, fix),
            // Other checks say what is wrong with the key, and with the disk.
            None => finding,
        });
    }
    if let Err(error) = check_previous(&path) {
        let kept = path_of_previous(&path);
        let fix = Owned::secret(&kept).mending();
        findings.push(
            Finding::warning(format!("`undo` cannot set anything back: {error}"))
                .mended_by(fix.unwrap_or_else(|| set_aside(&kept))),
        );
    }
    findings
}

/// The command after which a secret can be written, if an owner, a mode or the disk is in the way.
fn mending_of_write(settings: &Settings, store: &Path) -> Option<String> {
    let folder = store.parent().unwrap_or(Path::new("/"));
    let all = [
        Owned::folder(folder),
        Owned::file(store),
        Owned::file(beside(store, "", ".lock")),
        Owned::secret(path_of_previous(store)),
        Owned::secret(&settings.key_file),
    ];
    let of_owner = all.iter().find_map(Owned::mending);
    let is_missing = !folder.exists();
    // This user cannot make it, or it would have been made.
    let make = || {
        as_root(&format!(
            "install -d -m 700 -o \"$(id -un)\" {}",
            shell_path(folder)
        ))
    };
    of_owner
        .or_else(|| is_missing.then(make))
        .or_else(|| of_disk(folder).fix.filter(|_| !is_missing))
}

fn is_malformed(error: &crate::error::Error) -> bool {
    matches!(error, crate::error::Error::MalformedStore { .. })
}

pub(super) fn key(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    let key = file_options(settings).key;
    let described = key.describe();
    let has_encrypted =
        document_of(settings).is_some_and(|document| document.encrypted().count() > 0);
    vec![match key.cipher_if_present() {
        Ok(Some(cipher)) if cipher.has_key_beside() => Finding::warning(format!(
            "a `key rotate` or a `restore` that replaces {described} is under way, or was interrupted; every secret stays readable, and no backup is made until it ends"
        ))
        .mended_by(subject.command("key rotate --yes")),
        Ok(Some(_)) => Finding::ok(format!(
            "{described} is usable; keep a copy of it elsewhere"
        )),
        Ok(None) if has_encrypted => Finding::failed(format!(
            "there is no {described}, and values are encrypted with it; put it back from a backup, or set {KEY_VARIABLE}"
        ))
        .mended_by(put_back(subject, settings)),
        Ok(None) => Finding::ok(format!(
            "there is no {described} yet; the first `set` makes it"
        )),
        Err(error) => {
            let why = error.to_string();
            let fix = match Owned::secret(&settings.key_file).mending() {
                Some(fix) => fix,
                None if has_encrypted => put_back(subject, settings),
                // Nothing needs it, and the first `set` makes another.
                None => set_aside(&settings.key_file),
            };
            Finding::failed(why.clone()).mended_as(&why, fix)
        }
    }]
}

/// The command that puts back the key of the encrypted values: from beside it, or from a backup.
fn put_back(subject: &Subject, settings: &Settings) -> String {
    let document = document_of(settings);
    let kept = document.and_then(|document| {
        let stored = |name: &SecretName| matches!(document.get(name), Some(Stored::Encrypted(_)));
        let name = document.names().find(|name| stored(name))?.clone();
        key_beside(settings, &document, name.as_str())
    });
    match kept {
        Some(kept) => replace_key(settings, &kept),
        None => subject.command("restore FILE --only secrets --force"),
    }
}

/// The command that makes a key beside it the key. It keeps the one that is there.
fn replace_key(settings: &Settings, kept: &Path) -> String {
    let (key, other) = (shell_path(&settings.key_file), shell_path(kept));
    let copy = format!("cp -p {other} {key}");
    match std::fs::symlink_metadata(&settings.key_file) {
        Ok(_) => format!("{} && {copy}", set_aside(&settings.key_file)),
        Err(_) => copy,
    }
}

fn document_of(settings: &Settings) -> Option<Document> {
    let document = read_document(&store_path(settings)).ok()??;
    Some(document.0)
}

pub(super) fn values(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    let Some(document) = document_of(settings) else {
        return vec![Finding::skipped("there are no values to decrypt")];
    };
    let options = file_options(settings);
    // Why there is none, the check of the key says.
    let cipher = options.key.cipher_if_present().unwrap_or_default();
    let mut undecryptable = Vec::new();
    let (mut plain, mut decryptable) = (Vec::new(), 0);
    for name in document.names() {
        match document.get(name) {
            Some(Stored::Plain(_)) => plain.push(name.as_str()),
            Some(Stored::Encrypted(sealed)) => match cipher.as_ref().map(|key| sealed.problem(key))
            {
                Some(None) => decryptable += 1,
                Some(Some(why)) => undecryptable.push((name.as_str(), why)),
                None => undecryptable.push((name.as_str(), Undecryptable::OtherKey)),
            },
            None => {}
        }
    }
    let mut findings = Vec::new();
    for why in [
        Undecryptable::Damaged,
        Undecryptable::OtherKey,
        Undecryptable::NotText,
    ] {
        let of_kind = undecryptable.iter().filter(|(_, of)| *of == why);
        let names: Vec<&str> = of_kind.map(|(name, _)| *name).collect();
        if names.is_empty() {
            continue;
        }
        let said = format!("{} cannot be decrypted: {}", shown(&names), why.reason());
        let finding = Finding::failed(said);
        findings.push(match (decryptable, why) {
            // The check of the key says what to do. Without a key nobody knows whether the values are lost.
            (0, Undecryptable::OtherKey) if cipher.is_none() => finding,
            // A key that decrypts nothing is refused for writes, too, so that no file has values of two keys.
            (0, Undecryptable::OtherKey) => {
                finding.mended_by(match key_beside(settings, &document, names[0]) {
                    Some(kept) => replace_key(settings, &kept),
                    None => {
                        let words: Vec<_> = names.iter().map(|name| shell_word(name)).collect();
                        format!(
                            "{}    # if their key is lost: rm -f {}",
                            subject.command("restore FILE --only secrets --force"),
                            words.join(" ")
                        )
                    }
                })
            }
            _ => {
                let set = |name: &&str| subject.command(&format!("set {}", shell_word(name)));
                let all: Vec<String> = names.iter().map(set).collect();
                finding.mended_by(all.join(" && "))
            }
        });
    }
    if settings.encrypt && !plain.is_empty() && !is_simpletuners(settings) {
        let fix = subject.command("encrypt-file");
        let said = format!("{} in plain text, although encrypt is set", are(&plain));
        findings.push(Finding::warning(said).mended_by(fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(match plain.len() {
            0 => format!("{}; each can be decrypted", counted(decryptable, "value")),
            plain => format!(
                "{}; each can be decrypted; {} in plain text",
                counted(decryptable, "encrypted value"),
                match plain {
                    1 => "1 is".to_owned(),
                    plain => format!("{plain} are"),
                }
            ),
        }));
    }
    findings
}

/// The file beside the key that has the key of this secret: a rotation or a restore has kept it.
fn key_beside(settings: &Settings, document: &Document, name: &str) -> Option<PathBuf> {
    let Some(Stored::Encrypted(sealed)) = document.get(&SecretName::new(name).ok()?) else {
        return None;
    };
    let decrypts = |path: &PathBuf| {
        let cipher = KeySource::new(None, path.clone()).cipher_if_present();
        cipher.is_ok_and(|cipher| cipher.is_some_and(|cipher| sealed.problem(&cipher).is_none()))
    };
    let mut start = settings.key_file.file_name()?.to_owned();
    start.push(".");
    let is_kept = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(start.as_encoded_bytes())
    };
    let entries = std::fs::read_dir(settings.key_file.parent()?).ok()?;
    let mut kept: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    kept.retain(is_kept);
    // The newest first, by the times in their names.
    kept.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let time = name.split_once(".old-").or_else(|| name.split_once(KEPT));
        time.map(|(_, time)| time.to_owned())
    });
    kept.into_iter().rev().take(MAX_KEYS).find(decrypts)
}

/// Whether the secrets file is the one that SimpleTuner's server reads itself, undecrypted.
pub(super) fn is_simpletuners(settings: &Settings) -> bool {
    let store = store_path(settings);
    let mut defaults = crate::settings::paths::DEFAULT_NAMES
        .iter()
        .map(|name| settings.base_dir.join(name));
    let first = defaults.find(|path| std::fs::symlink_metadata(path).is_ok());
    first.is_some_and(|first| crate::settings::paths::without_links(&first) == store)
}

fn are(names: &[&str]) -> String {
    match names {
        [only] => format!("{only} is"),
        names => format!("{} are", shown(names)),
    }
}

/// The names, or as many of them as one reads.
pub(super) fn shown(names: &[&str]) -> String {
    let first = names.iter().take(MAX_SHOWN).copied().collect::<Vec<_>>();
    let first = first.join(", ");
    match names.len().saturating_sub(MAX_SHOWN) {
        0 => first,
        others => format!("{first} and {others} others"),
    }
}
