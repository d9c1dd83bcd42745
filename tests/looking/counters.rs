//! The file `metrics`: strict Prometheus text, which counts what happens and stays small.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::prometheus::Metrics;
use super::support::home::is_root;
use super::*;

pub fn metrics(live: &Live) -> Metrics {
    Metrics::parse(&live.read("metrics"))
}

const LIVE: [(&str, &str); 1] = [("mount", "live")];

#[test]
fn reads_writes_and_errors_are_counted() {
    let _alone = alone();
    let live = Live::start();
    let before = metrics(&live);
    assert_eq!(before.get("up", &[]), 1.0);
    assert_eq!(before.get("secret_opens_total", &LIVE), 0.0);
    assert_eq!(before.get("restarts_total", &[]), 0.0);
    live.sh("echo a > secrets/A; for i in 1 2 3; do cat secrets/A; done; cat bundle/secrets.json");
    live.try_sh("cat secrets/NONE; mkdir folder; echo '{' > bundle/secrets.json");
    let after = metrics(&live);
    assert_eq!(after.get("secret_opens_total", &LIVE), 4.0);
    assert_eq!(after.get("writes_total", &[]), 1.0);
    assert_eq!(after.get("failed_writes_total", &[]), 1.0);
    assert_eq!(after.get("write_failing", &[]), 1.0);
    assert_eq!(after.get("secrets", &[]), 1.0);
    let error = |errno| after.find("request_errors_total", &[LIVE[0], ("errno", errno)]);
    assert!(error("ENOENT") >= Some(1.0));
    assert_eq!(error("EPERM"), Some(1.0));
    assert_eq!(error("EINVAL"), Some(1.0));
    // By it the kernel looks a name up again; no program sees it.
    assert_eq!(error("ESTALE"), None);
    assert!(after.get("requests_total", &LIVE) > before.get("requests_total", &LIVE));
    for process in ["keeper", "server"] {
        assert!(after.get("resident_memory_bytes", &[("process", process)]) > 1e6);
    }
    let file = [("provider", "file")];
    assert_eq!(after.get("provider_up", &file), 1.0);
    assert_eq!(after.get("provider_keys", &file), 1.0);
    let age = after.get("provider_last_success_timestamp_seconds", &file);
    assert!(age >= after.get("start_time_seconds", &[]) - 2.0);
    assert_eq!(after.find("provider_up", &[("provider", "aws")]), None);
    let hits = after.get("cache_hits_total", &[("cache", "secrets")]);
    let misses = after.get("cache_misses_total", &[("cache", "secrets")]);
    assert!(hits + misses >= 3.0);
    let mode = fs::metadata(live.path("metrics")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o400);
}

#[test]
fn what_changes_no_value_has_the_kernel_ask_for_no_other_name_again() {
    let _alone = alone();
    let live = Live::start();
    live.sh("echo a > secrets/A");
    let file = live.path("bundle/.A.swp");
    let scratch = || {
        fs::write(&file, "x").unwrap();
        fs::remove_file(&file).unwrap();
    };
    let look = || drop(live.read("status"));
    let read = || drop(live.read("secrets/A"));
    let requests = |work: &dyn Fn()| {
        let requests = || metrics(&live).get("requests_total", &LIVE);
        let before = requests();
        (0..50).for_each(|_| work());
        requests() - before
    };
    let changes_nothing: [&dyn Fn(); 2] = [&scratch, &look];
    for other in changes_nothing {
        let apart = requests(other) + requests(&read);
        let together = requests(&|| {
            other();
            read();
        });
        // Two more for each read would be the look-ups of the folder and the name.
        assert!(together < apart + 50.0, "{apart} {together}");
    }
}

#[test]
fn another_server_begins_its_counters_at_zero_and_the_restart_is_counted() {
    let _alone = alone();
    let live = Live::start();
    live.sh("echo a > secrets/A; cat secrets/A");
    for number in [1.0, 2.0] {
        let server = live.server_pid();
        signal("KILL", server);
        wait_until("another server answers", || live.server_pid() != server);
        let now = metrics(&live);
        assert_eq!(now.get("restarts_total", &[]), number);
        assert_eq!(now.get("secret_opens_total", &LIVE), 0.0);
        live.sh("cat secrets/A");
        assert_eq!(metrics(&live).get("secret_opens_total", &LIVE), 1.0);
    }
    assert_eq!(live.json("status")["restarts"][1]["number"], 2);
}

