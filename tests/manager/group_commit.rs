//! Group commit: concurrent writers of a store share a rewrite, and each gets its own result.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Barrier};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FlockOperation, flock};
use simpletuner_live::secret::{Change, SecretValue};

use crate::{Home, name, value};

/// How often the store was replaced since then.
fn replaced(watch: &OwnedFd) -> usize {
    let mut count = 0;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    while let Ok(event) = events.next() {
        count += usize::from(event.file_name() == Some(c"secrets.json"));
    }
    count
}

fn listen(home: &Home) -> OwnedFd {
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, home.path(""), WatchFlags::MOVED_TO).unwrap();
    watch
}

#[test]
fn fifty_concurrent_writers_cost_a_few_rewrites_and_a_bad_one_fails_alone() {
    let home = Home::make();
    let manager = home.manager();
    manager.set("FIRST", "0").unwrap();
    let watch = listen(&home);
    let lock = std::fs::File::open(home.path("secrets.json.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let begin = Arc::new(Barrier::new(51));
    std::thread::scope(|scope| {
        let (manager, begin) = (&manager, &begin);
        let writers: Vec<_> = (0..50)
            .map(|writer| {
                scope.spawn(move || {
                    begin.wait();
                    match writer {
                        7 => manager.delete("MISSING").map(|()| "deleted"),
                        _ => manager.set(&format!("K{writer}"), "v").map(|_| "set"),
                    }
                })
            })
            .collect();
        begin.wait();
        // One leads and waits for the lock; meanwhile the others join the queue.
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(lock);
        for (writer, thread) in writers.into_iter().enumerate() {
            let result = thread.join().unwrap();
            match writer {
                7 => assert!(result.unwrap_err().is_not_found()),
                _ => assert_eq!(result.unwrap(), "set"),
            }
        }
    });
    let rewrites = replaced(&watch);
    assert!((1..=10).contains(&rewrites), "{rewrites}");
    let next = home.manager();
    for writer in (0..50).filter(|writer| *writer != 7) {
        assert_eq!(value(&next, &format!("K{writer}")), "v");
    }
}

#[test]
fn batches_written_together_are_one_rewrite() {
    let home = Home::make();
    let manager = home.manager();
    manager.set("OLD", "old").unwrap();
    let watch = listen(&home);
    let set = |key: &str, text: &str| Change::Set(name(key), SecretValue::new(text));
    let too_large = "x".repeat(64 * 1024 + 1);
    let batches = [
        vec![set("A", "a"), set("B", "b")],
        vec![set("C", "c"), Change::Delete(name("MISSING"))],
        vec![set("LARGE", &too_large)],
        vec![Change::Delete(name("OLD")), set("A", "again")],
        vec![Change::Delete(name("OLD"))],
    ];
    let batches: Vec<&[Change]> = batches.iter().map(Vec::as_slice).collect();
    let results = manager.apply_each(&batches).unwrap();
    let done: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, false, true, false]);
    assert_eq!(replaced(&watch), 1);
    let names: Vec<String> = manager
        .names()
        .iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(names, ["A", "B"]);
    assert_eq!(value(&manager, "A"), "again");
}

#[test]
fn a_disk_error_fails_all_batches_and_changes_nothing() {
    let home = Home::make();
    let manager = home.manager();
    manager.set("A", "a").unwrap();
    let before = home.read("secrets.json");
    // The temporary file of a write cannot be created.
    std::fs::create_dir_all(home.path(".secrets.json.tmp/full")).unwrap();
    let set = |key: &str| vec![Change::Set(name(key), SecretValue::new("v"))];
    let batches = [set("B"), vec![Change::Delete(name("MISSING"))], set("C")];
    let batches: Vec<&[Change]> = batches.iter().map(Vec::as_slice).collect();
    let results = manager.apply_each(&batches).unwrap();
    assert!(results.iter().all(Result::is_err));
    assert!(results[1].as_ref().unwrap_err().is_not_found());
    assert_eq!(home.read("secrets.json"), before);
    assert!(manager.get("B").unwrap_err().is_not_found());
    std::fs::remove_dir_all(home.path(".secrets.json.tmp")).unwrap();
    manager.set("B", "b").unwrap();
    assert_eq!(value(&manager, "B"), "b");
}

/// An edit by another program survives a write, however soon the write follows.
#[test]
fn a_write_keeps_what_another_program_wrote_just_before() {
    let home = Home::make();
    let manager = home.manager();
    for round in 0..100 {
        manager.set("OURS", &round.to_string()).unwrap();
        let mut document: serde_json::Value =
            serde_json::from_str(&home.read("secrets.json")).unwrap();
        document["THEIRS"] = round.to_string().into();
        home.write("secrets.json", &document.to_string());
        manager.set("OURS", &format!("{round} again")).unwrap();
        assert_eq!(value(&manager, "THEIRS"), round.to_string());
        assert_eq!(value(&manager, "OURS"), format!("{round} again"));
    }
}

/// 10,000 secrets one after the other: for measuring, `cargo test --release --test manager -- --ignored ten_thousand`.
#[test]
#[ignore = "takes long"]
fn ten_thousand_writes_in_a_row_lose_nothing() {
    let home = Home::make();
    let manager = home.manager();
    let begun = std::time::Instant::now();
    for key in 0..10_000 {
        manager
            .set(&format!("KEY_{key}"), "hf_some_value_of_a_key")
            .unwrap();
    }
    eprintln!("{:?}", begun.elapsed());
}
