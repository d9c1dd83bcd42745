//! Views: folders of secrets that other users may read, in a mount of their own. Knows no fuser type, and nothing of what the live tree
//! writes.
//!
//! [`ViewStore`] has the definitions, [`Views`] is the read-only tree of files over them and over the manager's snapshot.

mod answer;
pub mod cdi;
pub mod definition;
mod document;
mod files;
mod notify;
mod open_audit;
mod opens;
mod options;
mod owner;
mod pattern;
mod store;
mod tree;
mod view;

pub use answer::{Answer, Ask, Entry, Listed, ViewAttr, ViewError};
pub use definition::{DocumentFormat, ViewDefinition};
pub use document::MAX_VIEWS;
pub(crate) use document::{MAX_FILE as MAX_VIEWS_FILE, count as count_views};
pub use open_audit::OpenAudit;
pub use owner::{FileOwner, Missing};
pub use pattern::Pattern;
pub use store::{DefinitionsListener, ViewStore, read_definitions};
pub use tree::Views;
pub use view::{Definitions, DefinitionsChange, View};

/// The inode number of the root folder.
pub const ROOT: u64 = 1;
