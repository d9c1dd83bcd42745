//! A reader that waits for a provider dies at once from a signal, and delays no other. The mount is in this very
//! process, over a provider that answers when the test says so; so only child processes use the mount, never a thread
//! of the test.

mod support;

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use simpletuner_live::credential::KeySource;
use simpletuner_live::error::{Error, Result};
use simpletuner_live::hardware::{ConfiguredPrices, Hardware};
use simpletuner_live::live::{Owner, Parts, Tree};
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::mount::{MountedTree, mount_tree};
use simpletuner_live::provider::file::{FileOptions, StoreLocation};
use simpletuner_live::provider::{FileProvider, KeyedSource, Provided};
use simpletuner_live::secret::{SecretName, SecretValue};
use support::home::is_mounted;
use support::{alone, scratch_home, wait_until, waits_for_the_mount};

/// The provider's answer, once it may answer.
#[derive(Clone, Copy)]
enum Says {
    Value(&'static str),
    Nothing,
    Failure,
}

#[derive(Default)]
struct Asked {
    /// The number of requests for each key.
    times: HashMap<String, usize>,
    says: Option<Says>,
}

/// A provider far away, which is silent at first.
#[derive(Default)]
struct Slow {
    asked: Mutex<Asked>,
    spoken: Condvar,
}

impl Slow {
    fn answer(&self, says: Says) {
        self.asked.lock().unwrap().says = Some(says);
        self.spoken.notify_all();
    }

    fn times(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.times.get(name).copied().unwrap_or(0)
    }
}

impl KeyedSource for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        let mut asked = self.asked.lock().unwrap();
        *asked.times.entry(name.to_string()).or_default() += 1;
        let asked = self
            .spoken
            .wait_while(asked, |asked| asked.says.is_none())
            .unwrap();
        match asked.says.unwrap() {
            Says::Value(value) => Ok(Some(Provided::now(
                SecretValue::new(value),
                SystemTime::UNIX_EPOCH,
            ))),
            Says::Nothing => Ok(None),
            Says::Failure => Err(Error::Settings("it is out of order".into())),
        }
    }
}

/// A mount over a file with `FILE` in it, and the slow provider behind.
struct Mount {
    slow: Arc<Slow>,
    children: Vec<Child>,
    // Dropped before its folder.
    mounted: Option<MountedTree>,
    home: tempfile::TempDir,
}

