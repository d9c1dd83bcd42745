//! The command `metrics`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::prometheus::Metrics;
use super::support::home::Home;

#[test]
fn the_command_prints_the_file_and_replaces_another_as_a_whole() {
    let home = Home::new();
    home.run(&["mount"]).done();
    let printed = Metrics::parse(&home.run(&["metrics"]).done());
    assert_eq!(printed.get("up", &[]), 1.0);
    home.sh("mkdir -p collector; ln -s elsewhere collector/link.prom");
    let file = home.path("collector/simpletuner.prom");
    let output = ["metrics", "--output", "collector/simpletuner.prom"];
    assert_eq!(home.run(&output).done(), "");
    let first = fs::metadata(&file).unwrap();
    // Another user reads it: that of node_exporter.
    assert_eq!(first.permissions().mode() & 0o777, 0o644);
    assert_eq!(
        Metrics::parse(&fs::read_to_string(&file).unwrap()).get("up", &[]),
        1.0
    );
    let open = fs::File::open(&file).unwrap();
    assert_eq!(home.run(&output).done(), "");
    assert_ne!(fs::metadata(&file).unwrap().ino(), first.ino());
    let before = std::io::read_to_string(open).unwrap();
    assert_eq!(Metrics::parse(&before).get("up", &[]), 1.0);
    let left: Vec<_> = fs::read_dir(home.path("collector")).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");

    home.run(&["umount"]).done();
    let said = home.run(&output).failed();
    assert!(said.contains("nothing is mounted"), "{said}");
    let down = Metrics::parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(down.get("up", &[]), 0.0);
    assert_eq!(down.find("secrets", &[]), None);
}

#[test]
fn the_command_says_why_it_cannot_write() {
    let home = Home::new();
    let said = home.run(&["metrics"]).failed();
    assert!(said.contains("nothing is mounted"), "{said}");
    assert!(said.contains("hint: `simpletuner-live mount`"), "{said}");
    home.run(&["mount"]).done();
    let said = home.run(&["metrics", "--output", "none/x.prom"]).failed();
    assert!(
        said.contains("none/x.prom") && said.contains("No such file"),
        "{said}"
    );
    // A device is not replaced by a file.
    for device in ["/dev/null", "/dev/stdout", "."] {
        let said = home.run(&["metrics", "--output", device]).failed();
        assert!(
            said.contains("no regular file") || said.contains("is a folder"),
            "{said}"
        );
    }
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    home.run(&["umount"]).done();
}
