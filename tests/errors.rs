//! Each row of the table of errors in `docs/operation.md`: a program on the mount gets the errno, nothing has changed, and the daemon's log
//! has the reason, with the key's name and never with its value. One file, because the table is one.

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::home::is_root;
use support::{Live, Setup, alone, wait_until};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EPERM: i32 = 1;
const EBUSY: i32 = 16;
const EXDEV: i32 = 18;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const EILSEQ: i32 = 84;
const EKEYREJECTED: i32 = 129;

/// The errno when a file of the mount is read.
fn read_errno(live: &Live, path: &str) -> i32 {
    match fs::read(live.path(path)) {
        Ok(_) => panic!("{path} could be read"),
        Err(error) => error.raw_os_error().unwrap(),
    }
}

/// The errno when a file of the mount is written and closed.
fn write_errno(live: &Live, path: &str, content: &[u8]) -> i32 {
    try_write(live, path, content).expect_err(path)
}

fn try_write(live: &Live, path: &str, content: &[u8]) -> Result<(), i32> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(live.path(path))?;
        file.write_all(content)?;
        close(file)
    };
    write().map_err(|error: std::io::Error| error.raw_os_error().unwrap())
}

/// close(2), whose error is lost when a `File` is dropped.
fn close(file: fs::File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: `into_raw_fd` has just given up the ownership.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The daemon's log so far.
fn log(live: &Live) -> String {
    fs::read_to_string(live.home("daemon.log")).unwrap()
}

/// Waits until the log has these words; it must not have the value.
fn logged(live: &Live, words: &[&str]) {
    wait_until("the log has the reason", || {
        log(live)
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    });
}

fn store(live: &Live) -> String {
    fs::read_to_string(live.home(".simpletuner/secrets.json")).unwrap()
}

#[test]
fn a_key_that_no_provider_has_is_enoent() {
    let _alone = alone();
    let live = Live::start();
    assert_eq!(read_errno(&live, "secrets/NONE"), ENOENT);
    let error = fs::remove_file(live.path("secrets/NONE")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ENOENT));
    let error = fs::rename(live.path("secrets/NONE"), live.path("secrets/OTHER")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ENOENT));
}

#[test]
fn a_malformed_secrets_file_fails_reads_and_writes_and_stays_as_it_is() {
    let _alone = alone();
    for content in ["", "{\"K\": \"half", "[1, 2]", "\"text\"", "nonsense {"] {
        let live = Live::start_with(Setup {
            files: vec![(".simpletuner/secrets.json", content)],
            env: vec![("HF_TOKEN", "from-env")],
            ..Setup::default()
        });
        assert_eq!(read_errno(&live, "secrets/K"), EIO, "{content:?}");
        assert_eq!(
            write_errno(&live, "secrets/K", b"hidden-value"),
            EIO,
            "{content:?}"
        );
        // The bundle has the other providers' secrets, and names the provider that is missing.
        assert_eq!(
            live.json("bundle/secrets.json"),
            json!({"HF_TOKEN": "from-env"})
        );
        assert_eq!(
            live.sh("getfattr --only-values -n user.simpletuner.missing bundle/secrets.json"),
            "file",
        );
        assert_eq!(store(&live), content);
        let report = live.json("providers/file");
        assert!(report["last_error"].is_string(), "{report}");
        // The other providers still serve.
        assert_eq!(live.read("secrets/HF_TOKEN"), "from-env");
        logged(&live, &["failed for K", "secrets.json"]);
        logged(&live, &["K: the secrets file", "malformed"]);
        assert!(!log(&live).contains("hidden-value"));
        assert!(!log(&live).contains("half"), "{}", log(&live));
        // A repaired file is used without a restart.
        fs::write(
            live.home(".simpletuner/secrets.json"),
            "{\"K\": \"mended\"}",
        )
        .unwrap();
        let repaired = || fs::read(live.path("secrets/K")).is_ok_and(|value| value == b"mended");
        wait_until("the repaired file is used", repaired);
    }
}

