//! The signature of a row, and the verification of one row after the other. Knows no database.

use ring::hmac;

use super::anchor::Anchor;
use crate::audit::row::SignedColumns;

/// Stands for the previous hash in the first row.
pub(super) const GENESIS: &str = "genesis";
/// The event type of the row that says what was removed.
pub(super) const PRUNED: &str = "audit.pruned";

/// The first row that does not fit into the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its id.
    pub id: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many rows were verified.
    pub rows: u64,
    /// How many rows were removed from the beginning, according to a row of the chain.
    pub removed: u64,
    /// The id of the last of them.
    pub removed_through: i64,
    /// The first row that does not fit into the chain.
    pub broken: Option<Broken>,
    /// The last row of the other trail that this one names.
    pub anchor: Option<Anchor>,
}

/// The columns of a row that the signature does not cover.
#[derive(Clone, Copy, Default)]
pub(super) struct OtherColumns<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) ip: Option<&'a str>,
    pub(super) target_type: Option<&'a str>,
    pub(super) target_id: Option<&'a str>,
}

impl OtherColumns<'_> {
    /// The column that says otherwise than the signed details of this program's row.
    fn contradiction(&self, details: &str) -> Option<&'static str> {
        let signed = SignedColumns::of(details)?;
        let (kind, id) = signed.target.unzip();
        [
            ("actor_username", self.username == Some(&signed.username)),
            ("actor_ip", self.ip.is_none()),
            ("target_type", self.target_type == kind),
            ("target_id", self.target_id == id.as_deref()),
        ]
        .into_iter()
        .find_map(|(column, agrees)| (!agrees).then_some(column))
    }
}

/// The signed columns of a row, and the signature (`entry_hash`).
pub(super) struct SignedRow<'a> {
    pub(super) id: i64,
    pub(super) timestamp: &'a str,
    pub(super) event_type: &'a str,
    pub(super) actor_id: &'a str,
    pub(super) action: &'a str,
    pub(super) details: &'a str,
    pub(super) previous_hash: &'a str,
    pub(super) entry_hash: &'a str,
    pub(super) others: OtherColumns<'a>,
}

impl SignedRow<'_> {
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

/// What was removed from the beginning.
struct Pruned {
    /// Of the last removed row.
    hash: String,
    through: i64,
    removed: u64,
}

/// Verifies the rows that it is given in the order of their ids.
#[derive(Default)]
pub(super) struct ChainVerifier {
    /// The rows begin in the middle of the chain, so the first one's link is not verified.
    trusts_first: bool,
    is_prunable: bool,
    rows: u64,
    /// The first row's id and previous hash.
    first: Option<(i64, String)>,
    /// The last row's id and hash.
    last: Option<(i64, String)>,
    /// From the newest row about it.
    pruned: Option<Pruned>,
    anchor: Option<Anchor>,
    broken: Option<Broken>,
}

impl ChainVerifier {
    pub(super) fn new(is_prunable: bool, trusts_first: bool) -> Self {
        Self {
            is_prunable,
            trusts_first,
            ..Self::default()
        }
    }

    pub(super) fn check(&mut self, key: &hmac::Key, row: &SignedRow<'_>) {
        self.rows += 1;
        let is_whole = row.hash(key) == row.entry_hash;
        if is_whole {
            self.anchor = Anchor::of_row(row.id, row.details).or(self.anchor.take());
        }
        if is_whole && row.event_type == PRUNED {
            let details: serde_json::Value = serde_json::from_str(row.details).unwrap_or_default();
            let hash = details["last_hash"].as_str().unwrap_or_default();
            self.pruned = Some(Pruned {
                hash: hash.to_owned(),
                through: details["through"].as_i64().unwrap_or_default(),
                removed: details["removed_in_all"].as_u64().unwrap_or_default(),
            });
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

    fn problem(&self, row: &SignedRow<'_>, is_whole: bool) -> Option<String> {
        match &self.last {
            Some((id, hash)) if hash != row.previous_hash => Some(format!(
                "it does not follow row {id}: a row before it was changed, removed, or added at the same time"
            )),
            None if !self.trusts_first && !self.is_prunable && row.previous_hash != GENESIS => {
                Some("rows before it are missing".into())
            }
            _ if !is_whole => Some("it was changed, or signed with another key".into()),
            _ => {
                let column = row.others.contradiction(row.details)?;
                Some(format!(
                    "its column {column} says otherwise than the details, which are signed"
                ))
            }
        }
    }

    /// `last_given_id` is the highest id that the database ever gave out, which reveals rows removed from the end.
    pub(super) fn finish(self, last_given_id: Option<i64>) -> Verified {
        let begins = match &self.first {
            Some((_, previous)) if previous == GENESIS || self.trusts_first => None,
            Some((id, previous)) => match &self.pruned {
                Some(pruned) if pruned.hash == *previous => None,
                _ => Some(Broken {
                    id: *id,
                    reason: "rows before it are missing, and no row says that they were removed"
                        .into(),
                }),
            },
            None => None,
        };
        let last = self.last.as_ref().map_or(0, |(id, _)| *id);
        let ends = last_given_id.filter(|id| *id > last);
        let ends = ends.map(|last_id| Broken {
            id: last + 1,
            reason: format!("it is missing, and with it all up to row {last_id}, the last one"),
        });
        Verified {
            rows: self.rows,
            removed: self.pruned.as_ref().map_or(0, |pruned| pruned.removed),
            removed_through: self.pruned.map_or(0, |pruned| pruned.through),
            broken: begins.or(self.broken).or(ends),
            anchor: self.anchor,
        }
    }
}
