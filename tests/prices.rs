//! Prices as SimpleTuner's own database configures them, as the mount has them in force, and at the command line.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::home::{Home, signal, wait_for_the_end};

/// A home with SimpleTuner's database in it.
struct Priced(Home);

impl Priced {
    fn new() -> Self {
        let home = Home::new();
        fs::create_dir_all(home.path(".simpletuner/cloud")).unwrap();
        Self(home)
    }

    /// Saves the configuration of replicate just as SimpleTuner does.
    fn configure(&self, config: &Value) {
        let program = format!(
            "import datetime, sqlite3\n\
             db = sqlite3.connect('.simpletuner/cloud/jobs.db', timeout=30)\n\
             db.execute('PRAGMA journal_mode=WAL')\n\
             db.execute(\"CREATE TABLE IF NOT EXISTS provider_config (provider TEXT PRIMARY KEY, \
                 config TEXT NOT NULL DEFAULT '{{}}', updated_at TEXT NOT NULL)\")\n\
             now = datetime.datetime.now(datetime.timezone.utc).isoformat()\n\
             with db: db.execute('INSERT OR REPLACE INTO provider_config VALUES (?, ?, ?)', \
                 ('replicate', {:?}, now))\n",
            config.to_string()
        );
        self.python(&program);
    }

    fn configured(&self) -> Value {
        let said = self.python(
            "import sqlite3\n\
             db = sqlite3.connect('.simpletuner/cloud/jobs.db')\n\
             print(db.execute(\"SELECT config FROM provider_config WHERE provider = 'replicate'\").fetchone()[0])",
        );
        serde_json::from_str(&said).unwrap()
    }

    fn python(&self, program: &str) -> String {
        self.0.write("program.py", program);
        self.0.sh("python3 program.py")
    }

    fn mount(&self) {
        self.0.run(&["mount"]).done();
    }

