//! The files `views/NAME.json`: the definitions of views.

use std::sync::Arc;
use std::time::SystemTime;

use super::Tree;
use super::kind::DirKind;
use super::resolved::Resolved;
use crate::error::{Error, Result};
use crate::secret::SecretValue;
use crate::views::{DefinitionsChange, ViewStore};

impl Tree {
    /// The definitions of views have changed.
    pub(super) fn views_changed(&self, change: &DefinitionsChange) {
        for (view, is_there) in change.views() {
            let event = match is_there {
                true => "view_set",
                false => "view_removed",
            };
            let at = crate::provider::rfc3339(SystemTime::now());
            self.add_event(&serde_json::json!({ "at": at, "event": event, "view": view.name }));
        }
        self.layout.mark_changed(&DirKind::Views);
        self.changed();
    }

    /// A view's definition.
    pub(super) fn view(&self, name: &str) -> Resolved {
        let views = self.views.as_ref().map(|views| views.current());
        match views.as_ref().and_then(|views| views.get(name)) {
            Some(view) => {
                let mut text = format!("{:#}", view.definition.to_json());
                text.push('\n');
                Resolved::lasting(SecretValue::new(&text), view.changed_at)
            }
            None => Resolved::Missing,
        }
    }

    pub(super) fn views_or_eperm(&self) -> Result<&Arc<ViewStore>> {
        self.views.as_ref().ok_or_else(|| {
            let none = std::io::Error::from_raw_os_error(libc::EPERM);
            Error::io("this tree has no views", none)
        })
    }
}
