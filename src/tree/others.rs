//! What callers may do who are neither the mounting user nor root (with `--allow-other`): read the secrets that the
//! settings' `access` names for them, and a bundle of just those. All else is refused, and all writing.
//!
//! The kernel's names and pages are shared by all users, so nothing may rest on what it asks: a name that one user looked
//! up leads another to the same inode, whose open is judged here. A secret's inode is the same for all who may read it.
//! A bundle has one for each permission, under a name that the kernel cannot send (`secrets.json/HF_*`), and the names
//! that lead there are asked for each time.

use std::time::Duration;

use super::bundle::BundleFormat;
use super::marks::Purpose;
use super::nodes::{Kind, State};
use super::places::{Dir, File, Place, shown};
use super::{Caller, Found, ROOT, Stop, Tree, WaitOn};
use crate::access::{Known, Permitted};
use crate::secret::SecretName;

/// What a caller may do with an inode.
enum May {
    Read,
    /// Another inode of the same name, at this place.
    ReadAt(Place),
    /// The name is to be looked up anew.
    LookAgain,
    Nothing,
}

impl Tree {
    /// Whether the caller may do all that can be done here.
    pub(super) fn admits(&self, caller: &Caller) -> bool {
        caller.uid == self.owner.0 || (self.allow_other && caller.uid == 0)
    }

    /// What the caller may read; `None`: everything.
    pub(super) fn sight(&self, caller: &Caller) -> Result<Option<Permitted>, Stop> {
        if self.admits(caller) {
            return Ok(None);
        }
        match self.manager.access().known(caller.uid) {
            Known::Permitted(permitted) => Ok(Some(permitted)),
            Known::Unknown => Err(Stop::Wait(WaitOn::User(caller.uid))),
            // The reason is in the log already.
            Known::Failed(_) => Err(Stop::Errno(libc::EIO)),
        }
    }

    /// Whether anybody besides the mounting user and root may be let in.
    pub(super) fn lets_others_in(&self) -> bool {
        self.allow_other && self.manager.access().has_rules()
    }

    /// Refuses a change of a name in a folder to all but those who may do everything.
    pub(super) fn admit(&self, caller: &Caller, parent: u64, name: &str) -> Result<(), Stop> {
        if self.admits(caller) {
            return Ok(());
        }
        Err(self.deny(&self.state(), caller, parent, name))
    }

    /// Refuses a change of an inode to all but those who may do everything.
    pub(super) fn admit_to(&self, caller: &Caller, ino: u64) -> Result<(), Stop> {
        if self.admits(caller) {
            return Ok(());
        }
        Err(self.deny_inode(&self.state(), caller, ino))
    }

    pub(super) fn lookup_for_other(
        &self,
        caller: &Caller,
        parent: u64,
        name: &str,
    ) -> Result<Found, Stop> {
        let sight = self.sight(caller);
        let mut state = self.state();
        let denied = |state: &State| Err(self.deny(state, caller, parent, name));
        let place = match state.dir(parent) {
            // These two are passed through by anybody, so that what is refused is a secret, by its name.
            Some(Dir::Root) if matches!(name, "secrets" | "bundle") => {
                return self.lookup_in(&mut state, caller.pid, parent, name);
            }
            Some(Dir::Secrets) if SecretName::new(name).is_ok() => Place {
                dir: parent,
                name: name.into(),
            },
            Some(Dir::Bundle) if BundleFormat::of_file(name).is_some() => Place {
                dir: parent,
                name: name.into(),
            },
            _ => return denied(&state),
        };
        let permitted = match sight {
            Ok(Some(permitted)) => permitted,
            Err(Stop::Wait(_)) => return Ok(self.look_later(&mut state, &place)),
            Err(stop) => return Err(stop),
            Ok(None) => return self.lookup_in(&mut state, caller.pid, parent, name),
        };
        match self.seen_at(&state, &place, &permitted) {
            Some(seen) => self.lookup_in(&mut state, caller.pid, parent, &seen.name),
            None => denied(&state),
        }
    }

    /// Where a caller with this permission finds what has this name; `None`: he may not.
    pub(super) fn seen_at(
        &self,
        state: &State,
        place: &Place,
        permitted: &Permitted,
    ) -> Option<Place> {
        let name = match self.file_at(state, place)? {
            File::Secret(secret) if permitted.allows(&secret) => place.name.clone(),
            File::Bundle(format) if !permitted.is_nothing() => format.file_name_for(permitted),
            _ => return None,
        };
        let dir = place.dir;
        Some(Place { dir, name })
    }

