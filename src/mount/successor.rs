//! The process that becomes the new program's server in an upgrade. It opens the new program, because a path can lead to a
//! filesystem that hangs, for which the keeper must not wait.

use super::channel::Channel;
use super::handover::{Hello, ToKeeper};
use super::trust::open_program;
use crate::error::{Error, Result};

/// Opens the program that is now at the mounted program's path, sends it to the keeper, and executes it as its server.
///
/// # Errors
/// Why it cannot run. The keeper gets the same reason.
pub fn become_server() -> Result<()> {
    let (Hello::Serve(state), mut shared, channel) = Channel::inherited()?.receive_hello()? else {
        return Err(Error::Settings(
            "only a keeper starts this part of a mount".into(),
        ));
    };
    let user = rustix::process::geteuid().as_raw();
    let mut execute = || {
        shared.program = open_program(&state.program(), user)?;
        channel.send_program(&shared.program)?;
        let hello = Hello::Serve(state.clone());
        Err(Channel::exec(
            &shared, &state, "server", None, &hello, &channel,
        ))
    };
    execute().inspect_err(|error| {
        // The keeper may have ended.
        let _ = channel.send(&ToKeeper::Failed(error.to_string()));
    })
}
