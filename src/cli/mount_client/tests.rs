//! What a client makes of a folder that looks like a mount.

use super::*;

/// A plain folder that looks like a mount.
fn folder() -> (tempfile::TempDir, MountClient) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["secrets", "providers"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let client = MountClient::new(folder.path());
    (folder, client)
}

fn key(name: &str) -> SecretName {
    SecretName::new(name).unwrap()
}

#[test]
fn secrets_are_set_read_listed_and_removed_through_files() {
    let (folder, client) = folder();
    client.set(&key("B"), b"two").unwrap();
    client.set(&key("A"), b"one").unwrap();
    fs::write(folder.path().join("secrets/.scratch"), "").unwrap();
    assert_eq!(client.get(&key("A")).unwrap().as_slice(), b"one");
    let listed = client.list(Detail::All, &|_| true).unwrap();
    let shown: Vec<_> = listed.iter().map(|l| (l.name.as_str(), l.size)).collect();
    assert_eq!(shown, [("A", Some(3)), ("B", Some(3))]);
    client.remove(&key("A")).unwrap();
    assert!(matches!(
        client.get(&key("A")),
        Err(Failure::Error(Error::NotFound { name })) if name == "A"
    ));
}

#[test]
fn an_errno_becomes_its_error_and_names_only_providers_that_fail() {
    let (folder, client) = folder();
    let providers = folder.path().join("providers");
    let report = |name: &str, report: &str| {
        fs::write(providers.join(name), report).unwrap();
    };
    report(
        "environment",
        r#"{"name": "environment", "priority": 1, "available": true, "last_error": null}"#,
    );
    // An error of an earlier operation: the provider is available.
    report(
        "file",
        r#"{"name": "file", "priority": 2, "available": true, "last_error": "it was 0 bytes long"}"#,
    );
    report(
        "vault",
        r#"{"name": "vault", "priority": 4, "available": false, "last_error": "it is sealed"}"#,
    );
    for (errno, words) in [
        (libc::ENOENT, "no such secret: K"),
        (
            libc::EIO,
            "cannot write K: the vault provider fails: it is sealed",
        ),
        (
            libc::EKEYREJECTED,
            "K cannot be decrypted: the key is wrong, or the stored value is damaged; the daemon's log says more",
        ),
        (
            libc::EFBIG,
            "the value of K is too large: at most 65536 bytes",
        ),
        (libc::EILSEQ, "the value of K is not UTF-8 text"),
        (libc::EPERM, "cannot write K: Operation not permitted"),
        (libc::ENOSPC, "cannot write K: No space left on device"),
    ] {
        let error = io::Error::from_raw_os_error(errno);
        assert_eq!(client.failure(&key("K"), "write", error).message(), words);
    }
}

#[test]
fn the_servers_own_reason_replaces_the_errnos_message() {
    let (folder, client) = folder();
    let secrets = folder.path().join("secrets");
    let set_reason = |name: &str, reason: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&secrets, name, reason.as_bytes(), flags)
    };
    if set_reason("user.simpletuner.error.K", "vault provider: it is sealed\n")
        == Err(rustix::io::Errno::OPNOTSUPP)
    {
        eprintln!("skipped: the scratch folder keeps no extended attributes");
        return;
    }
    set_reason(
        "user.simpletuner.error.L",
        "L cannot be decrypted: another key",
    )
    .unwrap();
    let failure = |name: &str, errno| {
        let error = io::Error::from_raw_os_error(errno);
        client.failure(&key(name), "read", error).message()
    };
    assert_eq!(
        failure("K", libc::EIO),
        "cannot read K: vault provider: it is sealed"
    );
    assert_eq!(
        failure("L", libc::EKEYREJECTED),
        "L cannot be decrypted: another key"
    );
    assert_eq!(failure("L", libc::ENOENT), "no such secret: L");
    assert_eq!(
        failure("M", libc::EILSEQ),
        "the value of M is not UTF-8 text"
    );
}
