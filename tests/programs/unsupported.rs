//! Operations that the mount does not support, and those that it supports in part.

use super::support::alone;
use super::*;

/// Each line of the program's output is an operation and its errno's name.
const ODD_OPERATIONS: &str = r#"
import ctypes, errno, fcntl, os, select, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def call(what, operation):
    try: result = operation(); print(what, "ok")
    except OSError as e: print(what, errno.errorcode[e.errno])
def renameat2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags): raise OSError(ctypes.get_errno(), "")
def on(path, flags, operation):
    fd = os.open(path, flags)
    try: return operation(fd)
    finally: os.close(fd)
k = "secrets/K"
call("mkdir", lambda: os.mkdir("secrets/D"))
call("mkdir-root", lambda: os.mkdir("D"))
call("mkdir-scratch", lambda: os.mkdir("secrets/.D"))
call("rmdir", lambda: os.rmdir("secrets"))
call("rmdir-file", lambda: os.rmdir(k))
call("mknod", lambda: os.mknod("secrets/N", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
call("mkfifo", lambda: os.mkfifo("secrets/F"))
call("mksock", lambda: socket.socket(socket.AF_UNIX).bind("secrets/S"))
call("link", lambda: os.link(k, "secrets/L"))
call("symlink", lambda: os.symlink("K", "secrets/L"))
call("readlink", lambda: os.readlink(k))
call("chmod", lambda: os.chmod(k, 0o644))
call("chmod-same", lambda: os.chmod(k, 0o600))
call("chown", lambda: os.chown(k, 12345, 12345))
call("setxattr", lambda: os.setxattr(k, "user.a", b"v"))
call("removexattr", lambda: os.removexattr(k, "user.simpletuner.provider"))
call("across", lambda: os.rename(k, "bundle/K"))
call("exchange", lambda: renameat2(k, "secrets/L2", 2))
call("whiteout", lambda: renameat2(k, "secrets/L3", 4))
call("noreplace", lambda: renameat2(k, "secrets/L2", 1))
call("rename-folder", lambda: os.rename("secrets", "secrets2"))
call("rename-control", lambda: os.rename("status", "other"))
call("unlink-control", lambda: os.unlink("status"))
call("unlink-folder", lambda: os.unlink("secrets"))
call("tmpfile", lambda: os.close(os.open("secrets", os.O_TMPFILE | os.O_RDWR, 0o600)))
call("open-folder", lambda: os.close(os.open("secrets", os.O_WRONLY)))
call("create-root", lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY)))
call("create-providers", lambda: os.close(os.open("providers/new", os.O_CREAT | os.O_WRONLY)))
call("write-status", lambda: os.close(os.open("status", os.O_WRONLY | (os.O_TRUNC))))
call("excl", lambda: os.close(os.open(k, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
call("file-as-folder", lambda: os.stat(k + "/x"))
call("long-name", lambda: os.stat("secrets/" + "x" * 256))
call("direct", lambda: on(k, os.O_RDONLY | os.O_DIRECT, lambda fd: os.read(fd, 4096)))
call("past-end", lambda: on(k, os.O_RDONLY, lambda fd: os.lseek(fd, 1 << 40, 0) and os.read(fd, 10)))
call("seek-data", lambda: on(k, os.O_RDONLY, lambda fd: os.lseek(fd, 0, os.SEEK_DATA)))
call("flock", lambda: on(k, os.O_RDONLY, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)))
call("lockf", lambda: on(k, os.O_RDWR, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX)))
call("poll", lambda: on(k, os.O_RDONLY, lambda fd: [select.poll().register(fd)]))
call("select", lambda: on(k, os.O_RDONLY, lambda fd: select.select([fd], [], [], 0)))
call("epoll", lambda: on(k, os.O_RDONLY, lambda fd: select.epoll().register(fd)))
call("ioctl", lambda: on(k, os.O_RDONLY, lambda fd: fcntl.ioctl(fd, 0x80086601, b"\0" * 8)))
call("read-writer", lambda: on(k, os.O_WRONLY, lambda fd: os.read(fd, 1)))
call("write-reader", lambda: on(k, os.O_RDONLY, lambda fd: os.write(fd, b"x")))
call("write-far", lambda: on(k, os.O_RDWR, lambda fd: os.pwrite(fd, b"x", 1 << 40)))
call("truncate-far", lambda: os.truncate(k, 1 << 40))
call("statvfs", lambda: os.statvfs("."))
call("sync", lambda: on(k, os.O_RDONLY, os.fsync))
call("sync-folder", lambda: on("secrets", os.O_RDONLY, os.fsync))
"#;

#[test]
fn unsupported_operations_get_an_errno_and_the_mount_keeps_working() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "kept");
    live.write("secrets/L2", "other");
    let printed = live.python(ODD_OPERATIONS);
    let wanted = "mkdir EPERM\nmkdir-root EPERM\nmkdir-scratch EPERM\nrmdir EPERM\nrmdir-file ENOTDIR\nmknod EPERM\nmkfifo EPERM\n\
        mksock EPERM\nlink EPERM\nsymlink EPERM\nreadlink EINVAL\nchmod EPERM\nchmod-same ok\nchown EPERM\n\
        setxattr ENOTSUP\nremovexattr ENOTSUP\nacross EXDEV\nexchange EINVAL\nwhiteout EINVAL\nnoreplace EEXIST\n\
        rename-folder EPERM\nrename-control EINVAL\nunlink-control EPERM\nunlink-folder EISDIR\ntmpfile ENOTSUP\n\
        open-folder EISDIR\ncreate-root EPERM\ncreate-providers EPERM\nwrite-status EACCES\nexcl EEXIST\n\
        file-as-folder ENOTDIR\nlong-name ENAMETOOLONG\ndirect ok\npast-end ok\nseek-data ok\nflock ENOLCK\nlockf ENOLCK\npoll ok\n\
        select ok\nepoll ok\nioctl ENOTTY\nread-writer EBADF\nwrite-reader EBADF\nwrite-far EFBIG\n\
        truncate-far EFBIG\nstatvfs ok\nsync ok\nsync-folder ok\n";
    let differing: Vec<_> = printed
        .lines()
        .filter(|line| !wanted.lines().any(|wanted| wanted == *line))
        .collect();
    assert_eq!(differing, [""; 0]);
    assert_eq!(printed.lines().count(), wanted.lines().count());
    live.try_sh("fallocate -l 100 secrets/K; fallocate -p -o 0 -l 1 secrets/K; flock secrets/K true; mount --bind /nowhere secrets; cat secrets; echo x > secrets; ls secrets/K/");
    assert_eq!(live.read("secrets/K"), "kept");
    live.write("secrets/K", "and it still answers");
    assert_eq!(live.read("secrets/K"), "and it still answers");
    assert_eq!(live.sh("ls secrets"), "K\nL2\n");
}

