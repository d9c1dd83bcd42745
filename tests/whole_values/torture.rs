//! Readers and writers of every kind at once, beside servers that are killed. SIMPLETUNER_LIVE_TORTURE=SECONDS lengthens it.

use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use super::*;

/// Whether there was such a process.
fn kill(pid: u64) -> bool {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL).is_ok()
}

fn torture(mode: Mode) {
    let seconds = std::env::var("SIMPLETUNER_LIVE_TORTURE");
    let seconds: f64 = seconds.map_or(5.0, |seconds| seconds.parse().unwrap());
    let timeout = Duration::from_secs_f64(seconds + 60.0);
    for with_kills in [false, true] {
        let live = mounted(mode);
        live.write("views/torture.json", r#"{"secrets": ["v?", "st*"]}"#);
        let script = live.home("torture.py");
        fs::write(&script, include_str!("torture.py")).unwrap();
        let mut python = live.command("python3");
        python.arg(script).arg(live.path("secrets"));
        python.arg((seconds / 2.0).to_string());
        python.arg(live.home(".simpletuner/views/torture"));
        python.process_group(0);
        let ended = AtomicBool::new(false);
        let (output, kills) = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut kills = 0;
                // What is under way at the end can then end, however slow this machine is.
                let begun = Instant::now();
                let lasts = Duration::from_secs_f64(seconds / 2.0);
                while with_kills && begun.elapsed() < lasts && !ended.load(Ordering::Relaxed) {
                    // Nobody answers any more once a torture that hangs was given up.
                    let status = fs::read(live.path("status")).unwrap_or_default();
                    let status: serde_json::Value =
                        serde_json::from_slice(&status).unwrap_or_default();
                    if let Some(server) = status["server_pid"].as_u64() {
                        kills += u32::from(kill(server));
                    }
                    std::thread::sleep(Duration::from_millis(300));
                }
                kills
            });
            let output = std::panic::catch_unwind(AssertUnwindSafe(|| {
                live.output_within(timeout, &mut python)
            }));
            ended.store(true, Ordering::Relaxed);
            let kills = killer.join().unwrap();
            (
                output.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                kills,
            )
        });
        assert!(output.status.success(), "{}", output.status);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let what = format!("{mode:?}, {kills} kills: {report:#}");
        assert_eq!(report["violations"], 0, "{what}");
        assert_eq!(report["crashed"], serde_json::json!([]), "{what}");
        assert_eq!(report["left"], serde_json::json!([]), "{what}");
        assert!(
            report["operations"].as_object().unwrap().len() >= 29,
            "{what}"
        );
        println!("{what}");
    }
}

#[test]
fn no_reader_sees_a_part_a_mix_or_an_old_value_among_readers_and_writers_of_every_kind() {
    torture(Mode::NamesHold);
}

#[test]
fn no_reader_sees_a_part_a_mix_or_an_old_value_where_names_have_no_validity() {
    torture(Mode::NoEpoch);
}
