//! `mount`: starts the daemon.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{ValueEnum, ValueHint};

use super::failure::{Failure, say, warn};
use super::mount_client::MountClient;
use super::status::warn_of_changed_settings;
use super::view::warn_of_problem;
use super::{Context, Outcome, output, same_store};
use crate::error::Error;
use crate::mount::MountPointState;
use crate::provider::{BACKENDS, backend_variables, variables_of_programs};
use crate::settings::{Flags, Settings};
use crate::text::shell_path;
use crate::{logging, mount};

/// Mount the secrets as files, in the background
///
/// Returns once the mount answers. The secrets file and its key are created on first use. A dead mount is cleaned up first;
/// a running one is left alone.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live mount
  simpletuner-live mount /run/secrets-live --allow-root
  simpletuner-live mount --foreground          # under systemd, or to watch the log

All else is set in ~/.simpletuner/live.yaml, or by variables: see simpletuner-live settings --help"
)]
pub(super) struct Args {
    /// The mount point, created if it is missing [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(long)]
    pub(super) foreground: bool,
    /// Let root in, too
    #[arg(long)]
    allow_root: bool,
    /// Print nothing but errors and warnings
    #[arg(long, hide = true)]
    quiet: bool,
    /// The part of the mount that this process is
    #[arg(long, hide = true, requires = "foreground")]
    part: Option<Part>,
    /// The format in which the mount is handed over
    #[arg(long, hide = true, requires = "part",
          value_parser = clap::value_parser!(u32).range(i64::from(mount::FORMAT)..=i64::from(mount::FORMAT)))]
    handover: Option<u32>,
}

/// The processes of a mount.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Mounts, and reports to the command that started it when the mount answers
    BackgroundKeeper,
    /// Answers the kernel, for the keeper that started it
    Server,
    /// Opens the new program of an upgrade, and becomes its server
    Successor,
    /// Keeps the mount, for the server that started it
    Keeper,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let flags = Flags {
        // Without the flag, the settings decide.
        allow_root: args.allow_root.then_some(true),
        ..context.flags(args.dir.as_deref())?
    };
    if args.foreground {
        mount::detach_from_caller()?;
        // Before the settings are loaded, which may warn. A background part sets up its own log, and the command that started
        // it has shown the warnings.
        if args.part.is_none() {
            logging::init_foreground();
        }
        let keep = |in_background| {
            let settings = Settings::load(&flags, BACKENDS)?;
            let arguments = daemon_arguments(&args, &flags, &settings);
            mount::mount_foreground(&settings, &arguments, in_background)
        };
        return Ok(match args.part {
            None => keep(false),
            Some(Part::BackgroundKeeper) => keep(true),
            Some(Part::Server) => mount::serve(|content| {
                let flags = Flags {
                    content,
                    ..flags.clone()
                };
                Settings::load(&flags, BACKENDS)
            }),
            Some(Part::Successor) => mount::become_server(),
            Some(Part::Keeper) => mount::take_over(),
        }?);
    }
    let settings = Settings::load(&flags, BACKENDS).map_err(|error| wrong(&flags, error))?;
    same_store::refuse_moved_home(&settings)?;
    let is_first = std::fs::symlink_metadata(&settings.log_file).is_err();
    let arguments = daemon_arguments(&args, &flags, &settings);
    let mounted = mount::mount_background(&settings, &arguments)?;
    let path = mounted.mount_point.display();
    if args.quiet {
        return Ok(());
    }
    let mount = MountClient::require(&mounted.mount_point)?;
    let status = mount.read_json("status").ok();
    if mounted.already {
        say("note", "it is mounted already");
        if let Some(status) = &status {
            warn_of_changed_settings(status);
            let is_root = rustix::process::geteuid().is_root();
            if settings.allow_root && !is_root && status["allow_root"] == false {
                warn(&format!(
                    "root is not let in: that takes {}, and then this command again",
                    mount::command_for("umount", &mounted.mount_point)
                ));
            }
        }
        warn_of_changed_variables(&mount, &settings);
    }
    if let Some(status) = &status {
        warn_of_problem(&status["views"]);
    }
    output::line(&path.to_string())?;
    // Every mount in the background makes the log.
    if is_first && std::io::stderr().is_terminal() {
        suggest(&mounted.mount_point);
    }
    Ok(())
}

/// What somebody may try who mounts for the first time. No suggestion replaces a secret.
fn suggest(mount_point: &Path) {
    let secrets = mount_point.join("secrets");
    let token = secrets.join("HF_TOKEN");
    match std::fs::symlink_metadata(&token).is_err() {
        true => say("try", &format!("echo hf_xxxx > {}", shell_path(&token))),
        false => say("try", &format!("ls -l {}", shell_path(&secrets))),
    }
    say("try", &format!("cat {}", shell_path(&token)));
}

/// Settings that are wrong do not concern a mount that runs.
fn wrong(flags: &Flags, error: Error) -> Failure {
    let state = Settings::mount_point_by(flags).and_then(|dir| mount::mount_point_state(&dir));
    match state {
        Ok(MountPointState::Ours { alive: true, .. }) => {
            let hint = "a mount runs there, and goes on with the settings in force";
            Failure::with_hint(error.to_string(), hint)
        }
        _ => error.into(),
    }
}

/// The mount keeps the variables that it was started with; warns if this command has others.
fn warn_of_changed_variables(mount: &MountClient, settings: &Settings) {
    let here = backend_variables(&variables_of_programs(settings));
    if here.is_empty() {
        return;
    }
    let compared = mount.write_control("variables", &here);
    match compared.and_then(|()| mount.read_text("variables")) {
        Ok(differing) if differing.is_empty() => {}
        Ok(differing) => warn(&format!(
            "the mount still uses the variables that it was started with; changed since: {}; \
             {} takes the new ones",
            differing.lines().collect::<Vec<_>>().join(", "),
            mount::command_for("reload --env", &settings.mount_point)
        )),
        Err(_) => {
            warn("the mount does not say whether its variables are still these of now; see its log")
        }
    }
}

/// The daemon's arguments, so that it loads the same settings. Paths are absolute, because it changes its working folder.
/// The mount point is always among them: commands find the mount's processes by it.
fn daemon_arguments(args: &Args, flags: &Flags, settings: &Settings) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(config) = &flags.config {
        arguments.extend(["--config".into(), config.into()]);
    }
    if args.allow_root {
        arguments.push("--allow-root".into());
    }
    arguments.push(mount::resolve(&settings.mount_point).into());
    arguments
}
