//! What lies at a mount point, from `/proc/self/mountinfo` (proc(5)), and whether it answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::error::{Error, Result};

/// The source that our mounts bear. Their type is `fuse`, or `fuse.simpletuner-live` where `fusermount3` mounted.
pub(super) const SOURCE: &str = "simpletuner-live";
/// How long a living mount may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// What lies at a mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountState {
    /// No mount.
    NotMounted,
    /// A mount of ours.
    Ours {
        /// Whether its daemon answers.
        alive: bool,
        /// The processes that keep it, where they may be known.
        pids: Vec<u32>,
    },
    /// Something else.
    Foreign {
        /// Its filesystem type.
        fstype: String,
    },
}

/// What lies at `dir`, which need not exist. A mount of ours is asked for its `status`, for at most 5 seconds.
///
/// # Errors
/// [`Error::Io`] where the table of mounts cannot be read.
pub fn state(dir: &Path) -> Result<MountState> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::io("/proc/self/mountinfo", e))?;
    let dir = resolve(dir);
    let Some((fstype, source)) = mount_at(&table, &dir) else {
        return Ok(MountState::NotMounted);
    };
    if !fstype.starts_with("fuse") || source != SOURCE {
        return Ok(MountState::Foreign {
            fstype: fstype.into(),
        });
    }
    Ok(ask(&dir))
}

/// Whether anything is mounted at `dir`.
pub(super) fn is_mounted(dir: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|table| mount_at(&table, &resolve(dir)).is_some())
}

/// The path without links, found without a look at its last part, which may be a mount that does not answer.
pub(super) fn resolve(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => parent
            .canonicalize()
            .unwrap_or_else(|_| parent.into())
            .join(name),
        _ => dir,
    }
}

/// The type and the source of the topmost filesystem that is mounted just there.
fn mount_at<'a>(table: &'a str, dir: &Path) -> Option<(&'a str, &'a str)> {
    table
        .lines()
        .filter(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|field| Path::new(&unescape(field)) == dir)
        })
        .filter_map(|line| {
            let mut fields = line.split_once(" - ")?.1.split(' ');
            Some((fields.next()?, fields.next()?))
        })
        .next_back()
}

/// Spaces, tabs, newlines and backslashes are written as `\040` and so on.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'\\')
            .then(|| {
                tail.get(..3)
                    .and_then(|digits| std::str::from_utf8(digits).ok())
            })
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the file `status`, in a thread of its own, because a daemon that hangs would hold this one for ever.
fn ask(dir: &Path) -> MountState {
    let (sender, receiver) = channel();
    let status = dir.join("status");
    std::thread::spawn(move || drop(sender.send(fs::read(status))));
    match receiver.recv_timeout(ANSWERS_WITHIN) {
        Ok(Ok(bytes)) => {
            let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let pids = ["server_pid", "keeper_pid"].map(|field| status[field].as_u64());
            MountState::Ours {
                alive: true,
                pids: pids.into_iter().flatten().map(|pid| pid as u32).collect(),
            }
        }
        // Somebody is there who does not want to talk to this user.
        Ok(Err(error)) if error.raw_os_error() == Some(libc::EACCES) => MountState::Ours {
            alive: true,
            pids: Vec::new(),
        },
        Ok(Err(_)) | Err(_) => MountState::Ours {
            alive: false,
            pids: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_at_a_path_with_a_space_is_found() {
        let table = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
            30 22 0:40 / /home/a\\040b/live rw,nosuid - tmpfs tmpfs rw\n\
            31 22 0:41 / /home/a\\040b/live rw,nosuid shared:5 - fuse simpletuner-live rw\n";
        assert_eq!(
            mount_at(table, Path::new("/home/a b/live")),
            Some(("fuse", SOURCE))
        );
        assert_eq!(mount_at(table, Path::new("/home/a b")), None);
        assert_eq!(mount_at(table, Path::new("/")), Some(("ext4", "/dev/vda")));
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_mounted() {
        assert_eq!(
            state(Path::new("/no/such/folder")).unwrap(),
            MountState::NotMounted
        );
    }
}
