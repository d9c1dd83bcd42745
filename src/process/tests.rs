//! What `/proc` says of real processes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn has_writable_descriptor(tid: u32, inodes: [u64; 2]) -> bool {
    writable_descriptor(tid, inodes, None) != WritableDescriptor::None
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a Python program and waits until it has printed `ready`.
fn python(program: &str) -> Child {
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.as_mut().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// What `exit_state` returns for a process that has ended and was not reaped.
fn state_of_zombie(child: &Child) -> ExitState {
    wait_until("the child ends", || has_ended(child.id()));
    exit_state(child.id())
}

#[test]
fn the_exit_code_shows_whether_a_process_exits_or_is_killed() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(exit_state(child.id()), ExitState::Running);
    assert!(is_alive(child.id()) && !has_ended(child.id()));
    drop(child.stdin.take());
    assert_eq!(state_of_zombie(&child), ExitState::Exited);
    assert!(!is_alive(child.id()));
    child.wait().unwrap();
    assert_eq!(exit_state(child.id()), ExitState::Gone);
    assert!(!is_alive(child.id()) && has_ended(child.id()));

    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(state_of_zombie(&child), ExitState::Killed);
    child.wait().unwrap();
}

#[test]
fn a_process_name_cut_inside_a_character_or_looking_like_fields_confuses_nothing() {
    // The kernel keeps 15 bytes of a name, so the first two end with half a character. The others look like the rest of
    // a running process's `stat`.
    for name in [
        "ein_langer_Name_äöü",
        "12345678901234ä",
        "a) R 1 (",
        ") Z 1 2 3 4 (",
    ] {
        let mut child = python(&format!(
            "import sys\nopen('/proc/self/comm', 'wb').write({name:?}.encode())\nprint('ready', flush=True)\nsys.stdin.read()"
        ));
        let pid = child.id();
        assert_eq!(process_of(pid), Some(pid), "{name}");
        assert_eq!(exit_state(pid), ExitState::Running, "{name}");
        assert!(!has_fatal_signal_pending(pid), "{name}");
        assert!(started_at(pid) >= started_at(std::process::id()), "{name}");
        assert_eq!(user_of(pid), user_of(std::process::id()), "{name}");
        assert!(name_of(pid).is_some(), "{name}");
        child.kill().unwrap();
        assert_eq!(state_of_zombie(&child), ExitState::Killed, "{name}");
        child.wait().unwrap();
    }
}

#[test]
fn the_fields_of_stat_are_found_after_a_name_of_any_bytes() {
    let rest = " S 1 5 5 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 0 0 0 0 0 0 1 1 1 1 1 1 1 9\n";
    for name in [&b"a) R 1 ("[..], b"\xc3", b")", b"", b"a\nb"] {
        let stat = [b"5 (", name, b")", rest.as_bytes()].concat();
        let expected = Stat {
            flags: 4_194_304,
            started: 777,
            exit_code: 9,
        };
        assert_eq!(Stat::parse(&stat), Some(expected));
    }
    for damaged in [&b""[..], b"5 (a", b"5 (a)", b"5 (a) S 1 2"] {
        assert_eq!(Stat::parse(damaged), None);
    }
}

#[test]
fn a_writable_descriptor_is_seen_and_a_readable_one_is_not() {
    let me = std::process::id();
    let file = tempfile::NamedTempFile::new().unwrap();
    let ino = file.as_file().metadata().unwrap().ino();
    assert!(has_writable_descriptor(me, [0, ino]));
    assert!(!has_writable_descriptor(me, [0, 1]));
    let (file, path) = file.into_parts();
    let reader = File::open(&path).unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .unwrap();
    assert!(!has_writable_descriptor(me, [ino, 0]));
    assert!(has_writable_descriptor(child.id(), [ino, 0]));
    drop(reader);
    drop(child.stdin.take());
    wait_until("the child ends", || has_ended(child.id()));
    assert!(!has_writable_descriptor(child.id(), [ino, 0]));
    child.wait().unwrap();
    assert!(!has_writable_descriptor(child.id(), [ino, 0]));
}

#[test]
fn a_path_descriptor_does_not_count_as_writable() {
    let info = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t30\nino:\t77\n");
    let can_write = |flags: &str| fields::can_write(info(flags).as_bytes(), [77, 0]);
    assert!(can_write("0100001") && can_write("02100002"));
    assert!(!can_write("0100000") && !can_write("012100001"));
    assert!(!fields::can_write(info("0100001").as_bytes(), [7, 0]));
}

#[test]
fn a_process_whose_first_thread_has_ended_is_alive_while_others_run() {
    let mut child = python(
        "import ctypes, sys, threading\n\
         threading.Thread(target=sys.stdin.read).start()\n\
         print('ready', flush=True)\n\
         ctypes.CDLL(None).pthread_exit(None)",
    );
    let pid = child.id();
    wait_until("the first thread has ended", || has_ended(pid));
    assert!(is_alive(pid));
    // Python may abort by itself here, so the test only asserts that it ends.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!is_alive(pid));
}

