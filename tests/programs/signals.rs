//! A signal that does not kill interrupts no call that changes something, and a writer that a signal killed is recognised.

use super::*;

/// Calls of the C library while a timer of 150 us interrupts whatever can be interrupted, by a handler that was
/// installed with or without SA_RESTART.
const INTERRUPTED: &str = r#"
libc.open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
ticks = 0
def rounds(at_least):
    """Rounds until enough of the calls were interrupted in."""
    for i in range(at_least * 5):
        if i >= at_least and ticks >= 30: break
        yield i
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)

def call(name, *args):
    """The error number that a call ended with, or 0, and what it gave."""
    signal.setitimer(signal.ITIMER_REAL, 0.00015, 0.00015)
    got = getattr(libc, name)(*args)
    code = ctypes.get_errno() if got < 0 else 0
    signal.setitimer(signal.ITIMER_REAL, 0)
    return code, got
"#;

#[track_caller]
fn interrupted(program: &str) {
    let live = Live::start();
    for restart in ["False", "True"] {
        let handler = format!("signal.siginterrupt(signal.SIGALRM, {restart})");
        let program = format!("{INTERRUPTED}\n{handler}\n{program}");
        python(&live, "secrets", &program);
    }
}

#[test]
fn close_is_not_interrupted_by_a_signal_that_is_caught() {
    interrupted(
        r#"
for i in rounds(100):
    fd = os.open('SIG', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600); write(fd, f'value {i}')
    same(call('close', fd)[0], 0, f'close {i}')
    same(text('SIG'), f'value {i}')
os.unlink('SIG')
"#,
    );
}

#[test]
fn rename_and_unlink_are_not_interrupted_by_a_signal_that_is_caught() {
    interrupted(
        r#"
for i in rounds(80):
    put('SIG', 'value')
    same(call('rename', b'SIG', b'SIG2')[0], 0, f'rename {i}')
    same((text('SIG'), text('SIG2')), (None, 'value'))
    same(call('unlink', b'SIG2')[0], 0, f'unlink {i}')
    same(text('SIG2'), None)
"#,
    );
}

#[test]
fn truncate_is_not_interrupted_by_a_signal_that_is_caught() {
    interrupted(
        r#"
for i in rounds(80):
    put('SIG', 'value')
    same(call('truncate', b'SIG', ctypes.c_long(i % 5))[0], 0, f'truncate {i}')
    same(text('SIG'), 'value'[:i % 5])
os.unlink('SIG')
"#,
    );
}

#[test]
fn a_save_of_a_document_is_not_interrupted_by_a_signal_that_is_caught() {
    interrupted(
        r#"
for i in rounds(60):
    fd = os.open('.new', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    write(fd, json.dumps({'A': str(i)}))
    same(call('fsync', fd)[0], 0, 'fsync')
    same(call('rename', b'.new', b'../bundle/secrets.json')[0], errno.EXDEV, 'to another folder')
    same(call('rename', b'.new', b'DOC')[0], 0, 'rename')
    same(call('close', fd)[0], 0, 'close')
    same(json.loads(text('DOC')), {'A': str(i)})
"#,
    );
}

#[test]
fn a_program_whose_name_is_cut_inside_a_character_is_known_as_killed() {
    let live = Live::start();
    for name in ["plain-shell", "sh12-训练任务代码", "a) S 1 é", "(sh) Z"] {
        let program = live.home(name);
        std::fs::copy("/bin/bash", &program).unwrap();
        let script = r#"
printf present > K; ls "$0" > /dev/null
"$0" -c 'exec 3> K; printf half >&3; kill -9 $$'; printf 'killed: %s\n' "$(<K)"
"$0" -c 'exec 3> NEW; printf half >&3; kill -9 $$'; [ -e NEW ] && echo there
"$0" -c 'exec 3> K; printf whole >&3'; printf 'ended: %s\n' "$(<K)"
"#;
        let mut bash = live.command("bash");
        bash.current_dir(live.path("secrets")).arg("-c").arg(script);
        let said = succeeds_in(
            &live,
            bounded({
                bash.arg(&program);
                bash
            }),
        );
        assert_eq!(said, "killed: present\nended: whole\n", "{name}");
    }
}

#[test]
fn a_program_that_catches_a_signal_and_closes_has_written() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
put('K', 'old')
def writer(wait):
    fd = os.open('K', os.O_WRONLY | os.O_TRUNC); write(fd, 'new')
    def end(*_): os.close(fd); os._exit(130)
    signal.signal(signal.SIGINT, end)
    wait()
same(Child(writer).killed(signal.SIGINT), 130)
same(text('K'), 'new')
"#,
    );
}

#[test]
fn a_limit_of_file_sizes_ends_no_server() {
    let live = Live::start();
    let server = live.server_pid();
    // What `ulimit -f` sets for a daemon that is started below it.
    let limit = format!(
        "prlimit --pid {server} --fsize=8192:8192; prlimit --pid {} --fsize=8192:8192",
        live.keeper_pid()
    );
    bash(&live, "", &limit);
    python(
        &live,
        "secrets",
        r#"
put('SMALL', 'v')
for i in range(4):
    fd = os.open('LARGE', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if not outcome(write, fd, 'x' * 30000) and not outcome(os.close, fd): same(text('LARGE'), 'x' * 30000)
same(text('SMALL'), 'v')
"#,
    );
    assert_eq!(live.server_pid(), server);
}
