//! READDIR and READDIRPLUS. An open folder holds no copy of its names. The offset of a name is its hash, and names are listed in that
//! order, so a listing continues at the right place after any change, and rewinddir(3) lists anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::kind::{DirKind, FileKind, FileType};
use super::resolved::{Freshness, Resolved};
use super::{Attr, Caller, LookupReply, OpError, Tree, WaitOn};
use crate::cache::function_caches;
use crate::clock::Instant;
use crate::manager::Snapshot;
use crate::versions::DirEntry;

/// How long `stat` may use the attributes that a listing gave. An open looks the name up anew in any case.
const LISTED_VALID: Duration = Duration::from_secs(1);
/// From how many names on a folder is large: to look each of them up anew for `ls -l` takes a busy machine too long.
const MANY_NAMES: usize = 200;

/// A name in a folder.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its number, as `stat` shows it.
    pub ino: u64,
    /// Folder or file.
    pub file_type: FileType,
    /// The name.
    pub name: String,
}

/// Open folders whose last page of names the kernel may not have processed yet, and whether something has changed since
/// that page was made. The kernel stamps the names with the epoch at which it processes them, so after such a change it
/// needs another epoch.
pub(super) struct UnprocessedListings {
    next: u64,
    by_handle: HashMap<u64, bool>,
    many_names: usize,
    /// The secrets' names in the order in which they are listed, as long as a folder is open.
    secrets: Option<(Arc<Snapshot>, Names)>,
}

impl UnprocessedListings {
    /// None of the handles is one that an earlier server gave: those count nanoseconds since the machine's start, too.
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now().since_boot().as_nanos() as u64,
            by_handle: HashMap::new(),
            many_names: MANY_NAMES,
            secrets: None,
        }
    }
}

/// Names in the order in which they are listed, each with its offset.
type Names = Arc<Vec<(u64, String)>>;

impl Tree {
    /// Opens a folder. No listing waits for a backend, but it would be empty until the secrets file has been read once.
    ///
    /// # Errors
    /// EACCES, ENOTDIR. [`OpError::Blocked`] on the first read of the secrets file.
    pub fn open_dir(&self, caller: &Caller, ino: u64, has_waited: bool) -> Result<u64, OpError> {
        self.check_caller_of(caller, ino)?;
        let dir = self.layout.dir(ino).ok_or(OpError::Errno(libc::ENOTDIR))?;
        if *dir == DirKind::Secrets {
            if !has_waited && !self.manager.has_read_store() {
                return Err(OpError::Blocked(WaitOn::Store));
            }
            // The listing does not wait for it; the next listing shows what came.
            self.manager.refresh_async(Box::new(|_| {}));
        }
        let mut listings = self.listings.lock();
        listings.next += 1;
        let handle = listings.next;
        listings.by_handle.insert(handle, false);
        Ok(handle)
    }

    /// The names in a folder that are not always there, each with its offset, in that order.
    fn names_in(&self, ino: u64, dir: &DirKind) -> Names {
        let in_order = |names: Vec<String>| {
            let offset = |name: String| (DirEntry::new(ino, &name).hashed_ino(), name);
            let mut names: Vec<_> = names.into_iter().map(offset).collect();
            names.sort_unstable();
            Arc::new(names)
        };
        match dir {
            DirKind::Secrets => {
                let snapshot = self.manager.snapshot();
                let mut listings = self.listings.lock();
                if let Some((of, names)) = &listings.secrets
                    && Arc::ptr_eq(of, &snapshot)
                {
                    return names.clone();
                }
                let names = snapshot.names().iter();
                let names = in_order(names.map(|(name, _)| name.to_string()).collect());
                listings.secrets = Some((snapshot, names.clone()));
                names
            }
            DirKind::Bundle => in_order(
                crate::bundle::BundleFormat::ALL
                    .map(|format| format.file_name().to_owned())
                    .into(),
            ),
            DirKind::Hardware => {
                let ids = self.hardware.table();
                let ids = ids.keys().map(String::as_str).chain(["all"]);
                in_order(ids.map(|id| format!("{id}.json")).collect())
            }
            DirKind::Config => {
                let names = self.configs.iter().flat_map(|configs| configs.try_list());
                in_order(names.map(|name| format!("{name}.json")).collect())
            }
            DirKind::Views => {
                let views = self.views.iter().map(|views| views.current());
                let names = views.flat_map(|views| {
                    let names = views.all().map(|view| format!("{}.json", view.name));
                    names.collect::<Vec<_>>()
                });
                in_order(names.collect())
            }
            DirKind::Root | DirKind::Providers | DirKind::Cache | DirKind::CacheOf(_) => {
                Arc::default()
            }
        }
    }

    /// From how many names on a folder counts as large. For tests.
    pub fn set_many_names(&self, count: usize) {
        self.listings.lock().many_names = count;
    }

