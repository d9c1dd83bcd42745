//! The life of a mount, with the real program: mounting, unmounting, dead mounts, and several mounts of one store.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::alone;
use support::home::{
    BINARY, Home, exit_code, has_ended, is_mounted, is_root, mounts_below, ran, signal,
    wait_for_the_end,
};
use support::wait_until;

#[test]
fn mount_returns_when_it_answers() {
    let home = Home::new();
    let mounted = home.run(&["mount"]);
    let status = fs::read(home.live("status"));
    let place = home.live("").display().to_string();
    let place = place.trim_end_matches('/');
    assert_eq!((mounted.code, mounted.out), (0, format!("{place}\n")));
    assert!(status.is_ok(), "{status:?}");
    assert_eq!(
        mounted.err, "",
        "no terminal is there to show a suggestion at"
    );
}

#[test]
fn mounting_twice_says_so_and_changes_nothing() {
    let home = Home::new();
    home.run(&["mount"]).done();
    let server = home.server(&home.live(""));
    let again = home.run(&["mount"]);
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(again.err.contains("mounted already"), "{}", again.err);
    assert!(again.out.contains(".simpletuner/live"), "{}", again.out);
    assert_eq!(home.server(&home.live("")), server);
    assert_eq!(mounts_below(home.0.path()).len(), 1);
}

#[test]
fn umount_ends_the_daemon_and_a_second_umount_says_that_nothing_is_mounted() {
    let home = Home::new();
    home.run(&["mount"]).done();
    let server = home.server(&home.live(""));
    assert_eq!(home.run(&["umount"]).done(), "");
    assert!(!is_mounted(&home.live("")));
    assert!(has_ended(server));
    assert_eq!(fs::read_dir(home.live("")).unwrap().count(), 0);
    let again = home.run(&["umount"]).failed();
    assert!(again.contains("nothing is mounted"), "{again}");
}

#[test]
fn sigterm_and_sigint_unmount() {
    for name in ["TERM", "INT"] {
        let home = Home::new();
        let daemon = home.foreground();
        signal(name, daemon.id());
        assert_eq!(exit_code(daemon), Some(0), "SIG{name}");
        assert!(!is_mounted(&home.live("")), "SIG{name}");

        home.run(&["mount"]).done();
        let server = home.server(&home.live(""));
        signal(name, server);
        wait_for_the_end(server);
        assert!(!is_mounted(&home.live("")), "SIG{name} in the background");
    }
}

#[test]
fn a_foreground_mount_ends_with_its_terminal() {
    let home = Home::new();
    // The child has a terminal of its own, which hangs up when its other end is closed.
    let program = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], 'mount', '--foreground'])
while not os.path.exists(os.path.expanduser('~/.simpletuner/live/status')):
    time.sleep(0.01)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let mut python = home.command("python3");
    let ended = support::home::ran(python.args(["-c", program, support::home::BINARY])).done();
    assert_eq!(ended, "0\n");
    assert!(!is_mounted(&home.live("")));
}

#[test]
fn a_dead_mount_is_cleaned_up_by_the_next_mount_and_by_umount() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("echo kept > ~/.simpletuner/live/secrets/K");
    let kill = || {
        home.kill(&home.live(""));
        assert!(is_mounted(&home.live("")));
        let error = fs::read(home.live("status")).unwrap_err();
        // ECONNABORTED if the request was sent just before the kernel noticed the end.
        let error = error.raw_os_error();
        assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED)));
    };
    kill();
    home.run(&["mount"]).done();
    assert_eq!(mounts_below(home.0.path()).len(), 1);
    assert_eq!(home.sh("cat ~/.simpletuner/live/secrets/K"), "kept\n");
    kill();
    // A command that needs no mount works beside a dead one, and says how to clean it up.
    let get = home.run(&["get", "K"]);
    assert!(get.err.contains("simpletuner-live mount"), "{}", get.err);
    assert_eq!(get.done(), "kept");
    home.run(&["umount"]).done();
    assert!(!is_mounted(&home.live("")));
}

