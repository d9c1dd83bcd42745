//! Lets a writer of the store wait until every other watcher of it has taken in what was written. Knows nothing of the
//! store's content.
//!
//! Beside the store lies `NAME.peers`. It counts the writes, and each watcher holds a lock on the byte at the offset of
//! the count that it has taken in. The locks belong to open file descriptions, so the kernel releases them with their
//! holder, and they are seen from any pid namespace. Writing the count wakes the watchers, by inotify.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};

use super::write::{beside, give_to_owner_of};

/// How long a write waits for the other watchers at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it sleeps before it looks again whether they are done.
const PAUSE: Duration = Duration::from_micros(50);

/// Where the count of writes is, and the count that some watcher did not take in within `PATIENCE`: writers do not wait
/// for watchers that are behind it.
const GENERATION: u64 = 0;
const MISSED: u64 = 16;
/// A count above this is not one of ours; a lock's offset must fit into 63 bits.
const HIGHEST: u64 = 1 << 62;
/// More watchers than this are not looked for.
const MANY: usize = 1000;

/// Filesystems that other machines may use too: there, a lock may belong to a watcher that is not woken by a write here.
const SHARED_BY_MACHINES: [u64; 7] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xfe53_4d42, // SMB2
    0xff53_4d42, // CIFS
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x6573_5546, // FUSE
];

/// The file `NAME.peers` of one store, as one watcher or writer has it open.
pub(super) struct Peers {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    /// The count whose byte is locked here. A leaf lock.
    held: Mutex<Option<u64>>,
}

/// Where the peers of a store meet.
pub(super) fn path_for(store: &Path) -> PathBuf {
    beside(store, "", ".peers")
}

