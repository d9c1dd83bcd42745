//! A write takes effect when the process that opened the file closes its last writable descriptor of it, even if other
//! processes inherited one. It does not if that process is killed.

use super::*;

/// Runs a way to end in a child; `ways` have what the child does with an open writer, and whether the value is taken.
const WAYS: &str = r#"
def begin(): return os.open('K', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

def check(what, way, taken, rounds=5):
    for round in range(rounds):
        old, new = f'old {what} {round}', f'new {what} {round}'
        put('K', old)
        pid = os.fork()
        if pid == 0:
            try: way(new)
            except BaseException as e: print(f'{what}: {e!r}', file=sys.stderr, flush=True)
            finally: os._exit(9)
        os.waitpid(pid, 0)
        same(text('K'), new if taken else old, what)
        same(os.stat('K').st_size, len(new if taken else old), what)

def die(number=signal.SIGKILL):
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)
    signal.pause()

def with_threads():
    for _ in range(4): threading.Thread(target=threading.Event().wait, daemon=True).start()

gate, held_open = os.pipe()

def sleeper():
    """A child that lives on with all its parent's descriptors until this program has looked at everything."""
    if os.fork() == 0:
        os.close(held_open)
        os.read(gate, 1)
        os._exit(0)
"#;

#[track_caller]
fn ways(program: &str) {
    let live = Live::start();
    python(&live, "secrets", &format!("{WAYS}\n{program}"));
}

#[test]
fn any_close_of_the_openers_last_descriptor_commits_the_value() {
    ways(
        r#"
def closed(v): f = begin(); write(f, v); os.close(f); die()
def exits(v): f = begin(); write(f, v); os._exit(0)
def exits_with_threads(v): with_threads(); f = begin(); write(f, v); os._exit(3)
def replaced(v): f = begin(); write(f, v); os.dup2(os.open('/dev/null', os.O_RDONLY), f); die()
def range_closed(v): f = begin(); write(f, v); os.closerange(f, f + 50); die()
def at_exec(v): f = begin(); write(f, v); os.set_inheritable(f, False); os.execv('/bin/sleep', ['sleep', '0'])
def duplicates_closed(v): f = begin(); g = os.dup(f); write(f, v[:3]); os.close(f); write(g, v[3:]); os.close(g); die()
def after_a_reader(v): f = begin(); r = os.open('K', os.O_RDONLY); write(f, v); os.close(f); die()
def by_a_thread(v):
    f = begin(); write(f, v); t = threading.Thread(target=os.close, args=(f,)); t.start(); t.join(); die()
for way in (closed, exits, exits_with_threads, replaced, range_closed, at_exec, duplicates_closed, after_a_reader, by_a_thread):
    check(way.__name__, way, True)
"#,
    );
}

#[test]
fn a_writer_that_any_signal_kills_changes_nothing_whatever_its_name() {
    ways(
        r#"
def killed_by(number):
    def way(v): f = begin(); write(f, v[:4]); die(number)
    return way
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT, signal.SIGSEGV, signal.SIGPIPE):
    check(f'signal {number}', killed_by(number), False, 2)
def with_more_threads(v): with_threads(); f = begin(); write(f, v[:4]); die()
def with_a_duplicate_left(v): f = begin(); write(f, v[:3]); g = os.dup(f); os.close(f); write(g, v[3:]); die()
def renamed(name):
    def way(v): libc.prctl(15, name, 0, 0, 0); f = begin(); write(f, v[:4]); die()
    return way
check('with threads', with_more_threads, False)
check('with a duplicate', with_a_duplicate_left, False)
for name in (b'a) S 1 \303(', b'x) R 1 (', 'sh12-训练任务'.encode()[:15], b'\xff\xfe', b'two\nlines'):
    check(f'named {name}', renamed(name), False)
def odd_and_exits(v): libc.prctl(15, b'a) Z 1 \303(', 0, 0, 0); f = begin(); write(f, v); os._exit(0)
check('odd name, exits', odd_and_exits, True)
"#,
    );
}

#[test]
fn descriptors_that_children_inherited_delay_nothing() {
    ways(
        r#"
def held_by_a_child(v): f = begin(); write(f, v); sleeper(); os.close(f); die()
def held_by_a_program(v):
    f = begin(); write(f, v); os.set_inheritable(f, True)
    subprocess.Popen(['cat'], stdin=gate, close_fds=False); os.close(f); die()
def written_by_a_child(v):
    f = begin(); write(f, v[:3])
    if os.fork() == 0: write(f, v[3:]); die()
    os.wait(); os.close(f); die()
for way in (held_by_a_child, held_by_a_program, written_by_a_child): check(way.__name__, way, True, 3)
"#,
    );
}

