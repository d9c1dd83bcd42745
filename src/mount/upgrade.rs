//! Changing a running mount to the program now on disk. The keeper does it; here it is asked to, and its answer waited
//! for.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::Value;

use super::of_another;
use super::process::PROCESS_NAME;
use super::state::{MountState, resolve, state};
use crate::error::{Error, Result};
use crate::live::Upgrade;
use crate::process;

/// How long the keeper may take: it gives up on a program by itself before that.
const DONE_WITHIN: Duration = Duration::from_secs(45);
/// How often its answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A mount that goes on with another program.
#[derive(Clone, Debug)]
pub struct Upgraded {
    /// The version that served before.
    pub from: String,
    /// The version that serves now.
    pub to: String,
    /// The process that serves now.
    pub server_pid: u64,
    /// The program.
    pub program: String,
}

/// Has the mount at `dir` go on with the program that now lies where its own lay. Open files, and whoever is at one,
/// notice nothing; `force`: even where the kernel cannot send again what is being answered just then, which ends with EIO.
///
/// # Errors
/// [`Error::Settings`]: there is no mount of ours, the kernel cannot send again, or why the new program does not serve;
/// the old one does, then.
pub fn upgrade(dir: &Path, force: bool) -> Result<Upgraded> {
    let dir = resolve(dir);
    let place = dir.display();
    let refuse = |why: String| Err(Error::Settings(why));
    match state(&dir)? {
        MountState::Ours { alive: true, .. } => {}
        MountState::Ours { alive: false, .. } => {
            return refuse(format!(
                "the mount at {place} does not answer; `simpletuner-live mount` cleans it up and mounts again"
            ));
        }
        MountState::OfAnother { uid } => return refuse(of_another(&dir, uid)),
        _ => return refuse(format!("nothing of ours is mounted at {place}")),
    }
    let before = status(&dir)?;
    if before["kernel"]["resend"] != true && !force {
        return refuse(
            "this kernel cannot send again what is being answered at the moment of the change (Linux 6.9 or newer can): \
             it would end with an input/output error; wait until nobody uses the mount, and say --force"
                .into(),
        );
    }
    let Some(keeper) = before["keeper_pid"].as_u64() else {
        return refuse(format!("the mount at {place} has no keeper to ask"));
    };
    ask(&dir, keeper)?;
    let begun = Instant::now();
    let number = |status: &Value| status["upgrade"]["number"].as_u64().unwrap_or(0);
    let text = |status: &Value, field: &str| status[field].as_str().unwrap_or("?").to_owned();
    while begun.elapsed() < DONE_WITHIN {
        std::thread::sleep(LOOK_EVERY);
        // Where the kernel cannot send again, this may itself be what ends with the old server.
        let Ok(now) = status(&dir) else {
            continue;
        };
        if number(&now) == number(&before) {
            continue;
        }
        let upgrade: Option<Upgrade> = serde_json::from_value(now["upgrade"].clone()).ok();
        if let Some(error) = upgrade.and_then(|upgrade| upgrade.error) {
            return refuse(format!(
                "{} cannot take over, and the mount goes on as it was: {error}",
                text(&now, "program")
            ));
        }
        return Ok(Upgraded {
            from: text(&before, "version"),
            to: text(&now, "version"),
            server_pid: now["server_pid"].as_u64().unwrap_or(0),
            program: text(&now, "program"),
        });
    }
    let timed_out = rustix::io::Errno::TIMEDOUT;
    Err(Error::io(
        "the keeper says nothing of the upgrade",
        timed_out,
    ))
}

fn status(dir: &Path) -> Result<Value> {
    let path = dir.join("status");
    let failed = |e| Error::io(path.display().to_string(), e);
    let bytes = std::fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
}

/// Asks the keeper, once it is proved that the number is its own still and not that of a later process.
fn ask(dir: &Path, keeper: u64) -> Result<()> {
    let failed = |e| Error::io(format!("the keeper, process {keeper},"), e);
    let unknown = || failed(rustix::io::Errno::SRCH);
    let pid = i32::try_from(keeper).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(unknown)?;
    let held = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    // The mount is ours, and names the process that is held now.
    let still = status(dir)?["keeper_pid"].as_u64() == Some(keeper);
    let number = keeper as u32;
    let is_ours = process::user_of(number) == Some(rustix::process::geteuid().as_raw())
        && process::name_of(number).as_deref() == Some(PROCESS_NAME);
    if !still || !is_ours {
        return Err(unknown());
    }
    rustix::process::pidfd_send_signal(&held, Signal::USR1).map_err(failed)
}
