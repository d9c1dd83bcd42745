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
    let records = state.checkpoint();
    // That a promise is forgotten is not in the journal, nor what is known later of an inode that has a buffer.
    let mut shown: Vec<String> = records
        .iter()
        .filter(|record| !matches!(record, Record::Promise(..)))
        .map(|record| match record {
            Record::WriteInode { ino, entry, .. } => format!("WriteInode {ino} {entry}"),
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
    let place = |name: &str| Place::new(2, name);
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
    let a = state.version(&place("A"), &value("one"), now);
    state.count_lookup(a);
    check(&mut state, "a version");
    let own = state.create(&place("B"), &opener(7));
    let handle = state.open_writer(own, &opener(7), 10);
    state.count_lookup(own);
    state.write(handle, 11, 0, b"hello");
    state.sync(own);
    state.write(handle, 12, 5, b" you");
    check(&mut state, "a new file that is being written");
    let entry = state.entry_of(own).unwrap();
    state.move_pending(entry, &place("C"));
    check(&mut state, "moved");
    assert_eq!(state.close(own), [own]);
    let changes = state.buffer(own).unwrap().changes;
    state.publish(entry, &place("C"));
    state.committed(own, changes);
    state.end_commit(own);
    check(&mut state, "committed");
    assert_eq!(state.release(handle, |_| true), None);
    state.forget(own, 1);
    check(&mut state, "released and forgotten");
    let scratch = state.create_scratch(&place(".x"), &opener(8), b"\xff\xfe");
    let handle = state.open_writer(scratch, &opener(8), 20);
    check(&mut state, "scratch");
    state.rename(&place(".x"), &place(".y"));
    state.unlink(&place(".y"));
    check(&mut state, "an unlinked scratch file");
    state.release(handle, |_| true);
    check(&mut state, "gone");
    assert!(state.node(scratch).is_none());
    state.send_round(5, &place("A"), true);
    let promise = state.promise(&place("D"));
    check(&mut state, "a retry and a promise");
    state.arrived(5, &place("A"));
    state.forget(promise, 1);
    let entry = state.entry_at(&place("A"));
    let own = state.new_write_inode(entry, Err(Missing::Unknown));
    let handle = state.open_writer(own, &opener(9), 30);
    state.supply_base(own, Ok(value("base")));
    state.spoil(own, libc::EFBIG);
    state.set_len(own, 0).unwrap();
    state.kill(own);
    state.set_buffer_mtime(
        own,
        SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1),
    );
    check(&mut state, "a killed writer");
    state.release(handle, |_| false);
    state.unlink(&place("A"));
    check(&mut state, "its end");
    state.forget(a, 1);
    assert!(
        state.node(a).is_none(),
        "a version that the kernel has forgotten and no name leads to"
    );
}

#[test]
fn what_the_kernel_has_forgotten_leaves_nothing_behind() {
    let mut state = State::new(0);
    for n in 0..1000 {
        let place = Place::new(2, &format!("F{n}"));
        let own = state.create(&place, &opener(1));
        let handle = state.open_writer(own, &opener(1), n);
        state.count_lookup(own);
        let entry = state.entry_of(own).unwrap();
        for own in state.close(own) {
            let changes = state.buffer(own).unwrap().changes;
            state.publish(entry, &place);
            state.committed(own, changes);
            state.end_commit(own);
        }
        state.release(handle, |_| true);
        let version = state.version(&place, &SecretValue::new("x"), SystemTime::now());
        state.count_lookup(version);
        state.unlink(&place);
        state.forget(own, 1);
        state.forget(version, 1);
    }
    state.take_records();
    assert_eq!(state.checkpoint().len(), 1, "{:?}", shown(&state));
}
