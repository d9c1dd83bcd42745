//! The control files and reports: one row for each, with its name, its mode, and what reading and writing it do. To add
//! one, add a row to the list of its folder.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::json;

use super::Tree;
use super::failed_write::FailedWrite;
use super::resolved::Resolved;
use crate::cache::{NamedCache, function_caches};
use crate::error::{Error, Result};
use crate::provider::{ProviderReport, differing_variables};
use crate::secret::SecretValue;

/// A file that is always there and whose content is generated at each look. `of` is the cache or the provider whose file
/// it is; `None` in `cache/` itself and in the root.
pub(super) struct ControlFile {
    /// Its name; empty where the file has the name of its cache or provider.
    pub(super) name: &'static str,
    /// The permission bits that are shown.
    pub(super) mode: u16,
    pub(super) read_mode: ReadMode,
    /// What it holds now.
    pub(super) read: fn(&Tree, of: Option<&str>) -> Resolved,
    /// What a finished write does.
    pub(super) write: fn(&Tree, of: Option<&str>, bytes: &[u8]) -> Result<()>,
}

/// What reads of an open file give, and which modification time `stat` shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadMode {
    /// The content at the open, with the time at which it last changed.
    Snapshot,
    /// The content at the open, with the time at which the first server started: reading may change the content, and `tar`
    /// would report that the file changes while it is read.
    SnapshotWithStartTime,
    /// The content at each read, so that `tail -f` follows it.
    Live,
}

impl PartialEq for ControlFile {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for ControlFile {}

impl std::fmt::Debug for ControlFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({:?})", self.name)
    }
}

/// In the root.
pub(super) static IN_ROOT: &[ControlFile] = &[
    ControlFile {
        name: "events",
        mode: 0o400,
        read_mode: ReadMode::Live,
        read: |tree, _| {
            let journaled = tree.journaled.lock();
            generated(&String::from_utf8_lossy(journaled.events.all()))
        },
        write: read_only,
    },
    ControlFile {
        name: "metrics",
        mode: 0o400,
        read_mode: ReadMode::SnapshotWithStartTime,
        read: |tree, _| generated(&tree.metrics()),
        write: read_only,
    },
    ControlFile {
        name: "reload",
        mode: 0o200,
        read_mode: ReadMode::Snapshot,
        read: |_, _| generated(""),
        write: |tree, _, bytes| tree.reload(bytes),
    },
    ControlFile {
        name: "status",
        mode: 0o400,
        read_mode: ReadMode::Snapshot,
        read: |tree, _| json_text(&tree.status()),
        write: read_only,
    },
    ControlFile {
        name: "variables",
        mode: 0o600,
        read_mode: ReadMode::Snapshot,
        read: |tree, _| {
            let names = tree.mount_info().comparisons.differing;
            generated(
                &names
                    .iter()
                    .map(|name| format!("{name}\n"))
                    .collect::<String>(),
            )
        },
        write: compare_variables,
    },
];

/// In `cache/` and in each cache's folder there.
pub(super) static IN_CACHES: &[ControlFile] = &[
    ControlFile {
        name: "stats",
        mode: 0o400,
        read_mode: ReadMode::SnapshotWithStartTime,
        read: stats,
        write: read_only,
    },
    ControlFile {
        name: "clear",
        mode: 0o200,
        read_mode: ReadMode::Snapshot,
        read: |_, _| generated(""),
        write: |tree, of, _| clear(tree, of),
    },
    ControlFile {
        name: "invalidate",
        mode: 0o600,
        read_mode: ReadMode::Snapshot,
        read: |tree, _| {
            let count = tree.invalidated.load(Ordering::Relaxed);
            generated(&format!("{count}\n"))
        },
        write: invalidate,
    },
];

/// In `providers/`.
pub(super) static PROVIDER: ControlFile = ControlFile {
    name: "",
    mode: 0o400,
    read_mode: ReadMode::Snapshot,
    read: |tree, of| match of.and_then(|name| tree.manager.snapshot().report(name)) {
        Some(report) if tree.manager.is_store(&report.name) => json_text(&StoreReport {
            report,
            failed_write: tree.failed_write_of_secrets(),
        }),
        Some(report) => json_text(&report),
        None => Resolved::Missing,
    },
    write: read_only,
};

/// The report of the provider that is written to.
#[derive(Serialize)]
struct StoreReport {
    #[serde(flatten)]
    report: ProviderReport,
    failed_write: Option<FailedWrite>,
}

fn read_only(_: &Tree, _: Option<&str>, _: &[u8]) -> Result<()> {
    let refused = std::io::Error::from_raw_os_error(libc::EACCES);
    Err(Error::io("this file is read-only", refused))
}

