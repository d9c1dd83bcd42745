//! Editors' scratch files: they hold any bytes, exist while they are open, and appear in no event.

use super::*;

#[test]
fn scratch_files_hold_any_bytes_and_are_readable_while_they_are_open() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
noise = bytes(range(256)) * 16
for name in ('.K.swp', '4913', 'K~', '#K#', '.#K', '.goutputstream-X1Y2Z3', '.x'):
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    write(fd, noise)
    same(os.pread(fd, 9999, 0), noise, 'by its descriptor')
    with open(name, 'rb') as f: same(f.read(), noise, f'{name} by its name, open')
    same((os.fstat(fd).st_size, os.stat(name).st_size), (4096, 4096), name)
    os.pwrite(fd, b'\xff\xfe', 8192)
    same(os.stat(name).st_size, 8194, name)
    os.close(fd)
    want = noise + bytes(4096) + b'\xff\xfe'
    with open(name, 'rb') as f: same(f.read(), want, f'{name}, closed')
    same(other.read(name).encode('latin-1'), want, f'{name}, closed, of another process')
same(other.list(), [], 'listed')
for name in ('.K.swp', '4913', 'K~', '#K#', '.#K'): os.unlink(name)
same(other.read('.K.swp'), None)
events = text('../events')
same([e for e in events.splitlines() if 'restarted' not in e], [], 'events')
"#,
    );
}

#[test]
fn a_scratch_file_outlives_the_process_that_wrote_it_and_was_killed() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
def writer(wait):
    fd = os.open('.K.swp', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    write(fd, b'\xff recover me'); os.fsync(fd); wait()
child = Child(writer)
same(Other().read('.K.swp'), '\xff recover me', 'of another process, open')
child.killed()
with open('.K.swp', 'rb') as f: same(f.read(), b'\xff recover me', 'after it was killed')
"#,
    );
}

#[test]
fn a_scratch_file_onto_a_name_is_a_write_of_it_and_is_judged_as_one() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
put('.n', b'\xff\xfe')
refused(errno.EILSEQ, os.rename, '.n', 'K')
same(text('K'), 'old')
put('.n', 'x' * 65537)
refused(errno.EFBIG, os.rename, '.n', 'K')
same(text('K'), 'old')
put('.n', 'x' * 65536)
os.rename('.n', 'K')
same((text('K'), os.path.exists('.n')), ('x' * 65536, False))
# The other way round it takes the name out, and keeps what it held.
os.rename('K', 'K~')
same((text('K'), text('K~'), os.listdir('.')), (None, 'x' * 65536, []))
put('K', 'new')
os.unlink('K~')
same((text('K'), text('K~')), ('new', None))
"#,
    );
}

#[test]
fn hundreds_of_scratch_files_fit_and_each_has_a_bound_in_bytes() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
for i in range(600): put(f'.s{i}', 'value')
for i in range(600): same(text(f'.s{i}'), 'value')
for i in range(600): os.unlink(f'.s{i}')
fd = os.open('.large', os.O_WRONLY | os.O_CREAT, 0o600)
for i in range(16): write(fd, b'x' * (1 << 20))
refused(errno.EFBIG, os.write, fd, b'x')
outcome(os.close, fd); os.unlink('.large')
put('.after', 'value'); same(text('.after'), 'value', 'there is room again')
put('K', 'v'); same(text('K'), 'v')
"#,
    );
}

#[test]
fn what_is_written_to_a_secret_that_becomes_a_scratch_file_is_not_lost() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
def open_and_write(name, wait=lambda: None):
    fd = os.open(name, os.O_RDWR | os.O_TRUNC)
    write(fd, b'new'); wait()
    return fd

for rename in (os.rename, lambda a, b: subprocess.run(['mv', a, b], check=True)):
    for there in (False, True):
        put('K', 'old')
        if there: put('K~', 'older')
        fd = open_and_write('K')
        rename('K', 'K~')
        same((other.read('K'), other.read('K~'), os.fstat(fd).st_nlink), (None, 'old', 1), 'after the rename')
        write(fd, b'er'); os.close(fd)
        same((other.read('K'), other.read('K~')), (None, 'newer'), 'after the close')
        os.rename('K~', 'K')
        same(other.read('K'), 'newer', 'renamed back'); os.unlink('K')

put('K', 'old')
child = Child(lambda wait: open_and_write('K', wait))
os.rename('K', 'K~')
child.killed()
same((other.read('K'), other.read('K~')), (None, 'old'), 'after the writer was killed')
"#,
    );
}
