//! Reads of the same key by the same process within a second, counted as one. Knows no database.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::{MAX_READS, QueuedRead};
use crate::audit::actor::Actor;
use crate::audit::event::ReadTarget;
use crate::audit::row::UnsignedRow;
use crate::audit::timestamp;
use crate::audit::user_names::UserNames;

/// Reads of the same key by one process within this time are one row.
const COALESCE_WINDOW: Duration = Duration::from_secs(1);

/// Reads that become one row.
pub(super) struct CoalescedRead {
    pub(super) actor: Actor,
    target: ReadTarget,
    /// When the first of them happened.
    at: SystemTime,
    since: Instant,
    pub(super) count: u64,
    pub(super) pending: Option<PendingRow>,
}

/// A row in the table `pending`.
#[derive(Clone, Copy)]
pub(super) struct PendingRow {
    pub(super) id: i64,
    /// The count that it has.
    pub(super) count: u64,
}

/// Where a batch has put a read.
pub(super) enum WrittenTo {
    Chain,
    Pending(PendingRow),
}

impl CoalescedRead {
    pub(super) fn row(&self, names: &UserNames, count: u64) -> UnsignedRow {
        let user = names.get(self.actor.uid);
        self.target
            .row(&self.actor, &user, timestamp(self.at), count)
    }

    /// Whether its second is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.since + COALESCE_WINDOW <= now
    }
}

/// All reads that are not in the chain yet.
#[derive(Default)]
pub(super) struct CoalescedReads {
    /// In the order in which they happened.
    by_number: BTreeMap<u64, CoalescedRead>,
    /// The youngest read of each user, process and target.
    youngest: HashMap<(Option<u32>, u32, ReadTarget), u64>,
    next: u64,
}

impl CoalescedReads {
    /// How many reads are lost, because too many are kept already.
    pub(super) fn add(&mut self, actor: Actor, target: ReadTarget, read: &QueuedRead) -> u64 {
        let key = (actor.uid, actor.pid, target);
        let same = self.youngest.get(&key);
        let same = same.and_then(|number| self.by_number.get_mut(number));
        if let Some(same) = same
            && !same.is_due(read.since)
        {
            same.count += read.count;
            return 0;
        }
        if self.by_number.len() >= MAX_READS {
            return read.count;
        }
        let read = CoalescedRead {
            actor,
            target: key.2.clone(),
            at: read.at,
            since: read.since,
            count: read.count,
            pending: None,
        };
        self.youngest.insert(key, self.next);
        self.by_number.insert(self.next, read);
        self.next += 1;
        0
    }

    /// When the oldest read's second is over.
    pub(super) fn due(&self) -> Option<Instant> {
        let oldest = self.by_number.values().next()?;
        Some(oldest.since + COALESCE_WINDOW)
    }

    /// How many reads are in no table.
    pub(super) fn unwritten(&self) -> u64 {
        let unwritten = |read: &CoalescedRead| read.count - read.pending.map_or(0, |row| row.count);
        self.by_number.values().map(unwritten).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &CoalescedRead)> {
        self.by_number.iter().map(|(number, read)| (*number, read))
    }

    /// Records where a committed batch has written each read.
    pub(super) fn mark_written(&mut self, written: Vec<(u64, WrittenTo)>) {
        for (number, written) in written {
            match written {
                WrittenTo::Chain => self.remove(number),
                WrittenTo::Pending(row) => {
                    if let Some(read) = self.by_number.get_mut(&number) {
                        read.count = row.count;
                        read.pending = Some(row);
                    }
                }
            }
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(read) = self.by_number.remove(&number) {
            let key = (read.actor.uid, read.actor.pid, read.target);
            if self.youngest.get(&key) == Some(&number) {
                self.youngest.remove(&key);
            }
        }
    }
}
