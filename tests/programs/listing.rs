//! Listings: rewound ones, long ones, and inotify's events.

use super::*;

#[test]
fn a_folder_that_is_rewound_is_listed_anew() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('OLD', 'x')
fd = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
same(os.listdir(fd), ['OLD'])
put('NEW', 'x'); os.unlink('OLD')
same(os.listdir(fd), ['NEW'], 'rewound')
same(os.listdir('.'), ['NEW'])
for i in range(300): put(f'N{i}', 'x')
same(len(os.listdir(fd)), 301, 'rewound again')
other = Other()
for i in range(300): os.unlink(f'N{i}')
same((os.listdir(fd), other.list()), (['NEW'], ['NEW']))
"#,
    );
}

#[test]
fn a_listing_beside_changes_has_each_name_that_stays_once() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
stay = {f'STAY_{i:03}' for i in range(200)}
for name in stay: put(name, 'x')
stop = threading.Event()
flaws = []
def changes():
    n = 0
    while not stop.is_set():
        n += 1
        try: put('.t', 'x'); os.rename('.t', f'MOVED{n % 7}'); os.unlink(f'MOVED{n % 7}')
        except OSError as e: flaws.append(str(e))
changer = threading.Thread(target=changes); changer.start()
try:
    for _ in range(40):
        names = os.listdir('.')
        found = collections.Counter(names)
        if [n for n in found if found[n] > 1]: flaws.append([n for n in found if found[n] > 1])
        if stay - set(names): flaws.append(stay - set(names))
finally: stop.set(); changer.join()
same(flaws, [])
"#,
    );
}

#[test]
fn ls_lists_thousands_at_a_cost_that_grows_with_their_number() {
    let home = Home::new();
    let script = r#"
import json, os, resource, subprocess, sys
def cost(n, *args):
    with open('.simpletuner/secrets.json', 'w') as f: json.dump({f'K{i:06}': f'v{i}' for i in range(n)}, f)
    os.chmod('.simpletuner/secrets.json', 0o600)
    best = None
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        said = subprocess.run([sys.argv[1], 'ls', *args], capture_output=True, check=True, text=True).stdout
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        best = used if best is None else min(best, used)
        assert all(f'K{i:06}' in said for i in (0, n // 2, n - 1)), said[:200]
    return best
for args in (['-l'], ['-l', '--json']):
    few, many = cost(3000, *args), cost(12000, *args)
    # Four times as many: the square would be sixteen times the work.
    assert many < 9 * few + 0.05, (args, few, many)
"#;
    home.write(".simpletuner/live.yaml", "max_keys: 12000\n");
    let mut python = home.command("python3");
    python.args(["-c", script, support::home::BINARY]);
    succeeds(&mut bounded(python));
}

#[test]
fn a_watcher_of_a_folder_gets_each_change_by_its_name() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
echo one > A; echo two > B
inotifywait -m -q --format '%e %f' -e close_write -e moved_to -e moved_from -e delete -e create . > ~/out 2> ~/err &
watch=$!
# inotifywait watches once it has reported the probe.
until [ -s ~/out ]; do echo x > PROBE; sleep 0.01; done
: > ~/seen; echo new > A; mv B A; rm A; echo last > LAST
until grep -q 'CLOSE_WRITE.* LAST' ~/out; do sleep 0.01; done
kill $watch; wait $watch 2> /dev/null
grep -E ' (A|B)$' ~/out | grep -oE '^(CLOSE_WRITE|MOVED_FROM|MOVED_TO|DELETE)|[AB]$' | paste -sd ' '
"#,
    );
    assert_eq!(said, "CLOSE_WRITE A MOVED_FROM B MOVED_TO A DELETE A\n");
}

#[test]
fn a_watcher_of_one_file_gets_the_reads_of_its_version_and_no_write() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        r#"
echo one > A; echo two > B; exec 3< A
inotifywait -m -q --format '%e' A > ~/out 2> ~/err &
watch=$!
until [ -s ~/out ]; do cat A > /dev/null; sleep 0.01; done
echo new > A; mv B A
# The watched version's own event comes behind those.
until grep -q ATTRIB ~/out; do touch -c /proc/self/fd/3; sleep 0.01; done
kill $watch; wait $watch 2> /dev/null
grep -E 'MODIFY|WRITE|MOVE|DELETE' ~/out | grep -v CLOSE_NOWRITE
cat A
"#,
    );
    assert_eq!(said, "two\n");
}
