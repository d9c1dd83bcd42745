//! Who may use the tree, and for how long the kernel may answer without asking it. Every request that names a file or a folder is
//! checked here; one on a file that is open is not.

use std::time::Duration;

use super::{Caller, OpError, Owner, Tree};
use crate::error::Error;
use crate::files::reserve;
use crate::process::name_of;
use crate::versions::Opener;

impl Owner {
    /// Whether the kernel lets other users through to the daemon. It can admit the mounting user alone or everybody, so with
    /// `allow_root` it admits everybody. A mount of root's needs no such thing.
    pub fn shares_mount(&self) -> bool {
        self.allows_root && self.uid != 0
    }
}

impl Tree {
    /// For how long the kernel may keep a name or attributes that are right for so long. Where it lets other users through,
    /// it must keep nothing: it would show them what it kept for the owner.
    pub(super) fn kept_for(&self, right_for: Duration) -> Duration {
        match self.owner.shares_mount() {
            true => Duration::ZERO,
            false => right_for,
        }
    }

    /// As [`check_caller`](Self::check_caller), for an inode.
    pub(super) fn check_caller_of(&self, caller: &Caller, ino: u64) -> Result<(), OpError> {
        match self.may_use(caller) {
            true => Ok(()),
            false => Err(self.refuse(caller, &self.shown_path(ino))),
        }
    }

    fn may_use(&self, caller: &Caller) -> bool {
        caller.uid == self.owner.uid || (self.owner.allows_root && caller.uid == 0)
    }

    /// An inode as the audit trail names it: its path below the mount.
    fn shown_path(&self, ino: u64) -> String {
        if let Some(path) = self.layout.path_of_folder(ino) {
            return path;
        }
        let dir_entry = match self.layout.generated(ino) {
            Some(generated) => Some(generated.dir_entry.clone()),
            None => self.state().last_dir_entry(ino).cloned(),
        };
        match dir_entry {
            Some(dir_entry) => dir_entry.name,
            None => "a file".to_owned(),
        }
    }

    /// Refuses all but the owner, and root where it is let in.
    pub(super) fn check_caller(&self, caller: &Caller, what: &str) -> Result<(), OpError> {
        match self.may_use(caller) {
            true => Ok(()),
            false => Err(self.refuse(caller, what)),
        }
    }

    /// The caller, as the opener of a file to write.
    ///
    /// # Errors
    /// EPERM if the daemon cannot see the caller, because it could not know when the caller closes the file. ENFILE if it
    /// would have no descriptors to store what is written.
    pub(super) fn opener(&self, caller: &Caller) -> Result<Opener, OpError> {
        if !reserve::has_unreserved() {
            return Err(OpError::Error(Error::io(
                "the daemon has no descriptors left for another writer: raise its limit of open files (`ulimit -n`, or \
                 `LimitNOFILE=` of the systemd unit)",
                std::io::Error::from_raw_os_error(libc::ENFILE),
            )));
        }
        let process = match caller.tid {
            0 => None,
            _ if !self.sees_callers => None,
            tid => self.processes.of_thread(tid),
        };
        let Some(process) = process else {
            return Err(OpError::Error(Error::io(
                "a writer in a pid namespace out of sight: run the daemon in the same one as its writers, or write \
                 from the daemon's",
                std::io::Error::from_raw_os_error(libc::EPERM),
            )));
        };
        Ok(Opener {
            process,
            uid: caller.uid,
            program: name_of(process.pid),
        })
    }

    /// Whether the caller may look at, write to or search the inode (access(2); `mask` of R_OK, W_OK and X_OK).
    ///
    /// # Errors
    /// EACCES.
    pub fn access(&self, caller: &Caller, ino: u64, mask: i32) -> Result<(), OpError> {
        self.check_caller_of(caller, ino)?;
        let mode = match (self.layout.dir(ino), self.layout.generated(ino)) {
            (Some(dir), _) => dir.mode(),
            (_, Some(generated)) => generated.kind.mode(),
            _ => {
                let state = self.state();
                self.inode_attr(&state, ino).mode
            }
        };
        let root_reads = if caller.uid == 0 { libc::R_OK } else { 0 };
        if mask & !(i32::from(mode >> 6) | root_reads) & 0o7 == 0 {
            Ok(())
        } else {
            Err(OpError::Errno(libc::EACCES))
        }
    }
}
