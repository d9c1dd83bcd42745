//! The thread that reads the store: it notices edits, ignores half-written documents, and a disk that hangs delays only
//! the readers that need it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant, UNIX_EPOCH};

use simpletuner_live::credential::KeySource;
use simpletuner_live::manager::{Lookup, SecretsManager};
use simpletuner_live::provider::FileProvider;
use simpletuner_live::provider::file::{FileOptions, StoreLocation};

use crate::{Home, environment, name};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn found(manager: &SecretsManager, key: &str) -> Option<String> {
    let version = manager.snapshot().find(&name(key)).fresh()?;
    Some(version.value().as_str().to_owned())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_edit_by_another_program_shows_without_a_read() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "0"}"#);
    let manager = home.manager();
    let mut fastest = TEST_TIMEOUT;
    for round in 1..=20 {
        let edited = Instant::now();
        home.write("secrets.json", &format!(r#"{{"A": "{round}"}}"#));
        wait_until("the edit", || {
            found(&manager, "A").as_deref() == Some(&round.to_string())
        });
        fastest = fastest.min(edited.elapsed());
    }
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
    std::fs::remove_file(home.path("secrets.json")).unwrap();
    wait_until("its removal", || found(&manager, "A").is_none());
    home.write("secrets.yaml", "A: from yaml\n");
    wait_until("another default place", || {
        found(&manager, "A").as_deref() == Some("from yaml")
    });
}

#[test]
fn an_edit_behind_a_link_and_a_change_of_the_link_show() {
    let home = Home::make();
    std::fs::create_dir(home.path("one")).unwrap();
    std::fs::create_dir(home.path("two")).unwrap();
    home.write("one/real.json", r#"{"A": "one"}"#);
    home.write("two/real.json", r#"{"A": "two"}"#);
    symlink("one/real.json", home.path("secrets.json")).unwrap();
    let manager = home.manager();
    assert_eq!(found(&manager, "A").as_deref(), Some("one"));
    home.write("one/real.json", r#"{"A": "edited"}"#);
    wait_until("the edit", || {
        found(&manager, "A").as_deref() == Some("edited")
    });
    symlink("two/real.json", home.path("other")).unwrap();
    std::fs::rename(home.path("other"), home.path("secrets.json")).unwrap();
    wait_until("the other target", || {
        found(&manager, "A").as_deref() == Some("two")
    });
    home.write("two/real.json", r#"{"A": "edited, too"}"#);
    wait_until("its edit", || {
        found(&manager, "A").as_deref() == Some("edited, too")
    });
}

/// SimpleTuner truncates the store and writes it again, in place.
#[test]
fn a_store_that_is_rewritten_in_place_is_never_seen_half_written() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "0", "B": "0"}"#);
    let manager = home.manager();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let ear = seen.clone();
    manager.on_change(Box::new(move |change| {
        let value = |key| {
            let version = change.snapshot.find(&name(key)).last_known();
            version.map(|version| version.value().as_str().to_owned())
        };
        ear.lock().unwrap().push((value("A"), value("B")));
    }));
    for round in 1..=20 {
        let mut file = std::fs::File::create(home.path("secrets.json")).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        write!(file, r#"{{"A": "{round}", "#).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        write!(file, r#""B": "{round}"}}"#).unwrap();
        drop(file);
        wait_until("the rewriting", || {
            found(&manager, "B").as_deref() == Some(&round.to_string())
        });
    }
    for (a, b) in seen.lock().unwrap().iter() {
        assert!(a.is_some() && a == b, "{a:?} {b:?}");
    }
}

/// `mv` from another filesystem removes its target first, and a beginning of YAML is YAML.
#[test]
fn a_store_that_is_missing_or_truncated_for_a_moment_loses_no_key() {
    for (file, rewrite) in [
        ("secrets.json", r#"{"A": "a", "B": "b"}"#),
        ("secrets.yaml", "A: a\nB: b\n"),
    ] {
        let home = Home::make();
        home.write(file, rewrite);
        let manager = home.manager();
        let lost = Arc::new(Mutex::new(0));
        let ear = lost.clone();
        manager.on_change(Box::new(move |change| {
            let is_there = change.snapshot.find(&name("B")).last_known().is_some();
            *ear.lock().unwrap() += usize::from(!is_there);
        }));
        for _ in 0..20 {
            let begun = Instant::now();
            std::fs::remove_file(home.path(file)).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            if file.ends_with("yaml") {
                home.write(file, "A: a\n");
            }
            home.write(file, rewrite);
            // Where the machine stalled, it was gone for longer than a moment.
            let in_time = begun.elapsed() < Duration::from_millis(40);
            manager.refresh();
            let lost = std::mem::take(&mut *lost.lock().unwrap());
            assert!(lost == 0 || !in_time, "{file}");
            assert_eq!(found(&manager, "B").as_deref(), Some("b"));
        }
    }
}

#[test]
fn a_refresh_sees_every_edit_made_before_it() {
    let home = Home::make();
    let manager = home.manager();
    for round in 0..50 {
        home.write("secrets.json", &format!(r#"{{"A": "{round}"}}"#));
        manager.refresh();
        assert_eq!(found(&manager, "A"), Some(round.to_string()));
    }
}

#[test]
fn a_new_or_removed_credential_key_takes_effect_without_a_read() {
    let home = Home::make();
    home.manager().set("A", "sealed").unwrap();
    let manager = home.manager();
    assert_eq!(manager.get("A").unwrap().as_str(), "sealed");
    assert_eq!(found(&manager, "A").as_deref(), Some("sealed"));
    let key = home.read("credential.key");
    std::fs::remove_file(home.path("credential.key")).unwrap();
    wait_until(
        "the key is gone",
        || matches!(manager.snapshot().find(&name("A")), Lookup::Failed(error) if error.errno() == libc::EKEYREJECTED),
    );
    home.write("credential.key", "another");
    wait_until(
        "another key",
        || matches!(manager.snapshot().find(&name("A")), Lookup::Failed(error) if error.errno() == libc::EKEYREJECTED && error.to_string().contains("another credential key")),
    );
    home.write("credential.key", &key);
    wait_until("the key is back", || {
        found(&manager, "A").as_deref() == Some("sealed")
    });
}

/// A filesystem with one file, which answers nothing while its gate is closed.
struct SlowFs {
    content: Vec<u8>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    moved: Condvar,
}

impl Gate {
    fn set(&self, is_closed: bool) {
        *self.is_closed.lock().unwrap() = is_closed;
        self.moved.notify_all();
    }
    fn pass(&self) {
        let is_closed = self.is_closed.lock().unwrap();
        drop(self.moved.wait_while(is_closed, |closed| *closed).unwrap());
    }
}

/// Opens the gate whatever happens, so that nothing hangs on after the test.
struct Closed<'a>(&'a Gate);
impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl SlowFs {
    fn attr(&self, ino: u64) -> fuser::FileAttr {
        let owner = std::fs::metadata("/proc/self").unwrap();
        let (kind, perm) = match ino {
            1 => (fuser::FileType::Directory, 0o700),
            _ => (fuser::FileType::RegularFile, 0o600),
        };
        fuser::FileAttr {
            ino: fuser::INodeNo(ino),
            size: self.content.len() as u64,
            blocks: 1,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: owner.uid(),
            gid: owner.gid(),
            rdev: 0,
            flags: 0,
            blksize: 512,
        }
    }
}

impl fuser::Filesystem for SlowFs {
    fn lookup(
        &self,
        _: &fuser::Request,
        _: fuser::INodeNo,
        name: &OsStr,
        reply: fuser::ReplyEntry,
    ) {
        self.gate.pass();
        match name.to_str() {
            Some("secrets.json") => {
                reply.entry(&Duration::ZERO, &self.attr(2), fuser::Generation(0));
            }
            _ => reply.error(fuser::Errno::ENOENT),
        }
    }
    fn getattr(
        &self,
        _: &fuser::Request,
        ino: fuser::INodeNo,
        _: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        self.gate.pass();
        reply.attr(&Duration::ZERO, &self.attr(ino.into()));
    }
    fn read(
        &self,
        _: &fuser::Request,
        _: fuser::INodeNo,
        _: fuser::FileHandle,
        offset: u64,
        _: u32,
        _: fuser::OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: fuser::ReplyData,
    ) {
        self.gate.pass();
        let from = usize::try_from(offset).unwrap().min(self.content.len());
        reply.data(&self.content[from..]);
    }
}

fn over(store: &Path) -> Arc<SecretsManager> {
    let file = FileProvider::new(FileOptions {
        location: StoreLocation::at(store),
        key: KeySource::new(None, store.with_file_name("credential.key")),
        encrypt: false,
        max_stale: Duration::from_secs(3600),
        max_keys: 10_000,
        keep_previous: 1,
        lock_timeout: Duration::from_secs(1),
    });
    SecretsManager::builder()
        .with_provider(Arc::new(environment(&[("HERE", "here")], "", &[])))
        .with_provider(Arc::new(file))
        .build()
}

#[test]
fn a_store_that_hangs_delays_only_the_readers_that_need_it() {
    let home = Home::make();
    let mount_point = home.path("far");
    std::fs::create_dir(&mount_point).unwrap();
    let gate = Arc::new(Gate::default());
    let far = SlowFs {
        content: br#"{"A": "far away"}"#.to_vec(),
        gate: gate.clone(),
    };
    let _mounted = fuser::spawn_mount(far, &mount_point, &fuser::Config::default()).unwrap();
    let store = mount_point.join("secrets.json");

    let warm = over(&store);
    assert_eq!(found(&warm, "A").as_deref(), Some("far away"));
    let closed = Closed(&gate);
    gate.set(true);
    wait_until("the store is known to hang", || {
        // The last document is served throughout.
        assert_eq!(found(&warm, "A").as_deref(), Some("far away"));
        warm.snapshot().report("file").unwrap().available == Some(false)
    });
    let report = warm.snapshot().report("file").unwrap();
    assert!(report.stale && report.last_error.unwrap().contains("does not respond"));
    // The library's own reads end, too.
    assert_eq!(warm.get("A").unwrap().as_str(), "far away");

    // A new manager meanwhile: it serves the other providers; a reader that needs the store waits, and gets an error.
    let cold = over(&store);
    assert_eq!(found(&cold, "HERE").as_deref(), Some("here"));
    assert!(cold.get("A").is_err_and(|error| error.errno() == libc::EIO));
    let (answer, answered) = mpsc::channel();
    cold.find_async(
        &name("A"),
        Box::new(move |lookup| answer.send(lookup).unwrap()),
    );
    let lookup = answered.recv_timeout(TEST_TIMEOUT).unwrap();
    assert!(matches!(lookup, Lookup::Failed(_)), "{lookup:?}");

    drop(closed);
    wait_until("it is back", || {
        found(&cold, "A").as_deref() == Some("far away")
            && warm.snapshot().report("file").unwrap().available == Some(true)
    });
}
