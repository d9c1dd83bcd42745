//! Acknowledged writes survive kills of keeper and server.

use super::*;

/// Random numbers. The seed is printed, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.unwrap().as_nanos() as u64 | 1;
        println!("dice: {seed}");
        Self(seed)
    }

    /// xorshift64 (G. Marsaglia, 2003).
    fn throw(&mut self, sides: u64) -> u64 {
        for (left, shift) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left {
                self.0 << shift
            } else {
                self.0 >> shift
            };
        }
        self.0 % sides
    }
}

#[test]
fn two_hundred_writers_lose_no_acknowledged_write_under_kills() {
    let _alone = alone();
    let live = Live::start();
    let mut dice = Dice::new();
    let ended = AtomicBool::new(false);
    let writes = AtomicUsize::new(0);
    let last: Vec<usize> = std::thread::scope(|scope| {
        let write = |n: usize| {
            let mut i = 0;
            while !ended.load(Ordering::Relaxed) {
                // A shell ignores the result of close, and exits after one write.
                i += 1;
                let script = format!("echo {n}-{i} > secrets/K{n}");
                assert_eq!(done(spawn(&live, &script)), "");
                assert_eq!(live.read(&format!("secrets/K{n}")), format!("{n}-{i}\n"));
                writes.fetch_add(1, Ordering::Relaxed);
            }
            i
        };
        let writers: Vec<_> = (0..200).map(|n| scope.spawn(move || write(n))).collect();
        let begun = Instant::now();
        let mut kills = 0;
        while begun.elapsed() < Duration::from_secs(30) {
            match dice.throw(3) {
                0 => kill_keeper(&live),
                _ => kill_server(&live),
            }
            kills += 1;
            std::thread::sleep(Duration::from_millis(dice.throw(200)));
        }
        ended.store(true, Ordering::Relaxed);
        let last = writers.into_iter().map(|writer| writer.join().unwrap());
        let last = last.collect();
        println!(
            "{} writes under {kills} kills",
            writes.load(Ordering::Relaxed)
        );
        last
    });
    for (n, i) in last.into_iter().enumerate() {
        assert_eq!(live.read(&format!("secrets/K{n}")), format!("{n}-{i}\n"));
    }
}

#[test]
fn shells_lose_no_acknowledged_write_when_keeper_and_server_are_killed() {
    let _alone = alone();
    let live = Live::start();
    // Each shell writes its own key again and again, and records the last value that it wrote.
    let records = tempfile::tempdir_in("/dev/shm").unwrap();
    let shells: Vec<Child> = (0..20)
        .map(|n| {
            let recorded = records.path().join(n.to_string());
            let script = format!(
                "for i in {{1..60}}; do echo {n}-$i > secrets/K{n} && echo $i > {}; \
                 [ \"$(<secrets/K{n})\" = {n}-$i ] || echo \"$i: $(<secrets/K{n})\" >&2; done",
                recorded.display()
            );
            spawn(&live, &script)
        })
        .collect();
    let begun = Instant::now();
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        turn += 1;
        if turn % 3 == 0 {
            kill_keeper(&live);
        } else {
            kill_server(&live);
        }
    }
    for shell in shells {
        assert_eq!(done(shell), "");
    }
    for n in 0..20 {
        let recorded = fs::read_to_string(records.path().join(n.to_string())).unwrap();
        assert_eq!(recorded, "60\n");
        assert_eq!(live.read(&format!("secrets/K{n}")), format!("{n}-60\n"));
    }
}

#[test]
fn moves_and_removals_happen_once_while_servers_are_killed() {
    let _alone = alone();
    let live = Live::start();
    let shell = spawn(
        &live,
        "for i in {1..150}; do echo $i > secrets/A && mv secrets/A secrets/B && rm secrets/B || exit 1; done; ls secrets",
    );
    for _ in 0..10 {
        kill_server(&live);
    }
    assert_eq!(done(shell), "");
}