    /// The price per second in a file of the mount.
    fn price(&self, id: &str) -> Value {
        let text = fs::read_to_string(self.0.live(&format!("hardware/{id}.json"))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["cost_per_second"].clone()
    }

    fn listed(&self) -> Value {
        serde_json::from_str(&self.0.run(&["hardware", "ls", "--json"]).done()).unwrap()
    }
}

fn table(gpu: f64) -> Value {
    json!({"hardware_info": {
        "gpu": {"name": "G", "cost_per_second": gpu},
        "other": {"name": "O", "cost_per_second": 1},
    }})
}

#[test]
fn configured_prices_are_loaded_again_when_their_cache_is_cleared_or_invalidated() {
    let priced = Priced::new();
    priced.configure(&table(0.5));
    priced.mount();
    assert_eq!(priced.price("gpu"), 0.5);
    assert_eq!(
        priced.0.sh("ls .simpletuner/live/hardware"),
        "all.json\ngpu.json\nother.json\n"
    );
    let mut cost = 1.0;
    for reload in [
        "echo > clear",
        "echo > hardware/clear",
        "echo hardware: > invalidate",
        "echo provider:replicate: > invalidate",
        "echo hardware: > hardware/invalidate",
    ] {
        priced.configure(&table(cost));
        assert_eq!(priced.price("gpu"), cost - 0.5, "it is cached: {reload}");
        priced
            .0
            .sh(&format!("cd .simpletuner/live/cache; {reload}"));
        assert_eq!(priced.price("gpu"), cost, "{reload}");
        cost += 0.5;
    }
    // A configuration saved through the mount takes effect at once.
    let config = priced.0.live("config/replicate.json");
    fs::write(&config, table(9.0).to_string()).unwrap();
    assert_eq!(priced.price("gpu"), 9.0);
    fs::remove_file(&config).unwrap();
    assert_eq!(
        priced.0.sh("ls .simpletuner/live/hardware"),
        "all.json\ngpu-a100-large.json\ngpu-l40s.json\n"
    );
}

#[test]
fn a_written_price_stays_until_the_cache_is_cleared_even_across_servers() {
    let priced = Priced::new();
    priced.configure(&table(0.5));
    priced.mount();
    let hardware = |file: &str| priced.0.live(&format!("hardware/{file}"));
    fs::write(
        hardware("gpu.json"),
        r#"{"name": "G", "cost_per_second": 7}"#,
    )
    .unwrap();
    fs::write(
        hardware("mine.json"),
        r#"{"name": "M", "cost_per_second": 8}"#,
    )
    .unwrap();
    let server = priced.0.server(&priced.0.live(""));
    signal("KILL", server);
    wait_for_the_end(server);
    assert_eq!(
        (priced.price("gpu"), priced.price("mine")),
        (json!(7.0), json!(8.0))
    );
    fs::remove_file(hardware("gpu.json")).unwrap();
    assert_eq!(priced.price("gpu"), 0.5);
    priced.0.sh("echo > .simpletuner/live/cache/hardware/clear");
    assert!(!hardware("mine.json").exists());
    let server = priced.0.server(&priced.0.live(""));
    signal("KILL", server);
    wait_for_the_end(server);
    assert!(!hardware("mine.json").exists());
    assert_eq!(priced.configured(), table(0.5));
}

#[test]
fn a_written_price_ends_with_the_mount() {
    let priced = Priced::new();
    priced.configure(&table(0.5));
    priced.mount();
    let price = r#"{"name": "G", "cost_per_second": 7}"#;
    fs::write(priced.0.live("hardware/gpu.json"), price).unwrap();
    assert_eq!(priced.price("gpu"), 7.0);
    priced.0.run(&["umount"]).done();
    priced.mount();
    assert_eq!(priced.price("gpu"), 0.5);
}

#[test]
fn an_invalid_price_is_einval_and_changes_nothing() {
    let priced = Priced::new();
    priced.mount();
    let before = priced.listed();
    for bad in [
        r#"{"name": "G", "cost_per_second": -1}"#,
        r#"{"name": "G", "cost_per_second": NaN}"#,
        r#"{"name": "G", "cost_per_second": "1"}"#,
        r#"{"name": "G"}"#,
        "1",
        "",
    ] {
        priced.0.write("one", bad);
        priced.0.write("all", &format!("{{\"gpu\": {bad}}}"));
        // A shell's redirection does not report the result of its close.
        let said = priced.0.sh(
            "! cp one .simpletuner/live/hardware/gpu-l40s.json 2>&1; ! cp all .simpletuner/live/hardware/all.json 2>&1",
        );
        assert_eq!(said.matches("Invalid argument").count(), 2, "{bad}: {said}");
    }
    assert_eq!(priced.listed(), before);
}

#[test]
fn an_invalid_stored_price_is_ignored_with_one_warning_and_not_lost() {
    let priced = Priced::new();
    let config = json!({"cost_limit_amount": 5, "hardware_info": {
        "gpu": {"name": "G", "cost_per_second": 0.5, "memory_gb": 48},
        "negative": {"name": "N", "cost_per_second": -1},
        "text": {"name": "T", "cost_per_second": "1"},
    }});
    priced.configure(&config);
    priced.mount();
    for _ in 0..3 {
        let ids: Vec<String> = priced
            .listed()
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(ids, ["gpu"]);
        priced.0.sh("echo > .simpletuner/live/cache/clear");
    }
    let log = fs::read_to_string(priced.0.path(".simpletuner/live.log")).unwrap();
    for left_out in ["negative", "text"] {
        let said = format!("\"{left_out}\" is left out");
        assert_eq!(log.matches(&said).count(), 1, "{log}");
    }
    priced
        .0
        .run(&[
            "hardware",
            "set",
            "gpu",
            "--name",
            "G2",
            "--per-second",
            "2",
            "--save",
        ])
        .done();
    let mut saved = config;
    saved["hardware_info"]["gpu"]["name"] = json!("G2");
    saved["hardware_info"]["gpu"]["cost_per_second"] = json!(2.0);
    assert_eq!(priced.configured(), saved);
    assert_eq!(priced.price("gpu"), 2.0);
}

#[test]
fn the_command_line_lists_sets_saves_resets_and_estimates() {
    let priced = Priced::new();
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["hardware"].iter().chain(args).copied().collect();
        priced.0.run(&args)
    };
    let default = "ID              NAME         PER SECOND  PER HOUR\n\
                   gpu-a100-large  A100 (80GB)  $0.0014     $5.04\n\
                   gpu-l40s        L40S (48GB)  $0.000975   $3.51\n";
    assert_eq!(run(&["ls"]).done(), default);
    assert_eq!(
        run(&["estimate", "gpu-l40s", "--hours", "12"]).done(),
        "$42.12\n"
    );
    let estimate = run(&["estimate", "gpu-l40s", "--hours", "0.5", "--json"]).done();
    let estimate: Value = serde_json::from_str(&estimate).unwrap();
    assert_eq!(
        (&estimate["cost"], &estimate["hours"]),
        (&json!(1.755), &json!(0.5))
    );
    let h100 = [
        "set",
        "gpu-h100",
        "--name",
        "H100 (80GB)",
        "--per-second",
        "0.001525",
    ];
    let said = run(&h100).failed();
    assert!(said.contains("--save") && said.contains("mount"), "{said}");
    let said = run(&["reset"]).failed();
    assert!(said.contains("nothing is mounted"), "{said}");

