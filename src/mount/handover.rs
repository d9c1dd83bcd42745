//! What keeper and server hand over to each other: the shared descriptors, the state, and the messages. `channel` is the
//! socket that carries them.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::live::{Restart, Upgrade};
use crate::process::mountinfo::MountId;
use crate::secret::SealingKey;

/// The handover format that this program speaks. It changes with `HandoverState`, with `Hello`, and with the records of
/// the tree's journal. A program that speaks another format refuses to start as a part of this program's mount.
pub const FORMAT: u32 = 4;

/// Descriptors that both processes hold, so they survive the death of either.
pub(super) struct SharedFds {
    /// `/dev/fuse`: the mount lives as long as a process holds it.
    pub(super) device: OwnedFd,
    pub(super) heartbeat: OwnedFd,
    pub(super) journal: [OwnedFd; 2],
    /// The program that the mount runs.
    pub(super) program: OwnedFd,
    /// The journal's key. It travels with the descriptors, but outside the serialized message.
    pub(super) key: SealingKey,
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
    pub(super) upgrade: Option<Upgrade>,
    /// After this many seconds without a heartbeat, or at one request, the server counts as hung.
    pub(super) server_timeout: u64,
}

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
    Upgraded(Upgrade),
    /// Another server is about to take over: write to disk what is only in memory.
    Quiesce,
    /// The mount is out of the tree: finish the writes that are under way, and exit.
    Shutdown,
}

/// The server's messages.
#[derive(Serialize, Deserialize)]
pub(super) enum ToKeeper {
    /// The process has opened the new program, which comes with this message, and is about to execute it.
    Program,
    /// The server has done everything that it can do before it begins.
    Prepared,
    /// The server answers requests.
    Ready,
    /// The server cannot serve, with the reason.
    Failed(String),
    /// The server was asked to unmount.
    Unmount,
    /// The server has nothing left that is only in memory: another server may take over.
    Quiesced,
}

/// How long a server may take to quiesce.
pub(super) const QUIESCE_TIMEOUT: Duration = Duration::from_secs(1);
