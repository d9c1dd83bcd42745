//! After a writer's close each open and each `stat` gives the new value. A name is looked at by another process between the
//! write and the close: a test that only writes, closes and reads does not notice a name that holds too long, because the
//! writer's own look has replaced it.

use std::time::Duration;

use super::*;

const STALE: &str = r#"
import json, os, subprocess, sys
ROUNDS = int(sys.argv[1])
OTHER = '''
import json, os, sys
for line in sys.stdin:
    try:
        with open('K', 'rb') as f: got = f.read().decode()
        print(json.dumps([got, os.stat('K').st_size]), flush=True)
    except FileNotFoundError: print(json.dumps(None), flush=True)
'''
other = subprocess.Popen([sys.executable, '-c', OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def looks():
    other.stdin.write('\n'); other.stdin.flush()
    return json.loads(other.stdout.readline())
def begin(name, flags): return os.open(name, os.O_WRONLY | os.O_CREAT | flags, 0o600)
stale, old = {'here': 0, 'stat': 0, 'other': 0, 'too early': 0}, None
for i in range(ROUNDS):
    new = f'{i}' + '.' * (i % 7 * 3000)
    kind = i % 4
    if kind == 0: f = begin('K', os.O_TRUNC)
    else: f = begin('.K' if kind == 3 else 'K.t', os.O_EXCL)
    os.write(f, new.encode())
    if kind == 2: os.rename('K.t', 'K')
    seen = looks()  # Somebody opens the name meanwhile, which then holds for an hour.
    if seen is not None and seen[0] != old: stale['too early'] += 1
    if kind == 3: looks(); os.rename('.K', 'K'); looks()
    os.close(f)
    if kind == 1: looks(); os.rename('K.t', 'K')
    seen = looks()
    if seen != [new, len(new)]: stale['other'] += 1
    if os.stat('K').st_size != len(new): stale['stat'] += 1
    with open('K', 'rb') as f:
        if f.read().decode() != new: stale['here'] += 1
    old = new
print(json.dumps(stale))
sys.exit(any(stale.values()))
"#;

fn nothing_is_stale(mode: Mode) {
    let live = mounted(mode);
    let mut python = live.command("python3");
    python.current_dir(live.path("secrets"));
    // Some eight thousand writes and reads, one after another.
    let timeout = Duration::from_secs(400);
    let output = live.output_within(timeout, python.args(["-c", STALE, "2000"]));
    let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(output.status.success(), "{mode:?}: {out}{err}");
}

#[test]
fn two_thousand_reads_after_a_close_are_never_stale_even_of_a_name_known_before() {
    nothing_is_stale(Mode::NamesHold);
}

#[test]
fn reads_after_a_close_are_never_stale_where_names_have_no_validity() {
    nothing_is_stale(Mode::NoEpoch);
}

#[test]
fn an_edit_of_the_store_by_another_program_shows_even_under_a_name_known_before() {
    for mode in MODES {
        let live = mounted(mode);
        live.write("secrets/K", "first");
        let store = live.home(".simpletuner/secrets.json");
        for round in 0..50 {
            let value = format!("{round}{}", "x".repeat(round % 5 * 1000));
            assert!(!live.read("secrets/K").is_empty());
            let beside = store.with_extension("new");
            fs::write(&beside, format!("{{\"K\": \"{value}\"}}")).unwrap();
            fs::rename(&beside, &store).unwrap();
            wait_until("the edit shows", || live.read("secrets/K") == value);
            assert_eq!(
                fs::metadata(live.path("secrets/K")).unwrap().len(),
                value.len() as u64
            );
        }
    }
}
