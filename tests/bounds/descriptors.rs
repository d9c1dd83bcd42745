//! The limit of open files (RLIMIT_NOFILE).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::home::{CommandOutput, ran, signal, wait_for_the_end};
use super::support::user::{LIVE, User};
use super::support::wait_until;
use super::users;

/// How many descriptors a daemon keeps (`src/files/reserve.rs`).
const RESERVE: usize = 28;

/// The program with these limits of open files, the soft one and the hard one.
fn limited(user: &User, soft: u32, hard: u32, args: &[&str]) -> CommandOutput {
    let cli = user.cli(args);
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={soft}:{hard}"))
        .arg(cli.get_program());
    command
        .args(cli.get_args())
        .current_dir(cli.get_current_dir().unwrap());
    command.env_clear();
    for (name, value) in cli.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    ran(&mut command)
}

/// The limit that leaves a process what it has open now, and no more.
fn used(pid: u32) -> u32 {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.max().unwrap_or(0u32) + 1
}

/// Whether all descriptors that it keeps are there, and none is in use.
fn has_reserve(pid: u32) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let is_kept = |number: &str| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        // O_PATH and O_CLOEXEC.
        info.is_ok_and(|info| info.contains("flags:\t012000000"))
    };
    let kept = open.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|path| path == Path::new("/dev/null"))
            && entry.file_name().to_str().is_some_and(is_kept)
    });
    kept.count() == RESERVE
}

fn wait_for_the_reserve(pid: u32) {
    wait_until("its reserve is whole", || has_reserve(pid));
}

fn limit(user: &User, pid: u32, limit: u32) {
    user.sh(&format!("prlimit --pid {pid} --nofile={limit}:96"));
}

/// Opens 300 files to write, writes and closes them; prints how many were opened, and how many of these were stored.
const WRITE: &str = r#"
import os
fds = []
for n in range(300):
    try: fds.append(os.open(f"secrets/W{n}", os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError: pass
stored = 0
for fd in fds:
    os.write(fd, b"v"); os.close(fd); stored += 1
print(len(fds), stored)
"#;

fn write_300(user: &User) -> String {
    let script = format!("cd {} && timeout 300 python3 -c '{WRITE}'", LIVE);
    user.sh(&script)
}

#[test]
fn a_soft_limit_is_raised_and_a_mount_with_too_few_descriptors_says_what_to_do() {
    for user in users() {
        let said = limited(&user, 24, 24, &["mount"]).failed();
        assert!(said.contains("limit of open files is 24"), "{said}");
        assert!(
            said.contains("ulimit -n") && said.contains("LimitNOFILE"),
            "{said}"
        );

        limited(&user, 24, 96, &["mount"]).done();
        assert_eq!(write_300(&user), "300 300\n");
        let [keeper, server] = user.pids(LIVE);
        for pid in [server, keeper] {
            signal("KILL", pid);
            wait_for_the_end(pid);
            assert_eq!(user.sh(&format!("cat {}/secrets/W5", LIVE)), "v");
            wait_until("it is replaced", || !user.pids(LIVE).contains(&pid));
        }
        assert_eq!(write_300(&user), "300 300\n");
        user.run(&["upgrade"]).done();
        assert_eq!(write_300(&user), "300 300\n");
        user.run(&["umount"]).done();
    }
}

#[test]
fn a_server_without_descriptors_refuses_writers_and_stores_what_is_open_and_is_replaced() {
    for user in users() {
        limited(&user, 96, 96, &["mount"]).done();
        let live = LIVE;
        user.set_secret(live);
        let pids = user.pids(live);
        let [keeper, server] = pids;
        let read = || user.sh(&format!("cat {live}/secrets/K"));
        let mut writer = user.hold(&format!("exec 3> {live}/secrets/OPEN; printf o >&3"));
        pids.into_iter().for_each(wait_for_the_reserve);
        limit(&user, keeper, used(keeper));
        let mut left = used(server);
        wait_until("writers are refused", || {
            // While a thread uses the reserve, writers are not refused.
            if has_reserve(server) {
                limit(&user, server, left);
                left -= 1;
            }
            let mut more = user.command("bash");
            let more = ran(more.args(["-c", &format!("echo more > {live}/secrets/MORE")]));
            more.err.contains("Too many open files in system")
        });
        assert_eq!(read(), "v");
        drop(writer.stdin.take());
        assert!(writer.wait().unwrap().success());
        let stored = user.sh(&format!(
            "cat {live}/secrets/OPEN 2>&1 || cat .simpletuner/live.log"
        ));
        assert_eq!(stored, "o");
        assert_eq!(user.pids(live), pids, "neither has ended");
        // What is kept is enough for another process, in the place of each.
        for pid in [keeper, server] {
            let before = user.pids(live);
            signal("KILL", pid);
            wait_for_the_end(pid);
            assert_eq!(read(), "v");
            wait_until("it is replaced", || user.pids(live) != before);
        }
        user.run(&["umount"]).done();
        let log = fs::read_to_string(user.path(".simpletuner/live.log")).unwrap();
        assert!(!log.contains("exit code"), "{log}");
        assert!(
            log.contains("no descriptors left for another writer"),
            "{log}"
        );
    }
}
