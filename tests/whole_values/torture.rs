//! Readers and writers of every kind at once, beside servers that are killed. SIMPLETUNER_LIVE_TORTURE=SECONDS lengthens it.

use std::time::Duration;

use super::*;

fn torture(mode: Mode) {
    let seconds = std::env::var("SIMPLETUNER_LIVE_TORTURE");
    let seconds: f64 = seconds.map_or(5.0, |seconds| seconds.parse().unwrap());
    for with_kills in [false, true] {
        let live = mounted(mode);
        let script = live.home("torture.py");
        fs::write(&script, include_str!("torture.py")).unwrap();
        let mut python = live.command("python3");
        python.arg(script).arg(live.path("secrets"));
        python.arg((seconds / 2.0).to_string());
        let torture = python.stdout(Stdio::piped()).spawn().unwrap();
        let ended = AtomicBool::new(false);
        let (output, kills) = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                let mut kills = 0;
                while with_kills && !ended.load(Ordering::Relaxed) {
                    support::home::signal("KILL", live.server_pid());
                    kills += 1;
                    std::thread::sleep(Duration::from_millis(300));
                }
                kills
            });
            let output = torture.wait_with_output().unwrap();
            ended.store(true, Ordering::Relaxed);
            (output, killer.join().unwrap())
        });
        assert!(output.status.success(), "{}", output.status);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let what = format!("{mode:?}, {kills} kills: {told:#}");
        assert_eq!(told["violations"], 0, "{what}");
        assert_eq!(told["crashed"], serde_json::json!([]), "{what}");
        assert_eq!(told["left"], serde_json::json!([]), "{what}");
        assert!(
            told["operations"].as_object().unwrap().len() >= 21,
            "{what}"
        );
        println!("{what}");
    }
}

#[test]
fn nobody_sees_a_part_a_mix_or_an_old_value_among_readers_and_writers_of_every_kind() {
    torture(Mode::NamesHold);
}

#[test]
fn the_same_holds_where_names_have_no_validity() {
    torture(Mode::NoEpoch);
}
