//! All definitions, in `views.json`: read, watched, and written whole. Each change is in force, and its listeners have run, before it
//! is acknowledged. While the file is malformed, the last good definitions stay in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant, SystemTime};

use super::definition::ViewDefinition;
use super::document::{MAX_FILE, check_number, parse_all, to_text};
use super::owner::FileOwner;
use super::view::{Definitions, DefinitionsChange};
use crate::error::{Error, Result, in_words};
use crate::files::notifier::FileNotifier;
use crate::files::{ReadError, Stamp, place, read_file};
use crate::provider::file::write::{Lock, Replacement, sync_folder_of};
use crate::sync::{self, LARGE_STACK, Mutex, RwLock};

/// How often the file is looked at without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// When to look again at a file that changed only just now: its stamp may not show the next change.
const RECHECK_DELAY: Duration = Duration::from_millis(25);

/// Called for each change of the definitions.
pub type DefinitionsListener = Box<dyn Fn(&DefinitionsChange) + Send + Sync>;

#[derive(Default)]
struct InForce {
    definitions: Arc<Definitions>,
    /// Of the file that was read last, whether it was good or not.
    stamp: Option<Stamp>,
    problem: Option<String>,
    /// The last change, to be repeated at this time.
    repeat: Option<(Instant, DefinitionsChange)>,
}

/// The file of all definitions, and what is in force of it.
pub struct ViewStore {
    path: PathBuf,
    lock_timeout: Duration,
    mounting: FileOwner,
    // A leaf lock.
    in_force: Mutex<InForce>,
    /// Held from reading the file until the listeners have run.
    changing: Mutex<()>,
    listeners: RwLock<Vec<DefinitionsListener>>,
}

