//! With `allow_root`, the kernel lets every user through to the daemon. All but the owner and root are refused, even where the
//! kernel has the owner's answers cached.

use super::support::home::{is_root, ran};
use super::support::user::User;

/// In a mount namespace whose /etc/fuse.conf allows it, `nobody` mounts with `--allow-root`, and `daemon` is another user. What
/// follows sees the mount at `$live`.
const MOUNTED: &str = r#"
    echo user_allow_other > fuse.conf; touch /etc/fuse.conf; mount --bind fuse.conf /etc/fuse.conf
    chmod 755 . home
    as() { HOME=$PWD/home setpriv --reuid $1 --regid nogroup --clear-groups "${@:2}"; }
    live=$PWD/home/.simpletuner/live
    as nobody $PWD/program mount --allow-root > said 2>&1 || { cat said >&2; exit 1; }
    trap "as nobody $PWD/program umount" EXIT
    chmod 755 home/.simpletuner
    # What the kernel could keep for the owner.
    as nobody bash -c "printf v > $live/secrets/K; cat $live/secrets/K; ls -lR $live; stat $live $live/secrets $live/secrets/K" > /dev/null
"#;

#[track_caller]
fn in_namespace(script: &str) -> String {
    let owner = User::new("nobody");
    let mut unshare = owner.scratch.command("unshare");
    let script = format!("set -e\n{MOUNTED}\n{script}");
    ran(unshare.args(["--mount", "bash", "-c", &script])).done()
}

/// Tries everything that could show something of the mount, by each way to it; prints what was not refused.
const PRY: &str = r#"
import ctypes, errno, os, sys
live, bind, pid = sys.argv[1:4]
folder, path_only, secret = (int(fd) for fd in sys.argv[4:7])
libc = ctypes.CDLL(None, use_errno=True)
notify = libc.inotify_init1(os.O_NONBLOCK)
def watch(path):
    if libc.inotify_add_watch(notify, path.encode(), 0xfff) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
def attempt(what, call):
    try:
        print("not refused:", what, call())
    except OSError as error:
        if error.errno != errno.EACCES:
            print("another error:", what, error)
for at in [live, f"/proc/self/root{live}", f"/proc/{pid}/root{live}"]:
    for path in ["", "/secrets", "/secrets/K", "/secrets/NONE", "/status"]:
        for call in [os.stat, os.listdir, watch, os.listxattr, lambda path: os.open(path, os.O_RDONLY),
                     lambda path: os.open(path, os.O_PATH) if path != live and not path.endswith("root" + live) else os.stat(path),
                     lambda path: os.access(path, os.R_OK) or os.stat(path)]:
            attempt(at + path, lambda: call(at + path))
for path in ["", "/K", "/NONE"]:
    for call in [os.stat, os.listdir, watch, lambda path: os.open(path, os.O_RDONLY)]:
        attempt(bind + path, lambda: call(bind + path))
for fd in [folder, path_only]:
    attempt("the folder", lambda: os.fstat(fd))
    attempt("the names", lambda: os.listdir(fd))
    attempt("watching", lambda: watch(f"/proc/self/fd/{fd}"))
    for name in ["K", "NONE"]:
        attempt(name, lambda: os.stat(name, dir_fd=fd))
        attempt(name, lambda: os.open(name, os.O_RDONLY, dir_fd=fd))
attempt("making", lambda: os.open("NEW", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
# Who was given an open file may read it.
attempt("its attributes", lambda: os.fstat(secret))
print("given:", os.read(secret, 10).decode(), os.read(secret, 10).decode() + ".")
try:
    print("seen:", os.read(notify, 4096))
except BlockingIOError:
    pass
"#;

#[test]
fn with_allow_root_other_users_are_refused_by_every_way_to_the_mount() {
    if !is_root() {
        return;
    }
    // Without a capability the kernel's own check of modes refuses first; with it, only the daemon does.
    for capable in [
        "",
        "--inh-caps +dac_override,+dac_read_search --ambient-caps +dac_override,+dac_read_search",
    ] {
        let script = format!(
            r#"
            mkdir bind; mount --bind $live/secrets bind
            setpriv --reuid nobody --regid nogroup --clear-groups sleep 60 > /dev/null 2>&1 & owner=$!
            cat > pry.py <<'PRY'{PRY}PRY
            exec 7< $live/secrets 9< $live/secrets/K
            python3 - $live $PWD/bind $owner 7 9 <<'START'
import os, sys
live, bind, owner = sys.argv[1:4]
path_only = os.open(live + "/secrets", os.O_PATH)
fds = [7, path_only, 9]
for fd in fds: os.set_inheritable(fd, True)
os.execvp("setpriv", ["setpriv", "--reuid", "daemon", "--regid", "daemon", "--clear-groups", *"{capable}".split(),
    "python3", "pry.py", live, bind, owner, *map(str, fds)])
START
            kill $owner; wait $owner || true
            # The owner and root go on: each new name of the one is read by the other, which looks it up while it is being stored.
            for n in $(seq 40); do printf r > $live/secrets/N$n; [ "$(as nobody cat $live/secrets/N$n)" = r ]; done
            as nobody cat $live/secrets/K; cat $live/secrets/K
            umount bind"#
        );
        assert_eq!(in_namespace(&script), "given: v .\nvv", "{capable}");
    }
}

#[test]
fn thousands_of_users_who_are_refused_leave_a_bounded_number_of_rows() {
    if !is_root() {
        return;
    }
    let script = r#"
        python3 - $live <<'FLOOD'
import ctypes, os, sys
libc = ctypes.CDLL(None)
refused = 0
for uid in range(300000, 303000):
    libc.setfsuid(uid)
    try: os.stat(sys.argv[1])
    except PermissionError: refused += 1
libc.setfsuid(0)
print(refused)
FLOOD
        server=$(jq .server_pid $live/status)
        as nobody $PWD/program umount
        trap - EXIT
        db=home/.simpletuner/audit.db; [ -e $db ] || db=$(find home -name audit.db)
        python3 - $db <<'ROWS'
import json, sqlite3, sys
rows = sqlite3.connect(sys.argv[1]).execute("select details from audit_log where event_type='security.permission_denied'")
counts = [json.loads(details)["count"] for (details,) in rows]
print(len(counts) <= 110, sum(counts))
ROWS
        [ $(wc -l < home/.simpletuner/live.log) -lt 50 ]
        as nobody $PWD/program audit verify > /dev/null"#;
    assert_eq!(in_namespace(script), "3000\nTrue 3000\n");
}
