//! The package's services under a real systemd, which is process 1 of a machine of its own (`machine/boot.sh`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::deb::packages;
use crate::support::home::{Home, is_root};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packaging/machine");

#[test]
fn services_survive_kills_an_upgrade_and_a_boot_and_no_reader_notices() {
    if !is_root() || !Path::new("/lib/systemd/systemd").exists() {
        eprintln!("skipped: it needs root and systemd");
        return;
    }
    let home = Home::new();
    let Some(packages) = packages() else {
        return;
    };
    let machine = home.path("machine");
    home.sh(&format!("mkdir machine; cp '{FOLDER}'/*.sh machine"));
    for (package, name) in packages.iter().zip(["one.deb", "two.deb"]) {
        fs::copy(package, machine.join(name)).unwrap();
    }
    let output = Command::new("bash")
        .arg(machine.join("boot.sh"))
        .arg(&machine)
        .output()
        .unwrap();
    if output.status.code() == Some(77) {
        let why = String::from_utf8_lossy(&output.stderr);
        eprintln!("skipped: such a machine cannot be made here: {why}");
        return;
    }
    let read = |name: &str| fs::read_to_string(machine.join(name)).unwrap_or_default();
    // apt gives its children a terminal.
    let said = read("said").replace('\r', "");
    let end = |text: String| {
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    };
    assert!(
        output.status.success() && said.contains("\n== done"),
        "{}\n{said}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        end(read("trace")),
        end(read("log"))
    );
    assert!(
        said.contains("/home/worker/.simpletuner/live of worker: "),
        "{said}"
    );
    for mount in ["/home/job/.simpletuner/live", "/srv/live"] {
        assert!(said.contains(&format!("    umount {mount}\n")), "{said}");
    }
    let left = said.lines().filter_map(|line| line.strip_prefix("left: "));
    // What `install-service` and `systemctl --user enable` have written belongs to those who typed them.
    assert_eq!(
        left.collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "/etc/systemd/system/multi-user.target.wants/simpletuner-live.service",
            "/etc/systemd/system/simpletuner-live.service",
            "/home/own/.config/systemd/user/simpletuner-live.service",
            "/home/worker/.config/systemd/user/default.target.wants/simpletuner-live.service",
        ])
    );
}

/// The commands of systemd that a page has in backquotes.
fn commands(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let is_command = |text: &&str| {
        let words = ["systemctl ", "loginctl ", "install-service "];
        words.iter().any(|word| text.starts_with(word)) && text.split(' ').count() > 2
    };
    quoted.filter(is_command).collect()
}

#[test]
fn each_command_of_systemd_that_the_page_has_is_typed_in_the_test() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operation.md"));
    let page = page.unwrap();
    let section = |name: &str| {
        let section = page.split(&format!("\n## {name}\n")).nth(1).unwrap();
        section.split("\n## ").next().unwrap()
    };
    let typed = fs::read_to_string(format!("{FOLDER}/1.sh")).unwrap();
    let mut count = 0;
    for section in [section("As a service"), section("Packages")] {
        for command in commands(section) {
            let command = command.replace("USER", "job");
            assert!(typed.contains(&command), "{command}");
            count += 1;
        }
    }
    assert!(count > 2, "{count}");
}
