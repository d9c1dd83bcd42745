//! A backend's record for the next process: its document with its times, and the backend's own state. The record has its own
//! types. What expires has its time since the machine started; what is only shown has wall-clock times.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::BackendDocument;
use crate::clock::Instant;
use crate::provider::source_view::{CachedDocument, Failure, SourceView};
use crate::secret::SecretName;

/// The version of the record. Records of other versions are ignored.
const FORMAT_VERSION: u8 = 2;

/// A wall-clock time: whole seconds since 1970, rounded down, and nanoseconds. The seconds may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::provider) struct WallTime(i64, u32);

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        let seconds = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(seconds(since), since.subsec_nanos()),
            Err(before) => match before.duration().subsec_nanos() {
                0 => Self(-seconds(before.duration()), 0),
                nanoseconds => Self(-seconds(before.duration()) - 1, 1_000_000_000 - nanoseconds),
            },
        }
    }
}

impl WallTime {
    /// The time; 1970 if the system cannot represent it.
    pub(in crate::provider) fn time(self) -> SystemTime {
        let whole = Duration::from_secs(self.0.unsigned_abs());
        let time = match self.0 >= 0 {
            true => UNIX_EPOCH.checked_add(whole),
            false => UNIX_EPOCH.checked_sub(whole),
        };
        let nanoseconds = Duration::from_nanos(self.1.into());
        time.and_then(|time| time.checked_add(nanoseconds))
            .unwrap_or(UNIX_EPOCH)
    }
}

/// A backend's record.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BackendRecord<'a> {
    pub(super) version: u8,
    /// The source of the document. A record of another source is ignored.
    pub(super) source: &'a str,
    #[serde(borrow)]
    pub(super) document: Option<DocumentRecord<'a>>,
    pub(super) last_success: Option<WallTime>,
    pub(super) last_error: Option<(&'a str, WallTime)>,
    /// Why the last attempt failed, if it did.
    pub(super) failure: Option<&'a str>,
    /// The backend's own state.
    pub(super) own: Option<&'a [u8]>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DocumentRecord<'a> {
    /// When the call that returned it began, since the machine started.
    pub(super) as_of: Duration,
    pub(super) is_invalidated: bool,
    pub(super) changed_at: WallTime,
    /// Keys and texts, including keys that are not valid names.
    #[serde(borrow)]
    pub(super) entries: Vec<(&'a str, &'a str)>,
    /// Keys whose values could not be served.
    #[serde(borrow)]
    pub(super) left_out: Vec<&'a str>,
    /// When single keys changed.
    #[serde(borrow)]
    pub(super) changed: Vec<(&'a str, WallTime)>,
}

impl<'a> BackendRecord<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Self {
            version: FORMAT_VERSION,
            source,
            document: None,
            last_success: None,
            last_error: None,
            failure: None,
            own: None,
        }
    }

    /// The record in these bytes, if it has this source.
    pub(super) fn read(bytes: &'a [u8], source: &str) -> Option<Self> {
        let saved: Self = (bytes.first() == Some(&FORMAT_VERSION))
            .then(|| postcard::from_bytes(bytes).ok())
            .flatten()?;
        (saved.source == source).then_some(saved)
    }
}

impl SourceView<BackendDocument> {
    /// The record for the next process; `own` is the backend's own state.
    pub(super) fn save(&self, own: Option<&[u8]>, now: Instant) -> Zeroizing<Vec<u8>> {
        let is_invalidated = self.age(now).is_none();
        let cached = self.cached.as_ref().filter(|cached| !cached.is_absent);
        let document = cached.map(|cached| {
            let (entries, left_out) = cached.document.parts();
            let changed = cached.keys_changed_at.iter();
            DocumentRecord {
                as_of: cached.as_of.since_boot(),
                is_invalidated,
                changed_at: cached.changed_at.into(),
                entries,
                left_out,
                changed: changed
                    .map(|(name, at)| (name.as_str(), (*at).into()))
                    .collect(),
            }
        });
        let last_error = self.last_error.as_ref();
        let failure = self.failure.as_ref().map(|failure| failure.error.reason());
        to_bytes(&BackendRecord {
            document,
            last_success: self.last_success.map(Into::into),
            last_error: last_error.map(|(why, at)| (why.as_str(), (*at).into())),
            failure: failure.as_deref(),
            own,
            ..BackendRecord::new(&self.source)
        })
    }

