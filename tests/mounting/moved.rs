//! `~/.simpletuner` that is moved away under a mount.

use super::*;
use std::fs;

use support::home::signal;
use support::user::LIVE;
use support::wait_until;

#[test]
fn a_folder_that_is_moved_away_is_not_made_anew_and_works_again_when_it_is_back() {
    for user in users() {
        user.run(&["mount"]).done();
        user.set_secret(&user.live(""));
        let away = user.path("away/live");
        let away = away.to_str().unwrap();
        user.mounts.borrow_mut().push(user.path("away/live"));
        user.sh("mv .simpletuner away");
        let write = |value: &str| {
            user.try_sh(&format!(
                "printf {value} | dd status=none of='{away}/secrets/NEW'"
            ))
        };
        for round in 0..3 {
            // Neither this server nor the next one makes anything, and the values that are held stay readable.
            assert_ne!(write("lost").code, 0, "{round}");
            wait_until("the provider says so", || {
                user.sh(&format!("cat '{away}/providers/file'"))
                    .contains("was moved away or removed; move it back")
            });
            if round < 2 {
                assert_eq!(user.sh(&format!("cat '{away}/secrets/K'")), "v", "{round}");
                assert!(!user.path(".simpletuner").exists(), "{round}");
            }
            match round {
                0 => {
                    let [keeper, server] = user.pids(away);
                    signal("KILL", server);
                    wait_until("another server", || user.pids(away)[1] != server);
                    signal("KILL", keeper);
                    wait_until("another keeper", || {
                        ![0, keeper].contains(&user.pids(away)[0])
                    });
                    // A new server has read nothing.
                    user.sh("mv away .simpletuner");
                    wait_until("it is back", || {
                        user.try_sh(&format!("cat {LIVE}/secrets/K")).out == "v"
                    });
                    user.sh("mv .simpletuner away");
                }
                // Another folder in its place is not this one.
                1 => user.sh("mkdir -m 700 .simpletuner").clear(),
                _ => {}
            }
        }
        let status = user.run(&["status", away]);
        assert!(status.out.contains("was moved away"), "{}", status.out);
        user.try_sh(&format!("printf x > '{away}/secrets/odd!name'"));
        let log = || fs::read_to_string(user.path("away/live.log")).unwrap();
        wait_until("it is logged where the log is now", || {
            log().contains("odd!name")
        });
        assert!(log().contains("was moved away"), "{}", log());
        assert_eq!(user.sh("ls -A .simpletuner"), "");
        user.sh("rmdir .simpletuner && mv away .simpletuner");
        let mut why = String::new();
        wait_until("it can be written again", || {
            let written = user.try_sh(&format!("printf new > {LIVE}/secrets/NEW"));
            if written.err != why {
                why = written.err;
                eprint!("{why}");
            }
            written.code == 0
        });
        assert_eq!(
            user.sh(&format!("cat {LIVE}/secrets/K {LIVE}/secrets/NEW")),
            "vnew"
        );
        user.run(&["umount"]).done();
    }
}

#[test]
fn no_command_begins_anew_in_the_place_of_a_folder_that_was_moved_away_under_a_mount() {
    for user in users() {
        user.run(&["mount"]).done();
        user.set_secret(&user.live(""));
        user.mounts.borrow_mut().push(user.path("away/live"));
        user.sh("mv .simpletuner away");
        for command in [
            &["set", "NEW", "value"][..],
            &["get", "K"],
            &["rm", "K"],
            &["ls"],
            &["undo", "K", "--yes"],
            &["encrypt-file"],
            &["mount"],
        ] {
            let said = user.run(command);
            assert_eq!(said.code, 1, "{}", said.err);
            assert!(
                said.err.contains("because a folder was renamed") && said.err.contains("umount"),
                "{}",
                said.err
            );
        }
        assert!(!user.path(".simpletuner").exists());
        user.sh("mv away .simpletuner");
        assert_eq!(user.run(&["get", "K"]).done(), "v");
        user.run(&["umount"]).done();
    }
}
