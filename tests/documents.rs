//! The documents on the mount: the bundle as SimpleTuner reads and writes it, the prices, and the caches' control files.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::{Live, Setup, alone};

/// Acts like SimpleTuner's file provider: reads a document once, and writes all of it back.
fn simpletuner(live: &Live, path: &str, change: &str) {
    let program = format!(
        "import json, os\np = {:?}\nwith open(p) as f: d = json.load(f)\n{change}\n\
         with open(p, 'w') as f: json.dump(d, f, indent=2)\nos.chmod(p, 0o600)\n",
        live.path(path).to_str().unwrap()
    );
    live.python(&program);
}

/// The three-way merge, through the path that SimpleTuner uses.
fn simpletuner_changes_just_what_it_changed(live: &Live, path: &str, store: &str) {
    let full = live.path(path);
    live.write("secrets/STAYS", "stays");
    live.write("secrets/GOES", "goes");
    live.write("secrets/CHANGES", "before");
    let secret = live.path("secrets");
    let change = format!(
        "open('{0}/MEANWHILE', 'w').close()\n\
         import subprocess; subprocess.run(['sh', '-c', 'echo shell > {0}/MEANWHILE; echo rotated > {0}/STAYS'], check=True)\n\
         assert d['HF_TOKEN'] == 'from-env', d\n\
         del d['GOES']; d['CHANGES'] = 'after'; d['ADDED'] = 'added'",
        secret.display()
    );
    simpletuner(live, path, &change);
    for (name, value) in [
        ("STAYS", "rotated\n"),
        ("CHANGES", "after"),
        ("ADDED", "added"),
        ("MEANWHILE", "shell\n"),
        ("HF_TOKEN", "from-env"),
    ] {
        assert_eq!(live.read(&format!("secrets/{name}")), value, "{name}");
    }
    assert!(!live.path("secrets/GOES").exists());
    let stored: Value =
        serde_json::from_str(&fs::read_to_string(live.home(store)).unwrap()).unwrap();
    let names: Vec<_> = stored.as_object().unwrap().keys().cloned().collect();
    for name in ["STAYS", "CHANGES", "ADDED", "MEANWHILE"] {
        assert!(
            stored[name].as_str().unwrap().starts_with("Z0FBQUFB"),
            "{name} lies encrypted"
        );
    }
    assert!(!names.contains(&"HF_TOKEN".to_owned()), "{names:?}");
    assert!(!names.contains(&"GOES".to_owned()), "{names:?}");
    assert_eq!(
        fs::metadata(full).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // The same process writes again: the merge base is what it wrote last.
    simpletuner(
        live,
        path,
        "with open(p, 'w') as f: json.dump(d, f, indent=2)\nd.pop('ADDED')",
    );
    assert!(!live.path("secrets/ADDED").exists());
    assert_eq!(live.read("secrets/CHANGES"), "after");
    // A process that has never read it deletes nothing.
    live.python(&format!(
        "import json\nwith open({:?}, 'w') as f: json.dump({{'ONLY': 'o'}}, f)",
        live.path(path).to_str().unwrap()
    ));
    assert_eq!(
        (live.read("secrets/ONLY"), live.read("secrets/CHANGES")),
        ("o".into(), "after".into())
    );
}

#[test]
fn a_bundle_write_of_simpletuner_changes_only_the_keys_that_it_changed() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        env: vec![("HF_TOKEN", "from-env")],
        ..Setup::default()
    });
    simpletuner_changes_just_what_it_changed(
        &live,
        "bundle/secrets.json",
        ".simpletuner/secrets.json",
    );
}

#[test]
fn after_adopt_a_write_of_simpletuner_changes_only_the_keys_that_it_changed() {
    let _alone = alone();
    let home = support::scratch_home();
    fs::create_dir(home.path().join(".simpletuner")).unwrap();
    fs::write(
        home.path().join(".simpletuner/secrets.json"),
        "{\"PLAIN\": \"p\"}",
    )
    .unwrap();
    let adopted = std::process::Command::new(env!("CARGO_BIN_EXE_simpletuner-live"))
        .arg("adopt")
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert!(
        adopted.status.success(),
        "{}",
        String::from_utf8_lossy(&adopted.stderr)
    );
    let live = Live::start_in(
        home,
        Setup {
            env: vec![("HF_TOKEN", "from-env")],
            ..Setup::default()
        },
    );
    assert_eq!(live.read("secrets/PLAIN"), "p");
    assert_eq!(
        fs::read_link(live.home(".simpletuner/secrets.json"))
            .unwrap()
            .to_str(),
        Some("live/bundle/secrets.json")
    );
    // At the path beside the mount that SimpleTuner reads.
    simpletuner_changes_just_what_it_changed(&live, "../secrets.json", ".simpletuner/store.json");
    assert_eq!(live.read("secrets/PLAIN"), "p");
}

