//! Mount points behind links, mounts that another mount namespace still has, and processes in other pid namespaces.

use std::process::{Child, Stdio};

use super::*;

#[test]
fn a_mount_point_behind_a_symbolic_link_is_the_folder_it_leads_to_for_every_command() {
    let home = Home::new();
    let script = r#"
mkdir elsewhere .simpletuner; chmod 700 .simpletuner elsewhere; ln -s ../elsewhere .simpletuner/live
"$BIN" mount > said 2>&1 || { cat said; exit 1; }
echo v > .simpletuner/live/secrets/A; cat elsewhere/secrets/A
"$BIN" status > /dev/null || echo 'status failed'
"$BIN" mount > /dev/null 2>&1 || echo 'mount once more failed'
"$BIN" get A; echo
"$BIN" umount 2> /dev/null || echo 'umount failed'
ls -A elsewhere
"$BIN" mount elsewhere > /dev/null 2>&1 && "$BIN" umount .simpletuner/live 2> /dev/null && ls -A elsewhere; test -L .simpletuner/live
"#;
    let mut bash = home.command("bash");
    bash.env("BIN", support::home::BINARY).args(["-c", script]);
    let said = succeeds(&mut bounded(bash));
    assert_eq!(said, "v\nv\n");
    assert!(mounts_below(home.0.path()).is_empty());
}

#[test]
fn umount_names_the_process_that_has_the_mount_in_another_mount_namespace() {
    if !is_root() {
        return;
    }
    let live = Live::start();
    live.write("secrets/A", "value");
    let mut holder = Command::new("unshare");
    holder.args([
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        "echo ready; exec sleep 300",
    ]);
    let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let umount = cli(&live, &["umount"]);
    let said = describe(&umount);
    let pid = holder.id().to_string();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(!support::home::is_mounted(&live.path("")), "{said}");
    assert!(
        support::home::named_or_cut_off(&said, &pid),
        "it does not name process {pid}: {said}"
    );
}

#[test]
fn umount_names_the_place_where_a_folder_of_the_mount_is_bound() {
    if !is_root() {
        return;
    }
    let live = Live::start();
    live.write("secrets/A", "value");
    let bound = live.home("bound");
    std::fs::create_dir(&bound).unwrap();
    let script = format!("mount --bind . {}", bound.display());
    bash(&live, "secrets", &script);
    let said = describe(&cli(&live, &["umount"]));
    let mut umount = Command::new("umount");
    umount.arg("-l").arg(&bound).status().unwrap();
    assert!(
        said.contains(bound.to_str().unwrap()),
        "it does not name the place: {said}"
    );
}

/// A daemon in a pid namespace of its own, and a way into where its mount is.
struct Inside {
    home: Home,
    unshare: Child,
    enter: Vec<String>,
}

impl Inside {
    /// With a `/proc` of that namespace, which takes a mount namespace too, or with the one outside.
    fn start(own_proc: bool) -> Self {
        let home = Home::new();
        home.write(
            ".simpletuner/secrets.json",
            r#"{"K": "value", "L": "other"}"#,
        );
        let mut unshare = home.command("unshare");
        unshare.args(["--kill-child", "-p", "-f"]);
        if own_proc {
            unshare.arg("--mount-proc");
        }
        unshare.args([support::home::BINARY, "mount", "--foreground"]);
        unshare.stdout(Stdio::null());
        unshare.stderr(std::fs::File::create(home.path("daemon.log")).unwrap());
        let unshare = unshare.spawn().unwrap();
        let mut inside = Self {
            home,
            unshare,
            enter: vec![],
        };
        let children = format!("/proc/{0}/task/{0}/children", inside.unshare.id());
        wait_until("the daemon is there", || {
            let children = std::fs::read_to_string(&children).unwrap();
            let Some(child) = children.split_whitespace().next() else {
                return false;
            };
            if own_proc {
                inside.enter = vec!["nsenter".into(), format!("--mount=/proc/{child}/ns/mnt")];
            }
            inside.try_bash("cat K").status.success()
        });
        inside
    }

