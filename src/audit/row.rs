//! The columns of a row before it is signed.

use serde_json::{Map, Value, json};

use super::actor::Actor;
use super::container_names::container_name;

/// A row that has neither an id nor a place in the chain yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnsignedRow {
    pub(super) timestamp: String,
    pub(super) event_type: String,
    pub(super) username: String,
    pub(super) target_type: Option<String>,
    pub(super) target_id: Option<String>,
    pub(super) action: String,
    pub(super) details: String,
}

/// What happened; actor, time and count are added by [`row`](Self::row).
pub(super) struct RowFields {
    event_type: &'static str,
    action: String,
    details: Map<String, Value>,
}

/// The columns that SimpleTuner's signature does not cover, as the signed details have them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SignedColumns {
    pub(super) username: String,
    /// Its type and id.
    pub(super) target: Option<(&'static str, String)>,
}

impl SignedColumns {
    /// `None`: another program wrote the row.
    pub(super) fn of(details: &str) -> Option<Self> {
        Self::of_details(&serde_json::from_str(details).ok()?)
    }

    fn of_details(details: &Map<String, Value>) -> Option<Self> {
        let text = |field: &str| details.get(field).and_then(Value::as_str);
        let is_ours = ["uid", "pid", "program"]
            .iter()
            .all(|field| details.contains_key(*field));
        let user = text("user").filter(|_| is_ours)?;
        let key = text("key").map(|key| ("credential", key.to_owned()));
        let provider = || text("provider").map(|provider| ("provider", provider.to_owned()));
        let view = || text("view").map(|view| ("view", view.to_owned()));
        Some(Self {
            username: format!("unix:{user}"),
            target: key.or_else(provider).or_else(view),
        })
    }
}

impl RowFields {
    /// The details' `key`, `provider` or `view` is the row's target.
    pub(super) fn new(event_type: &'static str, action: String, details: Value) -> Self {
        Self {
            event_type,
            action,
            details: match details {
                Value::Object(details) => details,
                _ => Map::new(),
            },
        }
    }

    pub(super) fn row(
        self,
        actor: &Actor,
        user: &str,
        timestamp: String,
        count: Option<u64>,
    ) -> UnsignedRow {
        // SimpleTuner's signature covers the details, but not the columns of the user and the target.
        let mut details = self.details;
        details.insert("uid".into(), json!(actor.uid));
        details.insert("user".into(), json!(user));
        details.insert("pid".into(), json!(actor.pid));
        details.insert("program".into(), json!(actor.program));
        if let Some(container) = &actor.container {
            details.insert("container".into(), json!(container));
            let name = container_name(container);
            details.extend(name.map(|name| ("container_name".into(), json!(name))));
        }
        if let Some(unit) = &actor.unit {
            details.insert("unit".into(), json!(unit));
        }
        if let Some(count) = count {
            details.insert("count".into(), json!(count));
        }
        let columns = SignedColumns::of_details(&details);
        let target = columns.and_then(|columns| columns.target);
        let (target_type, target_id) = target.map(|(kind, id)| (kind.to_owned(), id)).unzip();
        UnsignedRow {
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
