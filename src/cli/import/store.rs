//! What an import changes in the secrets file, through a mount or without one, and the one write that does it.

use std::collections::HashSet;

use crate::audit::AuditEvent;
use crate::bundle::{self, BundleFormat, Document, Entry, render};
use crate::cli::Outcome;
use crate::cli::failure::Failure;
use crate::cli::mount_client::MountClient;
use crate::cli::reason;
use crate::cli::target::{Store, Target};
use crate::secret::{self, SecretName};

/// The document that a mount takes with all secrets.
const DOCUMENT: &str = "secrets.json";

/// What becomes of a secret of the secrets file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    New,
    Changed,
    Same,
}

impl Change {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Same => "same",
        }
    }

    fn of(stored: Option<bool>) -> Self {
        match stored {
            None => Self::New,
            Some(true) => Self::Same,
            Some(false) => Self::Changed,
        }
    }
}

/// Compares with the secrets file. What another provider overrides there counts as changed, because nobody sees it.
pub(super) fn plan(target: &Target, entries: Vec<Entry>) -> Outcome<Vec<(Entry, Change)>> {
    let compare: Box<dyn Fn(&Entry) -> Change> = match target {
        Target::Mount(client) => {
            let current = document(client)?;
            let report = client.read_json("providers/file")?;
            let keys = report["keys"].as_array().into_iter().flatten();
            let keys: HashSet<String> = keys
                .filter_map(|key| Some(key.as_str()?.to_owned()))
                .collect();
            Box::new(move |entry| {
                let stored = keys.contains(entry.name.as_str()).then(|| {
                    client.provider_of(&entry.name).as_deref() == Some("file")
                        && current.get(&entry.name) == Some(&entry.value)
                });
                Change::of(stored)
            })
        }
        Target::Store(store) => {
            Box::new(|entry| Change::of(store.compare(&entry.name, &entry.value)))
        }
    };
    // As every write does it.
    let entries = entries.into_iter().map(|entry| Entry {
        value: entry.value.without_newline(),
        ..entry
    });
    let planned = entries.map(|entry| {
        let change = compare(&entry);
        (entry, change)
    });
    Ok(planned.collect())
}

/// Sets what is new or changed.
pub(super) fn set_all(target: &Target, planned: Vec<(Entry, Change)>) -> Outcome {
    let wanted = planned.into_iter();
    let wanted = wanted.filter(|(_, change)| *change != Change::Same);
    let wanted: Vec<Entry> = wanted.map(|(entry, _)| entry).collect();
    match target {
        Target::Mount(client) => set_through(target, client, wanted),
        Target::Store(store) => store.set_all(wanted),
    }
}

/// All secrets of the mount.
fn document(client: &MountClient) -> Outcome<Document> {
    let bytes = client.read_bytes(&format!("bundle/{DOCUMENT}"))?;
    Ok(bundle::parse(BundleFormat::Json, &bytes)?)
}

/// Writes the document back. The mount sets what differs from what this process has read. Of a secret that another provider
/// overrides it cannot see a difference, so each of these is written by itself.
fn set_through(target: &Target, client: &MountClient, wanted: Vec<Entry>) -> Outcome {
    let mut written = document(client)?;
    let (mut overridden, mut plain) = (Vec::new(), Vec::new());
    for Entry { name, value, .. } in wanted {
        match client.provider_of(&name) {
            Some(provider) if provider != "file" => overridden.push((name, value)),
            _ => {
                if client.is_encrypted(&name) == Some(false) {
                    plain.push(name.clone());
                }
                written.insert(name, value);
            }
        }
    }
    let bytes = render(BundleFormat::Json, &written);
    client
        .write_whole(&format!("bundle/{DOCUMENT}"), &bytes)
        .map_err(|failure| why(client, failure))?;
    target.warn_if_hidden(client, &plain);
    let each = overridden.iter();
    let failures = each.filter_map(|(name, value)| target.set(name, value.as_bytes()).err());
    Failure::of_all(failures.collect())
}

/// The server's own reason, if it gives one.
fn why(client: &MountClient, failure: Failure) -> Failure {
    let name = SecretName::new(DOCUMENT).ok();
    let reason = name.and_then(|name| reason::of_key(&client.path(""), &name));
    reason.map_or(failure, Failure::new)
}

impl Store {
    /// Whether the secrets file has this value; `None`: it has no such secret.
    fn compare(&self, name: &SecretName, value: &secret::SecretValue) -> Option<bool> {
        self.has(name).then(|| {
            let found = self.manager.find(name).ok();
            found.is_some_and(|found| {
                &*found.provider == "file" && found.value.without_newline() == *value
            })
        })
    }

    fn set_all(&self, wanted: Vec<Entry>) -> Outcome {
        let changes = wanted
            .iter()
            .map(|entry| secret::Change::Set(entry.name.clone(), entry.value.clone()));
        self.manager.apply(&changes.collect::<Vec<_>>())?;
        for entry in wanted {
            self.record(AuditEvent::SecretSet(entry.name));
        }
        Ok(())
    }
}
