//! The names that the kernel holds, and the one call that has it ask for all of them again.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// For how long the kernel may hold a name that nothing changes. Any change ends it at once.
const HOLD: Duration = Duration::from_secs(3600);
/// FUSE_NOTIFY_INC_EPOCH (include/uapi/linux/fuse.h): the device takes {length 16, code, unique 0}.
const INC_EPOCH: i32 = 8;
/// The first FUSE protocol that knows it (Linux 6.16).
const FIRST_WITH_EPOCH: (u32, u32) = (7, 44);

/// The kernel's names. Where the kernel has no epoch, it holds none.
#[derive(Debug, Default)]
pub struct KernelNames {
    device: OnceLock<OwnedFd>,
    is_off: AtomicBool,
    has_epoch: AtomicBool,
}

impl KernelNames {
    /// Nothing is sent, and the kernel holds no name, until it is told of a device. `is_off`: as on a kernel without
    /// epochs.
    pub fn new(is_off: bool) -> Self {
        Self {
            is_off: AtomicBool::new(is_off),
            ..Self::default()
        }
    }

    /// Which protocol the kernel speaks.
    pub fn set_protocol(&self, version: (u32, u32)) {
        let has_epoch = version >= FIRST_WITH_EPOCH && !self.is_off.load(Ordering::Relaxed);
        self.has_epoch.store(has_epoch, Ordering::Relaxed);
    }

    /// Where epochs are sent to. Names that an earlier server gave are asked for again.
    pub fn set_device(&self, device: OwnedFd) {
        // There is only one.
        let _ = self.device.set(device);
        self.next_epoch();
    }

    /// Whether the kernel may hold names.
    pub fn are_held(&self) -> bool {
        self.has_epoch.load(Ordering::Relaxed) && self.device.get().is_some()
    }

    /// For how long the kernel may hold a name without asking.
    pub fn validity(&self) -> Duration {
        match self.are_held() {
            true => HOLD,
            false => Duration::ZERO,
        }
    }

    /// The kernel asks again for every name at its next use. To be called when the change is in place, and before
    /// anybody is told of it; it waits for nothing and takes no lock.
    pub fn next_epoch(&self) {
        if !self.has_epoch.load(Ordering::Relaxed) {
            return;
        }
        if let Some(device) = self.device.get() {
            let mut message = [0; 16];
            message[..4].copy_from_slice(&16u32.to_le_bytes());
            message[4..8].copy_from_slice(&INC_EPOCH.to_le_bytes());
            if let Err(error) = rustix::io::write(device, &message)
                && error != rustix::io::Errno::NODEV
                && error != rustix::io::Errno::NOTCONN
            {
                // Names that the kernel holds could be stale from now on: it is to hold no more of them.
                self.has_epoch.store(false, Ordering::Relaxed);
                tracing::error!("the kernel cannot be told of changes: {error}");
            }
        }
    }
}
