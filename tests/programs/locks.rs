//! No two processes ever hold the same lock: it excludes others by the file's name, whatever versions and writers there are,
//! or it is refused with ENOLCK.

use super::*;

/// What all these tests rest on: a lock of a kind, on a descriptor opened in a way, and a second process that tries.
const LOCKS: &str = r#"
BUSY = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
KINDS = {
    'flock': (lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), lambda fd: fcntl.flock(fd, fcntl.LOCK_UN)),
    'fcntl': (lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN)),
}
WRITERS = {'r+': os.O_RDWR, '>>': os.O_WRONLY | os.O_CREAT | os.O_APPEND, 'c+': os.O_RDWR | os.O_CREAT}
READERS = {'<': os.O_RDONLY}

def takes(kind, fd):
    """Whether the lock was given; it is refused for want of locks in the one way that is allowed."""
    code = outcome(KINDS[kind][0], fd)
    assert code in (None, errno.ENOLCK, *BUSY), errno.errorcode[code]
    return code is None

def another_takes(kind, name, flags):
    def other(wait):
        fd = os.open(name, flags, 0o600)
        got = takes(kind, fd)
        wait()
        return 10 + got
    return Child(other).resume() == 11

def never_two(kind, name, flags, other_flags, meanwhile=lambda: None):
    fd = os.open(name, flags, 0o600)
    if takes(kind, fd):
        meanwhile()
        assert not another_takes(kind, name, other_flags), f'{kind} on {name} was given to two ({flags:o}, {other_flags:o})'
        KINDS[kind][1](fd)
        assert another_takes(kind, name, other_flags), f'{kind} on {name}: it is free again'
        assert takes(kind, fd); 
    os.close(fd)
"#;

#[track_caller]
fn locks(program: &str) {
    let live = Live::start();
    python(&live, "secrets", &format!("{LOCKS}\n{program}"));
}

#[test]
fn a_lock_on_a_file_that_is_open_for_writing_is_given_to_one() {
    locks(
        r#"
put('LK', '0')
for kind in KINDS:
    for flags in WRITERS.values():
        for other in WRITERS.values(): never_two(kind, 'LK', flags, other)
for other in WRITERS.values():
    never_two('flock', 'LK', os.O_RDONLY, other)
    never_two('flock', 'LK', other, os.O_RDONLY)
never_two('flock', 'LK', os.O_RDONLY, os.O_RDONLY)
"#,
    );
}

#[test]
fn a_lock_holds_over_a_value_that_is_set_meanwhile() {
    locks(
        r#"
def set_it(): subprocess.run('echo w > LK', shell=True, check=True)
for kind in KINDS:
    for flags in (*WRITERS.values(), *(READERS.values() if kind == 'flock' else ())):
        put('LK', 'v')
        never_two(kind, 'LK', flags, flags, set_it)
"#,
    );
}

#[test]
fn a_lock_on_a_new_name_is_given_to_one() {
    locks(
        r#"
for kind in KINDS:
    never_two(kind, f'NEW_{kind}', os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT)
    never_two(kind, f'.scratch_{kind}', os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT)
never_two('flock', 'NEW', os.O_RDONLY | os.O_CREAT, os.O_RDONLY | os.O_CREAT)
"#,
    );
}

#[test]
fn a_counter_under_a_granted_lock_loses_no_count() {
    locks(
        r#"
def count(kind, lock, flags):
    put('CNT', '0')
    def worker(wait):
        wait()
        counted = 0
        for _ in range(10):
            fd = os.open(lock, flags, 0o600)
            if outcome(fcntl.flock if kind == 'flock' else fcntl.lockf, fd, fcntl.LOCK_EX) is None:
                n = int(text('CNT')); put('CNT', str(n + 1)); counted += 1
            os.close(fd)
        return 100 + counted
    children = [Child(worker) for _ in range(4)]
    for child in children: os.write(child._go, b'.')
    counted = sum(child._reap() - 100 for child in children)
    same(int(text('CNT')), counted, f'{kind} on {lock}')
put('LK', '')
for kind in KINDS:
    for lock in ('LK', 'CNT.lock', '.lock'): count(kind, lock, os.O_RDWR | os.O_CREAT)
count('flock', 'LK', os.O_RDONLY)
"#,
    );
}

#[test]
fn the_program_flock_lets_one_in() {
    let live = Live::start();
    let script = r#"
mkfifo ~/ready ~/go
for name in NEW LK; do
    [ $name = LK ] && echo v > LK
    flock -x $name sh -c 'echo > ~/ready; read -r < ~/go' & holder=$!
    # Where locks are refused, it says so and ends.
    (read -r < ~/ready; echo held) > ~/held & watch=$!
    while kill -0 $holder 2> /dev/null && kill -0 $watch 2> /dev/null; do sleep 0.01; done
    if [ -s ~/held ]; then
        [ $name = LK ] && echo w > LK
        flock -n -x $name true && echo "two have $name"
        echo > ~/go; wait $holder; wait $watch
        flock -n -x $name true || echo "$name is still held"
    else
        kill $watch; wait $holder
    fi 2> /dev/null
    rm -f ~/held
done
"#;
    assert_eq!(bash(&live, "secrets", script), "");
}

