//! Asks a running mount to read its settings file anew, and waits for the outcome.

use std::path::Path;

use zeroize::Zeroizing;

use super::environment::Environment;
use super::mount_point_state::resolve;
use super::upgrade::{has_ended, status_of_ours, wait_for_outcome};
use crate::error::{Error, Result};

/// Has the mount at `dir` read its settings file anew, and take over these variables if there are any. Processes that use
/// the mount notice nothing but what the settings change. `write` writes a whole file of the mount. With `force` also on a
/// kernel that cannot resend requests, where those in flight fail with EIO.
///
/// # Errors
/// [`Error::Settings`]: no mount of ours is there, the kernel cannot resend, or the settings are wrong: what was in force then
/// stays so. [`Error::TooLarge`]: of the variables. The errors of `write`.
pub fn reload<E: From<Error>>(
    dir: &Path,
    environment: Option<&Environment>,
    force: bool,
    write: impl FnOnce(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let dir = resolve(dir);
    let (mount, before) = status_of_ours(&dir, "reload", force)?;
    let request = match environment {
        Some(environment) => environment.to_request()?,
        None => Zeroizing::new("\n".to_owned()),
    };
    write("reload", request.as_bytes()).map_err(|error| match mount.find() {
        Some(_) => error,
        None => has_ended(&dir).into(),
    })?;
    match wait_for_outcome(&dir, &mount, "reload", &before)?.1 {
        None => Ok(()),
        Some(error) => {
            let why = format!("{error}; what was in force stays so");
            Err(Error::Settings(why).into())
        }
    }
}
