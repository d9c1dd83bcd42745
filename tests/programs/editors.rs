//! Editors, each at a terminal: they save without a warning, and find their recovery files after a crash.

use super::*;

/// A program on a terminal: sends keys when it has shown what is waited for, and gives all that it showed.
const TERMINAL: &str = r#"
import pty, select
def terminal(command, *steps):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM='xterm', LC_ALL='C.UTF-8', LINES='24', COLUMNS='80')
        os.execvp(command[0], command)
    shown = b''
    steps = list(steps)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        while steps and re.search(steps[0][0], shown.decode(errors='replace')):
            os.write(fd, steps.pop(0)[1].encode())
        if not select.select([fd], [], [], 1)[0]: continue
        try: got = os.read(fd, 9999)
        except OSError: break
        if not got: break
        shown += got
    else:
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f'it hangs: {shown[-2000:]}')
    os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, re.sub(r'\x1b[^a-zA-Z]*[a-zA-Z]', '', shown.decode(errors='replace'))
def complaints(shown): return re.findall(r'E\d+:[^\r\n]*|[Ee]rror[^\r\n]*', shown)
"#;

#[track_caller]
fn on_a_terminal(program: &str) {
    let live = Live::start();
    python(&live, "secrets", &format!("{TERMINAL}\n{program}"));
}

#[test]
fn vim_saves_without_an_error_with_swap_file_and_backup() {
    on_a_terminal(
        r#"
for extra in ([], ['-c', 'set backup writebackup'], ['-c', 'set backupcopy=yes']):
    put('V', 'abc\n')
    code, shown = terminal(['vim', '-N', '-u', 'NONE', '-i', 'NONE', '--cmd', 'set swapfile', *extra, '-c', 'normal iX', '-c', 'write', '-c', 'normal iY', '-c', 'preserve', '-c', 'wq', 'V'])
    same((code, complaints(shown), text('V')), (0, [], 'YXabc\n'), shown)
same(os.listdir('.'), ['V'])
"#,
    );
}

#[test]
fn vim_recovers_what_was_typed_before_it_was_killed() {
    on_a_terminal(
        r#"
put('V', 'abc\n')
code, shown = terminal(['vim', '-N', '-u', 'NONE', '-i', 'NONE', '--cmd', 'set swapfile', '-c', 'normal iRECOVERME ', '-c', 'preserve', '-c', 'call system("kill -9 " . getpid())', 'V'])
same(code, -signal.SIGKILL, shown)
assert os.stat('.V.swp').st_size >= 4096, os.stat('.V.swp')
same(text('V'), 'abc\n')
out = os.path.expanduser('~/recovered')
subprocess.run(['timeout', '30', 'vim', '-es', '-u', 'NONE', '-i', 'NONE', '-r', 'V', '-c', f'w! {out}', '-c', 'qa!'], stdin=subprocess.DEVNULL)
same(text(out), 'RECOVERME abc\n')
"#,
    );
}

#[test]
fn a_second_vim_sees_that_the_file_is_being_edited() {
    on_a_terminal(
        r#"
put('V', 'abc\n')
first = ['vim', '-N', '-u', 'NONE', '-i', 'NONE', '--cmd', 'set swapfile', '-c', 'normal iX']
script = os.path.expanduser('~/second')
put(script, '#!/bin/sh\nexec vim -es -N -u NONE -i NONE --cmd "set swapfile" -c "redir! > $HOME/said" -c "silent swapname" -c "redir END" -c "qa!" V < /dev/null\n')
os.chmod(script, 0o700)
code, shown = terminal([*first, '-c', f'call system("{script}")', '-c', 'wq', 'V'])
same((code, text('V'), complaints(shown)), (0, 'Xabc\n', []), shown)
assert '.V.swp' not in (text(os.path.expanduser('~/said')) or '.V.swp'), 'it took the swap file of the first one'
"#,
    );
}

#[test]
fn nano_saves_with_its_lock_file() {
    on_a_terminal(
        r#"
put('V', 'abc\n')
code, shown = terminal(['nano', '-I', '-G', 'V'], ('abc', 'X\x0f'), ('Name to Write', '\r'), ('Wrote', '\x18'))
same((code, complaints(shown), text('V'), os.listdir('.')), (0, [], 'Xabc\n', ['V']), shown)
assert 'lock file' not in shown, shown
"#,
    );
}

#[test]
fn an_editor_that_saves_as_emacs_does_finds_its_names() {
    on_a_terminal(
        r#"
put('V', 'abc\n')
# The lock is a symbolic link, or where there can be none a file.
refused(errno.EPERM, os.symlink, 'user@host.1:2', '.#V')
fd = os.open('.#V', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600); write(fd, 'user@host.1:2'); os.fchmod(fd, 0o444); os.close(fd)
same(text('.#V'), 'user@host.1:2')
# It saves by itself now and then.
put('#V#', 'Xabc\n'); same(text('#V#'), 'Xabc\n')
# And at last: the old one is moved away, and a new one is written.
os.rename('V', 'V~')
fd = os.open('V', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600); write(fd, 'Xabc\n'); os.fsync(fd); os.fchmod(fd, 0o600); os.close(fd)
for name in ('#V#', '.#V'): os.unlink(name)
same((text('V'), text('V~'), os.listdir('.')), ('Xabc\n', 'abc\n', ['V']))
"#,
    );
}

#[test]
fn vim_writes_configurations_and_prices_in_place_so_that_they_never_lack() {
    on_a_terminal(
        r#"
os.chdir('..')
put('config/replicate.json', '{"webhook_url": "old"}\n')
for path, old in (('config/replicate.json', 'old'), ('hardware/gpu-l40s.json', 'L40S')):
    refused((errno.EPERM, errno.EINVAL), os.open, os.path.dirname(path) + '/4913', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    number, missing, stop = os.stat(path).st_ino, [], threading.Event()
    def looks():
        while not stop.is_set():
            if not os.path.exists(path): missing.append(path)
    looker = threading.Thread(target=looks); looker.start()
    code, shown = terminal(['vim', '-N', '-u', 'NONE', '-i', 'NONE', '-c', f'%s/{old}/new/', '-c', 'wq', path])
    stop.set(); looker.join()
    same((code, complaints(shown), missing, os.stat(path).st_ino), (0, [], [], number), shown)
    assert 'new' in text(path), text(path)
"#,
    );
}
