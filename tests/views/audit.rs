//! Who reads which file of a view is in the audit trail.

use serde_json::Value;
use std::io::Write;
use std::process::{Child, Stdio};

use super::*;

/// This one has the program answer each open, as it does without CAP_SYS_ADMIN.
const NO_FANOTIFY: (&str, &str) = ("SIMPLETUNER_LIVE_NO_FANOTIFY", "1");
const USER: u32 = 4001;

/// A mount with the view `v` of the secret `A`, which is [`USER`]'s.
fn with_view(env: &[(&'static str, &'static str)], settings: &'static str) -> Live {
    let live = start_with(Setup {
        env: env.to_vec(),
        files: vec![("live.yaml", settings)],
        ..Setup::default()
    });
    write(&live, "secrets/A", "value");
    define(&live, "v", r#"{"secrets": ["A"], "user": "4001"}"#);
    live
}

fn rows(live: &Live) -> Vec<Value> {
    let tail = cli(live, &["audit", "tail", "-n", "1000", "--json"]).done();
    let rows = tail.lines().map(|row| serde_json::from_str(row).unwrap());
    let is_of_view = |row: &Value| {
        row["details"]["file"]
            .as_str()
            .is_some_and(|file| file.starts_with("views/"))
    };
    rows.filter(is_of_view).collect()
}

/// The row of this process, once it is there.
fn row_of(live: &Live, pid: u32) -> Value {
    let mut found = None;
    wait_until("the read is recorded", || {
        let mut rows = rows(live).into_iter();
        found = rows.find(|row| row["details"]["pid"] == pid);
        found.is_some()
    });
    found.unwrap()
}

/// A shell that has a file open, and ends when its input does.
struct Reader(Child);

impl Reader {
    /// `before` runs first, in the same process.
    fn start(mut shell: Command, before: &str, file: &Path) -> Self {
        let script = format!("{before}\nread -r value < \"$0\"; echo \"$value\"; read -r wait");
        let mut child = shell
            .args(["-c", &script])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "value\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The process has ended, and its number may be another one's.
    fn end(mut self) -> u32 {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
        self.pid()
    }
}

fn shell() -> Command {
    Command::new("sh")
}

fn audit(live: &Live) -> Value {
    live.json("status")["views"]["audit"].clone()
}

#[test]
fn an_open_of_a_views_file_is_recorded_with_user_and_program_by_the_kernel_or_by_the_server() {
    if !is_root() {
        return;
    }
    for (env, how) in [(&[][..], "fanotify"), (&[NO_FANOTIFY][..], "open")] {
        let live = with_view(env, "");
        assert_eq!(audit(&live), how);
        let file = view(&live, "v/A");
        for (id, command) in [(0, shell()), (USER, as_user(USER, "sh"))] {
            // The program's name is up to the program.
            let reader = Reader::start(command, "printf 'a\\nb' > /proc/$$/comm", &file);
            let row = row_of(&live, reader.pid());
            assert_eq!(row["details"]["uid"], id);
            assert_eq!(row["details"]["program"], "a\\nb");
            assert_eq!(row["details"]["key"], "A");
            assert_eq!(row["details"]["view"], "v");
            assert_eq!(row["details"]["file"], "views/v/A");
            assert_eq!(row["action"], "File A of the view v read");
            assert_eq!(row["signed"], true);
            reader.end();
        }
        cli(&live, &["audit", "verify"]).done();
    }
}

#[test]
fn opens_through_bind_mounts_in_other_namespaces_are_recorded_with_their_container() {
    if !is_root() {
        return;
    }
    let id = "0123456789abcdef".repeat(4);
    let live = with_view(&[], "");
    let bound = live.home("bound");
    fs::create_dir(&bound).unwrap();
    let file = bound.join("A");
    let bind = format!(
        "mount --bind {} {}",
        view(&live, "v").display(),
        bound.display()
    );

    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh"]);
    let reader = Reader::start(unshare, &bind, &file);
    let row = row_of(&live, reader.pid());
    assert_eq!(row["details"]["file"], "views/v/A");
    assert_eq!(row["details"]["uid"], 0);
    reader.end();

    let mut unshare = as_user(USER, "unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh"]);
    let reader = Reader::start(unshare, &bind, &file);
    let row = row_of(&live, reader.pid());
    assert_eq!(row["details"]["uid"], USER);
    assert_eq!(row["details"].get("container"), None);
    reader.end();

    // Where groups of the first kind are mounted below it, the first path is a folder of no filesystem of groups.
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"].map(PathBuf::from);
    let roots = roots
        .iter()
        .filter(|root| root.join("cgroup.procs").exists());
    let mut groups = roots.map(|root| root.join(format!("docker-{id}.scope")));
    let Some(group) = groups.find(|group| fs::create_dir(group).is_ok()) else {
        return eprintln!("this machine lets no test make a control group");
    };
    let join = format!("echo $$ > {}/cgroup.procs", group.display());
    let reader = Reader::start(shell(), &join, &view(&live, "v/A"));
    let row = row_of(&live, reader.pid());
    assert_eq!(row["details"]["container"], id);
    let tail = cli(&live, &["audit", "tail"]).done();
    assert!(
        tail.contains(&format!("  in {}  File A", &id[..12])),
        "{tail}"
    );
    // Reads of the live mount have the container, too.
    let reader_of_live = Reader::start(shell(), &join, &live.path("secrets/A"));
    wait_until("the read is recorded", || {
        let tail = cli(&live, &["audit", "tail", "--json"]).done();
        let mut rows = tail
            .lines()
            .map(|row| serde_json::from_str::<Value>(row).unwrap());
        rows.any(|row| {
            row["details"]["pid"] == reader_of_live.pid() && row["details"]["container"] == *id
        })
    });
    reader.end();
    reader_of_live.end();
    fs::remove_dir(group).unwrap();
}

#[test]
fn opens_while_no_server_is_there_are_recorded_by_the_next_one() {
    if !is_root() {
        return;
    }
    let live = with_view(&[], "");
    assert_eq!(audit(&live), "fanotify");
    let file = view(&live, "v/A");
    // An event that a server has taken and not recorded goes with it.
    row_of(&live, Reader::start(shell(), "", &file).end());
    let server = live.server_pid();
    // It reports nothing any more, and the kernel answers by itself.
    signal("STOP", server);
    let alive = Reader::start(shell(), "", &file);
    let ended = Reader::start(as_user(USER, "sh"), "", &file).end();
    // On a busy machine it has been replaced by now.
    let mut kill = Command::new("kill");
    let _ = kill.args(["-KILL", &server.to_string()]).output().unwrap();
    let row = row_of(&live, alive.pid());
    assert_eq!(
        (&row["details"]["uid"], &row["details"]["program"]),
        (&0.into(), &"sh".into())
    );
    // Of a process that has ended, only the number is known. On a busy machine it may have met the next server.
    let row = row_of(&live, ended);
    assert_eq!(row["details"]["file"], "views/v/A");
    match row["details"]["uid"].as_u64() {
        None => assert_eq!(row["user"], "unix:?"),
        Some(uid) => assert_eq!(uid, u64::from(USER)),
    }
    alive.end();

    for args in [["upgrade"], ["reload"]] {
        cli(&live, &args).done();
        assert_eq!(audit(&live), "fanotify");
        let reader = Reader::start(shell(), "", &file);
        row_of(&live, reader.pid());
        reader.end();
    }
    cli(&live, &["audit", "verify"]).done();
}

#[test]
fn no_open_is_lost_across_an_upgrade_and_at_the_end_of_the_mount() {
    if !is_root() {
        return;
    }
    let live = with_view(&[], "");
    let file = view(&live, "v/A");
    let mut pids = Vec::new();
    let mut upgrade = live.cli().arg("upgrade").spawn().unwrap();
    while upgrade.try_wait().unwrap().is_none() {
        pids.push(Reader::start(shell(), "", &file).end());
    }
    pids.extend((0..50).map(|_| Reader::start(shell(), "", &file).end()));
    let home = live.stop();
    let mut tail = Command::new(env!("CARGO_BIN_EXE_simpletuner-live"));
    tail.args(["audit", "tail", "-n", "10000", "--json"])
        .env("HOME", home.path());
    let tail = ran(&mut tail).done();
    let rows = tail
        .lines()
        .map(|row| serde_json::from_str::<Value>(row).unwrap());
    let recorded: Vec<Value> = rows.map(|row| row["details"]["pid"].clone()).collect();
    let lost = pids
        .iter()
        .filter(|pid| !recorded.contains(&Value::from(**pid)));
    assert_eq!(lost.count(), 0, "of {}", pids.len());
}

#[test]
fn without_audit_reads_no_open_is_recorded_and_a_reload_changes_that() {
    if !is_root() {
        return;
    }
    let live = with_view(&[], "audit_reads: false");
    assert_eq!(audit(&live), "off");
    let file = view(&live, "v/A");
    let before = Reader::start(shell(), "", &file);
    let set = |value: bool| {
        let settings = live.home(".simpletuner/live.yaml");
        let text = fs::read_to_string(&settings).unwrap();
        let text = text.replace(
            &format!("audit_reads: {}", !value),
            &format!("audit_reads: {value}"),
        );
        fs::File::create(&settings)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        cli(&live, &["reload"]).done();
    };
    set(true);
    assert_eq!(audit(&live), "fanotify");
    let reader = Reader::start(shell(), "", &file);
    row_of(&live, reader.pid());
    assert!(
        rows(&live)
            .iter()
            .all(|row| row["details"]["pid"] != before.pid())
    );
    set(false);
    assert_eq!(audit(&live), "off");
    before.end();
    reader.end();
}

#[test]
fn a_change_of_a_view_is_recorded_with_the_process_that_made_it() {
    if !is_root() {
        return;
    }
    let live = with_view(&[], "");
    let pid = live
        .sh("echo '{\"secrets\": [\"A\"]}' > views/w.json; mv views/w.json views/x.json; echo $$");
    cli(&live, &["view", "rm", "x"]).done();
    live.try_sh("echo '{' > views/bad.json; rm views/none.json");
    let expected = [
        "View v set",
        "View w set",
        "View w renamed to x",
        "View x removed",
    ];
    let changes = || {
        let tail = cli(&live, &["audit", "tail", "-n", "1000", "--json"]).done();
        let rows = tail.lines().map(|row| serde_json::from_str(row).unwrap());
        let of_views = |row: &Value| row["action"].as_str().unwrap().starts_with("View ");
        rows.filter(of_views).collect::<Vec<Value>>()
    };
    wait_until("the changes are recorded", || {
        changes().len() >= expected.len()
    });
    let changes = changes();
    let actions: Vec<&str> = changes
        .iter()
        .map(|row| row["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, expected);
    assert_eq!(
        changes[1]["details"]["pid"],
        pid.trim().parse::<u32>().unwrap()
    );
    assert_eq!(changes[2]["details"]["program"], "mv");
    assert_eq!(changes[3]["details"]["view"], "x");
    assert!(
        changes
            .iter()
            .all(|row| row["details"]["uid"] == 0 && row["signed"] == true)
    );

    let home = live.stop();
    let cli = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simpletuner-live"));
        ran(command.args(args).env("HOME", home.path())).done()
    };
    cli(&["view", "create", "y", "--secret", "A"]);
    cli(&["view", "rm", "v"]);
    let tail = cli(&["audit", "tail"]);
    let made_by = |what: &str| {
        let mut lines = tail.lines();
        lines.any(|line| line.contains(what) && line.contains("simpletuner"))
    };
    assert!(made_by("View y set") && made_by("View v removed"), "{tail}");
    cli(&["audit", "verify"]);
}
