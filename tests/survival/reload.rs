//! The settings in force: over servers and keepers that are killed, and over reloads.

use super::*;

/// A mounted home whose settings file and variables a test changes.
struct Mounted(Home);

impl Mounted {
    fn new() -> Self {
        let home = Home::new();
        home.run(&["set", "A", "of-the-first"]).done();
        let other = home.path("other.json");
        fs::write(&other, "{\"A\": \"of-the-other\"}").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&other, mode).unwrap();
        home.run(&["mount"]).done();
        Self(home)
    }

    fn settings(&self, text: &str) {
        fs::write(self.0.path(".simpletuner/live.yaml"), text).unwrap();
    }

    fn name_the_other_file(&self) {
        self.settings(&format!(
            "file_path: {}\n",
            self.0.path("other.json").display()
        ));
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.live("status")).unwrap()).unwrap()
    }

    /// Kills this part of the mount, and waits until there is another one.
    fn kill(&self, part: &str) {
        let pid = self.status()[part].as_u64().unwrap();
        signal("KILL", pid as u32);
        wait_until("another process is there", || self.status()[part] != pid);
    }

    fn value(&self) -> String {
        fs::read_to_string(self.0.live("secrets/A")).unwrap()
    }

    /// Whether a command warns that the settings file is newer.
    fn is_newer(&self) -> bool {
        let said = ["status", "mount"].map(|command| {
            let ran = self.0.run(&[command]);
            assert_eq!(ran.code, 0, "{}", ran.err);
            ran.err.contains("live.yaml is newer than what is in force")
        });
        assert_eq!(said[0], said[1]);
        let status = self.0.run(&["status", "--json"]).done();
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["settings_changed"], said[0]);
        said[0]
    }

    fn reloads(&self) -> Value {
        self.status()["reload"]["number"].clone()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.0.command(support::home::BINARY).arg("umount").output();
    }
}