impl Mount {
    fn new() -> Self {
        let home = scratch_home();
        let store = home.path().join("store.json");
        fs::write(&store, r#"{"FILE": "from the file", "OLD": "to be moved"}"#).unwrap();
        let file = FileProvider::new(FileOptions {
            location: StoreLocation::at(store),
            key: KeySource::new(
                Some("a key of the test".into()),
                home.path().join("credential.key"),
            ),
            encrypt: true,
            max_stale: Duration::from_secs(3600),
            max_keys: 10_000,
            keep_previous: 1,
            lock_timeout: Duration::from_secs(10),
        });
        let slow = Arc::new(Slow::default());
        let manager = SecretsManager::builder()
            .with_provider(Arc::new(file))
            .with_source(slow.clone())
            .build();
        let hardware = Hardware::in_registry(
            manager.caches(),
            Box::new(|| ConfiguredPrices::Current(None)),
        );
        let owner = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            allows_root: false,
        };
        let tree = Tree::new(
            Parts {
                views: None,
                manager,
                hardware: Arc::new(hardware),
                configs: None,
                audit: None,
                processes: Arc::new(simpletuner_live::process::Proc),
            },
            owner,
        );
        let mounted = mount_tree(tree, &home.path().join("live"), false).unwrap();
        Self {
            slow,
            children: Vec::new(),
            mounted: Some(mounted),
            home,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.path().join("live").join(path)
    }

    fn spawn(&self, program: &str, args: &[&str]) -> Child {
        // A shell starts its background jobs, such as these tests, with these signals ignored.
        Command::new("env")
            .args(["--default-signal=INT,QUIT", program])
            .args(args)
            .current_dir(self.home.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    fn bash(&self, script: &str) -> Child {
        self.spawn("bash", &["-c", &format!("cd live; {script}")])
    }

    /// A reader that waits, which ends with the mount at the latest.
    fn reader(&mut self, name: &str) -> u32 {
        let asked = self.slow.times(name);
        let child = self.spawn("cat", &[&format!("live/secrets/{name}")]);
        let pid = child.id();
        self.children.push(child);
        wait_until("the provider is asked", || {
            asked > 0 || self.slow.times(name) > 0
        });
        wait_until("the reader waits in the mount", || waits_for_the_mount(pid));
        pid
    }

    fn take(&mut self, pid: u32) -> Child {
        let place = self.children.iter().position(|child| child.id() == pid);
        self.children.swap_remove(place.unwrap())
    }

    /// The output of a script that must not wait for the provider.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = ended(self.bash(script), script);
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Releases the waiting readers, so that a failed test does not hang.
        self.slow.answer(Says::Nothing);
        for mut child in self.children.drain(..) {
            let _ = child.wait();
        }
        self.mounted = None;
    }
}

/// The output of a process, once it has ended.
#[track_caller]
fn ended(mut child: Child, what: &str) -> Output {
    wait_until(what, || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

/// Whether the process has a handler for the signal, and the signal waits for it.
fn has_caught_and_pending(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    ["SigCgt:", "ShdPnd:"].iter().all(|field| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field));
        let mask = u64::from_str_radix(mask.unwrap_or("0").trim(), 16).unwrap();
        mask & (1 << (signal - 1)) != 0
    })
}

fn signal(signal: &str, target: &str) {
    let mut kill = Command::new("kill");
    let status = kill.args(["-s", signal, "--", target]).status();
    assert!(status.unwrap().success());
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn killed_by(status: ExitStatus) -> Option<i32> {
    status.signal()
}

const DEADLY: [(&str, i32); 4] = [
    ("INT", libc::SIGINT),
    ("TERM", libc::SIGTERM),
    ("KILL", libc::SIGKILL),
    ("HUP", libc::SIGHUP),
];

#[test]
fn a_waiting_reader_dies_from_a_signal_before_the_provider_answers() {
    let _alone = alone();
    let mut mount = Mount::new();
    for (name, number) in DEADLY {
        let reader = mount.reader(&format!("SLOW_{name}"));
        signal(name, &reader.to_string());
        let output = ended(mount.take(reader), name);
        assert_eq!(killed_by(output.status), Some(number));
        assert_eq!(output.stdout, b"");
    }
    // `stat` waits as well, and dies as well.
    let stat = mount.spawn("stat", &["live/secrets/SLOW_STAT"]);
    wait_until("the provider is asked", || {
        mount.slow.times("SLOW_STAT") > 0
    });
    signal("TERM", &stat.id().to_string());
    let output = ended(stat, "the waiting `stat` dies");
    assert_eq!(killed_by(output.status), Some(libc::SIGTERM));
}

#[test]
fn hundreds_of_waiting_readers_need_no_threads_and_all_die_from_a_signal() {
    let _alone = alone();
    let mut mount = Mount::new();
    let first = mount.reader("SLOW");
    let before = threads();
    let mut readers = vec![first];
    for _ in 1..300 {
        let child = mount.spawn("cat", &["live/secrets/SLOW"]);
        readers.push(child.id());
        mount.children.push(child);
    }
    wait_until("all wait in the mount", || {
        readers.iter().all(|&pid| waits_for_the_mount(pid))
    });
    // The threads of other tests and of mounts that ended come and go.
    assert!(threads() < before + readers.len() / 10);
    assert_eq!(mount.slow.times("SLOW"), 1);
    for (place, reader) in readers.iter().enumerate() {
        signal(DEADLY[place % DEADLY.len()].0, &reader.to_string());
    }
    for (place, &reader) in readers.iter().enumerate() {
        let output = ended(mount.take(reader), "a reader dies");
        assert_eq!(
            killed_by(output.status),
            Some(DEADLY[place % DEADLY.len()].1)
        );
    }
    assert_eq!(mount.sh("cat secrets/FILE"), "from the file");
}

#[test]
fn a_waiting_reader_delays_no_other() {
    let _alone = alone();
    let mut mount = Mount::new();
    let reader = mount.reader("SLOW");
    assert_eq!(mount.sh("ls secrets"), "FILE\nOLD\n");
    assert_eq!(mount.sh("stat -c %s secrets/FILE"), "13\n");
    assert_eq!(mount.sh("cat secrets/FILE"), "from the file");
    mount.sh("echo other > secrets/FILE; [ \"$(<secrets/FILE)\" = other ]");
    mount.sh("mv secrets/OLD secrets/FILE; [ \"$(<secrets/FILE)\" = 'to be moved' ]");
    assert_eq!(mount.sh("ls secrets"), "FILE\n");
    for control in [
        "status",
        "metrics",
        "events",
        "cache/stats",
        "providers/slow",
        "hardware/all.json",
    ] {
        assert!(!mount.sh(&format!("cat {control}")).is_empty(), "{control}");
    }
    mount.sh("echo secret:FILE > cache/invalidate; cat cache/invalidate; echo > cache/clear");
    assert!(mount.sh("cat bundle/secrets.json").contains("to be moved"));
    mount.sh("rm secrets/FILE");
    assert_eq!(mount.sh("ls -l secrets | wc -l"), "1\n");
    assert!(waits_for_the_mount(reader));
    mount.slow.answer(Says::Value("at last"));
    let output = ended(mount.take(reader), "the reader has its value");
    assert_eq!(output.stdout, b"at last");
}

#[test]
fn a_new_secret_is_written_while_the_provider_is_silent() {
    let _alone = alone();
    let mut mount = Mount::new();
    let reader = mount.reader("SLOW");
    mount.sh("echo v > secrets/NEW; [ \"$(<secrets/NEW)\" = v ]");
    // The key that a reader waits for.
    mount.sh("echo mine > secrets/SLOW; [ \"$(<secrets/SLOW)\" = mine ]");
    mount.sh("python3 -c 'import os; os.rename(\"secrets/NEW\", \"secrets/NEWER\")'");
    assert_eq!(mount.sh("ls secrets"), "FILE\nNEWER\nOLD\nSLOW\n");
    mount.slow.answer(Says::Value("far"));
    let output = ended(mount.take(reader), "the reader is answered");
    assert_eq!(output.stdout, b"mine\n");
}

#[test]
fn the_exit_of_a_child_does_not_interrupt_the_shells_read() {
    let _alone = alone();
    let mut mount = Mount::new();
    // A handler for the end of its children, which `$(<...)` has in the process that reads.
    let bash = mount.bash("trap : CHLD; value=$(<secrets/SLOW); echo \"got $value\"");
    let group = bash.id();
    wait_until("the provider is asked", || mount.slow.times("SLOW") > 0);
    signal("CHLD", &format!("-{group}"));
    wait_until("the signal is at hand where the shell reads", || {
        let children = fs::read_to_string(format!("/proc/{group}/task/{group}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children
            .chain([group])
            .any(|pid| waits_for_the_mount(pid) && has_caught_and_pending(pid, libc::SIGCHLD))
    });
    // A reader that is killed after that is checked together with the shell, or after it.
    let other = mount.reader("SLOW");
    signal("TERM", &other.to_string());
    let output = ended(mount.take(other), "the other reader dies");
    assert_eq!(killed_by(output.status), Some(libc::SIGTERM));
    mount.slow.answer(Says::Value("it"));
    let output = ended(bash, "the shell has its value");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "got it\n",
        "{said}"
    );
}

#[test]
fn a_thousand_cold_readers_cost_one_request_and_all_get_the_value() {
    let _alone = alone();
    let mount = Mount::new();
    let bash = mount.bash("for i in {1..1000}; do cat secrets/SLOW & done; wait");
    let children = format!("/proc/{0}/task/{0}/children", bash.id());
    wait_until("all of them wait in the mount", || {
        let children = fs::read_to_string(&children).unwrap();
        let waiting = children
            .split_whitespace()
            .filter(|pid| waits_for_the_mount(pid.parse().unwrap()));
        waiting.count() == 1000
    });
    mount.slow.answer(Says::Value("value"));
    let output = ended(bash, "all have read");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, "");
    assert_eq!(output.stdout, b"value".repeat(1000));
    assert_eq!(mount.slow.times("SLOW"), 1);
    assert_eq!(
        mount.sh("stat -c %s secrets/SLOW; cat secrets/SLOW"),
        "5\nvalue"
    );
    assert_eq!(mount.slow.times("SLOW"), 1);
}

/// The output of `stat` and `cat` of a key, after waiting for the provider's answer.
fn said_after(says: Says) -> Vec<String> {
    let mount = Mount::new();
    let readers = ["stat", "cat"].map(|program| {
        let name = program.to_uppercase();
        let reader = mount.spawn(program, &[&format!("live/secrets/{name}")]);
        wait_until("the provider is asked", || mount.slow.times(&name) > 0);
        reader
    });
    mount.slow.answer(says);
    let said = readers.map(|reader| {
        let output = ended(reader, "the reader is answered");
        assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
        String::from_utf8(output.stderr).unwrap()
    });
    said.into()
}

#[test]
fn a_key_that_no_provider_has_is_missing_after_the_wait() {
    let _alone = alone();
    for said in said_after(Says::Nothing) {
        assert!(said.contains("No such file or directory"), "{said}");
    }
}

#[test]
fn a_provider_that_fails_after_the_wait_is_an_error_and_not_a_missing_key() {
    let _alone = alone();
    for said in said_after(Says::Failure) {
        assert!(said.contains("Input/output error"), "{said}");
    }
}

/// Programs that open safely (systemd's, container runtimes) first take a descriptor that is only a path.
#[test]
fn a_descriptor_of_a_cold_name_that_is_only_a_path_leads_to_the_value_after_the_wait() {
    let _alone = alone();
    let mount = Mount::new();
    let script = r#"
import os, subprocess
p = os.open('live/secrets/SLOW', os.O_PATH)
by_path = f'/proc/self/fd/{p}'
for _ in range(2):
    with open(by_path) as file:
        size = os.fstat(file.fileno()).st_size
        assert (file.read(), size) == ('at last', 7), size
assert subprocess.check_output(['cat', by_path], pass_fds=[p]) == b'at last'
try:
    open(by_path, 'r+')
    assert False
except OSError as error:
    assert error.strerror == 'Stale file handle', error
open('live/secrets/SLOW', 'w').write('mine')
assert open(by_path).read() == open('live/secrets/SLOW').read() == 'mine'
"#;
    let reader = mount.spawn("python3", &["-c", script]);
    wait_until("the provider is asked", || mount.slow.times("SLOW") > 0);
    mount.slow.answer(Says::Value("at last"));
    let output = ended(reader, "the reader has its value");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

#[test]
fn the_mount_is_gone_when_its_guard_is_dropped() {
    let _alone = alone();
    let mut mount = Mount::new();
    let point = mount.path("");
    assert!(is_mounted(&point));
    mount.sh("echo kept > secrets/K");
    mount.mounted = None;
    assert!(!is_mounted(&point));
    let store = fs::read_to_string(mount.home.path().join("store.json")).unwrap();
    assert!(store.contains("\"K\""));
}
