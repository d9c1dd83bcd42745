//! A container reads a view beside writers of every kind, and beside servers that are killed. SIMPLETUNER_LIVE_TORTURE=SECONDS
//! lengthens it.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::podman::Podman;
use super::*;

/// The distribution's, which the container finds below `/usr` as well.
const PYTHON: &str = "/usr/bin/python3";
const TORTURE: &str = include_str!("../whole_values/torture.py");

#[test]
fn a_container_reads_whole_values_beside_writers_of_every_kind_and_killed_servers() {
    let home = scratch_home();
    let daemon = Daemon::at(home.path().join("plugin.sock"));
    let Some(podman) = Podman::new("simpletuner-live", &daemon.socket) else {
        return;
    };
    if !Path::new(PYTHON).exists() {
        return eprintln!("skipped: there is no {PYTHON}");
    }
    let live = &daemon.live;
    for number in 0..4 {
        // As long as it says, in the form that torture.py checks.
        daemon.set(&format!("v{number}"), &format!("a0000017{number:08}a"));
    }
    let secrets = ["--secret", "v?", "--secret", "st*"];
    for (view, user) in [("own", "0"), ("container", "1000")] {
        let create = ["view", "create", view, "--user", user];
        daemon.cli(&[&create[..], &secrets].concat()).done();
    }
    let place = |view: &str| daemon.cli(&["view", "path", view]).done().trim().to_owned();
    let script = live.home("torture.py");
    fs::write(&script, TORTURE).unwrap();
    let seconds = std::env::var("SIMPLETUNER_LIVE_TORTURE");
    let seconds: f64 = seconds.map_or(5.0, |seconds| seconds.parse().unwrap());

    // The host's Python, in a container of another user.
    let mut options: Vec<String> = ["run", "--rm", "--network=none", "--read-only"]
        .map(String::from)
        .into();
    options.extend(["--user".into(), "1000".into()]);
    let mut bind = |from: &str, to: &str| {
        options.extend(["-v".into(), format!("{from}:{to}:ro")]);
    };
    for folder in ["/usr", "/lib", "/lib64"] {
        if Path::new(folder).exists() {
            bind(folder, folder);
        }
    }
    bind(&place("container"), "/run/secrets");
    fs::copy(&script, podman.path("root/torture.py")).unwrap();
    options.extend(["--rootfs".into(), podman.path("root").display().to_string()]);
    options.extend([PYTHON, "/torture.py", "/run/secrets"].map(String::from));
    options.push(seconds.to_string());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();

    let mut writers = live.command("python3");
    writers.arg(&script).arg(live.path("secrets"));
    writers.arg(seconds.to_string()).arg(place("own"));
    writers.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = AtomicBool::new(false);
    let (read, written, kills) = std::thread::scope(|scope| {
        let written = scope
            .spawn(|| live.output_within(Duration::from_secs_f64(seconds + 120.0), &mut writers));
        let kills = scope.spawn(|| {
            let (begun, mut kills) = (Instant::now(), 0);
            while begun.elapsed().as_secs_f64() < seconds && !ended.load(Ordering::Relaxed) {
                daemon.kill("server_pid");
                kills += 1;
                std::thread::sleep(Duration::from_millis(500));
            }
            kills
        });
        let read = podman.run(&options);
        let written = written.join();
        ended.store(true, Ordering::Relaxed);
        (read, written.unwrap(), kills.join().unwrap())
    });
    let said = String::from_utf8_lossy(&written.stderr);
    assert!(written.status.success(), "{said}");
    for (who, report) in [
        ("the container", read.done().into_bytes()),
        ("the host", written.stdout),
    ] {
        let report: Value = serde_json::from_slice(&report).unwrap();
        let what = format!("{who}, {kills} kills: {report:#}");
        assert_eq!(report["violations"], 0, "{what}");
        assert_eq!(report["crashed"], json!([]), "{what}");
        assert_eq!(report["left"], json!([]), "{what}");
        assert!(
            report["operations"].as_object().unwrap().len() >= 8,
            "{what}"
        );
        println!("{what}");
    }
}
