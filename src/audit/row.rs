//! What is recorded, and how a row of it reads. Names of keys, never values.

use serde_json::{Map, Value, json};

use super::actor::Actor;
use crate::secret::SecretName;

/// What is rare, and goes into SimpleTuner's own trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A secret was set.
    SecretSet(SecretName),
    /// A secret was deleted.
    SecretDeleted(SecretName),
    /// A secret was given another name.
    SecretRenamed(SecretName, SecretName),
    /// A provider's configuration was saved.
    ProviderConfigured(String, ChangedKeys),
    /// A provider's configuration was deleted.
    ProviderDeleted(String),
    /// A provider's configuration was given another name.
    ProviderRenamed(String, String),
}

/// The keys that a save changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedKeys {
    /// Keys that are new, or have another value.
    pub set: Vec<String>,
    /// Keys that are gone.
    pub removed: Vec<String>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadOf {
    /// A secret, through its file.
    Secret(SecretName),
    /// All secrets at once, through a document (its path in the mount).
    All(&'static str),
    /// A secret, by a command or a program without a mount (what it is called).
    Without(SecretName, &'static str),
}

/// A row before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) timestamp: String,
    pub(super) event_type: String,
    pub(super) username: String,
    pub(super) target_type: Option<String>,
    pub(super) target_id: Option<String>,
    pub(super) action: String,
    pub(super) details: String,
}

/// What makes a row, besides who and when.
struct Words {
    event_type: &'static str,
    target: Option<(&'static str, String)>,
    action: String,
    details: Map<String, Value>,
}

fn words(
    event_type: &'static str,
    target: Option<(&'static str, &str)>,
    action: String,
    details: Value,
) -> Words {
    Words {
        event_type,
        target: target.map(|(kind, id)| (kind, id.to_owned())),
        action,
        details: match details {
            Value::Object(details) => details,
            _ => Map::new(),
        },
    }
}

impl Act {
    fn words(&self) -> Words {
        let secret = |key: &SecretName| json!({"key": key});
        match self {
            Act::SecretSet(key) => words(
                "credential.created",
                Some(("credential", key.as_str())),
                format!("Secret {key} set"),
                secret(key),
            ),
            Act::SecretDeleted(key) => words(
                "credential.deleted",
                Some(("credential", key.as_str())),
                format!("Secret {key} deleted"),
                secret(key),
            ),
            Act::SecretRenamed(from, to) => words(
                "credential.created",
                Some(("credential", to.as_str())),
                format!("Secret {from} renamed to {to}"),
                json!({"key": to, "from": from}),
            ),
            Act::ProviderConfigured(name, changed) => {
                let mut details = json!({"provider": name, "keys": changed.set});
                if !changed.removed.is_empty() {
                    details["removed"] = json!(changed.removed);
                }
                words(
                    "provider.configured",
                    Some(("provider", name)),
                    format!("Provider {name} configured"),
                    details,
                )
            }
            Act::ProviderDeleted(name) => words(
                "config.changed",
                Some(("provider", name)),
                format!("Configuration of provider {name} deleted"),
                json!({"provider": name}),
            ),
            Act::ProviderRenamed(from, to) => words(
                "config.changed",
                Some(("provider", to)),
                format!("Configuration of provider {from} renamed to {to}"),
                json!({"provider": to, "from": from}),
            ),
        }
    }

    pub(super) fn entry(&self, actor: &Actor, user: &str, timestamp: String) -> Entry {
        self.words().entry(actor, user, timestamp, None)
    }
}

impl ReadOf {
    pub(super) fn entry(&self, actor: &Actor, user: &str, timestamp: String, count: u64) -> Entry {
        let words = match self {
            ReadOf::Secret(key) => words(
                "credential.used",
                Some(("credential", key.as_str())),
                format!("Secret {key} read"),
                json!({"key": key, "file": format!("secrets/{key}")}),
            ),
            ReadOf::All(file) => words(
                "credential.used",
                Some(("credential", "*")),
                "All secrets read".into(),
                json!({"key": "*", "file": file}),
            ),
            ReadOf::Without(key, how) => words(
                "credential.used",
                Some(("credential", key.as_str())),
                format!("Secret {key} read"),
                json!({"key": key, "file": Value::Null, "by": how}),
            ),
        };
        words.entry(actor, user, timestamp, Some(count))
    }
}

pub(super) fn refusal(
    what: &str,
    actor: &Actor,
    user: &str,
    timestamp: String,
    count: u64,
) -> Entry {
    let words = words(
        "security.permission_denied",
        Some(("credential", what)),
        format!("Access to {what} denied"),
        json!({"key": what}),
    );
    words.entry(actor, user, timestamp, Some(count))
}

/// Of the trail itself.
pub(super) fn of_trail(
    event_type: &'static str,
    action: String,
    details: Value,
    actor: &Actor,
    user: &str,
    timestamp: String,
) -> Entry {
    words(event_type, None, action, details).entry(actor, user, timestamp, None)
}

impl Words {
    fn entry(self, actor: &Actor, user: &str, timestamp: String, count: Option<u64>) -> Entry {
        // Who it was stands among what is signed, too: the columns for it are not.
        let mut details = self.details;
        details.insert("uid".into(), json!(actor.uid));
        details.insert("user".into(), json!(user));
        details.insert("pid".into(), json!(actor.pid));
        details.insert("program".into(), json!(actor.program));
        if let Some(count) = count {
            details.insert("count".into(), json!(count));
        }
        let (target_type, target_id) = match self.target {
            Some((kind, id)) => (Some(kind.to_owned()), Some(id)),
            None => (None, None),
        };
        Entry {
            timestamp,
            event_type: self.event_type.into(),
            username: format!("unix:{user}"),
            target_type,
            target_id,
            action: self.action,
            details: Value::Object(details).to_string(),
        }
    }
}