    /// An inode for a name of which is not known yet whether the caller may see it, whether it is there or not: whoever
    /// goes on to look at it or to open it waits there, and then looks it up anew.
    fn look_later(&self, state: &mut State, place: &Place) -> Found {
        let entry = state.new_entry(place, false);
        let node = state.version_of(entry, None);
        state.count_lookup(node);
        self.found(state, node, Duration::ZERO)
    }

    fn may(&self, state: &State, ino: u64, permitted: &Permitted) -> May {
        let entry = match state.nodes.get(&ino).map(|node| &node.kind) {
            Some(Kind::Version(version)) => version.entry,
            Some(Kind::Private(private)) => private.entry,
            Some(Kind::Dir(Dir::Root | Dir::Secrets | Dir::Bundle)) if !permitted.is_nothing() => {
                return May::Read;
            }
            None => return May::LookAgain,
            Some(_) => return May::Nothing,
        };
        let Some(entry) = state.entries.get(&entry) else {
            return May::LookAgain;
        };
        if entry.scratch.is_some() {
            return May::Nothing;
        }
        // A removed file, too, is what it was called last.
        let plain = Place {
            dir: entry.place.dir,
            name: shown(&entry.place.name).into(),
        };
        match self.seen_at(state, &plain, permitted) {
            None => May::Nothing,
            Some(_) if state.private(ino).is_some() => May::LookAgain,
            Some(seen) if seen == entry.place => May::Read,
            Some(seen) => May::ReadAt(seen),
        }
    }

    /// Refuses an inode to a caller who may not read it; one that is somebody else's sends him to look for his own.
    pub(super) fn let_read(
        &self,
        state: &mut State,
        caller: &Caller,
        ino: u64,
        permitted: &Permitted,
    ) -> Result<(), Stop> {
        match self.may(state, ino, permitted) {
            May::Read => Ok(()),
            May::LookAgain => Err(Stop::Errno(libc::ESTALE)),
            May::Nothing => Err(self.deny_inode(state, caller, ino)),
            May::ReadAt(place) => match state.marks.take(caller.pid, &place) {
                // There was no walk in between, so there is no way to his own. The pages of this one hold more.
                Some(_) => Err(self.deny_inode(state, caller, ino)),
                None => {
                    let purpose = Purpose::Read { found: None };
                    state.marks.put(caller.pid, place, purpose);
                    Err(Stop::Errno(libc::ESTALE))
                }
            },
        }
    }

    fn deny(&self, state: &State, caller: &Caller, parent: u64, name: &str) -> Stop {
        let is_secret = matches!(state.dir(parent), Some(Dir::Secrets));
        match path_of_folder(state, parent) {
            _ if is_secret && SecretName::new(name).is_ok() => self.tell_denied(caller, name),
            folder if folder.is_empty() => self.tell_denied(caller, name),
            folder => self.tell_denied(caller, &format!("{folder}/{name}")),
        }
    }

    pub(super) fn deny_inode(&self, state: &State, caller: &Caller, ino: u64) -> Stop {
        let entry = match state.nodes.get(&ino).map(|node| &node.kind) {
            Some(Kind::Dir(_)) => {
                return self.tell_denied(caller, &format!("{}/", path_of_folder(state, ino)));
            }
            Some(Kind::Version(version)) => version.entry,
            Some(Kind::Private(private)) => private.entry,
            _ => ino,
        };
        match state.entries.get(&entry) {
            Some(entry) => self.deny(state, caller, entry.place.dir, shown(&entry.place.name)),
            None => self.tell_denied(caller, "a file that is gone"),
        }
    }

    fn tell_denied(&self, caller: &Caller, what: &str) -> Stop {
        // The name is his: it must not make a line of the log.
        let what = &what.replace(char::is_control, "?");
        // One line a minute for each user: the log is not his to fill, and the trail has all.
        let user = caller.uid.to_string();
        if self.logged_denials.get(&user).is_none() {
            self.logged_denials.set(&user, ());
            tracing::warn!(
                "user {user} is refused {what} (and maybe more), which `access` does not grant him"
            );
        }
        self.refuse(caller, what)
    }
}

/// The path of a folder in the mount, without a `/` at either end.
fn path_of_folder(state: &State, ino: u64) -> String {
    let mut path = String::new();
    let mut at = ino;
    while at != ROOT {
        let mut folders = state.subdirs.iter();
        let named = folders.find_map(|(parent, children)| {
            let child = children.iter().find(|(_, child)| *child == at)?;
            Some((*parent, child.0.as_str()))
        });
        let Some((parent, name)) = named else {
            break;
        };
        path = match path.as_str() {
            "" => name.to_owned(),
            path => format!("{name}/{path}"),
        };
        at = parent;
    }
    path
}
