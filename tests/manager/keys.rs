//! Credential keys that are not usable.

use std::os::unix::fs::symlink;
use std::path::Path;

use simpletuner_live::error::Error;

use crate::{Home, value};

const KEY: &str = "credential.key";

fn with_an_encrypted_and_a_plain_value() -> Home {
    let home = Home::make();
    home.write("secrets.json", r#"{"PLAIN": "in the open"}"#);
    home.manager().set("SEALED", "sealed value").unwrap();
    assert!(!home.read("secrets.json").contains("sealed value"));
    home
}

#[test]
fn an_unusable_key_is_an_error_is_never_replaced_and_does_not_hide_plain_values() {
    type Spoiling = (&'static str, fn(&Path));
    let spoiled: [Spoiling; 5] = [
        ("empty", |path| std::fs::write(path, "").unwrap()),
        ("blank", |path| std::fs::write(path, " \n").unwrap()),
        ("not UTF-8", |path| {
            std::fs::write(path, b"\xff\xfe").unwrap()
        }),
        ("a folder", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
        ("a link to nothing", |path| {
            std::fs::remove_file(path).unwrap();
            symlink("/nowhere/at/all", path).unwrap();
        }),
    ];
    for (how, spoil) in spoiled {
        let home = with_an_encrypted_and_a_plain_value();
        spoil(&home.path(KEY));
        let key = || {
            let kind = std::fs::symlink_metadata(home.path(KEY))
                .unwrap()
                .file_type();
            (kind, std::fs::read(home.path(KEY)).ok())
        };
        let (before, store) = (key(), home.read("secrets.json"));
        let manager = home.manager();
        for error in [
            manager.get("SEALED").unwrap_err(),
            manager.set("NEW", "value").unwrap_err(),
        ] {
            assert!(
                matches!(error, Error::KeyUnusable { .. }),
                "{how}: {error:?}"
            );
            assert_eq!(error.errno(), libc::EKEYREJECTED, "{how}");
        }
        assert_eq!(value(&manager, "PLAIN"), "in the open", "{how}");
        assert_eq!(key(), before, "{how}");
        assert_eq!(home.read("secrets.json"), store, "{how}");
    }
}

#[test]
fn a_value_encrypted_with_another_key_cannot_be_decrypted_until_that_key_is_back() {
    let home = with_an_encrypted_and_a_plain_value();
    let key = home.read(KEY);
    let manager = home.manager();
    assert_eq!(value(&manager, "SEALED"), "sealed value");
    home.write(KEY, "another key altogether");
    manager.clear_cache();
    let error = manager.get("SEALED").unwrap_err();
    assert!(matches!(error, Error::CannotDecrypt { .. }), "{error:?}");
    assert_eq!(error.errno(), libc::EKEYREJECTED);
    assert_eq!(value(&manager, "PLAIN"), "in the open");
    home.write(KEY, &key);
    assert_eq!(value(&manager, "SEALED"), "sealed value");
}
