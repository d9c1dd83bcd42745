//! Sees edits of the secrets file by others as they happen, for `events` and for what the kernel has cached. Reads do
//! not need it: every open compares the file itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use inotify::{Inotify, WatchMask};

use crate::manager::SecretsManager;

/// Watches the folder of the secrets file, and `base`, where it may come to lie, for as long as the process lives.
/// Where it cannot, it says so and leaves it: events come at the next open then.
pub(super) fn watch(manager: Arc<SecretsManager>, base: PathBuf) {
    let started = std::thread::Builder::new()
        .name("watch".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            if let Err(error) = serve(&manager, base) {
                tracing::warn!(
                    "edits of the secrets file are seen only when a secret is opened: {error}"
                );
            }
        });
    if let Err(error) = started {
        tracing::warn!("edits of the secrets file are not watched: {error}");
    }
}

fn serve(manager: &SecretsManager, base: PathBuf) -> std::io::Result<()> {
    let mut inotify = Inotify::init()?;
    let mask =
        WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
    // The file itself is replaced by each write, so its folder is watched.
    let store = manager
        .store_path()
        .and_then(|path| Some(path.parent()?.to_owned()));
    let folders: BTreeSet<PathBuf> = store
        .into_iter()
        .chain([base])
        .filter(|folder| folder.is_dir())
        .collect();
    for folder in folders {
        inotify.watches().add(folder, mask)?;
    }
    let mut buffer = [0; 4096];
    loop {
        // What changed does not matter: a refresh is one statx.
        if inotify.read_events_blocking(&mut buffer)?.next().is_some() {
            manager.refresh();
        }
    }
}
