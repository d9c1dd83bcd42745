//! Threads that were told ESTALE at an open and are on their way back.
//!
//! The kernel answers ESTALE from an open, a stat or a truncate by walking the path once more and asking again, in the
//! same thread (`LOOKUP_REVAL`, fs/namei.c); a second ESTALE goes to the caller. A mark says what that walk is for:
//! a reader is to find the version that is current now, a writer an inode of its own.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::places::Place;
use super::tracked::Tracked;
use crate::secret::SecretValue;

/// How long a mark lives that nobody came back for (the thread was killed in between).
const LIFETIME: Duration = Duration::from_secs(10);

/// What the second walk found.
#[derive(Serialize, Deserialize)]
pub(super) enum Purpose {
    /// The version the lookup answered, with its content. Without it the open is judged once more.
    Read {
        #[serde(skip)]
        found: Option<(u64, SecretValue)>,
    },
    /// The private inode the lookup made; `None` where there was no lookup (an open through `/proc/self/fd`, or of a
    /// bind-mounted file).
    Write { private: Option<u64> },
}

#[derive(Serialize, Deserialize)]
pub(super) struct Mark {
    place: Place,
    purpose: Purpose,
    #[serde(skip, default = "Instant::now")]
    since: Instant,
}

/// The marks, by thread.
#[derive(Default)]
pub(super) struct Marks(pub(super) Tracked<u32, Mark>);

impl Marks {
    /// Marks the thread; gives the private inodes of marks that nobody came back for.
    pub(super) fn put(&mut self, tid: u32, place: Place, purpose: Purpose) -> Vec<u64> {
        let mut left = Vec::new();
        self.0.retain(|_, mark| {
            let live = mark.since.elapsed() < LIFETIME;
            if let (
                false,
                Purpose::Write {
                    private: Some(private),
                },
            ) = (live, &mark.purpose)
            {
                left.push(*private);
            }
            live
        });
        self.0.insert(
            tid,
            Mark {
                place,
                purpose,
                since: Instant::now(),
            },
        );
        left
    }

    /// The purpose of this thread's walk, if it is on its way to this place.
    pub(super) fn find(&mut self, tid: u32, place: &Place) -> Option<&mut Purpose> {
        if self.0.is_empty() {
            return None;
        }
        let mark = self.0.get_mut(&tid)?;
        (mark.place == *place && mark.since.elapsed() < LIFETIME).then_some(&mut mark.purpose)
    }

    /// Ends this thread's walk if it found this version; gives its content then.
    pub(super) fn take_found(&mut self, tid: u32, version: u64) -> Option<SecretValue> {
        let mark = self.0.get(&tid)?;
        let Purpose::Read {
            found: Some((node, value)),
        } = &mark.purpose
        else {
            return None;
        };
        let value = (*node == version).then(|| value.clone())?;
        self.0.remove(&tid);
        Some(value)
    }

    /// Ends this thread's walk to the place.
    pub(super) fn take(&mut self, tid: u32, place: &Place) -> Option<Purpose> {
        self.find(tid, place)?;
        self.0.remove(&tid).map(|mark| mark.purpose)
    }

    /// Whether some thread is on its way to this private inode.
    pub(super) fn hold(&self, private: u64) -> bool {
        self.0
            .values()
            .any(|mark| matches!(mark.purpose, Purpose::Write { private: Some(p) } if p == private))
    }
}
