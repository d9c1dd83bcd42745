//! `mount -t fuse.simpletuner-live` and `/etc/fstab`: mount(8) and umount(8) call a program by the name of the filesystem, and
//! this program under that name runs `mount` and `umount`. The commands know nothing of it.

use std::ffi::{CString, OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use nix::unistd::{Uid, User};

use super::failure::{Failure, warn};
use super::{Outcome, absolute};
use crate::error::Error;
use crate::mount;

/// The exit codes of mount(8).
const WRONG_USAGE: u8 = 1;
const MOUNT_FAILED: u8 = 32;
/// What a command gets that is not to have the caller's PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// mount(8)'s own options, and what a mount does in any case.
const IGNORED: [&str; 31] = [
    "defaults",
    "rw",
    "nosuid",
    "nodev",
    "noexec",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "sync",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "iversion",
    "noiversion",
];

/// Mounts simpletuner-live for mount(8) and /etc/fstab
#[derive(Parser)]
#[command(
    name = "mount.fuse.simpletuner-live",
    version,
    after_help = "A line of /etc/fstab:
  simpletuner-live  /run/secrets-live  fuse.simpletuner-live  noauto,uid=trainer  0  0"
)]
struct MountHelper {
    /// Any word: `simpletuner-live`
    source: OsString,
    /// The mount point
    dir: PathBuf,
    /// Options, with commas between them: uid=USER, config=FILE, allow_root, and those of mount(8)
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Ignore unknown options
    #[arg(short)]
    sloppy: bool,
    /// Only check the options
    #[arg(short)]
    fake: bool,
    /// Accepted: no table of mounts is written in any case
    #[arg(short)]
    no_mtab: bool,
    /// Print where it is mounted
    #[arg(short)]
    verbose: bool,
    /// The type, as mount(8) gives it
    #[arg(short)]
    type_name: Option<OsString>,
}

/// Unmounts simpletuner-live for umount(8)
#[derive(Parser)]
#[command(name = "umount.fuse.simpletuner-live", version)]
struct UmountHelper {
    /// The mount point
    dir: PathBuf,
    /// Let the processes that use the mount go on: it ends with the last of them
    #[arg(short)]
    lazy: bool,
    /// Accepted: an unmount waits for nobody in any case
    #[arg(short)]
    force: bool,
    /// Accepted: no table of mounts is written in any case
    #[arg(short)]
    no_mtab: bool,
    /// Accepted, and without effect
    #[arg(short)]
    remount_read_only: bool,
    /// Accepted, and without effect
    #[arg(short)]
    verbose: bool,
    /// The type, as umount(8) gives it
    #[arg(short)]
    type_name: Option<OsString>,
}

/// Runs as a helper of mount(8) or umount(8), if this process was started by the name of one.
pub(super) fn run_as_helper() -> Option<ExitCode> {
    let called = std::env::args_os().next()?;
    let outcome = match Path::new(&called).file_name()?.to_str()? {
        "mount.fuse.simpletuner-live" => parsed().and_then(|args| mount(&args)),
        "umount.fuse.simpletuner-live" => parsed().and_then(|args| umount(&args)),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|end| end))
}

fn parsed<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        let _ = error.print();
        match error.use_stderr() {
            true => ExitCode::from(WRONG_USAGE),
            false => ExitCode::SUCCESS,
        }
    })
}

fn failed(code: u8) -> impl Fn(Failure) -> ExitCode {
    move |failure| {
        failure.report();
        ExitCode::from(code)
    }
}

fn mount(args: &MountHelper) -> Result<ExitCode, ExitCode> {
    let options = Options::parse(&args.options, args.sloppy).map_err(failed(WRONG_USAGE))?;
    if args.fake {
        return Ok(ExitCode::SUCCESS);
    }
    let run = || {
        let mut command = this_program()?;
        command.arg("mount");
        command.args((!args.verbose).then_some("--quiet"));
        if let Some(file) = &options.config {
            command.arg("--config").arg(file);
        }
        command.args(options.allow_root.then_some("--allow-root"));
        let dir = absolute(&args.dir)?;
        command.arg("--").arg(&dir);
        become_user(&mut command, options.user.as_deref(), &dir)?;
        run(&mut command)
    };
    run().map_err(failed(MOUNT_FAILED))
}

fn umount(args: &UmountHelper) -> Result<ExitCode, ExitCode> {
    let run = || {
        let mut command = this_program()?;
        command.arg("umount");
        command.args(args.lazy.then_some("--lazy"));
        let dir = absolute(&args.dir)?;
        command.arg("--").arg(&dir);
        become_user(&mut command, None, &dir)?;
        run(&mut command)
    };
    run().map_err(failed(MOUNT_FAILED))
}

fn this_program() -> Outcome<Command> {
    let program = std::env::current_exe().map_err(|e| Error::io("this program's own file", e))?;
    if rustix::process::geteuid().is_root() {
        // What is in fstab runs at each boot.
        mount::open_program(&program, 0).map_err(|error| {
            Failure::with_hint(
                format!("root does not run this program: {error}"),
                format!("sudo install {} /usr/local/bin/", program.display()),
            )
        })?;
    }
    Ok(Command::new(program))
}