    /// Restores a record.
    pub(super) fn restore(&mut self, saved: &BackendRecord<'_>, now: Instant) {
        if let Some(document) = &saved.document {
            // A time to come means that the machine has started anew since the save.
            let as_of = Some(Instant::from_boot(document.as_of)).filter(|as_of| *as_of <= now);
            let changed = document.changed.iter();
            self.cached = Some(CachedDocument {
                document: BackendDocument::from_parts(&document.entries, &document.left_out).into(),
                is_absent: false,
                as_of: as_of.unwrap_or(now),
                changed_at: document.changed_at.time(),
                keys_changed_at: Arc::new(
                    changed
                        .filter_map(|(key, at)| Some((SecretName::new(key).ok()?, at.time())))
                        .collect(),
                ),
            });
            if document.is_invalidated || as_of.is_none() {
                self.invalidated_at = now.checked_add(Duration::from_nanos(1));
            }
        }
        self.last_success = saved.last_success.map(WallTime::time);
        let last_error = saved.last_error;
        self.last_error = last_error.map(|(why, at)| (why.to_owned(), at.time()));
        // A retry is due at once, and readers wait for it no longer than for any backend that failed.
        self.failure = saved.failure.map(|reason| Failure {
            error: self.rules.unavailable(reason).into(),
            retry_at: Some(now),
            times: 1,
        });
    }
}

/// A record as bytes that are wiped when dropped. Leaves no copy in memory.
pub(crate) fn to_bytes<T: Serialize>(record: &T) -> Zeroizing<Vec<u8>> {
    let size = postcard::ser_flavors::Size::default();
    let size = postcard::serialize_with_flavor(record, size).unwrap_or(0);
    let mut bytes = Zeroizing::new(vec![0; size]);
    if postcard::to_slice(record, &mut bytes).is_err() {
        return Zeroizing::default();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_survive_the_conversion_even_before_1970() {
        for (seconds, nanoseconds) in [
            (0i64, 0u32),
            (1, 1),
            (1_767_323_045, 999_999_999),
            (-1, 0),
            (-1, 999_999_999),
            (-62_135_596_800, 5),
        ] {
            let base = Duration::from_secs(seconds.unsigned_abs());
            let whole = match seconds >= 0 {
                true => UNIX_EPOCH + base,
                false => UNIX_EPOCH - base,
            };
            let time = whole + Duration::from_nanos(nanoseconds.into());
            let wall = WallTime::from(time);
            assert_eq!(wall, WallTime(seconds, nanoseconds));
            assert_eq!(wall.time(), time);
        }
    }

    /// A newer server must read what an older one wrote: these bytes change only together with `FORMAT_VERSION`.
    #[test]
    fn the_format_of_the_record_does_not_change() {
        let saved = BackendRecord {
            document: Some(DocumentRecord {
                as_of: Duration::new(1, 2),
                is_invalidated: false,
                changed_at: WallTime(-1, 0),
                entries: vec![("A", "a")],
                left_out: vec!["L"],
                changed: vec![("A", WallTime(3, 0))],
            }),
            last_success: Some(WallTime(4, 0)),
            last_error: Some(("why", WallTime(5, 0))),
            failure: Some("why"),
            own: Some(b"own"),
            ..BackendRecord::new("source")
        };
        let golden: &[u8] = &[
            2, 6, b's', b'o', b'u', b'r', b'c', b'e', 1, 1, 2, 0, 1, 0, 1, 1, b'A', 1, b'a', 1, 1,
            b'L', 1, 1, b'A', 6, 0, 1, 8, 0, 1, 3, b'w', b'h', b'y', 10, 0, 1, 3, b'w', b'h', b'y',
            1, 3, b'o', b'w', b'n',
        ];
        assert_eq!(&**to_bytes(&saved), golden);
        assert_eq!(BackendRecord::read(golden, "source"), Some(saved));
        assert_eq!(BackendRecord::read(golden, "elsewhere"), None);
        for cut in 0..golden.len() {
            assert_eq!(BackendRecord::read(&golden[..cut], "source"), None, "{cut}");
        }
    }
}