#[test]
fn a_malformed_file_where_there_was_none_may_have_any_key() {
    let live = Live::start();
    assert_eq!(read_errno(&live, "secrets/K"), ENOENT);
    let store = live.home(".simpletuner/secrets.json");
    fs::write(&store, "{\"K\": \"ha").unwrap();
    wait_until("the file is noticed", || {
        live.json("providers/file")["last_error"].is_string()
    });
    assert_eq!(read_errno(&live, "secrets/K"), EIO);
    assert_eq!(write_errno(&live, "secrets/K", b"new"), EIO);
    fs::remove_file(&store).unwrap();
    wait_until("the file is gone", || {
        read_errno(&live, "secrets/K") == ENOENT
    });
}

#[test]
fn a_file_that_is_mounted_by_itself_is_read_and_a_write_says_why_it_is_refused() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let home = support::scratch_home();
    let folder = home.path().join(".simpletuner");
    fs::create_dir(&folder).unwrap();
    let (store, outside) = (
        folder.join("secrets.json"),
        home.path().join("outside.json"),
    );
    for file in [&store, &outside] {
        fs::write(file, "{\"A\": \"bound\"}").unwrap();
    }
    let mount = |args: &[&std::ffi::OsStr]| {
        let mounted = std::process::Command::new(args[0])
            .args(&args[1..])
            .status();
        assert!(mounted.unwrap().success());
    };
    mount(&[
        "mount".as_ref(),
        "--bind".as_ref(),
        outside.as_ref(),
        store.as_ref(),
    ]);
    let live = Live::start_in(home, Setup::default());
    let (read, written) = (
        live.read("secrets/A"),
        write_errno(&live, "secrets/B", b"new"),
    );
    let set = live.cli().args(["set", "B", "new"]).output().unwrap();
    let adopted = live.cli().arg("adopt").output().unwrap();
    let stored = fs::read_to_string(&store).unwrap();
    mount(&["umount".as_ref(), store.as_ref()]);
    assert_eq!((read.as_str(), written), ("bound", EBUSY));
    assert_eq!(stored, "{\"A\": \"bound\"}");
    let names = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names
        .filter(|name| name.to_string_lossy().contains("store"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    for refused in [set, adopted] {
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(
            said.contains("mounted as a single file") && said.contains("mount the folder"),
            "{said}"
        );
    }
    logged(&live, &["B: ", "mounted as a single file"]);
    logged(&live, &["can be read, and none can be written"]);
}

#[test]
fn the_cached_document_is_served_while_the_file_is_malformed() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "held");
    assert_eq!(live.read("secrets/K"), "held");
    fs::write(live.home(".simpletuner/secrets.json"), "{\"K\": \"ha").unwrap();
    assert_eq!(live.read("secrets/K"), "held");
    assert_eq!(write_errno(&live, "secrets/K", b"new"), EIO);
    assert_eq!(store(&live), "{\"K\": \"ha");
}

#[test]
fn a_value_that_cannot_be_decrypted_is_ekeyrejected_and_the_others_work() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/BAD", "hidden-value");
    live.write("secrets/KEPT", "kept");
    let store = json_of_store(&live);
    let stored = store["BAD"].as_str().unwrap().to_owned();
    let mut damaged = stored.into_bytes();
    let middle = damaged.len() / 2;
    damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).unwrap();
    let home = live.stop();
    let file = home.path().join(".simpletuner/secrets.json");
    // One value of the key shows that it is the file's.
    let store = json!({"BAD": damaged, "GOOD": "plain", "KEPT": store["KEPT"]});
    fs::write(&file, store.to_string()).unwrap();
    let live = Live::start_in(
        home,
        Setup {
            env: vec![("GOOD_TOO", "e")],
            ..Setup::default()
        },
    );
    assert_eq!(read_errno(&live, "secrets/BAD"), EKEYREJECTED);
    assert_eq!(live.read("secrets/GOOD"), "plain");
    assert_eq!(live.read("secrets/GOOD_TOO"), "e");
    assert_eq!(live.sh("ls secrets"), "BAD\nGOOD\nKEPT\n");
    assert_eq!(
        live.json("bundle/secrets.json"),
        json!({"GOOD": "plain", "KEPT": "kept"})
    );
    logged(&live, &["BAD cannot be decrypted"]);
    // A program that rewrites the bundle does not delete secrets that it could not see.
    live.sh(
        "python3 -c \"import json; p = 'bundle/secrets.json'; d = json.load(open(p)); d['NEW'] = 'n'; \
         f = open(p, 'w'); json.dump(d, f); f.close()\"",
    );
    assert_eq!(live.read("secrets/NEW"), "n");
    assert_eq!(json_of_store(&live)["BAD"], damaged);
    // A new value can replace it.
    live.write("secrets/BAD", "mended");
    assert_eq!(live.read("secrets/BAD"), "mended");
    assert!(!log(&live).contains("hidden-value"));
}

