//! Readers and writers beside rotations: none fails, and no write is lost.

use std::collections::BTreeMap;

use super::support::home::{BINARY, Home};
use super::support::wait_until;
use super::{as_simpletuner, home, retired};

/// Reads and writes in each of these mounts and past them until there is a file `stop`. Prints what each writer wrote last.
const LOAD: &str = r#"
import json, os, subprocess, sys, threading, traceback
program, places = sys.argv[1], [os.path.expanduser(place) for place in sys.argv[2:]]
last, failed = {}, []
def goes_on():
    return not failed and not os.path.exists("stop")
def run(work):
    try:
        while goes_on():
            work()
    except BaseException:
        failed.append(traceback.format_exc())
def reader(place):
    def read():
        for name, value in ("A", "two"), ("B", "beta"):
            with open(f"{place}/secrets/{name}") as file:
                assert file.read() == value
        with open(f"{place}/bundle/secrets.json") as file:
            values = json.load(file)
        assert values["A"] == "two", values
    return read
def writer(name, place):
    count = 0
    def write():
        nonlocal count
        count += 1
        value = f"{name} {count}"
        if place:
            with open(f"{place}/secrets/{name}", "w") as file:
                file.write(value)
            with open(f"{place}/secrets/{name}") as file:
                assert file.read() == value
        else:
            subprocess.run([program, "set", "--no-mount", name], input=value.encode(), check=True)
        last[name] = value
    return write
work = [reader(place) for place in places]
work += [writer(f"W{index}_{n}", place) for index, place in enumerate(places) for n in range(2)]
work.append(writer("CLI", None))
threads = [threading.Thread(target=run, args=(one,)) for one in work]
for thread in threads: thread.start()
for thread in threads: thread.join()
with open("last.tmp", "w") as file:
    json.dump({"last": last, "failed": failed}, file)
os.rename("last.tmp", "last")
"#;

/// Starts it in the background.
pub fn begin(home: &Home, places: &[&str]) {
    home.write("load.py", LOAD);
    let places = places.join(" ");
    home.sh(&format!(
        "setsid python3 load.py '{BINARY}' {places} < /dev/null > load.log 2>&1 &"
    ));
}

/// Ends it, and returns what each writer wrote last. None may have failed.
pub fn end(home: &Home) -> BTreeMap<String, String> {
    home.write("stop", "");
    wait_until("readers and writers have ended", || {
        home.path("last").exists()
    });
    let said: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(home.path("last")).unwrap()).unwrap();
    assert_eq!(said["failed"], serde_json::json!([]), "{said}");
    serde_json::from_value(said["last"].clone()).unwrap()
}

#[test]
fn readers_and_writers_of_two_mounts_and_past_them_do_not_notice_rotations() {
    let home = home();
    for place in ["a", "b"] {
        home.run(&["mount", place]).done();
    }
    begin(&home, &["a", "b"]);
    for _ in 0..8 {
        home.run(&["key", "rotate", "--yes"]).done();
    }
    let last = end(&home);
    assert_eq!(last.len(), 5, "each writer has written: {last:?}");
    // Nothing needs an old key.
    for old in retired(&home) {
        std::fs::remove_file(old).unwrap();
    }
    let values = as_simpletuner(&home);
    for (name, value) in &last {
        assert_eq!(&values[name], value, "{name}");
        let read = home.sh(&format!("cat a/secrets/{name}"));
        assert_eq!(&read, value);
    }
    for place in ["a", "b"] {
        home.run(&["umount", place]).done();
    }
}
