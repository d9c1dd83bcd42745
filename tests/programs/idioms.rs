//! Further ways in which programs write a file, safe or not: each ends with the new value, or with an error and the old
//! value.

use super::*;

/// Runs scripts on a name `F` that holds `old`, each of which is to leave the given value and nothing else.
#[track_caller]
fn leaves(cases: &[(&str, &str)]) {
    let live = Live::start();
    for (script, wanted) in cases {
        let said = bash(
            &live,
            "secrets",
            &format!(
                "printf 'old\\n' > F; {{ {script}\n}} > /dev/null || exit 1; cat F; rm F; ls -A | grep -v '^ALSO' || true"
            ),
        );
        assert_eq!(said, *wanted, "{script}");
    }
}

#[test]
fn shells_write_beside_and_move_or_write_at_once() {
    leaves(&[
        ("cat > F << E\na\nb\nE\n", "a\nb\n"),
        ("t=$(mktemp ./tmp.XXXXXX); echo new > $t; mv $t F", "new\n"),
        (
            "t=$(mktemp -p . .F.XXXXXX); echo new > $t; mv -f $t F",
            "new\n",
        ),
        ("t=$(mktemp); echo new > $t; mv $t F", "new\n"),
        ("t=$(mktemp); echo new > $t; cp $t F; rm $t", "new\n"),
        ("echo '{\"a\":1}' > F; jq -c .a F > .x && mv .x F", "1\n"),
        ("sort -o F F <<< ''", "old\n"),
        ("printf 'b\\na\\n' > F; sort -o F F", "a\nb\n"),
        (
            "sed s/old/new/ F | (cat > ~/soaked; cat ~/soaked > F)",
            "new\n",
        ),
        ("echo more | tee -a F", "old\nmore\n"),
        ("echo new | tee F ALSO", "new\n"),
        (
            "exec 3<> F; read -r <&3; echo more >&3; exec 3>&-",
            "old\nmore\n",
        ),
        ("{ echo a; (echo b); sh -c 'echo c'; } > F", "a\nb\nc\n"),
        ("(sleep 0.05 & echo new) > F", "new\n"),
        (
            "set -o noclobber; echo new 2> /dev/null > F || echo new >| F",
            "new\n",
        ),
        (": > F; echo new >> F", "new\n"),
        ("rm F; echo new > F", "new\n"),
        ("ln F G 2> /dev/null || cp F G; mv G F", "old\n"),
    ]);
}

#[test]
fn editors_of_streams_change_a_file_in_place() {
    leaves(&[
        ("ed -s F <<< $'s/old/new/\\nw\\nq'", "new\n"),
        ("perl -pi -e s/old/new/ F", "new\n"),
        (
            "perl -i~ -pe s/old/new/ F && [ \"$(cat F~)\" = old ] && rm F~",
            "new\n",
        ),
        ("sed -i s/old/new/ F", "new\n"),
        (
            "printf -- '--- F\\n+++ F\\n@@ -1 +1 @@\\n-old\\n+new\\n' | patch -s F",
            "new\n",
        ),
        ("sed --in-place=~ s/old/new/ F && rm F~", "new\n"),
        ("gawk -i inplace '{sub(/old/, \"new\"); print}' F", "new\n"),
        ("vim -es -u NONE -i NONE -c %s/old/new/ -c wq F", "new\n"),
        (
            "python3 -c \"import fileinput\nfor l in fileinput.input('F', inplace=True): print(l.replace('old', 'new'), end='')\"",
            "new\n",
        ),
        (
            "python3 -c \"import fileinput\nfor l in fileinput.input('F', inplace=True, backup='~'): print(l.replace('old', 'new'), end='')\"; rm -f F~",
            "new\n",
        ),
        (
            "python3 -c \"import pathlib; p = pathlib.Path('F'); p.write_text(p.read_text().replace('old', 'new'))\"",
            "new\n",
        ),
    ]);
}

#[test]
fn dd_and_truncate_write_parts_and_sync() {
    leaves(&[
        ("echo new | dd of=F conv=fsync status=none", "new\n"),
        (
            "echo new | dd of=F conv=fdatasync oflag=dsync status=none",
            "new\n",
        ),
        ("echo new | dd of=F oflag=sync status=none", "new\n"),
        ("printf n | dd of=F conv=notrunc status=none", "nld\n"),
        (
            "printf n | dd of=F bs=1 seek=2 conv=notrunc status=none",
            "oln\n",
        ),
        (
            "echo more | dd of=F oflag=append conv=notrunc status=none",
            "old\nmore\n",
        ),
        (
            "echo new > ~/n; dd if=~/n of=F bs=1 conv=excl status=none 2> /dev/null || dd if=~/n of=F bs=1 status=none",
            "new\n",
        ),
        ("truncate -s 2 F; echo >> F", "ol\n"),
        ("truncate -s -1 F; echo er >> F", "older\n"),
        ("truncate -s 0 F; echo new >> F", "new\n"),
        (
            "truncate -s +1 F; tr '\\0' x < F > .x; mv .x F; echo >> F",
            "old\nx\n",
        ),
        ("fallocate -l 1 F 2> /dev/null || true", "old\n"),
        (
            "fallocate -p -o 0 -l 1 F 2> /dev/null; tr -d '\\0' < F > .x; echo old > F; rm .x",
            "old\n",
        ),
    ]);
}

