//! The columns of a row before it is signed.

use serde_json::{Map, Value, json};

use super::actor::Actor;

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
    target: Option<(&'static str, String)>,
    action: String,
    details: Map<String, Value>,
}

impl RowFields {
    /// `target` is its type and id.
    pub(super) fn new(
        event_type: &'static str,
        target: Option<(&'static str, &str)>,
        action: String,
        details: Value,
    ) -> Self {
        Self {
            event_type,
            target: target.map(|(kind, id)| (kind, id.to_owned())),
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
        // The actor is repeated in the details, because SimpleTuner's signature covers those, but not the username column.
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
