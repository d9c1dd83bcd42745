//! Records and checkpoints restore the same state, and other versions' records are read.

use super::*;
use crate::process::Process;
use crate::secret::SecretValue;
use std::time::SystemTime;

fn opener(pid: u32) -> Opener {
    Opener {
        process: Process { pid, started: 1 },
        uid: 0,
        program: None,
    }
}

/// The state that the next server has: from the records so far, or from a checkpoint.
fn restored(records: Vec<Record>) -> Restored {
    let mut restored = Restored::new(0);
    for record in records {
        let bytes = postcard::to_stdvec(&record).unwrap();
        restored.apply(postcard::from_bytes(&bytes).unwrap());
    }
    restored.finish();
    restored
}

fn shown(state: &State) -> Vec<String> {
    let written = state.handles.values().filter_map(|handle| match handle {
        Handle::Write { ino, .. } => Some((state.file_of(*ino)?, *ino)),
        Handle::Snapshot { .. } => None,
    });
    assert_eq!(state.written, written.collect());
    let records = state.checkpoint();
    // That a placeholder is forgotten is not in the journal, nor what is known later of an inode that has a buffer.
    let mut shown: Vec<String> = records
        .iter()
        .filter(|record| !matches!(record, Record::Placeholder(..)))
        .map(|record| match record {
            Record::WriteInode { ino, file, .. } => format!("WriteInode {ino} {file}"),
            record => format!("{record:?}"),
        })
        .collect();
    shown.sort();
    shown
}

/// Does all kinds of things, and checks after each that records and checkpoint say the same as the state.
#[test]
fn records_and_checkpoints_lead_to_the_same_state() {
    let mut state = State::new(0);
    let mut all = Vec::new();
    let dir_entry = |name: &str| DirEntry::new(2, name);
    let value = |text: &str| SecretValue::new(text);
    let now = SystemTime::now();
    let mut check = |state: &mut State, what: &str| {
        all.extend(state.take_records());
        let copy: Vec<Record> = all
            .iter()
            .map(|record| {
                postcard::from_bytes(&postcard::to_stdvec(record).unwrap().leak()[..]).unwrap()
            })
            .collect();
        assert_eq!(
            shown(&restored(copy).state),
            shown(state),
            "{what}: records"
        );
        assert_eq!(
            shown(&restored(state.checkpoint()).state),
            shown(state),
            "{what}: checkpoint"
        );
    };
    let a = state.version(&dir_entry("A"), &value("one"), now);
    state.count_lookup(a);
    check(&mut state, "a version");
    let write_ino = state.create(&dir_entry("B"), &opener(7));
    let handle = state.open_writer(write_ino, &opener(7), 10);
    state.count_lookup(write_ino);
    state.write(handle, 11, 0, b"hello");
    state.sync(write_ino);
    state.write(handle, 12, 5, b" you");
    check(&mut state, "a new file that is being written");
    let file = state.file_of(write_ino).unwrap();
    state.move_pending(file, &dir_entry("C"));
    check(&mut state, "moved");
    assert_eq!(state.close(write_ino), [write_ino]);
    let changes = state.buffer(write_ino).unwrap().changes;
    state.publish(file, &dir_entry("C"));
    state.committed(write_ino, changes);
    state.end_commit(write_ino);
    check(&mut state, "committed");
    assert_eq!(state.release(handle, |_| true), None);
    state.forget(write_ino, 1);
    check(&mut state, "released and forgotten");
    let scratch = state.create_scratch(&dir_entry(".x"), &opener(8), b"\xff\xfe");
    let handle = state.open_writer(scratch, &opener(8), 20);
    check(&mut state, "scratch");
    state.rename(&dir_entry(".x"), &dir_entry(".y"));
    state.unlink(&dir_entry(".y"));
    check(&mut state, "an unlinked scratch file");
    state.release(handle, |_| true);
    check(&mut state, "gone");
    assert!(state.inode(scratch).is_none());
    state.expect_retry(5, &dir_entry("A"), true);
    let placeholder = state.placeholder_for(&dir_entry("D"));
    check(&mut state, "a retry and a placeholder");
    state.end_retries(5);
    // Another lookup may have given it again.
    state.forget(placeholder, 1);
    assert!(state.placeholder_at(placeholder).is_some());
    let file = state.file_at(&dir_entry("A"));
    let write_ino = state.new_write_inode(file, Err(Unavailable::Unknown));
    let handle = state.open_writer(write_ino, &opener(9), 30);
    state.supply_base(write_ino, Ok(value("base")));
    state.taint(write_ino, libc::EFBIG);
    state.set_len(write_ino, 0).unwrap();
    state.kill(write_ino);
    state.set_buffer_mtime(
        write_ino,
        SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1),
    );
    check(&mut state, "a killed writer");
    state.release(handle, |_| false);
    state.unlink(&dir_entry("A"));
    check(&mut state, "its end");
    state.forget(a, 1);
    assert!(
        state.inode(a).is_none(),
        "a version that the kernel has forgotten and no name leads to"
    );
}