#[test]
fn bytes_come_into_a_file_by_every_call_that_moves_them() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
value = b'v' * 30000
source_path = os.path.expanduser('~/source')
with open(source_path, 'wb') as f: f.write(value)
def begin(name='F'): return os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
def ends(fd, want, what):
    same(os.fstat(fd).st_size, len(want), f'{what}: its size while it is open')
    os.close(fd)
    same((other.size('F'), other.read('F').encode('latin-1')), (len(want), want), what)
s = os.open(source_path, os.O_RDONLY)
fd = begin()
sent = 0
while sent < len(value): sent += os.sendfile(fd, s, sent, len(value) - sent)
ends(fd, value, 'sendfile')
fd = begin(); offset = 0
while offset < len(value):
    try: n = os.copy_file_range(s, fd, len(value) - offset, offset, offset)
    except OSError as e:
        assert e.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL), e
        n = os.pwrite(fd, value[offset:], offset)
    offset += n
ends(fd, value, 'copy_file_range')
put('SOURCE', value)
inside = os.open('SOURCE', os.O_RDONLY); fd = begin(); offset = 0
while offset < len(value):
    try: n = os.copy_file_range(inside, fd, len(value) - offset, offset, offset)
    except OSError as e:
        assert e.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL), e
        n = os.pwrite(fd, value[offset:], offset)
    offset += n
ends(fd, value, 'copy_file_range between two secrets')
r, w = os.pipe(); fd = begin(); os.write(w, value[:9000])
n = 0
while n < 9000: n += os.splice(r, fd, 9000 - n)
ends(fd, value[:9000], 'splice')
fd = begin(); os.writev(fd, [value[:10], value[:20], value[:30]]); os.pwritev(fd, [b'x', b'y'], 3)
ends(fd, b'vvvxy' + value[:55], 'writev')
fd = begin(); os.pwrite(fd, b'end', 10); ends(fd, bytes(10) + b'end', 'beyond the end')
fd = os.open('F', os.O_RDWR)
same(os.lseek(fd, 0, os.SEEK_DATA), 0); same(os.lseek(fd, 0, os.SEEK_HOLE), 13); same(os.lseek(fd, 0, os.SEEK_END), 13)
refused(errno.ENXIO, os.lseek, fd, 13, os.SEEK_DATA)
same(os.pread(fd, 99, 10), b'end'); os.close(fd)
# And out of it.
put('F', value); fd = os.open('F', os.O_RDONLY)
out = os.open(os.path.expanduser('~/out'), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
n = 0
while n < len(value): n += os.sendfile(out, fd, n, len(value) - n)
same(os.pread(out, 99999, 0), value)
n = 0
while n < 9000: n += os.splice(fd, w, 9000 - n)
same(os.read(r, 9999), value[:9000])
same(os.preadv(fd, [bytearray(10)], 0), 10)
m = mmap.mmap(fd, len(value), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
m[0:1] = b'X'; same((m[:2], other.read('F')[:2]), (b'Xv', 'vv'), 'a private mapping that is written')
fd = os.open('F', os.O_RDWR)
put('M', 'abcdefgh')
fd = os.open('M', os.O_RDWR)
m = mmap.mmap(fd, 8, flags=mmap.MAP_SHARED)
m[2:4] = b'XY'; m.flush(); same(other.read('M'), 'abcdefgh', 'not before the close')
m.close(); os.close(fd)
same(other.read('M'), 'abXYefgh', 'what a shared mapping wrote')
"#,
    );
}

#[test]
fn a_descriptor_opened_in_odd_ways_writes_what_it_should() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('F', 'old')
for flags in (os.O_SYNC, os.O_DSYNC, os.O_NOFOLLOW, os.O_NONBLOCK, os.O_NOATIME, os.O_CLOEXEC, os.O_DIRECT):
    fd = os.open('F', os.O_WRONLY | os.O_TRUNC | flags); write(fd, f'by {flags}'); os.close(fd)
    same(other.read('F'), f'by {flags}')