#[test]
fn a_lazy_umount_detaches_the_mount_and_an_open_file_stays_readable() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("echo open > ~/.simpletuner/live/secrets/K");
    let server = home.server(&home.live(""));
    let mut open = File::open(home.live("secrets/K")).unwrap();
    home.run(&["umount", "--lazy"]).done();
    assert!(!is_mounted(&home.live("")));
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "open\n");
    drop(open);
    wait_for_the_end(server);
}

#[test]
fn a_signal_ends_the_daemon_even_while_a_file_is_open() {
    let home = Home::new();
    let daemon = home.foreground();
    home.sh("echo open > ~/.simpletuner/live/secrets/K");
    let open = File::open(home.live("secrets/K")).unwrap();
    signal("TERM", daemon.id());
    assert_eq!(exit_code(daemon), Some(0));
    assert!(!is_mounted(&home.live("")));
    drop(open);
}

#[test]
fn every_write_closed_before_the_signal_is_on_disk() {
    let _alone = alone();
    let home = Home::new();
    for round in 1..=5 {
        let daemon = home.foreground();
        home.sh(&format!(
            "cd ~/.simpletuner/live/secrets; for i in {{1..20}}; do echo {round}.$i > K$i; done; kill {}",
            daemon.id()
        ));
        assert_eq!(exit_code(daemon), Some(0));
        home.run(&["mount"]).done();
        for key in 1..=20 {
            let value = fs::read_to_string(home.live(&format!("secrets/K{key}"))).unwrap();
            assert_eq!(value, format!("{round}.{key}\n"));
        }
        home.run(&["umount"]).done();
    }
}

#[test]
fn mount_refuses_a_folder_that_is_not_empty() {
    let home = Home::new();
    home.write("full/file", "mine");
    let said = home.run(&["mount", "full"]).failed();
    assert!(said.contains("not empty"), "{said}");
    assert!(said.contains("full"), "{said}");
    assert!(!is_mounted(&home.path("full")));
    assert_eq!(fs::read_to_string(home.path("full/file")).unwrap(), "mine");
}

#[test]
fn mount_and_umount_leave_other_filesystems_alone() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    fs::create_dir(home.path("other")).unwrap();
    home.sh("mount -t tmpfs tmpfs other");
    let mount = home.run(&["mount", "other"]).failed();
    assert!(mount.contains("tmpfs"), "{mount}");
    let umount = home.run(&["umount", "other"]).failed();
    assert!(umount.contains("tmpfs"), "{umount}");
    assert_eq!(mounts_below(home.0.path()).len(), 1);
    home.sh("umount other");
}

/// Two mounts of one store, `a` and `b`: once with the epoch, and once without it.
fn two_mounts() -> [Home; 2] {
    [false, true].map(|has_no_epoch| {
        let home = Home::new();
        for place in ["a", "b"] {
            let mut mount = home.command(BINARY);
            mount.args(["mount", place]);
            if has_no_epoch {
                mount.env("SIMPLETUNER_LIVE_NO_EPOCH", "1");
            }
            ran(&mut mount).done();
        }
        home
    })
}

/// A write through one mount shows in the other: to open, to `stat` and to `ls`.
const AGREE: &str = r#"agree() {
    for i in $(seq $1); do
        echo a$i > a/secrets/SHARED; [ "$(<b/secrets/SHARED)" = a$i ] || return 1
        echo longer b$i > b/secrets/SHARED; [ "$(<a/secrets/SHARED)" = "longer b$i" ] || return 2
        echo $i$i$i > a/secrets/SHARED; [ $(stat -c %s b/secrets/SHARED) = $(stat -c %s a/secrets/SHARED) ] || return 3
        echo $i > b/secrets/N$i; ls a/secrets | grep -qx N$i || return 4
        mv a/secrets/N$i a/secrets/M; [ ! -e b/secrets/N$i ] && [ "$(<b/secrets/M)" = $i ] || return 5
        rm b/secrets/M; ls a/secrets | grep -qx M && return 6
        rm a/secrets/SHARED; [ ! -e b/secrets/SHARED ] || return 7
    done
}"#;