impl ViewStore {
    /// The store in this file, which is not read yet.
    pub fn new(path: &Path, lock_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            lock_timeout,
            mounting: FileOwner {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                mode: 0o400,
            },
            in_force: Mutex::default(),
            changing: Mutex::new(()),
            listeners: RwLock::default(),
        })
    }

    /// The user and group who mount.
    pub fn mounting(&self) -> FileOwner {
        self.mounting
    }

    /// The definitions in force.
    pub fn current(&self) -> Arc<Definitions> {
        self.in_force.lock().definitions.clone()
    }

    /// Why the file is not in force as it is now.
    pub fn problem(&self) -> Option<String> {
        self.in_force.lock().problem.clone()
    }

    /// Calls `listener` for each change from now on: after the change is in force, and before it is acknowledged. Calls come one
    /// after the other. A listener must not change the store.
    pub fn on_change(&self, listener: DefinitionsListener) {
        self.listeners.write().push(listener);
    }

    /// Puts the definitions in force that a server before this one had in force ([`to_record`](Definitions::to_record)). The file is
    /// read later.
    pub fn restore(&self, record: &[u8]) {
        let mut lines = record.splitn(2, |&byte| byte == b'\n');
        let times: BTreeMap<String, u64> = lines
            .next()
            .and_then(|times| serde_json::from_slice(times).ok())
            .unwrap_or_default();
        if let Ok(views) = parse_all(lines.next().unwrap_or_default()) {
            let at = |name: &str| match times.get(name) {
                Some(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(*seconds),
                None => SystemTime::now(),
            };
            let restored = Definitions::default().next(views, self.mounting, at);
            self.in_force.lock().definitions = Arc::new(restored);
        }
    }

    /// Defines a view.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::TooLarge`] if it is no definition; [`Error::Io`] if the file cannot be read or written. Nothing
    /// has changed then.
    pub fn put(&self, name: &str, text: &[u8]) -> Result<()> {
        let definition = ViewDefinition::parse(name, text)?;
        self.edit(|views| {
            views.insert(name.to_owned(), definition);
            Ok(())
        })
    }

    /// Removes a view.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; as for [`put`](Self::put).
    pub fn remove(&self, name: &str) -> Result<()> {
        self.edit(|views| match views.remove(name) {
            Some(_) => Ok(()),
            None => Err(Error::NotFound { name: name.into() }),
        })
    }

    /// Gives a view another name.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        super::definition::check_name(to)?;
        self.edit(|views| match views.remove(from) {
            Some(definition) => {
                views.insert(to.to_owned(), definition);
                Ok(())
            }
            None => Err(Error::NotFound { name: from.into() }),
        })
    }

    fn edit(
        &self,
        edit: impl FnOnce(&mut BTreeMap<String, ViewDefinition>) -> Result<()>,
    ) -> Result<()> {
        let _changing = self.changing.lock();
        let failed = |e| Error::io(self.path.display().to_string(), e);
        // A link is followed, and its target replaced.
        let target = place::find(&self.path).map_err(failed)?.path().to_owned();
        let _lock = Lock::take(&target, self.lock_timeout)?;
        let (mut views, _) = read(&self.path).map_err(|reason| self.unreadable(&reason))?;
        edit(&mut views)?;
        let malformed = |reason| Error::Malformed {
            what: self.path.display().to_string(),
            reason,
        };
        check_number(views.len()).map_err(malformed)?;
        let text = to_text(&views);
        if text.len() > MAX_FILE {
            return Err(Error::TooLarge {
                what: self.path.display().to_string(),
                limit: MAX_FILE,
            });
        }
        let stamp = Replacement::prepare(&target, text.as_bytes(), 0o600)?.commit()?;
        sync_folder_of(&target);
        self.apply(views, Some(stamp));
        Ok(())
    }

    fn unreadable(&self, reason: &str) -> Error {
        let path = self.path.display();
        let eio = std::io::Error::from_raw_os_error(libc::EIO);
        Error::io(
            format!("{path} is not changed, because it cannot be read: {reason}"),
            eio,
        )
    }

    /// Reads the file if it has changed, and puts it in force. Waits for the disk.
    pub fn check(&self) {
        let _changing = self.changing.lock();
        let stamp = || {
            let place = place::find(&self.path).ok()?;
            place.stat().map(Stamp::of)
        };
        let found = stamp();
        {
            let in_force = self.in_force.lock();
            let is_settled = found.is_none_or(|stamp| !stamp.may_repeat());
            if found == in_force.stamp && is_settled && found.is_some() {
                return;
            }
        }
        match read(&self.path) {
            Ok((views, stamp)) => self.apply(views, stamp),
            Err(problem) => {
                let mut in_force = self.in_force.lock();
                // Somebody may be about to write it: `echo >` empties it first. It is looked at again in a moment.
                in_force.stamp = found.filter(|stamp| !stamp.may_repeat());
                if found.is_some() && in_force.stamp.is_none() {
                    return;
                }
                let path = self.path.display();
                let shown = format!("{path}: {problem}");
                if in_force.problem.as_ref() != Some(&shown) {
                    tracing::error!(
                        "{path} is not in force, and the views stay as they were: {problem}"
                    );
                }
                in_force.problem = Some(shown);
            }
        }
    }

    /// The caller holds `changing`.
    fn apply(&self, views: BTreeMap<String, ViewDefinition>, stamp: Option<Stamp>) {
        let before = self.current();
        // The file may have been written long before this process.
        let now = SystemTime::now();
        let written = stamp.map_or(now, |stamp| stamp.modified().min(now));
        let after = Arc::new(before.next(views, self.mounting, |_| written));
        let change = DefinitionsChange {
            before,
            after,
            is_repeat: false,
        };
        let is_change = change.views().next().is_some();
        {
            let mut in_force = self.in_force.lock();
            in_force.stamp = stamp;
            in_force.problem = None;
            if is_change {
                in_force.definitions = change.after.clone();
                let repeat = DefinitionsChange {
                    is_repeat: true,
                    ..change.clone()
                };
                in_force.repeat = Some((Instant::now() + POLL_INTERVAL, repeat));
            }
        }
        if is_change {
            self.notify(&change);
        }
    }

    fn notify(&self, change: &DefinitionsChange) {
        self.listeners
            .read()
            .iter()
            .for_each(|listener| listener(change));
    }

    /// Calls the listeners again after this time, as if for a change that was the last one.
    pub fn repeat_after(&self, pause: Duration) {
        let mut in_force = self.in_force.lock();
        let change = DefinitionsChange {
            before: in_force.definitions.clone(),
            after: in_force.definitions.clone(),
            is_repeat: true,
        };
        // A change that is to be repeated sooner comes first.
        let repeat = (Instant::now() + pause, change);
        in_force.repeat.get_or_insert(repeat);
    }

    /// Repeats the last change once its time has come.
    fn repeat(&self) {
        let _changing = self.changing.lock();
        let due = {
            let mut in_force = self.in_force.lock();
            in_force.repeat.take_if(|(at, _)| Instant::now() >= *at)
        };
        if let Some((_, change)) = due {
            self.notify(&change);
        }
    }

    /// Watches the file from now on, on a thread that ends with the store. Waits at most `timeout` until the file was read once.
    pub fn watch(self: &Arc<Self>, timeout: Duration) {
        let (sender, receiver) = sync_channel(1);
        let store = Arc::downgrade(self);
        let run = move || {
            let mut notifier = FileNotifier::new();
            while let Some(store) = store.upgrade() {
                // Before the check, so that a change after it is noticed.
                notifier.watch_folders_of(std::slice::from_ref(&store.path));
                store.check();
                store.repeat();
                let _ = sender.try_send(());
                let stamp = store.in_force.lock().stamp;
                drop(store);
                let pause = match stamp.is_some_and(|stamp| stamp.may_repeat()) {
                    true => RECHECK_DELAY,
                    false => POLL_INTERVAL,
                };
                notifier.wait(None, crate::clock::Instant::now() + pause);
            }
        };
        match sync::spawn("view-store", LARGE_STACK, run) {
            Ok(_) => drop(receiver.recv_timeout(timeout)),
            Err(error) => {
                tracing::warn!("no thread could be started that watches the views: {error}");
                self.check();
            }
        }
    }
}

/// The views' definitions in a file; none if there is no file.
///
/// # Errors
/// What is wrong, and in which view.
pub fn read_definitions(path: &Path) -> Result<BTreeMap<String, ViewDefinition>, String> {
    read(path).map(|(views, _)| views)
}

/// The file's views, and its stamp; none if there is no file.
fn read(path: &Path) -> Result<(BTreeMap<String, ViewDefinition>, Option<Stamp>), String> {
    match read_file(path, MAX_FILE) {
        Ok(content) => Ok((parse_all(&content.bytes)?, Some(content.stamp))),
        Err(ReadError::Missing) => Ok((BTreeMap::new(), None)),
        Err(ReadError::NotAFile(what)) => Err(what.into()),
        Err(ReadError::TooLarge) => Err(format!("it is larger than {MAX_FILE} bytes")),
        Err(ReadError::Io(error)) => Err(format!("it cannot be read: {}", in_words(&error))),
    }
}

#[cfg(test)]
mod tests;