#[test]
fn a_child_that_is_killed_while_the_server_is_busy_takes_no_value_with_it() {
    ways(
        r#"
def neighbour():
    """A process of very many descriptors: each time that it closes a file, the server has much to look at."""
    if os.fork() == 0:
        os.close(held_open)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        null, me = os.open('/dev/null', os.O_RDONLY), os.getpid()
        for _ in range(min(most, 6_000) - 100): os.dup(null)
        while not select.select([gate], [], [], 0)[0]: put(f'N{me}', 'n')
        os._exit(0)
def killed_child(v):
    f = begin(); write(f, v)
    if os.fork() == 0: die()
    os.wait(); os.close(f); die()
def killed_child_and_exit(v):
    f = begin(); write(f, v)
    if os.fork() == 0: die()
    os.wait(); os._exit(0)
def killed(v): f = begin(); write(f, v[:4]); die()
def killed_with_a_duplicate_closed(v): f = begin(); write(f, v[:4]); os.close(os.dup(f)); die()
for _ in range(2): neighbour()
for way in (killed_child, killed_child_and_exit): check(way.__name__, way, True, 3)
for way in (killed, killed_with_a_duplicate_closed): check(way.__name__, way, False, 2)
"#,
    );
}

#[test]
fn a_child_that_holds_an_inherited_descriptor_for_ever_does_not_delay_the_value() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
fd = os.open('K', os.O_WRONLY | os.O_TRUNC); write(fd, 'new')
os.set_inheritable(fd, True)
holder = subprocess.Popen(['cat'], stdin=subprocess.PIPE, close_fds=False)
os.close(fd)
same((text('K'), os.stat('K').st_size), ('new', 3), 'while a child has it open')
with open('N', 'w') as f:
    f.write('made'); os.set_inheritable(f.fileno(), True)
    second = subprocess.Popen(['cat'], stdin=subprocess.PIPE, close_fds=False)
same(text('N'), 'made', 'a new name while a child has it open')
for child in (holder, second): child.kill(); child.wait()
same((text('K'), text('N')), ('new', 'made'), 'after they were killed')
"#,
    );
}

#[test]
fn values_are_there_for_the_next_open_beside_threads_that_start_programs() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
stop = threading.Event()
def starts_programs():
    while not stop.is_set(): subprocess.run(['true'], close_fds=False)
threads = [threading.Thread(target=starts_programs) for _ in range(2)]
for t in threads: t.start()
try:
    bad = []
    for n in range(400):
        fd = os.open('T', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.set_inheritable(fd, True)
        write(fd, f'v{n}'); os.close(fd)
        if text('T') != f'v{n}': bad.append((n, text('T')))
    silent = []
    for n in range(400):
        fd = os.open('../hardware/gpu-l40s.json', os.O_WRONLY | os.O_TRUNC)
        os.set_inheritable(fd, True)
        write(fd, 'this is no JSON')
        if outcome(os.close, fd) != errno.EINVAL: silent.append(n)
finally:
    stop.set()
    for t in threads: t.join()
same((len(bad), len(silent)), (0, 0), f'{bad[:5]} {silent[:5]}')
"#,
    );
}

#[test]
fn bytes_written_through_a_passed_descriptor_take_effect_at_its_release() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
here, there = socket.socketpair()
def receiver(wait):
    _, fds, _, _ = socket.recv_fds(there, 1, 1)
    wait(); write(fds[0], ' and later'); os.close(fds[0])
fd = os.open('K', os.O_WRONLY | os.O_TRUNC); write(fd, 'now')
socket.send_fds(here, [b'.'], [fd])
child = Child(receiver)
os.close(fd)
same(text('K'), 'now', 'at the close of who opened it')
child.ends()
until(lambda: text('K') == 'now and later', 'what was written later is there')
"#,
    );
}

#[test]
fn a_child_may_finish_the_value_after_its_parent_has_exited() {
    let live = Live::start();
    bash(
        &live,
        "secrets",
        r#"
printf old > K; mkfifo ~/go; exec 5<> ~/go; trap 'echo >&5' EXIT
(exec 3> K; { read -r < ~/go; printf child >&3; } & printf parent- >&3) &
wait $!
[ "$(<K)" = parent- ] || { echo "after the parent: $(<K)"; exit 1; }
echo >&5
for i in {1..1000}; do [ "$(<K)" = parent-child ] && exit 0; sleep 0.01; done
echo "in the end: $(<K)"; exit 1
"#,
    );
}

