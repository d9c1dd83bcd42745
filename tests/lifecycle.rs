//! The life of a mount, by the real program: it begins, answers, ends, dies, and meets other mounts and other users.

mod support;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Setup, alone, daemon_command, scratch_home, wait_until};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_simpletuner-live");

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// What it printed; it must have succeeded.
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// What it said on standard error; it must have failed, and printed nothing.
    #[track_caller]
    fn failed(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (1, ""), "{}", self.err);
        self.err
    }

    /// A tool of the system must have been refused, whatever its exit code for that is.
    #[track_caller]
    fn denied(self) {
        assert!(self.code > 0 && self.out.is_empty(), "{}", self.out);
        assert!(self.err.contains("Permission denied"), "{}", self.err);
    }
}

/// A scratch home. What is mounted below it is unmounted when it is dropped.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(scratch_home())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn live(&self, path: &str) -> PathBuf {
        self.path(".simpletuner/live").join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.0.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(BINARY).args(args))
    }

    fn run_with(&self, input: &str, args: &[&str]) -> Ran {
        self.write("input", input);
        let input = File::open(self.path("input")).unwrap();
        ran(self.command(BINARY).args(args).stdin(input))
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        ran(self.command("bash").args(["-c", script])).done()
    }

    /// A daemon in the foreground, once it answers.
    fn foreground(&self) -> Child {
        let mut daemon = daemon_command(self.0.path(), &Setup::default())
            .spawn()
            .unwrap();
        wait_until("the mount answers", || {
            assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
            fs::read(self.live("status")).is_ok()
        });
        daemon
    }

    /// The process that answers at a mount point.
    fn server(&self, mount_point: &Path) -> u32 {
        let status = fs::read(mount_point.join("status")).unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        status["server_pid"].as_u64().unwrap() as u32
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for mount_point in mounts_below(self.0.path()) {
            let mut umount = Command::new("umount");
            umount.arg("-l").arg(mount_point).stderr(Stdio::null());
            let _ = umount.status();
        }
    }
}

#[track_caller]
fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

/// All mount points at and below a folder, the last mounted first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect();
    below.reverse();
    below
}

fn is_mounted(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|point| point == dir)
}

fn signal(signal: &str, pid: u32) {
    let mut kill = Command::new("kill");
    let status = kill.args(["-s", signal, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Whether the process has ended, be it that nobody has asked for its exit code yet.
fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('Z')))
        .unwrap_or(true)
}

fn wait_for_the_end(pid: u32) {
    wait_until("the daemon has ended", || has_ended(pid));
}

fn exit_code(mut daemon: Child) -> Option<i32> {
    wait_until("the daemon ends", || daemon.try_wait().unwrap().is_some());
    daemon.wait().unwrap().code()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: it needs root");
    }
    root
}