impl Peers {
    /// Opens the file beside `store`, and makes it with `create`. `None`: there is none, or it cannot be used, which is
    /// never a reason to fail.
    pub(super) fn open(store: &Path, create: bool) -> Option<Self> {
        let path = path_for(store);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .ok()?;
        if create {
            give_to_owner_of(store, &file).ok()?;
        }
        let metadata = file.metadata().ok()?;
        let folder = path.parent().and_then(|folder| folder.metadata().ok());
        let owners = [
            Some(rustix::process::geteuid().as_raw()),
            Some(0),
            folder.map(|folder| folder.uid()),
        ];
        // Nobody else may hold writers up, or have them write into another file.
        let is_ours = metadata.is_file()
            && metadata.nlink() == 1
            && metadata.mode() & 0o077 == 0
            && owners.contains(&Some(metadata.uid()));
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
            held: Mutex::default(),
        })
    }

    /// Whether this is what lies beside `store` now.
    pub(super) fn is_beside(&self, store: &Path) -> bool {
        self.path == path_for(store)
            && std::fs::symlink_metadata(&self.path)
                .is_ok_and(|there| (there.dev(), there.ino()) == self.inode)
    }

    fn held(&self) -> MutexGuard<'_, Option<u64>> {
        self.held.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Joins the watchers, and gives the count of the writes that are in place: all of them show to a look at the store
    /// that begins now. `None`: the count cannot be read.
    pub(super) fn join(&self) -> Option<u64> {
        let mut held = self.held();
        if held.is_none() {
            let count = self.read(GENERATION).unwrap_or(0);
            *held = self.lock(libc::F_RDLCK, count).then_some(count);
        }
        // After the lock: a writer that did not see it had written before.
        self.read(GENERATION)
    }

    /// The writes up to this count have been taken in, and everybody here has been told.
    pub(super) fn has_taken_in(&self, count: u64) {
        let mut held = self.held();
        if let Some(before) = *held
            && before < count
            && self.lock(libc::F_RDLCK, count)
        {
            self.lock(libc::F_UNLCK, before);
            *held = Some(count);
        }
    }

    /// Tells the other watchers of a write that is in place. The caller holds the store's lock.
    pub(super) fn announce(&self) {
        let Some(mut highest) = self.others(0, HIGHEST) else {
            return;
        };
        for _ in 0..MANY {
            match self.others(highest + 1, HIGHEST) {
                Some(other) => highest = other,
                None => break,
            }
        }
        // A count that was damaged must not be below what a watcher has taken in.
        let highest = highest.max(self.held().unwrap_or(0));
        self.write(
            GENERATION,
            self.read(GENERATION).unwrap_or(0).max(highest) + 1,
        );
    }

    /// Waits until all other watchers have taken in what was written. One that did not within a second is not waited for
    /// until it has caught up.
    pub(super) fn wait(&self) {
        let count = self.read(GENERATION).unwrap_or(0);
        let missed = self.read(MISSED).unwrap_or(0);
        let began = Instant::now();
        while self.others(missed, count).is_some() {
            if began.elapsed() >= PATIENCE {
                tracing::debug!("another process has not taken in a write of the store within 1 s");
                return self.write(MISSED, count);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The count that another watcher has taken in, of those from `from` on and below `to`, if there is one.
    fn others(&self, from: u64, to: u64) -> Option<u64> {
        if from >= to {
            return None;
        }
        let mut lock = range(libc::F_WRLCK, from, to - from)?;
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
        if lock.l_type == libc::F_UNLCK as i16 {
            return None;
        }
        // A watcher that moves on by one holds both bytes as one range for a moment.
        let last = lock.l_start.saturating_add((lock.l_len - 1).max(0));
        Some(u64::try_from(last).unwrap_or(0).clamp(from, HIGHEST))
    }

    fn lock(&self, kind: i32, at: u64) -> bool {
        let locked = range(kind, at, 1).map(|lock| fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)));
        if let Some(Err(errno)) = locked {
            tracing::debug!("{} cannot be locked: {errno}", self.path.display());
        }
        matches!(locked, Some(Ok(_)))
    }

    /// A count, with its complement behind it: what is damaged or cut shows.
    fn read(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 16];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        let both = u128::from_le_bytes(bytes);
        let (count, complement) = (both as u64, (both >> 64) as u64);
        (count == !complement && count < HIGHEST).then_some(count)
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

    /// Waits, and says whether it had to give up.
    fn gives_up(writer: &Peers) -> bool {
        let began = Instant::now();
        writer.wait();
        began.elapsed() >= PATIENCE
    }

    #[test]
    fn a_writer_waits_for_each_watcher_that_is_behind_and_only_once_for_one_that_hangs() {
        let (_folder, store) = store();
        assert!(Peers::open(&store, false).is_none(), "nobody has made it");
        let watchers = [(); 3].map(|()| Peers::open(&store, true).unwrap());
        let writer = Peers::open(&store, false).unwrap();
        writer.announce();
        assert!(writer.read(GENERATION).is_none(), "nobody has joined");
        for watcher in &watchers {
            watcher.join();
        }
        for round in 1..=3 {
            writer.announce();
            for watcher in &watchers {
                let count = watcher.join().unwrap();
                assert_eq!(count, round);
                assert!(writer.others(0, count).is_some());
                watcher.has_taken_in(count);
            }
            assert!(writer.others(0, round).is_none());
            writer.wait();
        }
        let [hangs, works, ends] = watchers;
        writer.announce();
        drop(ends);
        works.has_taken_in(works.join().unwrap());
        assert!(gives_up(&writer));
        writer.announce();
        works.has_taken_in(works.join().unwrap());
        assert!(!gives_up(&writer), "it was waited for again");
        hangs.has_taken_in(hangs.join().unwrap());
        writer.announce();
        works.has_taken_in(works.join().unwrap());
        assert!(gives_up(&writer), "it had caught up");
    }

    #[test]
    fn a_watcher_that_writes_does_not_wait_for_itself() {
        let (_folder, store) = store();
        let both = Peers::open(&store, true).unwrap();
        both.join();
        both.announce();
        assert!(both.read(GENERATION).is_none(), "nobody else is there");
        assert!(!gives_up(&both));
    }

    #[test]
    fn a_damaged_file_delays_and_misleads_nobody() {
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
            watcher.has_taken_in(count);
            std::fs::write(path_for(&store), damage).unwrap();
            assert_eq!(watcher.join(), None);
            writer.announce();
            assert!(writer.others(0, watcher.join().unwrap()).is_some());
            watcher.has_taken_in(watcher.join().unwrap());
            assert!(!gives_up(&writer));
        }
    }

    #[test]
    fn a_file_that_others_could_have_made_is_not_used() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let (folder, store) = store();
        let (path, other) = (path_for(&store), folder.path().join("other"));
        std::fs::write(&other, "other").unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&other, &path).unwrap();
        assert!(Peers::open(&store, true).is_none(), "a link");
        std::fs::remove_file(&path).unwrap();
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