    /// Calls `emit` with each name behind the offset, the name's own offset, and how many names of the folder come and go, until
    /// `emit` returns true. The dots, folders and generated files have the smallest offsets.
    fn page(
        &self,
        ino: u64,
        offset: u64,
        mut emit: impl FnMut(u64, Listed, usize) -> bool,
    ) -> Result<(), OpError> {
        let dir = self.layout.dir(ino).ok_or(OpError::Errno(libc::ENOTDIR))?;
        self.layout.add_caches(ino, || function_caches().names());
        let dots = [
            (".", ino, FileType::Dir),
            ("..", self.layout.parent(ino), FileType::Dir),
        ];
        let fixed = dots.into_iter().chain(self.layout.static_entries(ino));
        let names = self.names_in(ino, dir);
        for (at, (name, ino, file_type)) in (1..).zip(fixed) {
            let name = name.to_owned();
            if at > offset
                && emit(
                    at,
                    Listed {
                        ino,
                        file_type,
                        name,
                    },
                    names.len(),
                )
            {
                return Ok(());
            }
        }
        let behind = names.partition_point(|(at, _)| *at <= offset);
        for (at, name) in &names[behind..] {
            let dir_entry = DirEntry::new(ino, name);
            let number = {
                let state = self.state();
                if state.scratch(&dir_entry).is_some() {
                    continue;
                }
                state.st_ino_of(&dir_entry)
            };
            let listed = Listed {
                ino: number,
                file_type: FileType::File,
                name: dir_entry.name,
            };
            if emit(*at, listed, names.len()) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Calls `emit` with each entry of a folder from `offset` on and the offset after it. `emit` returns whether it still
    /// had room.
    ///
    /// # Errors
    /// EACCES, ENOTDIR.
    pub fn read_dir(
        &self,
        caller: &Caller,
        ino: u64,
        offset: u64,
        mut emit: impl FnMut(Listed, u64) -> bool,
    ) -> Result<(), OpError> {
        self.check_caller_of(caller, ino)?;
        self.page(ino, offset, |at, listed, _| !emit(listed, at))
    }

    /// As [`read_dir`](Self::read_dir), with what `stat` shows of each name. Each name that `emit` had room for counts as looked up.
    ///
    /// # Errors
    /// EACCES, ENOTDIR.
    pub fn read_dir_plus(
        &self,
        caller: &Caller,
        ino: u64,
        handle: u64,
        offset: u64,
        mut emit: impl FnMut(&str, &LookupReply, u64) -> bool,
    ) -> Result<(), OpError> {
        self.check_caller_of(caller, ino)?;
        self.listing_is_out(handle);
        let many_names = self.listings.lock().many_names;
        self.page(ino, offset, |at, listed, count| {
            let found = self.listed(ino, &listed, count >= many_names);
            found.is_some_and(|found| !emit(&listed.name, &found, at))
        })
    }

    /// The kernel stamps the names of a page with the epoch at which it processes them: of a change before that it hears only at
    /// the lister's next request. So it keeps a file's attributes only where `stat` would take too long otherwise: in a large folder, or
    /// if it had to wait.
    fn listed(&self, dir: u64, listed: &Listed, is_large: bool) -> Option<LookupReply> {
        let valid = match self.names.are_held() {
            true => LISTED_VALID,
            false => Duration::ZERO,
        };
        let attr = |ino, attr| LookupReply {
            nodeid: ino,
            attr: Attr { valid, ..attr },
            valid,
        };
        if matches!(listed.name.as_str(), "." | "..") || listed.ino < crate::versions::FIRST_FILE {
            let caller = self.own_caller();
            let present = self.attr(&caller, listed.ino, true).ok()?;
            let mut found = attr(listed.ino, present);
            // A control file's content changes without an epoch.
            found.attr.valid = valid.min(present.valid);
            return Some(found);
        }
        let dir_entry = DirEntry::new(dir, &listed.name);
        let kind = self.layout.kind_at(&dir_entry)?;
        let resolved = self.resolve(&kind, Freshness::LastKnown);
        let mut state = self.state();
        let (size, changed_at, is_kept) = match &resolved {
            Resolved::Content(content) => {
                let mtime = self.mtime_of(&state, &dir_entry, content);
                // What a configuration is the database says at once, though it may change at any time.
                let must_wait = content.fresh_for.is_zero() && !matches!(kind, FileKind::Config(_));
                let is_kept = must_wait || (is_large && !state.is_written(&dir_entry));
                (content.value.len(), mtime, is_kept)
            }
            Resolved::Missing => return None,
            Resolved::Failed(_) | Resolved::Blocked(_) => (0, self.started_at(), false),
        };
        let nodeid = state.placeholder_for(&dir_entry);
        let mut found = attr(
            nodeid,
            self.file_attr(listed.ino, kind.mode(), size, changed_at),
        );
        if !is_kept {
            found.valid = Duration::ZERO;
            found.attr.valid = Duration::ZERO;
        }
        Some(found)
    }

    fn own_caller(&self) -> Caller {
        Caller {
            uid: self.owner.uid,
            tid: 0,
            request: 0,
            is_resend: false,
        }
    }

    /// Closes a folder.
    pub fn release_dir(&self, handle: u64) {
        let has_changed = {
            let mut listings = self.listings.lock();
            let has_changed = listings.by_handle.remove(&handle);
            if listings.by_handle.is_empty() {
                listings.secrets = None;
            }
            has_changed
        };
        // What has changed under the pages of an earlier server is not known.
        if has_changed != Some(false) {
            self.names.next_epoch();
        }
    }

    /// A page of names goes to the kernel, which has processed all pages before it.
    fn listing_is_out(&self, handle: u64) {
        let has_changed = self.listings.lock().by_handle.insert(handle, false);
        if has_changed != Some(false) {
            self.names.next_epoch();
        }
    }

    /// Something has changed under pages that the kernel has not processed.
    pub(super) fn listings_outdated(&self) {
        for has_changed in self.listings.lock().by_handle.values_mut() {
            *has_changed = true;
        }
    }
}
