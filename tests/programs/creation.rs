//! The process that creates a file sees it at once; other processes see it from its first value on.

use super::*;

#[test]
fn a_new_name_is_there_for_its_maker_at_once_and_for_others_from_its_close_on() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
fd = os.open('N', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
write(fd, 'val')
same((os.stat('N').st_size, os.path.exists('N'), text('N')), (3, True, 'val'), 'its maker')
same(os.fstat(fd).st_ino, os.stat('N').st_ino, 'the number by name and by descriptor')
same((other.read('N'), other.size('N'), other.list()), (None, None, []), 'others')
os.chmod('N', 0o600)
write(fd, 'ue')
same((os.stat('N').st_size, text('N')), (5, 'value'), 'its maker')
os.close(fd)
same((other.read('N'), other.size('N'), other.list()), ('value', 5, ['N']), 'others, after the close')
"#,
    );
}

#[test]
fn a_new_name_may_be_opened_by_name_a_second_time_by_its_maker() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
fd, name = tempfile.mkstemp(dir='.')
with open(name, 'w') as f: f.write('through the name')
os.close(fd)
same(other.read(name), 'through the name')
"#,
    );
}

#[test]
fn a_new_file_removed_before_its_close_never_appears() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
for name in ('GONE', '.gone'):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    write(fd, 'value'); os.unlink(name)
    same((os.path.exists(name), os.fstat(fd).st_size, os.pread(fd, 9, 0)), (False, 5, b'value'))
    os.close(fd)
    same((other.read(name), os.path.exists(name)), (None, False), name)
with tempfile.TemporaryFile(dir='.') as f:
    f.write(b'value'); f.seek(0)
    same(f.read(), b'value')
same(other.list(), [])
same([e for e in text('../events').splitlines() if 'set' in e], [], 'events')
"#,
    );
}

#[test]
fn a_new_name_whose_maker_is_killed_never_appears() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
def writer(wait):
    fd = os.open('N', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    write(fd, 'half'); os.fsync(fd); wait()
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT):
    Child(writer).killed(number)
    same((other.read('N'), other.list()), (None, []))
    # And nobody is in the way of who makes it next.
    fd = os.open('N', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    write(fd, 'whole'); os.close(fd)
    same(other.read('N'), 'whole')
    os.unlink('N')
"#,
    );
}

#[test]
fn the_common_atomic_save_of_python_replaces_inside_its_with() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('TOKEN', 'old')
with tempfile.NamedTemporaryFile('w', dir='.', delete=False) as f:
    f.write('new'); f.flush(); os.replace(f.name, 'TOKEN')
    same(other.read('TOKEN'), 'old', 'before the close')
same((other.read('TOKEN'), other.list()), ('new', ['TOKEN']))
with open('HF', 'w') as f:
    f.write('tok'); os.chmod('HF', 0o600); os.fchmod(f.fileno(), 0o600)
same(other.read('HF'), 'tok')
"#,
    );
}

#[test]
fn git_config_writes_a_file_and_then_changes_it() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "git config -f GITCONF user.name me && git config -f GITCONF user.email x@y && git config -f GITCONF --unset user.name && cat GITCONF; ls -A",
    );
    assert_eq!(said, "[user]\n\temail = x@y\nGITCONF\n");
}

#[test]
fn gawk_edits_in_place_and_leaves_nothing_behind() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "printf 'one\\ntwo\\n' > T; gawk -i inplace '{print toupper($0)}' T && cat T; ls -A",
    );
    assert_eq!(said, "ONE\nTWO\nT\n");
}

#[test]
fn a_configuration_is_rewritten_as_redis_does_it() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('REDISCONF', 'requirepass old\n')
folder = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
fd = os.open('REDISCONF-123.tmp', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
os.fchmod(fd, 0o644)
write(fd, 'requirepass new\n'); os.fsync(fd)
os.rename('REDISCONF-123.tmp', 'REDISCONF')
os.fsync(folder)
os.close(fd)
same((Other().read('REDISCONF'), os.listdir('.')), ('requirepass new\n', ['REDISCONF']))
same(stat.S_IMODE(os.stat('REDISCONF').st_mode), 0o600)
"#,
    );
}

