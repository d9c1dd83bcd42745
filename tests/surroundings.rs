//! A mount and what is around it: the process that started it, other mounts, other users, resource limits.

mod support;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;
use support::home::{BINARY, Home, is_mounted, is_root, ran, ready, signal, wait_for_the_end};
use support::wait_until;

fn status(home: &Home) -> Value {
    serde_json::from_slice(&fs::read(home.live("status")).unwrap()).unwrap()
}

/// Keeper and server.
fn pids(home: &Home) -> [u32; 2] {
    let status = status(home);
    ["keeper_pid", "server_pid"].map(|part| status[part].as_u64().unwrap() as u32)
}

/// Kills keeper and server, and returns the processes that replace them.
fn replaced(home: &Home) -> [u32; 2] {
    let before = pids(home);
    for (part, pid) in before.into_iter().enumerate() {
        signal("KILL", pid);
        wait_until("another process is there", || pids(home)[part] != pid);
    }
    pids(home)
}

#[test]
fn the_daemon_keeps_no_descriptor_of_its_caller() {
    let home = Home::new();
    home.write("lock", "");
    home.sh("mkfifo pipe");
    let mut reader = home
        .command("cat")
        .arg("pipe")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The daemon inherits a lock, a pipe, and a file of another mount that is open for writing.
    home.run(&["mount", "other"]).done();
    home.sh(&format!(
        "exec 7>lock 8>pipe 9>other/secrets/X; flock -n 7; '{BINARY}' mount 2> /dev/null; printf value >&9"
    ));
    wait_until("the reader of the pipe sees its end", || {
        reader.try_wait().unwrap().is_some()
    });
    home.sh("flock -n lock true");
    wait_until("the write has taken effect", || {
        fs::read(home.path("other/secrets/X")).is_ok_and(|value| value == b"value")
    });
    for pid in pids(&home).into_iter().chain(replaced(&home)) {
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let open = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        let open: Vec<PathBuf> = open.filter(|path| path.ends_with("lock")).collect();
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn neither_process_keeps_the_folder_that_it_was_started_in() {
    let home = Home::new();
    fs::create_dir(home.path("usb")).unwrap();
    // A variable may contain a path relative to that folder, which must stay valid.
    home.write("usb/token", "t");
    home.sh(&format!(
        "cd usb && VAULT_ADDR=http://127.0.0.1:1 VAULT_TOKEN_FILE=token '{BINARY}' mount 2> /dev/null"
    ));
    for pid in pids(&home).into_iter().chain(replaced(&home)) {
        if let Ok(folder) = fs::read_link(format!("/proc/{pid}/cwd")) {
            assert_eq!(folder, Path::new("/"));
        }
        if let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) {
            let token = format!("VAULT_TOKEN_FILE={}", home.path("usb/token").display());
            let mut variables = environment.split(|byte| *byte == 0);
            // `environ` of the first keeper shows the variable as the caller set it; its servers got the absolute path.
            let is_absolute = variables.any(|variable| variable == token.as_bytes());
            assert!(
                is_absolute || pid == pids(&home)[0] || !is_server(pid),
                "{pid}"
            );
        }
    }
}

fn is_server(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("--part\0server")
    })
}

