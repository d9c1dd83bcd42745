//! Whom the settings' `access` lets in, and to what. It needs root, to become others; `mail`, `news`, `games` and
//! `www-data` are users of every Debian.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::home::{Home, Ran, has_ended, is_root, ran, signal, wait_for_the_end};
use support::wait_until;

const RULES: &str = "allow_other: true
access:
  - {secrets: [\"HF_*\"], users: [mail]}
  - {secrets: [\"WANDB_*\"], groups: [news]}
  - {secrets: [\"HF_*\", \"WANDB_*\"], users: [\"5\"]}
";

/// A mount of root's at `live` in a home that others can reach, with some secrets in it.
struct Shared(Home);

impl Shared {
    fn with(settings: &str, env: &[(&str, &str)]) -> Self {
        let home = Home::new();
        fs::set_permissions(home.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        home.write(".simpletuner/live.yaml", settings);
        let mut mount = home.command(support::home::BINARY);
        mount.args(["mount", "live"]).envs(env.iter().copied());
        ran(&mut mount).done();
        home.sh("cd live/secrets; echo hf > HF_TOKEN; echo w > WANDB_KEY; echo other > OTHER");
        Self(home)
    }

    fn new() -> Self {
        Self::with(RULES, &[])
    }

    fn command(&self, user: &str, program: &str) -> Command {
        let mut command = self.0.command("setpriv");
        let group = self.0.sh(&format!("id -g {user}"));
        command
            .args(["--reuid", user, "--regid", group.trim(), "--clear-groups"])
            .arg(program)
            // What root has in its home is not for others.
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(self.0.path("live"));
        command
    }

    /// A bash script that this user runs in the mount.
    fn as_user(&self, user: &str, script: &str) -> Ran {
        // The working folder is root's doing: no right of the user's is needed for it.
        ran(self.command(user, "bash").args(["-c", script]))
    }

    #[track_caller]
    fn denied(&self, user: &str, script: &str) {
        self.as_user(user, script).denied();
    }

    fn start(&self, user: &str, script: &str) -> Child {
        let mut command = self.command(user, "bash");
        command.args(["-c", script]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.path(".simpletuner/live.log")).unwrap()
    }
}

#[test]
fn a_named_user_reads_what_access_grants_him_and_nothing_else() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    // The kernel has all names and pages at hand now.
    shared.0.sh("cat live/secrets/*; ls -l live/secrets live/bundle live/config; cat live/bundle/* live/status");
    assert_eq!(shared.as_user("mail", "cat secrets/HF_TOKEN").done(), "hf");
    assert_eq!(shared.as_user("news", "cat secrets/WANDB_KEY").done(), "w");
    assert_eq!(
        shared
            .as_user("games", "cat secrets/HF_TOKEN secrets/WANDB_KEY")
            .done(),
        "hfw"
    );
    assert_eq!(shared.as_user("mail", "ls secrets").done(), "HF_TOKEN\n");
    assert_eq!(shared.as_user("news", "ls secrets").done(), "WANDB_KEY\n");
    assert_eq!(shared.as_user("games", "ls").done(), "bundle\nsecrets\n");
    assert_eq!(
        shared.as_user("mail", "stat -c %s secrets/HF_TOKEN").done(),
        "2\n"
    );
    let long = shared.as_user("mail", "ls -l secrets bundle").done();
    assert!(
        long.contains("HF_TOKEN") && !long.contains("OTHER"),
        "{long}"
    );
    let provider = "getfattr --only-values -n user.simpletuner.provider secrets/";
    assert_eq!(
        shared
            .as_user("mail", &format!("{provider}HF_TOKEN"))
            .done(),
        "file"
    );
    shared
        .as_user(
            "mail",
            "[ -r secrets/HF_TOKEN ] && ! [ -w secrets/HF_TOKEN ] && cd secrets",
        )
        .done();
    for what in [
        "cat secrets/OTHER",
        "cat secrets/WANDB_KEY",
        "cat secrets/NO_SUCH",
        "cat secrets/.scratch",
        "cat status",
        "cat events",
        "ls config",
        "cat config/replicate.json",
        "cat hardware/all.json",
        "cat providers/file",
        "cat cache/stats",
        "echo > cache/clear",
        "getfattr -n user.simpletuner.provider secrets/WANDB_KEY",
    ] {
        shared.denied("mail", what);
    }
    let missing = shared.as_user("mail", "cat secrets/HF_NONE").failed();
    assert!(missing.contains("No such file"), "{missing}");
}

#[test]
fn a_named_user_changes_nothing() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    for script in [
        "echo x > secrets/HF_TOKEN",
        "echo x >> secrets/HF_TOKEN",
        "echo x > secrets/HF_NEW",
        "rm secrets/HF_TOKEN",
        "mv secrets/HF_TOKEN secrets/HF_X",
        "truncate -s 0 secrets/HF_TOKEN",
        "touch -d 2001-01-01 secrets/HF_TOKEN",
        "chmod 644 secrets/HF_TOKEN",
        "exec 3<> secrets/HF_TOKEN",
        "echo '{}' > bundle/secrets.json",
        "echo '{}' > bundle/.new",
        "mkdir secrets/HF_D 2>&1 | sed 's/not permitted/Permission denied/' >&2; exit 1",
    ] {
        shared.denied("mail", script);
    }
    assert_eq!(shared.0.sh("cat live/secrets/*"), "hfotherw");
    assert_eq!(shared.as_user("mail", "ls secrets").done(), "HF_TOKEN\n");
}

#[test]
fn a_user_who_is_not_named_is_refused_everything() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    shared.0.sh("cat live/secrets/* live/bundle/*");
    for script in [
        "cat secrets/HF_TOKEN",
        "cat secrets/NO_SUCH",
        "stat secrets/NO_SUCH",
        "ls .",
        "ls secrets",
        "ls bundle",
        "cat bundle/secrets.json",
        "cat bundle/secrets.env",
        "echo w > secrets/HF_TOKEN",
    ] {
        shared.denied("www-data", script);
    }
    let log = shared.log();
    let said = log.matches("user 33 is refused").count();
    assert_eq!(said, 1, "{log}");
}

#[test]
fn what_one_user_has_looked_at_is_not_shown_to_another() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    let config = r#"{"cost_limit_amount": 1}"#;
    fs::write(shared.0.path("live/config/replicate.json"), config).unwrap();
    for path in [
        "secrets/OTHER",
        "secrets/WANDB_KEY",
        "config/replicate.json",
        "hardware/gpu-l40s.json",
    ] {
        // Begun before, so that it comes as soon after the look as can be.
        let script = format!("read; stat -c %s {path}");
        let mut asking = shared.command("mail", "bash");
        asking.args(["-c", &script]).stdin(Stdio::piped());
        asking.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut asking = asking.spawn().unwrap();
        shared.0.sh("ls -lR live > /dev/null");
        assert!(fs::metadata(shared.0.path("live").join(path)).is_ok());
        drop(asking.stdin.take());
        let output = asking.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Permission denied"), "{path}: {output:?}");
    }
}

#[test]
fn everybody_has_a_bundle_of_his_own() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    let json = |user: &str| -> Value {
        serde_json::from_str(&shared.as_user(user, "cat bundle/secrets.json").done()).unwrap()
    };
    let all = json!({"HF_TOKEN": "hf", "OTHER": "other", "WANDB_KEY": "w"});
    for _ in 0..3 {
        assert_eq!(json("root"), all);
        assert_eq!(json("mail"), json!({"HF_TOKEN": "hf"}));
        assert_eq!(json("root"), all);
        assert_eq!(json("news"), json!({"WANDB_KEY": "w"}));
        assert_eq!(json("games"), json!({"HF_TOKEN": "hf", "WANDB_KEY": "w"}));
    }
    assert_eq!(
        shared.as_user("mail", "cat bundle/secrets.env").done(),
        "HF_TOKEN=hf\n"
    );
    assert_eq!(
        shared.as_user("news", "cat bundle/secrets.yaml").done(),
        "WANDB_KEY: \"w\"\n"
    );
    assert_eq!(
        shared.as_user("mail", "ls bundle").done(),
        "secrets.env\nsecrets.json\nsecrets.yaml\n"
    );
    for (user, size) in [("root", "stat"), ("mail", "stat"), ("games", "stat")] {
        let same =
            format!("[ $({size} -c %s bundle/secrets.json) = $(cat bundle/secrets.json | wc -c) ]");
        shared.as_user(user, &same).done();
    }
    // What is written shows in each.
    shared
        .0
        .sh("echo hf2 > live/secrets/HF_TOKEN; echo other2 > live/secrets/OTHER");
    assert_eq!(json("mail"), json!({"HF_TOKEN": "hf2"}));
    assert_eq!(json("news"), json!({"WANDB_KEY": "w"}));
    assert_eq!(json("root")["OTHER"], "other2");
    // Through a descriptor of root's, his inode is reached, and refused.
    let through = "exec 3< live/bundle/secrets.json; \
        setpriv --reuid mail --regid 8 --clear-groups cat /proc/self/fd/3";
    let refused = ran(shared.0.command("bash").args(["-c", through]));
    assert_ne!(refused.code, 0, "{}", refused.out);
    assert_eq!(refused.out, "");
    assert!(refused.err.contains("Permission denied"), "{}", refused.err);
}

/// Reads the bundle and the secrets over and over, in all ways there are, and says what it should not have seen.
const HAMMER: &str = r#"
import json, mmap, os, sys
allowed, rounds = set(sys.argv[1].split(",")), int(sys.argv[2])
def look(data):
    found = set(json.loads(data))
    assert found == allowed, f"{found} instead of {allowed}"
for i in range(rounds):
    with open("bundle/secrets.json", "rb") as f:
        if i % 3 == 0:
            with mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as m:
                look(m[:])
        elif i % 3 == 1:
            data = f.read()
            assert os.fstat(f.fileno()).st_size == len(data)
            look(data)
        else:
            look(b"".join(iter(lambda: os.read(f.fileno(), 7), b"")))
    names = {n for n in os.listdir("secrets")}
    assert names == allowed, f"listed {names}"
    list(os.scandir("bundle"))
    for name in ("HF_TOKEN", "WANDB_KEY", "OTHER"):
        try:
            with open("secrets/" + name) as f:
                value = f.read()
            assert name in allowed, f"read {name}"
            assert value.startswith(name), value
        except PermissionError:
            assert name not in allowed, f"refused {name}"
"#;

#[test]
fn no_value_reaches_another_user_beside_readers_and_writers_of_all() {
    if !is_root() {
        return;
    }
    const ROUNDS: &str = "150";
    let shared = Shared::new();
    for name in ["HF_TOKEN", "WANDB_KEY", "OTHER"] {
        shared.0.sh(&format!("echo {name} > live/secrets/{name}"));
    }
    shared.0.write("go", "");
    let mut writer = shared.start(
        "root",
        "i=0; while [ -e ../go ]; do i=$((i+1)); for n in HF_TOKEN WANDB_KEY OTHER; do
             echo $n$(printf %0$((i % 50 + 1))d $i) > secrets/$n; done; done",
    );
    wait_until("the writer writes", || {
        shared.0.sh("cat live/secrets/OTHER") != "OTHER"
    });
    let readers = [
        ("root", "HF_TOKEN,OTHER,WANDB_KEY"),
        ("mail", "HF_TOKEN"),
        ("news", "WANDB_KEY"),
        ("games", "HF_TOKEN,WANDB_KEY"),
        ("mail", "HF_TOKEN"),
        ("root", "HF_TOKEN,OTHER,WANDB_KEY"),
    ];
    let readers: Vec<_> = readers
        .iter()
        .map(|(user, allowed)| {
            let mut command = shared.command(user, "python3");
            command.args(["-c", HAMMER, allowed, ROUNDS]);
            let child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            (*user, child.unwrap())
        })
        .collect();
    // The next server knows whose inode is whose.
    for _ in 0..3 {
        let bundle = || shared.0.sh("cat live/bundle/secrets.json");
        let read = bundle();
        wait_until("something is written", || bundle() != read);
        let server = shared.0.server(&shared.0.path("live"));
        signal("KILL", server);
        wait_for_the_end(server);
    }
    for (user, reader) in readers {
        let output = reader.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{user}: {said}");
    }
    fs::remove_file(shared.0.path("go")).unwrap();
    writer.wait().unwrap();
}

#[test]
fn who_may_read_what_outlives_a_server() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    assert_eq!(
        shared.as_user("mail", "cat bundle/secrets.env").done(),
        "HF_TOKEN=hf\n"
    );
    let mut reader = shared.start(
        "mail",
        "exec 3< bundle/secrets.env; echo open; while [ ! -e ../go ]; do sleep 0.01; done
         cat <&3; cat bundle/secrets.env",
    );
    let mut said = BufReader::new(reader.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    let server = shared.0.server(&shared.0.path("live"));
    signal("KILL", server);
    wait_for_the_end(server);
    shared.0.write("go", "");
    let mut read = String::new();
    said.read_to_string(&mut read).unwrap();
    assert_eq!(read, "HF_TOKEN=hf\nHF_TOKEN=hf\n");
    assert!(reader.wait().unwrap().success());
    shared.denied("mail", "cat secrets/OTHER");
    assert_eq!(
        shared.as_user("news", "cat bundle/secrets.env").done(),
        "WANDB_KEY=w\n"
    );
}

/// Stands before the system's user database: user `mail` is called what the file `name` says, and nobody knows before
/// the file `answer` is there; `news` cannot be asked about.
const DATABASE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int getpwuid_r(uid_t uid, struct passwd *pwd, char *buf, size_t len, struct passwd **result) {
    static int (*next)(uid_t, struct passwd *, char *, size_t, struct passwd **);
    if (!next) next = dlsym(RTLD_NEXT, "getpwuid_r");
    char path[4096];
    if (uid == 9) { *result = NULL; return errno = EIO; }
    int error = next(uid, pwd, buf, len, result);
    if (uid != 8 || error || !*result) return error;
    snprintf(path, sizeof path, "%s/asked", getenv("FAKE_DATABASE"));
    FILE *asked = fopen(path, "a");
    if (asked) { fputs("x", asked); fclose(asked); }
    snprintf(path, sizeof path, "%s/answer", getenv("FAKE_DATABASE"));
    while (access(path, F_OK)) usleep(1000);
    snprintf(path, sizeof path, "%s/name", getenv("FAKE_DATABASE"));
    FILE *name = fopen(path, "r");
    static char called[64];
    if (name) {
        if (fgets(called, sizeof called, name)) { called[strcspn(called, "\n")] = 0; pwd->pw_name = called; }
        fclose(name);
    }
    return 0;
}
"#;

fn with_database() -> Shared {
    let library = support::scratch_home();
    let source = library.path().join("database.c");
    fs::write(&source, DATABASE).unwrap();
    let built = library.path().join("database.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).args([&built, &source]);
    ran(cc.arg("-ldl")).done();
    let folder = library.keep();
    let shared = Shared::with(
        RULES,
        &[
            ("LD_PRELOAD", built.to_str().unwrap()),
            ("FAKE_DATABASE", folder.to_str().unwrap()),
        ],
    );
    shared.0.sh(&format!("ln -s {} database", folder.display()));
    shared
}

fn forget_database(shared: &Shared) {
    shared.0.sh("rm -r \"$(readlink database)\"");
}

#[test]
fn a_user_database_that_is_slow_holds_up_only_whom_it_is_asked_about() {
    if !is_root() {
        return;
    }
    let shared = with_database();
    let mut waiting: Vec<Child> = [
        "cat secrets/HF_TOKEN",
        "ls secrets",
        "cat bundle/secrets.env",
        "stat -c %s secrets/HF_TOKEN",
    ]
    .iter()
    .map(|script| shared.start("mail", script))
    .collect();
    let given_up = shared.start("mail", "exec cat secrets/HF_TOKEN");
    let refused = shared.start("mail", "cat secrets/OTHER");
    let asked = shared.0.path("database/asked");
    wait_until("the database is asked", || asked.exists());
    // Root's work goes on, in the same folders, and so does another user's.
    assert_eq!(
        shared
            .0
            .sh("cd live/secrets; echo n > NEW; cat NEW HF_TOKEN; mv NEW NEW2; rm NEW2; ls"),
        "nhfHF_TOKEN\nOTHER\nWANDB_KEY\n"
    );
    assert_eq!(
        shared
            .as_user("games", "cat secrets/HF_TOKEN; ls secrets")
            .done(),
        "hfHF_TOKEN\nWANDB_KEY\n"
    );
    for child in &mut waiting {
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    }
    let pid = given_up.id();
    signal("TERM", pid);
    wait_until("a signal ends the waiting", || has_ended(pid));
    drop(given_up.wait_with_output());
    fs::write(shared.0.path("database/answer"), "").unwrap();
    let said: Vec<String> = waiting
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(said, ["hf", "HF_TOKEN\n", "HF_TOKEN=hf\n", "2\n"]);
    let refused = refused.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    // One question for all of them, and one for the name that the audit trail has.
    assert!(fs::read_to_string(&asked).unwrap().len() <= 2);
    // The kernel has forgotten the inodes of those who waited, and nothing of them is left to see.
    assert_eq!(shared.as_user("mail", "ls secrets").done(), "HF_TOKEN\n");
    forget_database(&shared);
}

#[test]
fn who_waits_for_the_user_database_waits_on_when_the_server_ends() {
    if !is_root() {
        return;
    }
    let shared = with_database();
    let reader = shared.start("mail", "cat secrets/HF_TOKEN; ls secrets");
    let asked = shared.0.path("database/asked");
    wait_until("the database is asked", || asked.exists());
    let server = shared.0.server(&shared.0.path("live"));
    signal("KILL", server);
    wait_for_the_end(server);
    wait_until("it is asked again", || fs::read(&asked).unwrap().len() > 1);
    fs::write(shared.0.path("database/answer"), "").unwrap();
    let output = reader.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "hfHF_TOKEN\n");
    forget_database(&shared);
}

#[test]
fn what_is_known_of_a_user_holds_until_it_is_invalidated() {
    if !is_root() {
        return;
    }
    let shared = with_database();
    fs::write(shared.0.path("database/answer"), "").unwrap();
    assert_eq!(shared.as_user("mail", "cat secrets/HF_TOKEN").done(), "hf");
    fs::write(shared.0.path("database/name"), "somebody\n").unwrap();
    assert_eq!(shared.as_user("mail", "cat secrets/HF_TOKEN").done(), "hf");
    assert_eq!(
        shared
            .0
            .sh("echo user:8: > live/cache/invalidate; cat live/cache/invalidate"),
        "2\n"
    );
    shared.denied("mail", "cat secrets/HF_TOKEN");
    shared.denied("mail", "cat bundle/secrets.env");
    shared
        .0
        .sh("rm database/name; echo user:8: > live/cache/user_permission/invalidate");
    assert_eq!(shared.as_user("mail", "cat secrets/HF_TOKEN").done(), "hf");
    // It cannot be asked about this one, which is no permission and no refusal.
    let failed = shared.as_user("news", "cat secrets/WANDB_KEY").failed();
    assert!(failed.contains("Input/output error"), "{failed}");
    assert!(
        shared.log().contains("cannot be asked about user 9"),
        "{}",
        shared.log()
    );
    forget_database(&shared);
}

#[test]
fn what_stands_for_nobody_is_warned_of_when_mounting() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let rules =
        "access: [{secrets: [\"NONE_*\"], users: [no-such-user, root], groups: [no-such-group]}]\n";
    home.write(
        ".simpletuner/live.yaml",
        &format!("allow_other: true\n{rules}"),
    );
    let mounted = home.run(&["mount"]);
    assert_eq!(mounted.code, 0, "{}", mounted.err);
    let complaints = [
        "no user \"no-such-user\"",
        "no group \"no-such-group\"",
        "name like \"NONE_*\"",
    ];
    let log = || fs::read_to_string(home.path(".simpletuner/live.log")).unwrap();
    for complaint in complaints {
        assert!(mounted.err.contains(complaint), "{}", mounted.err);
        wait_until("the log says it", || log().contains(complaint));
    }
    // Not again by the next server.
    let server = home.server(&home.live(""));
    signal("KILL", server);
    wait_for_the_end(server);
    home.sh("cat .simpletuner/live/status");
    assert_eq!(log().matches(complaints[0]).count(), 1, "{}", log());
    home.run(&["umount"]).done();

    home.write(".simpletuner/live.yaml", rules);
    let mounted = home.run(&["mount"]);
    assert!(
        mounted.err.contains("allow_other is not"),
        "{}",
        mounted.err
    );
    home.run(&["umount"]).done();
    home.write(
        ".simpletuner/live.yaml",
        &format!("read_path: kernel\n{rules}"),
    );
    let said = home.run(&["mount"]).failed();
    assert!(said.contains("access needs the read path"), "{said}");
}

#[test]
fn the_audit_trail_has_who_was_refused_what_and_who_read_what() {
    if !is_root() {
        return;
    }
    let shared = Shared::new();
    shared.denied("www-data", "cat secrets/HF_TOKEN");
    shared.denied("mail", "cat secrets/OTHER");
    shared.denied("mail", "cat secrets/NO_SUCH");
    shared.denied("mail", "echo x > secrets/HF_TOKEN");
    shared.denied("mail", "cat config/replicate.json");
    shared
        .as_user("mail", "cat secrets/HF_TOKEN bundle/secrets.env")
        .done();
    shared.0.run(&["umount", "live"]).done();
    let trail = shared.0.run(&["audit", "tail", "-n", "1000", "--json"]);
    let rows: Vec<Value> = trail
        .done()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |user: &str, event: &str, target: &str| {
        rows.iter().any(|row| {
            row["user"] == format!("unix:{user}")
                && row["event_type"] == event
                && row["target"] == target
        })
    };
    for (user, what) in [
        ("www-data", "HF_TOKEN"),
        ("mail", "OTHER"),
        ("mail", "NO_SUCH"),
        ("mail", "HF_TOKEN"),
        ("mail", "config"),
    ] {
        assert!(
            has(user, "security.permission_denied", what),
            "{user} {what}: {rows:#?}"
        );
    }
    assert!(has("mail", "credential.used", "HF_TOKEN"), "{rows:#?}");
    assert!(has("mail", "credential.used", "HF_*"), "{rows:#?}");
    shared.0.run(&["audit", "verify"]).done();
}
