//! Commands that mount, all at once, and killed at any moment.

use super::*;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use support::home::{has_ended, is_mounted, signal};
use support::user::LIVE;
use support::wait_until;

#[test]
fn twenty_mounts_at_once_are_one_mount_and_all_succeed() {
    for user in users() {
        user.mounts.borrow_mut().push(user.path(LIVE));
        let program = user.scratch.path("program").display().to_string();
        let all = format!(
            "for i in $(seq 20); do '{program}' mount > out$i 2>&1 & pids=\"$pids $!\"; done
            for pid in $pids; do wait $pid || {{ cat out*; exit 1; }}; done"
        );
        user.sh(&all);
        assert_eq!(mounts_below(user.scratch.0.path()), [user.path(LIVE)]);
        assert!(!user.sh("cat out*").contains("warning"));
        user.set_secret(&user.live(""));
        // Over a dead mount as well.
        let pids = user.pids(&user.live(""));
        for pid in pids {
            signal("STOP", pid);
        }
        for pid in pids {
            signal("KILL", pid);
        }
        wait_until("both have ended", || pids.into_iter().all(has_ended));
        user.sh(&all);
        assert_eq!(mounts_below(user.scratch.0.path()), [user.path(LIVE)]);
        assert_eq!(user.sh(&format!("cat {LIVE}/secrets/K")), "v");
        user.run(&["umount"]).done();
        assert!(!is_mounted_below(user.scratch.0.path()));
    }
}

#[test]
fn a_mount_that_is_killed_while_it_starts_is_whole_or_not_there() {
    for user in users() {
        let home = user.path("");
        let home = home.to_str().unwrap().trim_end_matches('/');
        let (home, place) = (Path::new(home), user.path(LIVE));
        let answers = || user.try_sh(&format!("cat {LIVE}/status")).code == 0;
        // Either it answers, or nothing is left of it.
        let is_settled = || match is_mounted(&place) {
            true => answers(),
            false => daemons_in(home).is_empty(),
        };
        for step in 0..24 {
            let (name, victim) =
                [("KILL", "command"), ("INT", "command"), ("KILL", "keeper")][step % 3];
            let mut command = user.cli(&["mount"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(step as u64 / 3 * 25));
            match victim {
                "command" => signal(name, command.id()),
                _ => {
                    for pid in daemons_in(home) {
                        let arguments =
                            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                        let is_keeper =
                            String::from_utf8_lossy(&arguments).contains("background-keeper");
                        if is_keeper && !has_ended(pid) {
                            let _ = Command::new("kill")
                                .args(["-KILL", &pid.to_string()])
                                .output();
                        }
                    }
                }
            }
            let code = command.wait().unwrap().code();
            wait_until("the mount is whole or gone", is_settled);
            if victim == "keeper" {
                // The keeper may have reported the mount just before it was killed.
                let log = user.try_sh("tail -n 30 ~/.simpletuner/live.log").out;
                assert!(code == Some(0) || !is_mounted(&place), "{step}: {log}");
            }
            // A keeper whose command has ended may be unmounting just now.
            if is_mounted(&place) {
                user.run(&["umount"]);
            }
            wait_until("nothing is left", || {
                !is_mounted(&place) && daemons_in(home).is_empty()
            });
        }
    }
}

/// The keeper of a command that was killed unmounts. A command beside it must not have taken that mount for one that stays.
#[test]
fn a_mount_beside_that_of_a_killed_command_mounts_by_itself() {
    for user in users() {
        let place = user.path(LIVE);
        user.sh("mkdir -p .simpletuner");
        // Its report has no room, so the keeper is at it until the reader is gone.
        let (reader, writer) = full_pipe();
        let mut keeper = user.cli(&["mount", "--foreground", "--part", "background-keeper"]);
        let mut keeper = keeper.stdout(writer).spawn().unwrap();
        wait_until("it is mounted", || is_mounted(&place));
        let mut beside = user.cli(&["mount"]).stderr(Stdio::piped()).spawn().unwrap();
        let home = user.path("");
        let home = Path::new(home.to_str().unwrap().trim_end_matches('/'));
        // The first keeper, its server, and the second keeper.
        wait_until("the other command has looked", || {
            daemons_in(home).len() >= 3 || beside.try_wait().unwrap().is_some()
        });
        drop(reader);
        let beside = beside.wait_with_output().unwrap();
        let said = String::from_utf8(beside.stderr).unwrap();
        assert!(beside.status.success(), "{said}");
        keeper.wait().unwrap();
        assert!(is_mounted(&place), "{said}");
        user.sh(&format!("cat {LIVE}/status"));
        assert!(!said.contains("already"), "{said}");
        user.run(&["umount"]).done();
    }
}

/// A pipe that takes no byte more.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// The limit counts all processes and threads of a user: this one has no others.
#[test]
fn a_user_at_the_limit_of_processes_gets_an_error_and_no_panic() {
    if !is_root() {
        return;
    }
    const USER: u32 = 61_234;
    let home = Home::new();
    home.sh(&format!(
        "chmod 755 .; install -m 755 '{BINARY}' program; install -d -o {USER} -g {USER} home"
    ));
    let run = |limit: u32, args: &[&str]| {
        let mut command = home.command("setpriv");
        let user = USER.to_string();
        command
            .args([
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
                "prlimit",
            ])
            .arg(format!("--nproc={limit}:{limit}"))
            .arg(home.path("program"))
            .args(args)
            .env("HOME", home.path("home"));
        ran(&mut command)
    };
    for limit in (1..16).chain([20, 30, 100]) {
        let mounted = run(limit, &["mount"]);
        let place = home.path("home").join(LIVE);
        assert!([0, 1].contains(&mounted.code), "{limit}: {}", mounted.err);
        assert_eq!(
            mounted.code == 0,
            is_mounted(&place),
            "{limit}: {}",
            mounted.err
        );
        if mounted.code == 1 {
            assert!(mounted.err.contains("error: "), "{limit}: {}", mounted.err);
        }
        let log = std::fs::read_to_string(home.path("home/.simpletuner/live.log"));
        assert!(!log.unwrap_or_default().contains("panicked"), "{limit}");
        for args in [&["ls"][..], &["status"], &["get", "K"]] {
            let code = run(limit, args).code;
            assert!([0, 1, 4].contains(&code), "{limit} {args:?}: {code}");
        }
        if is_mounted(&place) {
            run(100, &["umount"]).done();
        }
        wait_until("it has ended", || daemons_in(&home.path("home")).is_empty());
    }
}

#[test]
fn an_upgrade_beside_an_umount_says_that_the_mount_has_ended() {
    for user in users() {
        user.run(&["mount"]).done();
        let pids = user.pids(&user.live(""));
        let keeper = pids[0];
        signal("STOP", keeper);
        let mut upgrade = user.cli(&["upgrade", "--force"]);
        let upgrade = upgrade
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the keeper has its signal", || {
            let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
            // SIGUSR1 is 10.
            let mut lines = status.lines();
            lines.any(|line| line.starts_with("ShdPnd") && line.ends_with("200"))
        });
        let umount = match user.is_root() {
            true => ran(Command::new("umount").arg("-l").arg(user.path(LIVE))),
            false => ran(user.command("fusermount3").arg("-uz").arg(user.path(LIVE))),
        };
        umount.done();
        let said = String::from_utf8(upgrade.wait_with_output().unwrap().stderr).unwrap();
        assert!(sentence(&said).contains("has ended meanwhile"), "{said}");
        signal("CONT", keeper);
        wait_until("both have ended", || pids.into_iter().all(has_ended));
    }
}
