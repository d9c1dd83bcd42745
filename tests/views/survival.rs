//! Readers of views do not notice when a process of the mount is killed or replaced.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Reads a view, which a writer changes meanwhile, until `disturb` returns. No read may fail or give anything but a whole value.
fn readers_notice_nothing(live: &Live, disturb: impl FnOnce()) {
    let path = view(live, "v/A");
    let (ended, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let value = fs::read_to_string(&path).unwrap();
                    assert!(value.len() == 2000 && value.bytes().all(|b| b == value.as_bytes()[0]));
                    assert_eq!(names(&view(live, "v")), ["A"]);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            for letter in (b'a'..=b'z').cycle() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                fs::write(live.path("secrets/A"), [letter; 2000]).unwrap();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(disturb));
        ended.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(reads.load(Ordering::Relaxed) > 10);
}

fn started(env: &[(&'static str, &'static str)]) -> Live {
    let live = start_with(Setup {
        env: env.to_vec(),
        ..Setup::default()
    });
    write(&live, "secrets/A", &"x".repeat(2000));
    define(&live, "v", r#"{"secrets": ["A"]}"#);
    live
}

#[test]
fn readers_of_a_view_do_not_notice_killed_servers_and_keepers() {
    for env in MODES {
        let live = started(env);
        readers_notice_nothing(&live, || {
            for part in ["server_pid", "server_pid", "keeper_pid", "server_pid"] {
                kill_part(&live, part);
            }
        });
        let status = live.json("status");
        assert_eq!(status["views"]["count"], 1);
        assert_eq!(status["restarts"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn readers_of_a_view_do_not_notice_an_upgrade_and_a_reload() {
    let live = started(MODES[0]);
    let mut open = File::open(view(&live, "v/A")).unwrap();
    readers_notice_nothing(&live, || {
        cli(&live, &["upgrade"]).done();
        cli(&live, &["reload"]).done();
    });
    let mut value = String::new();
    open.read_to_string(&mut value).unwrap();
    assert_eq!(value.len(), 2000);
    // Both processes are the new ones, and have the mount.
    kill_part(&live, "keeper_pid");
    kill_part(&live, "server_pid");
    write(&live, "secrets/A", "after");
    assert_eq!(read(&live, "v/A"), "after");
}

#[test]
fn views_that_begin_while_a_reload_prepares_are_there_after_it() {
    let live = start();
    write(&live, "secrets/A", "a");
    for round in 0..5 {
        let mut reload = live.cli().arg("reload").spawn().unwrap();
        let name = format!("v{round}");
        define(&live, &name, r#"{"secrets": ["A"]}"#);
        assert!(reload.wait().unwrap().success());
        assert_eq!(read(&live, &format!("{name}/A")), "a");
        live.sh(&format!("rm views/{name}.json"));
        wait_until("the mount has ended", || {
            live.json("status")["views"]["mount_point"].is_null()
        });
    }
}

#[test]
fn an_unread_open_file_of_a_view_is_read_from_the_next_server_whatever_has_changed() {
    let live = started(MODES[0]);
    let mut open = File::open(view(&live, "v/A")).unwrap();
    write(&live, "secrets/A", "other");
    define(&live, "v", r#"{"secrets": ["A"], "user": "1001"}"#);
    kill_part(&live, "server_pid");
    kill_part(&live, "server_pid");
    let mut value = String::new();
    open.read_to_string(&mut value).unwrap();
    assert_eq!(value, "x".repeat(2000));
}