#[test]
fn a_name_that_is_too_long_is_enametoolong() {
    let live = Live::start();
    live.write("secrets/K", "kept");
    python(
        &live,
        "secrets",
        r#"
valid, wrong, long = 'x' * 255, '!' * 255, 'x' * 256
for folder in ('', '../config/', '../hardware/', '../providers/', '../'):
    for name in (long, '!' * 256, '.' + long, b'\xff' * 256, 'x' * 1000):
        name = os.fsencode(folder) + os.fsencode(name)
        for operation in (
            lambda: os.stat(name),
            lambda: os.open(name, os.O_RDONLY),
            lambda: os.open(name, os.O_WRONLY | os.O_CREAT, 0o600),
            lambda: os.mknod(name),
            lambda: os.mkdir(name),
            lambda: os.rmdir(name),
            lambda: os.unlink(name),
            lambda: os.symlink('K', name),
            lambda: os.link('K', name),
            lambda: os.rename('K', name),
            lambda: os.rename(name, 'K'),
        ):
            refused(errno.ENAMETOOLONG, operation)
same(open('K').read(), 'kept')
put(valid, 'long'); same(open(valid).read(), 'long'); os.rename(valid, 'y' * 255); os.unlink('y' * 255)
refused(errno.ENOENT, os.stat, wrong)
refused(errno.EINVAL, os.open, wrong, os.O_WRONLY | os.O_CREAT)
same(os.statvfs('.').f_namemax, 255)
"#,
    );
}
