//! Descriptors: a daemon keeps none of its caller's, and a file works the same through a
//! descriptor, a path below `/proc`, a mapping or an open folder as by its name.

use super::*;

#[test]
fn a_mount_keeps_no_lock_pipe_or_folder_of_its_caller() {
    let home = Home::new();
    let script = r#"
exec 2>&1
mkfifo p; mkdir elsewhere
(cd elsewhere && flock -n ../lock "$BIN" mount > /dev/null 2>&1) || exit 1
flock -n lock true || echo 'the lock is held'
"$BIN" umount > /dev/null 2>&1 || echo 'it is not unmounted'
timeout 20 cat p > /dev/null & reader=$!
exec 9> p; "$BIN" mount > /dev/null 2>&1; exec 9>&-
wait $reader || echo 'the pipe has a writer'
for which in keeper server; do
    pid=$(grep -o "\"${which}_pid\": *[0-9]*" .simpletuner/live/status | grep -o '[0-9]*$')
    echo "$which: $(readlink /proc/$pid/cwd)"
    ls -l /proc/$pid/fd | grep -E "$HOME/(lock|p|elsewhere)"
done
"$BIN" umount > /dev/null 2>&1 || echo 'it is not unmounted'
"#;
    let mut bash = home.command("bash");
    bash.env("BIN", support::home::BINARY).args(["-c", script]);
    assert_eq!(succeeds(&mut bounded(bash)), "keeper: /\nserver: /\n");
}

#[test]
fn a_mount_that_is_started_while_a_secret_is_written_does_not_keep_it_from_appearing() {
    let live = Live::start();
    std::fs::create_dir(live.home("second")).unwrap();
    let bin = support::home::BINARY;
    let said = bash(
        &live,
        "secrets",
        &format!(
            "exec 3> X; {bin} mount ~/second > /dev/null 2>&1 || exit 1; echo value >&3; exec 3>&-
             cat X; cd /; {bin} umount ~/second 2> /dev/null"
        ),
    );
    assert_eq!(said, "value\n");
    assert!(mounts_below(&live.home("second")).is_empty());
}

#[test]
fn the_folder_that_a_mount_was_started_in_can_be_unmounted() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let script = r#"
mkdir usb && mount -t tmpfs none usb || exit 1
(cd usb && "$BIN" mount > /dev/null 2>&1) || exit 1
umount usb && echo unmounted
"$BIN" umount 2> /dev/null; umount usb 2> /dev/null; true
"#;
    let mut bash = home.command("bash");
    bash.env("BIN", support::home::BINARY).args(["-c", script]);
    assert!(succeeds(&mut bounded(bash)).contains("unmounted"));
}

#[test]
fn truncation_works_by_any_way_to_a_file() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('K', 'abcdef')
r = os.open('K', os.O_RDONLY)
os.truncate(f'/proc/self/fd/{r}', 4)
same((other.read('K'), other.size('K'), os.pread(r, 9, 0), os.fstat(r).st_size), ('abcd', 4, b'abcdef', 6), 'by a reader')
p = os.open('K', os.O_PATH)
os.truncate(f'/proc/self/fd/{p}', 3)
same((other.read('K'), other.size('K')), ('abc', 3), 'by O_PATH')
w = os.open('K', os.O_RDWR)
os.truncate(f'/proc/self/fd/{w}', 2)
assert os.fstat(w).st_size in (2, 3), os.fstat(w)
os.close(w)
w = os.open('K', os.O_RDWR)
os.ftruncate(w, 1); same((os.fstat(w).st_size, os.pread(w, 9, 0)), (1, b'a'), 'by a writer')
os.ftruncate(w, 3); same((os.fstat(w).st_size, os.pread(w, 9, 0)), (3, b'a\0\0'), 'and longer')
os.close(w)
same(other.read('K'), 'a\0\0')
os.truncate('K', 5); same((other.read('K'), other.size('K')), ('a\0\0\0\0', 5), 'by its name')
os.truncate('K', 0); same((other.read('K'), other.size('K')), ('', 0), 'to nothing')
refused(errno.EFBIG, os.truncate, 'K', 65537)
refused(errno.ENOENT, os.truncate, 'NONE', 1)
"#,
    );
}

#[test]
fn a_writers_own_path_below_proc_reaches_its_file() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "exec 3> F; echo one >&3; echo two >> /proc/self/fd/3; exec 3>&-; cat F
         exec 3>> F; echo three >&3; echo four >> /dev/fd/3; exec 3>&-; cat F
         echo five | tee /dev/fd/3 3> F > /dev/null; cat F",
    );
    assert_eq!(said, "one\ntwo\none\ntwo\nthree\nfour\nfive\n");
}

#[test]
fn a_write_through_a_readers_path_is_refused_and_harms_no_reader() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('A', 'abc')
watcher = Watcher('A', 'abc', 'new!!')
for round in range(30):
    put('A', 'abc')
    r = os.open('A', os.O_RDONLY)
    def through():
        w = os.open(f'/proc/self/fd/{r}', os.O_WRONLY | os.O_TRUNC)
        write(w, 'new!!'); os.close(w)
    refused(errno.ESTALE, through)
    same((text('A'), os.pread(r, 9, 0)), ('abc', b'abc'))
    os.close(r)
watcher.ends()
"#,
    );
}

#[test]
fn a_descriptor_that_is_only_a_path_leads_to_a_whole_value() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('A', 'abc')
p = os.open('A', os.O_PATH)
put('A', 'changed!')
for _ in range(3):
    size = os.fstat(p).st_size
    got = text(f'/proc/self/fd/{p}')
    assert (size, got) in ((3, 'abc'), (8, 'changed!')), (size, got)
