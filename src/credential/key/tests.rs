//! Where the master secret comes from, and which key files are refused.

use super::*;
use crate::credential::MAX_KEY;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn at(path: &Path) -> KeySource {
    KeySource::new(None, path.to_owned())
}

fn unusable(source: &KeySource) -> String {
    let error = source.cipher().unwrap_err();
    assert!(matches!(error, Error::KeyUnusable { .. }), "{error:?}");
    assert_eq!(error.errno(), libc::EKEYREJECTED);
    error.to_string()
}

#[test]
fn the_first_write_creates_a_key_and_a_read_never_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/credential.key");
    let source = at(&path);
    assert!(unusable(&source).contains(KEY_VARIABLE));
    assert!(!source.exists() && !path.parent().unwrap().exists());

    let stored = source
        .cipher_or_create()
        .unwrap()
        .encrypt(&SecretValue::new("v"));
    assert!(source.exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(&text).unwrap().len(), 32);
    let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "the temporary file is gone");

    let later = at(&path).cipher().unwrap();
    assert_eq!(later.decrypt("K", &stored).unwrap().as_str(), "v");
    assert_eq!(
        later.decrypt("K", &stored).unwrap(),
        at(&path)
            .cipher_or_create()
            .unwrap()
            .decrypt("K", &stored)
            .unwrap()
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn the_variable_overrides_the_file_unless_it_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential.key");
    fs::write(&path, " from the file\n").unwrap();
    let value = SecretValue::new("v");
    let stored = |secret| CredentialCipher::derive(secret).encrypt(&value);

    let variable = KeySource::new(Some("from the variable".into()), path.clone());
    assert_eq!(variable.describe(), KEY_VARIABLE);
    let cipher = variable.cipher().unwrap();
    assert_eq!(
        cipher.decrypt("K", &stored("from the variable")).unwrap(),
        value
    );
    assert!(Arc::ptr_eq(&cipher, &variable.cipher_or_create().unwrap()));

    let file = KeySource::new(Some(String::new()), path.clone());
    assert_eq!(file.describe(), path.display().to_string());
    let cipher = file.cipher().unwrap();
    assert_eq!(
        cipher.decrypt("K", &stored("from the file")).unwrap(),
        value
    );
}

#[test]
fn an_unusable_key_is_an_error_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential.key");
    let large = vec![b'k'; MAX_KEY + 1];
    for content in [&b""[..], b" \n\t\x1c", b"\xff\xfe", &large] {
        fs::write(&path, content).unwrap();
        let source = at(&path);
        unusable(&source);
        assert!(matches!(
            source.cipher_or_create(),
            Err(Error::KeyUnusable { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), content);
    }

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(at(&path).cipher_or_create().is_err());
    unusable(&at(&path));
    fs::remove_dir(&path).unwrap();

    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    unusable(&at(&path));
    fs::remove_file(&path).unwrap();

    let absent = folder.path().join("absent");
    symlink(&absent, &path).unwrap();
    assert!(unusable(&at(&path)).contains("symbolic link"));
    assert!(at(&path).cipher_or_create().is_err());
    assert!(!absent.exists());
}

#[test]
fn a_key_that_cannot_be_created_is_an_io_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = at(&folder.path().join("file/credential.key"))
        .cipher_or_create()
        .unwrap_err();
    assert!(matches!(error, Error::KeyUnusable { .. }), "{error:?}");

    // /proc refuses new folders, even to root.
    let error = at(Path::new("/proc/none-of-ours/credential.key"))
        .cipher_or_create()
        .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

#[test]
fn a_key_is_derived_once_until_the_file_holds_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential.key");
    fs::write(&path, "one").unwrap();
    let source = at(&path);
    let first = source.cipher().unwrap();
    assert!(Arc::ptr_eq(&first, &source.cipher().unwrap()));

    // A new file with the same text is read, but no key is derived.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "one\n").unwrap();
    assert!(Arc::ptr_eq(&first, &source.cipher().unwrap()));

    // Another text of the same length, written in place at once.
    fs::write(&path, "two\n").unwrap();
    let second = source.cipher().unwrap();
    let stored = CredentialCipher::derive("two").encrypt(&SecretValue::new("v"));
    assert_eq!(second.decrypt("K", &stored).unwrap().as_str(), "v");

    fs::remove_file(&path).unwrap();
    unusable(&source);
}

#[test]
fn a_settled_file_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential.key");
    fs::write(&path, "one").unwrap();
    let source = at(&path);
    let is_settled = || {
        source.cipher().unwrap();
        let derived = source.derived.lock();
        derived.as_ref().unwrap().files.is_some()
    };
    assert!(!is_settled());
    while !is_settled() {
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::write(folder.path().join("other"), "one").unwrap();
    fs::rename(folder.path().join("other"), &path).unwrap();
    assert!(!is_settled());
}

#[test]
fn processes_that_create_the_key_at_the_same_time_get_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential.key");
    let value = SecretValue::new("v");
    let start = std::sync::Barrier::new(8);
    let stored: Vec<String> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let source = at(&path);
                    start.wait();
                    source.cipher_or_create().unwrap().encrypt(&value)
                })
            })
            .collect();
        makers.into_iter().map(|m| m.join().unwrap()).collect()
    });
    let cipher = at(&path).cipher().unwrap();
    for stored in stored {
        assert_eq!(cipher.decrypt("K", &stored).unwrap(), value);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn printing_the_source_shows_nothing_of_the_key() {
    let source = KeySource::new(Some("hunter2".into()), "/nowhere".into());
    assert_eq!(
        format!("{source:?} {:?}", source.cipher().unwrap()),
        format!("KeySource({KEY_VARIABLE}) CredentialCipher")
    );
}

#[test]
fn a_key_that_others_may_open_causes_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential.key");
    fs::write(&path, "one").unwrap();
    for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let source = at(&path);
        source.cipher().unwrap();
        assert_eq!(source.warned.load(Ordering::Relaxed), warned, "{mode:o}");
    }
}
