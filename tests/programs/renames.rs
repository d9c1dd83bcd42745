//! A file that is renamed before it is closed keeps what was written to it, in every writable folder.

use super::*;

/// Each folder with a name in it, two values of it that are taken, and one (if there is any) that is not.
const PLACES: &str = r#"
def place(folder):
    os.chdir(os.path.join(LIVE, folder))
    if folder == 'secrets':
        return 'HF_TOKEN', 'precious-old', 'the new value, which is longer', None
    if folder == 'bundle':
        return 'secrets.json', {'K': 'precious-old'}, {'K': 'the new value, which is longer'}, '{"K": '
    if folder == 'hardware':
        return 'gpu-l40s.json', {'name': 'L40S', 'cost_per_second': 0.25}, {'name': 'L40S', 'cost_per_second': 0.00125}, 'no price'
    return 'replicate.json', {'webhook_url': 'https://example.com/old'}, {'webhook_url': 'https://example.com/the/new/one'}, '[1]'

def whole(value):
    return value if isinstance(value, str) else json.dumps(value)

other = Other()

def seen(name):
    """What another process finds under the name: a string, or what the document says."""
    found = other.read(os.path.abspath(name))
    if found is None or not name.endswith('.json'):
        return found
    found = json.loads(found)
    if 'K' in found:
        return {'K': found['K']}
    if 'cost_per_second' in found:
        return {'name': found['name'], 'cost_per_second': found['cost_per_second']}
    return found

def each(try_one):
    for folder in ('secrets', 'bundle', 'hardware', 'config'):
        name, old, new, malformed = place(folder)
        put(name, whole(old))
        same(seen(name), old, folder)
        try:
            try_one(name, old, new, malformed)
        except Exception as e:
            raise AssertionError(f'in {folder}/') from e
"#;

#[track_caller]
fn in_each_folder(program: &str) {
    let live = Live::start();
    python(&live, "", &format!("{PLACES}\n{program}\neach(try_one)"));
}

#[test]
fn fsynced_bytes_take_effect_with_the_rename_and_stay_if_the_writer_is_killed() {
    in_each_folder(
        r#"
def try_one(name, old, new, malformed):
    with open('.new', 'w') as f:
        f.write(whole(new)); f.flush(); os.fsync(f.fileno())
        os.replace('.new', name)
        same(seen(name), new, 'after fsync and rename')
    same(seen(name), new, 'after the close')
    def writer(wait):
        f = os.open('.new', os.O_WRONLY | os.O_CREAT, 0o600)
        write(f, whole(old)); os.fsync(f); os.rename('.new', name); wait()
    child = Child(writer)
    same(seen(name), old, 'renamed by a writer that lives')
    child.killed()
    same(seen(name), old, 'renamed by a writer that was killed')
"#,
    );
}

#[test]
fn other_bytes_take_effect_with_the_close_and_the_old_value_stays_until_then() {
    in_each_folder(
        r#"
def try_one(name, old, new, malformed):
    with open('.new', 'w') as f:
        f.write(whole(new)); f.flush()
        os.replace('.new', name)
        same(seen(name), old, 'after the rename')
    same(seen(name), new, 'after the close')
    same(other.read(os.path.abspath('.new')), None, 'the name it had')
"#,
    );
}

#[test]
fn a_writer_that_is_killed_after_the_rename_and_before_the_close_changes_nothing() {
    in_each_folder(
        r#"
def try_one(name, old, new, malformed):
    for number in (signal.SIGKILL, signal.SIGTERM):
        def writer(wait):
            f = os.open('.new', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            write(f, whole(new)); os.rename('.new', name); wait()
        child = Child(writer)
        same(seen(name), old, 'renamed, not closed')
        child.killed(number)
        same(seen(name), old, f'killed by {number}')
    put(name, whole(new))
    same(seen(name), new, 'a write after that')
"#,
    );
}

#[test]
fn a_reader_beside_a_rename_sees_the_old_value_or_the_new_one_and_never_none() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
watcher = Watcher('K', 'old', 'a new one')
for round in range(60):
    new = 'a new one' if round % 2 else 'old'
    f = os.open('.K.tmp', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    write(f, new[:2]); write(f, new[2:])
    if round % 3 == 0: os.fsync(f)
    os.replace('.K.tmp', 'K')
    os.close(f)
    same(text('K'), new)
watcher.ends()
"#,
    );
}

