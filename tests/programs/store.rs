//! The secrets file: documents of one moment, a disk that hangs, a system call that is missing, many writers at once.

use super::*;

#[test]
fn a_document_is_of_one_moment() {
    let live = Live::start();
    python(
        &live,
        "",
        r#"
store = os.path.expanduser('~/.simpletuner/secrets.json')
def edit(n):
    keys = {'AAA': f'v{n}', **{f'M{i:05}': 'x' * 40 for i in range(2000)}, 'ZZZ': f'v{n}'}
    with open(store + '.new', 'w') as f: json.dump(keys, f)
    os.chmod(store + '.new', 0o600)
    os.rename(store + '.new', store)
edit(0)
until(lambda: text('secrets/ZZZ') == 'v0', 'the store is noticed')
stop, edits, failed = threading.Event(), 0, []
def editor():
    global edits
    while not stop.is_set(): edits += 1; edit(edits); stop.wait(0.02)
thread = threading.Thread(target=editor); thread.start()
torn, reads, seen = [], 0, set()
try:
    while reads < 60 or len(seen) < 12:
        d = json.loads(text('bundle/secrets.json'))
        y = text('bundle/secrets.env')
        pairs = [(d['AAA'], d['ZZZ']), tuple(re.findall(r'^(?:AAA|ZZZ)=(.*)$', y, re.M))]
        torn += [pair for pair in pairs if len(set(pair)) != 1]
        reads += 1; seen.add(d['AAA'])
        assert len(d) == 2002
finally: stop.set(); thread.join()
same(torn, [], f'of {reads} reads beside {edits} edits')
until(lambda: json.loads(text('bundle/secrets.json'))['AAA'] == f'v{edits}', 'the last edit shows')
"#,
    );
}

