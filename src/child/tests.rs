//! Programs that end, hang, print too much or leave processes behind.

use std::os::unix::process::ExitStatusExt;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

fn run_for(script: &str, timeout: Duration) -> Result<Finished, RunError> {
    run(&mut sh(script), timeout, &RunHandle::default())
}

fn text(buffer: &SecretBuffer) -> String {
    String::from_utf8(buffer.as_bytes().to_vec()).unwrap()
}

#[test]
fn a_program_that_ends_gives_its_output_its_errors_and_its_status() {
    let ended = run_for("echo out; echo err >&2; exit 3", LONG).unwrap();
    assert_eq!(
        (text(&ended.output), text(&ended.errors)),
        ("out\n".into(), "err\n".into())
    );
    assert_eq!(ended.status.code(), Some(3));
    let ended = run_for("kill -SEGV $$", LONG).unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGSEGV));
    let ended = run_for("cat", LONG).unwrap();
    assert!(ended.output.is_empty(), "its standard input is empty");
    let stopped = run(&mut Command::new("/nowhere"), LONG, &RunHandle::default());
    assert!(matches!(stopped, Err(RunError::NotStarted(_))));
}

#[test]
fn output_up_to_a_mebibyte_is_read_whole_and_more_ends_the_program() {
    let ended = run_for(&format!("head -c {MAX_OUTPUT} /dev/zero"), LONG).unwrap();
    assert_eq!(ended.output.len(), MAX_OUTPUT);
    for script in ["head -c 1048577 /dev/zero", "cat /dev/zero"] {
        let stopped = run_for(script, LONG);
        assert!(matches!(stopped, Err(RunError::TooLarge)), "{script}");
    }
}

#[test]
fn of_the_standard_error_the_last_lines_are_kept_each_whole_or_not_at_all() {
    let errors = |script: &str| text(&run_for(script, LONG).unwrap().errors);
    let long = "head -c 1000000 /dev/zero | tr '\\0' x";
    assert_eq!(errors(&format!("({long}; echo; echo end) >&2")), "end\n");
    for script in [long.to_owned(), format!("echo a; {long}; echo end")] {
        let said = errors(&format!("({script}) >&2"));
        assert_eq!(said, "(a line of more than 4 KiB)");
    }
    let numbers = errors("seq 100000 >&2");
    assert!(numbers.ends_with("\n99999\n100000\n") && numbers.len() <= MAX_ERRORS);
    let first: u32 = numbers.lines().next().unwrap().parse().unwrap();
    let whole: String = (first..=100_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(numbers, whole);
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LONG, "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The processes whose numbers are in a file, once all are there.
fn pids(file: &std::path::Path, count: usize) -> Vec<u32> {
    let mut pids: Vec<u32> = Vec::new();
    wait_until(|| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        pids = text.lines().filter_map(|line| line.parse().ok()).collect();
        pids.len() == count && text.ends_with('\n')
    });
    pids
}

fn wait_for_the_end(pid: u32) {
    wait_until(|| !crate::process::is_alive(pid));
}

#[test]
fn at_the_end_of_its_time_the_whole_group_is_killed_even_if_it_ignores_signals() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!(
        "trap '' TERM INT HUP; sleep 1000 & echo $$ > {0}; echo $! >> {0}; wait; sleep 1000",
        file.display()
    );
    let stopped = run_for(&script, Duration::from_secs(3));
    assert!(matches!(stopped, Err(RunError::TimedOut)));
    pids(&file, 2).into_iter().for_each(wait_for_the_end);
}

#[test]
fn what_a_program_leaves_behind_neither_holds_up_its_output_nor_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $! > {}; echo done", file.display());
    let ended = run_for(&script, LONG).unwrap();
    assert_eq!(text(&ended.output), "done\n");
    pids(&file, 1).into_iter().for_each(wait_for_the_end);
    // A daemon, such as gpg's agent, leaves the group, and lives on.
    std::fs::remove_file(&file).unwrap();
    let daemon = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 1000' & ",
        file.display()
    );
    let wait = format!(
        "while ! [ -s {} ]; do sleep 0.01; done; echo done",
        file.display()
    );
    let ended = run_for(&(daemon + &wait), LONG).unwrap();
    assert_eq!(text(&ended.output), "done\n");
    let daemon = pids(&file, 1)[0];
    assert!(crate::process::is_alive(daemon));
    let daemon = Pid::from_raw(daemon as i32).unwrap();
    rustix::process::kill_process(daemon, Signal::KILL).unwrap();
}

#[test]
fn closing_kills_the_program_that_runs_and_lets_no_other_begin() {
    let running = std::sync::Arc::new(RunHandle::default());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let script = format!("echo $$ > {}; sleep 1000", file.display());
    let on_thread = running.clone();
    let runs = std::thread::spawn(move || run(&mut sh(&script), LONG, &on_thread).err());
    let pid = pids(&file, 1)[0];
    running.close();
    assert!(matches!(runs.join().unwrap(), Some(RunError::Closed)));
    wait_for_the_end(pid);
    let stopped = run(&mut sh("true"), LONG, &running);
    assert!(matches!(stopped, Err(RunError::Closed)));
}

#[test]
fn a_program_inherits_neither_descriptors_nor_signals_nor_the_terminal() {
    let inherited = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let blocks = std::thread::spawn(|| {
        // SAFETY: only this thread's mask changes; an ignored SIGURG changes nothing for the others.
        unsafe {
            libc::signal(libc::SIGURG, libc::SIG_IGN);
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGUSR2);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        run_for(
            "grep -E 'SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd; ps -o sid=,pgid=,pid= $$; (: < /dev/tty) 2> /dev/null || echo none",
            LONG,
        )
    });
    let said = text(&blocks.join().unwrap().unwrap().output);
    let mut lines = said.lines();
    for name in ["SigBlk", "SigIgn"] {
        let line = lines.next().unwrap();
        assert!(
            line.starts_with(name) && line.ends_with("0000000000000000"),
            "{line}"
        );
    }
    // The last one is the listing's own.
    assert_eq!(
        lines.by_ref().take(4).collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    let ids: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert!(
        ids.len() == 3 && ids.iter().all(|id| *id == ids[0]),
        "{said}"
    );
    assert_eq!(lines.next(), Some("none"));
}