#[test]
fn an_open_reader_hinders_no_writer() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
def append(value):
    fd = os.open('K', os.O_WRONLY | os.O_APPEND); write(fd, value); os.close(fd)
for before, after in ((lambda: put('K', 'v0'), lambda: put('K', 'v1')), (lambda: put('K', 'v1'), lambda: None)):
    before(); reader = os.open('K', os.O_RDONLY); after()
    for n in '123': append(n)
    same(text('K'), 'v1123')
    put('K', 'v0')
    fd = os.open('K', os.O_RDWR); same(os.pread(fd, 9, 0), b'v0'); write(fd, 'V'); os.close(fd)
    same(text('K'), 'V0')
    def malformed():
        fd = os.open('K', os.O_WRONLY | os.O_TRUNC)
        try: write(fd, b'\xff')
        finally: os.close(fd)
    refused(errno.EILSEQ, malformed)
    same((text('K'), os.pread(reader, 9, 0)[:1]), ('V0', b'v'))
    os.close(reader)
"#,
    );
}

#[test]
fn all_that_one_process_wrote_by_two_descriptors_is_committed_in_the_order_of_opening() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
first = os.open('K', os.O_WRONLY | os.O_TRUNC); second = os.open('K', os.O_WRONLY | os.O_TRUNC)
write(first, 'first'); write(second, 'second')
os.close(first); os.close(second)
until(lambda: text('K') == 'second', 'the one that was opened last is there')
"#,
    );
}

#[test]
fn an_fsynced_value_shows_to_others_from_the_close_on_and_not_before() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
def writer(wait):
    for name in ('K', 'NEW'):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        write(fd, 'new'); os.fsync(fd); os.fdatasync(fd)
    os.sync(); wait()
child = Child(writer)
same((text('K'), text('NEW')), ('old', None), 'synced, not closed')
child.killed()
same((text('K'), text('NEW')), ('old', None), 'the writer killed')
child = Child(writer)
child.ends()
same((text('K'), text('NEW')), ('new', 'new'), 'closed')
"#,
    );
}

#[test]
fn until_its_close_a_writer_reads_the_present_value_by_name_and_its_own_by_its_descriptor() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
fd = os.open('K', os.O_RDWR); os.ftruncate(fd, 0); write(fd, 'written')
same((text('K'), os.stat('K').st_size), ('old', 3), 'by name')
same((os.pread(fd, 99, 0), os.fstat(fd).st_size), (b'written', 7), 'by its descriptor')
os.close(fd)
same(text('K'), 'written', 'closed')
"#,
    );
}

#[test]
fn a_file_of_the_same_name_in_another_mount_delays_no_close() {
    let (live, other) = (Live::start(), Live::start());
    live.write("secrets/K", "old");
    other.write("secrets/K", "other");
    let program = r#"
g = os.open(os.environ['OTHER'], os.O_WRONLY)
f = os.open('K', os.O_WRONLY | os.O_TRUNC)
same(os.fstat(f).st_ino, os.fstat(g).st_ino, 'the numbers of both')
os.write(f, b'\xc3')
# Only the close that commits gives the error.
try: os.close(f); same('done', 'EILSEQ', 'the close')
except OSError as e: same(e.errno, errno.EILSEQ, 'the close')
"#;
    let mut python = python_in(&live, "secrets", program);
    python.env("OTHER", other.path("secrets/K"));
    succeeds_in(&live, python);
}

#[test]
fn a_descriptor_of_a_bind_mount_counts_as_one_of_the_mount() {
    if !is_root() {
        return;
    }
    let live = Live::start();
    live.write("secrets/K", "old");
    let bound = live.home("bound");
    std::fs::create_dir(&bound).unwrap();
    let program = r#"
g = os.open(os.environ['BOUND'], os.O_WRONLY | os.O_TRUNC)
f = os.dup(g)
os.write(f, b'ha'); os.close(f)
same(text('K'), 'old', 'while another descriptor is open')
os.write(g, b'lf'); os.close(g)
same(text('K'), 'half', 'after the last close')
"#;
    let mut python = python_in(&live, "secrets", program);
    python.env("BOUND", bound.join("K"));
    let script = format!("mount --bind \"$0\" {} && exec \"$@\"", bound.display());
    let mut unshared = Command::new("unshare");
    unshared.args(["-m", "sh", "-c", &script]);
    unshared.arg(live.path("secrets")).arg(python.get_program());
    unshared.args(python.get_args());
    unshared.current_dir(live.path("secrets"));
    for (name, value) in python.get_envs() {
        unshared.env(name, value.unwrap_or_default());
    }
    succeeds_in(&live, unshared);
}
