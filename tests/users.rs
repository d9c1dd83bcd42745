//! Which users have access to a mount, and how an ordinary user mounts. The tests need root, to act as other users.

mod support;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::home::{
    BINARY, CommandOutput, Home, is_mounted, is_root, mounts_below, ran, ready, signal,
    wait_for_the_end,
};

/// A home of the user `nobody`, with a copy of the program that they can reach.
struct Nobody {
    home: Home,
    mounted: Cell<bool>,
}

impl Nobody {
    fn new() -> Self {
        let mode = fs::metadata("/dev/fuse").unwrap().permissions().mode();
        assert_eq!(
            mode & 0o666,
            0o666,
            "/dev/fuse is closed to ordinary users; scripts/test opens it, as udev does"
        );
        let home = Home::new();
        fs::set_permissions(home.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // Another process makes the copy: a child that a test forks meanwhile would hold it open for writing (ETXTBSY).
        home.sh(&format!(
            "install -m 755 '{BINARY}' program && install -d -m 755 -o nobody -g nogroup home"
        ));
        Self {
            home,
            mounted: Cell::new(false),
        }
    }

    fn command(&self, user: &str, program: &Path) -> Command {
        let mut command = self.home.command("setpriv");
        command
            .args(["--reuid", user, "--regid", "nogroup", "--clear-groups"])
            .arg(program)
            .env("HOME", self.home.path("home"));
        command
    }

    fn run(&self, args: &[&str]) -> CommandOutput {
        if args[0] == "mount" {
            self.mounted.set(true);
        }
        ran(self
            .command("nobody", &self.home.path("program"))
            .args(args))
    }

    fn live(&self, path: &str) -> PathBuf {
        self.home.path("home/.simpletuner/live").join(path)
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        if self.mounted.get() {
            drop(
                self.command("nobody", &self.home.path("program"))
                    .arg("umount")
                    .output(),
            );
        }
    }
}

#[test]
fn an_ordinary_users_mount_is_for_that_user_alone() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    nobody.run(&["mount"]).done();
    let secret = nobody.live("secrets/K").display().to_string();
    let as_user = |user: &str, script: &str| {
        ran(nobody.command(user, Path::new("bash")).args(["-c", script]))
    };
    as_user("nobody", &format!("echo mine > {secret}")).done();
    assert_eq!(as_user("nobody", &format!("cat {secret}")).done(), "mine\n");
    for script in [
        format!("cat {secret}"),
        format!("ls {}", nobody.live("").display()),
    ] {
        as_user("daemon", &script).denied();
    }
    let root = fs::read(&secret).unwrap_err();
    assert_eq!(root.raw_os_error(), Some(libc::EACCES));
    assert_eq!(nobody.run(&["get", "K"]).done(), "mine");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = nobody.live("").display().to_string();
    let mut mounts = mounts
        .lines()
        .filter(|line| line.contains(place.trim_end_matches('/')));
    assert!(mounts.all(|line| line.contains(" - fuse.simpletuner-live simpletuner-live ")));

    let again = nobody.run(&["mount"]);
    assert!(again.err.contains("mounted already"), "{}", again.err);
    again.done();
    nobody.run(&["umount"]).done();
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn root_who_unmounts_learns_which_processes_of_the_user_still_use_the_mount() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    nobody.run(&["mount"]).done();
    let place = nobody.live("secrets").display().to_string();
    let mut there = nobody.command("nobody", Path::new("bash"));
    there.args(["-c", &format!("cd {place}; echo; exec cat")]);
    let mut there = ready(&mut there);
    let mut umount = nobody.home.command(BINARY);
    let said = ran(umount.arg("umount").arg(nobody.live("")));
    drop(there.stdin.take());
    there.wait().unwrap();
    let named = format!("process {} (cat) has its working folder in", there.id());
    assert!(said.err.contains(&named), "{}", said.err);
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn a_dead_mount_of_an_ordinary_user_is_cleaned_up() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    let kill = || {
        nobody.run(&["mount"]).done();
        let status = nobody.run(&["status", "--json"]).done();
        let status: Value = serde_json::from_str(&status).unwrap();
        let server = status["server_pid"].as_u64().unwrap() as u32;
        signal("KILL", server);
        wait_for_the_end(server);
        assert!(is_mounted(&nobody.live("")));
    };
    kill();
    kill();
    assert_eq!(mounts_below(nobody.home.0.path()).len(), 1);
    nobody.run(&["umount"]).done();
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn with_allow_root_root_has_access_and_other_users_have_none() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    // In a mount namespace whose /etc/fuse.conf allows it.
    let script = r#"
        echo user_allow_other > fuse.conf; touch /etc/fuse.conf; mount --bind fuse.conf /etc/fuse.conf
        as() { HOME=$PWD/home setpriv --reuid $1 --regid nogroup --clear-groups "${@:2}"; }
        live=$PWD/home/.simpletuner/live
        as nobody $PWD/program mount --allow-root 2> said || { cat said >&2; exit 1; }
        trap "as nobody $PWD/program umount" EXIT
        printf v > $live/secrets/K
        [ "$(as nobody cat $live/secrets/K)" = v ]
        [ "$(jq .allow_root $live/status)" = true ]
        chmod 755 home/.simpletuner
        for script in "cat $live/secrets/K" "ls $live" "ls $live/secrets" "echo w > $live/secrets/K"; do
            if as daemon bash -c "$script" 2> said; then exit 2; fi
            grep -q 'Permission denied' said
        done
        [ "$(cat $live/secrets/K)" = v ]"#;
    let mut unshare = nobody.home.command("unshare");
    ran(unshare.args(["--mount", "bash", "-ec", script])).done();
}