#[test]
fn a_lock_of_a_killed_holder_is_free() {
    locks(
        r#"
put('LK', 'v')
for kind in KINDS:
    def holder(wait):
        fd = os.open('LK', os.O_RDWR); got = takes(kind, fd); wait(); return 10 + got
    child = Child(holder)
    child.killed()
    fd = os.open('LK', os.O_RDWR)
    code = outcome(KINDS[kind][0], fd)
    assert code in (None, errno.ENOLCK), errno.errorcode[code]
    os.close(fd)
same(text('LK'), 'v')
"#,
    );
}

#[test]
fn a_wait_for_a_lock_ends_with_a_signal_or_with_the_release() {
    locks(
        r#"
put('LK', 'v')
fd = os.open('LK', os.O_RDWR)
if takes('flock', fd):
    def waiter(wait):
        f = os.open('LK', os.O_RDWR); wait(); fcntl.flock(f, fcntl.LOCK_EX); wait()
        return 0
    first, second = Child(waiter), Child(waiter)
    os.write(first._go, b'.'); os.write(second._go, b'.')
    same(first.killed(signal.SIGTERM), -signal.SIGTERM, 'who waits for a lock')
    same(text('LK'), 'v', 'reads go on')
    fcntl.flock(fd, fcntl.LOCK_UN)
    same(os.read(second._said, 1), b'.', 'the lock came')
    second.ends()
"#,
    );
}

#[test]
fn a_lease_holds_up_a_writer_until_it_is_given_back() {
    locks(
        r#"
put('K', 'v')
fd = os.open('K', os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
broken = []
signal.signal(signal.SIGIO, lambda *_: (broken.append(1), fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)))
writer = subprocess.Popen('printf w > K', shell=True)
until(lambda: writer.poll() is not None, 'the writer came through')
assert broken, 'a writer came through without a signal'
"#,
    );
}

#[test]
fn a_lock_on_a_document_is_given_to_one() {
    locks(
        r#"
put('K', 'v')
for name in ('../bundle/secrets.json', '../bundle/secrets.yaml', '../hardware/gpu-l40s.json'):
    for kind in KINDS: never_two(kind, name, os.O_RDWR, os.O_RDWR)
    never_two('flock', name, os.O_RDONLY, os.O_RDWR)
def save():
    d = json.loads(text('../bundle/secrets.json')); d['K'] = 'w'; put('../bundle/secrets.json', json.dumps(d))
for kind in KINDS: never_two(kind, '../bundle/secrets.json', os.O_RDWR, os.O_RDWR, lambda: (Child(lambda wait: (save(), wait())[1]).ends(), same(text('K'), 'w')))
"#,
    );
}

#[test]
fn a_lock_file_that_is_created_exclusively_excludes() {
    locks(
        r#"
def count(holds_it_open):
    put('CNT', '0')
    def worker(wait):
        wait()
        for _ in range(10):
            while True:
                try: fd = os.open('CNT.lock', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600); break
                except FileExistsError: time.sleep(random.random() * 0.002)
            if not holds_it_open: os.close(fd)
            n = int(text('CNT')); put('CNT', str(n + 1))
            os.unlink('CNT.lock')
            if holds_it_open: os.close(fd)
        return 7
    children = [Child(worker) for _ in range(3)]
    for child in children: os.write(child._go, b'.')
    same([child._reap() for child in children], [7, 7, 7])
    same((text('CNT'), os.path.exists('CNT.lock')), ('30', False), f'held open: {holds_it_open}')
count(False)
count(True)
"#,
    );
}

#[test]
fn a_lease_does_not_hold_up_a_rename_over_the_name_or_a_change_behind_the_mount() {
    locks(
        r#"
put('K', 'v'); put('L', 'by a rename')
broken = []
signal.signal(signal.SIGIO, lambda *_: broken.append(1))
fd = os.open('K', os.O_RDONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
subprocess.run(['mv', 'L', 'K'], check=True)
same(text('K'), 'by a rename')
store = os.path.expanduser('~/.simpletuner/secrets.json')
with open(store + '.new', 'w') as f: f.write('{"K": "by an edit"}')
os.rename(store + '.new', store)
until(lambda: text('K') == 'by an edit', 'the edit shows')
same((broken, os.pread(fd, 99, 0)), ([], b'v'))
"#,
    );
}
