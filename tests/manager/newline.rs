//! The newline at the end of a single line belongs to the file that shows a secret, not to its value.

use simpletuner_live::manager::SecretsManager;
use simpletuner_live::secret::{Change, SecretValue};

use crate::{Home, name, value};

const PEM: &str = "-----BEGIN KEY-----\nMII\n-----END KEY-----\n";

fn raw(manager: &SecretsManager, key: &str) -> String {
    let version = manager.snapshot().find(&name(key)).fresh().unwrap();
    assert_eq!(version.size(), version.raw.len());
    version.raw.as_str().to_owned()
}

fn write(manager: &SecretsManager, key: &str, text: &str) {
    let change = Change::Set(name(key), SecretValue::new(text));
    manager.apply(&[change]).unwrap();
}

#[test]
fn a_written_value_is_stored_exactly_and_read_without_its_newline() {
    let home = Home::make();
    let manager = home.manager();
    for (key, file, given) in [
        ("LINE", "hf_x\n", "hf_x"),
        ("BARE", "hf_x", "hf_x"),
        ("EMPTY", "\n", ""),
        ("TWO", "hf_x\n\n", "hf_x\n\n"),
        ("PEM", PEM, PEM),
    ] {
        write(&manager, key, file);
        let next = home.manager();
        assert_eq!(value(&next, key), given);
        for manager in [&manager, &next] {
            assert_eq!(raw(manager, key), file);
            assert_eq!(value(manager, key), given);
            assert_eq!(manager.get_or(key, "").unwrap().as_str(), given);
        }
    }
}

#[test]
fn setting_a_value_stores_no_newline_after_a_single_line() {
    let home = Home::make();
    let manager = home.manager();
    manager.set("A", "hf_x\n").unwrap();
    manager.set("PEM", PEM).unwrap();
    assert_eq!(raw(&manager, "A"), "hf_x");
    assert_eq!(raw(&manager, "PEM"), PEM);
}

/// SimpleTuner reads plain values as they are stored.
#[test]
fn without_encryption_the_newline_is_dropped_at_the_write() {
    let home = Home::make();
    home.write("live.yaml", "encrypt: false\n");
    std::fs::set_permissions(
        home.path("live.yaml"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let manager = home.manager();
    write(&manager, "A", "hf_x\n");
    write(&manager, "PEM", PEM);
    assert_eq!(raw(&manager, "A"), "hf_x");
    assert_eq!(raw(&manager, "PEM"), PEM);
    assert!(home.read("secrets.json").contains("\"hf_x\""));
}

#[test]
fn a_newline_stored_by_another_program_is_in_the_file_but_not_in_the_value() {
    let home = Home::make();
    home.write("secrets.json", r#"{"A": "hf_x\n", "odd/key": "odd\n"}"#);
    let manager = home.manager();
    assert_eq!(raw(&manager, "A"), "hf_x\n");
    assert_eq!(value(&manager, "A"), "hf_x");
}
