//! What keeper and server hand over to each other: the shared descriptors, the state, and the messages. `channel` is the
//! socket that carries them.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::environment::Environment;
use crate::error::{Error, Result};
use crate::files::base_folder::BaseFolder;
use crate::live::{MountChange, Restart};
use crate::process::mountinfo::MountId;
use crate::secret::SealingKey;
use crate::serve::socket::SocketFile;

/// The handover format that this program speaks. It changes with `HandoverState`, with `Hello`, and with the records of
/// the tree's journal. A program that speaks another format refuses to start as a part of this program's mount.
pub const FORMAT: u32 = 7;

/// Descriptors that both processes hold, so they survive the death of either.
pub(super) struct SharedFds {
    /// `/dev/fuse`: the mount lives as long as a process holds it.
    pub(super) device: OwnedFd,
    pub(super) heartbeat: OwnedFd,
    pub(super) journal: [OwnedFd; 2],
    /// The settings in force (`in_force`).
    pub(super) settings: OwnedFd,
    /// The program that the mount runs.
    pub(super) program: OwnedFd,
    /// The journal's key. It travels with the descriptors, but outside the serialized message.
    pub(super) key: SealingKey,
    /// Those of the views' mount, while there is one: [`HandoverState::views`] says whether.
    pub(super) views: Option<ViewsFds>,
    /// The listening sockets, in the order of [`HandoverState::sockets`].
    pub(super) sockets: Vec<OwnedFd>,
}

/// The descriptors of the views' mount.
pub(super) struct ViewsFds {
    /// `/dev/fuse`.
    pub(super) device: OwnedFd,
    pub(super) journal: [OwnedFd; 2],
    /// The kernel's queue of opens, if there is one: [`ViewsState::watches_opens`] says whether.
    pub(super) opens: Option<OwnedFd>,
}

impl ViewsFds {
    /// The most that there are.
    pub(super) const COUNT: usize = 4;

    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let [a, b] = &self.journal;
        let always = [self.device.as_fd(), a.as_fd(), b.as_fd()];
        always.into_iter().chain(self.opens.iter().map(AsFd::as_fd))
    }

    /// From the descriptors of a message, in the order of [`all`](Self::all).
    pub(super) fn from_message(
        state: &ViewsState,
        mut received: impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        Some(Self {
            device: received.next()?,
            journal: [received.next()?, received.next()?],
            opens: match state.watches_opens {
                true => Some(received.next()?),
                false => None,
            },
        })
    }

    /// More descriptors of the same.
    ///
    /// # Errors
    /// This process has no descriptor left.
    pub(super) fn try_clone(&self) -> std::io::Result<Self> {
        let [a, b] = &self.journal;
        Ok(Self {
            device: self.device.try_clone()?,
            journal: [a.try_clone()?, b.try_clone()?],
            opens: self.opens.as_ref().map(OwnedFd::try_clone).transpose()?,
        })
    }
}

/// What the next keeper or server must know of the views' mount.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ViewsState {
    pub(super) mount: MountId,
    /// Its path at the time of the mount, to show.
    pub(super) mount_point: OsBytes,
    /// The kernel's first request.
    pub(super) init: Vec<u8>,
    /// The first inode number to give out.
    pub(super) numbers_from: u64,
    /// Whether the kernel lets other users in.
    pub(super) allow_other: bool,
    /// Whether the kernel has a queue of opens for it.
    pub(super) watches_opens: bool,
    /// Whether the kernel may open files by itself. It goes on doing so for as long as the mount is there.
    pub(super) kernel_opens: bool,
}

/// Memory for a new journal.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn journal_files() -> Result<[OwnedFd; 2]> {
    let file = || {
        rustix::fs::memfd_create("simpletuner-live journal", MemfdFlags::CLOEXEC)
            .map_err(|e| Error::io("memory for the journal", e))
    };
    Ok([file()?, file()?])
}