#[test]
fn a_name_that_vanished_and_its_new_maker_are_known_to_the_next_server() {
    let dir_entry = DirEntry::new(2, "A");
    let mut state = State::new(0);
    let file = state.file_at(&dir_entry);
    let write_ino = state.new_write_inode(file, Err(Unavailable::Unknown));
    state.count_lookup(write_ino);
    state.vanish(&dir_entry);
    let restored_from = |records| {
        let mut next = restored(records).state;
        let handle = next.open_writer(write_ino, &opener(7), 10);
        assert!(next.is_pending(&dir_entry));
        next.view(write_ino);
        next.write(handle, 11, 0, b"new");
        next.kill(write_ino);
        next.release(handle, |_| false);
        assert_eq!(
            next.buffer(write_ino)
                .unwrap()
                .data
                .as_ref()
                .unwrap()
                .as_bytes(),
            b"new"
        );
        let next = restored(next.checkpoint()).state;
        assert!(next.write_inode(write_ino).unwrap().is_viewed);
    };
    restored_from(state.checkpoint());
    restored_from(state.take_records());
}

#[test]
fn the_number_of_a_names_placeholder_is_given_to_no_other_name() {
    let (a, b) = (DirEntry::new(2, "A"), DirEntry::new(2, "B"));
    let mut state = State::new(0);
    let version = state.version(&a, &SecretValue::new("one"), SystemTime::now());
    state.count_lookup(version);
    state.rename(&a, &b);
    let placeholder = state.placeholder_for(&b);
    assert_eq!(placeholder, a.hashed_ino());
    state.forget(version, 1);
    // Nothing else is known of that file any more.
    assert_ne!(state.placeholder_for(&a), placeholder);
    state.unlink(&a);
    assert_eq!(state.placeholder_at(placeholder).unwrap().dir_entry, b);
}

#[test]
fn a_thread_finds_the_name_that_it_asked_for_last() {
    let dir_entry = DirEntry::new(2, "A");
    let mut state = State::new(0);
    state.expect_retry(5, &dir_entry, false);
    state.retry_missed(5, &dir_entry);
    assert!(!state.retry(5, &dir_entry).unwrap().to_write);
    state.expect_retry_of_any_name(5, true);
    assert!(state.retry(5, &dir_entry).unwrap().to_write);
    state.retry_missed(5, &dir_entry);
    state.retry_missed(5, &dir_entry);
    assert!(state.retry(5, &dir_entry).is_none());
}

#[test]
fn an_inode_that_the_kernel_forgot_leaves_nothing_behind() {
    let mut state = State::new(0);
    for n in 0..1000 {
        let dir_entry = DirEntry::new(2, &format!("F{n}"));
        let write_ino = state.create(&dir_entry, &opener(1));
        let handle = state.open_writer(write_ino, &opener(1), n);
        state.count_lookup(write_ino);
        let file = state.file_of(write_ino).unwrap();
        for write_ino in state.close(write_ino) {
            let changes = state.buffer(write_ino).unwrap().changes;
            state.publish(file, &dir_entry);
            state.committed(write_ino, changes);
            state.end_commit(write_ino);
        }
        state.release(handle, |_| true);
        let version = state.version(&dir_entry, &SecretValue::new("x"), SystemTime::now());
        state.count_lookup(version);
        state.unlink(&dir_entry);
        state.forget(write_ino, 1);
        state.forget(version, 1);
    }
    state.take_records();
    assert_eq!(state.checkpoint().len(), 1, "{:?}", shown(&state));
}

#[test]
fn a_file_that_was_renamed_under_an_earlier_server_replaces_the_file_of_the_new_name() {
    let (name, value) = (DirEntry::new(2, "A"), SecretValue::new("old"));
    let mut state = State::new(0);
    let version = state.version(&name, &value, SystemTime::now());
    let replaced = state.file_of(version).unwrap();
    let other = state.new_write_inode(replaced, Ok(value));
    let handle = state.open_writer(other, &opener(8), 1);
    state.write(handle, 2, 0, b"of another process");
    let new = state.create(&DirEntry::new(2, "B"), &opener(7));
    state.open_writer(new, &opener(7), 3);
    let file = state.file_of(new).unwrap();
    state.move_pending(file, &name);
    for records in [state.take_records(), state.checkpoint()] {
        let mut state = restored(records).state;
        state.publish(file, &name);
        assert_eq!(state.named(&name), Some(file));
        let replaced = state.file(replaced).unwrap();
        assert_eq!(
            replaced.dir_entry, None,
            "the other process's close makes the name anew"
        );
    }
}

