//! The file `events`: a JSON line for each change, in memory, that starts anew when it is full.

use std::sync::Mutex;

use super::saved::{Item, Notes};

/// Past this many bytes it starts anew.
const LIMIT: usize = 256 * 1024;

/// The lines, and where they are noted for the next server.
#[derive(Default)]
pub(super) struct EventLog(Mutex<Vec<u8>>, Notes);

impl EventLog {
    /// A log that begins with these lines.
    pub(super) fn new(lines: Vec<u8>, notes: Notes) -> Self {
        Self(Mutex::new(lines), notes)
    }

    /// Gives all lines; none is added meanwhile.
    pub(super) fn with_all(&self, take: impl FnOnce(&[u8])) {
        take(&self.lines());
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds an event as a line.
    pub(super) fn push(&self, event: &impl serde::Serialize) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let mut lines = self.lines();
        let anew = lines.len() + line.len() > LIMIT;
        if anew {
            lines.clear();
        }
        lines.extend_from_slice(&line);
        self.1.note(&[Item::Events(anew, &line)]);
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.lines().len()
    }

    /// At most `size` bytes from `offset` on.
    pub(super) fn read(&self, offset: usize, size: usize) -> Vec<u8> {
        let lines = self.lines();
        let start = offset.min(lines.len());
        lines[start..(start + size).min(lines.len())].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_whole_lines_and_starts_anew_past_its_limit() {
        let log = EventLog::default();
        let line = "x".repeat(1000);
        for _ in 0..300 {
            log.push(&line);
            assert!(log.len() <= LIMIT);
            assert_eq!(log.len() % 1003, 0);
        }
        assert!(log.len() < 100 * 1003, "it has started anew");
        assert_eq!(log.read(1, 3), b"xxx");
        assert_eq!(log.read(LIMIT * 2, 3), b"");
    }
}
