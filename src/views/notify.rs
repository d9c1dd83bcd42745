//! What the tree of views tells the kernel: that names, attributes or pages count no more.

use std::os::fd::OwnedFd;

use super::tree::Views;
use crate::sync::RwLockReadGuard;

impl Views {
    /// Sets the device of the mount: the kernel asks anew for every name, and for the attributes of every folder.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn set_device(&self, device: OwnedFd) -> std::io::Result<()> {
        let names = device.try_clone()?;
        // There is only one.
        drop(self.device.set(device));
        self.expire_folders(self.store.current().all().map(|view| view.folder));
        self.names.set_device(names);
        Ok(())
    }

    /// A turn to answer a request; `None`: the mount has ended.
    pub fn turn(&self) -> Option<RwLockReadGuard<'_, bool>> {
        Some(self.has_ended.read()).filter(|has_ended| !**has_ended)
    }

    /// Ends all reading, also of what the kernel has: it answers hot names and pages by itself, even without a connection. Requests
    /// fail from now on. Waits while the kernel has requests for a page that nobody answers.
    pub fn end(&self) {
        // What was answered before reaches the kernel before the notifications.
        *self.has_ended.write() = true;
        self.names.next_epoch();
        let inodes = self.state.lock().all_inodes();
        inodes.into_iter().for_each(|ino| self.invalidate(ino, 0));
    }

    /// Has the kernel ask again for the attributes of these folders. It keeps those of a folder that is bind-mounted, because it never
    /// looks such a folder up. Takes no lock in the kernel: no page is dropped.
    pub(super) fn expire_folders(&self, folders: impl Iterator<Item = u64>) {
        folders.for_each(|folder| self.invalidate(folder, -1));
    }

    /// FUSE_NOTIFY_INVAL_INODE (include/uapi/linux/fuse.h): the attributes, and the pages from `offset` on (-1: none).
    fn invalidate(&self, ino: u64, offset: i64) {
        const INVAL_INODE: i32 = 2;
        let Some(device) = self.device.get() else {
            return;
        };
        // `fuse_out_header`, then the inode, the offset, and a length (0: to the end).
        let mut message = [0; 40];
        message[..4].copy_from_slice(&40u32.to_ne_bytes());
        message[4..8].copy_from_slice(&INVAL_INODE.to_ne_bytes());
        message[16..24].copy_from_slice(&ino.to_ne_bytes());
        message[24..32].copy_from_slice(&offset.to_ne_bytes());
        // ENOENT: the kernel does not know the inode.
        let _ = rustix::io::write(device, &message);
    }
}
