//! Writers that are unusual processes: without a main thread, stopped, not dumpable, of another user, in a chroot.

use super::*;

/// What these share: a writer that says what it does with an open file, and what is there after it.
const WRITERS: &str = r#"
def begin(name='K'): return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

def leaves(what, way, taken=True, rounds=3):
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

def die(): os.kill(os.getpid(), signal.SIGKILL); signal.pause()
SYSCALLS = {'x86_64': {'exit': 60, 'clone': 56}, 'aarch64': {'exit': 93, 'clone': 220}}[os.uname().machine]
"#;

#[track_caller]
fn writers(program: &str) {
    let live = Live::start();
    python(&live, "secrets", &format!("{WRITERS}\n{program}"));
}

#[test]
fn a_process_whose_first_thread_has_ended_writes_and_closes() {
    writers(
        r#"
def leader_ends(closes):
    def way(v):
        f = begin(); write(f, v[:3])
        def other():
            def leader(): 
                with open(f'/proc/{os.getpid()}/status') as s: return s.read()
            until(lambda: 'State:\tZ' in leader(), 'the first thread has ended')
            write(f, v[3:])
            if closes: os.close(f); die()
            os._exit(0)
        threading.Thread(target=other).start()
        libc.syscall(SYSCALLS['exit'], 0)
    return way
leaves('closed', leader_ends(True))
leaves('exits', leader_ends(False))
def killed(v):
    f = begin(); write(f, v[:3])
    def other():
        time.sleep(0.05); die()
    threading.Thread(target=other).start()
    libc.syscall(SYSCALLS['exit'], 0)
leaves('killed', killed, False)
"#,
    );
}

#[test]
fn a_process_that_nobody_may_look_into_writes_and_closes() {
    writers(
        r#"
def not_dumpable(v): f = begin(); libc.prctl(4, 0, 0, 0, 0); write(f, v); os.close(f); die()
def not_dumpable_exits(v): f = begin(); libc.prctl(4, 0, 0, 0, 0); write(f, v); os._exit(0)
def not_dumpable_killed(v): f = begin(); libc.prctl(4, 0, 0, 0, 0); write(f, v[:4]); die()
if os.getuid() == 0:
    leaves('not dumpable', not_dumpable); leaves('not dumpable, exits', not_dumpable_exits)
    leaves('not dumpable, killed', not_dumpable_killed, False)
    def other_user(v): f = begin(); write(f, v[:3]); os.setgroups([]); os.setgid(65534); os.setuid(65534); write(f, v[3:]); os.close(f); die()
    def other_root(v): f = begin(); write(f, v); os.chroot('/var/empty' if os.path.isdir('/var/empty') else '/proc'); os.close(f); die()
    def other_mounts(v): f = begin(); libc.unshare(0x00020000); write(f, v); os.close(f); die()
    for way in (other_user, other_root, other_mounts): leaves(way.__name__, way)
"#,
    );
}

#[test]
fn a_stopped_writer_delays_nobody() {
    writers(
        r#"
put('K', 'old')
def writer(wait):
    f = begin(); write(f, 'of the stopped one'); g = begin('NEW'); write(g, 'new'); wait(); os.close(f); os.close(g)
child = Child(writer)
os.kill(child.pid, signal.SIGSTOP)
other = Other()
same((other.read('K'), other.list()), ('old', ['K']))
put('K', 'second'); os.rename('K', 'L'); put('K', 'third'); os.unlink('L')
same((other.read('K'), other.list()), ('third', ['K']))
os.kill(child.pid, signal.SIGCONT)
child.ends()
same(other.read('NEW'), 'new')
assert other.read('K') in ('third', 'of the stopped one'), other.read('K')
"#,
    );
}

#[test]
fn a_writer_that_shares_its_descriptor_table_has_written_when_either_process_closes() {
    writers(
        r#"
put('K', 'old')
f = begin(); write(f, 'new')
pid = libc.syscall(SYSCALLS['clone'], 0x400 | signal.SIGCHLD, 0, 0, 0, 0)  # CLONE_FILES
if pid == 0:
    os.close(f); os._exit(0)
os.waitpid(pid, 0)
refused(errno.EBADF, os.close, f)
until(lambda: text('K') == 'new', 'the value is there')
"#,
    );
}

#[test]
fn a_program_that_takes_the_writers_place_keeps_its_files() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
printf old > K
bash -c 'exec 3> K; printf one- >&3; exec bash -c "printf two >&3; cat K; echo; kill -9 \$\$"' 2> /dev/null; cat K; echo
bash -c 'exec 3> K; printf one- >&3; exec bash -c "printf two >&3; exec 3>&-; cat K; echo; kill -9 \$\$"' 2> /dev/null; cat K; echo
bash -c 'exec 3> K; printf exec- >&3; exec printf last >&3'; cat K; echo
(printf sub > K; kill -9 $BASHPID) 2> /dev/null; cat K
"#,
    );
    assert_eq!(said, "old\nold\none-two\none-two\nexec-last\nsub");
}
