//! What the trails record: names of keys, never values. Knows no database.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::actor::Actor;
use super::row::{RowFields, UnsignedRow};
use crate::secret::SecretName;

/// A change, which goes into SimpleTuner's own trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    /// A secret was set.
    SecretSet(SecretName),
    /// A secret was deleted.
    SecretDeleted(SecretName),
    /// A secret was renamed: old name, new name.
    SecretRenamed(SecretName, SecretName),
    /// A secret was set back to an earlier value.
    SecretRestored(SecretName),
    /// A secret that did not exist before was removed again.
    SecretUndone(SecretName),
    /// A provider's configuration was saved.
    ProviderConfigured(String, ChangedKeys),
    /// A provider's configuration was deleted.
    ProviderDeleted(String),
    /// A provider's configuration was renamed: old name, new name.
    ProviderRenamed(String, String),
    /// Files were restored from a backup: when it was made, and which.
    Restored(String, Vec<String>),
    /// The key that secrets are encrypted with was replaced.
    KeyRotated {
        /// How many values were encrypted with the new one.
        values: usize,
        /// Where the old one is kept; `None`: it was removed.
        old_key: Option<PathBuf>,
    },
    /// A view was defined, or defined anew.
    ViewSet(String),
    /// A view was removed.
    ViewRemoved(String),
    /// A view was renamed: old name, new name.
    ViewRenamed(String, String),
}

/// The keys of a provider's configuration that a save changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedKeys {
    /// Keys that are new or have another value.
    pub set: Vec<String>,
    /// Keys that are gone.
    pub removed: Vec<String>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadTarget {
    /// A secret, through its file.
    Secret(SecretName),
    /// All secrets at once, through a document (its path in the mount).
    AllSecrets(&'static str),
    /// A view's file.
    ViewFile {
        /// The view; `None`: it was removed.
        view: Option<String>,
        /// The file's name in it.
        file: String,
    },
    /// A secret, by a command or program without a mount (its name).
    WithoutMount(SecretName, &'static str),
}

impl AuditEvent {
    pub(super) fn row(&self, actor: &Actor, user: &str, timestamp: String) -> UnsignedRow {
        self.fields().row(actor, user, timestamp, None)
    }

    // The event types and details are SimpleTuner's, which reads these rows.
    fn fields(&self) -> RowFields {
        let secret = |key: &SecretName| json!({"key": key});
        match self {
            AuditEvent::SecretSet(key) => RowFields::new(
                "credential.created",
                format!("Secret {key} set"),
                secret(key),
            ),
            AuditEvent::SecretDeleted(key) => RowFields::new(
                "credential.deleted",
                format!("Secret {key} deleted"),
                secret(key),
            ),
            AuditEvent::SecretRenamed(from, to) => RowFields::new(
                "credential.created",
                format!("Secret {from} renamed to {to}"),
                json!({"key": to, "from": from}),
            ),
            AuditEvent::SecretRestored(key) => RowFields::new(
                "credential.created",
                format!("Secret {key} set back to an earlier value"),
                json!({"key": key, "undo": true}),
            ),
            AuditEvent::SecretUndone(key) => RowFields::new(
                "credential.deleted",
                format!("Secret {key} removed by an undo"),
                json!({"key": key, "undo": true}),
            ),
            AuditEvent::ProviderConfigured(name, changed) => {
                let mut details = json!({"provider": name, "keys": changed.set});
                if !changed.removed.is_empty() {
                    details["removed"] = json!(changed.removed);
                }
                RowFields::new(
                    "provider.configured",
                    format!("Provider {name} configured"),
                    details,
                )
            }
            AuditEvent::ProviderDeleted(name) => RowFields::new(
                "config.changed",
                format!("Configuration of provider {name} deleted"),
                json!({"provider": name}),
            ),
            AuditEvent::KeyRotated { values, old_key } => RowFields::new(
                "config.changed",
                "Credential key rotated".to_owned(),
                json!({"values": values, "old_key": old_key}),
            ),
            AuditEvent::ProviderRenamed(from, to) => RowFields::new(
                "config.changed",
                format!("Configuration of provider {from} renamed to {to}"),
                json!({"provider": to, "from": from}),
            ),
            AuditEvent::Restored(made_at, files) => RowFields::new(
                "config.changed",
                format!("Restored from the backup of {made_at}"),
                json!({"backup": made_at, "files": files}),
            ),
            AuditEvent::ViewSet(name) => RowFields::new(
                "config.changed",
                format!("View {name} set"),
                json!({"view": name}),
            ),
            AuditEvent::ViewRemoved(name) => RowFields::new(
                "config.changed",
                format!("View {name} removed"),
                json!({"view": name}),
            ),
            AuditEvent::ViewRenamed(from, to) => RowFields::new(
                "config.changed",
                format!("View {from} renamed to {to}"),
                json!({"view": to, "from": from}),
            ),
        }
    }
}

impl ReadTarget {
    pub(super) fn row(
        &self,
        actor: &Actor,
        user: &str,
        timestamp: String,
        count: u64,
    ) -> UnsignedRow {
        self.fields().row(actor, user, timestamp, Some(count))
    }

    fn fields(&self) -> RowFields {
        match self {
            ReadTarget::Secret(key) => RowFields::new(
                "credential.used",
                format!("Secret {key} read"),
                json!({"key": key, "file": format!("secrets/{key}")}),
            ),
            ReadTarget::AllSecrets(file) => RowFields::new(
                "credential.used",
                "All secrets read".into(),
                json!({"key": "*", "file": file}),
            ),
            ReadTarget::ViewFile { view, file } => {
                // A removed view has no name any more, and no view can have this one.
                let shown = view.as_deref().unwrap_or("?");
                RowFields::new(
                    "credential.used",
                    format!("File {file} of the view {shown} read"),
                    json!({"key": file, "view": view, "file": format!("views/{shown}/{file}")}),
                )
            }
            ReadTarget::WithoutMount(key, program) => RowFields::new(
                "credential.used",
                format!("Secret {key} read"),
                json!({"key": key, "file": Value::Null, "by": program}),
            ),
        }
    }
}