#[test]
fn two_mounts_of_one_store_agree_at_once_and_lose_no_write() {
    let _alone = alone();
    two_mounts().iter().for_each(agree_and_lose_nothing);
}

fn agree_and_lose_nothing(home: &Home) {
    home.sh(&format!("{AGREE}; agree 50"));
    home.sh(
        "for i in {1..100}; do echo $i > a/secrets/A$i; done & first=$!
        for i in {1..100}; do echo $i > b/secrets/B$i; done; wait $first",
    );
    for side in ["a", "b"] {
        let all = home.sh(&format!(
            "cd {side}/secrets; for i in {{1..100}}; do
                [ \"$(<A$i)\" = $i ] && [ \"$(<B$i)\" = $i ] || exit 1
            done; ls | wc -l"
        ));
        assert_eq!(all.trim(), "200", "{side}");
    }
    assert_eq!(home.run(&["ls"]).done().lines().count(), 200);
}

#[test]
fn a_write_past_two_mounts_by_the_command_line_shows_in_both() {
    let _alone = alone();
    for home in two_mounts() {
        for round in 0..10 {
            let value = format!("{round}");
            let both = |has: &str| {
                let shows = format!(
                    "for m in a b; do [ \"$(cat $m/secrets/K 2>&1)\" {has} ] || exit 1; done"
                );
                home.sh(&shows);
            };
            home.run_with(&value, &["set", "K", "--no-mount"]).done();
            both(&format!("= {value}"));
            home.run(&["rm", "K", "--no-mount"]).done();
            home.sh("ls a/secrets/K b/secrets/K 2> /dev/null && exit 1; true");
        }
    }
}

#[test]
fn a_hung_mount_delays_another_mounts_writes_once_and_a_dead_one_never() {
    let _alone = alone();
    for home in two_mounts() {
        home.sh(&format!("{AGREE}; agree 1"));
        let status: Value =
            serde_json::from_slice(&fs::read(home.path("b/status")).unwrap()).unwrap();
        let pids = ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32);
        pids.iter().for_each(|pid| signal("STOP", *pid));
        // Writes that each wait for a second would take longer.
        let write = "for i in {1..90}; do echo $i > a/secrets/K; done";
        let began = Instant::now();
        home.sh(write);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(80), "{took:?}");
        pids.iter().for_each(|pid| signal("CONT", *pid));
        wait_until("the continued mount has caught up", || {
            fs::read_to_string(home.path("b/secrets/K")).is_ok_and(|value| value == "90\n")
        });
        home.sh(&format!("{AGREE}; agree 5"));
        home.kill(&home.path("b"));
        let began = Instant::now();
        home.sh(write);
        assert!(began.elapsed() < Duration::from_secs(80));
        assert_eq!(home.sh("cat a/secrets/K"), "90\n");
    }
}

#[test]
fn two_mounts_agree_after_their_peers_file_was_damaged_or_removed() {
    let _alone = alone();
    for home in two_mounts() {
        home.sh(&format!("{AGREE}; agree 1"));
        let peers = home.path(".simpletuner/secrets.json.peers");
        for damage in [&[b'x'; 40][..], b"", &[0xff; 32]] {
            fs::write(&peers, damage).unwrap();
            home.sh(&format!("{AGREE}; agree 5"));
        }
        fs::remove_file(&peers).unwrap();
        wait_until("the peers file is made again", || peers.exists());
        // A mount that shows the write has joined the new peers file before.
        home.sh("echo > a/secrets/K");
        wait_until("b shows it", || home.path("b/secrets/K").exists());
        home.sh("rm b/secrets/K");
        wait_until("a shows the removal", || !home.path("a/secrets/K").exists());
        home.sh(&format!("{AGREE}; agree 5"));
    }
}

