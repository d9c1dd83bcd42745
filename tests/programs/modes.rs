//! chmod and chown of a file that the caller is still writing succeed without effect (it stays 0600); of any other file they
//! are refused.

use super::*;

#[test]
fn the_maker_of_a_file_may_set_its_mode_and_owner_until_its_close() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
def mode(name): return stat.S_IMODE(os.stat(name).st_mode)
for name in ('N', '.scratch'):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    write(fd, 'value')
    for m in (0o600, 0o644, 0o400, 0o666, 0o755):
        os.fchmod(fd, m); os.chmod(name, m)
    os.fchown(fd, os.getuid(), os.getgid()); os.chown(name, os.getuid(), -1)
    os.utime(name, (1577934245, 1577934245))
    os.close(fd)
    same((text(name), mode(name)), ('value', 0o600), name)
# What is settled has the mode that it shows.
os.chmod('N', 0o600)
os.chown('N', os.getuid(), os.getgid())
for m in (0o644, 0o400, 0o700, 0o666): refused(errno.EPERM, os.chmod, 'N', m)
refused(errno.EPERM, os.chown, 'N', os.getuid() + 1, -1)
refused(errno.EPERM, os.chmod, '.', 0o755)
same((text('N'), mode('N')), ('value', 0o600))
# Scratch may be given any mode at any time: it is somebody's file of tomorrow.
os.chmod('.scratch', 0o644)
os.rename('.scratch', 'N')
same((text('N'), mode('N')), ('value', 0o600))
"#,
    );
}

#[test]
fn rsync_copies_with_modes_and_times() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "umask 022; echo tok > ~/t; chmod 644 ~/t; touch -d '2020-01-02 03:04:05 UTC' ~/t
         rsync -a ~/t R && rsync -a --chmod=F600 ~/t R && cat R && stat -c '%a %Y' R
         echo tok2 > ~/t; rsync -a --inplace --no-whole-file --chmod=F600 ~/t R && cat R
         echo token3 > ~/t; rsync -rt --chmod=F600 ~/t R && cat R; ls -A",
    );
    assert_eq!(said, "tok\n600 1577934245\ntok2\ntoken3\nR\n");
}

#[test]
fn cp_p_stores_the_value_and_ends_well() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "umask 022; echo tok > ~/t; chmod 644 ~/t
         cp -p ~/t C && cmp ~/t C && stat -c %a C
         cp --preserve=all ~/t D && cmp ~/t D && stat -c %a D; ls -A",
    );
    assert_eq!(said, "600\n600\nC\nD\n");
}

#[test]
fn a_program_that_fails_to_set_a_settled_files_mode_has_stored_the_value() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
source = os.path.expanduser('~/t')
def fresh():
    with open(source, 'w') as f: f.write('tok\n')
    os.chmod(source, 0o644)
fresh()
outcome(shutil.copy, source, 'S1'); same(text('S1'), 'tok\n', 'shutil.copy')
outcome(shutil.move, source, 'S2'); same(text('S2'), 'tok\n', 'shutil.move')
fresh()
subprocess.run(['install', '-m', '644', source, 'I1'], stderr=subprocess.DEVNULL); same(text('I1'), 'tok\n', 'install -m 644')
subprocess.run(['install', '-m', '600', source, 'I2'], check=True); same(text('I2'), 'tok\n', 'install -m 600')
subprocess.run(['cp', source, 'P'], check=True); same(text('P'), 'tok\n', 'cp')
for name in os.listdir('.'): same(stat.S_IMODE(os.stat(name).st_mode), 0o600, name)
"#,
    );
}

#[test]
fn a_file_is_put_in_place_as_ansible_does_it() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
for value in ('tok', 'tok2'):
    fd, name = tempfile.mkstemp(prefix='.ansible_tmp', suffix='A1', dir='.')
    os.close(fd)
    shutil.copyfile(os.devnull, name)
    put(name, value)
    os.chmod(name, 0o644); os.chown(name, os.getuid(), os.getgid())
    if os.path.exists('A1'): os.chmod(name, stat.S_IMODE(os.stat('A1').st_mode))
    os.rename(name, 'A1')
    os.chmod('A1', 0o600)
    same((text('A1'), os.listdir('.')), (value, ['A1']))
"#,
    );
}
