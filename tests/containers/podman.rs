//! Podman: the same protocol, spoken in its own way.

use super::*;

/// Podman with all its files in a folder of its own.
pub(super) struct Podman {
    home: tempfile::TempDir,
}

impl Podman {
    /// `None`, with a message, if it does not run here.
    pub(super) fn new(driver: &str, socket: &Path) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let podman = Self {
            home: scratch_home(),
        };
        let settings = format!(
            "[containers]\ndefault_ulimits = []\n[engine]\nvolume_path = \"{}\"\n[engine.volume_plugins]\n{driver} = \"{}\"\n",
            podman.path("volumes").display(),
            socket.display()
        );
        fs::write(podman.path("containers.conf"), settings).unwrap();
        make_root(&podman.path("root"));
        match Command::new("podman").arg("--version").output() {
            Err(error) => eprintln!("skipped: podman cannot be started: {error}"),
            Ok(_) => {
                let tried = podman.sh(&[], "echo works");
                if tried.code == 0 {
                    return Some(podman);
                }
                eprintln!("skipped: podman does not run here: {}", tried.err);
            }
        }
        None
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    pub(super) fn run(&self, args: &[&str]) -> CommandOutput {
        self.run_by(Command::new("podman"), args)
    }

    /// Runs it by a program that executes it.
    fn run_by(&self, mut podman: Command, args: &[&str]) -> CommandOutput {
        for (option, folder) in [
            ("--root", "data"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            podman.arg(option).arg(self.path(folder));
        }
        podman
            .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"])
            .args(["--storage-driver", "vfs", "--events-backend", "file"])
            .args(args)
            .env("CONTAINERS_CONF", self.path("containers.conf"));
        ran(&mut podman)
    }

    /// What a shell prints in a container with these options.
    fn sh(&self, options: &[&str], script: &str) -> CommandOutput {
        let root = self.path("root").display().to_string();
        let before = ["run", "--rm", "--network=none", "--read-only"];
        let after = ["--rootfs", &root, "sh", "-c", script];
        self.run(&[&before, options, &after].concat())
    }
}

#[test]
fn a_volume_of_podman_is_a_view_and_shows_a_rotation() {
    let home = scratch_home();
    let daemon = Daemon::at(home.path().join("plugin.sock"));
    let Some(podman) = Podman::new("simpletuner-live", &daemon.socket) else {
        return;
    };
    daemon.set("HF_TOKEN", "hf_1");
    let create = |name: &str, option: &str| {
        let driver = ["volume", "create", "--driver", "simpletuner-live"];
        podman.run(&[&driver[..], &["--opt", option, "--opt", "user=1000", name]].concat())
    };
    assert_eq!(create("hf", "secrets=HF_*").done(), "hf\n");
    let said = create("bad", "secret=HF_TOKEN");
    assert!(
        said.code != 0 && said.err.contains("the options are"),
        "{}",
        said.err
    );
    let read = |user: &str| {
        let options = ["--user", user, "-v", "hf:/run/secrets"];
        podman.sh(&options, "cat /run/secrets/HF_TOKEN")
    };
    assert_eq!(read("1000").done(), "hf_1");
    read("2000").denied();
    daemon.set("HF_TOKEN", "hf_2");
    daemon.kill("server_pid");
    assert_eq!(read("1000").done(), "hf_2");
    // In a user namespace, the kernel checks the users behind those of the container, and keeps all flags of the mount.
    let mapped = [
        "--uidmap",
        "0:1000:1",
        "--uidmap",
        "1:100000:1000",
        "--gidmap",
        "0:100000:1000",
        "-v",
        "hf:/run/secrets:ro,noexec",
    ];
    assert_eq!(
        podman.sh(&mapped, "cat /run/secrets/HF_TOKEN").done(),
        "hf_2"
    );
    let listed = podman.run(&["volume", "ls", "-q"]).done();
    assert_eq!(listed, "hf\n");
    podman.run(&["volume", "rm", "hf"]).done();
    assert_eq!(daemon.cli(&["view", "ls", "--json"]).done().trim(), "{}");
}

#[test]
fn a_device_of_a_container_is_a_view_at_run_secrets() {
    let home = scratch_home();
    let daemon = Daemon::at(home.path().join("plugin.sock"));
    let Some(podman) = Podman::new("simpletuner-live", &daemon.socket) else {
        return;
    };
    daemon.set("HF_TOKEN", "hf_1");
    let create = [
        "view", "create", "trainer", "--secret", "HF_*", "--user", "1000",
    ];
    daemon.cli(&create).done();
    let dir = home.path().join("cdi");
    daemon
        .cli(&["view", "cdi", "--dir", dir.to_str().unwrap()])
        .done();
    // The engine's own folder, in a mount namespace of its own: this machine's stays as it is.
    let script = "mkdir -p /run/cdi && mount --bind \"$0\" /run/cdi && exec podman \"$@\"";
    let mut unshared = Command::new("unshare");
    unshared.args(["-m", "sh", "-c", script]).arg(&dir);
    let root = podman.path("root").display().to_string();
    let device = "simpletuner.live/view=trainer";
    let run = [
        "run",
        "--rm",
        "--network=none",
        "--user",
        "1000",
        "--device",
        device,
        "--rootfs",
        &root,
    ];
    let read = [
        &run[..],
        &["sh", "-c", "ls /run/secrets && cat /run/secrets/HF_TOKEN"],
    ]
    .concat();
    assert_eq!(podman.run_by(unshared, &read).done(), "HF_TOKEN\nhf_1");
}