#[test]
fn the_command_line_and_the_mount_agree_at_once() {
    let _alone = alone();
    let home = Home::new();
    home.run(&["mount"]).done();
    for (round, flags) in [&[][..], &["--no-mount"]].into_iter().enumerate() {
        let with = |args: &[&'static str]| [args, flags].concat();
        let (one, two) = (format!("one{round}"), format!("two, longer {round}"));
        home.run_with(&one, &with(&["set", "K"])).done();
        assert_eq!(home.sh("cat ~/.simpletuner/live/secrets/K"), one);
        home.sh(&format!("echo '{two}' > ~/.simpletuner/live/secrets/K"));
        assert_eq!(home.run(&with(&["get", "K"])).done().trim_end(), two);
        assert_eq!(home.run(&with(&["ls"])).done(), "K\n");
        home.run(&with(&["rm", "K"])).done();
        assert_eq!(home.sh("ls ~/.simpletuner/live/secrets"), "");
        assert_eq!(home.run(&with(&["get", "K"])).code, 4);
        assert_eq!(home.run(&with(&["rm", "K"])).code, 4);
        assert_eq!(home.run(&with(&["ls"])).done(), "");
    }
}

#[test]
fn an_edit_by_another_program_shows_and_makes_an_event() {
    let _alone = alone();
    let home = Home::new();
    home.write(".simpletuner/secrets.json", r#"{"K": "old", "GOES": "1"}"#);
    home.run(&["mount"]).done();
    assert_eq!(fs::read_to_string(home.live("secrets/K")).unwrap(), "old");
    // Programs write the file in place, or rename another file over it.
    home.write(
        ".simpletuner/secrets.json",
        r#"{"K": "edited", "NEW": "2"}"#,
    );
    let reads = |value: &str| fs::read_to_string(home.live("secrets/K")).unwrap() == value;
    wait_until("the edit shows", || reads("edited"));
    assert_eq!(fs::read_to_string(home.live("secrets/NEW")).unwrap(), "2");
    assert!(!home.live("secrets/GOES").exists());
    home.write("beside", r#"{"K": "renamed"}"#);
    fs::rename(home.path("beside"), home.path(".simpletuner/secrets.json")).unwrap();
    wait_until("the new file shows", || reads("renamed"));
    let seen = |event: &str, key: &str| {
        let events = fs::read_to_string(home.live("events")).unwrap();
        let mut lines = events
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.any(|line| line["event"] == event && line["key"] == key)
    };
    for (event, key) in [("set", "K"), ("set", "NEW"), ("deleted", "GOES")] {
        assert!(seen(event, key), "{event} {key}");
    }
    // No process opens a file for this one: the watching thread notices it.
    home.write(".simpletuner/secrets.json", r#"{"K": "v", "WATCHED": "3"}"#);
    wait_until("the edit is an event", || seen("set", "WATCHED"));
}

#[test]
fn a_mount_that_fails_says_why_and_leaves_no_mount() {
    let home = Home::new();
    let no_home = ran(home.command(BINARY).arg("mount").env_remove("HOME")).failed();
    assert!(no_home.contains("HOME"), "{no_home}");

    home.write(".simpletuner/live.yaml", "allow_other: true\n");
    let gone = home.run(&["mount"]).failed();
    assert!(gone.contains("use a view"), "{gone}");

    home.write(".simpletuner/live.yaml", "alow_root: true\n");
    let unknown = home.run(&["mount"]).failed();
    assert!(unknown.contains("alow_root"), "{unknown}");
    assert!(unknown.contains("allow_root"), "{unknown}");
    assert_eq!(mounts_below(home.0.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_writer_still_open_when_the_daemon_ends_changes_nothing() {
    let _alone = alone();
    let home = Home::new();
    let daemon = home.foreground();
    home.sh("echo whole > ~/.simpletuner/live/secrets/K");
    let mut open = File::create(home.live("secrets/K")).unwrap();
    open.write_all(b"half").unwrap();
    signal("TERM", daemon.id());
    assert_eq!(exit_code(daemon), Some(0));
    drop(open);
    assert_eq!(home.run(&["get", "K"]).done(), "whole");
}
