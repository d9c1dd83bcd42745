//! The service manager: told when the mount answers (sd_notify(3)), and given the device to keep (systemd's file
//! descriptor store), so that the mount outlives even the end of both processes at once. Without one, nothing is done.

use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::handover::Text;

/// The names under which the two descriptors are kept.
const DEVICE: &str = "device";
const MOUNT: &str = "mount";

/// What is to be known of a mount besides its device. Nothing of it is secret.
#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    mount_point: Text,
    init: Vec<u8>,
}

/// A mount whose processes have ended, as the service manager kept it.
pub(super) struct Revived {
    pub(super) mount_point: PathBuf,
    pub(super) device: OwnedFd,
    /// The kernel's first request.
    pub(super) init: Vec<u8>,
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// The mount answers, and this process is the one to ask.
pub(super) fn ready(mount_point: &Path) {
    let status = format!("serving {}", mount_point.display());
    tell(&[
        NotifyState::Ready,
        NotifyState::MainPid(std::process::id()),
        NotifyState::Status(&status),
    ]);
}

/// Has the device kept.
pub(super) fn keep(mount_point: &Path, device: &OwnedFd, init: &[u8]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let kept = Kept {
        format: super::FORMAT,
        mount_point: Text::from(mount_point),
        init: init.to_vec(),
    };
    let given = || -> std::io::Result<()> {
        let bytes = postcard::to_stdvec(&kept).map_err(std::io::Error::other)?;
        let memory = rustix::fs::memfd_create("simpletuner-live mount", MemfdFlags::CLOEXEC)?;
        rustix::io::write(&memory, &bytes)?;
        for (name, descriptor) in [(MOUNT, &memory), (DEVICE, device)] {
            let state = [NotifyState::FdStore, NotifyState::FdName(name)];
            sd_notify::notify_with_fds(&state, &[descriptor.as_fd()])?;
        }
        Ok(())
    };
    if let Err(error) = given() {
        tracing::warn!("the service manager does not keep the mount: {error}");
    }
}

/// The mount ends, and nothing of it is to be kept.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
    for name in [DEVICE, MOUNT] {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

/// What the service manager kept for this process, if it was started by one that did.
pub(super) fn revived() -> Option<Revived> {
    let given = sd_notify::listen_fds_with_names().ok()?;
    let (mut device, mut kept) = (None, None);
    for (number, name) in given {
        // SAFETY: the service manager passed it to this process, and nobody else here has taken it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        match name.as_str() {
            DEVICE => device = Some(descriptor),
            MOUNT => kept = Some(descriptor),
            _ => tracing::warn!(
                "descriptor {} has a name that means nothing",
                descriptor.as_raw_fd()
            ),
        }
    }
    let mut file = std::fs::File::from(kept?);
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut bytes).ok()?;
    let kept: Kept = postcard::from_bytes(&bytes).ok()?;
    (kept.format == super::FORMAT).then_some(Revived {
        mount_point: kept.mount_point.to_os().into(),
        device: device?,
        init: kept.init,
    })
}
