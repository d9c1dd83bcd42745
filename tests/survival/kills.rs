//! Keeper or server is killed beside readers, listings, open files, other mounts, and in an ordinary user's mount.

use super::*;

#[test]
fn open_files_inode_numbers_prices_and_events_survive_a_killed_server() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/A", "before");
    live.write(
        "hardware/x.json",
        r#"{"name": "X", "cost_per_second": 0.5}"#,
    );
    let number = fs::metadata(live.path("secrets/A")).unwrap().ino();
    let mut reader = File::open(live.path("secrets/A")).unwrap();
    let mut writer = File::create(live.path("secrets/B")).unwrap();
    writer.write_all(b"half ").unwrap();
    live.write("secrets/A", "after");
    let events = live.read("events");

    kill_server(&live);
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, "before");
    // A new name exists only for its creator until the close.
    assert!(live.path("secrets/B").exists());
    live.sh("! test -e secrets/B");
    writer.write_all(b"whole").unwrap();
    drop(writer);
    assert_eq!(live.read("secrets/B"), "half whole");
    assert_eq!(live.read("secrets/A"), "after");
    assert_eq!(fs::metadata(live.path("secrets/A")).unwrap().ino(), number);
    assert!(live.read("hardware/x.json").contains("0.5"));
    assert!(live.read("events").starts_with(&events));
    assert!(live.read("events").contains("\"server_restarted\""));

    let status = live.json("status");
    let restarts = status["restarts"].as_array().unwrap();
    assert_eq!(restarts.len(), 1);
    assert_eq!(restarts[0]["reason"], "SIGKILL");
    assert!(restarts[0]["at"].is_string());
    assert!(status["kernel"]["resend"].is_boolean());
}

#[test]
fn a_bundle_read_before_a_server_is_killed_is_merged_when_written_after() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/OLD", "o");
    let live_dir = live.path("");
    // One process reads the bundle, waits for a line, and writes the bundle back with a key of its own.
    let mut program = live
        .command("python3")
        .args([
            "-c",
            "import json, sys\n\
             document = json.load(open('bundle/secrets.json'))\n\
             print('read', flush=True)\n\
             sys.stdin.readline()\n\
             document['MINE'] = 'm'\n\
             json.dump(document, open('bundle/secrets.json', 'w'))",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 5];
    program
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut word)
        .unwrap();
    live.write("secrets/NEW", "n");
    kill_server(&live);
    writeln!(program.stdin.as_mut().unwrap(), "go").unwrap();
    assert!(program.wait().unwrap().success());
    for (key, value) in [("OLD", "o"), ("NEW", "n"), ("MINE", "m")] {
        assert_eq!(
            fs::read_to_string(live_dir.join("secrets").join(key)).unwrap(),
            value
        );
    }
}

#[test]
fn readers_do_not_notice_killed_servers() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/A", "value");
    let ended = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(live.read("secrets/A"), "value");
                    assert_eq!(fs::metadata(live.path("secrets/A")).unwrap().len(), 5);
                    let names = fs::read_dir(live.path("secrets")).unwrap();
                    assert_eq!(names.count(), 1);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..20 {
            let before = reads.load(Ordering::Relaxed);
            kill_server(&live);
            wait_until("the readers go on", || {
                reads.load(Ordering::Relaxed) > before + 20
            });
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(
        live.json("status")["restarts"].as_array().unwrap().len(),
        20
    );
}

#[test]
fn the_mount_survives_a_hundred_kills_of_keeper_and_server_in_turn() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/A", "value");
    let mut open = File::open(live.path("secrets/A")).unwrap();
    for turn in 0..100 {
        kill_keeper(&live);
        assert_eq!(live.read("secrets/A"), "value", "turn {turn}");
        kill_server(&live);
        assert_eq!(live.read("secrets/A"), "value", "turn {turn}");
    }
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "value");
    drop(open);
    // The last keeper unmounts like the first.
    signal("TERM", live.keeper_pid());
    wait_until("the mount is unmounted", || !is_mounted(&live.path("")));
}

fn with_ten_thousand() -> Live {
    let entries: Vec<String> = (0..10_000).map(|n| format!("\"K{n:05}\": \"v\"")).collect();
    let store = format!("{{{}}}", entries.join(","));
    Live::start_with(Setup {
        files: vec![
            (
                ".simpletuner/live.yaml",
                // A listing waits for the store for `timeout.total` at most.
                "file_path: ~/.simpletuner/store.json\nencrypt: false\ntimeout: {total: 600}\n",
            ),
            (".simpletuner/store.json", &store),
        ],
        ..Setup::default()
    })
}

/// Servers send notifications while readers hold the folder's lock and wait for the next server.
#[test]
fn ls_shows_every_name_once_while_values_change_and_servers_are_killed() {
    let _alone = alone();
    let live = with_ten_thousand();
    let list = "until [ -e $HOME/stop ]; do ls -f secrets | grep -c ^K; done | sort -u";
    let change = "until [ -e $HOME/stop ]; do echo x$RANDOM > secrets/K00042; done";
    let listing: Vec<Child> = (0..3).map(|_| spawn(&live, list)).collect();
    let changing = spawn(&live, change);
    for _ in 0..15 {
        kill_server(&live);
    }
    fs::write(live.home("stop"), "").unwrap();
    for shell in listing {
        assert_eq!(done(shell), "10000\n");
    }
    assert_eq!(done(changing), "");
}