# Opened to write and not written: nothing changes, not even the time.
before = os.stat('F')
os.close(os.open('F', os.O_WRONLY)); os.close(os.open('F', os.O_RDWR | os.O_CREAT)); os.close(os.open('F', os.O_WRONLY | os.O_APPEND))
after = os.stat('F')
same((after.st_mtime_ns, after.st_size, after.st_ino), (before.st_mtime_ns, before.st_size, before.st_ino))
# Opened with O_TRUNC and not written: it is empty, as the program meant.
os.close(os.open('F', os.O_WRONLY | os.O_TRUNC)); same((other.read('F'), other.size('F')), ('', 0))
os.close(os.open('E', os.O_WRONLY | os.O_CREAT, 0o600)); same((other.read('E'), other.size('E')), ('', 0), 'touched')
subprocess.run(['touch', 'T'], check=True); same(other.read('T'), '', 'touch')
# O_RDONLY | O_CREAT makes it, too.
os.close(os.open('R', os.O_RDONLY | os.O_CREAT, 0o600)); same(other.read('R'), '')
refused(errno.ENOTDIR, os.open, 'F', os.O_RDONLY | os.O_DIRECTORY)
refused(errno.EISDIR, os.open, '.', os.O_WRONLY)
refused(errno.EINVAL, os.open, 'a b', os.O_WRONLY | os.O_CREAT)
refused(errno.ENAMETOOLONG, os.open, 'x' * 256, os.O_WRONLY | os.O_CREAT)
refused(errno.ENOENT, os.open, 'NONE', os.O_WRONLY)
"#,
    );
}

#[test]
fn of_two_writers_at_once_the_last_to_close_wins_whole() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
watcher = Watcher('K', 'old', 'a' * 900, 'b' * 1000)
def writer(value):
    def way(wait):
        fd = os.open('K', os.O_WRONLY | os.O_TRUNC)
        write(fd, value[:500]); wait(); write(fd, value[500:]); os.close(fd)
    return way
for round in range(20):
    a, b = Child(writer('a' * 900)), Child(writer('b' * 1000))
    first, last = (a, b) if round % 2 else (b, a)
    first.ends(); same(text('K')[0], 'a' if first is a else 'b')
    last.ends(); same(text('K')[0], 'a' if last is a else 'b')
watcher.ends()
"#,
    );
}

#[test]
fn a_save_by_link_is_refused_in_a_way_that_programs_know() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
with tempfile.NamedTemporaryFile('w', dir='.', delete=False) as f: f.write('new')
refused(errno.EPERM, os.link, f.name, 'LINKED')
refused(errno.EPERM, os.symlink, 'K', 'SYM')
same((text('K'), text('LINKED'), text('SYM')), ('old', None, None))
os.rename(f.name, 'K'); same(text('K'), 'new')
# An exchange and a rename that must not replace.
put('L', 'other')
refused(errno.EINVAL, rename2 := lambda: (_ for _ in ()).throw(OSError(ctypes.get_errno(), 'exchange')) if libc.renameat2(-100, b'K', -100, b'L', 2) else None)
assert libc.renameat2(-100, b'K', -100, b'L', 1) == -1 and ctypes.get_errno() == errno.EEXIST, ctypes.get_errno()
assert libc.renameat2(-100, b'K', -100, b'M', 1) == 0, ctypes.get_errno()
same((text('K'), text('L'), text('M')), (None, 'other', 'new'))
"#,
    );
}

/// The kernel reads from io_uring until the buffer is full or a read says that the file has ended.
#[test]
fn io_uring_reads_and_writes_each_byte_once() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
params = (ctypes.c_uint32 * 30)()
ring_fd = libc.syscall(425, 8, params)
if ring_fd < 0: print('no io_uring here:', os.strerror(ctypes.get_errno())); sys.exit()
submitted, completed = params[10:20], params[20:30]
ring = mmap.mmap(ring_fd, max(submitted[6] + params[0] * 4, completed[5] + params[1] * 16))
entries = mmap.mmap(ring_fd, params[0] * 64, offset=0x10000000)
def at(offset): return struct.unpack_from('<I', ring, offset)[0]
READ, WRITE = 22, 23
def do(what, fd, buffer, length, offset, flags=0):
    tail = at(submitted[1]); slot = tail & at(submitted[2])
    struct.pack_into('<BBHiQQI', entries, slot * 64, what, flags, 0, fd, offset, ctypes.addressof(buffer), length)
    struct.pack_into('<I', ring, submitted[6] + 4 * slot, slot); struct.pack_into('<I', ring, submitted[1], tail + 1)
    libc.syscall(426, ring_fd, 1, 1, 1, None, 0)
    head = at(completed[0]); done = completed[5] + (head & at(completed[2])) * 16
    struct.pack_into('<I', ring, completed[0], head + 1)
    return struct.unpack_from('<i', ring, done + 8)[0]

for name in ('K', '.scratch'):
    for flags in (0, 16):  # 16: a thread of the ring does it
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        for offset in (0, 6): same(do(WRITE, fd, ctypes.create_string_buffer(b'twice '), 6, offset, flags), 6, name)
        room = ctypes.create_string_buffer(9999)
        same(do(READ, fd, room, 9999, 0, flags), 12, name)
        os.close(fd)
        same(text(name), 'twice twice ')
for name in ('K', '.scratch', '../status', '../cache/stats', '../providers/file'):
    fd = os.open(name, os.O_RDONLY); room = ctypes.create_string_buffer(99999)
    for flags in (0, 16): same(do(READ, fd, room, 99999, 0, flags), len(os.pread(fd, 99999, 0)), name)
    os.close(fd)
"#,
    );
}
