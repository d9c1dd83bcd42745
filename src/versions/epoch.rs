//! For how long the kernel may keep names, and the epoch: one message after which it asks again for all of them.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// For how long the kernel may hold a name that nothing changes. Any change ends it at once.
const MAX_VALIDITY: Duration = Duration::from_secs(3600);
/// FUSE_NOTIFY_INC_EPOCH (include/uapi/linux/fuse.h): the device takes {length 16, code, unique 0}.
const INC_EPOCH: i32 = 8;
/// The first FUSE protocol that knows it (Linux 6.16).
const FIRST_WITH_EPOCH: (u32, u32) = (7, 44);

/// This variable makes the mounts behave as on a kernel without epochs, for tests.
const NO_EPOCH: &str = "SIMPLETUNER_LIVE_NO_EPOCH";

/// The names that the kernel keeps. A kernel without epochs keeps none.
#[derive(Debug, Default)]
pub struct KernelNames {
    device: OnceLock<OwnedFd>,
    is_off: AtomicBool,
    has_epoch: AtomicBool,
}

impl KernelNames {
    /// Until [`set_device`](Self::set_device) is called, nothing is sent and the kernel keeps no names. `is_off` behaves
    /// like a kernel without epochs, and so does the variable SIMPLETUNER_LIVE_NO_EPOCH.
    pub fn new(is_off: bool) -> Self {
        Self {
            is_off: AtomicBool::new(is_off || std::env::var_os(NO_EPOCH).is_some()),
            ..Self::default()
        }
    }

    /// Sets the protocol version that the kernel speaks.
    pub fn set_protocol(&self, version: (u32, u32)) {
        let has_epoch = version >= FIRST_WITH_EPOCH && !self.is_off.load(Ordering::Relaxed);
        self.has_epoch.store(has_epoch, Ordering::Relaxed);
    }

    /// Sets the device that epochs are sent to, and sends one: the kernel may still keep names that an earlier server gave.
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
            true => MAX_VALIDITY,
            false => Duration::ZERO,
        }
    }

    /// Has the kernel ask again for every name at its next use. Call it after the change is in place and before it is
    /// acknowledged. It waits for nothing and takes no lock.
    pub fn next_epoch(&self) {
        if !self.has_epoch.load(Ordering::Relaxed) {
            return;
        }
        if let Some(device) = self.device.get() {
            let mut message = [0; 16];
            message[..4].copy_from_slice(&16u32.to_ne_bytes());
            message[4..8].copy_from_slice(&INC_EPOCH.to_ne_bytes());
            if let Err(error) = rustix::io::write(device, &message)
                && error != rustix::io::Errno::NODEV
                && error != rustix::io::Errno::NOTCONN
            {
                // The kernel could serve stale names from now on, so it gets no more names to keep.
                self.has_epoch.store(false, Ordering::Relaxed);
                tracing::error!(
                    "the kernel takes no epochs any more, so it may keep no names from now on: {error}"
                );
            }
        }
    }
}