#[test]
fn edited_settings_take_effect_at_a_reload_and_never_at_a_crash() {
    let mount = Mounted::new();
    assert!(!mount.is_newer());
    let mut open = File::open(mount.0.live("secrets/A")).unwrap();
    mount.name_the_other_file();
    for part in ["server_pid", "keeper_pid", "server_pid"] {
        mount.kill(part);
        assert_eq!(mount.value(), "of-the-first");
    }
    assert!(mount.is_newer());
    let said = mount.0.run(&["reload"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(mount.value(), "of-the-other");
    assert!(!mount.is_newer());
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "of-the-first", "an open file keeps its value");
    // That the file is gone again is a change, too, and no crash takes it over.
    fs::remove_file(mount.0.path(".simpletuner/live.yaml")).unwrap();
    for part in ["keeper_pid", "server_pid"] {
        mount.kill(part);
        assert_eq!(mount.value(), "of-the-other");
    }
    assert!(mount.is_newer());
}

#[test]
fn settings_that_are_wrong_leave_the_old_ones_in_force() {
    let mount = Mounted::new();
    mount.settings("timeout: {totl: 3}\n");
    let said = mount.0.run(&["reload"]).failed();
    assert!(said.contains("totl") && said.contains("stays so"), "{said}");
    mount.kill("server_pid");
    assert_eq!(mount.value(), "of-the-first");
    let said = mount.0.run(&["status"]).err;
    assert!(
        said.contains("live.yaml is newer than what is in force"),
        "{said}"
    );
    let said = mount.0.run(&["mount"]).failed();
    assert!(
        said.contains("totl") && said.contains("goes on with the settings in force"),
        "{said}"
    );
    let log = fs::read_to_string(mount.0.path(".simpletuner/live.log")).unwrap();
    assert!(
        log.contains("error: the reload failed, and the old settings stay in force:"),
        "{log}"
    );
    mount.name_the_other_file();
    mount.0.run(&["reload"]).done();
    assert_eq!(mount.value(), "of-the-other");
}

#[test]
fn sighup_and_a_write_to_the_file_reload_have_the_settings_read_anew() {
    let mount = Mounted::new();
    let both = ["of-the-other", "of-the-first"].into_iter().cycle();
    let write = |mount: &Mounted| fs::write(mount.0.live("reload"), "\n").unwrap();
    let hup = |part: &str, mount: &Mounted| {
        signal("HUP", mount.status()[part].as_u64().unwrap() as u32);
    };
    let ways: [&dyn Fn(&Mounted); 3] = [
        &|mount| hup("keeper_pid", mount),
        &|mount| hup("server_pid", mount),
        &write,
    ];
    for ((number, way), value) in (1..).zip(ways).zip(both) {
        match value {
            "of-the-other" => mount.name_the_other_file(),
            _ => mount.settings(""),
        }
        way(&mount);
        wait_until("it is reloaded", || mount.reloads() == number);
        assert_eq!(mount.status()["reload"]["error"], Value::Null);
        assert_eq!(mount.value(), value);
    }
    let said = mount
        .0
        .sh("echo now | tee ~/.simpletuner/live/reload 2>&1 > /dev/null || true");
    assert!(said.contains("Invalid argument"), "{said}");
    assert_eq!(mount.reloads(), 3);
}

#[test]
fn a_reload_with_env_takes_over_the_variables_of_the_command() {
    let mount = Mounted::new();
    let token = || fs::read_to_string(mount.0.live("secrets/HF_TOKEN")).ok();
    let reload = |arguments: &[&str]| {
        let mut command = mount.0.command(support::home::BINARY);
        let command = command.env("HF_TOKEN", "of-the-command");
        support::home::ran(command.arg("reload").args(arguments))
    };
    reload(&[]).done();
    assert_eq!(token(), None, "only --env takes over variables");
    reload(&["--env"]).done();
    for part in ["server_pid", "keeper_pid", "server_pid", "keeper_pid"] {
        assert_eq!(token().as_deref(), Some("of-the-command"));
        mount.kill(part);
    }
    assert_eq!(token().as_deref(), Some("of-the-command"));
    assert_eq!(mount.value(), "of-the-first");
    // A reload that fails takes over no variables.
    mount.settings("nonsense: 1\n");
    let mut command = mount.0.command(support::home::BINARY);
    support::home::ran(command.env("HF_TOKEN", "newer").args(["reload", "--env"])).failed();
    mount.kill("server_pid");
    assert_eq!(token().as_deref(), Some("of-the-command"));
}

#[test]
fn a_reload_has_programs_asked_anew_and_a_second_mount_names_their_variables() {
    let mount = Mounted::new();
    mount.settings(
        "command:\n  - {name: who, run: [sh, -c, 'echo \"{\\\"B\\\": \\\"$WHO\\\"}\"'], env: [WHO]}\n",
    );
    let ran_with = |who: &str, arguments: &[&str]| {
        let mut command = mount.0.command(support::home::BINARY);
        support::home::ran(command.env("WHO", who).args(arguments))
    };
    for who in ["one", "another"] {
        ran_with(who, &["reload", "--env"]).done();
        let value = fs::read_to_string(mount.0.live("secrets/B")).unwrap();
        assert_eq!(value, who);
    }
    let said = ran_with("a-third", &["mount"]).err;
    assert!(said.contains("changed since: WHO;"), "{said}");
}

#[test]
fn variables_are_taken_over_up_to_128_kib_and_more_are_refused_with_the_reason() {
    let mount = Mounted::new();
    let reload = |size: usize| {
        let mut command = mount.0.command(support::home::BINARY);
        command.args(["reload", "--env"]).env("HF_TOKEN", "new");
        let half = "x".repeat(size / 2);
        support::home::ran(command.env("FIRST", &half).env("SECOND", &half))
    };
    let refused = reload(160 * 1024).failed();
    assert!(refused.contains("at most 131072 bytes"), "{refused}");
    assert!(fs::read(mount.0.live("secrets/HF_TOKEN")).is_err());
    reload(110 * 1024).done();
    let token = fs::read_to_string(mount.0.live("secrets/HF_TOKEN"));
    assert_eq!(token.unwrap(), "new");
}