#[test]
fn of_many_exclusive_creators_one_wins_and_the_others_get_eexist() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
PROCESSES, NAMES = 4, 150
shared = mmap.mmap(-1, PROCESSES * NAMES * 2)  # of each process and name: has come to the gate, has won
def racer(me):
    for i in range(NAMES):
        shared[me * NAMES + i] = 1
        while not all(shared[p * NAMES + i] for p in range(PROCESSES)): os.sched_yield()
        try: fd = os.open(f'L{i}', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError: continue
        shared[(PROCESSES + me) * NAMES + i] = 1
        write(fd, f'by {me}'); os.close(fd)
pids = []
for me in range(PROCESSES):
    if (pid := os.fork()) == 0:
        code = 1
        try: racer(me); code = 0
        finally: os._exit(code)
    pids.append(pid)
for pid in pids: same(os.waitpid(pid, 0)[1], 0, 'another error than EEXIST')
for i in range(NAMES):
    winners = [p for p in range(PROCESSES) if shared[(PROCESSES + p) * NAMES + i]]
    same(len(winners), 1, f'winners of L{i}')
    same(text(f'L{i}'), f'by {winners[0]}')
"#,
    );
}

#[test]
fn a_name_created_exclusively_and_not_yet_closed_cannot_be_created_by_another_process() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
def writer(wait):
    fd = os.open('N', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    write(fd, 'first'); wait(); os.close(fd)
child = Child(writer)
refused(errno.EEXIST, os.open, 'N', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
# Without O_EXCL it is a write like any other: the last close wins.
put('N', 'second')
same(text('N'), 'second')
child.ends()
same(text('N'), 'first')
"#,
    );
}

#[test]
fn a_regular_file_that_is_made_by_mknod_is_a_creation_and_nothing_else_can_be_made() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
os.mknod('C', 0o100600)
fd = os.open('C', os.O_WRONLY); write(fd, 'value'); os.close(fd)
same(Other().read('C'), 'value')
refused(errno.EEXIST, os.mknod, 'C', 0o100600)
refused(errno.EPERM, os.mkfifo, 'P')
refused(errno.EPERM, os.mkdir, 'D')
refused(errno.EPERM, os.symlink, 'C', 'L')
refused(errno.EPERM, os.link, 'C', 'L')
refused((errno.EOPNOTSUPP, errno.EPERM), os.open, '.', os.O_TMPFILE | os.O_WRONLY, 0o600)
same(sorted(os.listdir('.')), ['C'])
"#,
    );
}

#[test]
fn a_name_that_an_ended_process_made_by_mknod_can_be_created_exclusively() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
maker = os.fork()
if maker == 0:
    os.mknod('C', 0o100600)
    os._exit(0)
os.waitpid(maker, 0)
refused(errno.ENOENT, os.stat, 'C')
with open('C', 'x') as file: file.write('mine')
same(text('C'), 'mine')
"#,
    );
}

#[test]
fn ten_thousand_names_made_and_removed_before_their_close_leave_nothing_in_memory() {
    let live = Live::start();
    let before = memory_of_the_server(&live);
    python(
        &live,
        "secrets",
        r#"
for i in range(10000):
    fd = os.open(f'T{i}', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, b'x' * 4000); os.unlink(f'T{i}'); os.close(fd)
same(os.listdir('.'), [])
"#,
    );
    wait_until("the memory goes back", || {
        memory_of_the_server(&live) < before + 8 * 1024
    });
}

#[test]
fn writers_that_are_killed_or_write_nothing_leave_nothing_in_memory() {
    let live = Live::start();
    live.write("secrets/K", "value");
    let before = memory_of_the_server(&live);
    python(
        &live,
        "secrets",
        r#"
for i in range(400):
    if (pid := os.fork()) == 0:
        for name in ('K', f'N{i}', f'.s{i}'):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600); write(fd, 'x' * 60000)
        os.unlink(f'.s{i}')
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND): os.close(os.open('K', flags))
same((text('K'), os.listdir('.')), ('value', ['K']))
"#,
    );
    wait_until("the memory goes back", || {
        memory_of_the_server(&live) < before + 8 * 1024
    });
}

#[test]
fn folders_that_are_held_open_hold_no_copy_of_their_listing() {
    let secrets: serde_json::Map<String, serde_json::Value> = (0..5000)
        .map(|number| (format!("SECRET_NUMBER_{number:05}"), "v".into()))
        .collect();
    let secrets = serde_json::to_string(&secrets).unwrap();
    let live = Live::start_with(Setup {
        files: vec![(".simpletuner/secrets.json", &secrets)],
        ..Setup::default()
    });
    assert_eq!(bash(&live, "secrets", "ls | wc -l"), "5000\n");
    let before = memory_of_the_server(&live);
    let mut holder = live.command("python3");
    holder.current_dir(live.path("secrets")).args([
        "-c",
        "import os, sys\nfolders = [os.scandir('.') for _ in range(300)]\nfor folder in folders: next(folder)\nprint('held', flush=True)\nsys.stdin.read()",
    ]);
    let mut holder = holder
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
    let more = memory_of_the_server(&live).saturating_sub(before);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(more < 30 * 1024, "300 open folders take {more} KiB");
}

/// What the process that answers has in memory, in KiB.
fn memory_of_the_server(live: &Live) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", live.server_pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse().unwrap()
}
