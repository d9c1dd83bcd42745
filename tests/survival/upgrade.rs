//! Upgrades of a running mount to another program.

use super::*;

/// A home with its own copy of the program, which a mount runs.
struct Installed(Home);

impl Installed {
    fn new() -> Self {
        let home = Home::new();
        fs::create_dir(home.path("bin")).unwrap();
        fs::copy(support::home::BINARY, home.path("bin/simpletuner-live")).unwrap();
        let home = Self(home);
        home.run(&["mount"]).done();
        home
    }

    fn run(&self, args: &[&str]) -> support::home::CommandOutput {
        let program = self.0.path("bin/simpletuner-live");
        support::home::ran(self.0.command(program.to_str().unwrap()).args(args))
    }

    /// Replaces the program like a package manager: by a new file under the same name.
    fn replace(&self, by: &[u8]) {
        let new = self.0.path("bin/new");
        fs::write(&new, by).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&new, mode).unwrap();
        fs::rename(&new, self.0.path("bin/simpletuner-live")).unwrap();
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.live("status")).unwrap()).unwrap()
    }

    /// The file that a part of the mount runs.
    fn program_of(&self, part: &str) -> u64 {
        let pid = &self.status()[part];
        fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
    }

    fn installed(&self) -> u64 {
        fs::metadata(self.0.path("bin/simpletuner-live"))
            .unwrap()
            .ino()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.0.command(support::home::BINARY).arg("umount").output();
    }
}

#[test]
fn an_upgrade_replaces_both_processes_and_no_user_of_the_mount_notices() {
    let _alone = alone();
    let home = Installed::new();
    let secret = home.0.live("secrets/A");
    fs::write(&secret, "value").unwrap();
    let mut open = File::open(&secret).unwrap();
    let mut half = File::create(home.0.live("secrets/B")).unwrap();
    half.write_all(b"half ").unwrap();
    let (number, keeper) = (
        fs::metadata(&secret).unwrap().ino(),
        home.status()["keeper_pid"].clone(),
    );
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(fs::read_to_string(&secret).unwrap(), "value");
                }
            });
        }
        let binary = fs::read(support::home::BINARY).unwrap();
        for turn in 1..=5 {
            let before = home.program_of("server_pid");
            home.replace(&binary);
            assert_ne!(home.installed(), before);
            // After a crash, the next server runs the old program.
            if turn == 2 {
                let server = home.status()["server_pid"].as_u64().unwrap();
                signal("KILL", server as u32);
                wait_until("another server answers", || {
                    home.status()["server_pid"] != server
                });
                assert_eq!(home.program_of("server_pid"), before);
            }
            let said = home.run(&["upgrade"]);
            assert_eq!(said.code, 0, "{}", said.err);
            assert_eq!(home.program_of("server_pid"), home.installed());
            wait_until("the keeper follows", || {
                home.program_of("keeper_pid") == home.installed()
            });
            assert_eq!(home.status()["upgrade"]["number"], turn);
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(home.status()["keeper_pid"], keeper);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "value");
    half.write_all(b"whole").unwrap();
    drop(half);
    assert_eq!(
        fs::read_to_string(home.0.live("secrets/B")).unwrap(),
        "half whole"
    );
    assert_eq!(fs::metadata(&secret).unwrap().ino(), number);
    // The new processes replace each other, too.
    for part in ["keeper_pid", "server_pid", "keeper_pid"] {
        let pid = home.status()[part].as_u64().unwrap();
        signal("KILL", pid as u32);
        wait_until("another process is there", || home.status()[part] != pid);
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "value");
}

/// The keeper executes the new program when the new server answers already: what it is asked meanwhile, it does afterwards.
#[test]
fn a_keeper_that_is_just_becoming_the_new_program_takes_the_next_request() {
    let _alone = alone();
    let home = Installed::new();
    let keeper = home.status()["keeper_pid"].clone();
    for _ in 0..8 {
        home.run(&["upgrade"]).done();
        assert_eq!(home.status()["keeper_pid"], keeper);
    }
    home.run(&["upgrade"]).done();
    signal("TERM", keeper.as_u64().unwrap() as u32);
    wait_until("the mount has ended", || !home.0.live("status").exists());
    let log = fs::read_to_string(home.0.path(".simpletuner/live.log")).unwrap();
    assert!(!log.contains("the keeper has ended"), "{log}");
}

