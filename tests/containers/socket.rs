//! The socket itself: what clients see that no engine is, and while servers change.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::*;

/// Sends a request; the status of the answer, and its content.
pub fn ask(socket: &Path, path: &str, content: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = content.len();
    // At once, because the answer may come before the whole request.
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {length}\r\n\r\n{content}"
    );
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, content) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), content.to_owned())
}

fn started() -> (tempfile::TempDir, Daemon) {
    let home = scratch_home();
    let daemon = Daemon::at(home.path().join("plugins/plugin.sock"));
    (home, daemon)
}

#[test]
fn the_socket_is_the_owners_and_comes_and_goes_with_the_setting_and_the_mount() {
    let (_home, daemon) = started();
    let Daemon { live, socket } = &daemon;
    assert_eq!(
        fs::metadata(socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let status = live.json("status");
    assert_eq!(status["docker"]["socket"], socket.display().to_string());
    assert!(status["docker"]["problem"].is_null());
    let settings = live.home(".simpletuner/live.yaml");
    let with_docker = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, "docker: false\n").unwrap();
    daemon.cli(&["reload"]).done();
    assert!(!socket.exists());
    assert!(live.json("status")["docker"].is_null());
    fs::write(&settings, with_docker).unwrap();
    daemon.cli(&["reload"]).done();
    assert_eq!(ask(socket, "/Plugin.Activate", "").0, 200);
    let socket = socket.clone();
    drop(daemon);
    assert!(!socket.exists());
}

#[test]
fn a_client_that_connects_while_no_server_is_there_waits_and_is_answered() {
    let (_home, daemon) = started();
    daemon.set("A", "a");
    let create = r#"{"Name":"v","Opts":{"secrets":"A"}}"#;
    assert_eq!(ask(&daemon.socket, "/VolumeDriver.Create", create).0, 200);
    for _ in 0..5 {
        let server = daemon.live.server_pid();
        signal("KILL", server);
        support::home::wait_for_the_end(server);
        let (status, said) = ask(
            &daemon.socket,
            "/VolumeDriver.Mount",
            r#"{"Name":"v","ID":"1"}"#,
        );
        assert!(status == 200 && said.contains("/views/v"), "{said}");
    }
    daemon.kill("keeper_pid");
    daemon.kill("server_pid");
    assert_eq!(ask(&daemon.socket, "/VolumeDriver.List", "").0, 200);
}

#[test]
fn no_request_fails_while_an_upgrade_replaces_the_server() {
    let (_home, daemon) = started();
    daemon.set("A", "a");
    let create = r#"{"Name":"v","Opts":{"secrets":"A"}}"#;
    assert_eq!(ask(&daemon.socket, "/VolumeDriver.Create", create).0, 200);
    let (ended, asked) = Default::default();
    asks_until(&ended, &asked, &daemon);
}

/// Asks without a pause while upgrades happen.
fn asks_until(
    ended: &std::sync::atomic::AtomicBool,
    asked: &std::sync::atomic::AtomicUsize,
    daemon: &Daemon,
) {
    use std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                let (status, said) = ask(&daemon.socket, "/VolumeDriver.Get", r#"{"Name":"v"}"#);
                assert!(status == 200, "{said}");
                asked.fetch_add(1, Relaxed);
            }
        });
        for _ in 0..2 {
            let said = daemon.cli(&["upgrade"]);
            if said.code != 0 {
                ended.store(true, Relaxed);
            }
            said.done();
        }
        ended.store(true, Relaxed);
    });
    assert!(asked.load(Relaxed) > 10);
}

#[test]
fn a_client_that_sends_nothing_or_too_much_delays_neither_the_mount_nor_for_long_another_client() {
    let (_home, daemon) = started();
    daemon.set("A", "a");
    let silent: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(&daemon.socket).unwrap())
        .collect();
    assert_eq!(daemon.live.read("secrets/A"), "a");
    assert_eq!(ask(&daemon.socket, "/Plugin.Activate", "").0, 200);
    drop(silent);
    let large = format!(r#"{{"Name":"{}"}}"#, "a".repeat(2 * 1024 * 1024));
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    let head = format!(
        "POST /VolumeDriver.Get HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        large.len()
    );
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(large.as_bytes()));
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(sent.is_err() || answer.contains("413"), "{answer}");
    let mut head = UnixStream::connect(&daemon.socket).unwrap();
    let _ = head.write_all(&vec![b'a'; 1024 * 1024]);
    let _ = head.read_to_end(&mut Vec::new());
    assert_eq!(ask(&daemon.socket, "/Plugin.Activate", "{}").0, 200);
    assert_eq!(
        ask(&daemon.socket, "/VolumeDriver.Create", "nonsense").0,
        500
    );
}

#[test]
fn a_socket_that_is_taken_is_said_and_the_mount_goes_on() {
    let (_home, daemon) = started();
    let other = Daemon::at(daemon.socket.clone());
    let problem = &other.live.json("status")["docker"]["problem"];
    let problem = problem.as_str().unwrap().to_owned();
    assert!(problem.contains("another program listens at"), "{problem}");
    other.set("A", "a");
    drop(other);
    assert_eq!(ask(&daemon.socket, "/Plugin.Activate", "").0, 200);
}
