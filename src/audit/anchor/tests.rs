//! Anchors find a trail that was removed, replaced or cut.

use super::*;
use crate::audit::{AuditEvent, AuditTrail, ReadTarget, Verified};
use crate::secret::SecretName;
use rusqlite::Connection;

struct Trails {
    _dir: tempfile::TempDir,
    options: AuditOptions,
}

impl Trails {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = AuditOptions {
            state_dir: dir.path().join("state"),
            key: Some("key".into()),
            reads: true,
            keep_days: None,
            anchor_interval: INTERVAL,
        };
        Self { _dir: dir, options }
    }

    /// Records a change and a read, as a mount does that then ends.
    fn mount(&self) {
        let trail = AuditTrail::new(&self.options);
        let name = SecretName::new("A").unwrap();
        trail.record(Actor::this_process(), AuditEvent::SecretSet(name.clone()));
        trail.record_read(0, std::process::id(), ReadTarget::Secret(name));
        trail.finish(Duration::from_secs(10));
        drop(trail);
        // Its threads have closed the databases, which are then whole without a log beside them.
        for chain in self.chains() {
            let log = chain.path().with_extension("db-wal");
            let began = Instant::now();
            while log.exists() {
                assert!(
                    began.elapsed() < Duration::from_secs(180),
                    "{}",
                    log.display()
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn chains(&self) -> [Chain; 2] {
        [self.options.change_chain(), self.options.read_chain()]
    }

    fn verify(&self) -> [Option<Verified>; 2] {
        let key = self.options.signing_key_source().key().unwrap();
        Chain::verify_both(self.chains().each_ref(), &key).unwrap()
    }

    /// What is wrong with each trail.
    fn broken(&self) -> [Option<String>; 2] {
        self.verify().map(|verified| {
            let broken = verified.and_then(|verified| verified.broken);
            broken.map(|broken| format!("row {}: {}", broken.id, broken.reason))
        })
    }

    fn read(&self, chain: &Chain) -> Vec<u8> {
        std::fs::read(chain.path()).unwrap()
    }

    fn execute(&self, chain: &Chain, sql: &str) {
        let connection = Connection::open(chain.path()).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    fn remove(&self, chain: &Chain) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = chain.path().as_os_str().to_owned();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn each_trail_names_the_last_row_of_the_other_when_a_mount_ends() {
    let trails = Trails::new();
    assert_eq!(trails.verify(), [None, None]);
    trails.mount();
    let rows = |both: [Option<Verified>; 2]| both.map(|one| one.map(|one| (one.rows, one.broken)));
    assert_eq!(rows(trails.verify()), [Some((2, None)), Some((2, None))]);
    // Nothing happened since, but that the trails name each other.
    AuditTrail::new(&trails.options).finish(Duration::from_secs(10));
    assert_eq!(rows(trails.verify()), [Some((2, None)), Some((2, None))]);
    trails.mount();
    assert_eq!(rows(trails.verify()), [Some((4, None)), Some((4, None))]);
}

#[test]
fn a_trail_that_is_missing_older_or_cut_at_its_end_is_broken() {
    let trails = Trails::new();
    for at in [0, 1] {
        trails.mount();
        let chain = &trails.chains()[at];
        let other = trails.chains()[1 - at].file_name();
        let older = trails.read(chain);
        trails.mount();
        assert_eq!(trails.broken(), [None, None]);
        let now = trails.read(chain);
        let said = || {
            let mut broken = trails.broken();
            assert_eq!(broken[1 - at], None);
            let said = broken[at].take().unwrap();
            assert!(said.contains(&other), "{said}");
            said
        };
        trails.remove(chain);
        assert!(said().contains("the database is missing"));
        std::fs::write(chain.path(), older).unwrap();
        assert!(said().contains("an older copy was put back"));
        trails.remove(chain);
        std::fs::write(chain.path(), &now).unwrap();
        // So that SQLite's own count of rows shows nothing.
        trails.execute(
            chain,
            "DELETE FROM audit_log WHERE id > 1; UPDATE sqlite_sequence SET seq = 1",
        );
        assert!(said().contains("rows were removed from the end"));
        trails.remove(chain);
        std::fs::write(chain.path(), &now).unwrap();
        assert_eq!(trails.broken(), [None, None]);
    }
}

#[test]
fn rows_that_were_pruned_are_not_missing() {
    let trails = Trails::new();
    trails.mount();
    let key = trails.options.signing_key_source().key().unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let [_, reads] = trails.chains();
    assert_eq!(reads.prune(&key, later).unwrap(), 2);
    assert_eq!(trails.broken(), [None, None]);
}

#[test]
fn a_column_that_says_otherwise_than_the_signed_details_breaks_its_row() {
    let trails = Trails::new();
    trails.mount();
    let [changes, reads] = trails.chains();
    for chain in [&changes, &reads] {
        for column in ["actor_username", "target_id", "target_type", "actor_ip"] {
            let saved = trails.read(chain);
            trails.execute(
                chain,
                &format!("UPDATE audit_log SET {column} = 'unix:else' WHERE id = 1"),
            );
            let at = usize::from(chain.path() == reads.path());
            let said = trails.broken()[at].take().unwrap();
            assert!(
                said.starts_with(&format!("row 1: its column {column} ")),
                "{said}"
            );
            let shown = &chain.reader().last(9).unwrap()[0];
            assert_eq!(
                shown.target.as_deref(),
                Some("A"),
                "what is signed is shown"
            );
            assert!(shown.is_signed && shown.username.as_deref() != Some("unix:else"));
            trails.remove(chain);
            std::fs::write(chain.path(), saved).unwrap();
        }
    }
}

#[test]
fn a_trail_that_is_a_view_is_refused() {
    let trails = Trails::new();
    trails.mount();
    let [changes, _] = trails.chains();
    trails.execute(
        &changes,
        "ALTER TABLE audit_log RENAME TO kept; CREATE VIEW audit_log AS SELECT * FROM kept",
    );
    let key = trails.options.signing_key_source().key().unwrap();
    for error in [
        changes.verify(&key).unwrap_err(),
        changes.reader().last(1).unwrap_err(),
    ] {
        assert!(error.to_string().contains("must be a table"), "{error}");
    }
}

#[test]
fn threads_that_end_a_mount_at_once_name_the_other_trail_once() {
    let trails = Trails::new();
    trails.mount();
    let chain = trails.options.change_chain();
    trails.execute(
        &chain,
        "DELETE FROM audit_log WHERE details LIKE '{\"anchor\":%'",
    );
    let together = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                together.wait();
                AnchorTimer::of_reads(&trails.options).run(&trails.options);
            });
        }
    });
    let connection = Connection::open(chain.path()).unwrap();
    let anchors = "SELECT count(*) FROM audit_log WHERE details LIKE '{\"anchor\":%'";
    let anchors = connection.query_row(anchors, [], |row| row.get::<_, i64>(0));
    assert_eq!(anchors.unwrap(), 1);
}

