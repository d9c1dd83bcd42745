//! The service manager. It is notified when the mount answers (sd_notify(3)), and stores the device (systemd's file
//! descriptor store), so that the mount survives even if both processes end at once. Without a service manager, nothing
//! here has an effect.

use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use crate::process::mountinfo::MountId;
use crate::sync::{self, SMALL_STACK};

/// The names of the two stored descriptors.
const DEVICE: &str = "device";
const MOUNT: &str = "mount";
/// How long the service manager may take to read.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// What a new keeper must know about a stored mount, besides its device. None of it is secret.
#[derive(Serialize, Deserialize)]
struct StoredMount {
    format: u32,
    mount: MountId,
    init: Vec<u8>,
}

/// A mount whose processes have ended, from the service manager's store.
pub(super) struct RestoredMount {
    pub(super) mount: MountId,
    pub(super) device: OwnedFd,
    /// The kernel's first request.
    pub(super) init: Vec<u8>,
}

/// Sends to the service manager, which may not read: a thread of its own waits for that.
fn notify(send: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let (sender, receiver) = channel();
    let run = move || drop(sender.send(send()));
    let sent = sync::spawn("notify", SMALL_STACK, run).and_then(|_| {
        let sent = receiver.recv_timeout(NOTIFY_TIMEOUT);
        sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    });
    if let Err(error) = sent {
        tracing::warn!("the service manager could not be notified: {error}");
    }
}

/// Notifies that the mount answers, and that this process is the main one.
pub(super) fn notify_ready(mount_point: &Path) {
    let status = format!("serving {}", mount_point.display());
    notify(move || {
        sd_notify::notify(&[
            NotifyState::Ready,
            NotifyState::MainPid(std::process::id()),
            NotifyState::Status(&status),
        ])
    });
}

/// Has the service manager store the mount.
pub(super) fn store_mount(mount: &MountId, device: &OwnedFd, init: &[u8]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let stored = StoredMount {
        format: super::FORMAT,
        mount: mount.clone(),
        init: init.to_vec(),
    };
    let device = device.try_clone();
    notify(move || {
        let bytes = postcard::to_stdvec(&stored).map_err(std::io::Error::other)?;
        let memory = rustix::fs::memfd_create("simpletuner-live mount", MemfdFlags::CLOEXEC)?;
        rustix::io::write(&memory, &bytes)?;
        for (name, descriptor) in [(MOUNT, memory), (DEVICE, device?)] {
            let state = [NotifyState::FdStore, NotifyState::FdName(name)];
            sd_notify::notify_with_fds(&state, &[descriptor.as_fd()])?;
        }
        Ok(())
    });
}

/// Notifies that the mount ends, and removes it from the store.
pub(super) fn notify_stopping() {
    notify(|| {
        sd_notify::notify(&[NotifyState::Stopping])?;
        for name in [DEVICE, MOUNT] {
            sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])?;
        }
        Ok(())
    });
}

/// The mount that the service manager passed to this process, if it did.
pub(super) fn restored() -> Option<RestoredMount> {
    let passed = sd_notify::listen_fds_with_names().ok()?;
    let (mut device, mut stored) = (None, None);
    for (number, name) in passed {
        // SAFETY: the service manager passed this descriptor to the process, and no other object owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        match name.as_str() {
            DEVICE => device = Some(descriptor),
            MOUNT => stored = Some(descriptor),
            _ => tracing::warn!(
                "the service manager passed descriptor {} under the unknown name {name}",
                descriptor.as_raw_fd()
            ),
        }
    }
    let mut file = std::fs::File::from(stored?);
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut bytes).ok()?;
    let stored: StoredMount = postcard::from_bytes(&bytes).ok()?;
    (stored.format == super::FORMAT).then_some(RestoredMount {
        mount: stored.mount,
        device: device?,
        init: stored.init,
    })
}