#[test]
fn mount_returns_when_it_answers_and_says_what_to_try() {
    let home = Home::new();
    let mounted = home.run(&["mount"]);
    let status = fs::read(home.live("status"));
    let place = home.live("").display().to_string();
    let place = place.trim_end_matches('/');
    assert_eq!((mounted.code, mounted.out), (0, format!("{place}\n")));
    assert!(status.is_ok(), "{status:?}");
    let tries: Vec<&str> = mounted
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("try: "))
        .collect();
    assert_eq!(tries.len(), 2, "{}", mounted.err);
    assert_eq!(home.sh(&tries.join("\n")), "hf_xxxx");
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
fn umount_ends_the_daemon_and_a_second_one_says_that_nothing_is_there() {
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
fn each_signal_that_asks_it_to_end_unmounts() {
    for name in ["TERM", "INT", "HUP"] {
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
fn a_dead_mount_is_cleaned_up_by_the_next_mount_and_by_umount() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("echo kept > ~/.simpletuner/live/secrets/K");
    let kill = || {
        let server = home.server(&home.live(""));
        signal("KILL", server);
        wait_for_the_end(server);
        assert!(is_mounted(&home.live("")));
        let error = fs::read(home.live("status")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    };
    kill();
    home.run(&["mount"]).done();
    assert_eq!(mounts_below(home.0.path()).len(), 1);
    assert_eq!(home.sh("cat ~/.simpletuner/live/secrets/K"), "kept");
    kill();
    // A command that needs no mount works beside a dead one, and says what to do about it.
    let get = home.run(&["get", "K"]);
    assert!(get.err.contains("simpletuner-live mount"), "{}", get.err);
    assert_eq!(get.done(), "kept");
    home.run(&["umount"]).done();
    assert!(!is_mounted(&home.live("")));
}

#[test]
fn unmounting_while_a_file_is_open_takes_the_mount_away_and_leaves_the_file() {
    let home = Home::new();
    home.run(&["mount"]).done();
    home.sh("echo open > ~/.simpletuner/live/secrets/K");
    let server = home.server(&home.live(""));
    let mut open = File::open(home.live("secrets/K")).unwrap();
    home.run(&["umount"]).done();
    assert!(!is_mounted(&home.live("")));
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "open");
    drop(open);
    wait_for_the_end(server);
}

#[test]
fn a_signal_while_a_file_is_open_ends_the_daemon_all_the_same() {
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
fn what_was_closed_before_the_signal_is_on_disk() {
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
            assert_eq!(value, format!("{round}.{key}"));
        }
        home.run(&["umount"]).done();
    }
}

#[test]
fn a_folder_that_holds_something_is_not_mounted_over() {
    let home = Home::new();
    home.write("full/file", "mine");
    let said = home.run(&["mount", "full"]).failed();
    assert!(said.contains("not empty"), "{said}");
    assert!(said.contains("full"), "{said}");
    assert!(!is_mounted(&home.path("full")));
    assert_eq!(fs::read_to_string(home.path("full/file")).unwrap(), "mine");
}

#[test]
fn a_mount_of_another_kind_is_left_alone() {
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

#[test]
fn two_mounts_of_one_store_agree_at_once_and_lose_no_write() {
    let _alone = alone();
    let home = Home::new();
    home.run(&["mount", "a"]).done();
    home.run(&["mount", "b"]).done();
    home.sh("for i in {1..50}; do
            echo a$i > a/secrets/SHARED; [ \"$(<b/secrets/SHARED)\" = a$i ] || exit 1
            echo b$i > b/secrets/SHARED; [ \"$(<a/secrets/SHARED)\" = b$i ] || exit 2
            rm a/secrets/SHARED; [ ! -e b/secrets/SHARED ] || exit 3
        done");
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
        assert_eq!(home.run(&with(&["get", "K"])).done(), two);
        assert_eq!(home.run(&with(&["ls"])).done(), "K\n");
        home.run(&with(&["rm", "K"])).done();
        assert_eq!(home.sh("ls ~/.simpletuner/live/secrets"), "");
        assert_eq!(home.run(&with(&["get", "K"])).code, 4);
        assert_eq!(home.run(&with(&["rm", "K"])).code, 4);
        assert_eq!(home.run(&with(&["ls"])).done(), "");
    }
}

#[test]
fn an_edit_by_another_program_shows_in_the_next_open_and_as_an_event() {
    let _alone = alone();
    let home = Home::new();
    home.write(".simpletuner/secrets.json", r#"{"K": "old", "GOES": "1"}"#);
    home.run(&["mount"]).done();
    assert_eq!(fs::read_to_string(home.live("secrets/K")).unwrap(), "old");
    // In place and by a rename over it, as programs do.
    home.write(
        ".simpletuner/secrets.json",
        r#"{"K": "edited", "NEW": "2"}"#,
    );
    assert_eq!(
        fs::read_to_string(home.live("secrets/K")).unwrap(),
        "edited"
    );
    assert_eq!(fs::read_to_string(home.live("secrets/NEW")).unwrap(), "2");
    assert!(!home.live("secrets/GOES").exists());
    home.write("beside", r#"{"K": "renamed"}"#);
    fs::rename(home.path("beside"), home.path(".simpletuner/secrets.json")).unwrap();
    assert_eq!(
        fs::read_to_string(home.live("secrets/K")).unwrap(),
        "renamed"
    );
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
    // Nobody opens anything for this one: the watcher tells.
    home.write(".simpletuner/secrets.json", r#"{"K": "v", "WATCHED": "3"}"#);
    wait_until("the edit is an event", || seen("set", "WATCHED"));
}

#[test]
fn what_cannot_be_mounted_says_why_and_mounts_nothing() {
    let home = Home::new();
    let no_home = ran(home.command(BINARY).arg("mount").env_remove("HOME")).failed();
    assert!(no_home.contains("HOME"), "{no_home}");

    let kernel = home.run(&["mount", "--read-path", "kernel"]).failed();
    assert!(kernel.contains("`kernel`"), "{kernel}");
    assert!(kernel.contains("audited"), "{kernel}");
    home.write(".simpletuner/live.yaml", "read_path: kernel\n");
    let kernel = home.run(&["mount"]).failed();
    assert!(kernel.contains("`kernel`"), "{kernel}");

    home.write(".simpletuner/live.yaml", "alow_other: true\n");
    let unknown = home.run(&["mount"]).failed();
    assert!(unknown.contains("alow_other"), "{unknown}");
    assert!(unknown.contains("allow_other"), "{unknown}");
    assert_eq!(mounts_below(home.0.path()), [PathBuf::new(); 0]);
}

/// A home of the user `nobody`, with a copy of the program that he can reach.
struct Nobody {
    home: Home,
    mounted: Cell<bool>,
}

impl Nobody {
    fn new() -> Self {
        let mode = fs::metadata("/dev/fuse").unwrap().permissions().mode();
        assert_eq!(
            mode & 0o666,
            0o666,
            "/dev/fuse is closed to ordinary users; scripts/test opens it, as udev does"
        );
        let home = Home::new();
        fs::set_permissions(home.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // By another process: a child that a test forks meanwhile must not hold it open for writing.
        home.sh(&format!(
            "install -m 755 '{BINARY}' program && install -d -m 755 -o nobody -g nogroup home"
        ));
        Self {
            home,
            mounted: Cell::new(false),
        }
    }

    fn command(&self, user: &str, program: &Path) -> Command {
        let mut command = self.home.command("setpriv");
        command
            .args(["--reuid", user, "--regid", "nogroup", "--clear-groups"])
            .arg(program)
            .env("HOME", self.home.path("home"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        if args[0] == "mount" {
            self.mounted.set(true);
        }
        ran(self
            .command("nobody", &self.home.path("program"))
            .args(args))
    }

    fn live(&self, path: &str) -> PathBuf {
        self.home.path("home/.simpletuner/live").join(path)
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        if self.mounted.get() {
            drop(
                self.command("nobody", &self.home.path("program"))
                    .arg("umount")
                    .output(),
            );
        }
    }
}

#[test]
fn an_ordinary_user_mounts_for_himself_alone() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    nobody.run(&["mount"]).done();
    let secret = nobody.live("secrets/K").display().to_string();
    let as_user = |user: &str, script: &str| {
        ran(nobody.command(user, Path::new("bash")).args(["-c", script]))
    };
    as_user("nobody", &format!("echo mine > {secret}")).done();
    assert_eq!(as_user("nobody", &format!("cat {secret}")).done(), "mine");
    for script in [
        format!("cat {secret}"),
        format!("ls {}", nobody.live("").display()),
    ] {
        as_user("daemon", &script).denied();
    }
    let root = fs::read(&secret).unwrap_err();
    assert_eq!(root.raw_os_error(), Some(libc::EACCES));
    assert_eq!(nobody.run(&["get", "K"]).done(), "mine");

    let again = nobody.run(&["mount"]);
    assert!(again.err.contains("mounted already"), "{}", again.err);
    again.done();
    nobody.run(&["umount"]).done();
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn a_dead_mount_of_an_ordinary_user_is_cleaned_up() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    let kill = || {
        nobody.run(&["mount"]).done();
        let status = nobody.run(&["status", "--json"]).done();
        let status: Value = serde_json::from_str(&status).unwrap();
        let server = status["server_pid"].as_u64().unwrap() as u32;
        signal("KILL", server);
        wait_for_the_end(server);
        assert!(is_mounted(&nobody.live("")));
    };
    kill();
    kill();
    assert_eq!(mounts_below(nobody.home.0.path()).len(), 1);
    nobody.run(&["umount"]).done();
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn with_allow_other_root_may_look_and_others_still_may_not() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    let home = &nobody.home;
    home.run(&["mount", "live", "--allow-other"]).done();
    home.sh("echo v > live/secrets/K; [ $(<live/secrets/K) = v ]");
    for script in [
        "cat live/secrets/K",
        "ls live",
        "ls live/secrets",
        "echo w > live/secrets/K",
    ] {
        let mut other = nobody.command("nobody", Path::new("bash"));
        ran(other.args(["-c", script])).denied();
    }
    assert_eq!(home.sh("cat live/secrets/K"), "v");
}

#[test]
fn an_ordinary_user_without_fusermount3_is_told_the_package() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    // As where the package is not installed: the name and the usual places would find it on this machine.
    let missing = nobody.home.path("fusermount3");
    let mut mount = nobody.command("nobody", &nobody.home.path("program"));
    let said = ran(mount.arg("mount").env("FUSERMOUNT_PATH", missing)).failed();
    assert!(said.contains("apt install fuse3"), "{said}");
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn an_ordinary_user_with_a_bare_path_mounts_and_unmounts() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    let setpriv = nobody.home.sh("command -v setpriv");
    for command in ["mount", "umount"] {
        let bare = nobody.command("nobody", &nobody.home.path("program"));
        // `setpriv` itself is found by its path.
        let mut direct = Command::new(setpriv.trim());
        direct
            .args(bare.get_args())
            .arg(command)
            .current_dir(nobody.home.path("home"))
            .env_clear()
            .env("PATH", nobody.home.path("home"))
            .env("HOME", nobody.home.path("home"))
            .stdin(Stdio::null());
        ran(&mut direct).done();
    }
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn a_writer_that_is_still_open_at_the_end_changes_nothing() {
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
