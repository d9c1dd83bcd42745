//! How it is recorded who opens the views' files.

use std::sync::Arc;

use crate::audit::AuditTrail;

/// How it is recorded who opens files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenAudit {
    /// Not at all: the kernel opens files by itself.
    #[default]
    Off,
    /// The kernel opens files by itself, and queues a report of each open (fanotify(7)).
    Fanotify,
    /// The server answers each open.
    Open,
}

/// How opens are recorded, and where.
#[derive(Default)]
pub(super) struct Opens {
    pub(super) audit: OpenAudit,
    pub(super) trail: Option<Arc<AuditTrail>>,
}

impl OpenAudit {
    /// As `status` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            OpenAudit::Off => "off",
            OpenAudit::Fanotify => "fanotify",
            OpenAudit::Open => "open",
        }
    }
}
