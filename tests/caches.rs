//! The folder `cache` of a mount: one folder for each cache that its `stats` show, and no other.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use simpletuner_live::cached;
use simpletuner_live::hardware::{ConfiguredPrices, Hardware};
use simpletuner_live::live::{Owner, Parts, Tree};
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::mount::mount_tree;
use support::{Live, scratch_home};

cached! {
    ttl = 60, key_prefix = "my/module";
    fn doubled(number: u32) -> u32 { 2 * number }
}

fn stats(output: &str) -> BTreeSet<String> {
    let stats: Value = serde_json::from_str(output).unwrap();
    stats.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn each_cache_of_the_stats_has_a_folder_and_no_other_is_there() {
    let live = Live::start();
    let folders: BTreeSet<String> = fs::read_dir(live.path("cache"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, stats(&live.read("cache/stats")));
    for cache in folders {
        assert!(live.json(&format!("cache/{cache}/stats"))["max_size"].is_u64());
    }
}

/// Only other processes may use a mount of this one.
fn sh(folder: &Path, script: &str) -> String {
    let mut command = Command::new("timeout");
    command
        .args(["60", "bash", "-c", script])
        .current_dir(folder);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_function_cache_of_a_program_that_mounts_has_a_folder_once_it_is_used() {
    let home = scratch_home();
    let manager = SecretsManager::builder().build();
    let hardware = Hardware::in_registry(
        manager.caches(),
        Box::new(|| ConfiguredPrices::Current(None)),
    );
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        allows_root: false,
    };
    let parts = Parts {
        views: None,
        manager,
        hardware: Arc::new(hardware),
        configs: None,
        audit: None,
        processes: Arc::new(simpletuner_live::process::Proc),
    };
    let dir = home.path().join("live");
    let _mounted = mount_tree(Tree::new(parts, owner), &dir, false).unwrap();
    let cache = dir.join("cache");
    let folders = || {
        let listed = sh(&cache, "ls -d */");
        listed
            .lines()
            .map(|line| line.trim_end_matches('/').to_owned())
            .collect()
    };
    let before: BTreeSet<String> = folders();
    assert_eq!(before, stats(&sh(&cache, "cat stats")));
    assert_eq!(doubled(4), 8);
    let mut expected = before;
    assert!(expected.insert("my_module:doubled".to_owned()));
    assert_eq!(folders(), expected);
    assert_eq!(expected.len(), stats(&sh(&cache, "cat stats")).len());
    let of_function = cache.join("my_module:doubled");
    let of_function = |script: &str| sh(&of_function, script);
    assert!(of_function("cat stats").contains("\"size\": 1,"));
    of_function("echo my/module:doubled: > invalidate");
    assert_eq!(of_function("cat invalidate"), "1\n");
    assert_eq!(doubled(4), 8);
    of_function("echo 1 > clear");
    assert!(of_function("cat stats").contains("\"size\": 0,"));
}
