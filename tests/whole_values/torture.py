"""torture.py FOLDER SECONDS VIEW: readers and writers of many kinds on values that say what they are: a letter, the whole length
(7 digits), a number (8 digits), and then only the letter; readers also in the view, which has the names v* and st*. `torture.py VIEW
SECONDS` only reads, as in a container. Prints, as JSON, how often each kind ran and what was wrong."""
import errno, json, mmap, os, random, signal, subprocess, sys, tempfile, time

FOLDER, SECONDS = sys.argv[1], float(sys.argv[2])
VIEW = sys.argv[3] if len(sys.argv) > 3 else None
SHARED = [f'{FOLDER}/v{i}' for i in range(4)]
IN_VIEW = [f'{VIEW or FOLDER}/v{i}' for i in range(4)]
BUNDLE = os.path.join(os.path.dirname(FOLDER), 'bundle/secrets.json')
SCRATCH = tempfile.mkdtemp() if VIEW else None
END = time.monotonic() + SECONDS


class Bad(Exception):
    pass


def make(length=None):
    c = random.choice('abcdefghijklmnopqrstuvwxyz')
    length = length or random.choice([17, 300, 4096, 5000, 20000, 40001, 65536])
    return (f'{c}{length:07d}{random.randrange(10**8):08d}' + c * length)[:length].encode()


def hexadecimal(length):
    return os.urandom(length).hex()[:length].encode()


def check(b, what):
    try: said = int(b[1:8])
    except ValueError: raise Bad(f'{what}: {len(b)} bytes, no head: {b[:20]!r}')
    if said != len(b): raise Bad(f'{what}: {len(b)} bytes say {said}: {b[:20]!r}')
    if b[16:].count(b[:1]) != len(b) - 16: raise Bad(f'{what}: mixed: {b[:20]!r}')


def read_all(fd, size):
    parts = []
    while part := os.read(fd, size): parts.append(part)
    return b''.join(parts)


def begin(path, flags=os.O_TRUNC):
    return os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)


def put(fd, b, size):
    for i in range(0, len(b), size): os.write(fd, b[i:i + size])


# --- readers

def reads_once(p):
    fd = os.open(p, os.O_RDONLY); b = os.read(fd, 65536); os.close(fd); check(b, 'one read')


def reads_pieces(p):
    fd = os.open(p, os.O_RDONLY); b = read_all(fd, 1000); os.close(fd); check(b, 'pieces')


