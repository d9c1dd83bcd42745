//! The disk, the log, the service manager or the user database never answers: reads of cached values, `status` and `umount`
//! still work. `docs/architecture.md` has the table of all waits ("Waits"). The tests need root.

#[path = "../support/mod.rs"]
mod support;

mod hanging_fs;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hanging_fs::HangingFs;
use support::home::{
    BINARY, CommandOutput, Home, has_ended, is_mounted, is_root, ran, signal, wait_for_the_end,
};
use support::{Setup, alone, daemon_command, wait_until};

/// `umount` takes five seconds at most where the machine is not busy. What hangs here does so for longer.
const UMOUNT_LIMIT: Duration = Duration::from_secs(60);
/// A test that needs longer has hung itself.
const LIMIT: Duration = Duration::from_secs(100);

/// A home whose `.simpletuner` lies on a filesystem that hangs on demand: settings, store, keys, databases and log.
struct HangingHome {
    // First, because the home's folders cannot be used while it hangs.
    hanging_fs: HangingFs,
    home: Home,
}

impl HangingHome {
    fn new() -> Self {
        let home = Home::new();
        home.sh("mkdir -m 700 disk .simpletuner mnt");
        let hanging_fs = HangingFs::mount(&home.path("disk"), &home.path(".simpletuner"));
        Self { hanging_fs, home }
    }

    /// The keeper and the server of the mount at `place`.
    fn pids(&self, place: &str) -> [u32; 2] {
        let status = fs::read(self.home.path(place).join("status")).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        ["keeper_pid", "server_pid"].map(|field| status[field].as_u64().unwrap() as u32)
    }

    #[track_caller]
    fn umount(&self, place: &str) -> CommandOutput {
        let begun = Instant::now();
        let ran = self.home.run(&["umount", place]);
        assert!(begun.elapsed() < UMOUNT_LIMIT, "{:?}", begun.elapsed());
        ran
    }
}

/// What was logged, from behind the filesystem.
fn log(home: &Home) -> String {
    fs::read_to_string(home.path("disk/live.log")).unwrap()
}

#[test]
fn a_disk_that_hangs_under_everything_delays_neither_reads_nor_status_nor_umount() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let here = HangingHome::new();
    let home = &here.home;
    home.run(&["mount", "mnt"]).done();
    home.sh("printf v > mnt/secrets/A; cat mnt/secrets/A; ls -l mnt/* > /dev/null");
    let pids = here.pids("mnt");
    here.hanging_fs.hang();
    let mut writer = home.command("bash");
    writer.args(["-c", "printf w > mnt/secrets/B"]);
    let mut writer = writer.spawn().unwrap();
    // What cannot be written is logged, too, and more than once.
    let looked = home.sh("for i in {1..40}; do
            printf x > mnt/secrets/odd!$i
            [ \"$(cat mnt/secrets/A)\" = v ] || echo other
            cat mnt/status mnt/metrics mnt/events mnt/providers/file > /dev/null; ls mnt/secrets
         done 2> said | sort -u");
    assert_eq!(looked, "A\n");
    assert_eq!(here.pids("mnt"), pids);
    assert!(writer.try_wait().unwrap().is_none(), "the writer waits");
    let said = here.umount("mnt");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(!is_mounted(&home.path("mnt")));
    wait_until("the writer ends with the mount", || {
        writer.try_wait().unwrap().is_some()
    });
    here.hanging_fs.resume();
    pids.into_iter().for_each(wait_for_the_end);
    for number in [1, 40] {
        assert!(
            log(home).contains(&format!("odd!{number}")),
            "{}",
            log(home)
        );
    }
    // A write that was closed is finished even so.
    home.run(&["mount", "mnt"]).done();
    assert_eq!(home.sh("cat mnt/secrets/B"), "w");
    home.run(&["umount", "mnt"]).done();
}

#[test]
fn umount_ends_a_mount_whose_own_folder_lies_on_a_disk_that_hangs() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let here = HangingHome::new();
    let home = &here.home;
    home.run(&["mount"]).done();
    home.sh("printf v > .simpletuner/live/secrets/A");
    let folder = File::open(home.live("secrets")).unwrap();
    let open = || {
        use rustix::fs::{Mode, OFlags, openat};
        openat(&folder, "A", OFlags::RDONLY, Mode::empty()).map(drop)
    };
    open().unwrap();
    let pids = here.pids(".simpletuner/live");
    here.hanging_fs.hang();
    let said = here.umount(".simpletuner/live").failed();
    assert!(said.contains("does not answer"), "{said}");
    // Nobody reads through it any more, although its path is still there.
    assert_eq!(open(), Err(rustix::io::Errno::NOTCONN));
    here.hanging_fs.resume();
    pids.into_iter().for_each(wait_for_the_end);
    assert_eq!(
        home.sh("cat .simpletuner/live/secrets/A || echo gone"),
        "gone\n"
    );
    home.run(&["mount"]).done();
    assert_eq!(home.sh("cat .simpletuner/live/secrets/A"), "v");
    home.run(&["umount"]).done();
}