#[test]
fn tail_keeps_following_the_events_after_a_server_is_killed() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/BEFORE", "v");
    let followed = live.home("followed");
    let mut tail = live
        .command("tail")
        .args(["-n", "+1", "-s", "0.05", "-f", "events"])
        .stdout(File::create(&followed).unwrap())
        .spawn()
        .unwrap();
    for (turn, name) in ["ONE", "TWO"].iter().enumerate() {
        kill_server(&live);
        live.write(&format!("secrets/{name}"), "v");
        wait_until("tail shows the event", || {
            let shown = fs::read_to_string(&followed).unwrap();
            shown.contains(&format!("\"{name}\""))
                && shown.matches("server_restarted").count() == turn + 1
        });
    }
    let shown = fs::read_to_string(&followed).unwrap();
    assert_eq!(shown, live.read("events"));
    assert_eq!(shown.matches("BEFORE").count(), 1);
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn a_listing_over_killed_servers_has_no_missing_or_doubled_name() {
    let _alone = alone();
    let live = with_ten_thousand();
    let mut names = fs::read_dir(live.path("secrets")).unwrap();
    let mut listed: Vec<String> = Vec::new();
    let mut next = |count: usize| {
        for name in names.by_ref().take(count) {
            listed.push(name.unwrap().file_name().into_string().unwrap());
        }
    };
    next(700);
    kill_server(&live);
    next(4800);
    kill_keeper(&live);
    kill_server(&live);
    next(usize::MAX);
    let wanted: Vec<String> = (0..10_000).map(|n| format!("K{n:05}")).collect();
    listed.sort_unstable();
    assert_eq!(listed, wanted);
}

#[test]
fn without_resend_requests_in_flight_fail_and_the_mount_stays() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        env: vec![("SIMPLETUNER_LIVE_NO_RESEND", "1")],
        files: vec![(
            ".simpletuner/live.yaml",
            // No host answers or refuses at this address (RFC 5737), so a request to it waits.
            "vault_url: http://192.0.2.1:8200\nvault_token: t\ntimeout: {connect: 60, total: 60}\n",
        )],
        ..Setup::default()
    });
    live.write("secrets/A", "value");
    let mut reader = spawn(&live, "cat secrets/FAR");
    wait_until("the reader waits", || {
        let children = format!("/proc/{0}/task/{0}/children", reader.id());
        let cat = fs::read_to_string(children).unwrap_or_default();
        let pid = if cat.is_empty() {
            reader.id().to_string()
        } else {
            cat
        };
        waits_for_the_mount(pid.trim().parse().unwrap())
    });
    let before = live.json("status")["server_pid"].as_u64().unwrap() as u32;
    signal("KILL", before);
    wait_until("another server answers", || {
        // This read may itself be in flight when the server ends.
        let Ok(status) = fs::read(live.path("status")) else {
            return false;
        };
        let status: Value = serde_json::from_slice(&status).unwrap();
        is_another_one(status["server_pid"].as_u64().unwrap() as u32, before)
    });
    wait_until("the reader ends", || reader.try_wait().unwrap().is_some());
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("Input/output error"),
        "{said}"
    );
    assert_eq!(live.read("secrets/A"), "value");
}

#[test]
fn two_mounts_do_not_mix_when_their_processes_are_killed() {
    let _alone = alone();
    let (one, other) = (Live::start(), Live::start());
    one.write("secrets/A", "one");
    other.write("secrets/A", "other");
    kill_server(&one);
    kill_keeper(&other);
    assert_eq!(one.read("secrets/A"), "one");
    assert_eq!(other.read("secrets/A"), "other");
    drop(one);
    kill_server(&other);
    assert_eq!(other.read("secrets/A"), "other");
}

#[test]
fn an_ordinary_users_mount_survives_killed_processes_too() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    let home = Home::new();
    home.sh("chown 65534:65534 .");
    let as_user = |script: &str| {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "bash",
                "-c",
                script,
            ])
            .current_dir(home.0.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", home.0.path())
            .env("PROGRAM", support::home::BINARY)
            .stdin(Stdio::null());
        support::home::ran(&mut command)
    };
    let script = "live=~/.simpletuner/live; \"$PROGRAM\" mount > /dev/null 2>&1 && echo v > $live/secrets/A && \
        kill -KILL $(jq .server_pid $live/status) && cat $live/secrets/A && \
        keeper=$(jq .keeper_pid $live/status) && kill -KILL $keeper && \
        until now=$(jq .keeper_pid $live/status) && [ $now != $keeper ]; do :; done && \
        kill -KILL $(jq .server_pid $live/status) && cat $live/secrets/A && \"$PROGRAM\" umount && ls $live";
    assert_eq!(as_user(script).done(), "v\nv\n");
}

// A killed server has the kernel answer EIO for a request that it was just reading into a page that was not there.
#[test]
fn a_server_starts_with_the_pages_resident_that_it_reads_requests_into() {
    let _alone = alone();
    let live = Live::start();
    kill_server(&live);
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", live.server_pid())).unwrap();
    let kib = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    };
    // Locking the first pages has made them a mapping of their own, just before the rest.
    let (mut size, mut before, mut resident) = (0, 0, Vec::new());
    for line in smaps.lines() {
        if let Some(found) = kib(line, "Size:") {
            size = found;
        } else if let Some(found) = kib(line, "Rss:") {
            if (16_000..17_000).contains(&size) {
                resident.push(before + found);
            }
            before = found;
        }
    }
    // The largest write, and what is before its bytes.
    assert!(
        matches!(resident[..], [resident] if resident >= 132),
        "{resident:?}"
    );
}