/// Runs a command for mount(8), which prints nothing by itself.
fn run(command: &mut Command) -> Outcome<ExitCode> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Error::io("the command for mount(8)", e))?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(MOUNT_FAILED),
    })
}

/// Gives the command the home and the name of the user that it is to run as, and nothing of the caller's environment. From
/// then on this process is that user's, too. `None`: the user that this process runs as. `dir`: the mount point, which only
/// root can make in most folders.
fn become_user(command: &mut Command, wanted: Option<&str>, dir: &Path) -> Outcome {
    let me = Uid::effective();
    let (shown, found) = match wanted {
        None => (me.to_string(), User::from_uid(me)),
        Some(word) => match word.parse() {
            Ok(number) => (word.to_owned(), User::from_uid(Uid::from_raw(number))),
            Err(_) => (word.to_owned(), User::from_name(word)),
        },
    };
    let user = found
        .map_err(|e| Error::io(format!("the user {shown}"), e))?
        .ok_or_else(|| {
            Failure::new(format!(
                "there is no user {shown}: uid= takes a name or a number of /etc/passwd"
            ))
        })?;
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &user.dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .current_dir("/");
    if user.uid == me {
        return Ok(());
    }
    if !me.is_root() {
        return Err(Failure::new(format!(
            "only root may mount for another user (uid={shown})"
        )));
    }
    mount::make_for(dir, user.uid.as_raw(), user.gid.as_raw())?;
    let changed = CString::new(user.name.as_str())
        .map_err(|_| nix::errno::Errno::EINVAL)
        .and_then(|name| nix::unistd::initgroups(&name, user.gid))
        .and_then(|()| nix::unistd::setgid(user.gid))
        .and_then(|()| nix::unistd::setuid(user.uid));
    Ok(changed.map_err(|e| Error::io(format!("becoming the user {shown}"), e))?)
}

/// What `-o` asks for.
#[derive(Default, Debug, PartialEq, Eq)]
struct Options {
    user: Option<String>,
    config: Option<PathBuf>,
    allow_root: bool,
}

impl Options {
    /// `is_sloppy`: what is not known is ignored, with a warning.
    fn parse(lists: &[String], is_sloppy: bool) -> Outcome<Self> {
        let mut options = Self::default();
        let words = lists.iter().flat_map(|list| list.split(','));
        for word in words.filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let why = match name {
                "uid" if !value.is_empty() => {
                    options.user = Some(value.to_owned());
                    continue;
                }
                "config" if Path::new(value).is_absolute() => {
                    options.config = Some(OsStr::new(value).into());
                    continue;
                }
                "allow_root" => {
                    options.allow_root = true;
                    continue;
                }
                name if IGNORED.contains(&name) || name == "comment" => continue,
                name if name.starts_with("x-") || name.starts_with("X-") => continue,
                "config" => "it takes an absolute path: config=/etc/simpletuner-live.yaml",
                "uid" => "it takes a user: uid=trainer",
                "gid" => "the mount has the group of its user (uid=)",
                "allow_other" => "other users are never let in",
                "suid" | "dev" | "exec" => "a mount is always nosuid, nodev and noexec",
                "ro" => {
                    "a mount can always be written to; where its secrets file is read-only, writes to it fail"
                }
                "remount" => "`simpletuner-live reload DIR` has a mount read its settings anew",
                _ if is_sloppy => {
                    warn(&format!(
                        "the mount option {name} is not known, and is ignored"
                    ));
                    continue;
                }
                _ => "it is not known; known are uid=, config=, allow_root, and those of mount(8)",
            };
            return Err(Failure::new(format!(
                "the mount option {name} cannot be used: {why}"
            )));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&[text.to_owned()], false).map_err(|failure| match failure {
            Failure::Message(message, _) => message,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn the_options_of_fstab_are_known_ignored_or_refused_by_name() {
        let options = parse(
            "rw,noauto,x-systemd.automount,_netdev,user=root,uid=trainer,config=/etc/a.yaml,allow_root",
        );
        let expected = Options {
            user: Some("trainer".into()),
            config: Some("/etc/a.yaml".into()),
            allow_root: true,
        };
        assert_eq!(options, Ok(expected));
        assert_eq!(parse("defaults,,nofail,comment=x"), Ok(Options::default()));
        for refused in [
            "gid=5",
            "allow_other",
            "exec",
            "ro",
            "remount",
            "uid",
            "uid=",
            "config=a.yaml",
            "alow_root",
        ] {
            let said = parse(refused).unwrap_err();
            let name = refused.split('=').next().unwrap();
            assert!(
                said.contains(&format!("option {name} cannot be used")),
                "{said}"
            );
        }
        let sloppy = Options::parse(&["alow_root".to_owned()], true).unwrap();
        assert_eq!(sloppy, Options::default());
    }
}
