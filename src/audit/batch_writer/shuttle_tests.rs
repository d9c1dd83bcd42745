//! The queue of a trail under many schedules of its threads: no row is lost, and a flush waits for all rows before it.

use std::sync::Arc;

use super::*;
use crate::sync::tests::check;
use shuttle::thread;

/// A trail whose database is part of the queue. Its first writes can fail.
struct TestTrail {
    taken: Vec<u32>,
    failures: u32,
}

#[derive(Default)]
struct Queue {
    rows: Vec<u32>,
    written: Vec<u32>,
    failures: u32,
}

impl Queue {
    /// Wakes the thread only for the first row of a batch, as the trail of reads does.
    fn add(&mut self, row: u32) -> bool {
        self.rows.push(row);
        self.rows.len() == 1
    }
}

impl Trail for TestTrail {
    type Queue = Queue;
    const NAME: &'static str = "the trail under test";
    const THREAD: &'static str = "test-trail";

    fn new(_: &AuditOptions) -> Self {
        Self {
            taken: Vec::new(),
            failures: 0,
        }
    }

    fn due(&self, queue: &Queue) -> Option<Instant> {
        (!queue.rows.is_empty()).then(Instant::now)
    }

    fn counts(queue: &Queue) -> RowCounts {
        RowCounts {
            waiting: queue.rows.len() as u64,
            lost: 0,
        }
    }

    fn write(&mut self, shared: &Shared<Queue>, _: bool) -> Result<()> {
        let (rows, failures) = {
            let mut state = shared.lock();
            (std::mem::take(&mut state.queue.rows), state.queue.failures)
        };
        self.taken.extend(rows);
        if self.failures < failures {
            self.failures += 1;
            return Err(Error::io("the database", rustix::io::Errno::NOSPC));
        }
        shared.lock().queue.written.append(&mut self.taken);
        shared.changed.notify_all();
        Ok(())
    }
}

fn writer(failures: u32) -> Arc<BatchWriter<TestTrail>> {
    let writer = BatchWriter::<TestTrail>::new(&AuditOptions {
        state_dir: "/nowhere".into(),
        key: None,
        reads: true,
        keep_days: None,
        anchor_interval: std::time::Duration::from_secs(60),
    });
    writer.lock().queue.failures = failures;
    Arc::new(writer)
}

fn in_an_hour() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[test]
fn shuttle_every_queued_row_is_written_without_a_flush() {
    check(|| {
        let writer = writer(0);
        let threads = [1, 2].map(|row| {
            let writer = writer.clone();
            thread::spawn(move || {
                writer.enqueue(|queue| queue.add(row));
                writer.enqueue(|queue| queue.add(10 * row));
            })
        });
        let mut state = writer.lock();
        while state.queue.written.len() < 4 {
            state = writer.shared.changed.wait(state);
        }
        state.queue.written.sort_unstable();
        assert_eq!(state.queue.written, [1, 2, 10, 20]);
        drop(state);
        for thread in threads {
            thread.join().unwrap();
        }
        writer.end();
    });
}

#[test]
fn shuttle_a_flush_returns_after_all_rows_queued_before_it() {
    check(|| {
        let writer = writer(0);
        let threads = [1, 2, 3].map(|row| {
            let writer = writer.clone();
            thread::spawn(move || {
                writer.enqueue(|queue| queue.add(row));
                let (flush, state) = writer.flush(in_an_hour());
                assert_eq!(flush, Flush::Written);
                assert!(state.queue.written.contains(&row));
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        writer.end();
    });
}

#[test]
fn shuttle_a_flush_after_a_failed_write_writes_its_rows() {
    check(|| {
        let writer = writer(1);
        let queue = {
            let writer = writer.clone();
            thread::spawn(move || writer.enqueue(|queue| queue.add(1)))
        };
        writer.enqueue(|queue| queue.add(2));
        queue.join().unwrap();
        // The first write fails: that of the rows, or that of the first flush.
        writer.flush(in_an_hour());
        let (flush, state) = writer.flush(in_an_hour());
        assert_eq!(flush, Flush::Written);
        assert_eq!(state.queue.written.len(), 2);
        drop(state);
        writer.end();
    });
}

#[test]
fn shuttle_no_row_is_queued_between_the_flush_of_a_frozen_trail_and_the_next_program() {
    check(|| {
        let writer = writer(0);
        let threads = [1, 2].map(|row| {
            let writer = writer.clone();
            thread::spawn(move || {
                writer.enqueue(|queue| queue.add(row));
            })
        });
        writer.freeze();
        assert_eq!(writer.flush(in_an_hour()).0, Flush::Written);
        for _ in 0..3 {
            thread::yield_now();
            assert!(writer.lock().queue.rows.is_empty());
        }
        // The next program could not be started.
        writer.lock().frozen_until = None;
        writer.shared.changed.notify_all();
        for thread in threads {
            thread.join().unwrap();
        }
        let (_, state) = writer.flush(in_an_hour());
        assert_eq!(state.queue.written.len(), 2);
        drop(state);
        writer.end();
    });
}
