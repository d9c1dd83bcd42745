//! How a keeper begins: it mounts, or takes over a mount that was kept, and has a server begin.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags};

use super::{Keeper, begin_to_serve};
use crate::error::{Error, Result};
use crate::mount::handover::{Brief, Held, Text};
use crate::mount::process::{Signals, set_up};
use crate::mount::state::{MountState, is_mounted, resolve, state};
use crate::mount::unmount::detach;
use crate::mount::{device, prepare, service};
use crate::process::heartbeat::{HeartbeatPage, Slot};
use crate::secret::SealingKey;
use crate::settings::Settings;

/// All until the mount answers. `None`: it is mounted already.
pub(super) fn begin(
    settings: &Settings,
    arguments: &[OsString],
    in_background: bool,
) -> Result<Option<Keeper>> {
    let log_file = in_background.then(|| settings.log_file.clone());
    set_up(log_file.clone())?;
    let mount_point = resolve(&settings.mount_point);
    let revived = service::revived().filter(|revived| {
        revived.mount_point == mount_point
            && is_mounted(&mount_point)
            && device::is_connected(&revived.device)
    });
    if revived.is_none() && !clear(&mount_point)? {
        return Ok(None);
    }
    // Before the mount, so that one that comes meanwhile is not lost.
    let signals = Signals::new()?;
    let (heartbeat, vitals_file) = HeartbeatPage::new()?;
    let mut fingerprints = [0; 16];
    random(&mut fingerprints)?;
    let (device, init, numbers_from) = match revived {
        Some(revived) => {
            tracing::info!("going on with the mount at {}", mount_point.display());
            heartbeat.set(Slot::Initialized, 1);
            // Above all that the kernel can remember of the processes that have ended.
            let mut from = [0; 8];
            random(&mut from[2..6])?;
            (revived.device, revived.init, u64::from_le_bytes(from))
        }
        None => {
            prepare(&mount_point)?;
            let device = device::mount(&mount_point, settings.allow_root)?;
            let init = device::read_init(&device).inspect_err(|_| drop(detach(&mount_point)))?;
            (device, init, 0)
        }
    };
    let held = Held {
        device,
        heartbeat: vitals_file,
        ledger: [memory()?, memory()?],
        program: program(Path::new("/proc/self/exe"))?,
        key: SealingKey::random()?,
    };
    let own = std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    let brief = Brief {
        mount_point: Text::from(&mount_point),
        program: Text::from(own),
        arguments: arguments.iter().map(Text::from).collect(),
        log_file: log_file.map(Text::from),
        fingerprints,
        init,
        numbers_from,
        keeper: std::process::id(),
        server: 0,
        restarts: Vec::new(),
        upgrade: None,
        patience: beats(settings.timeout.server),
    };
    let begun = begin_to_serve(&brief, &held).and_then(|server| {
        let mut keeper = Keeper::new(brief, held, heartbeat, server, signals);
        keeper.wait_until_ready()?;
        Ok(keeper)
    });
    if begun.is_err() {
        let _ = detach(&mount_point);
    }
    begun.map(Some)
}

/// How many beats of a second a server may be silent for: at least one, for it cannot beat oftener.
fn beats(patience: Duration) -> u64 {
    (patience.as_secs() + u64::from(patience.subsec_nanos() > 0)).max(1)
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::io("random numbers", std::io::Error::other(e.to_string())))
}

/// Whether the mount point is free; a dead mount of ours is cleaned up.
fn clear(mount_point: &Path) -> Result<bool> {
    match state(mount_point)? {
        MountState::NotMounted => {}
        MountState::Ours { alive: true, .. } => {
            tracing::info!("{} is mounted already", mount_point.display());
            return Ok(false);
        }
        MountState::Ours { alive: false, .. } => {
            tracing::warn!("cleaning up the dead mount at {}", mount_point.display());
            detach(mount_point)?;
        }
        MountState::OfAnother { uid } => {
            return Err(Error::Settings(super::super::of_another(mount_point, uid)));
        }
        MountState::Foreign { fstype } => {
            let dir = mount_point.display();
            return Err(Error::Settings(format!(
                "{dir} has a mount of type {fstype} on it; choose another folder"
            )));
        }
    }
    Ok(true)
}

fn memory() -> Result<OwnedFd> {
    rustix::fs::memfd_create("simpletuner-live ledger", MemfdFlags::CLOEXEC)
        .map_err(|e| Error::io("memory to share", e))
}

pub(super) fn program(path: &Path) -> Result<OwnedFd> {
    let failed = |e| Error::io(path.display().to_string(), e);
    // A named pipe in its place would hold the keeper up, which nobody replaces then.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let program = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let mode = rustix::fs::fstat(&program).map_err(failed)?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(program),
        _ => Err(failed(rustix::io::Errno::ACCESS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patience_of_less_than_a_beat_is_one_beat() {
        let beats = |seconds| beats(Duration::from_secs_f64(seconds));
        assert_eq!([0.001, 0.5, 1.0, 1.5, 10.0].map(beats), [1, 1, 1, 2, 10]);
    }
}