#[test]
fn an_upgrade_to_a_program_that_does_not_start_keeps_the_old_one() {
    let _alone = alone();
    let home = Installed::new();
    fs::write(home.0.live("secrets/A"), "value").unwrap();
    let pids = |status: &Value| (status["keeper_pid"].clone(), status["server_pid"].clone());
    let before = pids(&home.status());
    let upgrade = |why: &str| {
        let said =
            support::home::ran(home.0.command(support::home::BINARY).arg("upgrade")).failed();
        assert!(
            said.contains(why) && said.contains("keeps running the old program"),
            "{said}"
        );
        assert_eq!(pids(&home.status()), before);
        assert_eq!(
            fs::read_to_string(home.0.live("secrets/A")).unwrap(),
            "value"
        );
    };
    // A program with another handover format refuses its arguments like this.
    home.replace(b"#!/bin/sh\nexit 2\n");
    upgrade("exit code 2");
    home.replace(b"no program at all");
    upgrade("bin/simpletuner-live");
    fs::remove_file(home.0.path("bin/simpletuner-live")).unwrap();
    upgrade("No such file");
    home.0.sh("mkfifo bin/simpletuner-live");
    upgrade("is not a regular file");
    // A good program, with malformed settings.
    home.replace(&fs::read(support::home::BINARY).unwrap());
    home.0.write(".simpletuner/live.yaml", "file_path: [\n");
    upgrade_with_malformed_settings(&home);
    assert_eq!(pids(&home.status()), before);
    fs::remove_file(home.0.path(".simpletuner/live.yaml")).unwrap();
    home.run(&["upgrade"]).done();
    assert_ne!(pids(&home.status()), before);
}

fn upgrade_with_malformed_settings(home: &Installed) {
    // The command `upgrade` would fail on these settings by itself, so the test signals the keeper.
    let keeper = home.status()["keeper_pid"].as_u64().unwrap();
    let number = home.status()["upgrade"]["number"].as_u64().unwrap();
    signal("USR1", keeper as u32);
    wait_until("the upgrade was tried", || {
        home.status()["upgrade"]["number"] == number + 1
    });
    let error = home.status()["upgrade"]["error"].clone();
    assert!(error.as_str().unwrap().contains("live.yaml"), "{error}");
}

#[test]
fn without_resend_an_upgrade_is_refused_unless_forced() {
    let _alone = alone();
    let home = Home::new();
    let mut mount = home.command(support::home::BINARY);
    support::home::ran(mount.arg("mount").env("SIMPLETUNER_LIVE_NO_RESEND", "1")).done();
    let said = home.run(&["upgrade"]).failed();
    assert!(said.contains("--force"), "{said}");
    home.run(&["upgrade", "--force"]).done();
    home.run(&["umount"]).done();
    let said = home.run(&["upgrade"]).failed();
    assert!(
        said.contains("nothing of simpletuner-live is mounted"),
        "{said}"
    );
    assert!(said.contains("mount` mounts it"), "{said}");
}

/// A daemon in a pid namespace of its own reports ids of that namespace, which are other processes' here.
#[test]
fn an_upgrade_never_signals_a_process_that_is_not_the_keeper() {
    if !support::home::is_root() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let mut foreign = Command::new("sleep").arg("600").spawn().unwrap();
    // The namespace's next process, which is the keeper, gets the foreign process's id.
    let script = format!(
        "echo {} > /proc/sys/kernel/ns_last_pid; {} mount --foreground & wait",
        foreign.id() - 1,
        support::home::BINARY
    );
    let mut unshare = home.command("unshare");
    unshare.args(["--kill-child", "-p", "-f", "bash", "-c", &script]);
    let mut unshare = unshare.stderr(Stdio::null()).spawn().unwrap();
    wait_until("the mount answers", || {
        fs::read(home.live("status")).is_ok_and(|status| !status.is_empty())
    });
    let status: Value = serde_json::from_slice(&fs::read(home.live("status")).unwrap()).unwrap();
    let said = home.run(&["upgrade"]);
    let ended = foreign.try_wait().unwrap();
    for process in [&mut foreign, &mut unshare] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert_eq!(status["keeper_pid"], foreign.id());
    assert_eq!(ended, None, "the foreign process was signalled");
    assert!(said.failed().contains("the keeper, process"));
}