#[test]
fn a_store_that_hangs_delays_only_its_own_callers_and_ends_neither_server_nor_mount() {
    let far = Live::start();
    far.write("bundle/secrets.json", r#"{"K": "value", "L": "other"}"#);
    let path = far.path("bundle/secrets.json");
    let settings = format!(
        "file_path: {}\ntimeout: {{total: 6, server: 4}}\n",
        path.display()
    );
    let near = Live::start_with(Setup {
        files: vec![(".simpletuner/live.yaml", &settings)],
        ..Setup::default()
    });
    assert_eq!(near.read("secrets/K"), "value");
    let server = near.server_pid();
    let processes = [far.keeper_pid(), far.server_pid()];
    for pid in processes {
        support::home::signal("STOP", pid);
    }
    // Twice as long as it takes until a server that hangs is replaced.
    let looked = ends(
        &near,
        python_in(
            &near,
            "",
            r#"
missing = background(['cat', 'secrets/NONE'])
for _ in range(160):
    for name, value in {'K': 'value', 'L': 'other'}.items(): same(text(f'secrets/{name}'), value)
    json.loads(text('status')); text('events'); os.listdir('secrets')
    time.sleep(0.05)
assert missing.wait() != 0
"#,
        ),
    );
    let same_server = looked && near.server_pid() == server;
    let mut umount = near.cli();
    umount.arg("umount");
    let umounted = same_server && ends(&near, bounded(umount));
    for pid in processes {
        support::home::signal("CONT", pid);
    }
    let said = std::fs::read_to_string(near.home("said")).unwrap();
    assert!(looked, "{said}");
    assert!(same_server, "the server was replaced");
    assert!(umounted, "{said}");
    assert_eq!(far.read("secrets/K"), "value");
}

/// A program that copies the folder would remove at the other end what an empty listing is without.
#[test]
fn the_names_are_not_listed_before_the_store_has_been_read_once() {
    let far = Live::start();
    far.write("bundle/secrets.json", r#"{"K": "value", "L": "other"}"#);
    let settings = format!("file_path: {}\n", far.path("bundle/secrets.json").display());
    let near = Live::start_with(Setup {
        files: vec![(".simpletuner/live.yaml", &settings)],
        ..Setup::default()
    });
    let server = near.server_pid();
    let processes = [far.keeper_pid(), far.server_pid()];
    for pid in processes {
        support::home::signal("STOP", pid);
    }
    support::home::signal("KILL", server);
    support::wait_until("another server answers", || near.server_pid() != server);
    let mut ls = Command::new("ls");
    ls.arg(near.path("secrets"))
        .stdout(std::process::Stdio::piped());
    let mut ls = ls.spawn().unwrap();
    support::wait_until("it waits or has ended", || {
        support::waits_for_the_mount(ls.id()) || ls.try_wait().unwrap().is_some()
    });
    for pid in processes {
        support::home::signal("CONT", pid);
    }
    let listed = ls.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "K\nL\n");
}

/// Whether a program ends well while the store hangs. What waits for the store may not be killed before it goes on, so
/// nobody waits for the program longer than it may take.
fn ends(live: &Live, mut command: Command) -> bool {
    let said = std::fs::File::create(live.home("said")).unwrap();
    command.stdout(std::process::Stdio::null()).stderr(said);
    let mut child = command.spawn().unwrap();
    for _ in 0..900 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // It ends when the store goes on.
    support::home::signal("TERM", child.id());
    false
}

/// Starts a mount in a sandbox that answers one system call with ENOSYS.
const SANDBOX: &str = r#"
import ctypes, os, struct, sys
def op(code, jt, jf, k): return struct.pack('HBBI', code, jt, jf, k)
number = {'flock': {'x86_64': 73, 'aarch64': 32}, 'fsync': {'x86_64': 74, 'aarch64': 82}, 'inotify_init1': {'x86_64': 294, 'aarch64': 26}}[sys.argv[1]][os.uname().machine]
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, number) + op(0x06, 0, 0, 0x00050000 | 38) + op(0x06, 0, 0, 0x7fff0000)
class Filter(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
buffer = ctypes.create_string_buffer(program)
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.cast(buffer, ctypes.c_void_p).value)), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[test]
fn a_system_call_that_a_sandbox_refuses_makes_a_write_fail_and_never_seem_done() {
    if !is_root() {
        return; // The sandbox sets no_new_privs, and fusermount3 would need them.
    }
    for call in ["flock", "fsync"] {
        let home = Home::new();
        let mut mount = home.command("python3");
        mount.args(["-c", SANDBOX, call, support::home::BINARY, "mount"]);
        succeeds(&mut bounded(mount));
        let script = r#"
cd .simpletuner/live/secrets || exit 1
for i in 1 2 3; do
    printf v | dd of=K status=none 2> /dev/null && [ "$(cat K 2> /dev/null)" != v ] && echo 'dd: said done'
    "$BIN" set K2 v 2> /dev/null && [ "$(cat K2 2> /dev/null)" != v ] && echo 'set: said done'
    printf v > .n && ! mv .n K3 2> /dev/null; [ -e K3 ] && [ "$(cat K3)" != v ] && echo 'mv: half done'
done
cat ../status > /dev/null; cd /; "$BIN" umount 2> /dev/null
"#;
        let mut bash = home.command("bash");
        bash.env("BIN", support::home::BINARY).args(["-c", script]);
        assert_eq!(succeeds(&mut bounded(bash)), "", "{call}");
    }
}

