//! Damaged archives, byte by byte, and passphrases that are not the right one.

use std::fs;

use simpletuner_live::backup::{Closed, Identities, Opened, read};

use super::support::home::Home;
use super::{back_up, full_home};

/// Whether all of this archive can be read.
fn is_readable(archive: &[u8], identity: &[u8]) -> bool {
    let mut identities = Identities::default();
    identities.add(identity, age::NoCallbacks).unwrap();
    let closed = Closed::read(archive);
    let opened = closed.and_then(|closed| closed.open(Opened::Identities(identities)));
    opened.and_then(read).is_ok()
}

#[test]
fn no_byte_of_a_backup_can_be_missing_or_changed() {
    let home = full_home();
    back_up(&home, &["--without-databases"]);
    let whole = fs::read(home.path("b.age")).unwrap();
    let identity = fs::read(home.path("identity")).unwrap();
    assert!(is_readable(&whole, &identity));
    // Each place in the header and at the end, and many between.
    let last = whole.len() - 20;
    let places = (0..260)
        .chain((260..last).step_by(67))
        .chain(last..whole.len());
    let mut tried = 0;
    for at in places {
        tried += 1;
        assert!(!is_readable(&whole[..at], &identity), "cut at {at}");
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(!is_readable(&changed, &identity), "changed at {at}");
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn another_passphrase_opens_nothing_and_a_file_that_others_may_read_is_warned_of() {
    let home = full_home();
    home.sh("umask 077; echo 'correct horse' > pass; echo 'wrong horse' > wrong; echo 'correct horse' > open");
    home.run(&["backup", "p.age", "--passphrase-file", "pass"])
        .done();
    let other = Home::new();
    let restore = |passphrase: &str| {
        let (backup, passphrase) = (home.path("p.age"), home.path(passphrase));
        let paths = [&backup, &passphrase].map(|path| path.display().to_string());
        other.run(&[
            "restore",
            &paths[0],
            "--passphrase-file",
            &paths[1],
            "--yes",
        ])
    };
    let said = restore("wrong").failed();
    assert!(said.contains("this passphrase does not open it"), "{said}");
    assert!(!said.contains("horse"), "{said}");
    assert_eq!(other.sh("ls -A"), "");
    for mode in ["0640", "0604"] {
        home.sh(&format!("chmod {mode} open"));
        let mut all = vec![restore("open")];
        all.push(home.run(&["backup", "q.age", "--force", "--passphrase-file", "open"]));
        for ran in all {
            assert!(
                ran.err.contains("other users may read the passphrase in")
                    && ran.err.contains("chmod 600"),
                "{}",
                ran.err
            );
            ran.done();
        }
    }
}