    run(&[&h100[..], &["--save"]].concat()).done();
    assert_eq!(
        priced.configured()["hardware_info"]["gpu-h100"]["name"],
        "H100 (80GB)"
    );
    // The defaults are in force as before.
    assert!(
        run(&["ls"])
            .done()
            .contains("gpu-l40s        L40S (48GB)  $0.000975   $3.51\n")
    );

    priced.mount();
    assert_eq!(priced.price("gpu-h100"), 0.001525);
    run(&["set", "gpu-l40s", "--name", "L", "--per-second", "0.002"]).done();
    assert_eq!(priced.price("gpu-l40s"), 0.002);
    assert_eq!(
        priced.listed()["gpu-l40s"],
        json!({"name": "L", "cost_per_second": 0.002, "cost_per_hour": 7.2})
    );
    assert_eq!(
        priced.configured()["hardware_info"]["gpu-l40s"]["cost_per_second"],
        0.000975
    );
    run(&[
        "set",
        "gpu-h100",
        "--name",
        "H",
        "--per-second",
        "0.003",
        "--save",
    ])
    .done();
    assert_eq!(priced.price("gpu-h100"), 0.003);
    run(&["reset", "gpu-l40s"]).done();
    assert_eq!(priced.price("gpu-l40s"), 0.000975);
    run(&["set", "mine", "--name", "M", "--per-second", "0"]).done();
    run(&["reset"]).done();
    assert_eq!(priced.listed().as_object().unwrap().len(), 3);
    assert_eq!(priced.price("gpu-h100"), 0.003);

    for bad in ["-1", "NaN", "inf", "text", ""] {
        let refused = run(&[
            "set",
            "gpu-l40s",
            "--name",
            "L",
            "--per-second",
            bad,
            "--save",
        ]);
        assert_eq!(refused.code, 2, "{bad}: {}", refused.err);
    }
    for id in ["a/b", "all", ""] {
        let said = run(&["set", id, "--name", "L", "--per-second", "1", "--save"]).failed();
        assert!(said.contains("hardware id"), "{said}");
    }
    for unknown in [
        &["reset", "none"][..],
        &["estimate", "none", "--hours", "1"],
    ] {
        let said = run(unknown).failed();
        assert!(said.contains("hardware ls"), "{said}");
    }
    assert_eq!(
        priced.configured()["hardware_info"]
            .as_object()
            .unwrap()
            .len(),
        3
    );
}
