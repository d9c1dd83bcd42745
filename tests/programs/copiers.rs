//! Programs that copy files: they verify what they wrote, set times and modes, unpack archives, and keep the old file until the
//! new one is complete.

use super::*;

#[test]
fn a_copier_that_compares_sizes_and_sums_is_content_with_what_it_wrote() {
    let live = Live::start();
    python(
        &live,
        "secrets",
        r#"
import hashlib
def copy(value, name, beside):
    """As rclone does: into the file or into one beside it, times, then a look, and what is wrong is removed."""
    target = f'{name}.{os.getpid()}.partial' if beside else name
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    code = libc.fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(len(value)))  # FALLOC_FL_KEEP_SIZE; may be refused
    write(fd, value); os.close(fd)
    os.utime(target, (1577934245, 1577934245))
    if beside: os.rename(target, name)
    found = os.stat(name)
    same((found.st_size, int(found.st_mtime)), (len(value), 1577934245), f'{name}, beside: {beside}')
    with open(name, 'rb') as f: same(hashlib.md5(f.read()).digest(), hashlib.md5(value).digest())
for value in (b'rotated_new\n', b'no newline', b'a\nb\n', b'', b'\n'):
    for beside in (False, True):
        put('TOK', 'precious_old\n'); copy(value, 'TOK', beside)
        copy(value, 'NEW', beside); os.unlink('NEW')
same(os.listdir('.'), ['TOK'])
"#,
    );
}

#[test]
fn tar_with_extended_attributes_restores_a_folder() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "echo a > A; echo b > B
         for options in '--xattrs' '' '--overwrite' '--unlink-first'; do
            tar $options -cf ~/backup.tar . && tar $options -xf ~/backup.tar || echo \"tar $options: rc $?\"
            echo \"$(ls -A | paste -sd ' ') $(cat A B | paste -sd ' ')\"
            rm -f A B; tar $options -xf ~/backup.tar || echo \"tar $options, into nothing: rc $?\"
         done 2>&1 | sort | uniq -c | sed 's/^ *//'",
    );
    assert_eq!(said, "4 A B a b\n");
}

#[test]
fn copies_of_whole_folders_go_in_and_out() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "umask 077; mkdir ~/in ~/out; for k in A B C; do printf %s\\\\n $k > ~/in/$k; done
         cp -a ~/in/. . && cp -a . ~/out && diff -r ~/in ~/out && echo same
         cp --sparse=always ~/in/A D && cmp ~/in/A D; cp --reflink=auto A E && cmp A E; cp -l A F 2> /dev/null || echo 'no links'
         cp -b --suffix=.bak ~/in/B A && cat A A.bak; cp -n ~/in/C A; cat A; cp -u ~/in/C A; cp -f --remove-destination ~/in/C A && cat A
         mv ~/in/B ~/in/C . && ls -A ~/in . && mv A B C D E A.bak ~/out/ && ls -A",
    );
    assert_eq!(
        said.replace("F\n", ""),
        format!(
            "same\nno links\nB\nA\nB\nC\n.:\nA\nA.bak\nB\nC\nD\nE\n\n{}/in:\nA\n",
            live.home.path().display()
        )
    );
}

#[test]
fn install_with_the_mode_that_files_have_makes_and_replaces() {
    let live = Live::start();
    let said = bash(
        &live,
        "secrets",
        "echo one > ~/t; install -m 600 ~/t I && cat I; echo two > ~/t; install -m 600 -p ~/t I && cat I
         echo three > ~/t; install -C -m 600 ~/t I && cat I; install -b -m 600 ~/t I; ls -A; rm -f I I~",
    );
    assert_eq!(said, "one\ntwo\nthree\nI\n");
}
