//! `umount`: ends a mount.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueHint;
use rustix::event::{PollFd, PollFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::failure::Failure;
use super::{Context, Outcome};
use crate::error::Error;
use crate::mount::poll::poll;
use crate::mount::{self, BoundViews, Unmount};
use crate::sync::not_started;

/// How long the command takes at most, on a busy machine: whatever hangs, the worker gives up on it before.
const TIMEOUT: Duration = Duration::from_secs(15);
/// In the worker's output: the digit after it is the outcome, and ends it.
const END: u8 = 0;

/// Unmount, and end the daemon behind it
///
/// Files that were closed are written first. A process that still has a file or folder of the mount open gets ENOTCONN from
/// then on, here, in bind mounts and in containers; warnings name it. Whatever hangs delays the command by a few seconds at most.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    visible_alias = "unmount",
    after_help = "Examples:
  simpletuner-live umount
  simpletuner-live umount /run/secrets-live
  simpletuner-live umount --lazy               # processes that use the mount go on
  simpletuner-live umount --force              # even if containers still have views"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Let the processes that use the mount go on: it ends with the last of them; not if a view is still bound somewhere
    #[arg(long)]
    lazy: bool,
    /// Unmount even if a view is still bound into a container or elsewhere: who reads it gets ENOTCONN
    #[arg(long)]
    force: bool,
    /// Unmount in this process
    #[arg(long, hide = true)]
    worker: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    if !args.worker {
        return run_worker(&args, context);
    }
    let outcome = match unmount(&args, context) {
        Ok(()) => b'0',
        Err(failure) => {
            failure.report();
            b'1'
        }
    };
    let _ = io::stderr().write_all(&[END, outcome]);
    Ok(())
}

fn unmount(args: &Args, context: &Context) -> Outcome {
    let mount_point = context.mount_point(args.dir.as_deref())?;
    let how = match args.lazy {
        true => Unmount::Lazily,
        false => Unmount::Now,
    };
    let views = match args.force {
        true => BoundViews::End,
        false => BoundViews::Refuse,
    };
    let warn_of_simpletuner = context.look_for_simpletuner(args.dir.as_deref());
    mount::unmount(&mount_point, how, views)?;
    warn_of_simpletuner(Duration::ZERO);
    Ok(())
}

/// Unmounts in another process, and shows what it says. A filesystem that does not answer can keep a process from ending, even
/// one that is killed, and the process that started it waits for it. So this one looks at no path.
fn run_worker(args: &Args, context: &Context) -> Outcome {
    let until = Instant::now() + TIMEOUT;
    let failed = |e| Error::io("the process that unmounts", e);
    let program = std::env::current_exe().map_err(failed)?;
    let (output, end) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut worker = Command::new(program);
    if let Some(config) = &context.config {
        worker.arg("--config").arg(config);
    }
    worker.args(["umount", "--worker"]);
    worker.args(args.lazy.then_some("--lazy"));
    worker.args(args.force.then_some("--force")).arg("--");
    worker.args(&args.dir);
    let copy = end.try_clone().map_err(failed)?;
    worker.stdin(Stdio::null()).stdout(copy).stderr(end);
    worker.spawn().map_err(not_started).map_err(failed)?;
    // It has copies of the pipe's end, which would keep the pipe open.
    drop(worker);
    match relay(&output, until).map_err(failed)? {
        Some(b'0') => Ok(()),
        Some(_) => Err(Failure::Reported),
        None => Err(Failure::with_hint(
            "the mount could not be ended in time: a filesystem does not answer, or this machine is very busy",
            "`simpletuner-live status` says whether it has ended; another process goes on trying",
        )),
    }
}

/// Passes on to standard error what the worker says; returns its outcome, or `None` if there is none in time.
fn relay(output: &OwnedFd, until: Instant) -> io::Result<Option<u8>> {
    let mut said = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if poll(&mut [PollFd::new(output, PollFlags::IN)], left)? == 0 {
            return Ok(None);
        }
        let mut bytes = [0; 4096];
        let count = rustix::io::read(output, &mut bytes)?;
        said.extend_from_slice(&bytes[..count]);
        let end = said.iter().position(|byte| *byte == END);
        let text = end.unwrap_or(said.len());
        let _ = io::stderr().write_all(&said[..text]);
        said.drain(..text);
        match said.get(1) {
            Some(outcome) => return Ok(Some(*outcome)),
            // It has ended without an outcome.
            None if count == 0 => return Ok(Some(b'1')),
            None => {}
        }
    }
}
