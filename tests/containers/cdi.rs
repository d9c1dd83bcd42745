//! `view cdi`: the views as devices.

use super::*;

#[test]
fn the_file_has_the_views_as_devices_and_goes_with_the_last() {
    let live = Live::start();
    let cli = |args: &[&str]| ran(live.cli().args(args));
    cli(&["set", "A", "a"]).done();
    for name in ["trainer", "web", "odd_"] {
        cli(&["view", "create", name, "--secret", "A"]).done();
    }
    let dir = live.home("cdi");
    let write = || cli(&["view", "cdi", "--dir", dir.to_str().unwrap()]);
    let written = write();
    assert!(
        written.err.contains("the view odd_ is left out"),
        "{}",
        written.err
    );
    let file = dir.join("simpletuner-live.json");
    assert_eq!(written.done().trim(), file.display().to_string());
    let found: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let path = |name: &str| cli(&["view", "path", name]).done().trim().to_owned();
    for (at, name) in ["trainer", "web"].into_iter().enumerate() {
        let device = &found["devices"][at];
        assert_eq!(device["name"], name);
        assert_eq!(
            device["containerEdits"]["mounts"][0]["hostPath"],
            path(name)
        );
    }
    assert_eq!(found["devices"].as_array().unwrap().len(), 2);
    for name in ["trainer", "web", "odd_"] {
        cli(&["view", "rm", name]).done();
    }
    assert_eq!(write().done(), "");
    assert!(!file.exists());
}
