//! Parked requests under many schedules of their threads: each is resumed, and once.

use super::*;
use crate::sync::tests::check;
use shuttle::thread;

fn caller(request: u64) -> Caller {
    Caller {
        uid: 0,
        tid: 0,
        request,
        is_resend: false,
    }
}

/// The results of requests, by number.
#[derive(Default)]
struct Answers {
    results: Mutex<Vec<(u64, Result<(), Errno>)>>,
    changed: Condvar,
}

impl Answers {
    fn resume(self: &Arc<Self>, request: u64) -> Resume {
        let answers = self.clone();
        Box::new(move |result| {
            answers.results.lock().push((request, result));
            answers.changed.notify_all();
        })
    }

    /// Waits for so many; if one was never resumed, shuttle reports a deadlock.
    fn wait_for(&self, count: usize) -> Vec<(u64, Result<(), Errno>)> {
        let mut results = self.results.lock();
        while results.len() < count {
            results = self.changed.wait(results);
        }
        results.clone()
    }
}

/// What requests wait for: a write that is being committed.
struct Settling(Mutex<bool>);

fn park(waiting: &Arc<Waiting>, settling: &Settling, request: u64, resume: Resume) {
    let interrupted_by = InterruptedBy::EndingSignals;
    let on = WaitOn::Listing;
    waiting.park(&caller(request), Some(on.clone()), interrupted_by, resume);
    // As `Tree::when_unblocked`: the write may have ended before this request was parked.
    if !*settling.0.lock() {
        waiting.wake(&on);
    }
}

#[test]
fn shuttle_every_request_that_waits_for_a_write_is_resumed_once() {
    check(|| {
        let waiting = Arc::new(Waiting::new(None, Arc::default()));
        let settling = Arc::new(Settling(Mutex::new(true)));
        let answers = Arc::new(Answers::default());
        let threads = [2, 4].map(|request| {
            let (waiting, settling) = (waiting.clone(), settling.clone());
            let resume = answers.resume(request);
            thread::spawn(move || park(&waiting, &settling, request, resume))
        });
        *settling.0.lock() = false;
        waiting.wake(&WaitOn::Listing);
        assert!(answers.wait_for(2).iter().all(|(_, result)| result.is_ok()));
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(answers.results.lock().len(), 2);
        waiting.end_all();
    });
}

#[test]
fn shuttle_a_resumed_request_may_be_parked_again() {
    check(|| {
        let waiting = Arc::new(Waiting::new(None, Arc::default()));
        let answers = Arc::new(Answers::default());
        let settling = Arc::new(Settling(Mutex::new(true)));
        let again = {
            let (waiting, settling, resume) =
                (waiting.clone(), settling.clone(), answers.resume(2));
            Box::new(move |_| park(&waiting, &settling, 2, resume))
        };
        let parked = {
            let (waiting, settling) = (waiting.clone(), settling.clone());
            thread::spawn(move || park(&waiting, &settling, 2, again))
        };
        *settling.0.lock() = false;
        waiting.wake(&WaitOn::Listing);
        answers.wait_for(1);
        parked.join().unwrap();
        assert_eq!(answers.results.lock().len(), 1);
        waiting.end_all();
    });
}

#[test]
fn shuttle_a_request_counts_as_unanswered_until_its_last_resume_is_over() {
    check(|| {
        let (page, _file) = HeartbeatPage::new().unwrap();
        let waiting = Arc::new(Waiting::new(Some(page), Arc::default()));
        let answers = Arc::new(Answers::default());
        let answer = answers.resume(2);
        let last = Box::new(move |result| {
            thread::yield_now();
            assert_eq!(page.drain_unanswered(), [2]);
            answer(result);
        });
        let again = {
            let waiting = waiting.clone();
            Box::new(move |_| {
                let (by, on) = (InterruptedBy::EndingSignals, WaitOn::Listing);
                waiting.park(&caller(2), Some(on), by, last);
            })
        };
        let by = InterruptedBy::EndingSignals;
        waiting.park(&caller(2), Some(WaitOn::Listing), by, again);
        let first = {
            let waiting = waiting.clone();
            thread::spawn(move || waiting.wake(&WaitOn::Listing))
        };
        waiting.wake(&WaitOn::Listing);
        first.join().unwrap();
        waiting.wake(&WaitOn::Listing);
        answers.wait_for(1);
        waiting.end_all();
        assert!(waiting.waiters.lock().unanswered.is_empty());
    });
}

#[test]
fn shuttle_a_request_is_resumed_once_when_it_is_completed_and_the_mount_ends() {
    check(|| {
        let waiting = Arc::new(Waiting::new(None, Arc::default()));
        let answers = Arc::new(Answers::default());
        let threads = [2, 4].map(|request| {
            let (waiting, resume) = (waiting.clone(), answers.resume(request));
            thread::spawn(move || {
                let by = InterruptedBy::KillSignals;
                let id = waiting.park(&caller(request), None, by, resume);
                waiting.complete(id, Ok(()));
            })
        });
        waiting.end_all();
        answers.wait_for(2);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(answers.results.lock().len(), 2);
    });
}

#[test]
fn shuttle_no_request_stays_parked_after_the_mount_has_ended() {
    check(|| {
        let waiting = Arc::new(Waiting::new(None, Arc::default()));
        let answers = Arc::new(Answers::default());
        let settling = Arc::new(Settling(Mutex::new(true)));
        let parked = {
            let (waiting, resume) = (waiting.clone(), answers.resume(2));
            thread::spawn(move || park(&waiting, &settling, 2, resume))
        };
        waiting.end_all();
        assert_eq!(answers.wait_for(1), [(2, Err(Errno::ENOTCONN))]);
        parked.join().unwrap();
    });
}
