//! Sees edits of the secrets file by others as they happen, for `events` and for what the kernel has cached. Reads do
//! not need it: every open compares the file itself.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use inotify::{Inotify, WatchMask};

use crate::manager::SecretsManager;

/// Watches these files, which need not exist, for as long as the process lives. Where it cannot, it says so and leaves
/// it: events come at the next open then.
pub(super) fn watch(manager: Arc<SecretsManager>, files: Vec<PathBuf>) {
    let started = std::thread::Builder::new()
        .name("watch".into())
        .stack_size(256 * 1024)
        .spawn(move || if let Err(error) = serve(&manager, &files) {
            tracing::warn!("edits of the secrets file are seen only when a secret is opened: {error}");
        });
    if let Err(error) = started {
        tracing::warn!("edits of the secrets file are not watched: {error}");
    }
}

fn serve(manager: &SecretsManager, files: &[PathBuf]) -> std::io::Result<()> {
    let mut inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
    // The file itself is replaced by each write, so its folder is watched; behind a link, the target's.
    let mut folders = BTreeSet::new();
    let mut names: BTreeSet<OsString> = BTreeSet::new();
    for file in files.iter().cloned().chain(files.iter().filter_map(|file| file.canonicalize().ok())) {
        if let (Some(folder), Some(name)) = (file.parent(), file.file_name()) {
            folders.insert(folder.to_owned());
            names.insert(name.to_owned());
        }
    }
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        inotify.watches().add(folder, mask)?;
    }
    let mut buffer = [0; 4096];
    loop {
        let changed = inotify
            .read_events_blocking(&mut buffer)?
            .any(|event| event.name.is_none_or(|name| names.contains(name)));
        if changed {
            manager.refresh();
        }
    }
}