/// Unmounts, and returns the standard error.
#[track_caller]
fn umount(home: &Home) -> String {
    let ran = home.run(&["umount"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!is_mounted(&home.live("")));
    ran.err
}

/// What `umount` says of the processes that use the mount, which are started by `hold`. On a machine that is too busy for the whole
/// search, once more.
#[track_caller]
fn umount_of_used(home: &Home, hold: impl Fn() -> Vec<Child>) -> (Vec<u32>, String) {
    loop {
        home.run(&["mount"]).done();
        home.sh("printf v > ~/.simpletuner/live/secrets/K");
        let server = pids(home)[1];
        let children = hold();
        let ids = children.iter().map(Child::id).collect();
        let said = umount(home);
        for mut child in children {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        wait_for_the_end(server);
        if !said.contains("ended early") {
            return (ids, said);
        }
    }
}

#[test]
fn umount_names_the_processes_that_have_files_or_folders_of_the_mount_open() {
    let home = Home::new();
    let hold = |script: &str| {
        let script = format!("{script}; echo; exec cat");
        ready(home.command("bash").args(["-c", &script]))
    };
    let (pids, said) = umount_of_used(&home, || {
        vec![
            hold("exec 3< ~/.simpletuner/live/secrets/K"),
            hold("cd ~/.simpletuner/live/bundle"),
        ]
    });
    let secret = home.live("secrets/K").display().to_string();
    for words in [format!("open {secret}"), "working folder in".to_owned()] {
        assert!(said.contains(&words), "{said}");
    }
    for pid in pids {
        assert!(said.contains(&format!("process {pid} (")), "{said}");
    }
}

#[test]
fn umount_names_the_other_places_where_the_mount_is_visible() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("printf v > ~/.simpletuner/live/secrets/K; mkdir alias; mount --bind ~/.simpletuner/live/secrets alias");
    let server = pids(&home)[1];
    let said = umount(&home);
    let alias = home.path("alias").display().to_string();
    assert!(said.contains(&format!("also mounted at {alias}")), "{said}");
    let read = ran(home.command("cat").arg("alias/K"));
    assert!(read.err.contains("not connected"), "{}", read.err);
    home.sh("umount alias");
    wait_for_the_end(server);

    // Like a container, or a service with a mount namespace of its own.
    let (pids, said) = umount_of_used(&home, || {
        let mut other = home.command("unshare");
        other.args(["--mount", "--propagation", "private"]);
        vec![ready(other.args(["bash", "-c", "echo; exec cat"]))]
    });
    assert!(said.contains(&format!("process {} (", pids[0])), "{said}");
    assert!(said.contains("mount namespace of its own"), "{said}");
}

#[test]
fn a_mount_point_whose_name_is_not_utf8_disturbs_no_command() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let odd = home
        .0
        .path()
        .join(std::ffi::OsStr::from_bytes(b"odd \xff\xfe"));
    fs::create_dir(&odd).unwrap();
    let mut mount = home.command("mount");
    ran(mount.args(["-t", "tmpfs", "tmpfs"]).arg(&odd)).done();
    home.run(&["mount"]).done();
    home.run_with("v", &["set", "K"]).done();
    assert_eq!(home.run(&["get", "K"]).done(), "v");
    home.run(&["status"]).done();
    home.run(&["umount"]).done();
    assert!(!home.live("status").exists());
    // Our own mount point may have such a name, too.
    let ours = odd.join("live");
    let run = |command: &str| ran(home.command(BINARY).arg(command).arg(&ours));
    let mounted = run("mount");
    assert_eq!(mounted.code, 0, "{}", mounted.err);
    assert!(ours.join("status").exists());
    run("status").done();
    run("umount").done();
    assert!(!ours.join("status").exists());
    ran(home.command("umount").arg(&odd)).done();
}

#[test]
fn a_symbolic_link_as_mount_point_means_the_folder_that_it_leads_to() {
    let home = Home::new();
    fs::create_dir_all(home.path(".simpletuner")).unwrap();
    fs::create_dir(home.path("elsewhere")).unwrap();
    symlink(home.path("elsewhere"), home.path("middle")).unwrap();
    symlink("../middle", home.path(".simpletuner/live")).unwrap();
    for through in ["", "elsewhere"] {
        home.run(&["mount"]).done();
        assert!(is_mounted(&home.path("elsewhere")));
        let again = home.run(&["mount"]);
        assert!(again.err.contains("mounted already"), "{}", again.err);
        home.run(&["status"]).done();
        home.run_with("v", &["set", "K"]).done();
        assert_eq!(home.sh("cat elsewhere/secrets/K"), "v");
        let mut command = vec!["umount"];
        command.extend(Some(through).filter(|through| !through.is_empty()));
        home.run(&command).done();
        assert!(!is_mounted(&home.path("elsewhere")));
    }
    home.run(&["status"]).failed();
}

