//! What is in a folder.

use super::nodes::{Handle, Kind};
use super::places::{Dir, File, Place, shown};
use super::{Caller, FileType, Found, Stop, Tree};

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

impl Tree {
    /// Opens a folder: the names are those of now, whatever changes while they are read.
    ///
    /// # Errors
    /// EACCES, ENOTDIR.
    pub fn open_dir(&self, caller: &Caller, ino: u64) -> Result<u64, Stop> {
        let mut state = self.state();
        let dir = state.dir(ino).ok_or(Stop::Errno(libc::ENOTDIR))?.clone();
        if let Some((handle, _)) = state.opened_before(caller) {
            return Ok(handle);
        }
        let mut listing: Vec<(String, u64)> = state.subdirs.get(&ino).cloned().unwrap_or_default();
        for name in self.names_in(&dir) {
            let place = Place { dir: ino, name };
            // Scratch is for who made it, and knows the name.
            if !matches!(self.file_at(&state, &place), None | Some(File::Scratch)) {
                let entry = state.entry_at(&place);
                listing.push((place.name, entry));
            }
        }
        Ok(state.add_handle(caller, Handle::Dir { listing, dir: ino }))
    }

    fn names_in(&self, dir: &Dir) -> Vec<String> {
        let fixed = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        match dir {
            Dir::Root => fixed(&["events", "status"]),
            Dir::Secrets => {
                // Nobody waits for it: whoever lists again sees what is there now.
                self.manager.fetch_all(Box::new(|| {}));
                let names = self.manager.names();
                names.iter().map(|(name, _)| name.to_string()).collect()
            }
            Dir::Bundle => fixed(&["secrets.json", "secrets.yaml", "secrets.env"]),
            Dir::Providers => self
                .manager
                .reports()
                .iter()
                .map(|report| report.name.clone())
                .collect(),
            Dir::Hardware => {
                let ids = self.hardware.table();
                ids.keys()
                    .map(String::as_str)
                    .chain(["all"])
                    .map(|id| format!("{id}.json"))
                    .collect()
            }
            Dir::Config => {
                let names = self.configs.iter().flat_map(|configs| configs.names());
                names.map(|name| format!("{name}.json")).collect()
            }
            Dir::Cache | Dir::CacheOf(_) => fixed(&["stats", "clear", "invalidate"]),
        }
    }

    /// The entries of an open folder from `offset` on, `.` and `..` first; `emit` gets each with the offset after it
    /// and says whether it still had room.
    ///
    /// # Errors
    /// EBADF.
    pub fn read_dir(
        &self,
        handle: u64,
        offset: u64,
        mut emit: impl FnMut(Listed, u64) -> bool,
    ) -> Result<(), i32> {
        let state = self.state();
        let Some(Handle::Dir { listing, dir }) = state.handle(handle) else {
            return Err(libc::EBADF);
        };
        let dots = [(".", *dir), ("..", super::ROOT)];
        let dots = dots.iter().map(|(name, ino)| (*name, *ino));
        let names = listing.iter().map(|(name, ino)| (name.as_str(), *ino));
        for (index, (name, ino)) in dots.chain(names).enumerate().skip(offset as usize) {
            let kind = match state.nodes.get(&ino).map(|node| &node.kind) {
                Some(Kind::Dir(_)) => FileType::Dir,
                _ => FileType::File,
            };
            if !emit(
                Listed {
                    ino,
                    kind,
                    name: shown(name).into(),
                },
                index as u64 + 1,
            ) {
                break;
            }
        }
        Ok(())
    }

    /// The same with what a lookup of each name gives; a name that is gone since is left out. What `emit` had room for
    /// counts as looked up.
    ///
    /// # Errors
    /// EBADF.
    pub fn read_dir_plus(
        &self,
        handle: u64,
        offset: u64,
        mut emit: impl FnMut(&str, &Found, u64) -> bool,
    ) -> Result<(), i32> {
        let mut state = self.state();
        let Some(Handle::Dir { listing, dir }) = state.handle(handle) else {
            return Err(libc::EBADF);
        };
        let dir = *dir;
        let start = offset as usize;
        let names: Vec<String> = listing
            .iter()
            .skip(start.saturating_sub(2))
            .map(|(name, _)| name.clone())
            .collect();
        for (index, (name, ino)) in [(".", dir), ("..", super::ROOT)]
            .into_iter()
            .enumerate()
            .skip(start)
        {
            let found = Found {
                node: ino,
                attr: self.dir_attr(&state, ino),
                valid: super::DIR_VALID,
            };
            if !emit(name, &found, index as u64 + 1) {
                return Ok(());
            }
        }
        for (index, name) in names.iter().enumerate() {
            // No thread's walk: a writer on its way is not served by a listing.
            let Ok(found) = self.lookup_in(&mut state, 0, dir, name) else {
                continue;
            };
            if !emit(shown(name), &found, (start.max(2) + index) as u64 + 1) {
                state.forget(found.node, 1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Closes a folder.
    pub fn release_dir(&self, handle: u64) {
        self.state().handles.remove(&handle);
    }
}