#[test]
fn a_program_that_exits_with_other_threads_running_does_not_count_as_killed() {
    // The kernel sets `PF_SIGNALED` on all threads but the one that called exit.
    let mut child = python(
        "import os, sys, threading\n\
         threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()\n\
         print('ready', flush=True)\n\
         threading.Event().wait()",
    );
    drop(child.stdin.take());
    assert_eq!(state_of_zombie(&child), ExitState::Exited);
    child.wait().unwrap();
}

#[test]
fn a_pending_signal_that_kills_counts_as_fatal_and_a_harmless_one_does_not() {
    assert!(!has_fatal_signal_pending(std::process::id()));
    assert!(
        has_fatal_signal_pending(u32::MAX),
        "a thread that has ended waits for nothing"
    );
    // A signal to a stopped process stays pending.
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let signal = |name: &str| {
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    signal("STOP");
    wait_until("it is stopped", || {
        Status::of(child.id()).and_then(|status| status.state()) == Some(b'T')
    });
    signal("WINCH");
    assert!(!has_fatal_signal_pending(child.id()));
    signal("TERM");
    assert!(has_fatal_signal_pending(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_process_of_a_thread_is_found() {
    let tid =
        std::thread::spawn(|| process_of(rustix::thread::gettid().as_raw_nonzero().get() as u32));
    assert_eq!(tid.join().unwrap(), Some(std::process::id()));
    assert_eq!(process_of(0), None);
    assert_eq!(process_of(u32::MAX), None);
}

/// Runs this one test in a new mount namespace that `script` prepares.
fn rerun_in_namespace(test: &str, script: &str) {
    let me = std::env::current_exe().unwrap();
    let script = format!("{script}\nexec \"$0\" --exact \"process::tests::{test}\" --nocapture");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--fork", "bash", "-ec", &script])
        .arg(me);
    command.env("SIMPLETUNER_LIVE_INSIDE", "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{said}{printed}"
    );
}

fn is_inside() -> bool {
    std::env::var_os("SIMPLETUNER_LIVE_INSIDE").is_some()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn without_proc_every_process_counts_as_hidden_and_none_as_gone() {
    if !is_inside() {
        if is_root() {
            assert!(sees_callers());
            let script = "mount -t tmpfs none /proc";
            rerun_in_namespace(
                "without_proc_every_process_counts_as_hidden_and_none_as_gone",
                script,
            );
        }
        return;
    }
    let me = std::process::id();
    assert!(!sees_callers());
    assert_eq!(process_of(me), None);
    assert_eq!(exit_state(me), ExitState::Hidden);
    assert!(is_alive(me) && !has_ended(me));
    assert!(has_writable_descriptor(me, [1, 2]));
    assert!(!has_fatal_signal_pending(me));
    assert_eq!(exit_state(u32::MAX), ExitState::Gone);
}

#[test]
fn the_proc_of_another_pid_namespace_does_not_show_the_callers() {
    if !is_root() {
        return;
    }
    if !is_inside() {
        let me = "the_proc_of_another_pid_namespace_does_not_show_the_callers";
        // The new pid namespace keeps the outer namespace's `/proc`.
        let script = format!("exec unshare --pid --fork \"$0\" --exact process::tests::{me}");
        return rerun_in_namespace(me, &script);
    }
    assert!(!sees_callers());
}

#[test]
fn with_hidepid_a_user_sees_their_own_processes_and_others_are_hidden() {
    if !is_inside() {
        if is_root() {
            // The other user may be unable to reach the build folder, so they run a copy.
            let script = "mount -t proc -o hidepid=2 proc /proc\n\
                copy=$(mktemp /tmp/simpletuner-live.XXXXXX); trap 'rm -f $copy' EXIT\n\
                cp \"$0\" $copy; chmod 755 $copy\n\
                setpriv --reuid 4242 --regid 4242 --clear-groups $copy --exact \
                process::tests::with_hidepid_a_user_sees_their_own_processes_and_others_are_hidden --nocapture\n\
                exit";
            rerun_in_namespace("none", script);
        }
        return;
    }
    assert!(sees_callers());
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(process_of(child.id()), Some(child.id()));
    assert_eq!(exit_state(child.id()), ExitState::Running);
    child.kill().unwrap();
    assert_eq!(state_of_zombie(&child), ExitState::Killed);
    child.wait().unwrap();
    // Process 1 belongs to another user.
    assert_eq!(process_of(1), None);
    assert_eq!(exit_state(1), ExitState::Hidden);
    assert!(is_alive(1) && !has_ended(1));
    assert!(has_writable_descriptor(1, [1, 2]));
}

#[test]
fn a_process_keeps_its_start_time_when_it_executes_another_program() {
    let mut command = Command::new("bash");
    command.args(["-c", "read; exec cat"]).process_group(0);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let began = started_at(child.id());
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go\nshown\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "shown\n");
    assert_eq!(name_of(child.id()).as_deref(), Some("cat"));
    assert_eq!(started_at(child.id()), began);
    drop(input);
    child.wait().unwrap();
}
