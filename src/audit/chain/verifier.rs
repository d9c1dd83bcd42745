//! What a row is signed with, and a check of one row after the other. Knows no database.

use ring::hmac;

/// What the first row is signed upon.
pub(super) const GENESIS: &str = "genesis";
/// The type of the row that says what was removed.
pub(super) const PRUNED: &str = "audit.pruned";

/// The first row out of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number.
    pub id: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many rows there are.
    pub rows: u64,
    /// How many were removed from the beginning, as a row of the chain says.
    pub removed: u64,
    /// The first row that is out of the chain, if there is one.
    pub broken: Option<Broken>,
}

/// What is signed of a row, and the signature.
pub(super) struct Signed<'a> {
    pub(super) id: i64,
    pub(super) timestamp: &'a str,
    pub(super) event_type: &'a str,
    pub(super) actor_id: &'a str,
    pub(super) action: &'a str,
    pub(super) details: &'a str,
    pub(super) previous_hash: &'a str,
    pub(super) entry_hash: &'a str,
}

impl Signed<'_> {
    pub(super) fn hash(&self, key: &hmac::Key) -> String {
        let mut context = hmac::Context::with_key(key);
        let parts = [
            self.timestamp,
            self.event_type,
            self.actor_id,
            self.action,
            self.details,
            self.previous_hash,
        ];
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                context.update(b"|");
            }
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        tag.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A check under way.
#[derive(Default)]
pub(super) struct Walk {
    /// It does not begin at the beginning.
    takes_the_first: bool,
    is_ours: bool,
    rows: u64,
    /// The first row's number, and what it is signed upon.
    first: Option<(i64, String)>,
    last: Option<(i64, String)>,
    /// The hash that was the last one removed, and how many were, by the last row that tells.
    pruned: Option<(String, u64)>,
    broken: Option<Broken>,
}

impl Walk {
    pub(super) fn new(is_ours: bool, takes_the_first: bool) -> Self {
        Self {
            is_ours,
            takes_the_first,
            ..Self::default()
        }
    }

    pub(super) fn step(&mut self, key: &hmac::Key, row: &Signed<'_>) {
        self.rows += 1;
        let is_whole = row.hash(key) == row.entry_hash;
        if is_whole && row.event_type == PRUNED {
            let details: serde_json::Value = serde_json::from_str(row.details).unwrap_or_default();
            let last_hash = details["last_hash"].as_str().unwrap_or_default();
            let removed = details["removed_in_all"].as_u64().unwrap_or_default();
            self.pruned = Some((last_hash.to_owned(), removed));
        }
        if self.broken.is_none() {
            self.broken = self
                .problem(row, is_whole)
                .map(|reason| Broken { id: row.id, reason });
        }
        if self.first.is_none() {
            self.first = Some((row.id, row.previous_hash.to_owned()));
        }
        self.last = Some((row.id, row.entry_hash.to_owned()));
    }

    fn problem(&self, row: &Signed<'_>, is_whole: bool) -> Option<String> {
        match &self.last {
            Some((id, hash)) if hash != row.previous_hash => Some(format!(
                "it does not follow row {id}: a row before it was changed, removed, or added at the same time"
            )),
            None if !self.takes_the_first && !self.is_ours && row.previous_hash != GENESIS => {
                Some("rows before it are missing".into())
            }
            _ if !is_whole => Some("it was changed, or signed with another key".into()),
            _ => None,
        }
    }

    pub(super) fn end(self, given_out: Option<i64>) -> Verified {
        let begins = match &self.first {
            Some((_, previous)) if previous == GENESIS || self.takes_the_first => None,
            Some((id, previous)) => match &self.pruned {
                Some((last_hash, _)) if last_hash == previous => None,
                _ => Some(Broken {
                    id: *id,
                    reason: "rows before it are missing, and no row says that they were removed"
                        .into(),
                }),
            },
            None => None,
        };
        let last = self.last.as_ref().map_or(0, |(id, _)| *id);
        let ends = given_out.filter(|given_out| *given_out > last);
        let ends = ends.map(|given_out| Broken {
            id: last + 1,
            reason: format!("it is missing, and with it all up to row {given_out}, the last one"),
        });
        Verified {
            rows: self.rows,
            removed: self.pruned.map_or(0, |(_, removed)| removed),
            broken: begins.or(self.broken).or(ends),
        }
    }
}
