//! The settings in force: the content of the settings file as the first server read it, in memory that both processes hold. The
//! server that replaces another one goes on with them, whatever the file says by then.

use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::settings::SettingsContent;

fn failed(errno: rustix::io::Errno) -> Error {
    Error::io("memory for the settings", errno)
}

/// The memory, in which no settings are yet: the first server reads the file.
pub(super) fn create() -> Result<OwnedFd> {
    rustix::fs::memfd_create("simpletuner-live settings", MemfdFlags::CLOEXEC).map_err(failed)
}

/// The settings in force; `None`: no server has put any in force yet.
pub(super) fn read(memory: &OwnedFd) -> Result<Option<SettingsContent>> {
    let size = rustix::fs::fstat(memory).map_err(failed)?.st_size;
    let mut record = Zeroizing::new(vec![0; usize::try_from(size).unwrap_or_default()]);
    let length = rustix::io::pread(memory, record.as_mut_slice(), 0).map_err(failed)?;
    Ok(SettingsContent::from_record(&record[..length]))
}

/// Puts settings in force. A server that is killed meanwhile has put none.
pub(super) fn write(memory: &OwnedFd, settings: &SettingsContent) -> Result<()> {
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