#[test]
fn prices_are_set_and_reset() {
    let _alone = alone();
    let live = Live::start();
    let price = |path: &str| live.json(path)["cost_per_second"].clone();
    assert_eq!(
        live.read("hardware/gpu-l40s.json"),
        "{\"name\": \"L40S (48GB)\", \"cost_per_second\": 0.000975}\n"
    );
    assert_eq!(price("hardware/gpu-a100-large.json"), json!(0.0014));
    live.write(
        "hardware/gpu-l40s.json",
        "{\"name\": \"L\", \"cost_per_second\": 0.5}",
    );
    live.write(
        "hardware/mine.json",
        "{\"name\": \"M\", \"cost_per_second\": 0}\n",
    );
    assert_eq!(
        (price("hardware/gpu-l40s.json"), price("hardware/mine.json")),
        (json!(0.5), json!(0.0))
    );
    assert_eq!(live.json("hardware/all.json")["gpu-l40s"]["name"], "L");
    fs::remove_file(live.path("hardware/gpu-l40s.json")).unwrap();
    assert_eq!(price("hardware/gpu-l40s.json"), json!(0.000975));
    fs::remove_file(live.path("hardware/mine.json")).unwrap();
    assert!(!live.path("hardware/mine.json").exists());
    live.write(
        "hardware/all.json",
        "{\"only\": {\"name\": \"O\", \"cost_per_second\": 1}}",
    );
    assert_eq!(live.sh("ls hardware"), "all.json\nonly.json\n");
    live.sh("echo > cache/hardware/clear");
    assert_eq!(
        live.sh("ls hardware"),
        "all.json\ngpu-a100-large.json\ngpu-l40s.json\n"
    );
    live.write(
        "hardware/all.json",
        "{\"only\": {\"name\": \"O\", \"cost_per_second\": 1}}",
    );
    fs::remove_file(live.path("hardware/all.json")).unwrap();
    assert_eq!(
        live.sh("ls hardware"),
        "all.json\ngpu-a100-large.json\ngpu-l40s.json\n"
    );
    live.write("hardware/.n", "{\"name\": \"L\", \"cost_per_second\": 3}");
    fs::rename(
        live.path("hardware/.n"),
        live.path("hardware/gpu-l40s.json"),
    )
    .unwrap();
    assert_eq!(price("hardware/gpu-l40s.json"), json!(3.0));
}

#[test]
fn caches_are_counted_cleared_and_invalidated() {
    let _alone = alone();
    let live = Live::start();
    for name in ["HF_A", "HF_B", "OTHER"] {
        live.write(&format!("secrets/{name}"), "v");
    }
    let held = || live.json("cache/secrets/stats");
    let read_all = || live.sh("cat secrets/HF_A secrets/HF_B secrets/OTHER");
    assert_eq!(read_all(), "vvv");
    let stats = live.json("cache/stats");
    for field in [
        "size",
        "max_size",
        "expired_count",
        "default_ttl",
        "hits",
        "misses",
        "evictions",
        "hit_rate",
    ] {
        assert!(stats["secrets"][field].is_number(), "{field}: {stats}");
    }
    assert_eq!(stats["secrets"]["max_size"], 1000);
    assert_eq!(stats["secrets"]["default_ttl"], 300.0);
    assert!(stats["hardware"].is_object());
    assert!(held()["size"].as_u64() >= Some(3), "{}", held());
    let hits = held()["hits"].as_u64();
    read_all();
    assert!(held()["hits"].as_u64() > hits);
    live.sh("echo secret:HF_ > cache/invalidate");
    assert_eq!(live.read("cache/invalidate"), "2\n");
    live.sh("echo secret:OTHER > cache/secrets/invalidate");
    assert_eq!(live.read("cache/secrets/invalidate"), "1\n");
    live.sh("echo secret:NONE > cache/invalidate; test \"$(cat cache/invalidate)\" = 0");
    assert_eq!(read_all(), "vvv");
    live.sh("echo > cache/clear");
    assert_eq!(held()["size"], 0);
    read_all();
    live.sh("echo 1 > cache/secrets/clear");
    assert_eq!(held()["size"], 0);
    assert_eq!(read_all(), "vvv");
}