fn json_of_store(live: &Live) -> Value {
    serde_json::from_str(&store(live)).unwrap()
}

#[test]
fn a_wrong_or_unusable_key_is_ekeyrejected_and_never_overwritten() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "hidden-value");
    let home = live.stop();
    let key = home.path().join(".simpletuner/credential.key");
    let stored = fs::read_to_string(home.path().join(".simpletuner/secrets.json")).unwrap();
    for content in ["", " \n", "another key"] {
        fs::write(&key, content).unwrap();
        let live = Live::start_in(copy_of(home.path()), Setup::default());
        assert_eq!(read_errno(&live, "secrets/K"), EKEYREJECTED, "{content:?}");
        if content.trim().is_empty() {
            assert_eq!(
                write_errno(&live, "secrets/K", b"hidden-value"),
                EKEYREJECTED
            );
            assert_eq!(
                write_errno(&live, "secrets/NEW", b"hidden-value"),
                EKEYREJECTED
            );
            assert_eq!(store(&live), stored);
            logged(&live, &["K: the key", "credential.key"]);
            logged(&live, &["NEW: the key"]);
        } else {
            logged(&live, &["K cannot be decrypted"]);
        }
        assert_eq!(
            fs::read_to_string(live.home(".simpletuner/credential.key")).unwrap(),
            content
        );
        assert!(!log(&live).contains("hidden-value"));
        // Before the copy of the home is deleted.
        drop(live);
    }
}

/// A home with the same secrets and the same key.
fn copy_of(home: &std::path::Path) -> tempfile::TempDir {
    let copy = support::scratch_home();
    fs::create_dir(copy.path().join(".simpletuner")).unwrap();
    for file in ["secrets.json", "credential.key"] {
        let file = format!(".simpletuner/{file}");
        fs::copy(home.join(&file), copy.path().join(&file)).unwrap();
    }
    copy
}

#[test]
fn creating_an_invalid_name_is_einval() {
    let _alone = alone();
    let live = Live::start();
    for name in ["-dash", "a b", "a=b", "é", "a\nb", "a:b"] {
        assert_eq!(
            write_errno(&live, &format!("secrets/{name}"), b"hidden-value"),
            EINVAL,
            "{name:?}"
        );
        live.write("secrets/K", "v");
        let error = fs::rename(
            live.path("secrets/K"),
            live.path(&format!("secrets/{name}")),
        )
        .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EINVAL), "{name:?}");
    }
    assert_eq!(live.sh("ls -A secrets"), "K\n");
    logged(&live, &["a b", "valid"]);
    assert!(!log(&live).contains("hidden-value"));
}

