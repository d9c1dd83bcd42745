use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::super::document::MAX_VIEWS;
use super::*;

fn store() -> (tempfile::TempDir, Arc<ViewStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = ViewStore::new(&dir.path().join("views.json"), Duration::from_secs(5));
    (dir, store)
}

/// Checks until the store says what is wrong: not before the file has been as it is for a moment.
fn problem_of(store: &Arc<ViewStore>) -> String {
    loop {
        store.check();
        if let Some(problem) = store.problem() {
            return problem;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How often the listener was called, by changes and by repeated ones.
fn count(store: &Arc<ViewStore>) -> Arc<Mutex<(usize, usize)>> {
    let counts: Arc<Mutex<(usize, usize)>> = Arc::default();
    let counted = counts.clone();
    store.on_change(Box::new(move |change| {
        let mut counted = counted.lock();
        match change.is_repeat {
            true => counted.1 += 1,
            false => counted.0 += 1,
        }
    }));
    counts
}

fn names(store: &ViewStore) -> Vec<String> {
    store
        .current()
        .all()
        .map(|view| view.name.clone())
        .collect()
}

const A: &[u8] = br#"{"secrets": ["A"]}"#;

#[test]
fn a_definition_is_written_whole_for_its_owner_only_and_listeners_run_before_it_is_acknowledged() {
    let (dir, store) = store();
    let counts = count(&store);
    store.put("trainer", A).unwrap();
    assert_eq!(counts.lock().0, 1);
    let file = dir.path().join("views.json");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("\"trainer\"") && text.ends_with("}\n"),
        "{text}"
    );
    store.put("trainer", A).unwrap();
    assert_eq!(counts.lock().0, 1, "nothing has changed");
    let other = ViewStore::new(&file, Duration::from_secs(5));
    other.check();
    assert_eq!(names(&other), ["trainer"]);
    store.rename("trainer", "other").unwrap();
    other.check();
    assert_eq!(names(&other), ["other"]);
    store.remove("other").unwrap();
    assert!(store.remove("other").unwrap_err().is_not_found());
    assert!(store.current().is_empty());
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "the file and its lock"
    );
}

#[test]
fn what_two_processes_define_at_the_same_time_is_all_there() {
    let (dir, store) = store();
    let other = ViewStore::new(&dir.path().join("views.json"), Duration::from_secs(60));
    std::thread::scope(|scope| {
        for (store, prefix) in [(&store, "a"), (&other, "b")] {
            scope.spawn(move || {
                for n in 0..20 {
                    store.put(&format!("{prefix}{n}"), A).unwrap();
                }
            });
        }
    });
    store.check();
    assert_eq!(store.current().len(), 40);
}

#[test]
fn while_the_file_is_malformed_the_last_good_definitions_stay_in_force_and_nothing_is_written() {
    let (dir, store) = store();
    let file = dir.path().join("views.json");
    store.put("trainer", A).unwrap();
    let bads = [
        "",
        "{",
        "[]",
        r#"{"trainer": {"secrets": "A"}}"#,
        r#"{"a/b": {"secrets": ["A"]}}"#,
        r#"{"x": {"secrets":["A"]}, "x": {"secrets":["B"]}}"#,
    ];
    for bad in bads {
        fs::write(&file, bad).unwrap();
        assert!(problem_of(&store).starts_with(&*file.to_string_lossy()));
        assert_eq!(names(&store), ["trainer"], "{bad}");
        let refused = store.put("other", A).unwrap_err();
        assert_eq!(refused.errno(), libc::EIO, "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), bad);
    }
    fs::write(&file, r#"{"other": {"secrets": ["B"]}}"#).unwrap();
    store.check();
    assert_eq!(
        (names(&store), store.problem()),
        (vec!["other".to_owned()], None)
    );
    fs::remove_file(&file).unwrap();
    store.check();
    assert!(store.current().is_empty());
}

#[test]
fn a_link_is_followed_and_a_file_that_others_can_write_is_not_used() {
    let (dir, store) = store();
    let file = dir.path().join("views.json");
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real/views.json", &file).unwrap();
    store.put("trainer", A).unwrap();
    let real = dir.path().join("real/views.json");
    assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&real).unwrap().is_file());
    fs::set_permissions(&real, fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(&real, "{}").unwrap();
    assert!(problem_of(&store).contains("chmod go-w"));
    assert_eq!(names(&store), ["trainer"]);
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    store.check();
    assert!(store.current().is_empty());
    if fs::metadata(&real).unwrap().uid() == 0 {
        fs::write(&real, r#"{"x": {"secrets": ["B"]}}"#).unwrap();
        std::os::unix::fs::chown(&real, Some(65_534), None).unwrap();
        store.check();
        assert!(store.problem().unwrap().contains("belongs to another user"));
    }
}

#[test]
fn ten_thousand_views_are_read_and_one_more_is_refused() {
    let (dir, store) = store();
    let views = (0..MAX_VIEWS).map(|n| format!(r#""v{n}": {{"secrets": ["A"]}}"#));
    let text = format!("{{{}}}", views.collect::<Vec<_>>().join(","));
    fs::write(dir.path().join("views.json"), text).unwrap();
    store.check();
    assert_eq!((store.problem(), store.current().len()), (None, MAX_VIEWS));
    let refused = store.put("more", A).unwrap_err().to_string();
    assert!(refused.contains("at most 10000 views"), "{refused}");
    store.put("v1", br#"{"secrets": ["B"]}"#).unwrap();
}

#[test]
fn an_edit_is_noticed_and_a_change_is_repeated_a_moment_later() {
    let (dir, store) = store();
    let counts = count(&store);
    store.watch(Duration::from_secs(10));
    fs::write(
        dir.path().join("views.json"),
        r#"{"x": {"secrets": ["A"]}}"#,
    )
    .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while *counts.lock() != (1, 1) {
        assert!(Instant::now() < until, "{:?}", counts.lock());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(names(&store), ["x"]);
}

#[test]
fn what_was_in_force_is_in_force_again_until_the_file_is_read() {
    let (dir, store) = store();
    store.put("trainer", A).unwrap();
    fs::write(dir.path().join("views.json"), "{").unwrap();
    let next = ViewStore::new(&dir.path().join("views.json"), Duration::from_secs(5));
    next.restore(store.current().to_record().as_bytes());
    problem_of(&next);
    assert_eq!(names(&next), ["trainer"]);
}

#[test]
fn a_view_keeps_the_time_of_its_definition_across_servers() {
    let (dir, store) = store();
    store.put("trainer", A).unwrap();
    let file = dir.path().join("views.json");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let written = fs::File::options().write(true).open(&file).unwrap();
    written.set_modified(at).unwrap();
    let time = |store: &ViewStore, name: &str| store.current().get(name).unwrap().changed_at;

    let first = ViewStore::new(&file, Duration::from_secs(5));
    first.check();
    assert_eq!(time(&first, "trainer"), at);
    first.put("web", A).unwrap();
    assert_eq!(time(&first, "trainer"), at);
    assert!(time(&first, "web") > at);

    let next = ViewStore::new(&file, Duration::from_secs(5));
    next.restore(first.current().to_record().as_bytes());
    assert_eq!(names(&next), ["trainer", "web"]);
    next.check();
    assert_eq!(time(&next, "trainer"), at);
}
