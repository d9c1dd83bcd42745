//! Log lines on their way to a file or a terminal that may hang: one thread writes them, so that no other thread waits
//! for a disk. Knows neither the lines' form nor where they go.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::sync::{self, Condvar, LARGE_STACK, Mutex, MutexGuard};

/// How long a thread that logs a line waits until it is written. After one that took longer, no thread waits until all
/// lines are written.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The thread ends after this long without a line; the next one starts another.
const IDLE_TIMEOUT: Duration = Duration::from_millis(250);
/// The most bytes that wait to be written. Lines beyond that are lost, and counted.
const MAX_QUEUED: usize = 256 * 1024;

/// Lines that the thread `log` writes.
pub(super) struct LogQueue {
    state: Mutex<State>,
    /// Notified when a line is queued, and when one is written.
    changed: Condvar,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many lines were ever queued, and written.
    queued: u64,
    written: u64,
    lost: u64,
    /// Whether the thread runs. It then has the target.
    is_running: bool,
    is_hanging: bool,
    target: Option<Box<dyn Write + Send>>,
}

impl LogQueue {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                lines: VecDeque::new(),
                bytes: 0,
                queued: 0,
                written: 0,
                lost: 0,
                is_running: false,
                is_hanging: false,
                target: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Starts the thread, which writes to what `open` gives; `None` ends it. Only the first call has an effect.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start<W: Write + Send + 'static>(
        &'static self,
        open: impl FnOnce() -> Option<W> + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.is_running || state.target.is_some() {
            return Ok(());
        }
        let run = move || {
            match open() {
                Some(target) => self.write_all(Box::new(target)),
                None => self.state.lock().is_running = false,
            };
        };
        // Opening the log follows a path, and a target may be any code.
        sync::spawn("log", LARGE_STACK, run)?;
        state.is_running = true;
        Ok(())
    }

    /// Writes lines until none has come for a while.
    fn write_all(&self, mut target: Box<dyn Write + Send>) {
        let mut state = self.state.lock();
        let mut idle_since = Instant::now();
        loop {
            let Some(line) = state.lines.pop_front() else {
                let left = IDLE_TIMEOUT.saturating_sub(idle_since.elapsed());
                if left.is_zero() {
                    state.is_running = false;
                    state.target = Some(target);
                    return;
                }
                state = self.changed.wait_timeout(state, left);
                continue;
            };
            state.bytes -= line.len();
            drop(state);
            // A line that cannot be written is lost, as on any full disk.
            let _ = target.write_all(&line);
            state = self.state.lock();
            idle_since = Instant::now();
            state.written += 1;
            if state.lines.is_empty() {
                let lost = std::mem::take(&mut state.lost);
                if lost > 0 {
                    drop(state);
                    // Not waited for, because the log still counts as hanging.
                    tracing::warn!("{lost} lines are missing here: the log could not be written");
                    state = self.state.lock();
                } else {
                    state.is_hanging = false;
                }
            }
            self.changed.notify_all();
        }
    }

    /// Starts the thread again after it ended. If it cannot be started, the lines wait for the next one that is logged.
    fn restart(&'static self, state: &mut State) {
        let run = || {
            let target = self.state.lock().target.take();
            if let Some(target) = target {
                self.write_all(target);
            }
        };
        state.is_running = sync::spawn("log", LARGE_STACK, run).is_ok();
    }

    /// Queues a line, and waits a moment until it is written.
    fn queue(&'static self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.bytes + line.len() > MAX_QUEUED {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        state.queued += 1;
        let number = state.queued;
        if !state.is_running && state.target.is_some() {
            self.restart(&mut state);
        }
        self.changed.notify_all();
        if !state.is_hanging {
            let mut state = self.wait(state, WRITE_TIMEOUT);
            state.is_hanging = state.is_running && state.written < number;
        }
    }

    /// Waits until all lines that are queued now are written.
    pub(super) fn flush(&self) {
        drop(self.wait(self.state.lock(), FLUSH_TIMEOUT));
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        timeout: Duration,
    ) -> MutexGuard<'a, State> {
        let (wanted, until) = (state.queued, Instant::now() + timeout);
        while state.is_running && state.written < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left);
        }
        state
    }
}

/// Each write is a line.
impl Write for &'static LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Writes a line for each message that it receives.
    struct Gated(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Gated {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_hangs_delays_its_callers_once_and_loses_only_what_has_no_room() {
        static QUEUE: LogQueue = LogQueue::new();
        let (open, gate) = channel();
        let (sender, written) = channel();
        QUEUE.start(move || Some(Gated(gate, sender))).unwrap();
        let line = |number: usize| format!("{number:0>1023}\n").into_bytes();
        QUEUE.queue(&line(0));
        assert!(QUEUE.state.lock().is_hanging);
        // The thread has taken the first one.
        for number in 1..=MAX_QUEUED / 1024 + 7 {
            QUEUE.queue(&line(number));
        }
        assert_eq!(QUEUE.state.lock().lost, 7);
        for _ in 0..=MAX_QUEUED / 1024 {
            open.send(()).unwrap();
        }
        for number in 0..=MAX_QUEUED / 1024 {
            assert_eq!(written.recv().unwrap(), line(number));
        }
        drop(open);
        QUEUE.flush();
        QUEUE.queue(&line(1));
        QUEUE.flush();
        assert_eq!(written.recv().unwrap(), line(1));
        let state = QUEUE.state.lock();
        assert_eq!((state.bytes, state.lost), (0, 0));
    }

    #[test]
    fn without_lines_no_thread_runs_and_the_next_line_is_written_all_the_same() {
        static QUEUE: LogQueue = LogQueue::new();
        let (open, gate) = channel();
        let (sender, written) = channel();
        QUEUE.start(move || Some(Gated(gate, sender))).unwrap();
        drop(open);
        for line in [b"first\n", b"other\n"] {
            QUEUE.queue(line);
            assert_eq!(written.recv().unwrap(), line);
            while QUEUE.state.lock().is_running {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
