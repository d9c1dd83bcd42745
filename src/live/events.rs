//! The file `events`: a JSON line for each change, in memory, that starts anew when it is full.

/// Past this many bytes it starts anew.
const LIMIT: usize = 256 * 1024;

/// The lines.
#[derive(Default)]
pub(super) struct EventLog(Vec<u8>);

impl EventLog {
    /// Adds lines that an earlier server had; `anew`: they replace all others.
    pub(super) fn take_in(&mut self, anew: bool, lines: &[u8]) {
        if anew {
            self.0.clear();
        }
        self.0.extend_from_slice(lines);
    }

    /// Adds a line. Returns whether the log has started anew with it.
    pub(super) fn push(&mut self, line: &[u8]) -> bool {
        let anew = self.0.len() + line.len() > LIMIT;
        self.take_in(anew, line);
        anew
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
            log.push(&line);
            assert!(log.all().len() <= LIMIT);
            assert_eq!(log.all().len() % 1000, 0);
        }
        assert!(log.all().len() < 100 * 1000, "it has started anew");
    }
}
