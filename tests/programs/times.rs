//! Modification times of folders, values and control files say when they changed; unusual times break nothing.

use super::*;

#[test]
fn the_time_of_a_folder_moves_with_its_names() {
    let live = Live::start();
    python(
        &live,
        "",
        r#"
def tick():
    begun = time.time_ns()
    while time.time_ns() < begun + 20_000_000: time.sleep(0.005)
def moves(what, act):
    before = os.stat('secrets'); tick(); act(); after = os.stat('secrets')
    assert after.st_mtime_ns > before.st_mtime_ns, f'{what}: {before.st_mtime_ns} -> {after.st_mtime_ns}'
    assert after.st_ctime_ns > before.st_ctime_ns, f'{what}: the change time'
    tick(); same(os.stat('secrets').st_mtime_ns, after.st_mtime_ns, f'{what}: and stays')
moves('created', lambda: put('secrets/N', '1'))
moves('renamed', lambda: os.rename('secrets/N', 'secrets/M'))
moves('removed', lambda: os.unlink('secrets/M'))
"#,
    );
}

#[test]
fn a_file_that_nobody_changed_keeps_its_time() {
    let live = Live::start();
    python(
        &live,
        "",
        r#"
put('secrets/A', 'v')
def times():
    found = {}
    for folder, folders, files in os.walk('.'):
        for name in (*folders, *files, '.'):
            path = os.path.normpath(os.path.join(folder, name))
            content = None
            if os.path.isfile(path):
                try:
                    with open(path, 'rb') as f: content = f.read()
                except OSError: pass
            found[path] = (content, os.stat(path).st_mtime_ns)
    return found
times()
first = times()
begun = time.time_ns()
while time.time_ns() < begun + 1_100_000_000: time.sleep(0.1)
second = times()
moved = [path for path in first if path in second and first[path][0] == second[path][0] and first[path][1] != second[path][1]]
same(moved, [])
for path in ('cache/clear', 'cache/invalidate', 'cache/secrets/clear', 'providers/file', 'events', 'status', 'secrets', '.'): assert path in first, path
"#,
    );
}

#[test]
fn tar_finds_no_file_that_changes_while_it_reads() {
    let live = Live::start();
    let said = bash(
        &live,
        "",
        "echo a > secrets/A; cat status events > /dev/null; for i in 1 2 3; do tar cf ~/all.tar . 2>&1 || echo rc $?; done; tar xOf ~/all.tar ./secrets/A",
    );
    assert_eq!(said, "a\n");
}

#[test]
fn fstat_of_an_open_control_file_agrees_with_what_is_read_from_it() {
    let live = Live::start();
    python(
        &live,
        "",
        r#"
put('secrets/A', 'a')
with open('cache/secrets/stats', 'rb') as f:
    size = os.fstat(f.fileno()).st_size
    for _ in range(1200): text('secrets/A')
    same(os.fstat(f.fileno()).st_size, size)
    same(len(f.read()), size)
assert len(open('cache/secrets/stats').read()) > size, 'the reads were not counted'
"#,
    );
}

#[test]
fn the_change_time_is_of_now_whatever_modification_time_is_set() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('N', '1')
before = time.time()
os.utime('N', (1577836800, 1577836800))
found = os.stat('N')
same(found.st_mtime, 1577836800)
assert found.st_ctime >= before - 1, (found.st_ctime, before)
"#,
    );
}

#[test]
fn a_time_before_1970_or_far_away_is_kept_and_costs_neither_memory_nor_a_value() {
    let live = Live::start();
    let keeper = live.keeper_pid();
    let size = memory_files(keeper);
    python(
        &live,
        "secrets",
        r#"
put('A', 'a')
for seconds in (-1, -86400 * 365 * 70, 1 << 33, (1 << 34) - 1, 0):
    os.utime('A', (seconds, seconds))
    same(os.stat('A').st_mtime, seconds)
for stamp in (-500_000_000, -1, -9_750_000_000, -1_000_000_000, 999_999_999):
    os.utime('A', ns=(stamp, stamp))
    same(os.stat('A').st_mtime_ns, stamp)
for seconds in (1 << 62, -(1 << 62), (1 << 63) - 1):
    # struct timespec by hand: Python refuses some of these.
    stamp = (ctypes.c_long * 4)(seconds, 0, seconds, 0)
    code = libc.utimensat(-100, b'A', stamp, 0)
    assert code == 0 or ctypes.get_errno() == errno.EINVAL, ctypes.get_errno()
os.utime('A', (-1, -1))
with open('.scratch', 'w') as f: os.utime(f.fileno(), (-5, -5))
for i in range(600): put('W', f'{i:05}' + 'x' * 10000)
"#,
    );
    let grown = memory_files(keeper).saturating_sub(size);
    assert!(grown < 4 << 20, "the journal grew by {grown} bytes");
    let server = live.server_pid();
    support::home::signal("KILL", server);
    python(
        &live,
        "secrets",
        "same((text('A'), text('W')), ('a', '00599' + 'x' * 10000), 'after the server was killed')",
    );
    let log = std::fs::read_to_string(live.home("daemon.log")).unwrap();
    assert!(log.lines().count() < 50, "{log}");
}

/// The bytes of all memory files that a process holds.
fn memory_files(pid: u32) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    files
        .flatten()
        .filter(|file| {
            std::fs::read_link(file.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
        })
        .filter_map(|file| {
            Some(
                std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(file.path()).ok()?) * 512,
            )
        })
        .sum()
}
