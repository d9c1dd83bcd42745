//! The anchor in a row: which row of the other trail it names. Knows no database.

/// The details of a row that names one of the other trail begin with it. SimpleTuner knows no event type for it, so one of its own serves.
pub(in crate::audit) const ANCHOR: &str = "{\"anchor\":";
/// The row of a trail that a row of the other trail names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its id.
    pub id: i64,
    /// Its hash.
    pub hash: String,
    /// The row that names it.
    pub named_by: i64,
}

impl Anchor {
    /// The anchor in the details of a row.
    pub(super) fn of_row(row: i64, details: &str) -> Option<Self> {
        if !details.starts_with(ANCHOR) {
            return None;
        }
        let details: serde_json::Value = serde_json::from_str(details).ok()?;
        let anchor = &details["anchor"];
        Some(Self {
            id: anchor["id"].as_i64()?,
            hash: anchor["hash"].as_str()?.to_owned(),
            named_by: row,
        })
    }
}
