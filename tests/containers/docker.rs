//! Docker: `docker volume`, `docker run -v`.

use std::process::{Child, Stdio};

use super::*;

/// An engine with a folder of its own. It has no network.
pub(super) struct Engine {
    home: tempfile::TempDir,
    daemon: Child,
}

impl Engine {
    /// `None`, with a message, if it cannot be started.
    pub(super) fn start() -> Option<Self> {
        if !is_root() {
            return None;
        }
        if Command::new("docker").arg("--version").output().is_err() {
            eprintln!("skipped: there is no docker here");
            return None;
        }
        let home = scratch_home();
        fs::write(home.path().join("config.json"), "{}").unwrap();
        let daemon = match Self::spawn(home.path()) {
            Ok(daemon) => daemon,
            Err(error) => {
                eprintln!("skipped: dockerd cannot be started: {error}");
                return None;
            }
        };
        let mut engine = Self { home, daemon };
        if !engine.answers() {
            return None;
        }
        let root = engine.home.path().join("root");
        make_root(&root);
        let import = "tar -C \"$0\" -c . | docker -H \"$1\" import - bb";
        let mut shell = Command::new("bash");
        ran(shell.args(["-c", import]).arg(root).arg(engine.host())).done();
        Some(engine)
    }

    fn spawn(home: &Path) -> std::io::Result<Child> {
        let path = |name: &str| home.join(name);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path("dockerd.log"))?;
        let mut command = Command::new("dockerd");
        command
            .args(["--iptables=false", "--bridge=none", "--storage-driver=vfs"])
            .args(["--live-restore", "--config-file"])
            .arg(path("config.json"))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("-H")
            .arg(format!("unix://{}", path("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.spawn()
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.home.path().join("docker.sock").display())
    }

    fn answers(&mut self) -> bool {
        let mut is_there = false;
        wait_until("the engine answers or ends", || {
            is_there = self.run(&["version"]).code == 0;
            is_there || self.daemon.try_wait().unwrap().is_some()
        });
        if !is_there {
            let log = fs::read_to_string(self.home.path().join("dockerd.log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            eprintln!("skipped: dockerd does not run here: {last:#?}");
        }
        is_there
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        let mut docker = Command::new("docker");
        docker.args(["-H", &self.host()]).args(args);
        docker.env("HOME", self.home.path()).stdin(Stdio::null());
        ran(&mut docker)
    }

    /// What a shell prints in a container with these options.
    fn sh(&self, options: &[&str], script: &str) -> CommandOutput {
        let before = ["run", "--rm", "--network=none"];
        self.run(&[&before, options, &["bb", "sh", "-c", script]].concat())
    }

    /// Ends the engine, while its containers run on, and starts it again.
    fn restart(&mut self) {
        self.end();
        self.daemon = Self::spawn(self.home.path()).unwrap();
        assert!(self.answers());
    }

    fn end(&mut self) {
        if self.daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal("TERM", self.daemon.id());
            let _ = self.daemon.wait();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let containers = self.run(&["ps", "-aq"]).out;
        for container in containers.lines() {
            self.run(&["rm", "-f", container]);
        }
        self.end();
    }
}

#[test]
fn volumes_are_views_with_their_own_users_subsets_and_names() {
    let Some(docker) = Engine::start() else {
        return;
    };
    let driver = own_name("a");
    let daemon = Daemon::for_docker(&driver);
    for (secret, value) in [("HF_TOKEN", "hf_1"), ("WANDB_API_KEY", "w"), ("OTHER", "o")] {
        daemon.set(secret, value);
    }
    let create = |name: &str, options: &[&str]| {
        let mut args = vec!["volume", "create", "-d", &driver];
        options
            .iter()
            .for_each(|option| args.extend(["-o", *option]));
        args.push(name);
        docker.run(&args)
    };
    let secrets = "secrets=HF_TOKEN,WANDB_*";
    create("hf", &[secrets, "user=1000:1000", "documents=env"]).done();
    create("hf", &[secrets, "user=1000:1000", "documents=env"]).done();
    create("web", &["secrets=OTHER=token", "user=2000", "mode=0400"]).done();
    let said = create("bad", &["secret=HF_TOKEN"]).failed();
    assert!(
        said.contains("the options are secrets, user, mode, documents"),
        "{said}"
    );
    let said = create("bad", &["secrets=a/b"]).failed();
    assert!(said.contains("only letters"), "{said}");
    let listed = docker.run(&[
        "volume",
        "ls",
        "-q",
        "--filter",
        &format!("driver={driver}"),
    ]);
    assert_eq!(listed.done(), "hf\nweb\n");
    let views = daemon.cli(&["view", "ls", "--json"]).done();
    assert!(
        views.contains("\"hf\"") && views.contains("\"web\""),
        "{views}"
    );

    // Each user reads what is theirs, with a root folder that nobody can write, too.
    let first = [
        "--read-only",
        "--user",
        "1000:1000",
        "-v",
        "hf:/run/secrets",
    ];
    let names = docker
        .sh(&first, "ls /run/secrets && cat /run/secrets/HF_TOKEN")
        .done();
    assert_eq!(names, "HF_TOKEN\nWANDB_API_KEY\nsecrets.env\nhf_1");
    let second = ["--user", "2000", "-v", "web:/run/secrets:ro"];
    let names = docker
        .sh(&second, "ls /run/secrets && cat /run/secrets/token")
        .done();
    assert_eq!(names, "token\no");
    let stranger = ["--user", "2000", "-v", "hf:/run/secrets"];
    docker.sh(&stranger, "cat /run/secrets/HF_TOKEN").denied();
    docker.sh(&stranger, "ls /run/secrets").denied();
    let written = docker.sh(
        &first,
        "touch /run/secrets/new 2>&1 || cat /run/secrets/WANDB_API_KEY",
    );
    assert!(written.done().ends_with("Read-only file system\nw"));
    // A volume that is made as the container is.
    let implied = [
        "--volume-driver",
        &driver,
        "-v",
        "hf:/run/secrets",
        "--user",
        "1000",
    ];
    assert_eq!(
        docker.sh(&implied, "cat /run/secrets/HF_TOKEN").done(),
        "hf_1"
    );

    // A volume that is in use stays, whether the engine or the daemon is asked to remove it.
    let run = [
        &["run", "-d", "--name", "holder", "--network=none"],
        &first[..],
        &["bb", "sleep", "1000"],
    ];
    docker.run(&run.concat()).done();
    assert_ne!(docker.run(&["volume", "rm", "hf"]).code, 0);
    let (status, said) = socket::ask(&daemon.socket, "/VolumeDriver.Remove", r#"{"Name":"hf"}"#);
    assert!(
        status == 500
            && said.contains("is in use: the container ")
            && said.contains(" has the view hf at /run/secrets"),
        "{said}"
    );
    docker.run(&["rm", "-f", "holder"]).done();
    docker.run(&["volume", "rm", "hf", "web"]).done();
    assert_eq!(daemon.cli(&["view", "ls", "--json"]).done().trim(), "{}");
    // The engine's process has asked.
    wait_until("the changes are recorded", || {
        let tail = daemon.cli(&["audit", "tail", "-n", "1000"]).done();
        let by_engine = |what: &str| {
            tail.lines()
                .any(|line| line.contains("dockerd[") && line.ends_with(what))
        };
        by_engine("View hf set") && by_engine("View web removed")
    });
}

#[test]
fn a_container_reads_through_rotations_killed_servers_an_upgrade_and_a_restart_of_the_engine() {
    let Some(mut docker) = Engine::start() else {
        return;
    };
    let driver = own_name("b");
    let daemon = Daemon::for_docker(&driver);
    daemon.set("HF_TOKEN", "hf_0");
    let create = [
        "volume",
        "create",
        "-d",
        &driver,
        "-o",
        "secrets=HF_TOKEN",
        "-o",
        "user=1000",
        "hf",
    ];
    docker.run(&create).done();
    let run = [
        "run",
        "-d",
        "--name",
        "reader",
        "--network=none",
        "--user",
        "1000",
        "-v",
        "hf:/run/secrets",
    ];
    docker
        .run(&[&run[..], &["bb", "sh", "-c", READER]].concat())
        .done();
    let said = |docker: &Engine| docker.run(&["logs", "reader"]);
    let mut expected = String::new();
    let mut rotate = |docker: &Engine, turn: usize| {
        if turn > 0 {
            daemon.set("HF_TOKEN", &format!("hf_{turn}"));
        }
        expected.push_str(&format!("hf_{turn}\n"));
        wait_until("the container reads it", || said(docker).out == expected);
    };
    rotate(&docker, 0);
    rotate(&docker, 1);
    let created_at = || {
        let inspect = ["volume", "inspect", "-f", "{{.CreatedAt}}", "hf"];
        docker.run(&inspect).done()
    };
    let created = created_at();
    assert!(created.starts_with("20"), "{created}");
    daemon.kill("server_pid");
    assert_eq!(created_at(), created);
    rotate(&docker, 2);
    daemon.kill("keeper_pid");
    daemon.kill("server_pid");
    rotate(&docker, 3);
    daemon.cli(&["upgrade"]).done();
    rotate(&docker, 4);
    docker.restart();
    rotate(&docker, 5);
    // The state is in the views alone: the engine finds them again.
    let mounted = docker
        .run(&["volume", "inspect", "-f", "{{.Mountpoint}}", "hf"])
        .done();
    assert_eq!(
        mounted.trim(),
        daemon.cli(&["view", "path", "hf"]).done().trim()
    );
    docker.run(&create).done();
    docker.run(&["stop", "-t", "0", "reader"]).done();
    docker.run(&["start", "reader"]).done();
    wait_until("the container reads again", || {
        said(&docker).out.ends_with("hf_5\nhf_5\n")
    });
    assert_eq!(said(&docker).err, "");
    docker.run(&["rm", "-f", "reader"]).done();
    docker.run(&["volume", "rm", "hf"]).done();
}