    /// A script in `secrets/`, by processes that are not in the daemon's pid namespace.
    fn try_bash(&self, script: &str) -> Output {
        let secrets = self.home.live("secrets");
        let script = format!("cd {} || exit 1\n{script}", secrets.display());
        let mut words = self.enter.clone();
        words.extend(["bash".into(), "-c".into(), script]);
        let mut command = self.home.command(&words[0]);
        command.env("LIVE", self.home.live("")).args(&words[1..]);
        bounded(command).output().unwrap()
    }

    #[track_caller]
    fn bash(&self, script: &str) -> String {
        let output = self.try_bash(script);
        assert!(output.status.success(), "{}", describe(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let umount = format!("cd /; umount -l {}", self.home.live("").display());
        let _ = self.try_bash(&umount);
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

const OUT_OF_SIGHT: &str = r#"
cat K L; stat -c %s K; ls | paste -sd ' '
try() { "$@" 2> ~/said && echo "$*: done" || grep -o 'Operation not permitted' ~/said; }
try sh -c 'echo x > K'; try sh -c 'echo x >> K'; try sh -c 'echo x > NEW'; try sh -c 'echo x > .scratch'
cat K; ls -A | paste -sd ' '
"#;

#[test]
fn a_process_that_the_daemon_cannot_see_may_read_and_not_write() {
    if !is_root() {
        return;
    }
    for own_proc in [true, false] {
        let inside = Inside::start(own_proc);
        let no = "Operation not permitted\n".repeat(4);
        assert_eq!(
            inside.bash(OUT_OF_SIGHT),
            format!("valueother5\nK L\n{no}valueK L\n"),
            "a /proc of its own: {own_proc}"
        );
        log_with(&inside.home.path("daemon.log"), "namespace");
    }
}

#[test]
fn readers_that_the_daemon_cannot_see_get_whole_values_while_they_change() {
    if !is_root() {
        return;
    }
    for own_proc in [true, false] {
        let inside = Inside::start(own_proc);
        let program = r#"
store = os.path.expanduser('~/.simpletuner/secrets.json')
def edit(n):
    with open(store + '.new', 'w') as f: json.dump({f'K{i}': chr(97 + n % 26) * (1000 + n % 7 * 3000) for i in range(7)}, f)
    os.chmod(store + '.new', 0o600); os.rename(store + '.new', store)
edit(0)
until(lambda: os.path.exists('K0'), 'the store is noticed')
flaws, stop = collections.Counter(), threading.Event()
def reads(me):
    for n in range(12):
        try:
            with open(f'K{(me + n) % 7}', 'rb') as f:
                size = os.fstat(f.fileno()).st_size
                got = f.read()
            if len(got) < 1000 or got.count(got[:1]) != len(got) or size != len(got): flaws[f'{len(got)} bytes of {size}'] += 1
        except OSError as e: flaws[str(e)] += 1
def edits():
    n = 0
    while not stop.is_set(): n += 1; edit(n); stop.wait(0.02)
editor = threading.Thread(target=edits); editor.start()
threads = [threading.Thread(target=reads, args=(i,)) for i in range(60)]
for t in threads: t.start()
for t in threads: t.join()
stop.set(); editor.join()
same(dict(flaws), {})
"#;
        let path = inside.home.path("program.py");
        std::fs::write(&path, format!("{PRELUDE}\n{program}")).unwrap();
        inside.bash(&format!("exec python3 {}", path.display()));
    }
}

#[test]
fn shells_in_a_pid_namespace_below_the_daemons_write_as_everywhere() {
    if !is_root() {
        return;
    }
    let live = Live::start();
    let script = r#"
exec 2>&1
bad() { echo "$*"; }
for i in {1..25}; do
    echo v$i > N; [ "$(cat N)" = v$i ] || bad "> then cat: $(cat N)"
    printf a > N; printf b >> N; [ "$(cat N)" = ab ] || bad ">> : $(cat N)"
    printf hello > N; sed -i s/hello/bye/ N; [ "$(cat N)" = bye ] || bad "sed: $(cat N)"
    printf x$i > N; mv N N2; [ "$(cat N2)" = x$i ] || bad "mv: $(cat N2)"; [ -e N ] && bad 'mv: N stays'; rm N2
    printf x$i > N; rm N; [ -e N ] && bad 'rm: N stays'
    printf x$i > N; [ $(stat -c %s N) = $((1 + ${#i})) ] || bad "stat: $(stat -c %s N)"
    ls | grep -qx N || bad 'ls: N is missing'
    printf x$i > N; printf Z | dd of=N bs=1 conv=notrunc status=none; [ "$(cat N)" = Z$i ] || bad "dd: $(cat N)"
    { echo a; /bin/echo b; } > N; [ "$(cat N)" = $'a\nb' ] || bad "group: $(cat N)"
    printf old > N; bash -c 'exec 3> N; printf half >&3; kill -9 $$' > /dev/null; [ "$(cat N)" = old ] || bad "killed: $(cat N)"
done
rm N
"#;
    let mut unshare = live.command("unshare");
    unshare.current_dir(live.path("secrets")).args([
        "-p",
        "-f",
        "--mount-proc",
        "bash",
        "-c",
        script,
    ]);
    let said = succeeds_in(&live, bounded(unshare));
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("Killed"))
        .collect();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn without_proc_writes_are_refused_and_nothing_is_lost() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.write(".simpletuner/secrets.json", r#"{"K": "value"}"#);
    // In a mount namespace of its own, which ends with the shell.
    let script = r#"
trap 'cd /; python3 -c "import ctypes, os; ctypes.CDLL(None).umount2(os.environb[b\"HOME\"] + b\"/.simpletuner/live\", 2)"' EXIT
mount -t tmpfs none /proc || exit 1
"$BIN" mount > said 2>&1 || { [ -s said ] && echo refused; exit 0; }
cd .simpletuner/live/secrets && cat K && echo
echo x 2> /dev/null > K && echo 'a write was done'
echo x 2> /dev/null > NEW && echo 'a new name was made'
cat K && echo
echo served
"#;
    let mut unshare = home.command("unshare");
    unshare.env("BIN", support::home::BINARY);
    unshare.args(["-m", "bash", "-c", script]);
    let said = succeeds(&mut bounded(unshare));
    assert!(
        said == "refused\n" || said == "value\nvalue\nserved\n",
        "{said}"
    );
}

#[test]
fn a_proc_that_hides_other_users_processes_is_enough() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let script = r#"
trap 'cd /; python3 -c "import ctypes, os; ctypes.CDLL(None).umount2(os.environb[b\"HOME\"] + b\"/.simpletuner/live\", 2)"' EXIT
mount -t proc -o hidepid=2 proc /proc || exit 1
"$BIN" mount > /dev/null 2>&1 || exit 1
cd .simpletuner/live/secrets
for i in {1..10}; do
    echo v$i > K; [ "$(< K)" = v$i ] || echo "wrong: $(< K)"
    bash -c 'exec 3> K; printf half >&3; kill -9 $$' 2> /dev/null; [ "$(< K)" = v$i ] || echo "killed: $(< K)"
done
"#;
    let mut unshare = home.command("unshare");
    unshare.env("BIN", support::home::BINARY);
    unshare.args(["-m", "bash", "-c", script]);
    assert_eq!(succeeds(&mut bounded(unshare)), "");
}

#[test]
fn a_bind_mount_of_one_file_shows_one_version_for_ever_and_cannot_be_written_through() {
    if !is_root() {
        return;
    }
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
printf old > K; touch ~/bound; mount --bind K ~/bound || exit 1
mkdir ~/folder; mount --bind . ~/folder || exit 1
trap 'umount -l ~/bound ~/folder' EXIT
printf new > K; cat K ~/bound ~/folder/K; echo
printf other 2> ~/said > ~/bound && echo written; grep -o 'Stale file handle' ~/said
cat K ~/bound; echo
"#,
    );
    assert_eq!(said, "newoldnew\nStale file handle\nnewold\n");
}
