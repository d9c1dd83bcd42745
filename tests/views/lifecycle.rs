//! The views' mount comes with the first view and goes with the last; `umount` takes it along.

use std::fs::File;
use std::io::{Read, Seek};

use super::*;
use support::home::{Home, is_mounted};

/// A home with a mount and the view `a` of a secret.
fn with_view() -> Home {
    let home = Home::new();
    home.run_with("v", &["set", "K"]).done();
    home.run(&["mount"]).done();
    home.run(&["view", "create", "a", "--secret", "K"]).done();
    home
}

/// A process that has the view at /mnt in a mount namespace of its own, as a container has it.
fn container_of(home: &Home) -> std::process::Child {
    let script =
        "mount --make-rprivate / && mount --bind .simpletuner/views/a /mnt && echo && exec cat";
    support::home::ready(home.command("unshare").args(["-m", "sh", "-c", script]))
}

#[test]
fn the_mount_comes_with_the_first_view_and_goes_with_the_last() {
    let live = start();
    let place = live.home("views");
    assert!(!is_mounted(&place));
    assert!(live.json("status")["views"]["mount_point"].is_null());
    write(&live, "secrets/A", "a");
    define(&live, "a", r#"{"secrets": ["A"]}"#);
    define(&live, "b", r#"{"secrets": ["A"]}"#);
    let views = &live.json("status")["views"];
    assert_eq!(views["count"], 2);
    // The kernel's report, or the server's answer.
    assert_ne!(views["audit"], "off");
    assert_eq!(views["mount_point"], place.display().to_string());
    live.sh("rm views/a.json");
    assert!(is_mounted(&place));
    live.sh("rm views/b.json");
    assert!(!is_mounted(&place));
    kill_part(&live, "server_pid");
    define(&live, "a", r#"{"secrets": ["A"]}"#);
    assert_eq!(read(&live, "a/A"), "a");
    // Somebody unmounts it by hand (the server may just have a file of it open): the next change brings it back.
    wait_until("it is unmounted", || {
        let umount = Command::new("umount").arg(&place).output();
        umount.unwrap().status.success()
    });
    wait_until("the server notices", || {
        live.json("status")["views"]["mount_point"].is_null()
    });
    define(&live, "b", r#"{"secrets": ["A"]}"#);
    assert_eq!(read(&live, "a/A"), "a");
    drop(live.stop());
    assert!(!is_mounted(&place));
}

#[test]
fn umount_looks_at_each_process_once_for_both_mounts() {
    if !is_root() {
        return;
    }
    let home = with_view();
    let script = "cd ~/.simpletuner/live && echo && exec cat";
    let mut there = support::home::ready(home.command("sh").args(["-c", script]));
    let mut traced = home.command("strace");
    traced.args(["-f", "-qq", "-e", "trace=openat,open", "-o", "calls"]);
    ran(traced.args([support::home::BINARY, "umount"])).done();
    let calls = fs::read_to_string(home.path("calls")).unwrap();
    let table = format!("/proc/{}/mountinfo", there.id());
    assert_eq!(calls.matches(&table).count(), 1, "{calls}");
    drop(there.stdin.take());
    there.wait().unwrap();
}

#[test]
fn umount_says_where_a_view_is_still_bound_and_ends_all_with_force() {
    if !is_root() {
        return;
    }
    let home = with_view();
    let place = home.path(".simpletuner/views");
    let bind = Bind::new(&place.join("a"), home.path("bind"));
    let refused = home.run(&["umount"]).failed();
    assert!(
        refused.contains(&bind.0.display().to_string()) && refused.contains("--force"),
        "{refused}"
    );
    assert_eq!(home.sh("cat bind/K .simpletuner/live/secrets/K"), "vv");
    let mut container = container_of(&home);
    drop(bind);
    let refused = home.run(&["umount"]).failed();
    assert!(
        refused.contains("has the view a at /mnt in a mount namespace of its own"),
        "{refused}"
    );
    // The last view goes: what is bound stays, and is empty.
    home.run(&["view", "rm", "a"]).done();
    assert!(is_mounted(&place));
    home.run(&["view", "create", "a", "--secret", "K"]).done();
    let inside = format!("/proc/{}/root/mnt/K", container.id());
    assert_eq!(fs::read_to_string(&inside).unwrap(), "v");
    // The kernel has the name and the page.
    let mut open = File::open(&inside).unwrap();
    let mut read = || -> std::io::Result<String> {
        let mut value = String::new();
        open.rewind()?;
        open.read_to_string(&mut value)?;
        Ok(value)
    };
    assert_eq!(read().unwrap(), "v");
    let ended = home.run(&["umount", "--force"]).warned();
    assert!(
        ended.contains("who reads them there gets ENOTCONN")
            && ended.contains("has the view a at /mnt"),
        "{ended}"
    );
    assert!(!is_mounted(&place));
    for result in [fs::read_to_string(&inside), read()] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    }
    drop(container.stdin.take());
    container.wait().unwrap();
}

#[test]
fn a_copy_of_all_mounts_in_another_namespace_does_not_hold_umount_up() {
    if !is_root() {
        return;
    }
    let home = with_view();
    let script = "mount --make-rprivate / && echo && exec cat";
    let mut service =
        support::home::ready(home.command("unshare").args(["-m", "sh", "-c", script]));
    home.run(&["umount"]).done();
    drop(service.stdin.take());
    service.wait().unwrap();
}

#[test]
fn a_mount_point_that_is_taken_is_said_and_the_live_mount_goes_on() {
    let live = start();
    write(&live, "secrets/A", "a");
    fs::create_dir(live.home("views")).unwrap();
    fs::write(live.home("views/mine"), "").unwrap();
    define(&live, "v", r#"{"secrets": ["A"]}"#);
    let problem = live.json("status")["views"]["problem"].to_string();
    assert!(problem.contains("is not empty"), "{problem}");
    let created = cli(&live, &["view", "create", "w", "--secret", "A"]);
    assert!(created.err.contains("is not empty"), "{}", created.err);
    assert_eq!(live.read("secrets/A"), "a");
    fs::remove_file(live.home("views/mine")).unwrap();
    define(&live, "v", r#"{"secrets": ["A"], "mode": "0444"}"#);
    assert_eq!(read(&live, "v/A") + &read(&live, "w/A"), "aa");
    assert!(live.json("status")["views"]["problem"].is_null());
}

#[test]
fn an_empty_folder_in_the_place_of_a_view_is_removed_and_anything_else_is_named() {
    let home = Home::new();
    home.run_with("v", &["set", "K"]).done();
    home.run(&["view", "create", "a", "--secret", "K"]).done();
    let folder = home.path(".simpletuner/views/a");
    // As Docker makes it for `-v` while nothing is mounted.
    fs::create_dir_all(&folder).unwrap();
    home.run(&["mount"]).done();
    assert_eq!(home.sh("cat .simpletuner/views/a/K"), "v");
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    assert!(log.contains("an empty folder instead of the view"), "{log}");
    home.run(&["umount"]).done();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mine"), "").unwrap();
    let words = "the views are not mounted: ";
    for command in [&["mount"][..], &["view", "path", "a"], &["view", "ls"]] {
        let err = home.run(command).warned();
        assert!(
            err.contains(words) && err.contains("the views would hide a"),
            "{command:?}: {err}"
        );
    }
    let status = home.run(&["status"]).done();
    assert!(
        status.contains("1 view not mounted\n") && status.contains("views problem"),
        "{status}"
    );
    let doctor = home.run(&["doctor"]);
    assert!(
        doctor.code == 1
            && doctor
                .out
                .contains("failed   views             the views are not"),
        "{}",
        doctor.out
    );
    fs::remove_file(folder.join("mine")).unwrap();
    wait_until("the views are mounted", || {
        is_mounted(folder.parent().unwrap())
    });
    assert_eq!(home.sh("cat .simpletuner/views/a/K"), "v");
    home.run(&["umount"]).done();
}

#[test]
fn a_mount_after_its_processes_were_killed_names_who_may_read_old_values() {
    if !is_root() {
        return;
    }
    let home = with_view();
    let mut container = container_of(&home);
    home.kill(&home.live(""));
    let err = home.run(&["mount"]).warned();
    let words = "has the view a at /mnt in a mount namespace of its own, and may read old values from now on";
    assert!(err.contains(words), "{err}");
    let log = fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    assert!(log.contains(words), "{log}");
    drop(container.stdin.take());
    container.wait().unwrap();
    home.run(&["umount"]).done();
}

#[test]
fn dead_mounts_are_cleaned_up_by_the_next_mount() {
    let home = with_view();
    home.kill(&home.live(""));
    assert!(fs::read_dir(home.path(".simpletuner/views")).is_err());
    home.run(&["mount"]).done();
    assert_eq!(home.sh("cat .simpletuner/views/a/K"), "v");
    home.kill(&home.live(""));
    home.run(&["view", "rm", "a"]).done();
    home.run(&["mount"]).done();
    assert!(!is_mounted(&home.path(".simpletuner/views")));
    home.run(&["umount"]).done();
}
