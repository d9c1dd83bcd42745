//! The passphrase or the keys of a backup: asked for at the terminal, or read from files. Never from an argument or a variable, where
//! others could see them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use super::failure::{Failure, warn};
use super::question::can_ask;
use super::{Outcome, input, prompt};
use crate::backup::{Identities, Recipients};
use crate::text::{shell_path, text_of};

/// The longest passphrase, in bytes.
const MAX_PASSPHRASE: usize = 4096;
/// The largest file of keys, in bytes.
const MAX_KEYS: usize = 1024 * 1024;

/// Asks for a new passphrase, twice.
///
/// # Errors
/// The two differ, or there is no terminal to ask at.
pub(super) fn ask_for_new() -> Outcome<SecretString> {
    if !can_ask() {
        return Err(Failure::with_hint(
            "there is no terminal to ask for a passphrase at",
            "give --passphrase-file FILE, or encrypt for a key: -r age1..., -r \"$(cat ~/.ssh/id_ed25519.pub)\"",
        ));
    }
    let first = ask("new passphrase of the backup")?;
    let again = ask("the same once more")?;
    match first == again {
        true => secret(first, "the passphrase"),
        false => Err(Failure::new(
            "the two passphrases differ; nothing was written",
        )),
    }
}

/// Asks for the passphrase of a backup. `input_is_free`: whether standard input is not the backup itself.
///
/// # Errors
/// There is no terminal to ask at.
pub(super) fn ask_for_present(input_is_free: bool) -> Outcome<SecretString> {
    match input_is_free && can_ask() {
        true => secret(ask("passphrase of the backup")?, "the passphrase"),
        false => Err(Failure::with_hint(
            "a passphrase opens this backup, and it cannot be asked for here",
            "--passphrase-file FILE names a file with it",
        )),
    }
}

fn ask(what: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let typed = prompt::ask(what, MAX_PASSPHRASE);
    let failed = |error| crate::error::Error::io("cannot read standard input", error);
    typed
        .map_err(failed)?
        .ok_or_else(|| Failure::new(format!("a passphrase has at most {MAX_PASSPHRASE} bytes")))
}

/// The passphrase in a file: its only line.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(super) fn read(file: &Path) -> Outcome<SecretString> {
    let bytes = input::read_file(file, "passphrase", MAX_PASSPHRASE)?;
    warn_if_open_to_others(file, "the passphrase");
    secret(bytes, &file.display().to_string())
}

fn secret(bytes: Zeroizing<Vec<u8>>, what: &str) -> Outcome<SecretString> {
    let refused = |why: &str| Err(Failure::new(format!("{what} {why}")));
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return refused("is not UTF-8 text");
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return refused("is empty");
    }
    if text.contains(['\n', '\r']) {
        return refused("has several lines, and a passphrase is one");
    }
    Ok(SecretString::from(text.to_owned()))
}

fn warn_if_open_to_others(file: &Path, what: &str) {
    let is_open = |found: &fs::Metadata| found.is_file() && found.mode() & 0o077 != 0;
    if fs::metadata(file).is_ok_and(|found| is_open(&found)) {
        warn(&format!(
            "other users may read {what} in {}; fix it with: chmod 600 {}",
            file.display(),
            shell_path(file)
        ));
    }
}

/// The public keys of these arguments and files. A file has one on each line; lines that begin with `#` are comments.
///
/// # Errors
/// What is wrong with which one, without quoting it.
pub(super) fn recipients(keys: &[String], files: &[PathBuf]) -> Outcome<Recipients> {
    let mut recipients = Recipients::default();
    for (number, key) in (1..).zip(keys) {
        let wrong = |why| Failure::new(format!("-r, key {number}: {why}"));
        recipients.add(key).map_err(wrong)?;
    }
    for file in files {
        let bytes = input::read_file(file, "file of keys", MAX_KEYS)?;
        let shown = file.display();
        let text = text_of(&bytes).map_err(|why| Failure::new(format!("{shown}: {why}")))?;
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut lines = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .peekable();
        if lines.peek().is_none() {
            return Err(Failure::new(format!("{shown} has no key")));
        }
        for (number, line) in lines {
            let wrong = |why| Failure::new(format!("{shown}, line {number}: {why}"));
            recipients.add(line).map_err(wrong)?;
        }
    }
    Ok(recipients)
}

/// The private keys of these files.
///
/// # Errors
/// What is wrong with which one, without quoting it.
pub(super) fn identities(files: &[PathBuf]) -> Outcome<Identities> {
    let mut identities = Identities::default();
    for file in files {
        let bytes = input::read_file(file, "file of keys", MAX_KEYS)?;
        warn_if_open_to_others(file, "the private key");
        let ask = AskForKey(file.display().to_string());
        let wrong = |why| Failure::new(format!("{}: {why}", file.display()));
        identities.add(&bytes, ask).map_err(wrong)?;
    }
    Ok(identities)
}

/// Asks for the passphrase of an SSH key.
#[derive(Clone)]
struct AskForKey(String);

impl age::Callbacks for AskForKey {
    fn display_message(&self, _: &str) {}

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, _: &str) -> Option<SecretString> {
        if !can_ask() {
            return None;
        }
        let typed = ask(&format!("passphrase of the key {}", self.0)).ok()?;
        secret(typed, "the passphrase").ok()
    }
}
