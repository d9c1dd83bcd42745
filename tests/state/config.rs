//! The folder `config/` of the mount, and SimpleTuner's database behind it.

use super::*;
use simpletuner_live::simpletuner_db::ProviderConfigs;

/// A provider's configuration as SimpleTuner loads it.
fn as_simpletuner_sees(live: &Live, provider: &str) -> Value {
    let program = format!("print(json.dumps(load(jobs(), '{provider}')))");
    serde_json::from_str(&simpletuner(live.home.path(), &program)).unwrap()
}

#[test]
fn a_configuration_is_read_and_edited_with_common_tools() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    assert_eq!(live.sh("ls config"), "replicate.json\n");
    assert_eq!(
        live.sh("stat -c %a config config/replicate.json"),
        "700\n600\n"
    );
    assert_eq!(
        live.sh("jq -r .webhook_url config/replicate.json"),
        "https://example.com/hook\n"
    );
    let cost = || as_simpletuner_sees(&live, "replicate")["cost_limit_amount"].clone();
    live.sh("jq '.cost_limit_amount = 25' config/replicate.json > config/.n && mv config/.n config/replicate.json");
    assert_eq!(cost(), 25);
    live.sh("sed -i 's/25/30/' config/replicate.json");
    assert_eq!(cost(), 30);
    live.sh("vim -es -N -u NONE -i NONE -c '%s/30/35/' -c 'wq' config/replicate.json");
    assert_eq!(cost(), 35);
    live.sh("cat > config/replicate.json <<< '{\"cost_limit_amount\": 40}'");
    assert_eq!(
        as_simpletuner_sees(&live, "replicate"),
        json!({"cost_limit_amount": 40})
    );
    live.sh("echo '{}' > config/runpod.json; mv config/replicate.json config/renamed.json");
    assert_eq!(live.sh("ls -A config"), "renamed.json\nrunpod.json\n");
    live.sh("rm config/renamed.json");
    assert_eq!(as_simpletuner_sees(&live, "renamed"), json!({}));
    live.sh("! rm config/renamed.json 2> /dev/null; ! cat config/renamed.json 2> /dev/null");
    let jobs = simpletuner(
        live.home.path(),
        "print(jobs().execute('SELECT * FROM jobs').fetchall())",
    );
    assert_eq!(jobs, "[('1', 'running')]\n");
}

