//! What users are called, of a user database that may hang: each is asked about on a thread of its own, and whoever
//! writes rows waits for the answer only so long.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::users;

/// How long rows wait for names, all together.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// The most users that are asked about at once.
const MOST: usize = 16;

/// Who is being asked about, and since when.
static ASKED: Mutex<BTreeMap<u32, Instant>> = Mutex::new(BTreeMap::new());
static ANSWERED: Condvar = Condvar::new();

/// The user's name, or number where he has none, or the database has not told it in time. Once it has failed to, nobody
/// waits any more, until it answers.
pub(super) fn name_within(uid: u32, patience: Duration) -> String {
    let now = Instant::now();
    let mut asked = ASKED.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        if let Some(name) = users::known_user_name(uid) {
            return name.map_or_else(
                || uid.to_string(),
                |name| name.replace(char::is_control, "?"),
            );
        }
        let since = match asked.get(&uid) {
            Some(since) => *since,
            None if asked.len() < MOST && ask(uid) => *asked.entry(uid).or_insert(now),
            None => return uid.to_string(),
        };
        let until = (since + patience).min(now + patience);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return uid.to_string();
        }
        let waited = ANSWERED.wait_timeout(asked, left);
        asked = waited.unwrap_or_else(|e| e.into_inner()).0;
    }
}

/// Whether the question is under way. The stack is that of any thread: nobody knows what a database's library needs.
fn ask(uid: u32) -> bool {
    let ask = move || {
        users::user_name(uid);
        ASKED.lock().unwrap_or_else(|e| e.into_inner()).remove(&uid);
        ANSWERED.notify_all();
    };
    let thread = std::thread::Builder::new().name("audit-names".into());
    thread.spawn(ask).is_ok()
}

/// The names for some rows.
#[derive(Default)]
pub(super) struct Names(HashMap<u32, String>);

impl Names {
    /// Those of these users, as far as they are told in time.
    pub(super) fn of(uids: impl IntoIterator<Item = u32>) -> Self {
        let until = Instant::now() + PATIENCE;
        let mut names = HashMap::new();
        for uid in uids {
            names.entry(uid).or_insert_with(|| {
                name_within(uid, until.saturating_duration_since(Instant::now()))
            });
        }
        Self(names)
    }

    /// A user's: of one who is not among them as it is known, without waiting.
    pub(super) fn get(&self, uid: u32) -> String {
        let name = self.0.get(&uid).cloned();
        name.unwrap_or_else(|| name_within(uid, Duration::ZERO))
    }
}
