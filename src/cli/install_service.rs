//! `install-service`: writes a systemd unit that mounts at login or at boot.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use nix::unistd::User;

use super::failure::{Failure, say, warn};
use super::{Context, Outcome, absolute, output};
use crate::error::Error;
use crate::mount::{self, Scope, Service, UNIT};

/// Write a systemd unit that mounts at login or at boot
///
/// The unit is the user's own, or the machine's with --system (as root). It is written, not started: the commands to type
/// next are printed.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live install-service
  simpletuner-live install-service --print > my.service
  sudo simpletuner-live install-service --system --user trainer /run/trainer/live"
)]
pub(super) struct Args {
    /// The mount point [default: ~/.simpletuner/live]
    #[arg(value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// A service of the machine, not of the user
    #[arg(long)]
    system: bool,
    /// The user that the machine's service runs as
    #[arg(long, requires = "system", default_value = "root", value_hint = ValueHint::Username)]
    user: String,
    /// Let root in, too
    #[arg(long)]
    allow_root: bool,
    /// Print the unit instead of writing it
    #[arg(long)]
    print: bool,
    /// The program of a printed unit: a package prints it where the program is not installed yet
    #[arg(long, value_name = "PATH", requires = "print", hide = true)]
    program: Option<PathBuf>,
    /// Write over a unit that was changed by hand
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let own = || std::env::current_exe().map_err(|e| Error::io("this program's own file", e));
    let program = args.program.clone().map_or_else(own, Ok)?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c);
    // The user of a template is that of its instance.
    let is_template = args.print && args.user == "%i";
    let is_name = !args.user.is_empty() && args.user.chars().all(is_allowed);
    if !is_name && !is_template {
        return Err(Failure::new(format!("{:?} is not a user name", args.user)));
    }
    if args.program.is_none() {
        check_program(&program, args.system.then_some(args.user.as_str()))?;
    }
    let mut upgrade_arguments: Vec<OsString> = Vec::new();
    if let Some(config) = &context.config {
        upgrade_arguments.extend(["--config".into(), absolute(config)?.into()]);
    }
    let mut arguments = upgrade_arguments.clone();
    if args.allow_root {
        arguments.push("--allow-root".into());
    }
    if let Some(dir) = &args.dir {
        let dir = absolute(dir)?;
        arguments.push(dir.clone().into());
        upgrade_arguments.push(dir.into());
    }
    let scope = match args.system {
        true => Scope::System { user: args.user },
        false => Scope::User,
    };
    let mut runtime_folder = None;
    if let Scope::System { user } = &scope
        && user != "root"
    {
        let dir = args.dir.as_deref().map(absolute).transpose()?;
        if let Some(dir) = &dir {
            runtime_folder = mount::runtime_folder(dir)?;
        }
        // What is printed may be for another machine.
        if !args.print {
            let user = existing_user(user)?;
            let dir = dir.unwrap_or_else(|| user.dir.join(".simpletuner/live"));
            if runtime_folder.is_none() {
                check_mount_point(&user, &dir)?;
            }
        }
    }
    let service = Service {
        scope: scope.clone(),
        program,
        arguments,
        upgrade_arguments,
        runtime_folder,
    };
    let unit = service.unit()?;
    if args.print {
        return output::line(unit.trim_end());
    }
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = variable("HOME").unwrap_or_else(|| "/root".into());
    let path = service.path(&home, variable("XDG_CONFIG_HOME").as_deref());
    write(&path, &unit, args.force).map_err(|failure| needs_root(failure, &scope))?;
    output::line(&path.display().to_string())?;
    let systemctl = match scope {
        Scope::User => "systemctl --user",
        Scope::System { .. } => "systemctl",
    };
    say(
        "next",
        &format!("{systemctl} daemon-reload && {systemctl} enable --now {UNIT}"),
    );
    if scope == Scope::User {
        say(
            "next",
            "loginctl enable-linger    # to have it without a login, too",
        );
    }
    Ok(())
}

/// Refuses a program that another user could exchange, because the service runs what lies at its path again and again.
/// `user` is the user of a machine's service; `None`: this user.
fn check_program(program: &Path, user: Option<&str>) -> Outcome {
    let uid = match user {
        // A user that this machine does not have yet owns nothing on it.
        Some(user) => User::from_name(user)
            .ok()
            .flatten()
            .map_or(0, |user| user.uid.as_raw()),
        None => rustix::process::geteuid().as_raw(),
    };
    mount::open_program(program, uid)
        .map(drop)
        .map_err(|error| {
            Failure::with_hint(
                format!("a service cannot run this program: {error}"),
                format!(
                    "sudo install {} /usr/local/bin/ && {} install-service ...",
                    program.display(),
                    Path::new("/usr/local/bin")
                        .join(program.file_name().unwrap_or_default())
                        .display()
                ),
            )
        })
}

/// The user that the service is to run as.
fn existing_user(name: &str) -> Outcome<User> {
    let user = User::from_name(name).map_err(|e| Error::io(format!("the user {name}"), e))?;
    let Some(user) = user else {
        return Err(Failure::with_hint(
            format!("this machine has no user {name}"),
            format!("sudo useradd --system --create-home {name}"),
        ));
    };
    if !Path::new("/usr/bin/fusermount3").exists() && !Path::new("/bin/fusermount3").exists() {
        warn(
            "the service will need `fusermount3`, which is not installed (Debian: apt install fuse3)",
        );
    }
    Ok(user)
}

/// Refuses a mount point that the user can neither make nor mount on.
fn check_mount_point(user: &User, mount_point: &Path) -> Outcome {
    let (name, mut missing) = (&user.name, mount_point);
    for at in mount_point.ancestors() {
        match fs::symlink_metadata(at) {
            Err(error) if error.kind() == ErrorKind::NotFound => missing = at,
            Ok(found)
                if found.is_dir()
                    && found.uid() != user.uid.as_raw()
                    && found.mode() & 0o002 == 0 =>
            {
                return Err(Failure::with_hint(
                    format!(
                        "{name} cannot mount at {}: {} is not theirs",
                        mount_point.display(),
                        at.display()
                    ),
                    format!("sudo install -d -o {name} {}", missing.display()),
                ));
            }
            // What root may not see is the mount itself. A link is followed when the service starts.
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Says who can write a unit of the machine.
fn needs_root(failure: Failure, scope: &Scope) -> Failure {
    match (failure, scope) {
        (Failure::Error(error), Scope::System { .. }) if error.errno() == libc::EACCES => {
            let hint = "only root can install a service of the machine: type the same command after `sudo`, or leave out --system \
                        for a service of your own; --print shows the unit";
            Failure::Hinted(error, hint.to_owned())
        }
        (failure, _) => failure,
    }
}

fn write(path: &Path, unit: &str, force: bool) -> Outcome {
    let failed = |e| Error::io(path.display().to_string(), e);
    match fs::read_to_string(path) {
        Ok(present) if present == unit => return Ok(()),
        Ok(_) if !force => {
            return Err(Failure::new(format!(
                "{} exists already with other content; --print shows what would be written, and --force writes it; keep changes \
                 of your own in a drop-in (systemctl edit)",
                path.display()
            )));
        }
        _ => {}
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file = fs::File::create(path).map_err(failed)?;
    file.write_all(unit.as_bytes()).map_err(failed)?;
    Ok(())
}
