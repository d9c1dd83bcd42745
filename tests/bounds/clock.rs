//! The wall clock is set forward and back, and the machine sleeps. Neither makes a value expire too early or too late.
//!
//! A library before libc (LD_PRELOAD) gives the daemon clocks that are ahead of the machine's by what a file says. Sleep is
//! where CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use super::servers::vault::VaultServer;
use super::support::home::{ran, signal, wait_for_the_end};
use super::support::user::{LIVE, User};
use super::support::wait_until;
use super::users;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile int64_t *ahead;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCKS");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(0, 16, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) ahead = page;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && ahead && clock == CLOCK_REALTIME) now->tv_sec += ahead[0];
    if (!failed && ahead && clock == CLOCK_BOOTTIME) now->tv_sec += ahead[1];
    return failed;
}
"#;

const DAY: i64 = 24 * 3600;

/// How many seconds the daemon's clocks are ahead of the machine's.
struct Clocks<'a>(&'a User);

impl<'a> Clocks<'a> {
    fn new(user: &'a User) -> Self {
        let (source, library) = (
            user.scratch.path("clocks.c"),
            user.scratch.path("clocks.so"),
        );
        fs::write(&source, LIBRARY).unwrap();
        let mut cc = Command::new("cc");
        ran(cc
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source))
        .done();
        fs::set_permissions(&library, PermissionsExt::from_mode(0o755)).unwrap();
        let clocks = Self(user);
        fs::write(user.scratch.path("clocks"), [0; 16]).unwrap();
        fs::set_permissions(
            user.scratch.path("clocks"),
            PermissionsExt::from_mode(0o644),
        )
        .unwrap();
        clocks
    }

    /// In place: the daemon has mapped the file.
    fn set(&self, wall: i64, slept: i64) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options()
            .write(true)
            .open(self.0.scratch.path("clocks"))
            .unwrap();
        file.write_all_at(&[wall.to_ne_bytes(), slept.to_ne_bytes()].concat(), 0)
            .unwrap();
    }

    fn mount(&self) {
        let mut mount = self.0.cli(&["mount"]);
        mount.env("LD_PRELOAD", self.0.scratch.path("clocks.so"));
        ran(mount.env("CLOCKS", self.0.scratch.path("clocks"))).done();
    }
}

#[test]
fn a_clock_that_is_set_changes_no_time_to_live_and_sleep_counts_for_it() {
    for user in users() {
        let server = VaultServer::start();
        let put = |value: &str| server.put_v2("", "secret", "app", &json!({"V": value}));
        put("old");
        let token = server.token("", &["secret/data/app"]);
        user.sh(&format!(
            "umask 077; printf 'vault_url: {}\nvault_path: app\nvault_token: {token}\nmax_stale: 7200\n' \
             > .simpletuner/live.yaml",
            server.url()
        ));
        let clocks = Clocks::new(&user);
        clocks.mount();
        let live = LIVE;
        let read = || user.sh(&format!("cat {live}/secrets/V"));
        assert_eq!(read(), "old");
        put("new");
        server.take_calls();

        for wall in [10 * DAY, -10 * DAY, 0] {
            clocks.set(wall, 0);
            assert_eq!(read(), "old", "{wall}");
            // The next server continues with the times of the one before.
            let [_, server] = user.pids(live);
            signal("KILL", server);
            wait_for_the_end(server);
            assert_eq!(read(), "old", "{wall}");
            // An edit of the file shows, whatever the time.
            let value = format!("w{wall}");
            user.sh(&format!(
                "cd .simpletuner; printf '{{\"F\": \"{value}\"}}' > new && mv new secrets.json"
            ));
            wait_until("the edit shows", || {
                user.sh(&format!("cat {live}/secrets/F || true")) == value
            });
        }
        assert_eq!(server.take_calls(), Vec::<String>::new());
        let started = user.sh(&format!("jq -r .started_at {live}/status"));
        clocks.set(40 * DAY, 0);
        user.sh(&format!("printf x > {live}/secrets/X"));
        let at = user.sh(&format!("tail -n 1 {live}/events | jq -r .at"));
        assert!(at[..10] > started[..10], "shown by the wall clock: {at}");

        // Five minutes of sleep, the time to live. The kernel's own clock, by which it keeps the name, stands still.
        clocks.set(0, 301);
        wait_until("the value is fetched again", || read() == "new");
        // An outage that lasts longer than `max_stale`, asleep.
        server.seal(true);
        clocks.set(0, 301 + 7300);
        wait_until("the old value is given up", || {
            let read = user.sh(&format!("cat {live}/secrets/V 2>&1 || true"));
            read.contains("Input/output error")
        });
        server.seal(false);
        user.run(&["umount"]).done();
    }
}
