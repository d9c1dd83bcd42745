//! A rotation that is killed at any point leaves every value readable, and the next one finishes it.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Instant;

use super::support::home::{BINARY, Home};
use super::{NEXT, as_simpletuner, home, retired, set, text};

/// The calls that change what is on the disk, and how many of each are passed over between two kills.
const CALLS: [(&str, usize); 6] = [
    ("rename", 1),
    ("renameat2", 1),
    ("unlink", 2),
    ("fsync", 1),
    ("write", 6),
    ("openat", 80),
];

#[test]
fn killed_at_each_system_call_it_leaves_every_value_and_the_next_one_finishes() {
    let original = home();
    let key = text(&original, super::KEY);
    let (mut killed, mut interrupted) = (0, 0);
    for (call, stride) in CALLS {
        for step in (1..).step_by(stride) {
            let home = Home::new();
            home.sh(&format!(
                "cp -a '{}' .",
                original.path(".simpletuner").display()
            ));
            let done = home
                .killed_at(call, step)
                .args(["key", "rotate", "--yes"])
                .output()
                .unwrap();
            let at = format!("killed at {call} {step}");
            if done.status.success() {
                break;
            }
            assert_eq!(done.status.signal(), Some(libc::SIGKILL), "{at}: {done:?}");
            killed += 1;
            let read = home.run(&["get", "A"]);
            assert_eq!(read.out, "two", "{at}: {}", read.err);
            let is_interrupted = home.path(NEXT).exists();
            if is_interrupted {
                interrupted += 1;
                let said = read.err;
                assert!(
                    said.contains("`simpletuner-live key rotate` finishes it"),
                    "{at}: {said}"
                );
                // Writers go on, too.
                set(&home, "C", "gamma");
                home.run(&["undo", "A", "--yes"]).done();
            }
            home.run(&["key", "rotate", "--yes"]).done();
            assert!(!home.path(NEXT).exists(), "{at}");
            let values = as_simpletuner(&home);
            let (a, c) = match is_interrupted {
                true => ("one", Some("gamma")),
                false => ("two", None),
            };
            assert_eq!((&*values["A"], &*values["B"]), (a, "beta"), "{at}");
            assert_eq!(values.get("C").map(String::as_str), c, "{at}");
            let old = retired(&home);
            let texts: Vec<_> = old
                .iter()
                .map(|path| std::fs::read_to_string(path).unwrap())
                .collect();
            assert_eq!(texts.iter().filter(|text| **text == key).count(), 1, "{at}");
            let left = home.sh("ls -A ~/.simpletuner | grep '^[.]' || true");
            assert_eq!(left, "", "{at}");
        }
    }
    assert!(killed > 12 && interrupted >= 4, "{killed} {interrupted}");
}

/// `SIMPLETUNER_LIVE_ROTATION_KILLS` is how often; beside readers and writers of a mount.
#[test]
fn killed_at_random_moments_under_load_it_loses_no_value() {
    let kills = std::env::var("SIMPLETUNER_LIVE_ROTATION_KILLS");
    let kills: u64 = kills.ok().map_or(12, |kills| kills.parse().unwrap());
    let home = home();
    home.run(&["mount"]).done();
    super::load::begin(&home, &["~/.simpletuner/live"]);
    // The kills are spread over the time that a rotation takes here.
    let begun = Instant::now();
    home.run(&["key", "rotate", "--yes"]).done();
    let whole = begun.elapsed();
    let (mut killed, mut interrupted) = (0, 0);
    for round in 0..kills {
        let mut rotation = home.command(BINARY);
        rotation.args(["key", "rotate", "--yes"]);
        rotation.stdout(Stdio::null()).stderr(Stdio::null());
        let mut rotation = rotation.spawn().unwrap();
        std::thread::sleep(whole * (round * 37 % 110) as u32 / 100);
        let _ = rotation.kill();
        killed += u64::from(!rotation.wait().unwrap().success());
        interrupted += u64::from(home.path(NEXT).exists());
        for (name, value) in [("A", "two"), ("B", "beta")] {
            let read = home.run(&["get", "--no-mount", name]);
            assert_eq!(read.out, value, "round {round}: {}", read.err);
        }
    }
    println!("{killed} of {kills} were killed, {interrupted} with both keys in place");
    home.run(&["key", "rotate", "--yes"]).done();
    let last = super::load::end(&home);
    let values = as_simpletuner(&home);
    for (name, value) in &last {
        assert_eq!(&values[name], value, "{name}");
    }
    assert_eq!(values["A"], "two");
    assert!(!home.path(NEXT).exists());
    home.run(&["umount"]).done();
}
