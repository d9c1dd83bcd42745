//! What mounting needs: the device, for an ordinary user `fusermount3`, and for other users' access a line of its settings.

use std::fs;
use std::path::Path;

use rustix::fs::{FileType, major, minor};

use super::{Finding, Subject};
use crate::mount::{FusermountState, fusermount_state};
use crate::settings::Settings;
use crate::text::shell_path;

const DEVICE: &str = "/dev/fuse";
/// Its numbers (Linux, `Documentation/admin-guide/devices.txt`).
const NUMBERS: (u32, u32) = (10, 229);
/// The settings of `fusermount3`.
const FUSE_CONF: &str = "/etc/fuse.conf";

pub(super) fn device(_: &Subject) -> Vec<Finding> {
    let make = format!("sudo mknod -m 666 {DEVICE} c {} {}", NUMBERS.0, NUMBERS.1);
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
                    .mended_by(format!("sudo rm {DEVICE} && {make}")),
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
        .mended_by("sudo modprobe fuse"),
    };
    vec![finding]
}

fn opened() -> Finding {
    let options = fs::File::options().read(true).write(true).open(DEVICE);
    match options {
        Ok(_) => Finding::ok(format!("{DEVICE} can be opened")),
        Err(error) => {
            let why = crate::error::in_words(&error);
            let finding = Finding::failed(format!(
                "{DEVICE} cannot be opened: {why}; a container needs it from its engine (`--device {DEVICE}`)"
            ));
            finding.mended_by(match error.kind() {
                std::io::ErrorKind::PermissionDenied => format!("sudo chmod 666 {DEVICE}"),
                _ => "sudo modprobe fuse".to_owned(),
            })
        }
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
        .mended_by("sudo apt install fuse3"),
        FusermountState::NotSetUserId(path) => Finding::failed(format!(
            "{} is not set-user-id root, so it cannot mount for an ordinary user",
            path.display()
        ))
        .mended_by(format!(
            "sudo chown root: {0} && sudo chmod u+s {0}",
            shell_path(&path)
        )),
        FusermountState::Ready(path) => {
            Finding::ok(format!("{} mounts for this user", path.display()))
        }
    }]
}

pub(super) fn allow_other(subject: &Subject, settings: &Settings) -> Vec<Finding> {
    if subject.is_root() {
        return vec![Finding::skipped("root needs no permission for it")];
    }
    let text = fs::read_to_string(FUSE_CONF).unwrap_or_default();
    let is_set = text.lines().any(|line| line.trim() == "user_allow_other");
    let has_views = has_views(&settings.views_file);
    let missing = format!("{FUSE_CONF} has no line user_allow_other, so");
    let fix = format!("echo user_allow_other | sudo tee -a {FUSE_CONF}");
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

fn has_views(file: &Path) -> bool {
    let text = crate::files::read_file(file, 16 * 1024 * 1024).ok();
    let views: Option<serde_json::Map<String, serde_json::Value>> =
        text.and_then(|text| serde_json::from_slice(&text.bytes).ok());
    views.is_some_and(|views| !views.is_empty())
}
