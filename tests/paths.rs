//! Paths that another user can change, and mounts that are no longer where they were made. Each test acts as root and as
//! an ordinary user, so they need root.

mod support;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::home::{
    is_mounted, is_root, mounts_below, named_or_cut_off, ran, ready, signal, wait_for_the_end,
};
use support::user::{LIVE, User};
use support::{wait_until, waits_for_the_mount};

/// The users that a test acts as. The stranger is `nobody`.
const USERS: [&str; 2] = ["root", "daemon"];
/// `umount` takes five seconds at most where the machine is not busy. What hangs here does so for longer.
const UMOUNT_LIMIT: Duration = Duration::from_secs(60);

fn as_each_user(test: impl Fn(User)) {
    if !is_root() {
        return;
    }
    for user in USERS {
        test(User::new(user));
    }
}

#[test]
fn root_does_not_mount_where_another_user_could_exchange_the_folder() {
    if !is_root() {
        return;
    }
    let root = User::new("root");
    root.sh("mkdir theirs open sticky real
        mkdir -m 700 theirs/live open/live; chown nobody theirs; chmod 777 open; chmod 1777 sticky
        ln -s ../real theirs/link");
    let refused = |place: &str, why: String| {
        let said = root.run(&["mount", place]).failed();
        assert!(said.contains(&why), "{place}: {said}");
        assert!(said.contains("choose another folder"), "{said}");
        assert!(mounts_below(root.scratch.0.path()).is_empty(), "{place}");
    };
    let path = |name: &str| root.path(name).display().to_string();
    refused(
        "theirs/live",
        format!("{} belongs to nobody", path("theirs")),
    );
    // A link leads on to a folder of ours, but nobody can make it lead elsewhere.
    refused(
        "theirs/link",
        format!("{} belongs to nobody", path("theirs")),
    );
    refused(
        "open/live",
        format!("fix it with: chmod go-w {}", path("open")),
    );
    root.sh("mkdir sticky/theirs; chown nobody sticky/theirs");
    refused(
        "sticky/theirs",
        format!("{} belongs to nobody", path("sticky/theirs")),
    );
    // There only we can exchange what is ours.
    root.run(&["mount", "sticky/live"]).done();
    assert!(is_mounted(&root.path("sticky/live")));
    root.run(&["umount", "sticky/live"]).done();
}

#[test]
fn a_folder_of_another_user_is_no_mount_point() {
    if !is_root() {
        return;
    }
    let user = User::new("daemon");
    user.scratch.sh("install -d -m 777 -o nobody home/theirs");
    let said = user.run(&["mount", "theirs"]).failed();
    assert!(said.contains("belongs to nobody"), "{said}");
    assert!(mounts_below(user.scratch.0.path()).is_empty());
}

#[test]
fn a_folder_that_is_exchanged_while_it_is_mounted_on_stays_uncovered() {
    if !is_root() {
        return;
    }
    // An ordinary user mounts through a program that takes a path: the latest moment at which a parent's owner can
    // exchange the folder.
    let user = User::new("daemon");
    user.sh("mkdir there precious; echo mine > precious/file
        echo '#!/bin/sh
cd ~; [ $1 = -uz ] || { mv there/live there/moved && mv precious there/live; } && exec fusermount3 \"$@\"' > exchange; chmod 755 exchange");
    let mut mount = user.cli(&["mount", "there/live"]);
    let said = ran(mount.env("FUSERMOUNT_PATH", user.path("exchange"))).failed();
    assert!(said.contains("was exchanged"), "{said}");
    assert!(mounts_below(user.scratch.0.path()).is_empty());
    assert_eq!(user.sh("cat there/live/file"), "mine\n");
}

#[test]
fn a_keeper_that_is_asked_to_end_leaves_another_mount_at_its_old_path_alone() {
    as_each_user(|user| {
        user.run(&["mount", "a/live"]).done();
        let first = user.pids("a/live");
        user.sh("mv a b");
        user.run(&["mount", "a/live"]).done();
        user.set_secret("a/live");
        for pid in first {
            signal("TERM", pid);
        }
        first.into_iter().for_each(wait_for_the_end);
        let mounts = mounts_below(user.scratch.0.path());
        assert_eq!(mounts, [user.path("a/live")], "{}", user.name);
        assert_eq!(user.sh("cat a/live/secrets/K"), "v");
        user.run(&["umount", "a/live"]).done();
    });
}

#[test]
fn an_old_daemon_whose_file_is_still_open_leaves_its_successors_mount_alone() {
    as_each_user(|user| {
        user.run(&["mount"]).done();
        user.set_secret(LIVE);
        let old = user.pids(LIVE);
        let mut open = user.hold("exec 3< .simpletuner/live/secrets/K");
        let said = user.run(&["umount", "--lazy"]);
        assert!(named_or_cut_off(&said.err, "was in use"), "{}", said.err);
        said.done();
        user.run(&["mount"]).done();
        for pid in old {
            signal("TERM", pid);
        }
        old.into_iter().for_each(wait_for_the_end);
        assert_eq!(user.sh("cat .simpletuner/live/secrets/K"), "v");
        assert_eq!(mounts_below(user.scratch.0.path()).len(), 1);
        drop(open.stdin.take());
        open.wait().unwrap();
        user.run(&["umount"]).done();
    });
}

#[test]
fn after_umount_nothing_opens_through_an_old_descriptor_a_bind_or_another_namespace() {
    as_each_user(|user| {
        user.run(&["mount"]).done();
        user.set_secret(LIVE);
        let pids = user.pids(LIVE);
        let mut folder = user.hold("cd .simpletuner/live/secrets; exec 3< K; cat K > /dev/null");
        let mut namespace = None;
        let live = user.path(LIVE).display().to_string();
        let mut ways = vec![
            format!("cat /proc/{}/cwd/K", folder.id()),
            format!("cat /proc/{}/fd/3", folder.id()),
            format!("ls /proc/{}/cwd", folder.id()),
        ];
        if user.is_root() {
            user.sh("mkdir alias; mount --bind .simpletuner/live/secrets alias");
            ways.push("cat alias/K".into());
            let mut other = user.scratch.command("unshare");
            other.args([
                "-m",
                "--propagation",
                "private",
                "bash",
                "-c",
                "echo; exec cat",
            ]);
            let other = ready(&mut other);
            ways.push(format!("cat /proc/{}/root{live}/secrets/K", other.id()));
            namespace = Some(other);
        }
        for way in &ways {
            user.sh(way);
        }
        let said = user.run(&["umount"]);
        let holder = format!("process {} (", folder.id());
        for words in ["was in use", &holder] {
            assert!(named_or_cut_off(&said.err, words), "{}", said.err);
        }
        said.done();
        assert!(!is_mounted(&user.path(LIVE)));
        pids.into_iter().for_each(wait_for_the_end);
        for way in &ways {
            let mut bash = user.command("bash");
            let tried = ran(bash.args(["-c", way]));
            let expected = "Transport endpoint is not connected";
            assert!(
                tried.err.contains(expected),
                "{way}: {}{}",
                tried.out,
                tried.err
            );
        }
        for child in [Some(&mut folder), namespace.as_mut()]
            .into_iter()
            .flatten()
        {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        if user.is_root() {
            user.sh("umount alias");
        }
    });
}

/// Stops and kills processes of the mount; then `umount` must end it in time, and leave no process.
fn umount_ends_it(user: &User, what: &str, break_it: impl Fn([u32; 2])) {
    user.run(&["mount"]).done();
    let pids = user.pids(LIVE);
    break_it(pids);
    let begun = Instant::now();
    let said = user.run(&["umount"]);
    let (took, name) = (begun.elapsed(), user.name);
    assert_eq!(said.code, 0, "{name}, {what}: {}", said.err);
    assert!(took < UMOUNT_LIMIT, "{name}, {what}: {took:?}");
    assert!(!is_mounted(&user.path(LIVE)), "{name}, {what}");
    pids.into_iter().for_each(wait_for_the_end);
}

/// A service manager that stops all processes of a service ends it; a busy machine delays it.
#[test]
fn an_unmount_takes_place_even_if_fusermount3_is_slow_or_ended_by_a_signal() {
    if !is_root() {
        return;
    }
    let user = User::new("nobody");
    for happens in ["[ -e ~/once ] || { : > ~/once; kill -TERM $$; }", "sleep 5"] {
        user.run(&["mount"]).done();
        user.set_secret(LIVE);
        let fusermount = format!("#!/bin/sh\n{happens}\nexec fusermount3 \"$@\"\n");
        user.write("fusermount", &fusermount);
        user.sh("chmod +x fusermount");
        let mut umount = user.cli(&["umount"]);
        ran(umount.env("FUSERMOUNT_PATH", user.path("fusermount"))).done();
        assert!(!is_mounted(&user.path(LIVE)));
    }
    assert!(user.path("once").exists());
}

#[test]
fn of_two_umounts_at_once_neither_names_another_filesystem() {
    as_each_user(|user| {
        let program = user.scratch.path("program").display().to_string();
        for _ in 0..5 {
            user.run(&["mount"]).done();
            let both = format!(
                "for i in 1 2; do '{program}' umount > out$i 2>&1 & done; wait; cat out1 out2"
            );
            let said = user.sh(&both);
            assert!(!said.contains("another filesystem"), "{said}");
            assert!(!is_mounted(&user.path(LIVE)));
        }
    });
}

#[test]
fn umount_is_over_in_five_seconds_whichever_process_does_not_answer() {
    as_each_user(|user| {
        umount_ends_it(&user, "both stopped", |pids| {
            pids.into_iter().for_each(|pid| signal("STOP", pid));
        });
        umount_ends_it(&user, "keeper stopped", |[keeper, _]| {
            signal("STOP", keeper);
        });
        umount_ends_it(
            &user,
            "keeper stopped, server killed",
            |[keeper, server]| {
                signal("STOP", keeper);
                signal("KILL", server);
            },
        );
        umount_ends_it(&user, "server stopped", |[_, server]| {
            signal("STOP", server)
        });
    });
}

#[test]
fn a_mount_whose_keeper_is_stopped_says_so_and_mount_continues_it() {
    as_each_user(|user| {
        user.run(&["mount"]).done();
        user.set_secret(LIVE);
        let [keeper, server] = user.pids(LIVE);
        signal("STOP", keeper);
        signal("KILL", server);
        wait_for_the_end(server);
        let mut reader = user.command("cat");
        let reader = reader.arg(".simpletuner/live/secrets/K");
        let reader = reader.stdout(Stdio::piped()).spawn().unwrap();
        wait_until("the reader waits", || waits_for_the_mount(reader.id()));
        let said = user.run(&["status"]).failed();
        assert!(
            said.contains(&format!("its process {keeper} is stopped")),
            "{said}"
        );
        assert!(said.contains(&format!("kill -CONT {keeper}")), "{said}");
        let mounted = user.run(&["mount"]);
        assert!(mounted.err.contains("mounted already"), "{}", mounted.err);
        assert!(
            mounted.err.contains(&format!("process {keeper} ")),
            "{}",
            mounted.err
        );
        mounted.done();
        assert_eq!(reader.wait_with_output().unwrap().stdout, b"v");
        assert_eq!(user.pids(LIVE)[0], keeper);
        user.run(&["umount"]).done();
    });
}

/// A mount that runs a program of this user's own, at `bin/simpletuner-live`, which is a link.
fn with_own_program(user: &User) {
    user.sh("mkdir -m 755 bin opt; install -m 755 ../program opt/program; ln -s ../opt/program bin/simpletuner-live");
    let program = user.path("bin/simpletuner-live");
    let mut mount = user.command(&program);
    user.mounts.borrow_mut().push(user.path(LIVE));
    ran(mount.arg("mount")).done();
    user.set_secret(LIVE);
}

#[test]
fn an_upgrade_runs_no_program_that_another_user_can_change() {
    as_each_user(|user| {
        with_own_program(&user);
        let path = |name: &str| user.path(name).display().to_string();
        let pids = user.pids(LIVE);
        let refused = |why: &str| {
            let said = user.run(&["upgrade"]).failed();
            assert!(said.contains(why), "{}: {said}", user.name);
            assert!(said.contains("keeps running the old program"), "{said}");
            assert_eq!(user.pids(LIVE), pids);
        };
        user.sh("chmod 757 opt");
        refused(&format!("fix it with: chmod go-w {}", path("opt")));
        user.sh("chmod 755 opt; chmod 777 opt/program");
        refused(&format!("fix it with: chmod go-w {}", path("opt/program")));
        user.scratch
            .sh("chmod 755 home/opt/program; chown nobody home/opt/program");
        refused(&format!("{} belongs to nobody", path("opt/program")));
        user.scratch.sh(&format!(
            "chown {} home/opt/program; chown nobody home/opt",
            user.name
        ));
        refused(&format!("{} belongs to nobody", path("opt")));
        user.scratch.sh(&format!("chown {} home/opt", user.name));
        user.run(&["upgrade"]).done();
        assert_ne!(user.pids(LIVE)[1], pids[1]);
        user.run(&["umount"]).done();
    });
}

#[test]
fn a_service_runs_no_program_that_another_user_can_change() {
    if !is_root() {
        return;
    }
    let root = User::new("root");
    root.sh(
        "mkdir bin own; install -m 755 ../program bin/; install -m 755 ../program own/
        chown nobody bin; chown daemon own own/program",
    );
    let install = |program: &str, args: &[&str]| {
        let mut command = root.command(root.path(program));
        ran(command.args(["install-service", "--print"]).args(args))
    };
    let said = install("bin/program", &["--system"]).failed();
    let bin = root.path("bin").display().to_string();
    assert!(said.contains(&format!("{bin} belongs to nobody")), "{said}");
    assert!(said.contains("/usr/local/bin"), "{said}");
    install("bin/program", &[]).failed();
    install("own/program", &["--system"]).failed();
    // Their own program runs as themselves.
    install("own/program", &["--system", "--user", "daemon"]).done();
    install("../program", &["--system"]).done();
}

#[test]
fn only_root_installs_a_service_of_the_machine_and_the_message_says_so() {
    if !is_root() {
        return;
    }
    let root = User::new("root");
    root.sh("chmod 755 ~ ..; mkdir bin; install -m 755 ../program bin/");
    let install = |args: &[&str]| {
        let mut command = root.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(root.path("bin/program")).arg("install-service");
        ran(command.args(args))
    };
    let said = install(&["--system"]).failed();
    for words in ["Permission denied", "hint: only root", "`sudo`", "--print"] {
        assert!(said.contains(words), "{said}");
    }
    let unit = install(&["--system", "--print"]).done();
    assert!(unit.contains("[Service]"), "{unit}");
}

#[test]
fn an_upgrade_to_a_path_that_hangs_does_not_hang_the_mount() {
    as_each_user(|user| {
        with_own_program(&user);
        // A filesystem that does not answer: another mount, with both processes stopped.
        user.run(&["mount", "hung"]).done();
        let hung = user.pids("hung");
        let [keeper, server] = user.pids(LIVE);
        user.sh("rm opt/program; ln -s ../hung/secrets/K opt/program");
        hung.into_iter().for_each(|pid| signal("STOP", pid));
        signal("USR1", keeper);
        let opens = || {
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
            let children = children.unwrap_or_default();
            let mut pids = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok());
            pids.any(waits_for_the_mount)
        };
        wait_until("the program is being opened", opens);
        signal("KILL", server);
        wait_for_the_end(server);
        let begun = Instant::now();
        assert_eq!(user.sh("cat .simpletuner/live/secrets/K"), "v");
        user.run(&["umount"]).done();
        assert!(begun.elapsed() < UMOUNT_LIMIT, "{:?}", begun.elapsed());
        wait_for_the_end(keeper);
        hung.into_iter().for_each(|pid| signal("CONT", pid));
        user.run(&["umount", "hung"]).done();
    });
}