#[test]
fn another_users_mount_is_never_mistaken_for_ones_own() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.sh(&format!(
        "chmod 755 .; install -m 755 '{BINARY}' program; install -d -m 1777 there
        for user in nobody daemon; do install -d -o $user h$user; done"
    ));
    let run = |user: &str, args: &[&str]| {
        let mut command = home.command("setpriv");
        command
            .args(["--reuid", user, "--regid", "nogroup", "--clear-groups"])
            .arg(home.path("program"))
            .args(args)
            .env("HOME", home.path(&format!("h{user}")));
        ran(&mut command)
    };
    let place = home.path("there/live").display().to_string();
    run("nobody", &["mount", &place]).done();
    for command in ["mount", "status", "umount", "upgrade"] {
        let said = run("daemon", &[command, &place]).failed();
        assert!(
            said.contains("belongs to another user (nobody)"),
            "{command}: {said}"
        );
        // Another folder is no advice on what is asked of this one.
        let advice = said.contains("choose another folder");
        assert_eq!(advice, command == "mount", "{said}");
    }
    // The mount refuses root as well, but root may unmount it.
    let said = home.run(&["mount", &place]).failed();
    assert!(said.contains("belongs to another user (nobody)"), "{said}");
    run("nobody", &["status", &place]).done();
    home.run(&["umount", &place]).done();
    assert!(!is_mounted(Path::new(&place)));
}

#[test]
fn a_store_that_lies_in_the_mount_by_another_name_is_a_settings_error() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("mkdir alias; mount --bind ~/.simpletuner/live/bundle alias; touch ~/file
        printf v > ~/.simpletuner/live/secrets/K; mount --bind ~/.simpletuner/live/bundle/secrets.json ~/file");
    for path in ["alias/secrets.json", "file"] {
        home.write(".simpletuner/live.yaml", &format!("file_path: ~/{path}\n"));
        let said = home.run(&["get", "--no-mount", "K"]).failed();
        assert!(said.contains("leads into the mount at"), "{path}: {said}");
    }
    fs::remove_file(home.path(".simpletuner/live.yaml")).unwrap();
    home.sh("umount alias file");
    assert_eq!(home.run(&["get", "K"]).done(), "v");
}

#[test]
fn a_file_size_limit_fails_a_write_and_ends_no_process() {
    let home = Home::new();
    let script = format!("ulimit -f 64; exec '{BINARY}' mount");
    let refused = ran(home.command("bash").args(["-c", &script])).failed();
    assert!(
        refused.contains("raise the limit") && refused.contains("ulimit -f"),
        "{refused}"
    );
    // The daemon raises a soft limit, because the memory that its processes share counts as a file.
    home.sh(&format!("ulimit -S -f 64; '{BINARY}' mount 2> /dev/null"));
    let before = pids(&home);
    for pid in before {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let size = limits
            .lines()
            .find(|line| line.starts_with("Max file size"))
            .unwrap();
        assert!(!size.contains("65536"), "{size}");
        home.sh(&format!("prlimit --pid {pid} --fsize=65536:65536"));
    }
    // Each value is small, but together they put the store over the limit.
    let mut failed = 0;
    for n in 0..8 {
        let value = format!("{n}").repeat(15_000);
        failed += i32::from(home.run_with(&value, &["set", &format!("K{n}")]).code != 0);
    }
    assert!(failed > 0);
    assert_eq!(pids(&home), before);
    assert_eq!(home.run(&["get", "K0"]).done(), "0".repeat(15_000));
    assert_eq!(status(&home)["restarts"], serde_json::json!([]));
    drop(File::open(home.live("secrets/K0")).unwrap());
}

