//! A mount under a service manager, which stores the mount's descriptors between starts.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout};

use super::*;

/// A service manager as sd_notify(3) and sd_listen_fds(3) describe it. For each line of input it starts the program with
/// the stored descriptors; after each message it prints the program's state.
const MANAGER: &str = r#"
import fcntl, json, os, select, socket, sys
path = os.environ['HOME'] + '/notify'
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
store, known = {}, {}
def start():
    if os.fork():
        return
    names = list(store)
    high = [fcntl.fcntl(store[name], fcntl.F_DUPFD, 50) for name in names]
    for i, fd in enumerate(high):
        os.dup2(fd, 3 + i)
    os.closerange(3 + len(names), 100)
    os.environ.update(NOTIFY_SOCKET=path, LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=':'.join(names))
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    ready, _, _ = select.select([sys.stdin, notify], [], [])
    if sys.stdin in ready:
        if not sys.stdin.readline():
            break
        known = {}
        start()
    if notify in ready:
        message, fds, _, _ = socket.recv_fds(notify, 4096, 8)
        fields = dict(line.split('=', 1) for line in message.decode().splitlines())
        name = fields.pop('FDNAME', None)
        if fields.pop('FDSTORE', None):
            store[name] = fds[0]
        if fields.pop('FDSTOREREMOVE', None) and name in store:
            os.close(store.pop(name))
        known.update(fields, store=sorted(store))
        print(json.dumps(known), flush=True)
"#;

