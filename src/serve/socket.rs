//! A listening socket's file: 0600 from the first moment, taken from nobody who answers, removed by nobody but its owner.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::audit::Actor;
use crate::error::{Error, Result};

/// How many clients may wait to be accepted, while a server is replaced, too.
const BACKLOG: i32 = 128;

/// The file of a socket that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still there, and still this socket's.
    pub fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// Removes the file, unless another one has taken its place.
    pub fn remove(&self) {
        if self.is_there()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Listens at this path. The folder is made if there is none. A socket that a process has left behind is replaced.
///
/// # Errors
/// [`Error::Settings`] if another program listens there, or the path has something else; [`Error::Io`].
pub fn listen(path: &Path) -> Result<(OwnedFd, SocketFile)> {
    let failed = |error: io::Error| Error::io(format!("the socket {}", path.display()), error);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(failed)?;
    remove_abandoned(path)?;
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    let socket = new_socket().map_err(|e| failed(e.into()))?;
    let begin = || {
        // The file gets the mode of the socket.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)
    };
    begin().map_err(|e: Errno| failed(e.into()))?;
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
    };
    Ok((socket, file))
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket on which nobody listens.
fn remove_abandoned(path: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::io(format!("the socket {}", path.display()), error);
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::Settings(format!(
                "{shown} is there, and is no socket; remove it, or choose another path"
            )));
        }
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    let probe = new_socket().map_err(|e| failed(e.into()))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Err(Errno::NOENT) => Ok(()),
        // With its backlog full, it does not accept at the moment.
        Ok(()) | Err(Errno::AGAIN) => Err(Error::Settings(format!(
            "another program listens at {shown}: another mount, perhaps"
        ))),
        Err(error) => Err(failed(error.into())),
    }
}

/// The process that has connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    uid: u32,
    pid: u32,
}

impl Client {
    /// `None`: it is neither root's nor this user's, and is not to be answered.
    pub(super) fn admitted(connection: impl AsFd) -> Option<Self> {
        let me = rustix::process::geteuid();
        let peer = socket_peercred(connection).ok()?;
        (peer.uid.is_root() || peer.uid == me).then(|| Self {
            uid: peer.uid.as_raw(),
            pid: peer.pid.as_raw_nonzero().get().cast_unsigned(),
        })
    }

    /// As the audit trail names it.
    pub(super) fn actor(self) -> Actor {
        Actor::of_thread(self.uid, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_closed_to_others_and_taken_from_nobody_who_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/a.sock");
        let (socket, file) = listen(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let client = UnixStream::connect(&path).unwrap();
        assert!(Client::admitted(&client).is_some());
        let taken = listen(&path).unwrap_err().to_string();
        assert!(taken.contains("another program listens at"), "{taken}");
        assert!(file.is_there());
        drop(socket);
        let (_socket, next) = listen(&path).unwrap();
        file.remove();
        assert!(next.is_there() && next != file, "the next one's file stays");
        next.remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "mine").unwrap();
        let refused = listen(&path).unwrap_err().to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
