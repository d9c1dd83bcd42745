//! The content of the file `events`: one JSON line for each change, in memory. When it is full, it is emptied.

/// The most bytes that it holds. A line that would exceed them replaces all others.
const MAX_BYTES: usize = 256 * 1024;

/// The lines of the file `events`.
#[derive(Default)]
pub(super) struct EventLog(Vec<u8>);

impl EventLog {
    /// Adds lines; `replaces_all`: they replace all that the log has.
    pub(super) fn add(&mut self, replaces_all: bool, lines: &[u8]) {
        if replaces_all {
            self.0.clear();
        }
        self.0.extend_from_slice(lines);
    }

    /// Adds a line. Returns whether it replaced all others.
    pub(super) fn append(&mut self, line: &[u8]) -> bool {
        let replaces_all = self.0.len() + line.len() > MAX_BYTES;
        self.add(replaces_all, line);
        replaces_all
    }

    /// All lines.
    pub(super) fn all(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_grow_by_whole_lines_and_start_anew_past_their_limit() {
        let mut log = EventLog::default();
        let line = [b'x'; 1000];
        for _ in 0..300 {
            log.append(&line);
            assert!(log.all().len() <= MAX_BYTES);
            assert_eq!(log.all().len() % 1000, 0);
        }
        assert!(log.all().len() < 100 * 1000, "it was emptied");
    }
}
