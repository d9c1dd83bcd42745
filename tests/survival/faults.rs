//! Servers that hang or cannot start, and requests on which every server crashes.

use super::*;

#[test]
fn a_stopped_server_is_replaced_after_its_timeout() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        files: vec![(".simpletuner/live.yaml", "timeout: {server: 1}\n")],
        ..Setup::default()
    });
    live.write("secrets/A", "value");
    let server = live.server_pid();
    signal("STOP", server);
    assert_eq!(live.read("secrets/A"), "value");
    assert_ne!(live.server_pid(), server);
    let restarts = live.json("status")["restarts"].clone();
    assert_eq!(restarts[0]["reason"], "it gave no sign of life");
}

#[test]
fn the_next_server_answers_the_requests_of_a_stopped_one() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        files: vec![(".simpletuner/live.yaml", "timeout: {server: 1}\n")],
        ..Setup::default()
    });
    live.write("secrets/K", "here");
    let stopped = live.server_pid();
    let script = "until [ -e stop ]; do cat $LIVE/secrets/K || exit; done";
    let reader = spawn_outside(&live, script);
    signal("STOP", stopped);
    log_with(&live.home("daemon.log"), "no sign of life");
    assert_eq!(live.read("secrets/K"), "here");
    assert_ne!(live.server_pid(), stopped);
    fs::write(live.home("stop"), "").unwrap();
    assert_eq!(done(reader).replace("here", ""), "");
}

/// The commit waits for the lock of the secrets file; there SIGABRT ends the server as a crash would.
#[test]
fn a_write_on_which_two_servers_crash_fails_and_everything_else_keeps_working() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/A", "old");
    let lock = File::open(live.home(".simpletuner/secrets.json.lock")).unwrap();
    lock.lock().unwrap();
    // Shells ignore the result of close; dd reports it.
    let mut writer = spawn(&live, "printf new | dd of=secrets/A status=none");
    // A server may have the lock's file open before it works on the request; such a crash does not count.
    for _ in 0..20 {
        let server = live.server_pid();
        wait_until(
            "the server waits for the lock, or the writer has failed",
            || {
                let open = fs::read_dir(format!("/proc/{server}/fd")).unwrap();
                let mut open = open
                    .flatten()
                    .filter_map(|fd| fs::read_link(fd.path()).ok());
                open.any(|path| path.ends_with("secrets.json.lock"))
                    || writer.try_wait().unwrap().is_some()
            },
        );
        if writer.try_wait().unwrap().is_some() {
            break;
        }
        signal("ABRT", server);
        wait_until("another server answers", || live.server_pid() != server);
    }
    wait_until("the writer has failed", || {
        writer.try_wait().unwrap().is_some()
    });
    let output = writer.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Input/output error"), "{said}");
    lock.unlock().unwrap();
    // The failed write is not retried later: a retry would be committed before this write.
    live.write("secrets/B", "other");
    assert_eq!(live.read("secrets/A"), "old");
    live.write("secrets/A", "newer");
    assert_eq!(live.read("secrets/A"), "newer");
    let restarts = live.json("status")["restarts"].clone();
    let reasons: Vec<_> = restarts.as_array().unwrap().iter().collect();
    assert!(reasons.len() >= 2);
    assert!(reasons.iter().all(|restart| restart["reason"] == "SIGABRT"));
}

/// While the log's name leads into the mount, no server can begin.
fn let_no_server_begin(live: &Live) -> std::path::PathBuf {
    let log = live.home(".simpletuner/live.log");
    std::os::unix::fs::symlink("live/status", &log).unwrap();
    log
}

#[test]
fn the_keeper_starts_servers_until_one_succeeds() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/A", "value");
    let server = live.server_pid();
    let link = let_no_server_begin(&live);
    signal("KILL", server);
    let reader = spawn_outside(&live, "cat $LIVE/secrets/A");
    wait_until("several servers have failed", || {
        let log = fs::read_to_string(live.home("daemon.log")).unwrap();
        log.matches("leads into the mount at").count() > 6
    });
    fs::remove_file(link).unwrap();
    assert_eq!(done(reader), "value");
    let restarts = live.json("status")["restarts"].clone();
    let last = restarts.as_array().unwrap().last().unwrap();
    assert!(
        last["reason"].as_str().unwrap().contains("live.log"),
        "{last}"
    );
}

#[test]
fn after_a_minute_without_a_server_readers_fail_and_the_mount_ends() {
    let live = Live::start();
    let server = live.server_pid();
    let_no_server_begin(&live);
    signal("KILL", server);
    let mut reader = spawn_outside(&live, "cat $LIVE/secrets/A");
    let begun = Instant::now();
    while reader.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "cat hangs");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = reader.wait_with_output().unwrap();
    assert!(!output.status.success());
    wait_until("the mount is unmounted", || !is_mounted(&live.path("")));
    log_with(
        &live.home("daemon.log"),
        "no server could be started for a minute",
    );
}

#[test]
fn a_lazy_umount_detaches_a_mount_in_use_which_ends_with_its_last_open_file() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/A", "value");
    let mut open = File::open(live.path("secrets/A")).unwrap();
    let pids = [live.keeper_pid(), live.server_pid()];
    let umount = live.cli().args(["umount", "--lazy"]).output().unwrap();
    assert!(umount.status.success());
    let said = String::from_utf8_lossy(&umount.stderr).into_owned();
    assert!(
        support::home::named_or_cut_off(&said, "was in use"),
        "{said}"
    );
    assert!(!is_mounted(&live.path("")));
    // The keeper replaces a killed server even now.
    signal("KILL", pids[1]);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "value");
    drop(open);
    for pid in pids {
        support::home::wait_for_the_end(pid);
    }
}