#[test]
fn large_files_of_many_writes_are_whole_and_others_read_beside_them() {
    let live = Live::start();
    python(
        &live,
        "bundle",
        r#"
import hashlib
put('../secrets/A', 'value')
watcher = Watcher('../secrets/A', 'value')
for mib in (1, 4, 16):
    fd = os.open('.large', os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    digest = hashlib.sha256()
    for i in range(mib * 128):
        piece = bytes([i % 251]) * 8191 + b'\n'
        digest.update(piece); write(fd, piece)
    same(os.fstat(fd).st_size, mib << 20)
    for open_still in (True, False):
        with open('.large', 'rb') as f: same(hashlib.file_digest(f, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else hashlib.sha256(f.read()).hexdigest(), digest.hexdigest(), f'{mib} MiB')
        if open_still: os.close(fd)
    os.unlink('.large')
watcher.ends()
"#,
    );
}

#[test]
fn writers_that_wait_for_the_store_are_written_together_and_each_gets_its_own_result() {
    // They wait for as long as the test holds the lock.
    let patient = "timeout:\n  total: 300\n";
    let live = Live::start_with(Setup {
        files: vec![(".simpletuner/live.yaml", patient)],
        ..Setup::default()
    });
    python(
        &live,
        "secrets",
        r#"
put('FIRST', 'v')
folder = os.path.expanduser('~/.simpletuner')
lock = os.open(f'{folder}/secrets.json.lock', os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
watch = background(['inotifywait', '-m', '-q', '--format', '%f', '-e', 'moved_to', folder], stdout=subprocess.PIPE)
# inotifywait watches once it has reported the probe.
def probe():
    put(f'{folder}/probe', ''); os.rename(f'{folder}/probe', f'{folder}/probed')
os.set_blocking(watch.stdout.fileno(), False)
reported = ''
def more():
    global reported
    try: reported += os.read(watch.stdout.fileno(), 65536).decode()
    except BlockingIOError: pass
    return reported
until(lambda: (probe(), more())[1], 'inotifywait tells')
def writer(i):
    def way(wait):
        fd = os.open(f'K{i:02}', os.O_WRONLY | os.O_CREAT, 0o600)
        # Every fifth ends inside a character, which shows at the close only.
        write(fd, f'value {i}'); os.write(fd, b'\xc3' if i % 5 == 0 else b'.')
        wait()
        code = outcome(os.close, fd)
        return {None: 10, errno.EILSEQ: 11}.get(code, 12)
    return way
children = [Child(writer(i)) for i in range(50)]
for child in children: os.write(child._go, b'.')
def waits(pid):
    with open(f'/proc/{pid}/wchan') as f: return 'request_wait' in f.read()
good = [i for i in range(50) if i % 5]
until(lambda: all(waits(children[i].pid) for i in good), 'all wait for the store')
# And nobody is looked at any more: the thread that does has nothing to do.
def looks():
    server = json.loads(text('../status'))['server_pid']
    for task in os.listdir(f'/proc/{server}/task'):
        with open(f'/proc/{server}/task/{task}/comm') as f:
            if f.read().strip() != 'close': continue
        with open(f'/proc/{server}/task/{task}/wchan') as f: return 'futex' not in f.read()
until(lambda: not any([looks() for _ in range(20)]), 'the closes are with the thread that commits')
fcntl.flock(lock, fcntl.LOCK_UN)
same([child._reap() for child in children], [11 if i % 5 == 0 else 10 for i in range(50)], 'the outcome of each')
for i in range(50): same(text(f'K{i:02}'), f'value {i}.' if i % 5 else None)
with open(f'{folder}/secrets.json') as f: same(len(json.load(f)), 41)
put('LAST', 'v'); probe()
until(lambda: more().rstrip().endswith('probed'), 'inotifywait has reported all')
watch.kill(); watch.wait()
rewrites = reported.split().count('secrets.json') - 1
assert rewrites <= 5, f'{rewrites} rewrites of the store for 40 writers'
"#,
    );
}

#[test]
fn a_thousand_secrets_made_one_after_another_are_all_there() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
for i in range(1000): put(f'K{i:04}', f'value {i}')
same(len(os.listdir('.')), 1000)
for i in range(0, 1000, 37): same(text(f'K{i:04}'), f'value {i}')
with open(os.path.expanduser('~/.simpletuner/secrets.json')) as f: same(len(json.load(f)), 1000)
"#,
    );
}

#[test]
fn the_first_reads_and_writes_of_fresh_homes_make_one_key_for_the_audit_trail() {
    for _ in 0..10 {
        let live = Live::start();
        bash(
            &live,
            "secrets",
            "(cat NONE & echo v > A & cat NONE & echo w > B & wait; cat A B) > /dev/null 2>&1; true",
        );
        let home = live.stop();
        let log = std::fs::read_to_string(home.path().join("daemon.log")).unwrap();
        assert!(!log.contains("audit trail's key"), "{log}");
    }
}

#[test]
fn without_inotify_an_edit_by_another_program_still_shows() {
    if !is_root() {
        return; // The sandbox sets no_new_privs, and fusermount3 would need them.
    }
    let home = Home::new();
    home.write(".simpletuner/secrets.json", r#"{"K": "old"}"#);
    let mut mount = home.command("python3");
    mount.args([
        "-c",
        SANDBOX,
        "inotify_init1",
        support::home::BINARY,
        "mount",
    ]);
    succeeds(&mut bounded(mount));
    let read = || std::fs::read_to_string(home.live("secrets/K")).unwrap();
    for value in ["first", "second"] {
        read();
        home.write(
            ".simpletuner/secrets.json",
            &format!("{{\"K\": \"{value}\"}}"),
        );
        wait_until("the edit shows", || read() == value);
    }
    home.run(&["umount"]).done();
}