/// What the next keeper or server must know.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct HandoverState {
    pub(super) mount: MountId,
    /// Its path at the time of the mount, to show.
    pub(super) mount_point: OsBytes,
    /// The program's path at the time of the mount. `upgrade` looks for the new program there.
    pub(super) program: OsBytes,
    /// The arguments of the program.
    pub(super) arguments: Vec<OsBytes>,
    /// `None`: the log goes to standard error.
    pub(super) log_file: Option<OsBytes>,
    /// The key of the values' fingerprints.
    pub(super) fingerprints: [u8; 16],
    /// The kernel's first request.
    pub(super) init: Vec<u8>,
    /// The first inode number and handle to give out; the folders have numbers of their own.
    pub(super) numbers_from: u64,
    /// The keeper's process id.
    pub(super) keeper: u32,
    /// The server's process id.
    pub(super) server: u32,
    pub(super) restarts: Vec<Restart>,
    /// The last upgrade that was tried.
    pub(super) upgrade: Option<MountChange>,
    /// The last reload that was tried.
    pub(super) reload: Option<MountChange>,
    /// `~/.simpletuner` as it was at the time of the mount; `None`: there was none.
    pub(super) base_folder: Option<BaseFolder>,
    /// Whether the kernel lets root in.
    pub(super) allow_root: bool,
    /// After this many seconds without a heartbeat, or at one request, the server counts as hung.
    pub(super) server_timeout: u64,
    /// The views' mount, while there is one.
    pub(super) views: Option<ViewsState>,
    /// The files of the listening sockets.
    pub(super) sockets: Vec<SocketFile>,
}

/// Why the server ended that one with other settings or variables replaced.
pub(super) const RELOADED: &str = "reload";

impl HandoverState {
    pub(super) fn mount_point(&self) -> PathBuf {
        self.mount_point.to_os().into()
    }

    pub(super) fn program(&self) -> PathBuf {
        self.program.to_os().into()
    }

    /// Where the log goes; `None`: to standard error.
    pub(super) fn log_file(&self) -> Option<PathBuf> {
        Some(self.log_file.as_ref()?.to_os().into())
    }
}

/// A path or an argument, which need not be UTF-8.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct OsBytes(Vec<u8>);

impl OsBytes {
    pub(super) fn to_os(&self) -> OsString {
        OsString::from_vec(self.0.clone())
    }
}

impl<T: AsRef<std::ffi::OsStr>> From<T> for OsBytes {
    fn from(text: T) -> Self {
        Self(text.as_ref().as_bytes().to_vec())
    }
}

/// The first message on a socket: which part the new process is.
#[derive(Serialize, Deserialize)]
pub(super) enum Hello {
    /// Be the server of the keeper that sends this.
    Serve(HandoverState),
    /// Be the keeper of the server that sends this.
    Keep(HandoverState),
}

/// The keeper's later messages.
#[derive(Serialize, Deserialize)]
pub(super) enum ToServer {
    /// No other server answers any more: begin. With the restarts so far.
    Begin(Vec<Restart>),
    /// The outcome of an upgrade.
    Upgraded(MountChange),
    /// The outcome of a reload.
    Reloaded(MountChange),
    /// Another server is about to take over: write to disk what is only in memory.
    Quiesce,
    /// The mount is out of the tree: finish the writes that are under way, and exit.
    Shutdown,
    /// For a server that has not begun yet: the views' mount has begun, with its descriptors, or has ended.
    Views(Option<ViewsState>),
}

/// The server's messages.
#[derive(Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// The process has opened the new program, which comes with this message, and is about to execute it.
    Program,
    /// The server has done everything that it can do before it begins. With its `HandoverState::server_timeout`.
    Prepared(u64),
    /// The server answers requests.
    Ready,
    /// The server cannot serve, with the reason.
    Failed(String),
    /// The server was asked to unmount.
    Unmount,
    /// The server was asked to have the settings file read anew, and to take over these variables.
    Reload(Option<Environment>),
    /// The server has nothing left that is only in memory: another server may take over.
    Quiesced,
    /// The server has mounted the views. With the descriptors.
    ViewsMounted(ViewsState),
    /// The views' mount has ended.
    ViewsEnded,
    /// The listening sockets are these from now on. With their descriptors.
    Sockets(Vec<SocketFile>),
}

/// A timeout in seconds, rounded up and at least one: the keeper checks the heartbeat once a second.
pub(super) fn whole_seconds(timeout: Duration) -> u64 {
    (timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0)).max(1)
}

/// How long a server may take to quiesce.
pub(super) const QUIESCE_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_timeout_is_rounded_up_to_whole_seconds() {
        let whole = |seconds| whole_seconds(Duration::from_secs_f64(seconds));
        assert_eq!([0.001, 0.5, 1.0, 1.5, 10.0].map(whole), [1, 1, 1, 2, 10]);
    }
}