#[test]
fn without_a_database_the_folder_is_empty_and_the_first_save_creates_only_that_table() {
    let _alone = alone();
    let live = Live::start();
    live.sh("ls config | wc -l; ! cat config/replicate.json 2> /dev/null");
    assert!(!live.home(".simpletuner/cloud").exists());
    live.sh("echo '{\"cost_limit_enabled\": true}' > config/replicate.json");
    let program = "c = sqlite3.connect(JOBS)
print(c.execute(\"SELECT group_concat(name) FROM sqlite_master WHERE type = 'table'\").fetchone()[0])
print(oct(os.stat(JOBS).st_mode & 0o777), oct(os.stat(os.path.dirname(JOBS)).st_mode & 0o777))
print(c.execute('SELECT * FROM provider_config').fetchall()[0][:2])";
    assert_eq!(
        simpletuner(live.home.path(), program),
        "provider_config\n0o600 0o700\n('replicate', '{\"cost_limit_enabled\": true}')\n"
    );
}

#[test]
fn a_save_by_simpletuner_is_seen_by_the_next_open_and_an_open_file_keeps_its_content() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    for round in 0..5 {
        let save = format!(
            "c = jobs(); save(c, 'replicate', {{'round': {round}}}); save(c, 'p{round}', {{}})"
        );
        let open = fs::File::open(live.path("config/replicate.json")).unwrap();
        let before = live.read("config/replicate.json");
        simpletuner(live.home.path(), &save);
        assert_eq!(live.json("config/replicate.json"), json!({"round": round}));
        assert!(live.path(&format!("config/p{round}.json")).exists());
        assert_eq!(std::io::read_to_string(open).unwrap(), before);
    }
    assert_eq!(live.sh("ls config | wc -l"), "6\n");
    simpletuner(
        live.home.path(),
        "jobs().execute('DELETE FROM provider_config')",
    );
    assert_eq!(live.sh("ls config | wc -l"), "0\n");
}

#[test]
fn a_write_that_is_not_a_configuration_is_refused_and_changes_nothing() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    let before = live.read("config/replicate.json");
    let program = r#"
import errno, os
def refused(path, text, code):
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            while text: text = text[os.write(fd, text):]
        finally:
            os.close(fd)
    except OSError as e:
        assert e.errno == code, (path, e)
        return
    raise SystemExit(f"{path} was taken")
for text in (b"[]", b"hunter2", b"", b'"x"', b'{"a": 1', b'{"a": NaN}', b'{"a": 1, "a": 2}'):
    refused("config/replicate.json", text, errno.EINVAL)
refused("config/replicate.json", b'{"a": "\xff"}', errno.EILSEQ)
refused("config/replicate.json", b'{"a": "' + b"x" * (1 << 20) + b'"}', errno.EFBIG)
refused("config/new.json", b"[]", errno.EINVAL)
for name in ("plain", "a b.json", "-x.json"):
    refused("config/" + name, b"{}", errno.EINVAL)
refused("config/" + "x" * 249 + ".b.json", b"{}", errno.ENAMETOOLONG)
try:
    os.rename("config/replicate.json", "config/.hidden")
    raise SystemExit("it was taken away")
except OSError as e:
    assert e.errno == errno.EPERM, e
"#;
    live.python(program);
    assert_eq!(live.read("config/replicate.json"), before);
    live.sh(
        "echo '[1]' > config/.n; ! mv config/.n config/replicate.json 2> /dev/null; rm config/.n",
    );
    assert_eq!(live.read("config/replicate.json"), before);
    assert_eq!(live.sh("ls -A config"), "replicate.json\n");
    let log = fs::read_to_string(live.home("daemon.log")).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_stored_text_that_is_not_an_object_is_eio_until_a_whole_object_replaces_it() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    for stored in ["hunter2", "[\"hunter2\"]", ""] {
        let store =
            format!("jobs().execute(\"UPDATE provider_config SET config = ?\", ({stored:?},))");
        simpletuner(live.home.path(), &store);
        let error = fs::read(live.path("config/replicate.json")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(live.sh("ls -l config").contains("replicate.json"));
        live.sh("! cat >> config/replicate.json <<< '{}' 2> /dev/null");
        let left = "print(jobs().execute('SELECT config FROM provider_config').fetchone()[0])";
        assert_eq!(simpletuner(live.home.path(), left), format!("{stored}\n"));
        live.sh("echo '{\"a\": 1}' > config/replicate.json");
        assert_eq!(live.json("config/replicate.json"), json!({"a": 1}));
    }
    let log = log_with(
        &live.home("daemon.log"),
        "the configuration of replicate in it is",
    );
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn the_control_files_of_the_cache_invalidate_configurations() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("cat config/*.json > /dev/null");
    let stats = |field: &str| {
        live.json("cache/provider_config/stats")[field]
            .as_u64()
            .unwrap()
    };
    assert_eq!((stats("size"), stats("max_size")), (1, 100));
    live.sh("echo provider:replicate: > cache/provider_config/invalidate");
    assert_eq!(live.read("cache/provider_config/invalidate"), "1\n");
    assert_eq!(stats("size"), 0);
    live.sh("cat config/*.json > /dev/null; echo > cache/clear");
    assert_eq!(stats("size"), 0);
}

#[test]
fn a_locked_database_delays_only_its_own_files_and_a_signal_ends_the_wait() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    // Readers of a write-ahead log never wait, so the database is switched to a rollback journal.
    let lock = "c = jobs()
assert c.execute('PRAGMA journal_mode=DELETE').fetchone()[0] == 'delete'
c.execute('BEGIN EXCLUSIVE')";
    let holding = Holding::start(live.home.path(), lock, "c.execute('COMMIT')");
    let start = |script: &str| {
        live.command("bash")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut reader = start("exec cat config/replicate.json");
    let mut writer = start("echo '{\"a\": 1}' > config/new.json");
    let mut ended = start("exec cat config/replicate.json");
    // While these wait, everything else works.
    live.sh("echo v > secrets/A; cat secrets/A; ls config; ls -l hardware; cat cache/stats; echo '{}' > config/.scratch");
    signal("TERM", ended.id());
    assert!(!ended.wait().unwrap().success());
    assert!(reader.try_wait().unwrap().is_none() && writer.try_wait().unwrap().is_none());
    holding.let_go();
    assert!(writer.wait().unwrap().success());
    let read = reader.wait_with_output().unwrap();
    assert!(
        String::from_utf8(read.stdout)
            .unwrap()
            .contains("https://example.com/hook")
    );
    assert_eq!(live.json("config/new.json"), json!({"a": 1}));
}

#[test]
fn two_programs_that_save_500_configurations_at_once_lose_none() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    let theirs = "c = jobs()
for n in range(250): save(c, f'theirs{n}', {'n': n})";
    let mut other = python_in(live.home.path(), theirs).spawn().unwrap();
    for n in 0..250 {
        let path = live.path(&format!("config/ours{n}.json"));
        fs::write(path, json!({"n": n}).to_string()).unwrap();
    }
    assert!(other.wait().unwrap().success());
    let all = "c = jobs()
for n in range(250):
    for who in ('ours', 'theirs'): assert load(c, f'{who}{n}') == {'n': n}, (who, n)
print(c.execute('SELECT count(*) FROM provider_config').fetchone()[0])";
    assert_eq!(simpletuner(live.home.path(), all), "501\n");
    assert_eq!(
        live.sh("ls config | wc -l; cat config/*.json | jq -s length"),
        "501\n501\n"
    );
}