#[test]
fn a_value_that_is_too_large_or_not_utf8_is_refused_and_changes_nothing() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "old");
    let large = vec![b'x'; 64 * 1024 + 1];
    assert_eq!(write_errno(&live, "secrets/K", &large), EFBIG);
    assert_eq!(write_errno(&live, "secrets/K", &vec![b'x'; 1 << 20]), EFBIG);
    assert_eq!(write_errno(&live, "secrets/NEW", &large), EFBIG);
    assert_eq!(write_errno(&live, "secrets/K", b"hidden-value\xff"), EILSEQ);
    assert_eq!(write_errno(&live, "secrets/NEW", b"\xc3"), EILSEQ);
    assert_eq!(live.read("secrets/K"), "old");
    assert_eq!(live.sh("ls -A secrets"), "K\n");
    logged(&live, &["the value of K", "UTF-8"]);
    logged(&live, &["K is too large"]);
    assert!(!log(&live).contains("hidden-value"));
}

#[test]
fn malformed_documents_fail_at_close_and_change_nothing() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "old");
    let before = (store(&live), live.read("hardware/all.json"));
    for (path, contents) in [
        (
            "bundle/secrets.json",
            &[
                "{",
                "",
                "[]",
                "{\"K\": 1}",
                "{\"K\": [\"hidden-value\"]}",
                "{\"a b\": \"hidden-value\"}",
                "{\"K\": \"hidden-value\"",
            ][..],
        ),
        (
            "bundle/secrets.yaml",
            &["K: [hidden-value", "- K", "K: {a: hidden-value}"],
        ),
        (
            "hardware/all.json",
            &[
                "{",
                "[]",
                "{\"x\": 1}",
                "{\"x\": {\"name\": \"X\"}}",
                "{\"../x\": {\"name\": \"X\", \"cost_per_second\": 1}}",
            ],
        ),
        (
            "hardware/gpu-l40s.json",
            &[
                "",
                "{",
                "1",
                "{\"name\": \"L\"}",
                "{\"cost_per_second\": 1}",
                "{\"name\": \"L\", \"cost_per_second\": -1}",
                "{\"name\": \"L\", \"cost_per_second\": NaN}",
                "{\"name\": \"L\", \"cost_per_second\": 1e999}",
                "{\"name\": \"L\", \"cost_per_second\": \"1\"}",
                "{\"name\": 1, \"cost_per_second\": 1}",
                "{\"name\": \"\", \"cost_per_second\": 1}",
            ],
        ),
        ("hardware/new.json", &["{\"name\": \"L\"}"]),
        ("cache/invalidate", &["", "\n", "a\nb", "\u{1}"]),
        ("cache/secrets/invalidate", &[""]),
    ] {
        for content in contents {
            assert_eq!(
                write_errno(&live, path, content.as_bytes()),
                EINVAL,
                "{path}: {content:?}"
            );
        }
    }
    assert_eq!((store(&live), live.read("hardware/all.json")), before);
    assert!(!live.path("hardware/new.json").exists());
    assert_eq!(live.read("secrets/K"), "old");
    logged(&live, &["the price", "cost_per_second"]);
    assert!(!log(&live).contains("hidden-value"), "{}", log(&live));
}

#[test]
fn a_key_of_another_provider_cannot_be_removed_or_renamed() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        env: vec![("HF_TOKEN", "hidden-value")],
        ..Setup::default()
    });
    let path = live.path("secrets/HF_TOKEN");
    let removed = || fs::remove_file(&path).unwrap_err().raw_os_error();
    assert_eq!(removed(), Some(EPERM));
    let error = fs::rename(&path, live.path("secrets/OTHER")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EPERM));
    logged(&live, &["HF_TOKEN", "environment"]);
    // The file's entry is removed; the name stays, because another provider has it.
    live.write("secrets/HF_TOKEN", "of-the-file");
    assert!(store(&live).contains("HF_TOKEN"));
    assert_eq!(live.read("secrets/HF_TOKEN"), "hidden-value");
    fs::remove_file(&path).unwrap();
    assert!(!store(&live).contains("HF_TOKEN"));
    assert_eq!(live.read("secrets/HF_TOKEN"), "hidden-value");
    assert_eq!(removed(), Some(EPERM));
    assert!(!log(&live).contains("hidden-value"));
}