#[test]
fn an_interval_after_a_row_the_other_trail_names_it_while_the_mount_goes_on() {
    let mut trails = Trails::new();
    trails.options.anchor_interval = Duration::from_millis(20);
    let trail = AuditTrail::new(&trails.options);
    let name = SecretName::new("A").unwrap();
    trail.record(Actor::this_process(), AuditEvent::SecretSet(name.clone()));
    trail.record_read(0, std::process::id(), ReadTarget::Secret(name));
    let named = || {
        trails
            .chains()
            .map(|chain| chain.last_anchor(Duration::from_secs(9)))
    };
    let began = Instant::now();
    // Row 1 of each trail is the change and the read, and row 2 names the other trail's row.
    while !named().into_iter().all(|anchor| anchor.unwrap().is_some()) {
        assert!(began.elapsed() < Duration::from_secs(180), "{:?}", named());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(trails.broken(), [None, None]);
    // An anchor alone makes no further one.
    let rows = || trails.verify().map(|verified| verified.unwrap().rows);
    assert_eq!(rows(), [2, 2]);
    trail.finish(Duration::from_secs(10));
    assert_eq!(rows(), [2, 2]);
}

#[test]
fn a_trail_that_was_signed_anew_lacks_the_hash_that_was_logged() {
    let trails = Trails::new();
    trails.mount();
    let [changes, reads] = trails.chains();
    let logged = changes.end(Duration::ZERO).unwrap().unwrap();
    assert_eq!(changes.find(&logged.hash).unwrap(), Some(logged.id));
    assert_eq!(reads.find(&logged.hash).unwrap(), None);
    // By one who has the key, and so shows no breach.
    trails.remove(&changes);
    trails.remove(&reads);
    assert_eq!(changes.find(&logged.hash).unwrap(), None);
    trails.mount();
    assert_eq!(trails.broken(), [None, None]);
    assert_eq!(changes.find(&logged.hash).unwrap(), None);
}