/// Every record as another version of the program wrote it: a line each, its bytes in hexadecimal.
const GOLDEN: &str = include_str!("golden.in");

fn samples() -> Vec<Record> {
    let dir_entry = || DirEntry::new(2, "NAME");
    let at = |seconds: i64| {
        let since = std::time::Duration::new(seconds.unsigned_abs(), 5);
        Timestamp::from(match seconds < 0 {
            true => SystemTime::UNIX_EPOCH - since,
            false => SystemTime::UNIX_EPOCH + since,
        })
    };
    let bytes = || crate::secret::SecretBuffer::new(b"b\xff");
    let mut state = State::new(0);
    let write_ino = state.create(&dir_entry(), &opener(7));
    state.set_buffer_mtime(write_ino, SystemTime::UNIX_EPOCH);
    let scratch = state.create_scratch(&DirEntry::new(2, ".s"), &opener(8), b"s");
    let file = state.file_of(scratch).unwrap();
    state.set_mtime(
        file,
        77,
        SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(3),
    );
    let records = state.take_records().into_iter();
    let mut samples: Vec<Record> = records
        .filter(|record| matches!(record, Record::File(_) | Record::Buffer(_)))
        .collect();
    samples.extend([
        Record::Numbers(65_536),
        Record::FileGone(65_537),
        Record::Version {
            ino: 65_538,
            file: 9,
            value: SecretValue::new("value"),
            mtime: at(1_700_000_000),
            changed_at: at(-2),
        },
        Record::WriteInode {
            ino: 3,
            file: 9,
            base: None,
        },
        Record::WriteInode {
            ino: 3,
            file: 9,
            base: Some(SecretValue::new("base")),
        },
        Record::InodeGone(4),
        Record::Write {
            ino: 3,
            at: 300,
            bytes: bytes(),
        },
        Record::SetLen { ino: 3, len: 5 },
        Record::Tainted(3, libc::EFBIG),
        Record::Synced(3),
        Record::HandleGone(8),
        Record::Wrote {
            handle: 8,
            request: 1 << 40,
            count: 6,
        },
        Record::Placeholder(70_000, dir_entry()),
        Record::Retry(1234, dir_entry(), true),
        Record::RetryEnded(1234, dir_entry()),
        Record::Other(bytes()),
    ]);
    let handle = state.open_writer(write_ino, &opener(7), 10);
    let snapshot = state.open_snapshot(SecretValue::new("shown"), 12);
    assert!(state.handle(handle).is_some() && state.handle(snapshot).is_some());
    let opened = state.take_records().into_iter();
    samples.extend(opened.filter(|record| matches!(record, Record::Handle(..))));
    samples.extend([Record::Vanished(65_537), Record::Viewed(65_538)]);
    samples.push(Record::Earlier(65_537, dir_entry()));
    samples
}

#[test]
fn records_are_read_as_other_versions_of_the_program_wrote_them() {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let written: Vec<String> = samples()
        .iter()
        .map(|record| hex(&postcard::to_stdvec(record).unwrap()))
        .collect();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    // A record is only ever added; one that is there is never another.
    assert_eq!(written, golden, "{}", written.join("\n"));
    for (line, sample) in golden.iter().zip(samples()) {
        let bytes: Vec<u8> = (0..line.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap())
            .collect();
        let read: Record = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{sample:?}"));
    }
}

#[test]
fn an_inode_that_the_kernel_is_just_looking_up_anew_outlives_the_forget_of_earlier_servers_lookups()
{
    let mut state = State::new(0);
    let dir_entry = DirEntry::new(2, "A");
    let version = state.version(&dir_entry, &SecretValue::new("x"), SystemTime::now());
    (0..6).for_each(|_| state.count_lookup(version));
    let mut next = restored(state.checkpoint()).state;
    // One that the kernel forgets with the six before it, and one whose answer is on its way to the kernel.
    next.count_lookup(version);
    next.count_lookup(version);
    next.forget(version, 7);
    assert!(next.inode(version).is_some());
    // In time, inodes of earlier servers go, or they would add up.
    for n in 0..5000 {
        let dir_entry = DirEntry::new(2, &format!("F{n}"));
        let other = next.version(&dir_entry, &SecretValue::new("x"), SystemTime::now());
        next.restored(other);
        next.forget(other, 1);
    }
    assert!(next.inode(version).is_none());
}
