//! What is in a folder. An open folder holds nothing: names are listed in the order of a hash, which is the offset, so
//! that a listing goes on where it was after any change, and begins anew when it is told to.

use std::collections::HashMap;

use super::content::{Freshness, Resolved};
use super::layout::{Dir, FileType};
use super::{Attr, Caller, Found, OpError, Tree, lock};
use crate::versions::Place;

/// For how long `stat` may take what a listing said of a name. An open looks the name up anew in any case.
const LISTED_VALID: std::time::Duration = std::time::Duration::from_secs(1);

/// A name in a folder.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its number, as `stat` shows it.
    pub ino: u64,
    /// Folder or file.
    pub kind: FileType,
    /// The name.
    pub name: String,
}

/// Open folders whose last page of names the kernel may not have taken in yet, and whether something has changed since
/// that was made. The kernel gives the names the epoch of when it takes them in, so such a change needs another epoch.
#[derive(Default)]
pub(super) struct Outstanding {
    next: u64,
    by_handle: HashMap<u64, bool>,
}

impl Tree {
    /// Opens a folder.
    ///
    /// # Errors
    /// EACCES, ENOTDIR.
    pub fn open_dir(&self, caller: &Caller, ino: u64) -> Result<u64, OpError> {
        self.admit(caller, "opendir")?;
        let dir = self.layout.dir(ino).ok_or(OpError::Errno(libc::ENOTDIR))?;
        if *dir == Dir::Secrets {
            // Nobody waits for it: who lists again sees what is there now.
            self.manager.fetch_all(Box::new(|| {}));
        }
        let mut listings = lock(&self.listings);
        listings.next += 1;
        Ok(listings.next)
    }

    fn names_in(&self, dir: &Dir) -> Vec<String> {
        match dir {
            Dir::Secrets => {
                let snapshot = self.manager.snapshot();
                let names = snapshot.names().iter();
                names.map(|(name, _)| name.to_string()).collect()
            }
            Dir::Bundle => super::bundle::BundleFormat::ALL
                .map(|format| format.file_name().to_owned())
                .into(),
            Dir::Hardware => {
                let ids = self.hardware.table();
                let ids = ids.keys().map(String::as_str).chain(["all"]);
                ids.map(|id| format!("{id}.json")).collect()
            }
            Dir::Config => {
                let names = self.configs.iter().flat_map(|configs| configs.names());
                names.map(|name| format!("{name}.json")).collect()
            }
            Dir::Root | Dir::Providers | Dir::Cache | Dir::CacheOf(_) => Vec::new(),
        }
    }

    /// All names of a folder behind the offset, each with its own; those of the dots, folders and generated files are
    /// the smallest.
    fn page(&self, ino: u64, offset: u64) -> Result<Vec<(u64, Listed)>, OpError> {
        let dir = self.layout.dir(ino).ok_or(OpError::Errno(libc::ENOTDIR))?;
        let dots = [
            (".", ino, FileType::Dir),
            ("..", self.layout.parent(ino), FileType::Dir),
        ];
        let fixed = dots.into_iter().chain(self.layout.fixed_in(ino));
        let fixed = fixed.enumerate().map(|(index, (name, ino, kind))| {
            let name = name.to_owned();
            (index as u64 + 1, Listed { ino, kind, name })
        });
        let mut page: Vec<_> = fixed.filter(|(at, _)| *at > offset).collect();
        let behind_fixed = page.len();
        let state = self.state();
        page.extend(self.names_in(dir).into_iter().filter_map(|name| {
            let place = Place::new(ino, &name);
            let at = place.number();
            (at > offset && state.scratch(&place).is_none()).then(|| {
                let ino = state.number_of(&place);
                let kind = FileType::File;
                (at, Listed { ino, kind, name })
            })
        }));
        drop(state);
        page[behind_fixed..].sort_unstable_by_key(|(at, _)| *at);
        Ok(page)
    }

    /// The entries of a folder from `offset` on; `emit` gets each with the offset after it and says whether it still had
    /// room.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn read_dir(
        &self,
        ino: u64,
        offset: u64,
        mut emit: impl FnMut(Listed, u64) -> bool,
    ) -> Result<(), OpError> {
        for (at, listed) in self.page(ino, offset)? {
            if !emit(listed, at) {
                break;
            }
        }
        Ok(())
    }

    /// The same with what `stat` shows of each name. What `emit` had room for counts as looked up.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn read_dir_plus(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut emit: impl FnMut(&str, &Found, u64) -> bool,
    ) -> Result<(), OpError> {
        self.listing_is_out(handle);
        let page = self.page(ino, offset)?;
        for (at, listed) in page {
            let Some(found) = self.listed(ino, &listed) else {
                continue;
            };
            if !emit(&listed.name, &found, at) {
                self.forget(found.node, 1);
                break;
            }
        }
        Ok(())
    }

    fn listed(&self, dir: u64, listed: &Listed) -> Option<Found> {
        let valid = match self.names.are_held() {
            true => LISTED_VALID,
            false => std::time::Duration::ZERO,
        };
        let attr = |ino, attr| Found {
            node: ino,
            attr: Attr { valid, ..attr },
            valid,
        };
        if matches!(listed.name.as_str(), "." | "..") || listed.ino < crate::versions::FIRST_FILE {
            let caller = self.own_caller();
            let own = self.attr(&caller, listed.ino, true).ok()?;
            return Some(attr(listed.ino, own));
        }
        let place = Place::new(dir, &listed.name);
        let file = self.layout.file_at(&place)?;
        let resolved = self.resolve(&file, Freshness::LastKnown);
        let mut state = self.state();
        let (size, changed_at, is_known) = match &resolved {
            Resolved::Content(content) => {
                let mtime = self.mtime_of(&state, &place, content);
                (content.value.len(), mtime, true)
            }
            Resolved::Missing => return None,
            Resolved::Failed(_) | Resolved::Blocked(_) => (0, self.begun(), false),
        };
        let node = state.listed(&place);
        let mut found = attr(
            node,
            self.file_attr(listed.ino, file.mode(), size, changed_at),
        );
        if !is_known {
            found.valid = std::time::Duration::ZERO;
            found.attr.valid = std::time::Duration::ZERO;
        }
        Some(found)
    }

    fn own_caller(&self) -> Caller {
        Caller {
            uid: self.owner.uid,
            gid: self.owner.gid,
            tid: 0,
            request: 0,
            is_resend: false,
        }
    }

    /// Closes a folder.
    pub fn release_dir(&self, handle: u64) {
        let has_changed = lock(&self.listings).by_handle.remove(&handle);
        if has_changed == Some(true) {
            self.names.next_epoch();
        }
    }

    /// A page of names is on its way to the kernel, which has taken in all before it.
    fn listing_is_out(&self, handle: u64) {
        let has_changed = lock(&self.listings).by_handle.insert(handle, false);
        if has_changed == Some(true) {
            self.names.next_epoch();
        }
    }

    /// Something has changed under listings that are on their way.
    pub(super) fn listings_outdated(&self) {
        for has_changed in lock(&self.listings).by_handle.values_mut() {
            *has_changed = true;
        }
    }
}