#[test]
fn ten_thousand_secrets_make_the_file_no_longer_and_no_name_is_in_it() {
    let store: Vec<String> = (0..10_000)
        .map(|n| format!("\"MANY_{n}\": \"hidden{n}\""))
        .collect();
    let store = format!("{{{}}}", store.join(","));
    let settings = "encrypt: false\n";
    let many = Live::start_with(Setup {
        files: vec![
            (".simpletuner/secrets.json", store.as_str()),
            (".simpletuner/live.yaml", settings),
        ],
        ..Setup::default()
    });
    wait_until("the secrets are known", || {
        metrics(&many).get("secrets", &[]) == 10_000.0
    });
    many.sh("for n in {1..300}; do read -r x < secrets/MANY_$n || [ $x ]; done");
    let text = many.read("metrics");
    assert!(text.len() < 16 * 1024, "{} bytes", text.len());
    assert!(!text.contains("MANY_") && !text.contains("hidden"));
    assert_eq!(metrics(&many).get("secret_opens_total", &LIVE), 300.0);
}

#[test]
fn calls_of_a_program_are_counted_by_how_long_they_took_and_whether_they_failed() {
    let home = super::support::scratch_home();
    let fails = home.path().join("fails");
    let program = home.path().join("secrets.sh");
    let text = format!(
        "#!/bin/sh\n[ ! -e {} ] || exit 3\necho '{{\"IN_IT\": \"hidden\"}}'\n",
        fails.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir(home.path().join(".simpletuner")).unwrap();
    let settings = format!(
        "command: [{{name: 'it', run: ['{}']}}]\nttl: 1\nmax_stale: 0\n",
        program.display()
    );
    fs::write(home.path().join(".simpletuner/live.yaml"), settings).unwrap();
    let live = Live::start_in(home, Setup::default());
    let it = [("provider", "it")];
    let calls = |live: &Live| metrics(live).get("provider_call_duration_seconds_count", &it);
    assert_eq!(calls(&live), 0.0);
    assert_eq!(metrics(&live).find("provider_up", &it), None);
    assert_eq!(live.sh("cat secrets/IN_IT"), "hidden");
    assert!(calls(&live) >= 1.0);
    assert_eq!(metrics(&live).get("provider_failed_calls_total", &it), 0.0);
    assert_eq!(metrics(&live).get("provider_up", &it), 1.0);
    assert!(metrics(&live).get("provider_call_duration_seconds_sum", &it) > 0.0);
    fs::write(&fails, "").unwrap();
    wait_until("a read fails", || {
        !live.try_sh("cat secrets/IN_IT").status.success()
    });
    assert!(metrics(&live).get("provider_failed_calls_total", &it) >= 1.0);
    assert_eq!(metrics(&live).get("provider_up", &it), 0.0);
    assert!(!live.read("metrics").contains("hidden"));
}

#[test]
fn opens_of_views_are_counted_by_the_kernel_and_by_the_server() {
    if !is_root() {
        return;
    }
    for without in [&[][..], &[("SIMPLETUNER_LIVE_NO_FANOTIFY", "1")]] {
        let live = Live::start_with(Setup {
            env: without.to_vec(),
            ..Setup::default()
        });
        live.sh("echo a > secrets/A; echo '{\"secrets\": [\"A\"]}' > views/v.json");
        let views = [("mount", "views")];
        let file: PathBuf = live.home(".simpletuner/views/v/A");
        for _ in 0..3 {
            assert_eq!(fs::read_to_string(&file).unwrap(), "a");
        }
        // The kernel may report equal opens as one.
        let least = if without.is_empty() { 1.0 } else { 3.0 };
        wait_until("the opens are counted", || {
            let opens = metrics(&live).get("secret_opens_total", &views);
            assert!(opens <= 3.0, "{opens}");
            opens >= least
        });
        assert_eq!(metrics(&live).get("views", &[]), 1.0);
        assert_eq!(metrics(&live).get("views_mounted", &[]), 1.0);
        assert!(metrics(&live).get("requests_total", &views) > 0.0);
    }
}

#[test]
fn a_trail_that_cannot_be_written_is_behind_until_it_can() {
    let _alone = alone();
    let live = Live::start();
    let reads = [("trail", "reads")];
    live.sh("echo a > secrets/A; cat secrets/A");
    let database = live.home(".simpletuner/live-audit.db");
    wait_until("the first row is there", || database.exists());
    let lock = "import os, sqlite3, sys\nc = sqlite3.connect(os.environ['HOME'] + '/.simpletuner/live-audit.db')\n\
        c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()";
    let mut locker = live.command("python3");
    locker.args(["-c", lock]);
    let mut locker = super::support::home::ready(&mut locker);
    live.sh("cat secrets/A");
    wait_until("the rows are late", || {
        let now = metrics(&live);
        now.get("audit_lag_seconds", &reads) > 0.5 && now.get("audit_waiting_rows", &reads) > 0.0
    });
    drop(locker.stdin.take());
    locker.wait().unwrap();
    wait_until("the rows are written", || {
        let now = metrics(&live);
        now.get("audit_lag_seconds", &reads) == 0.0 && now.get("audit_waiting_rows", &reads) == 0.0
    });
    assert_eq!(metrics(&live).get("audit_lost_rows_total", &reads), 0.0);
}
