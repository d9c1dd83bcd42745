//! The settings in force: the content of the settings file as it was read at the mount or at the last reload, in memory that both
//! processes hold. The server that replaces another one goes on with them, whatever the file says by then.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use zeroize::Zeroizing;

use super::setup::set_up;
use crate::error::{Error, Result};
use crate::settings::{Settings, SettingsContent};

fn failed(errno: rustix::io::Errno) -> Error {
    Error::io("memory for the settings", errno)
}

/// Memory with these settings.
pub(super) fn of(settings: &SettingsContent) -> Result<OwnedFd> {
    let memory = create()?;
    write(&memory, settings)?;
    Ok(memory)
}

/// Memory without settings: the server that gets it reads the file, and puts its settings there.
pub(super) fn create() -> Result<OwnedFd> {
    rustix::fs::memfd_create("simpletuner-live settings", MemfdFlags::CLOEXEC).map_err(failed)
}

/// The settings in this memory, if a server has put any there.
fn read(memory: &OwnedFd) -> Result<Option<SettingsContent>> {
    let size = rustix::fs::fstat(memory).map_err(failed)?.st_size;
    let mut record = Zeroizing::new(vec![0; usize::try_from(size).unwrap_or_default()]);
    let length = rustix::io::pread(memory, record.as_mut_slice(), 0).map_err(failed)?;
    Ok(SettingsContent::from_record(&record[..length]))
}

/// Puts settings there. A server that is killed meanwhile has put none.
fn write(memory: &OwnedFd, settings: &SettingsContent) -> Result<()> {
    let record = settings.to_record();
    let (first, rest) = record.split_at(1);
    for (part, at) in [(rest, 1), (first, 0)] {
        let written = rustix::io::pwrite(memory, part, at).map_err(failed)?;
        if written != part.len() {
            return Err(failed(rustix::io::Errno::NOSPC));
        }
    }
    Ok(())
}

/// Sets a server up, and loads its settings: those in this memory, or what the file says now, which is put there then. Only the latter may
/// warn: of the others, the keeper or a server before this one has.
pub(super) fn load(
    memory: &OwnedFd,
    log_file: Option<PathBuf>,
    load: impl FnOnce(Option<SettingsContent>) -> Result<Settings>,
) -> Result<Settings> {
    let in_force = read(memory)?;
    if in_force.is_some() {
        let settings = load(in_force);
        set_up(log_file)?;
        return settings;
    }
    set_up(log_file)?;
    let settings = load(None)?;
    write(memory, &settings.content)?;
    Ok(settings)
}

/// Whether root may use the mount. A reload cannot let root in.
pub(super) fn allows_root(settings: &Settings, kernel_lets_root_in: bool) -> bool {
    if settings.allow_root && !kernel_lets_root_in {
        tracing::warn!("allow_root takes effect at the next mount");
    }
    settings.allow_root && kernel_lets_root_in
}