struct Manager {
    process: Child,
    orders: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Manager {
    fn of(home: &Home) -> Self {
        let mut process = home
            .command("python3")
            .args([
                "-c",
                MANAGER,
                support::home::BINARY,
                "mount",
                "--foreground",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(home.path("log")).unwrap())
            .spawn()
            .unwrap();
        Self {
            orders: process.stdin.take().unwrap(),
            says: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    fn start(&mut self) {
        writeln!(self.orders, "start").unwrap();
    }

    /// Waits for a state with this property, and returns it.
    fn until(&mut self, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            assert!(
                self.says.read_line(&mut line).unwrap() > 0,
                "the manager ended"
            );
            let known = serde_json::from_str(&line).unwrap();
            if is_so(&known) {
                return known;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn with_a_service_manager_the_mount_survives_when_both_processes_are_killed_at_once() {
    let _alone = alone();
    let home = Home::new();
    let mut manager = Manager::of(&home);
    manager.start();
    let known = manager.until(|known| known["store"].as_array().unwrap().len() == 2);
    assert_eq!(known["READY"], "1");
    let status =
        || -> Value { serde_json::from_slice(&fs::read(home.live("status")).unwrap()).unwrap() };
    if status()["kernel"]["resend"] != true {
        return;
    }
    assert_eq!(known["MAINPID"], status()["keeper_pid"].to_string());
    fs::write(home.live("secrets/A"), "value").unwrap();
    let mount = || fs::metadata(home.live("secrets")).unwrap();
    let (device, folder) = (mount().dev(), mount().ino());
    let old_reader = File::open(home.live("secrets/A")).unwrap();
    let mut old_writer = File::create(home.live("secrets/A")).unwrap();

    for _ in 0..3 {
        // Started before the kill: without a server, a process that has files of the mount open to write cannot start
        // another process.
        let mut reader = home.command("bash");
        let mut reader = reader
            .args(["-c", "read; exec cat \"$0\""])
            .arg(home.live("secrets/A"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        home.kill(&home.live(""));
        reader.stdin.take().unwrap().write_all(b"\n").unwrap();
        wait_until("the reader waits", || waits_for_the_mount(reader.id()));
        manager.start();
        assert_eq!(done(reader), "value");
        assert_eq!((mount().dev(), mount().ino()), (device, folder));
        let known = manager.until(|known| known["READY"] == "1");
        assert_eq!(known["store"].as_array().unwrap().len(), 2);
    }
    // The new server does not know the old handles, and does not confuse them with new ones.
    let mut text = String::new();
    assert!((&old_reader).read_to_string(&mut text).is_err() || text == "value");
    assert!(old_writer.write_all(b"lost").is_err());
    drop((old_reader, old_writer));
    fs::write(home.live("secrets/B"), "other").unwrap();
    assert_eq!(fs::read_to_string(home.live("secrets/A")).unwrap(), "value");
    assert_eq!(fs::read_to_string(home.live("secrets/B")).unwrap(), "other");

    // The new keeper becomes the main process.
    let keeper = status()["keeper_pid"].as_u64().unwrap();
    signal("KILL", keeper as u32);
    let known = manager.until(|known| known["MAINPID"].as_str() != Some(&keeper.to_string()));
    let main: u32 = known["MAINPID"].as_str().unwrap().parse().unwrap();
    signal("TERM", main);
    let known = manager.until(|known| known["store"].as_array().unwrap().is_empty());
    assert_eq!(known["STOPPING"], "1");
    wait_until("the mount is unmounted", || !is_mounted(&home.live("")));
}

#[test]
fn the_views_survive_the_end_of_both_processes_under_a_service_manager() {
    let _alone = alone();
    let home = Home::new();
    home.write(".simpletuner/views.json", r#"{"v": {"secrets": ["A"]}}"#);
    let mut manager = Manager::of(&home);
    manager.start();
    let is_stored = |known: &Value| known["store"].as_array().unwrap().len() == 4;
    wait_until("the mount answers", || {
        fs::read(home.live("status")).is_ok()
    });
    let status: Value = serde_json::from_slice(&fs::read(home.live("status")).unwrap()).unwrap();
    if status["kernel"]["resend"] != true {
        return;
    }
    manager.until(is_stored);
    fs::write(home.live("secrets/A"), "value").unwrap();
    let place = home.path(".simpletuner/views");
    let folder = || {
        let folder = fs::metadata(place.join("v")).unwrap();
        (folder.dev(), folder.ino())
    };
    let before = folder();
    for round in 0..2 {
        home.kill(&home.live(""));
        manager.start();
        let value = format!("value {round}");
        wait_until("the mount answers", || {
            fs::write(home.live("secrets/A"), &value).is_ok()
        });
        assert_eq!(fs::read_to_string(place.join("v/A")).unwrap(), value);
        assert_eq!(folder(), before);
    }
    fs::remove_file(home.live("views/v.json")).unwrap();
    manager.until(|known| known["store"].as_array().unwrap().len() == 2);
    assert!(!is_mounted(&place));
    fs::write(home.live("views/w.json"), r#"{"secrets": ["A"]}"#).unwrap();
    manager.until(is_stored);
    let keeper: Value = serde_json::from_slice(&fs::read(home.live("status")).unwrap()).unwrap();
    signal("TERM", keeper["keeper_pid"].as_u64().unwrap() as u32);
    manager.until(|known| known["store"].as_array().unwrap().is_empty());
    wait_until("both are unmounted", || {
        !is_mounted(&home.live("")) && !is_mounted(&place)
    });
}

#[test]
fn systemd_accepts_the_unit_for_a_user_and_for_the_machine() {
    let home = Home::new();
    let verify = |scope: &str, args: &[&str]| {
        let mut print = vec!["install-service", "--print"];
        print.extend(args);
        let unit = home.run(&print).done();
        home.write("simpletuner-live.service", &unit);
        let verified = home
            .command("systemd-analyze")
            .args([scope, "verify", "./simpletuner-live.service"])
            .env("XDG_RUNTIME_DIR", home.0.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success(), "{unit}\n{said}");
        // `verify` succeeds despite warnings. Those about other units do not matter.
        assert!(!said.contains("simpletuner-live.service"), "{unit}\n{said}");
        unit
    };
    let own = verify("--user", &["my secrets/100% live"]);
    assert!(own.contains("my secrets/100%% live\""), "{own}");
    verify("--system", &["--system", "/run/secrets-live"]);
    let other = verify(
        "--system",
        &["--system", "--user", "daemon", "--allow-root"],
    );
    assert!(other.contains("\nUser=daemon\n"), "{other}");
    let below_run = verify(
        "--system",
        &["--system", "--user", "trainer", "/run/trainer/my live"],
    );
    assert!(
        below_run.contains("\nRuntimeDirectory=trainer\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=restart\n"),
        "{below_run}"
    );
    // Options that would hide the mount from all other processes.
    for option in [
        "Protect",
        "Private",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "TemporaryFileSystem",
        "DynamicUser",
    ] {
        for unit in [&own, &other] {
            assert!(!unit.lines().any(|line| line.starts_with(option)), "{unit}");
        }
    }
}

#[test]
fn install_service_refuses_a_user_that_is_missing_and_a_folder_that_is_not_theirs() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let refused = |args: &[&str], words: &str| {
        let mut all = vec!["install-service", "--system", "--user"];
        all.extend(args);
        let said = home.run(&all).failed();
        assert!(said.contains(words), "{said}");
    };
    let roots = home.path("roots/deep/live").display().to_string();
    home.sh("chmod 755 .; mkdir roots");
    refused(
        &["no_such_user"],
        "this machine has no user no_such_user\nhint: sudo useradd --system --create-home no_such_user",
    );
    let mend = format!(
        "hint: sudo install -d -o daemon {}",
        home.path("roots/deep").display()
    );
    refused(&["daemon", &roots], &mend);
    refused(
        &["daemon", "/run/secrets-live"],
        "the service manager makes: /run/secrets-live/live",
    );
    refused(&["daemon", "/run"], "choose a folder in one of its own");
}

#[test]
fn install_service_does_not_overwrite_a_changed_unit_without_force() {
    let home = Home::new();
    let path = home.run(&["install-service"]).done();
    assert!(
        path.trim_end()
            .ends_with(".config/systemd/user/simpletuner-live.service"),
        "{path}"
    );
    home.run(&["install-service"]).done();
    home.sh("echo '# mine' >> .config/systemd/user/simpletuner-live.service");
    let said = home.run(&["install-service"]).failed();
    assert!(said.contains("--force"), "{said}");
    home.run(&["install-service", "--force"]).done();
    let said = home
        .run(&["install-service", "--system", "--user", "no one", "--print"])
        .failed();
    assert!(said.contains("not a user name"), "{said}");
}
