"""What the programs of these tests share. They run in a folder of the mount and end by an exception if something is wrong."""
import atexit, collections, ctypes, errno, fcntl, json, mmap, os, random, re, resource, select, shutil, signal, socket, stat, subprocess, sys, tempfile, threading, time

LIVE = os.environ['LIVE']
libc = ctypes.CDLL(None, use_errno=True)


def same(got, want, what=''):
    assert got == want, f'{what}: {got!r} instead of {want!r}'


def refused(codes, call, *args, **named):
    """The call must fail, with one of these error numbers; gives which."""
    codes = codes if isinstance(codes, tuple) else (codes,)
    try:
        got = call(*args, **named)
    except OSError as e:
        assert e.errno in codes, f'{e} instead of {[errno.errorcode[c] for c in codes]}'
        return e.errno
    raise AssertionError(f'done ({got!r}) instead of {[errno.errorcode[c] for c in codes]}')


def outcome(call, *args):
    """None if it was done, else the error number."""
    try:
        call(*args)
    except OSError as e:
        return e.errno


def text(path):
    """What this process reads; None if there is no such name."""
    try:
        with open(path, 'rb') as f:
            return f.read().decode()
    except FileNotFoundError:
        return None


def put(path, value):
    """Written and closed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    write(fd, value)
    os.close(fd)


def write(fd, value):
    value = value.encode() if isinstance(value, str) else value
    while value:
        value = value[os.write(fd, value):]


OTHER = r'''
import json, os, sys
for line in sys.stdin:
    what, path = json.loads(line)
    try:
        if what == 'read':
            with open(path, 'rb') as f: answer = f.read().decode('latin-1')
        elif what == 'size': answer = os.stat(path).st_size
        elif what == 'list': answer = sorted(os.listdir(path))
    except FileNotFoundError: answer = None
    except OSError as e: answer = {'errno': e.errno}
    print(json.dumps(answer), flush=True)
'''


class Other:
    """Another process, which was there before and looks when it is asked to."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, '-c', OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, what, path):
        self.process.stdin.write(json.dumps([what, path]) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def read(self, path):
        return self._ask('read', path)

    def size(self, path):
        return self._ask('size', path)

    def list(self, path='.'):
        return self._ask('list', path)


class Watcher:
    """A process that reads a name on and on: all it may see is whole values out of a set, and never an error."""

    PROGRAM = r'''
import os, select, sys
path, allowed = sys.argv[1], set(sys.argv[2:])
count, seen, bad = 0, set(), []
print('ready', flush=True)
while True:
    try:
        with open(path, 'rb') as f: got = f.read().decode()
        size = os.stat(path).st_size
        if got not in allowed: bad.append(repr(got)[:80])
        if size not in {len(a.encode()) for a in allowed}: bad.append(f'size {size}')
        seen.add(got)
    except OSError as e:
        bad.append(str(e))
    count += 1
    if select.select([sys.stdin], [], [], 0.0005)[0]: break
print(count, len(bad), bad[:5], flush=True)
sys.exit(bool(bad))
'''

    def __init__(self, path, *allowed):
        self.process = subprocess.Popen([sys.executable, '-c', self.PROGRAM, path, *allowed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        same(self.process.stdout.readline(), 'ready\n')

    def ends(self):
        flaws, _ = self.process.communicate()
        assert self.process.returncode == 0, f'reads, flaws: {flaws}'


class Child:
    """A process that runs a function up to the point where it calls `wait()`, and then resumes or is killed."""

    def __init__(self, function):
        to, self._go = os.pipe()
        self._said, said = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._go)
                os.close(self._said)

                def wait():
                    os.write(said, b'.')
                    os.read(to, 1)

                code = function(wait) or 0
            except BaseException as e:
                print(f'in the child: {e!r}', file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        os.close(to)
        os.close(said)
        same(os.read(self._said, 1), b'.', 'the child came to the point')

    def resume(self):
        """It continues to its end, or to its next `wait()`."""
        os.write(self._go, b'.')
        if os.read(self._said, 1) == b'':
            return self._reap()

    def ends(self):
        same(self.resume(), 0, 'the child ended')

    def killed(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        return self._reap()

    def _reap(self):
        os.close(self._go)
        os.close(self._said)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def background(command, **named):
    """A program that goes on beside this one and does not outlive it."""
    named.setdefault('stdout', subprocess.DEVNULL)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **named)
    atexit.register(process.kill)
    return process


def until(condition, what):
    """Waits for a condition, however long it takes on this machine."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 60, f'waited in vain until {what}'
        time.sleep(0.002)