"#,
    );
}

#[test]
fn a_folder_that_is_open_leads_to_the_names_of_now() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
here = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
path = os.open('.', os.O_PATH)
for round in range(3):
    for at in (here, path):
        fd = os.open('K', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=at)
        write(fd, f'v{round}'); os.close(fd)
        same(os.stat('K', dir_fd=at).st_size, 2)
        os.rename('K', 'L', src_dir_fd=at, dst_dir_fd=at)
        same((text('K'), text('L')), (None, f'v{round}'))
        os.unlink('L', dir_fd=at)
os.fsync(here)
"#,
    );
}

#[test]
fn smaller_calls_work_as_in_an_ordinary_folder() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('A', 'abcd')
fd = os.open('A', os.O_WRONLY | os.O_APPEND)
fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)
write(fd, 'EF'); os.close(fd)
same(text('A'), 'EFcd', 'F_SETFL')
f = open('A', 'r+'); os.unlink('A')
same(os.fstat(f.fileno()).st_nlink, 0)
f.close()
same(os.path.exists('A'), False)
put('A', 'abcd')
f = open('A', 'r+')
try:
    m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    same(m[:], b'abcd'); m.close()
except OSError as e:
    same(e.errno, errno.ENODEV, 'a shared mapping of a writer, before Linux 6.6')
r = open('A')
m = mmap.mmap(r.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ); same(m[:], b'abcd', 'a shared mapping of a reader')
put('A', 'efghijkl'); same(m[:], b'abcd', 'and it stays')
f.close()
same(text('A'), 'efghijkl')
"#,
    );
}

#[test]
fn a_document_that_is_truncated_to_nothing_is_malformed_and_stays() {
    let live = Live::start();
    python(
        &live,
        "",
        r#"
other = Other()
put('secrets/K', 'value')
put('config/replicate.json', '{"webhook_url": "https://example.com"}')
for path in ('bundle/secrets.json', 'hardware/gpu-l40s.json', 'config/replicate.json'):
    before = other.read(path)
    for size in (0, 1, 5): refused(errno.EINVAL, os.truncate, path, size)
    def empty(): os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    refused(errno.EINVAL, empty)
    def cut():
        fd = os.open(path, os.O_RDWR); os.ftruncate(fd, 3); os.close(fd)
    refused(errno.EINVAL, cut)
    def binary():
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try: write(fd, b'{"K": "\xff"}')
        finally: os.close(fd)
    refused((errno.EILSEQ, errno.EINVAL), binary)
    same((other.read(path), other.size(path)), (before, len(before)), path)
"#,
    );
}

/// Counts the memory that the server touches for one open, because a walk over the open files touches all of their table.
#[test]
fn an_open_does_not_look_at_the_files_that_are_already_open() {
    if !is_root() {
        return;
    }
    let live = Live::start();
    python(
        &live,
        "",
        r#"
import resource
put('secrets/A', 'value')
OPEN = 18_000
resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN + 100, max(OPEN + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
server = json.loads(text('status'))['server_pid']
def touched():
    """In KiB, by the accessed bits of the server's pages (proc(5), clear_refs), without those of the program's code."""
    found, is_anonymous = 0, False
    with open(f'/proc/{server}/smaps') as f:
        for line in f:
            fields = line.split()
            if '-' in fields[0]: is_anonymous = fields[4] == '0'
            elif fields[0] == 'Referenced:' and is_anonymous: found += int(fields[1])
    return found
def least(path, flags, enough=0):
    # Other threads of the server touch memory, too. A walk touches all of its table each time.
    found = []
    while len(found) < 15 or len(found) < 200 and min(found) >= enough > 0:
        with open(f'/proc/{server}/clear_refs', 'w') as f: f.write('1')
        fd = os.open(path, flags)
        found.append(touched()); os.close(fd)
    return min(found)
WAYS = [('secrets/A', os.O_RDONLY), ('secrets/A', os.O_WRONLY), ('cache/secrets/stats', os.O_RDONLY)]
before = [least(*way) for way in WAYS]
held = [os.open('cache/secrets/stats', os.O_RDONLY) for _ in range(OPEN)]
# A handle takes some 50 bytes of the table.
limits = [few + OPEN * 30 // 1024 for few in before]
after = [least(*way, limit) for way, limit in zip(WAYS, limits)]
for way, limit, many in zip(WAYS, limits, after): assert many < limit, (way, before, after)
"#,
    );
}

#[test]
fn a_shared_mapping_that_outlives_the_close_takes_effect_when_it_ends() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('K', 'abcdefgh')
fd = libc.open(b'K', os.O_RDWR)
address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)(('mmap', libc))(None, 8, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
os.close(fd)
ctypes.memmove(address, b'XY', 2)
same(other.read('K'), 'abcdefgh', 'while it is mapped')
same(libc.munmap(ctypes.c_void_p(address), 8), 0)
until(lambda: other.read('K') == 'XYcdefgh', 'what the mapping wrote is there')
"#,
    );
}

#[test]
fn fallocate_is_refused_and_posix_fallocate_writes_the_zeros_itself() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'abcd')
fd = os.open('K', os.O_RDWR)
for mode in (0, 1): same((libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(8)), ctypes.get_errno()), (-1, errno.EOPNOTSUPP))
os.posix_fallocate(fd, 0, 8)
os.close(fd)
fd = os.open('K', os.O_WRONLY)
refused(errno.EBADF, os.posix_fallocate, fd, 0, 8)
os.close(fd)
same(text('K'), 'abcd\0\0\0\0')
"#,
    );
}