/// Compares the backends' variables of the process that writes with those of the mount.
fn compare_variables(tree: &Tree, _: Option<&str>, bytes: &[u8]) -> Result<()> {
    let mut is_counted = false;
    tree.set_mount_info(|info| is_counted = info.comparisons.count());
    if !is_counted {
        let refused = std::io::Error::from_raw_os_error(libc::EBUSY);
        let what = "the variables were compared too often; try again in a minute";
        return Err(Error::io(what, refused));
    }
    let named = tree.mount_info().variables_of_programs;
    let differing = differing_variables(bytes, &named).ok_or_else(|| Error::Malformed {
        what: "variables".into(),
        reason: "it must have NAME=VALUE and a zero byte for each variable".into(),
    })?;
    tree.set_mount_info(|info| info.comparisons.differing = differing);
    Ok(())
}

fn stats(tree: &Tree, of: Option<&str>) -> Resolved {
    match of {
        None => {
            let mut stats = tree.manager.caches().stats();
            stats.extend(function_caches().stats());
            json_text(&stats)
        }
        Some(name) => match cache(tree, name) {
            Ok(cache) => json_text(&cache.stats()),
            Err(_) => Resolved::Missing,
        },
    }
}

fn clear(tree: &Tree, of: Option<&str>) -> Result<()> {
    let count = match of {
        None => {
            let count = tree.manager.caches().clear() + function_caches().clear();
            tree.manager.clear_cache();
            count
        }
        Some(name) => {
            let count = cache(tree, name)?.clear();
            notify_invalidated(tree, name, None);
            count
        }
    };
    tree.invalidated.store(count as u64, Ordering::Relaxed);
    Ok(())
}

fn invalidate(tree: &Tree, of: Option<&str>, bytes: &[u8]) -> Result<()> {
    let prefix = parse_prefix(bytes)?;
    let count = match of {
        None => tree.manager.invalidate_prefix(prefix),
        Some(name) => {
            notify_invalidated(tree, name, Some(prefix));
            cache(tree, name)?.invalidate_prefix(prefix)
        }
    };
    tree.invalidated.store(count as u64, Ordering::Relaxed);
    Ok(())
}

fn cache(tree: &Tree, name: &str) -> Result<Arc<dyn NamedCache>> {
    let cache = tree.manager.caches().get(name);
    let cache = cache.or_else(|| function_caches().get(name));
    cache.ok_or_else(|| Error::NotFound { name: name.into() })
}

/// The event for one cache. The manager emits the one for all caches.
fn notify_invalidated(tree: &Tree, cache: &str, prefix: Option<&str>) {
    tree.add_event(&json!({
        "at": crate::provider::rfc3339(SystemTime::now()),
        "event": "invalidated",
        "key": prefix,
        "cache": cache,
    }));
}

/// Content that is generated at each look.
fn generated(text: &str) -> Resolved {
    Resolved::lasting(SecretValue::new(text), SystemTime::now())
}

fn json_text(value: &impl serde::Serialize) -> Resolved {
    match serde_json::to_string_pretty(value) {
        Ok(mut text) => {
            text.push('\n');
            generated(&text)
        }
        Err(error) => Resolved::Failed(Error::Malformed {
            what: "report".into(),
            reason: error.to_string(),
        }),
    }
}

/// The prefix that was written to an `invalidate` file: one line of printable text.
///
/// # Errors
/// [`Error::Malformed`] where it is empty, of several lines, or no text.
pub fn parse_prefix(bytes: &[u8]) -> Result<&str> {
    let malformed = |reason: &str| Error::Malformed {
        what: "invalidate".into(),
        reason: reason.into(),
    };
    let prefix = std::str::from_utf8(bytes)
        .map_err(|_| malformed("the prefix is not UTF-8 text"))?
        .trim_end_matches('\n');
    if prefix.is_empty() {
        return Err(malformed(
            "the prefix is empty; write to `clear` to drop everything",
        ));
    }
    if prefix.len() > 1024 || prefix.chars().any(char::is_control) {
        return Err(malformed(
            "the prefix must be one line of at most 1024 bytes",
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_one_line_of_text() {
        assert_eq!(parse_prefix(b"secret:HF\n").unwrap(), "secret:HF");
        for bad in [&b""[..], b"\n", b"a\nb\n", b"\xff", b"a\0", &[b'x'; 2000]] {
            assert_eq!(parse_prefix(bad).unwrap_err().errno(), libc::EINVAL);
        }
    }
}