#[test]
fn two_programs_that_change_one_configuration_500_times_lose_no_change() {
    let home = home_of_simpletuner();
    let theirs = "c = jobs()
for n in range(250):
    c.execute('BEGIN IMMEDIATE')
    config = load(c, 'counter')
    config['count'] = config.get('count', 0) + 1
    save(c, 'counter', config)
    c.execute('COMMIT')";
    let mut other = python_in(home.path(), theirs).spawn().unwrap();
    let configs = ProviderConfigs::at(home.path().join(".simpletuner/cloud/jobs.db"));
    for _ in 0..250 {
        let count_up = |config: &mut serde_json::Map<String, Value>| {
            let count = config.get("count").and_then(Value::as_u64).unwrap_or(0);
            config.insert("count".into(), json!(count + 1));
        };
        configs.update("counter", count_up).unwrap();
    }
    assert!(other.wait().unwrap().success());
    assert_eq!(configs.get("counter").unwrap().object()["count"], 500);
}

#[test]
fn readers_get_whole_objects_while_both_programs_write() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    let theirs = "c = jobs()
for n in range(300): save(c, 'busy', {'fill': chr(97 + n % 26) * (1 + n * 37 % 5000), 'by': 'theirs'})";
    let mut other = python_in(live.home.path(), theirs).spawn().unwrap();
    let mut ours = live
        .command("bash")
        .args([
            "-c",
            "for n in {1..100}; do printf '{\"fill\": \"%*s\", \"by\": \"ours\"}' $((n * 41)) x > config/.b && mv config/.b config/busy.json; done",
        ])
        .spawn()
        .unwrap();
    let mut reads = 0;
    while other.try_wait().unwrap().is_none() || ours.try_wait().unwrap().is_none() {
        let Ok(text) = fs::read_to_string(live.path("config/busy.json")) else {
            continue;
        };
        let config: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(config.as_object().unwrap().len(), 2);
        reads += 1;
    }
    assert!(other.wait().unwrap().success() && ours.wait().unwrap().success());
    assert!(reads > 0);
}

#[test]
fn a_database_on_a_read_only_disk_can_be_read_and_a_save_fails_with_the_reason() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = home_of_simpletuner();
    let cloud = home.path().join(".simpletuner/cloud");
    let cloud = cloud.display();
    let sh = |script: String| ran(Command::new("bash").args(["-c", &script])).done();
    sh(format!(
        "mount --bind '{cloud}' '{cloud}' && mount -o remount,bind,ro '{cloud}'"
    ));
    let live = mounted(home);
    let read = fs::read_to_string(live.path("config/replicate.json"));
    let saved = live.try_sh("cat > config/replicate.json <<< '{}'");
    let log = fs::read_to_string(live.home("daemon.log")).unwrap();
    sh(format!("umount -l '{cloud}'"));
    assert!(
        read.unwrap_or_else(|e| panic!("{e}: {log}"))
            .contains("https://example.com/hook")
    );
    assert!(!saved.status.success());
    let said = String::from_utf8(saved.stderr).unwrap();
    assert!(
        said.contains("Read-only file system") || log.contains("cannot be written"),
        "{said}{log}"
    );
    // Once the disk is writable, the same mount writes.
    live.sh("echo '{\"a\": 1}' > config/replicate.json");
    assert_eq!(live.json("config/replicate.json"), json!({"a": 1}));
}

#[test]
fn a_damaged_database_is_eio_with_the_reason_in_the_log_and_stays_as_it_is() {
    let _alone = alone();
    let home = support::scratch_home();
    let jobs = home.path().join(".simpletuner/cloud/jobs.db");
    fs::create_dir_all(jobs.parent().unwrap()).unwrap();
    let garbage = "no database at all, but of some length ".repeat(100);
    fs::write(&jobs, &garbage).unwrap();
    let live = mounted(home);
    live.sh("echo v > secrets/A; cat secrets/A; ls config");
    for error in [
        fs::read(live.path("config/replicate.json")).unwrap_err(),
        fs::metadata(live.path("config"))
            .and_then(|_| fs::read(live.path("config/x.json")))
            .unwrap_err(),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert!(
        !live
            .try_sh("cat > config/replicate.json <<< '{}'")
            .status
            .success()
    );
    assert_eq!(fs::read_to_string(&jobs).unwrap(), garbage);
    log_with(&live.home("daemon.log"), "it is not an SQLite database");
    fs::write(&jobs, "").unwrap();
    live.sh("echo '{\"a\": 1}' > config/replicate.json");
    assert_eq!(live.json("config/replicate.json"), json!({"a": 1}));
}
