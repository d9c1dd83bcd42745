//! Lets a writer of the store wait until every other watching process has seen the write. Knows nothing of the store's
//! content.
//!
//! The file `NAME.peers` beside the store counts the writes. Each watcher holds a lock on the byte at the offset of the
//! count that it has seen. The locks belong to open file descriptions: the kernel releases them when the watcher dies,
//! and they work across pid namespaces. Writing the count wakes the watchers through inotify.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::OFlags;

use crate::files::{beside, place};
use crate::sync::Mutex;

/// The longest time that a write waits for other watchers.
const WATCHERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a writer sleeps between two looks at the locks.
const POLL_INTERVAL: Duration = Duration::from_micros(50);

/// The offset of the count of writes.
const GENERATION: u64 = 0;
/// The offset of the last count that some watcher did not see within `WATCHERS_TIMEOUT`. Writers do not wait for
/// watchers that are behind it.
const MISSED: u64 = 16;
/// The largest count; a lock's offset must fit into 63 bits.
const MAX_COUNT: u64 = 1 << 62;
/// The largest number of watchers that a writer looks for.
const MAX_WATCHERS: usize = 1000;

/// Filesystems that other machines may use too. There a lock may belong to a watcher that inotify here does not wake.
const SHARED_BY_MACHINES: [u64; 7] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xfe53_4d42, // SMB2
    0xff53_4d42, // CIFS
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x6573_5546, // FUSE
];

/// Notifies the watchers of a store that another part of this program has replaced it under its lock. The returned function waits, a
/// second at most, until they have seen it.
pub(crate) fn announce(store: &Path) -> impl FnOnce() + use<> {
    let peers = Peers::open(store, false);
    if let Some(peers) = &peers {
        peers.announce();
    }
    move || {
        if let Some(peers) = peers {
            peers.wait();
        }
    }
}

/// The open file `NAME.peers` of one store.
pub(super) struct Peers {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    /// The count whose byte this process has locked. A leaf lock.
    locked_count: Mutex<Option<u64>>,
}

/// The path of a store's `NAME.peers`.
pub(crate) fn path_for(store: &Path) -> PathBuf {
    beside(store, "", ".peers")
}

impl Peers {
    /// Opens the file beside `store`; with `create`, creates it. `None`: there is none, or it cannot be used. Writes
    /// then do not wait.
    pub(super) fn open(store: &Path, create: bool) -> Option<Self> {
        let path = path_for(store);
        let flags = match create {
            true => OFlags::RDWR | OFlags::CREATE,
            false => OFlags::RDWR,
        };
        let file = place::open(&path, flags).ok()?;
        let metadata = file.metadata().ok()?;
        // Other users must not be able to block writers.
        let is_ours = metadata.nlink() == 1 && metadata.mode() & 0o077 == 0;
        #[allow(clippy::unnecessary_cast)] // its width differs between architectures
        let filesystem = rustix::fs::fstatfs(&file).ok()?.f_type as u64 & 0xffff_ffff;
        if !is_ours || SHARED_BY_MACHINES.contains(&filesystem) {
            tracing::debug!("{} is not used", path.display());
            return None;
        }
        Some(Self {
            inode: (metadata.dev(), metadata.ino()),
            path,
            file,
            locked_count: Mutex::default(),
        })
    }

    /// Whether this is still the file beside `store`.
    pub(super) fn is_beside(&self, store: &Path) -> bool {
        self.path == path_for(store)
            && std::fs::symlink_metadata(&self.path)
                .is_ok_and(|there| (there.dev(), there.ino()) == self.inode)
    }

    /// Joins the watchers. Returns the count of finished writes: a check of the store that begins now sees all of them.
    /// `None`: the count cannot be read.
    pub(super) fn join(&self) -> Option<u64> {
        let mut locked = self.locked_count.lock();
        if locked.is_none() {
            let count = self.read(GENERATION).unwrap_or(0);
            *locked = self.lock(libc::F_RDLCK, count).then_some(count);
        }
        // Read after locking: a writer that did not see the lock had already replaced the store.
        self.read(GENERATION)
    }

    /// This process has seen the writes up to this count, and has notified its listeners.
    pub(super) fn acknowledge(&self, count: u64) {
        let mut locked = self.locked_count.lock();
        if let Some(before) = *locked
            && before < count
            && self.lock(libc::F_RDLCK, count)
        {
            self.lock(libc::F_UNLCK, before);
            *locked = Some(count);
        }
    }

    /// Notifies the other watchers of a finished write. The caller holds the store's lock.
    pub(super) fn announce(&self) {
        let Some(mut highest) = self.others(0, MAX_COUNT) else {
            return;
        };
        for _ in 0..MAX_WATCHERS {
            match self.others(highest + 1, MAX_COUNT) {
                Some(other) => highest = other,
                None => break,
            }
        }
        // After damage to the file the count must not fall below one that a watcher has seen.
        let highest = highest.max(self.locked_count.lock().unwrap_or(0));
        self.write(
            GENERATION,
            self.read(GENERATION).unwrap_or(0).max(highest) + 1,
        );
    }

