//! The service manager. It is notified when the mount answers (sd_notify(3)), and stores the device (systemd's file
//! descriptor store), so that the mount survives even if both processes end at once. Without a service manager, nothing
//! here has an effect.

use std::collections::HashMap;
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

/// The names of the two descriptors that are stored of a mount.
pub(super) struct Names {
    device: &'static str,
    mount: &'static str,
}

/// Those of the live mount.
pub(super) const LIVE: Names = Names {
    device: "device",
    mount: "mount",
};
/// Those of the views' mount.
pub(super) const VIEWS: Names = Names {
    device: "views-device",
    mount: "views-mount",
};
/// How long the service manager may take to read.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// What a new keeper must know about a stored mount, besides its device. None of it is secret.
#[derive(Serialize, Deserialize)]
struct StoredMount {
    format: u32,
    mount: MountId,
    init: Vec<u8>,
    allow_other: bool,
    kernel_opens: bool,
}

/// A mount whose processes have ended, from the service manager's store.
pub(super) struct RestoredMount {
    pub(super) mount: MountId,
    pub(super) device: OwnedFd,
    /// The kernel's first request.
    pub(super) init: Vec<u8>,
    /// Of the views' mount: whether the kernel lets other users in.
    pub(super) allow_other: bool,
    /// Of the views' mount: whether the kernel may open files by itself.
    pub(super) kernel_opens: bool,
}

/// The mounts of the service manager's store.
#[derive(Default)]
pub(super) struct Restored {
    pub(super) live: Option<RestoredMount>,
    pub(super) views: Option<RestoredMount>,
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

/// Has the service manager store a mount.
pub(super) fn store_mount(
    names: &'static Names,
    mount: &MountId,
    device: &OwnedFd,
    init: &[u8],
    allow_other: bool,
    kernel_opens: bool,
) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let stored = StoredMount {
        format: super::FORMAT,
        mount: mount.clone(),
        init: init.to_vec(),
        allow_other,
        kernel_opens,
    };
    let device = device.try_clone();
    notify(move || {
        let bytes = postcard::to_stdvec(&stored).map_err(std::io::Error::other)?;
        let memory = rustix::fs::memfd_create("simpletuner-live mount", MemfdFlags::CLOEXEC)?;
        rustix::io::write(&memory, &bytes)?;
        for (name, descriptor) in [(names.mount, memory), (names.device, device?)] {
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
        remove(&VIEWS)?;
        remove(&LIVE)
    });
}

/// Removes a mount that has ended from the store.
pub(super) fn remove_mount(names: &'static Names) {
    notify(|| remove(names));
}

fn remove(names: &Names) -> std::io::Result<()> {
    for name in [names.device, names.mount] {
        sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])?;
    }
    Ok(())
}

/// The mounts that the service manager passed to this process, if it did.
pub(super) fn restored() -> Restored {
    let Ok(passed) = sd_notify::listen_fds_with_names() else {
        return Restored::default();
    };
    let mut descriptors = HashMap::new();
    for (number, name) in passed {
        // SAFETY: the service manager passed this descriptor to the process, and no other object owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        match [&LIVE, &VIEWS]
            .iter()
            .any(|names| [names.device, names.mount].contains(&&*name))
        {
            true => drop(descriptors.insert(name, descriptor)),
            false => tracing::warn!(
                "the service manager passed descriptor {} under the unknown name {name}",
                descriptor.as_raw_fd()
            ),
        }
    }
    let mut mount = |names: &Names| {
        let device = descriptors.remove(names.device);
        restored_mount(device?, descriptors.remove(names.mount)?)
    };
    Restored {
        live: mount(&LIVE),
        views: mount(&VIEWS),
    }
}

fn restored_mount(device: OwnedFd, stored: OwnedFd) -> Option<RestoredMount> {
    let mut file = std::fs::File::from(stored);
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut bytes).ok()?;
    let stored: StoredMount = postcard::from_bytes(&bytes).ok()?;
    (stored.format == super::FORMAT).then_some(RestoredMount {
        mount: stored.mount,
        device,
        init: stored.init,
        allow_other: stored.allow_other,
        kernel_opens: stored.kernel_opens,
    })
}