#[test]
fn allow_root_without_permission_names_the_missing_line_of_fuse_conf() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let mounted = nobody.run(&["mount", "--allow-root"]);
    if conf.lines().any(|line| line.trim() == "user_allow_other") {
        mounted.done();
    } else {
        let said = mounted.failed();
        assert!(said.contains("user_allow_other"), "{said}");
        assert!(said.contains("/etc/fuse.conf"), "{said}");
        assert!(!is_mounted(&nobody.live("")));
    }
}

#[test]
fn without_fusermount3_the_error_names_the_package_to_install() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    // This machine has fusermount3, so the variable names a missing one.
    let missing = nobody.home.path("fusermount3");
    let mut mount = nobody.command("nobody", &nobody.home.path("program"));
    let said = ran(mount.arg("mount").env("FUSERMOUNT_PATH", missing)).failed();
    assert!(said.contains("apt install fuse3"), "{said}");
    assert!(!is_mounted(&nobody.live("")));
}

#[test]
fn an_ordinary_user_with_a_bare_path_mounts_and_unmounts() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    let setpriv = nobody.home.sh("command -v setpriv");
    for command in ["mount", "umount"] {
        let bare = nobody.command("nobody", &nobody.home.path("program"));
        // With a bare PATH, `setpriv` itself needs its full path.
        let mut direct = Command::new(setpriv.trim());
        direct
            .args(bare.get_args())
            .arg(command)
            .current_dir(nobody.home.path("home"))
            .env_clear()
            .env("PATH", nobody.home.path("home"))
            .env("HOME", nobody.home.path("home"))
            .stdin(Stdio::null());
        ran(&mut direct).done();
    }
    assert!(!is_mounted(&nobody.live("")));
}

/// The kernel shows an ordinary user's daemon no descriptor of such a program: the close that follows a write is taken for
/// the last one.
#[test]
fn a_program_that_cannot_be_looked_into_learns_at_close_whether_its_write_failed() {
    if !is_root() {
        return;
    }
    let home = Nobody::new();
    home.home.sh(
        "install -d -o nobody -g nogroup home/.simpletuner && echo 'max_keys: 1' > home/.simpletuner/live.yaml \
         && chown nobody:nogroup home/.simpletuner/live.yaml",
    );
    home.run(&["mount"]).done();
    home.run(&["set", "A", "first"]).done();
    assert_eq!(home.run(&["get", "A"]).done(), "first");
    let said = home.run(&["set", "B", "second"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("max_keys"), "{}", said.err);
    let program = format!(
        "import ctypes, os\n\
         ctypes.CDLL(None).prctl(4, 0)\n\
         os.chdir('{}')\n\
         for turn in range(50):\n\
         \x20   with open('A', 'w') as file: file.write(f'{{turn}}')\n\
         \x20   assert open('A').read() == f'{{turn}}'\n\
         # There is room for one of two.\n\
         os.unlink('A')\n\
         files = [os.open(name, os.O_WRONLY | os.O_CREAT) for name in 'CD']\n\
         for file in files: os.write(file, b'third')\n\
         os.close(files[0])\n\
         try: os.close(files[1])\n\
         except OSError as error: print(error.errno)\n",
        home.live("secrets").display()
    );
    let mut python = home.command("nobody", Path::new("python3"));
    // The first python3 in the path may lie in a folder of root alone.
    python.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let printed = ran(python.args(["-c", &program])).done();
    assert_eq!(printed, format!("{}\n", libc::ENOSPC));
}

#[test]
fn an_ordinary_users_writer_that_is_not_dumpable_and_is_killed_changes_nothing() {
    if !is_root() {
        return;
    }
    let nobody = Nobody::new();
    nobody.run(&["mount"]).done();
    let program = r"
import ctypes, os, sys
def write(end):
    if (child := os.fork()) == 0:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(f, b'of one that ' + end.__name__.encode())
        end()
    os.waitpid(child, 0)
    print(open(sys.argv[1]).read())
def exits(): os._exit(0)
def is_killed(): os.kill(os.getpid(), 9)
write(exits)
write(is_killed)
";
    let mut python = nobody.command("nobody", Path::new("python3"));
    python.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let printed = ran(python.args(["-c", program]).arg(nobody.live("secrets/K"))).done();
    assert_eq!(printed, "of one that exits\nof one that exits\n");
}