#[test]
fn a_document_that_is_renamed_before_its_close_is_refused_if_it_is_malformed_and_the_old_one_stays()
{
    in_each_folder(
        r#"
def try_one(name, old, new, malformed):
    if malformed is None: return
    for synced in (False, True):
        f = os.open('.new', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        write(f, malformed)
        if synced: os.fsync(f)
        renamed = outcome(os.rename, '.new', name)
        closed = outcome(os.close, f)
        same({renamed, closed} - {None}, {errno.EINVAL}, f'rename and close, fsync: {synced}')
        same(seen(name), old, 'after the failure')
        outcome(os.unlink, '.new')
"#,
    );
}

#[test]
fn a_killed_writer_leaves_the_fsynced_part_of_a_renamed_file() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('K', 'old')
def writer(wait):
    f = os.open('.K', os.O_WRONLY | os.O_CREAT, 0o600)
    write(f, 'synced'); os.fsync(f); write(f, ' and not')
    os.rename('.K', 'K'); wait(); os.close(f)
child = Child(writer)
same(other.read('K'), 'synced', 'after the rename')
child.killed()
same(other.read('K'), 'synced', 'the writer killed')
child = Child(writer)
child.ends()
same(other.read('K'), 'synced and not', 'the writer closed')
"#,
    );
}

#[test]
fn bytes_written_after_the_rename_belong_to_the_file_too() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
put('K', 'old')
f = os.open('.K', os.O_WRONLY | os.O_CREAT, 0o600)
write(f, 'one '); os.rename('.K', 'K')
write(f, 'two '); os.rename('K', 'L')
write(f, 'three'); os.close(f)
same(other.read('L'), 'one two three')
assert other.read('K') in ('old', None), other.read('K')
"#,
    );
}

#[test]
fn a_new_name_that_is_renamed_shows_to_others_from_its_close_on_or_never() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
for source in ('.N', 'N.tmp'):
    def writer(wait):
        f = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        write(f, 'value'); os.rename(source, 'N')
        same(os.stat('N').st_size, 5, 'its own process')
        wait(); os.close(f)
    child = Child(writer)
    same((other.read('N'), other.size('N'), other.list()), (None, None, []), 'before the close')
    child.killed()
    same((other.read('N'), other.read(source), other.list()), (None, None, []), 'the writer killed')
    child = Child(writer)
    child.ends()
    same((other.read('N'), other.size('N'), other.list()), ('value', 5, ['N']), 'closed')
    os.unlink('N')
"#,
    );
}

#[test]
fn the_old_value_of_a_left_over_temporary_file_does_not_move_along() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
for source in ('.K.tmp', 'K.tmp'):
    put('K', 'old')
    put(source, 'left over')
    def writer(wait):
        f = os.open(source, os.O_WRONLY | os.O_TRUNC)
        write(f, 'new'); os.rename(source, 'K'); wait(); os.close(f)
    child = Child(writer)
    same(other.read('K'), 'old', 'renamed')
    child.killed()
    same(other.read('K'), 'old', 'killed')
    put(source, 'left over')
    child = Child(writer)
    child.ends()
    same((other.read('K'), other.read(source)), ('new', None), 'closed')
"#,
    );
}