/// A daemon in the foreground that mounts at `mnt`, once it answers.
fn foreground(home: &Home, command: &mut Command) -> Child {
    let mut daemon = command.spawn().unwrap();
    wait_until("the mount answers", || {
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
        fs::read(home.path("mnt/status")).is_ok()
    });
    daemon
}

fn daemon_at(home: &Home) -> Command {
    let place = home.path("mnt").display().to_string();
    let setup = Setup {
        args: vec![&place],
        ..Setup::default()
    };
    daemon_command(home.path("").as_path(), &setup)
}

#[track_caller]
fn end(mut daemon: Child) {
    signal("TERM", daemon.id());
    wait_until("the daemon ends", || daemon.try_wait().unwrap().is_some());
}

#[test]
fn doctor_ends_and_checks_the_rest_while_the_disk_hangs() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let here = HangingHome::new();
    here.hanging_fs.hang();
    let ran = here.home.run(&["doctor", "--json"]);
    here.hanging_fs.resume();
    assert_eq!(ran.code, 1, "{}", ran.err);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&ran.out).unwrap();
    let of = |id: &str| checks.iter().find(|check| check["id"] == id).unwrap();
    assert_eq!(of("kernel")["status"], "ok");
    let said = of("settings")["findings"][0]["message"].as_str().unwrap();
    assert!(said.contains("does not answer"), "{said}");
}

#[test]
fn a_server_that_cannot_start_because_the_disk_hangs_is_replaced_until_it_can() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let here = HangingHome::new();
    let home = &here.home;
    home.write("disk/live.yaml", "timeout: {server: 1}\n");
    let daemon = foreground(home, &mut daemon_at(home));
    home.sh("printf v > mnt/secrets/A");
    let [_, server] = here.pids("mnt");
    here.hanging_fs.hang();
    signal("KILL", server);
    let mut reader = home.command("cat");
    let reader = reader.arg("mnt/secrets/A").stdout(Stdio::piped());
    let reader = reader.spawn().unwrap();
    wait_until("two servers were given up that wait for the disk", || {
        let log = fs::read_to_string(home.path("daemon.log")).unwrap();
        log.matches("ended: it gave no sign of life").count() > 1
    });
    here.hanging_fs.resume();
    assert_eq!(reader.wait_with_output().unwrap().stdout, b"v");
    end(daemon);
}

#[test]
fn a_log_that_nobody_reads_delays_nobody() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    home.sh("mkdir -m 700 mnt");
    let (unread, stderr) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let room = rustix::pipe::fcntl_setpipe_size(&stderr, 4096).unwrap();
    // A test that waits for the log would hang for good.
    let reader = unread.try_clone().unwrap();
    let (done, is_done) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hangs = is_done.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
        while hangs && rustix::io::read(&reader, &mut [0; 4096]).is_ok_and(|count| count > 0) {}
        hangs
    });
    let daemon = foreground(&home, daemon_at(&home).stderr(stderr));
    let said = home.sh("printf v > mnt/secrets/A
         for i in {1..200}; do printf x > mnt/secrets/odd!$i || cat mnt/secrets/A; done 2> said");
    drop(done);
    assert_eq!(said, "v".repeat(200));
    let waiting = rustix::io::ioctl_fionread(unread.as_fd()).unwrap() as usize;
    assert!(waiting + 200 > room, "{waiting} bytes wait in the pipe");
    end(daemon);
    assert!(!watchdog.join().unwrap(), "it waited for the log");
}

#[test]
fn a_service_manager_that_does_not_read_delays_nobody() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    home.sh("mkdir -m 700 mnt");
    let socket = home.path("notify");
    let _manager = UnixDatagram::bind(&socket).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"X=1", &socket).is_ok() {}
    let daemon = foreground(&home, daemon_at(&home).env("NOTIFY_SOCKET", &socket));
    home.sh("printf v > mnt/secrets/A; cat mnt/secrets/A");
    end(daemon);
}