def maps(p):
    fd = os.open(p, os.O_RDONLY); n = os.fstat(fd).st_size
    m = mmap.mmap(fd, n, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    a = m[:]; check(a, 'mapping'); time.sleep(random.choice([0, .001, .02]))
    if m[:] != a: raise Bad('a mapping changed')
    if os.fstat(fd).st_size != n: raise Bad('the size of a mapped file changed')
    os.close(fd)


def maps_without_a_look(p):
    fd = os.open(p, os.O_RDONLY); m = mmap.mmap(fd, 17, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ); int(m[1:8]); os.close(fd)


def holds(p):
    fd = os.open(p, os.O_RDONLY); n = os.fstat(fd).st_size; time.sleep(random.choice([0, .001, .05]))
    b = read_all(fd, 30000); check(b, 'an old descriptor')
    if len(b) != n or os.fstat(fd).st_size != n: raise Bad(f'fstat {n}, then {os.fstat(fd).st_size}, read {len(b)}')
    if os.pread(fd, 70000, 0) != b: raise Bad('pread differs')
    os.close(fd)


def sends(p):
    fd = os.open(p, os.O_RDONLY); r, w = os.pipe(); n = os.sendfile(w, fd, 0, 16); os.close(w); os.close(r); os.close(fd)
    if n != 16: raise Bad(f'sendfile: {n}')


def stats(p):
    n = os.stat(p).st_size
    if n < 17: raise Bad(f'stat: {n}')


def cats(p):
    check(subprocess.run(['cat', p], stdout=subprocess.PIPE, check=True).stdout, 'cat')


def reads_the_bundle(p):
    with open(BUNDLE) as f: document = json.load(f)
    for path in SHARED: check(document[os.path.basename(path)].encode(), 'in the bundle')


# --- writers: at every moment the names hold whole values

def writes_20000(p):
    fd = begin(p); put(fd, make(), 20000); os.close(fd)


def writes_777(p):
    fd = begin(p); put(fd, make(), 777); os.close(fd)


SHELLS = ['{ printf %s "$A"; printf %s "$B"; } > $P', '{ /usr/bin/printf %s "$A"; /usr/bin/printf %s "$B"; } > $P',
          '( printf %s "$A"; /usr/bin/printf %s "$B" ) > $P', 'exec 3>$P; printf %s "$A" >&3; { sleep .01 & } ; printf %s "$B" >&3; exec 3>&-',
          '/usr/bin/printf %s "$A$B" > $P', 'printf %s "$A$B" | dd of=$P bs=5000 status=none', 'printf %s "$A$B" | tee $P > /dev/null',
          'printf %s "$A$B" > $T/cp.$$; cp $T/cp.$$ $P; rm $T/cp.$$']


def shell(p):
    b = make(); half = len(b) // 2
    env = dict(os.environ, A=b[:half].decode(), B=b[half:].decode(), P=p, T=SCRATCH)
    subprocess.run(['bash', '-c', random.choice(SHELLS)], env=env, check=True)


def renames(p):
    t = f'{p}.t{os.getpid()}'; fd = begin(t, os.O_EXCL); put(fd, make(), 9000); os.close(fd); os.rename(t, p)


def moves(p):
    t = f'{p}.m{os.getpid()}'; fd = begin(t); put(fd, make(), 9000); os.close(fd); subprocess.run(['mv', t, p], check=True)


def renames_before_the_close(p):
    t = f'{p}.r{os.getpid()}'; fd = begin(t, random.choice([0, os.O_EXCL])); put(fd, make(), 9000)
    if random.random() < .5: os.fsync(fd)
    os.rename(t, p); os.close(fd)


def renames_a_left_over_file(p):
    t = f'{p}.s{os.getpid()}'
    with open(t, 'w') as f: f.write('left over')
    fd = os.open(t, os.O_WRONLY | os.O_TRUNC); put(fd, make(), 9000); os.rename(t, p); os.close(fd)


def is_killed(p):
    how = random.randrange(4); r, w = os.pipe(); pid = os.fork()
    if pid == 0:
        try:
            q = p if how < 2 else f'{p}.k{os.getpid()}'; fd = begin(q)
            b = make(); os.write(fd, b[:len(b) // 2])
            if how == 3: os.rename(q, p)
            os.write(w, b'x')
            while True: os.pwrite(fd, b'.' * 100, random.randrange(60000))
        finally: os._exit(1)
    os.close(w); ok = os.read(r, 1); os.close(r); time.sleep(random.choice([0, .001]))
    os.kill(pid, random.choice([signal.SIGKILL, signal.SIGTERM])); status = os.waitpid(pid, 0)[1]
    if not ok or not os.WIFSIGNALED(status): raise Bad(f'the child ended by itself: {status}')


def lets_a_child_write(p):
    b = make(); fd = begin(p); q = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=fd); q.communicate(b); os.close(fd)


# --- writers of a name of their own, which look at what they wrote

def truncates_and_appends(_):
    p = f'{FOLDER}/ta{os.getpid()}'; a, b = hexadecimal(random.randrange(1, 30000)), hexadecimal(random.randrange(1, 3000)); k = random.randrange(0, len(a))
    def size(n, what):
        if os.stat(p).st_size != n: raise Bad(f'size after {what}: {os.stat(p).st_size}, not {n}')
    with open(p, 'wb') as f: f.write(a)
    size(len(a), 'close'); os.truncate(p, k); size(k, 'truncate')
    with open(p, 'ab') as f: f.write(b)
    size(k + len(b), 'append'); want = a[:k] + b
    with open(p, 'rb') as f: got = f.read()
    if got != want: raise Bad(f'truncate and append: {len(got)} bytes of {len(want)}')
    fd = os.open(p, os.O_RDWR); os.ftruncate(fd, 5); os.pwrite(fd, b'zz', 1); n = os.fstat(fd).st_size; os.close(fd)
    want = (want + bytes(5))[:1] + b'zz' + (want + bytes(5))[3:5]
    with open(p, 'rb') as f: got = f.read()
    if n != 5 or got != want: raise Bad(f'ftruncate and pwrite: {got!r}, not {want!r}')
    size(5, 'ftruncate')


def looks_after_its_close(_):
    p = f'{FOLDER}/st{os.getpid()}'; b = make(random.choice([17, 5000, 65536]))
    if random.random() < .5: fd = begin(p); put(fd, b, 20000); os.close(fd)
    else: fd = begin(p + '.x', 0); put(fd, b, 20000); os.rename(p + '.x', p); os.close(fd)
    if os.stat(p).st_size != len(b): raise Bad('a stale stat')
    with open(p, 'rb') as f:
        if f.read() != b: raise Bad('a stale read')
    with open(f'{VIEW}/st{os.getpid()}', 'rb') as f:
        if f.read() != b: raise Bad('a stale read in the view')
    if random.random() < .05 and subprocess.run(['cat', p], stdout=subprocess.PIPE).stdout != b: raise Bad('a stale read by another process')


def removes_before_its_close(_):
    p = f'{FOLDER}/un{os.getpid()}'; fd = os.open(p, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600); os.write(fd, b'secret')
    if os.fstat(fd).st_size != 6 or os.stat(p).st_size != 6: raise Bad('a new name is not there for its maker')
    os.unlink(p); os.close(fd)
    if os.path.exists(p): raise Bad('what was removed before its close is there')


READERS = [reads_once, reads_pieces, maps, maps_without_a_look, holds, sends, stats]


def in_the_view(kind):
    def reads(_): kind(random.choice(IN_VIEW))
    reads.__name__ = f'{kind.__name__}_in_the_view'
    return reads


READERS_OF_VIEW = [in_the_view(kind) for kind in READERS + [cats]]
KINDS = [(READERS_OF_VIEW, 0.0005)] * 3 if VIEW is None else [(READERS_OF_VIEW, 0.0005)] * 2 + [(READERS, 0.0005)] * 3 + [
    ([cats], .05), ([reads_the_bundle], .1), ([writes_20000, writes_777], .01), ([shell], .02),
    ([renames, moves, renames_before_the_close, renames_a_left_over_file], .01), ([is_killed], .02),
    ([lets_a_child_write, truncates_and_appends, removes_before_its_close], .01), ([looks_after_its_close], .002)]


def line_of(e):
    at = e.__traceback__
    while at.tb_next: at = at.tb_next
    return at.tb_lineno


def worker(kinds, pause, out):
    random.seed(os.getpid())
    counts, bad, turn = {}, [], 0
    # Each kind has its turn first, whatever the machine is at.
    while turn < len(kinds) or time.monotonic() < END:
        kind = kinds[turn] if turn < len(kinds) else random.choice(kinds); turn += 1
        counts[kind.__name__] = counts.get(kind.__name__, 0) + 1; p = random.choice(SHARED)
        try: kind(p)
        except (Bad, OSError, ValueError, KeyError, subprocess.CalledProcessError) as e: bad.append(f'{kind.__name__} {p[-3:]}, line {line_of(e)}: {type(e).__name__} {e}'[:200])
        time.sleep(random.random() * pause)
    os.write(out, (json.dumps([counts, len(bad), bad[:5]]) + '\n').encode())


def forgets():
    """Has the kernel drop its inodes now and then, where it may be told to."""
    while VIEW and time.monotonic() < END:
        try:
            with open('/proc/sys/vm/drop_caches', 'w') as f: f.write('2')
        except OSError: return
        time.sleep(.5)


def main():
    for p in SHARED if VIEW else []: writes_20000(p)
    r, w = os.pipe(); pids = []
    for job in [lambda kinds=kinds, pause=pause: worker(kinds, pause, w) for kinds, pause in KINDS] + [forgets]:
        if (pid := os.fork()) == 0:
            code = 1
            try: os.close(r); job(); code = 0
            finally: os._exit(code)
        pids.append(pid)
    os.close(w)
    counts, violations, first = {}, 0, []
    with os.fdopen(r) as lines:
        for line in lines:
            n, bad, some = json.loads(line); violations += bad; first += some
            for kind, number in n.items(): counts[kind] = counts.get(kind, 0) + number
    crashed = [s for s in (os.waitpid(pid, 0)[1] for pid in pids) if s]
    left = sorted(n for n in os.listdir(FOLDER) if '.' in n and VIEW)
    if SCRATCH: os.rmdir(SCRATCH)
    print(json.dumps({'operations': counts, 'violations': violations, 'first': first[:20], 'crashed': crashed, 'left': left}))


if __name__ == '__main__': main()
