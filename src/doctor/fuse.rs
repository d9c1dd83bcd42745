//! What mounting needs: the device, for an ordinary user `fusermount3`, and for other users' access a line of its settings.

use std::fs;
use std::path::Path;

use rustix::fs::{FileType, StatVfsMountFlags, major, minor};

use super::{Finding, Subject};
use crate::mount::{FusermountState, fusermount_state};
use crate::settings::Settings;
use crate::text::{as_root, shell_path};

const DEVICE: &str = "/dev/fuse";
/// Its numbers (Linux, `Documentation/admin-guide/devices.txt`).
const NUMBERS: (u32, u32) = (10, 229);
/// The system's programs that install packages, each with its words for that.
const INSTALLERS: [(&str, &str); 5] = [
    ("apt", "install"),
    ("dnf", "install"),
    ("zypper", "install"),
    ("pacman", "-S"),
    ("apk", "add"),
];
/// The settings of `fusermount3`.
const FUSE_CONF: &str = "/etc/fuse.conf";

pub(super) fn device(_: &Subject) -> Vec<Finding> {
    let make = as_root(&format!(
        "mknod -m 666 {DEVICE} c {} {}",
        NUMBERS.0, NUMBERS.1
    ));
    let has_fuse = fs::read_to_string("/proc/filesystems").is_ok_and(|all| {
        all.lines()
            .any(|line| line.trim_start_matches("nodev\t") == "fuse")
    });
    let finding = match rustix::fs::stat(DEVICE) {
        Ok(stat) => {
            let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && (major(stat.st_rdev), minor(stat.st_rdev)) == NUMBERS;
            match is_device {
                true => opened(),
                false => Finding::failed(format!("{DEVICE} is not the device of FUSE"))
                    .mended_by(format!("{} && {make}", as_root(&format!("rm {DEVICE}")))),
            }
        }
        Err(_) if has_fuse => Finding::failed(format!(
            "there is no {DEVICE}; a container needs it from its engine (`--device {DEVICE}`)"
        ))
        .mended_by(make),
        Err(_) => Finding::failed(format!(
            "there is no {DEVICE}, and the kernel has not loaded the module; a container needs the device from its engine \
             (`--device {DEVICE}`)"
        ))
        .mended_by(as_root("modprobe fuse")),
    };
    vec![finding]
}

fn opened() -> Finding {
    let options = fs::File::options().read(true).write(true).open(DEVICE);
    let Err(error) = options else {
        return Finding::ok(format!("{DEVICE} can be opened"));
    };
    let why = crate::error::in_words(&error);
    let is_nodev = rustix::fs::statvfs(DEVICE)
        .is_ok_and(|disk| disk.f_flag.contains(StatVfsMountFlags::NODEV));
    let said = format!("{DEVICE} cannot be opened: {why}");
    match error.raw_os_error() {
        Some(libc::EACCES) if is_nodev => {
            let remount =
                format!("mount -o remount,dev \"$(findmnt -no TARGET --target {DEVICE})\"");
            let why = "; it lies on a disk that is mounted with nodev";
            Finding::failed(format!("{said}{why}")).mended_by(as_root(&remount))
        }
        Some(libc::EACCES) => {
            Finding::failed(said).mended_by(as_root(&format!("chmod 666 {DEVICE}")))
        }
        // A container's engine decides; nothing in the container changes that.
        Some(libc::EPERM) => Finding::failed(format!(
            "{said}; a container gets it from its engine (`--device {DEVICE}`)"
        )),
        _ => Finding::failed(said).mended_by(as_root("modprobe fuse")),
    }
}

pub(super) fn helper(subject: &Subject) -> Vec<Finding> {
    if subject.is_root() {
        return vec![Finding::skipped("root mounts without it")];
    }
    vec![match fusermount_state() {
        FusermountState::Missing => Finding::failed(
            "an ordinary user mounts through fusermount3, which is not installed, or not in PATH",
        )
        .mended_by(install("fuse3")),
        FusermountState::NotSetUserId(path) => Finding::failed(format!(
            "{} is not set-user-id root, so it cannot mount for an ordinary user",
            path.display()
        ))
        .mended_by({
            let word = shell_path(&path);
            let own = as_root(&format!("chown root: {word}"));
            format!("{own} && {}", as_root(&format!("chmod u+s {word}")))
        }),
        FusermountState::Ready(path) => {
            Finding::ok(format!("{} mounts for this user", path.display()))
        }
    }]
}

pub(super) fn allow_other(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    if subject.is_root() {
        return vec![Finding::skipped("root needs no permission for it")];
    }
    let needs = settings.allow_root || has_views(&settings.views_file) || settings.docker;
    let text = match fs::read_to_string(FUSE_CONF) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && needs => {
            let said = format!(
                "{FUSE_CONF} may not be read, so it is not known whether others may be let in"
            );
            let fix = as_root(&format!("chmod a+r {FUSE_CONF}"));
            return vec![Finding::warning(said).mended_by(fix)];
        }
        Err(_) => String::new(),
    };
    // As fusermount3 reads it.
    let mut lines = text.lines().map(|line| match line.split_once('#') {
        Some((line, _)) => line.trim(),
        None => line.trim(),
    });
    let is_set = lines.any(|line| line == "user_allow_other");
    let has_views = has_views(&settings.views_file);
    let missing = format!("{FUSE_CONF} has no line user_allow_other, so");
    let add = match text.is_empty() || text.ends_with('\n') {
        true => "echo user_allow_other",
        // Else it would be a part of the last line.
        false => "printf '\\nuser_allow_other\\n'",
    };
    let fix = format!("{add} | {}", as_root(&format!("tee -a {FUSE_CONF}")));
    vec![match () {
        () if is_set => Finding::ok("other users may be let in"),
        () if settings.allow_root => {
            Finding::failed(format!("{missing} root cannot be let in (allow_root)")).mended_by(fix)
        }
        () if has_views || settings.docker => {
            Finding::warning(format!("{missing} only this user can read the views")).mended_by(fix)
        }
        () => Finding::ok(format!(
            "not set in {FUSE_CONF}, and not needed: there are no views"
        )),
    }]
}

/// The command that installs a package on this system.
pub(super) fn install(package: &str) -> String {
    let is_here = |(name, _): &&(&str, &str)| {
        Path::new("/usr/bin").join(name).exists() || Path::new("/sbin").join(name).exists()
    };
    let (name, verb) = INSTALLERS.iter().find(is_here).unwrap_or(&INSTALLERS[0]);
    as_root(&format!("{name} {verb} {package}"))
}

fn has_views(file: &Path) -> bool {
    let text = crate::files::read_file(file, 16 * 1024 * 1024).ok();
    let views: Option<serde_json::Map<String, serde_json::Value>> =
        text.and_then(|text| serde_json::from_slice(&text.bytes).ok());
    views.is_some_and(|views| !views.is_empty())
}