#[test]
fn moves_across_folders_and_exchanges_are_refused() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "v");
    live.write("secrets/L", "w");
    let error = fs::rename(live.path("secrets/K"), live.path("hardware/K.json")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EXDEV));
    let error = rustix::fs::renameat_with(
        rustix::fs::CWD,
        live.path("secrets/K"),
        rustix::fs::CWD,
        live.path("secrets/L"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap_err();
    assert_eq!(error.raw_os_error(), EINVAL);
    assert_eq!(
        (live.read("secrets/K"), live.read("secrets/L")),
        ("v".into(), "w".into())
    );
    let error =
        fs::set_permissions(live.path("secrets/K"), PermissionsExt::from_mode(0o640)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EPERM));
}

#[test]
fn a_full_disk_fails_the_write_and_leaves_the_old_file_whole() {
    let _alone = alone();
    let home = support::scratch_home();
    let dir = home.path().join("small");
    fs::create_dir(&dir).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&dir)
        .status()
        .unwrap();
    assert!(mounted.success(), "a small tmpfs can be mounted");
    let unmount = Unmount(dir.clone());
    fs::create_dir(home.path().join(".simpletuner")).unwrap();
    let settings = format!("file_path: {}\n", dir.join("secrets.json").display());
    fs::write(home.path().join(".simpletuner/live.yaml"), settings).unwrap();
    let live = Live::start_in(home, Setup::default());
    live.write("secrets/K", "old");
    let before = fs::read_to_string(dir.join("secrets.json")).unwrap();
    assert_eq!(
        write_errno(&live, "secrets/K", "x".repeat(60_000).as_bytes()),
        28
    );
    assert_eq!(
        fs::read_to_string(dir.join("secrets.json")).unwrap(),
        before
    );
    assert_eq!(live.read("secrets/K"), "old");
    logged(&live, &["K: ", "No space left"]);
    live.write("secrets/K", "new");
    assert_eq!(live.read("secrets/K"), "new");
    drop(live);
    drop(unmount);
}

/// A mount for this test, unmounted when dropped.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn another_user_gets_eacces() {
    if !support::home::is_root() {
        return;
    }
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "v");
    // Lets others pass the home folder, so that only the mount refuses.
    for dir in ["", ".simpletuner"] {
        fs::set_permissions(live.home(dir), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let output = live
        .command("python3")
        .current_dir("/")
        .args(["-c", "import os, sys
os.setgid(65534); os.setuid(65534)
for op in (lambda: open(sys.argv[1]).read(), lambda: os.listdir(sys.argv[2]), lambda: open(sys.argv[1], 'w')):
    try: op(); print('let in')
    except OSError as e: print(e.errno)"])
        .args([live.path("secrets/K"), live.path("secrets")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{EACCES}\n").repeat(3));
    assert_eq!(live.read("secrets/K"), "v");
}

#[test]
fn an_open_for_reading_and_a_close_without_a_write_change_nothing() {
    let _alone = alone();
    let live = Live::start();
    live.write("secrets/K", "v");
    let before = store(&live);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(live.path("secrets/K"))
        .unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    close(file).unwrap();
    assert_eq!((text.as_str(), store(&live)), ("v", before));
}

#[test]
fn an_attribute_of_every_folder_has_the_reason_why_a_key_failed_last() {
    let _alone = alone();
    let live = Live::start_with(Setup {
        files: vec![(".simpletuner/secrets.json", "{\"K\": \"half")],
        ..Setup::default()
    });
    assert_eq!(read_errno(&live, "secrets/K"), EIO);
    for folder in [
        ".",
        "secrets",
        "bundle",
        "cache",
        "cache/secrets",
        "hardware",
        "providers",
    ] {
        let reason = |key: &str| {
            let attribute = format!("user.simpletuner.error.{key}");
            live.try_sh(&format!("getfattr --only-values -n {attribute} {folder}"))
        };
        let of_key = String::from_utf8(reason("K").stdout).unwrap();
        assert!(of_key.contains("malformed"), "{folder}: {of_key}");
        assert!(!reason("OTHER").status.success(), "{folder}");
    }
}
