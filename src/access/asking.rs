//! Asking the user database in the background: one question for all who wait for the same user, and a user whose answer
//! takes long holds up nobody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard, Weak};

use super::Access;
use crate::provider::Done;

/// How many questions are asked at once; the others wait for their turn.
const MOST_THREADS: usize = 8;

/// Whom is asked about, and who waits for that.
#[derive(Default)]
pub(super) struct Asked {
    waiting: HashMap<u32, Vec<Done>>,
    queue: VecDeque<u32>,
    threads: usize,
}

impl Access {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn answered(&self, uid: u32) {
        let waited = self.asked().waiting.remove(&uid);
        for done in waited.into_iter().flatten() {
            done();
        }
    }
}

pub(super) fn ask(access: &Arc<Access>, uid: u32, done: Done) {
    let mut asked = access.asked();
    if let Some(waiting) = asked.waiting.get_mut(&uid) {
        waiting.push(done);
        return;
    }
    asked.waiting.insert(uid, vec![done]);
    asked.queue.push_back(uid);
    if asked.threads == MOST_THREADS {
        return;
    }
    asked.threads += 1;
    drop(asked);
    let access = Arc::downgrade(access);
    let thread = std::thread::Builder::new().name("users".into());
    let me = access.clone();
    if let Err(error) = thread.spawn(move || answer_all(&me)) {
        tracing::warn!("the user database is asked by who waits for it: {error}");
        answer_all(&access);
    }
}

/// Asks until nothing is left to be asked.
fn answer_all(access: &Weak<Access>) {
    while let Some(access) = access.upgrade() {
        let uid = {
            let mut asked = access.asked();
            let Some(uid) = asked.queue.pop_front() else {
                asked.threads -= 1;
                return;
            };
            uid
        };
        // Held in the cache, be it a failure: whoever waits finds it there.
        let _ = access.permitted(uid);
        access.answered(uid);
    }
}
