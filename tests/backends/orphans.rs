//! Servers and mounts that these tests start end with the test process, even if it is killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::servers::child;
use crate::support::home::{has_ended, signal};
use crate::support::{Live, wait_until};

const INSIDE: &str = "SIMPLETUNER_LIVE_TEST_INSIDE";

#[test]
fn servers_and_mounts_end_with_a_test_process_that_is_killed() {
    if std::env::var_os(INSIDE).is_some() {
        // On a thread that ends before the process does, as a test's does.
        let started = std::thread::spawn(|| {
            let mut server = Command::new("tail");
            server.args(["-f", "/dev/null"]).stdout(Stdio::null());
            (child::spawn(server).unwrap(), Live::start())
        });
        let (server, live) = started.join().unwrap();
        let (keeper, mount_point) = (live.keeper_pid(), live.home.path().display());
        eprintln!("started {} {keeper} {mount_point}", server.id());
        loop {
            std::thread::park();
        }
    }
    let mut inside = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "orphans::servers_and_mounts_end_with_a_test_process_that_is_killed",
        ])
        .arg("--nocapture")
        .env(INSIDE, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(inside.stderr.take().unwrap());
    let started = said
        .lines()
        .find_map(|line| Some(line.unwrap().strip_prefix("started ")?.to_owned()))
        .unwrap();
    let mut words = started.split(' ');
    let mut pid = || words.next().unwrap().parse::<u32>().unwrap();
    let [server, keeper] = [pid(), pid()];
    let home = words.next().unwrap();
    assert!(!has_ended(server) && !has_ended(keeper));
    signal("KILL", inside.id());
    inside.wait().unwrap();
    wait_until("the server ends", || has_ended(server));
    wait_until("the mount ends", || has_ended(keeper));
    wait_until("its home is gone", || !std::path::Path::new(home).exists());
}
