//! A value is shown only where it is asked for: never in logs, messages, reports, process lists or files.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Live, Setup, alone, log_with, wait_until};

/// In every value of these tests, and nowhere else.
const MARKER: &str = "mArKeR-7f3a";

fn marked(number: u32) -> String {
    format!("{MARKER}-{number}")
}

fn holds_marker(bytes: &[u8]) -> bool {
    bytes
        .windows(MARKER.len())
        .any(|window| window == MARKER.as_bytes())
}

/// The places that show a marker although they must not.
#[derive(Default)]
struct Shown(Vec<String>);

impl Shown {
    fn look_at(&mut self, what: impl std::fmt::Display, bytes: &[u8]) {
        if holds_marker(bytes) {
            self.0
                .push(format!("{what}: {}", String::from_utf8_lossy(bytes)));
        }
    }
}

/// Every file and folder below `dir`, except the mount.
fn files_below(dir: &Path, mount: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path == mount {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                found.push(path.clone());
                found.extend(files_below(&path, mount));
            }
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

/// Runs a command with a value on standard input, and checks its output, except that of `get` and `decrypt`.
fn run(live: &Live, shown: &mut Shown, args: &[&str], input: &str) -> Option<i32> {
    use std::io::Write;
    let mut child = live
        .cli()
        .args(args)
        .env("TMPDIR", live.home("tmp"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command may exit without reading it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if args[0] != "get" && args[0] != "decrypt" {
        shown.look_at(format!("{args:?} prints"), &output.stdout);
    }
    shown.look_at(format!("{args:?} says"), &output.stderr);
    output.status.code()
}

/// Does everything that can be done with a value, and everything that can fail.
fn live_through_all(live: &Live, shown: &mut Shown) {
    let (one, two) = (marked(1), marked(2));
    let secret = |name: &str| live.path("secrets").join(name);
    live.write("secrets/A", &one);
    assert_eq!(live.read("secrets/A"), one);
    live.write("secrets/A", &two);
    fs::rename(secret("A"), secret("B")).unwrap();
    live.sh(&format!("sed -i s/-2/-3/ secrets/B; printf %s {one} >> secrets/B; cp secrets/B secrets/.scratch; rm secrets/.scratch"));
    assert_eq!(run(live, shown, &["set", "C"], &one), Some(0));
    assert_eq!(run(live, shown, &["set", "D", "-"], &two), Some(0));
    assert_eq!(run(live, shown, &["get", "C"], ""), Some(0));
    assert_eq!(run(live, shown, &["set", "HF_TOKEN"], &two), Some(0));
    for args in [
        &["ls"][..],
        &["ls", "-l"],
        &["ls", "--json"],
        &["status"],
        &["status", "--json"],
        &["cache", "stats"],
        &["cache", "clear"],
        &["cache", "invalidate", "secret:"],
        &["encrypt-file"],
        &["rm", "D"],
    ] {
        assert_eq!(run(live, shown, args, ""), Some(0), "{args:?}");
    }
    // Another program edits the secrets file.
    live.sh("jq '.E = \"plain\"' ~/.simpletuner/secrets.json > ~/.simpletuner/.n; chmod 600 ~/.simpletuner/.n; mv ~/.simpletuner/.n ~/.simpletuner/secrets.json");
    let edited = || fs::read(live.path("secrets/E")).is_ok_and(|value| value == b"plain");
    wait_until("the edit is seen", edited);
    fs::remove_file(secret("E")).unwrap();
    // Operations that fail.
    let large = one.repeat(10_000);
    for (path, content) in [
        ("secrets/A", large.as_bytes()),
        ("secrets/-bad", one.as_bytes()),
        ("secrets/A", &[one.as_bytes(), b"\xff"].concat()),
        (
            "bundle/secrets.json",
            format!("{{\"A\": \"{one}\", ").as_bytes(),
        ),
        (
            "bundle/secrets.json",
            format!("{{\"A\": [\"{one}\"]}}").as_bytes(),
        ),
        ("bundle/secrets.json", format!("\"{one}\"").as_bytes()),
        ("bundle/secrets.yaml", format!("A: [{one}").as_bytes()),
        ("bundle/secrets.yaml", format!("A: !{one} x").as_bytes()),
        (
            "hardware/gpu-l40s.json",
            format!("{{\"{one}\": \"{one}\"}}").as_bytes(),
        ),
        ("hardware/all.json", format!("[\"{one}\"]").as_bytes()),
        ("cache/invalidate", format!("{one}\n{one}\n").as_bytes()),
        ("secrets", one.as_bytes()),
        ("status", one.as_bytes()),
    ] {
        let _ = fs::write(live.path(path), content);
    }
    for (args, input) in [
        (&["set", "A"][..], &large[..]),
        (&["set", "-bad"], &one),
        (&["set", "a b"], &one),
        (&["rm", "HF_TOKEN"], ""),
        (&["rm", "HF_TOKEN"], ""),
        (&["decrypt"], &one),
        (&["get", "NONE"], ""),
    ] {
        run(live, shown, args, input);
    }
    // A damaged store, key and file.
    let store = live.home(".simpletuner/secrets.json");
    let whole = fs::read_to_string(&store).unwrap();
    for damaged in [
        format!("{{\"X\": \"{one}\""),
        format!("{{\"X\": [\"{one}\"], \"Y\": \"{two}\"}}"),
        format!("\"{one}\""),
        one.clone(),
        format!("{{\"A\": \"Z0FBQUFB{one}\"}}"),
        whole.replace('x', "y"),
    ] {
        fs::write(&store, damaged).unwrap();
        for name in ["A", "B", "X", "Y"] {
            let _ = fs::read(secret(name));
        }
        let _ = fs::read(live.path("bundle/secrets.json"));
        let _ = fs::write(secret("A"), &two);
        run(live, shown, &["get", "A"], "");
        run(live, shown, &["set", "A"], &one);
        run(live, shown, &["ls", "-l"], "");
        run(live, shown, &["encrypt-file"], "");
    }
    fs::write(&store, whole).unwrap();
    // A killed writer.
    live.try_sh(&format!(
        "{{ printf {one}; kill -9 $BASHPID; }} > secrets/A & wait"
    ));
}

fn look_everywhere(live: &Live, shown: &mut Shown, log: &str) {
    shown.look_at("the log", &fs::read(live.home(log)).unwrap());
    for path in [
        "events",
        "metrics",
        "status",
        "cache/stats",
        "cache/secrets/stats",
        "hardware/all.json",
    ] {
        shown.look_at(path, &fs::read(live.path(path)).unwrap());
    }
    for entry in fs::read_dir(live.path("providers")).unwrap().flatten() {
        shown.look_at(entry.path().display(), &fs::read(entry.path()).unwrap());
    }
    for name in live.sh("ls -A secrets").lines() {
        assert!(!name.contains(MARKER), "{name}");
    }
    let mount = live.path("");
    let mount = mount.components().collect::<PathBuf>();
    for path in files_below(live.home.path(), &mount) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.starts_with(live.home(".simpletuner")) {
            let most = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode & !most, 0, "{} has mode {mode:o}", path.display());
        }
        if path.is_file() {
            shown.look_at(path.display(), &fs::read(&path).unwrap());
        }
    }
}

fn settings(home: &tempfile::TempDir) {
    for dir in [".simpletuner", "tmp"] {
        let dir = home.path().join(dir);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_value_is_shown_only_where_it_is_asked_for() {
    let _alone = alone();
    let home = support::scratch_home();
    settings(&home);
    let tmp = home.path().join("tmp");
    let live = Live::start_in(
        home,
        Setup {
            env: vec![
                ("HF_TOKEN", "an environment value"),
                ("TMPDIR", tmp.to_str().unwrap()),
                ("SIMPLETUNER_LIVE_LOG", "debug"),
            ],
            ..Setup::default()
        },
    );
    let mut shown = Shown::default();
    live_through_all(&live, &mut shown);
    log_with(&live.home("daemon.log"), "too large");
    look_everywhere(&live, &mut shown, "daemon.log");
    for pid in [live.server_pid(), live.keeper_pid()] {
        for file in ["cmdline", "environ", "comm"] {
            shown.look_at(file, &fs::read(format!("/proc/{pid}/{file}")).unwrap());
        }
    }
    check_what_the_keeper_holds(&live, &mut shown);
    assert!(shown.0.is_empty(), "{:#?}", shown.0);
    // A reader of the file does get the value.
    live.write("secrets/A", &marked(9));
    assert!(holds_marker(live.read("secrets/A").as_bytes()));
}

/// Checks what the keeper holds for the next server, while a value is half written and others are open.
fn check_what_the_keeper_holds(live: &Live, shown: &mut Shown) {
    live.write("secrets/KEPT", &marked(8));
    let _reader = fs::File::open(live.path("secrets/KEPT")).unwrap();
    let mut writer = fs::File::create(live.path("secrets/HALF")).unwrap();
    std::io::Write::write_all(&mut writer, marked(8).as_bytes()).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", live.keeper_pid())).unwrap();
    let mut journals = 0;
    for path in open.map(|entry| entry.unwrap().path()) {
        let name = fs::read_link(&path).unwrap_or_default();
        if name.to_string_lossy().contains("memfd:") {
            let kept = fs::read(&path).unwrap();
            journals +=
                usize::from(name.to_string_lossy().contains("journal") && kept.len() > 1000);
            shown.look_at("what is kept", &kept);
        }
    }
    assert!(journals > 0, "no journal was found");
}

#[test]
fn the_background_daemons_log_contains_no_value() {
    let _alone = alone();
    let home = support::scratch_home();
    settings(&home);
    let cli = |args: &[&str]| {
        let status = Command::new(env!("CARGO_BIN_EXE_simpletuner-live"))
            .args(args)
            .env("HOME", home.path())
            .env("SIMPLETUNER_LIVE_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{args:?}");
    };
    let mount = home.path().join(".simpletuner/live");
    cli(&["mount"]);
    let unmount = Unmount(home.path());
    fs::write(mount.join("secrets/A"), marked(1)).unwrap();
    assert_eq!(
        fs::read_to_string(mount.join("secrets/A")).unwrap(),
        marked(1)
    );
    assert!(fs::write(mount.join("secrets/-bad"), marked(2)).is_err());
    // The error is the result of `close`, which `fs::write` discards.
    let _ = fs::write(
        mount.join("bundle/secrets.json"),
        format!("[\"{}\"]", marked(3)),
    );
    let log = home.path().join(".simpletuner/live.log");
    wait_until("the log has the reason", || {
        fs::read_to_string(&log)
            .is_ok_and(|text| text.contains("secrets.json") && text.contains("-bad"))
    });
    assert!(!holds_marker(&fs::read(&log).unwrap()));
    for path in files_below(home.path(), &mount) {
        let most = if path.is_dir() { 0o700 } else { 0o600 };
        let is_dir = path.is_dir();
        // SQLite's own files come and go.
        let looked = fs::metadata(&path).and_then(|metadata| {
            let content = if is_dir { Vec::new() } else { fs::read(&path)? };
            Ok((metadata.permissions().mode() & 0o777, content))
        });
        let (mode, content) = match looked {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            looked => looked.unwrap(),
        };
        assert_eq!(mode & !most, 0, "{} has mode {mode:o}", path.display());
        assert!(!holds_marker(&content), "{}", path.display());
    }
    drop(unmount);
}

/// Unmounts when it is dropped, even if the test fails.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new(env!("CARGO_BIN_EXE_simpletuner-live"))
            .arg("umount")
            .env("HOME", self.0)
            .stdout(Stdio::null())
            .status();
    }
}

#[test]
fn a_crash_of_the_daemon_leaves_no_core_dump() {
    let _alone = alone();
    let live = Live::start();
    for pid in [live.server_pid(), live.keeper_pid()] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let fields: Vec<_> = core.split_whitespace().collect();
        assert_eq!(fields[4..6], ["0", "0"], "{core}");
    }
}

#[test]
fn another_process_of_the_same_user_cannot_read_the_daemons_memory() {
    let _alone = alone();
    let home = support::scratch_home();
    let unmount = Unmount(home.path());
    // Root could read any process by this capability, so the test drops it for itself and the daemon.
    let prefix = if rustix::process::geteuid().is_root() {
        "setpriv --bounding-set -sys_ptrace"
    } else {
        ""
    };
    let script = format!(
        "{prefix} \"$0\" mount > /dev/null 2>&1 || exit 1
         daemon=$(jq '.server_pid, .keeper_pid' ~/.simpletuner/live/status)
         {prefix} sleep 1000 & other=$!
         until [ \"$(cat /proc/$other/comm)\" = sleep ]; do :; done
         for pid in $other $daemon; do {prefix} readlink /proc/$pid/exe > /dev/null && echo seen || echo refused; done
         kill $other"
    );
    let output = Command::new("bash")
        .args(["-c", &script, env!("CARGO_BIN_EXE_simpletuner-live")])
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "seen\nrefused\nrefused\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    drop(unmount);
}
