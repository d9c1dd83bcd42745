//! What the keeper does about the listening sockets: it holds them, and removes their files at the end.

use std::os::fd::OwnedFd;

use super::Keeper;
use crate::serve::socket::SocketFile;

impl Keeper {
    /// The server has made sockets, or does without them.
    pub(super) fn sockets_changed(&mut self, files: Vec<SocketFile>, received: Vec<OwnedFd>) {
        if files.len() != received.len() {
            return tracing::error!("the server did not send the descriptors of its sockets");
        }
        self.state.sockets = files;
        self.shared.sockets = received;
    }

    /// The mount ends.
    pub(super) fn remove_sockets(&self) {
        self.state.sockets.iter().for_each(SocketFile::remove);
    }
}
