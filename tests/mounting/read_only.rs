//! Homes that cannot be written, and a device or a program that cannot be used, as in containers.

use super::*;

use support::home::has_ended;
use support::user::LIVE;

#[test]
fn a_home_that_is_read_only_mounts_with_one_warning_and_writes_are_erofs() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let said = in_namespace(
        &home,
        r#"mkdir h; mount -t tmpfs -o mode=700 none h; export HOME=$PWD/h
        printf v | "$BIN" set K && mkdir -m 700 h/.simpletuner/live && mount -o remount,ro h || exit 9
        for how in background foreground; do
            case $how in
                background) "$BIN" mount > out 2> err || exit 8;;
                foreground) "$BIN" mount --foreground 2> err & until [ -e h/.simpletuner/live/status ]; do sleep 0.02; done;;
            esac
            echo "$how: $(cat h/.simpletuner/live/secrets/K) $("$BIN" get K) $(grep -c warning err)"
            head -1 err >&2
            python3 - <<'PY'
import errno, os
try:
    f = os.open(os.environ["HOME"] + "/.simpletuner/live/secrets/NEW", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(f, b"x")
    os.close(f)
    print("written")
except OSError as e:
    print(errno.errorcode[e.errno])
PY
            "$BIN" set K x 2>&1; "$BIN" status > status || exit 7; "$BIN" reload --force 2>/dev/null || exit 6
            grep -c 'error' err
            "$BIN" umount || exit 5; wait
        done; ls -A h/.simpletuner"#,
    );
    let out = said.out;
    assert_eq!(said.code, 0, "{out}{}", said.err);
    for how in ["background", "foreground"] {
        assert!(
            out.contains(&format!("{how}: v v 1\nEROFS\n")),
            "{out}{}",
            said.err
        );
    }
    assert!(
        said.err
            .contains("is on a read-only filesystem: secrets in it can be read and not changed"),
        "{}",
        said.err
    );
    assert!(out.contains("Read-only file system"), "{out}");
    assert!(!out.contains("live.log"), "{out}");
}

#[test]
fn without_a_folder_on_a_read_only_home_the_error_says_where_to_mount_and_there_it_works() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let said = in_namespace(
        &home,
        r#"mkdir h; mount -t tmpfs -o mode=700,ro none h; export HOME=$PWD/h HF_TOKEN=from_the_environment
        "$BIN" mount 2>&1 && exit 9; "$BIN" mount "$PWD/there" > /dev/null 2> err || exit 8; cat err >&2
        cat there/secrets/HF_TOKEN; "$BIN" umount "$PWD/there""#,
    );
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(
        said.out.contains("is on a read-only filesystem, so"),
        "{}",
        said.out
    );
    assert!(said.out.contains("choose another folder"), "{}", said.out);
    assert!(said.out.ends_with("from_the_environment"), "{}", said.out);
    assert!(said.err.contains("read-only filesystem"), "{}", said.err);
}

#[test]
fn a_device_that_is_missing_or_may_not_be_opened_is_named_with_what_to_do() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    for (how, words) in [
        (
            "mkdir dev; mount -t tmpfs none dev; mknod -m 666 dev/null c 1 3; mkdir dev/shm; mount --rbind /dev/shm dev/shm; mount --rbind dev /dev",
            "load the kernel module (`modprobe fuse`), or give the container the device",
        ),
        (
            "mount --bind /dev/fuse /dev/fuse; mount -o remount,bind,nodev /dev/fuse",
            "/dev/fuse may not be opened: Permission denied (os error 13); give the container the device",
        ),
    ] {
        let failed = in_namespace(&home, &format!("{how}; exec \"$BIN\" mount 2>&1"));
        assert_eq!(failed.code, 1, "{}", failed.out);
        assert!(sentence(&failed.out).contains(words), "{}", failed.out);
    }
    let said = in_namespace(
        &home,
        "exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin \"$BIN\" mount 2>&1",
    )
    .out;
    assert!(sentence(&said).contains("--cap-add SYS_ADMIN"), "{said}");
}

#[test]
fn folders_of_path_that_may_not_be_looked_into_are_passed_over() {
    if !is_root() {
        return;
    }
    let user = User::new("nobody");
    user.folder_beside("closed", 0o700, 0);
    user.write(
        ".simpletuner/live.yaml",
        "command: [{name: own, run: [own-tool]}]\n",
    );
    user.sh("mkdir bin");
    user.write(
        "bin/own-tool",
        "#!/bin/sh\necho '{\"FROM_TOOL\": \"tool\"}'\n",
    );
    user.sh("chmod 755 bin/own-tool");
    let path = format!(
        "{}:/nonexistent:{}:/usr/bin:/bin",
        user.scratch.path("closed").display(),
        user.path("bin").display()
    );
    user.mounts.borrow_mut().push(user.path(LIVE));
    let run = |args: &[&str], path: &str| {
        let mut command = user.command("env");
        let program = user.scratch.path("program");
        ran(command.arg(format!("PATH={path}")).arg(program).args(args))
    };
    run(&["mount"], &path).done();
    assert_eq!(run(&["get", "FROM_TOOL"], &path).done(), "tool");
    let pids = user.pids(&user.live(""));
    run(&["umount"], &path).done();
    support::wait_until("it has ended", || pids.into_iter().all(has_ended));
    // fusermount3 is looked for in its usual folders as well.
    let closed = user.scratch.path("closed").display().to_string();
    user.write(".simpletuner/live.yaml", "");
    run(&["mount"], &closed).done();
    run(&["umount"], &closed).done();
    assert!(!is_mounted_below(&user.path(LIVE)));
}

#[test]
fn commands_about_a_mount_need_neither_a_home_nor_right_settings() {
    for user in users() {
        user.run(&["mount"]).done();
        user.set_secret(&user.live(""));
        user.write(".simpletuner/live.yaml", "aws_secret: x\n");
        for args in [
            &["status"][..],
            &["get", "K"],
            &["ls"],
            &["cache", "stats"],
            &["hardware", "ls"],
        ] {
            user.run(args).done();
        }
        let failed = user.run(&["reload", "--force"]).failed();
        assert!(sentence(&failed).contains("aws_secret"), "{failed}");
        // No HOME, one that may not be looked into, another user's, and one that is not UTF-8.
        let homes: [Option<&[u8]>; 5] = [
            None,
            Some(b""),
            Some(b"/root"),
            Some(b"/home/nobody/else"),
            Some(b"/h\xff"),
        ];
        let place = user.live("");
        let place = place.trim_end_matches('/');
        for home in homes {
            let run = |command: &str| {
                let mut command = user.cli(&[command, place]);
                match home {
                    None => command.env_remove("HOME"),
                    Some(home) => command.env(
                        "HOME",
                        std::os::unix::ffi::OsStrExt::from_bytes(home) as &std::ffi::OsStr,
                    ),
                };
                ran(&mut command)
            };
            run("status").done();
            assert!(
                sentence(&run("reload").failed()).contains("aws_secret"),
                "{home:?}"
            );
            run("umount").done();
            assert!(
                sentence(&run("umount").failed()).contains("nothing is mounted"),
                "{home:?}"
            );
            user.sh("rm .simpletuner/live.yaml");
            user.run(&["mount"]).done();
            user.write(".simpletuner/live.yaml", "aws_secret: x\n");
        }
        user.run(&["umount"]).done();
    }
}
