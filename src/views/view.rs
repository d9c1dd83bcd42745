//! A view in force, and all of them at one moment. A change of the definitions makes the next such moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::definition::ViewDefinition;
use super::document::to_text;
use super::owner::FileOwner;
use crate::versions::DirEntry;

/// The bit that the inode numbers of folders have.
const FOLDER: u64 = 1 << 62;

/// A view in force.
#[derive(Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// What was written.
    pub definition: ViewDefinition,
    /// Who owns its files.
    pub owner: FileOwner,
    /// When it was defined so, or later: a process that starts knows only when the file was last written.
    pub changed_at: SystemTime,
    /// The inode number of its folder.
    pub folder: u64,
}

/// The inode number of a view's folder: the same for each server, and again after the view was removed and made anew.
pub fn folder_of(name: &str) -> u64 {
    DirEntry::new(super::ROOT, name).hashed_ino() | FOLDER
}

/// Whether this is the inode number of a view's folder, be the view defined or not.
pub fn is_folder(ino: u64) -> bool {
    ino & FOLDER != 0
}

/// All views in force at one moment.
#[derive(Debug, Default)]
pub struct Definitions {
    by_name: BTreeMap<String, Arc<View>>,
    by_folder: HashMap<u64, Arc<View>>,
}

impl Definitions {
    /// A view by its name.
    pub fn get(&self, name: &str) -> Option<&Arc<View>> {
        self.by_name.get(name)
    }

    /// A view by its folder's inode number.
    pub fn at(&self, folder: u64) -> Option<&Arc<View>> {
        self.by_folder.get(&folder)
    }

    /// All views, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<View>> {
        self.by_name.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The file's content.
    pub fn to_text(&self) -> String {
        let views = self.all();
        to_text(
            &views
                .map(|view| (view.name.clone(), view.definition.clone()))
                .collect(),
        )
    }

    /// For the next server: the time of each view in seconds, in a line of JSON, and the file's content.
    pub fn to_record(&self) -> String {
        let since = |view: &View| view.changed_at.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = |view: &View| since(view).map_or(0, |since| since.as_secs());
        let times = self.all().map(|view| (&*view.name, seconds(view)));
        let times: BTreeMap<&str, u64> = times.collect();
        format!("{}\n{}", serde_json::json!(times), self.to_text())
    }

    /// The next definitions: views that stay as they are keep their time, and `changed_at` is that of the others.
    pub(super) fn next(
        &self,
        parsed: BTreeMap<String, ViewDefinition>,
        mounting: FileOwner,
        changed_at: impl Fn(&str) -> SystemTime,
    ) -> Self {
        let mut next = Self::default();
        for (name, definition) in parsed {
            let (owner, warnings) = FileOwner::of(&definition, mounting);
            let known = self.get(&name);
            let known = known.filter(|view| view.definition == definition && view.owner == owner);
            let view = known.cloned().unwrap_or_else(|| {
                for warning in warnings {
                    tracing::warn!("the view {name}: {warning}");
                }
                Arc::new(View {
                    folder: folder_of(&name),
                    changed_at: changed_at(&name),
                    name: name.clone(),
                    definition,
                    owner,
                })
            });
            next.by_folder.insert(view.folder, view.clone());
            next.by_name.insert(name, view);
        }
        next
    }
}

/// A change of the definitions.
#[derive(Clone)]
pub struct DefinitionsChange {
    /// The definitions until now.
    pub before: Arc<Definitions>,
    /// Those in force from now on.
    pub after: Arc<Definitions>,
    /// The same change once more, a moment later: the kernel may have had an answer from before it on the way.
    pub is_repeat: bool,
}

impl DefinitionsChange {
    /// The views that differ, as they are now or were until now; each with whether it is there now.
    pub fn views(&self) -> impl Iterator<Item = (&Arc<View>, bool)> {
        let changed = self
            .after
            .all()
            .filter(|view| self.before.get(&view.name) != Some(view));
        let removed = self
            .before
            .all()
            .filter(|view| self.after.get(&view.name).is_none());
        changed
            .map(|view| (view, true))
            .chain(removed.map(|view| (view, false)))
    }
}