    /// Waits until all other watchers have seen the write. A watcher that takes longer than a second delays no further
    /// write until it has caught up.
    pub(super) fn wait(&self) {
        let count = self.read(GENERATION).unwrap_or(0);
        let missed = self.read(MISSED).unwrap_or(0);
        let began = Instant::now();
        while self.others(missed, count).is_some() {
            if began.elapsed() >= WATCHERS_TIMEOUT {
                tracing::debug!("another process has not seen a write of the store within 1 s");
                return self.write(MISSED, count);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// A count in `from..to` that another watcher holds, if there is one.
    fn others(&self, from: u64, to: u64) -> Option<u64> {
        if from >= to {
            return None;
        }
        let mut lock = range(libc::F_WRLCK, from, to - from)?;
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
        if lock.l_type == libc::F_UNLCK as i16 {
            return None;
        }
        // A watcher that advances by one holds both bytes for a moment, which the kernel reports as one range.
        let last = lock.l_start.saturating_add((lock.l_len - 1).max(0));
        Some(u64::try_from(last).unwrap_or(0).clamp(from, MAX_COUNT))
    }

    fn lock(&self, kind: i32, at: u64) -> bool {
        let locked = range(kind, at, 1).map(|lock| fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)));
        if let Some(Err(errno)) = locked {
            tracing::debug!("{} cannot be locked: {errno}", self.path.display());
        }
        matches!(locked, Some(Ok(_)))
    }

    /// Reads a count. Its complement follows it, so that damage shows.
    fn read(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 16];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        let both = u128::from_le_bytes(bytes);
        let (count, complement) = (both as u64, (both >> 64) as u64);
        (count == !complement && count < MAX_COUNT).then_some(count)
    }

    fn write(&self, at: u64, count: u64) {
        let both = u128::from(count) | (u128::from(!count) << 64);
        if let Err(error) = self.file.write_all_at(&both.to_le_bytes(), at) {
            tracing::debug!("{} cannot be written: {error}", self.path.display());
        }
    }
}

fn range(kind: i32, from: u64, length: u64) -> Option<libc::flock> {
    // The width and the order of the fields differ between architectures.
    Some(libc::flock {
        l_type: kind.try_into().ok()?,
        l_whence: libc::SEEK_SET.try_into().ok()?,
        l_start: from.try_into().ok()?,
        l_len: length.try_into().ok()?,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("secrets.json");
        (folder, store)
    }

    /// Waits; `true` if the wait timed out.
    fn gives_up(writer: &Peers) -> bool {
        let began = Instant::now();
        writer.wait();
        began.elapsed() >= WATCHERS_TIMEOUT
    }

    #[test]
    fn a_writer_waits_for_each_watcher_that_is_behind_but_only_once_for_one_that_hangs() {
        let (_folder, store) = store();
        assert!(
            Peers::open(&store, false).is_none(),
            "no watcher has created it"
        );
        let watchers = [(); 3].map(|()| Peers::open(&store, true).unwrap());
        let writer = Peers::open(&store, false).unwrap();
        writer.announce();
        assert!(writer.read(GENERATION).is_none(), "no watcher has joined");
        for watcher in &watchers {
            watcher.join();
        }
        for round in 1..=3 {
            writer.announce();
            for watcher in &watchers {
                let count = watcher.join().unwrap();
                assert_eq!(count, round);
                assert!(writer.others(0, count).is_some());
                watcher.acknowledge(count);
            }
            assert!(writer.others(0, round).is_none());
            writer.wait();
        }
        let [hangs, works, ends] = watchers;
        writer.announce();
        drop(ends);
        works.acknowledge(works.join().unwrap());
        assert!(gives_up(&writer));
        writer.announce();
        works.acknowledge(works.join().unwrap());
        assert!(!gives_up(&writer), "it was waited for again");
        hangs.acknowledge(hangs.join().unwrap());
        writer.announce();
        works.acknowledge(works.join().unwrap());
        assert!(gives_up(&writer), "it had caught up");
    }

    #[test]
    fn a_watcher_that_writes_does_not_wait_for_itself() {
        let (_folder, store) = store();
        let both = Peers::open(&store, true).unwrap();
        both.join();
        both.announce();
        assert!(both.read(GENERATION).is_none(), "there is no other watcher");
        assert!(!gives_up(&both));
    }

    #[test]
    fn a_damaged_file_neither_delays_a_writer_nor_hides_a_watcher() {
        let (_folder, store) = store();
        let (watcher, writer) = (
            Peers::open(&store, true).unwrap(),
            Peers::open(&store, true).unwrap(),
        );
        watcher.join();
        for damage in [
            &b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"[..],
            b"",
            &[0xff; 32],
        ] {
            writer.announce();
            let count = watcher.join().unwrap();
            watcher.acknowledge(count);
            std::fs::write(path_for(&store), damage).unwrap();
            assert_eq!(watcher.join(), None);
            writer.announce();
            assert!(writer.others(0, watcher.join().unwrap()).is_some());
            watcher.acknowledge(watcher.join().unwrap());
            assert!(!gives_up(&writer));
        }
    }

    #[test]
    fn a_file_that_others_could_have_made_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, store) = store();
        let (path, other) = (path_for(&store), folder.path().join("other"));
        std::fs::write(&other, "other").unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::hard_link(&other, &path).unwrap();
        assert!(Peers::open(&store, true).is_none(), "a hard link");
        std::fs::remove_file(&other).unwrap();
        let peers = Peers::open(&store, true).unwrap();
        assert!(peers.is_beside(&store));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Peers::open(&store, true).is_none(), "open to others");
        std::fs::remove_file(&path).unwrap();
        assert!(!peers.is_beside(&store));
    }
}