/// A library that makes the user database hang for good.
const HANGING_USER_DATABASE: &str = r#"
#include <pwd.h>
#include <unistd.h>
int getpwuid_r(uid_t uid, struct passwd *pwd, char *buf, size_t len, struct passwd **result) {
    for (;;) pause();
}
"#;

#[test]
fn a_user_database_that_hangs_does_not_delay_a_message_that_names_a_user() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    home.write("d.c", HANGING_USER_DATABASE);
    home.sh(&format!(
        "chmod 755 . && cc -shared -fPIC -o d.so d.c && install -m 755 '{BINARY}' program && mkdir -m 755 mnt other"
    ));
    home.run(&["mount", "mnt"]).done();
    let mut stranger = home.command("setpriv");
    stranger
        .args(["--reuid", "nobody", "--regid", "daemon", "--clear-groups"])
        .arg(home.path("program"))
        .args(["umount", "mnt"])
        .env("HOME", home.path("other"))
        .env("LD_PRELOAD", home.path("d.so"));
    let said = ran(&mut stranger).failed();
    assert!(said.contains("belongs to another user (0)"), "{said}");
    home.run(&["umount", "mnt"]).done();
}

#[test]
fn a_server_that_may_open_no_more_files_goes_on_when_it_may() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = Home::new();
    home.sh("mkdir -m 700 mnt");
    let daemon = foreground(&home, &mut daemon_at(&home));
    home.sh("printf v > mnt/secrets/A");
    let server = home.server(&home.path("mnt"));
    let limit = |files: &str| {
        let pid = server.to_string();
        home.sh(&format!("prlimit --pid {pid} --nofile={files}:4096"));
    };
    limit("3");
    let said = home.sh(
        "cat mnt/secrets/A; cat mnt/status > /dev/null && printf w > mnt/secrets/B || echo refused",
    );
    assert!(said.starts_with('v'), "{said}");
    limit("1024");
    home.sh("printf w > mnt/secrets/B; [ $(cat mnt/secrets/B) = w ]");
    assert!(!has_ended(server));
    end(daemon);
}

/// A home on a disk that hangs, with a mount at `mnt` that has this limit in seconds, and the secret A.
fn hanging_with_limit(limit: u32) -> HangingHome {
    let here = HangingHome::new();
    let settings = format!("timeout: {{total: {limit}}}\n");
    here.home.write("disk/live.yaml", &settings);
    here.home.run(&["mount", "mnt"]).done();
    here.home.sh("printf v > mnt/secrets/A");
    here.hanging_fs.hang();
    here
}

#[test]
fn opening_to_write_to_a_disk_that_hangs_ends_in_time_or_by_a_signal() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let here = hanging_with_limit(2);
    for way in [
        "> mnt/secrets/A",
        ">> mnt/secrets/A",
        "> mnt/bundle/secrets.json",
    ] {
        let said = ran(here
            .home
            .command("bash")
            .args(["-c", &format!("echo w {way}")]));
        assert!(said.err.contains("Connection timed out"), "{}", said.err);
        assert_ne!(said.code, 0);
    }
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(here.home.path("mnt/status")).unwrap()).unwrap();
    let reason = status["failed_write"]["reason"].as_str().unwrap();
    assert!(reason.contains("has not answered for 2 s"), "{reason}");
    here.hanging_fs.resume();
    wait_until("the disk is used again", || {
        let written = here
            .home
            .command("bash")
            .args(["-c", "echo w > mnt/secrets/A"])
            .status();
        written.unwrap().success()
    });
    here.umount("mnt").done();

    let here = hanging_with_limit(100_000);
    for name in ["INT", "TERM", "HUP"] {
        let mut writer = here.home.command("bash");
        writer.args(["-c", "echo w > mnt/secrets/A"]);
        let mut writer = writer.spawn().unwrap();
        let wchan = format!("/proc/{}/wchan", writer.id());
        wait_until("the writer waits for the open", || {
            fs::read_to_string(&wchan)
                .is_ok_and(|at| at.contains("fuse") || at == "request_wait_answer")
        });
        signal(name, writer.id());
        assert!(!writer.wait().unwrap().success());
    }
    here.hanging_fs.resume();
    assert_eq!(here.home.sh("cat mnt/secrets/A"), "v");
    here.umount("mnt").done();
}
