//! Which paths are trusted, and which are refused.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

/// Another user.
const ANOTHER: u32 = 65_534;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn refusal(path: &Path) -> String {
    let error = open(path, OFlags::RDONLY).unwrap_err();
    assert!(is_untrusted(&error), "{error:?}");
    error.to_string()
}

fn read(path: &Path) -> String {
    io::read_to_string(open(path, OFlags::RDONLY).unwrap()).unwrap()
}

#[test]
fn links_of_this_user_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("dotfiles/deep")).unwrap();
    fs::write(at("dotfiles/deep/s.json"), "value").unwrap();
    symlink("dotfiles", at("dots")).unwrap();
    symlink("../dots/deep/../deep/s.json", at("dotfiles/link")).unwrap();
    symlink(at("dotfiles/link"), at("secrets.json")).unwrap();
    assert_eq!(read(&at("secrets.json")), "value");
    let real = at("dotfiles/deep/s.json").canonicalize().unwrap();
    assert_eq!(find(&at("secrets.json")).unwrap().path(), real);
    let inside = [at("dotfiles").canonicalize().unwrap()];
    assert!(
        find_outside(&at("secrets.json"), &inside)
            .unwrap()
            .is_none()
    );

    symlink("b", at("a")).unwrap();
    symlink("a", at("b")).unwrap();
    assert_eq!(
        find(&at("a")).err().unwrap().raw_os_error(),
        Some(libc::ELOOP)
    );
    assert!(find(&at("dotfiles/link/x")).is_err(), "below a file");
}

#[test]
fn missing_folders_and_files_are_created_privately() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c/f");
    assert!(find(&path).unwrap().stat().is_none());
    let error = open(&path, OFlags::RDONLY).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    open_or_create(&path, OFlags::RDWR).unwrap();
    for (path, mode) in [("a", 0o700), ("a/b/c", 0o700), ("a/b/c/f", 0o600)] {
        let metadata = fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
    assert!(create(&path, 0o600).is_err(), "it is there");
    let whole = dir.path().join("a/d/key");
    create_whole(&whole, b"one").unwrap();
    create_whole(&whole, b"two").unwrap();
    assert_eq!(read(&whole), "one");
    let dangling = dir.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    create_whole(&dangling, b"x").unwrap();
    assert!(!dir.path().join("nowhere").exists());
    assert_eq!(fs::read_dir(dir.path().join("a/d")).unwrap().count(), 1);
}

#[test]
fn nothing_that_others_can_write_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let path = folder.join("f");
    fs::create_dir(&folder).unwrap();
    fs::write(&path, "x").unwrap();
    for mode in [0o777, 0o757, 0o773] {
        chmod(&folder, mode);
        let said = refusal(&path);
        assert!(
            said.contains(&format!("chmod go-w {}", folder.display())),
            "{said}"
        );
        assert!(open_or_create(&folder.join("new"), OFlags::RDWR).is_err());
        assert!(create_whole(&folder.join("new"), b"").is_err());
        assert!(!folder.join("new").exists());
    }
    chmod(&folder, 0o1777);
    assert_eq!(read(&path), "x");
    assert!(find(&path).unwrap().refuse_shared_folder().is_err());
    fs::hard_link(&path, folder.join("g")).unwrap();
    assert!(refusal(&path).contains("hard link"));
    fs::remove_file(folder.join("g")).unwrap();
    chmod(&path, 0o666);
    assert!(refusal(&path).contains("chmod go-w"));
}

#[test]
fn nothing_of_another_user_is_used_or_followed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("theirs")).unwrap();
    fs::write(at("theirs/f"), "x").unwrap();
    fs::write(at("mine"), "x").unwrap();
    chown(at("theirs"), Some(ANOTHER), None).unwrap();
    assert!(
        refusal(&at("theirs/f")).contains("sudo chown 0"),
        "a folder"
    );
    // A file and a link in a folder where all may create some.
    fs::create_dir(at("shared")).unwrap();
    chmod(&at("shared"), 0o1777);
    symlink(at("mine"), at("shared/mine")).unwrap();
    assert_eq!(read(&at("shared/mine")), "x");
    for theirs in ["file", "link"] {
        let path = at("shared").join(theirs);
        match theirs {
            "file" => fs::write(&path, "x").unwrap(),
            _ => symlink(at("mine"), &path).unwrap(),
        }
        lchown(&path, Some(ANOTHER), None).unwrap();
        assert!(refusal(&path).contains("uid 65534"));
        assert!(open_or_create(&path, OFlags::RDWR).is_err());
    }
    symlink(at("shared"), at("link")).unwrap();
    symlink("nowhere", at("shared/dangling")).unwrap();
    lchown(at("shared/dangling"), Some(ANOTHER), None).unwrap();
    assert!(open_or_create(&at("link/dangling"), OFlags::RDWR).is_err());
    assert!(!at("shared/nowhere").exists());
}

#[test]
fn only_regular_files_are_opened_and_nothing_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from(0o600)).unwrap();
    for flags in [OFlags::RDONLY, OFlags::WRONLY | OFlags::APPEND] {
        let error = open(&fifo, flags).unwrap_err().to_string();
        assert_eq!(error, "it is a named pipe");
    }
    assert!(open(dir.path(), OFlags::RDONLY).is_err());
    assert!(open(Path::new("/"), OFlags::RDONLY).is_err());
}