#[test]
fn root_is_refused_in_another_users_home_and_leaves_no_file_there() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.sh("install -d -o nobody theirs; ln -s /etc/hostname theirs/link");
    for args in [
        &["mount"][..],
        &["umount"],
        &["status"],
        &["upgrade"],
        &["get", "K"],
        &["set", "K"],
        &["ls"],
        &["rm", "K"],
        &["encrypt-file"],
        &["adopt"],
        &["audit", "verify"],
        &["cache", "stats"],
        &["hardware", "ls"],
    ] {
        let mut command = home.command(BINARY);
        let said = ran(command.args(args).env("HOME", home.path("theirs"))).failed();
        assert!(said.contains("belongs to nobody"), "{args:?}: {said}");
        assert!(said.contains("HOME=/root"), "{args:?}: {said}");
    }
    assert_eq!(home.sh("ls -A theirs"), "link\n");
}

#[test]
fn status_and_umount_work_with_a_malformed_settings_file() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.write(".simpletuner/live.yaml", "aws_secret: x\n");
    home.run(&["status"]).done();
    home.run(&["cache", "stats"]).done();
    home.sh("printf v > ~/.simpletuner/live/secrets/K");
    assert_eq!(home.run(&["get", "K"]).done(), "v");
    home.run(&["umount"]).done();
    // Without a mount, the settings count.
    let said = home.run(&["get", "K"]).failed();
    assert!(said.contains("aws_secret_name"), "{said}");
    assert!(!is_mounted(&home.live("")));
}

/// The store is on a filesystem that does not answer: another mount, whose processes are stopped.
#[test]
fn a_mount_command_that_gave_up_leaves_no_mount_now_or_later() {
    let (far, home) = (Home::new(), Home::new());
    far.run(&["mount"]).done();
    far.run_with("far", &["set", "FAR"]).done();
    let stopped = pids(&far);
    let settings = format!("file_path: {}\n", far.live("bundle/secrets.json").display());
    home.write(".simpletuner/live.yaml", &settings);
    for pid in stopped {
        signal("STOP", pid);
    }
    let mounted = home.run(&["mount"]);
    let is_there = is_mounted(&home.live(""));
    // Either the mount answers, or the command reported that it does not.
    assert_eq!(mounted.code == 0, is_there, "{}", mounted.err);
    let parts = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let home = format!("HOME={}", home.0.path().display());
        let is_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let is_part = fs::read(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name == b"simpletuner-liv\n");
            is_part
                && environment
                    .split(|byte| *byte == 0)
                    .any(|line| line == home.as_bytes())
        };
        pids.filter(is_ours).count()
    };
    for pid in stopped {
        signal("CONT", pid);
    }
    if !is_there {
        wait_until("the daemon's processes have ended", || parts() == 0);
        assert!(!is_mounted(&home.live("")));
        home.run(&["mount"]).done();
    }
    assert_eq!(home.run(&["get", "FAR"]).done(), "far");
    home.run(&["umount"]).done();
}

#[test]
fn the_mount_has_a_type_of_its_own_by_which_tools_leave_it_out() {
    let home = Home::new();
    home.run(&["mount"]).done();
    let place = home.live("").display().to_string();
    let place = place.trim_end_matches('/');
    let of_type = home.sh("findmnt -n -o TARGET -t fuse.simpletuner-live");
    assert!(
        of_type.lines().any(|line| line.ends_with(place)),
        "{of_type}"
    );
    let listed = |options: &str| home.sh(&format!("df {options} --output=target 2> said || :"));
    assert!(listed("-a").contains(place));
    assert!(!listed("-a -x fuse.simpletuner-live").contains(place));
    assert_eq!(home.sh(&format!("stat -f -c %T {place}")), "fuseblk\n");
    home.run(&["umount"]).done();
}