#[test]
fn a_reader_that_has_the_old_value_open_keeps_it_over_the_rename() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
reader = os.open('K', os.O_RDONLY)
f = os.open('.K', os.O_WRONLY | os.O_CREAT, 0o600)
write(f, 'the new one'); os.fsync(f); os.replace('.K', 'K'); os.close(f)
same((os.fstat(reader).st_size, os.pread(reader, 99, 0)), (3, b'old'))
same(text('K'), 'the new one')
"#,
    );
}

#[test]
fn rusts_named_temporary_file_persists_over_a_secret() {
    use std::io::Write;
    let live = Live::start();
    live.write("secrets/K", "old");
    for (prefix, value) in [(".tmp", "first"), ("tmp", "second")] {
        let mut file = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(live.path("secrets"))
            .unwrap();
        file.write_all(value.as_bytes()).unwrap();
        let file = file.persist(live.path("secrets/K")).unwrap();
        assert!(!live.read("secrets/K").is_empty());
        drop(file);
        assert_eq!(live.read("secrets/K"), value);
        assert_eq!(
            bash(&live, "secrets", "cat K; ls -A"),
            format!("{value}K\n")
        );
    }
}

#[test]
fn mv_cannot_move_a_new_file_that_another_process_has_not_closed() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
f = os.open('NEW', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
write(f, 'half')
moved = subprocess.run(['mv', 'NEW', 'K'], capture_output=True, text=True)
assert moved.returncode != 0 and 'No such file' in moved.stderr, moved
same(text('K'), 'old')
write(f, ' and half'); os.close(f)
same(text('NEW'), 'half and half')
subprocess.run(['mv', 'NEW', 'K'], check=True)
same((text('K'), text('NEW')), ('half and half', None))
"#,
    );
}

#[test]
fn a_write_follows_its_file_when_another_process_renames_or_removes_it() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
def others(script): subprocess.run(['sh', '-c', script], check=True)
def begin(): f = os.open('K', os.O_WRONLY | os.O_TRUNC); write(f, 'written'); return f
put('K', 'old'); f = begin(); others('mv K L'); same((other.read('K'), other.read('L')), (None, 'old'))
os.close(f); same((other.read('K'), other.read('L')), (None, 'written'), 'renamed')
put('K', 'old'); f = begin(); others('rm K'); os.close(f); same(other.read('K'), None, 'removed')
put('K', 'old'); f = begin(); others('rm K; printf again > K'); os.close(f); same(other.read('K'), 'again', 'removed and made again')
put('N', 'moved'); f = begin(); others('mv N K'); os.close(f); same(other.read('K'), 'moved', 'replaced')
"#,
    );
}

#[test]
fn a_rename_is_one_write_of_the_store() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
printf value > A; printf old > B; cd ~/.simpletuner
inotifywait -m -q --format '%f' -e moved_to . > ~/out 2> ~/err &
watch=$!
probe() { echo > ~/.simpletuner/probe; mv ~/.simpletuner/probe ~/.simpletuner/$1; }
# inotifywait watches once it has reported the probe.
until grep -q begin ~/out; do probe begin; sleep 0.01; done
mv live/secrets/A live/secrets/B; probe end
until grep -q end ~/out; do sleep 0.01; done
kill $watch; wait $watch 2> /dev/null
grep -c 'secrets.json$' ~/out; ls live/secrets; cat live/secrets/B
"#,
    );
    assert_eq!(said, "1\nB\nvalue");
}

#[test]
fn a_file_that_is_renamed_twice_before_its_close_leaves_nothing_under_the_name_between() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
other = Other()
for between, last in (('B', 'A'), ('B', 'C'), ('B', 'B~')):
    put('A', 'old A'); put('B', 'old B')
    with open('.new', 'w') as f:
        f.write('new'); f.flush()
        os.rename('.new', between)
        same(other.read(between), 'old B')
        os.rename(between, last)
        same(other.read(between), None, 'renamed again')
    same((other.read(between), other.read(last)), (None, 'new'), last)
    os.unlink(last)
"#,
    );
}
