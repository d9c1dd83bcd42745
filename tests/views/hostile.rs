//! Neighbours that ask too much of the views, and definitions that are too many: the server stays as small, and answers the others.

use std::process::Stdio;

use super::*;

const USER: u32 = 4001;

/// KiB that only this process has, and its part of what it shares.
fn memory_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

/// A mount of a store in which `secrets` are defined, plain.
fn with_secrets(count: usize) -> Live {
    let secrets = (0..count).map(|number| (format!("KEY_{number:05}"), "value"));
    let store: serde_json::Map<String, serde_json::Value> =
        secrets.map(|(name, value)| (name, value.into())).collect();
    let store = serde_json::Value::Object(store).to_string();
    start_with(Setup {
        files: vec![
            (
                "live.yaml",
                "file_path: ~/.simpletuner/store.json\nencrypt: false\n",
            ),
            ("store.json", &store),
        ],
        ..Setup::default()
    })
}

const NEIGHBOUR: &str = r#"
import os, resource, sys
view, rounds, user = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setgid(user); os.setuid(user)
names = sorted(os.listdir(view))
most = min(50000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)
resource.setrlimit(resource.RLIMIT_NOFILE, (most + 100, most + 100))
print('begins', flush=True)
held = [os.open(f'{view}/{names[i % len(names)]}', os.O_RDONLY) for i in range(most)]
for i in range(rounds): assert sorted(os.listdir(view)) == names
for i in range(rounds * 50):
    try: os.stat(f'{view}/{"x" * (i % 200)}{i}'); sys.exit('it is there')
    except FileNotFoundError: pass
print(most)
"#;

#[test]
fn a_neighbour_that_opens_lists_and_probes_without_end_makes_the_server_no_larger() {
    if !is_root() {
        return;
    }
    let live = with_secrets(100);
    define(&live, "v", r#"{"secrets": ["KEY_0000?"], "user": "4001"}"#);
    define(&live, "w", r#"{"secrets": ["KEY_0001?"], "user": "4001"}"#);
    let neighbour = |view_name: &str, rounds: &str| {
        let mut python = live.command("python3");
        python.args(["-c", NEIGHBOUR]).arg(view(&live, view_name));
        python.args([rounds, &USER.to_string()]);
        python
    };
    // What the first such neighbour takes, as any reader does, is not counted.
    let once = live.output_of(&mut neighbour("v", "20"));
    assert!(
        once.status.success(),
        "{}",
        String::from_utf8_lossy(&once.stderr)
    );
    let before = memory_of(live.server_pid());
    let mut running = neighbour("v", "400")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The others are answered meanwhile: names that the server is asked for, and new values.
    let mut round = 0;
    while running.try_wait().unwrap().is_none() {
        round += 1;
        write(&live, "secrets/KEY_00010", &round.to_string());
        assert_eq!(read(&live, "w/KEY_00010"), round.to_string());
    }
    assert!(running.wait().unwrap().success() && round > 0);
    let more = memory_of(live.server_pid()).saturating_sub(before);
    assert!(more < 6 * 1024, "{more} KiB");
}

#[test]
fn a_pattern_may_match_ten_thousand_secrets() {
    let live = with_secrets(10_000);
    define(
        &live,
        "all",
        r#"{"secrets": ["KEY_*"], "documents": ["json"]}"#,
    );
    let listed = names(&view(&live, "all"));
    assert_eq!(listed.len(), 10_001);
    assert_eq!(read(&live, "all/KEY_09999"), "value");
    let document: serde_json::Value =
        serde_json::from_str(&read(&live, "all/secrets.json")).unwrap();
    assert_eq!(document.as_object().unwrap().len(), 10_000);
    cli(&live, &["rm", "KEY_09999"]).done();
    assert_eq!(names(&view(&live, "all")).len(), 10_000);
}

#[test]
fn ten_thousand_views_are_listed_read_and_changed() {
    let live = with_secrets(10);
    let views = (0..9_999).map(|number| {
        (
            format!("v{number:04}"),
            serde_json::json!({"secrets": ["KEY_0000?"]}),
        )
    });
    let views: serde_json::Map<String, serde_json::Value> = views.collect();
    let text = serde_json::Value::Object(views).to_string();
    let beside = live.home(".simpletuner/views.new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(&beside, live.home(".simpletuner/views.json")).unwrap();
    wait_until("the views are there", || {
        view(&live, "v9998/KEY_00001").exists()
    });
    cli(&live, &["view", "create", "last", "--secret", "KEY_00002"]).done();
    assert_eq!(read(&live, "last/KEY_00002"), "value");
    let refused = cli(&live, &["view", "create", "more", "--secret", "KEY_00002"]);
    assert!(refused.failed().contains("10000"));
    let listed = cli(&live, &["view", "ls", "--json"]).done();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_object().unwrap().len(), 10_000);
    cli(&live, &["view", "rm", "v0000"]).done();
    assert!(!view(&live, "v0000").exists() && view(&live, "v0001/KEY_00001").exists());
    assert_eq!(names(&live.home("views")).len(), 9_999);
}
