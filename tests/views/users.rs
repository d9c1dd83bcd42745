//! Who may read a view is decided by the kernel: owner, group and mode, wherever the view is bound. These tests act as other users, so
//! they need root.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use super::*;
use support::home::ready;
use support::user::{LIVE, User};

#[test]
fn two_users_read_their_own_views_and_nobody_elses_through_the_mount_a_bind_mount_and_proc() {
    if !is_root() {
        return;
    }
    let live = start();
    write(&live, "secrets/A", "a");
    write(&live, "secrets/B", "b");
    define(
        &live,
        "one",
        r#"{"secrets": ["A"], "user": "1001", "group": "3000", "mode": "0440"}"#,
    );
    define(&live, "two", r#"{"secrets": ["A", "B"], "user": 1002}"#);
    let bind = Bind::new(&view(&live, "two"), live.home("bind"));
    fs::set_permissions(
        live.home("bind").parent().unwrap(),
        PermissionsExt::from_mode(0o711),
    )
    .unwrap();
    let (views, bound) = (
        view(&live, "").display().to_string(),
        bind.0.display().to_string(),
    );
    assert_eq!(
        sh_as(1001, &format!("cat {views}/one/A; ls {views}/one")),
        "aA\n"
    );
    assert_eq!(
        sh_as(1002, &format!("cat {views}/two/B {bound}/B; ls {bound}")),
        "bbA\nB\n"
    );
    // The group of the view.
    let mut in_group = Command::new("setpriv");
    in_group.args([
        "--reuid",
        "1009",
        "--regid",
        "3000",
        "--clear-groups",
        "cat",
    ]);
    assert_eq!(ran(in_group.arg(format!("{views}/one/A"))).done(), "a");
    // A process of the other user that stands in the view, with a file of it open.
    let script = format!("cd {bound} && exec 3< B && echo && exec cat");
    let mut inside = ready(as_user(1002, "sh").args(["-c", &script]));
    let pid = inside.id();
    for path in [
        format!("{views}/two/A"),
        format!("{bound}/A"),
        format!("/proc/{pid}/root{bound}/A"),
        format!("/proc/{pid}/cwd/A"),
        format!("/proc/{pid}/fd/3"),
    ] {
        denied_as(1001, &format!("cat {path}"));
        denied_as(65_534, &format!("cat {path}"));
    }
    for folder in [&views, &format!("{views}/two"), &bound] {
        denied_as(1001, &format!("ls {folder}"));
    }
    drop(inside.stdin.take());
    inside.wait().unwrap();
    let file = fs::metadata(view(&live, "one/A")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (1001, 3000, 0o440)
    );
    let folder = fs::metadata(view(&live, "one")).unwrap();
    assert_eq!(
        (folder.uid(), folder.gid(), folder.mode() & 0o7777),
        (1001, 3000, 0o550)
    );
}

#[test]
fn a_user_who_is_taken_out_of_a_view_reads_nothing_new_through_what_they_hold() {
    if !is_root() {
        return;
    }
    for env in MODES {
        let live = start_with(Setup {
            env: env.to_vec(),
            ..Setup::default()
        });
        write(&live, "secrets/A", "old");
        define(&live, "v", r#"{"secrets": ["A"], "user": "1001"}"#);
        let bind = Bind::new(&view(&live, "v"), live.home("bind"));
        let bound = bind.0.display();
        // Reads, by its working folder, its open file and the bind mount, at each line of input.
        let script = format!(
            "cd {bound}; exec 3< A; while read x; do \
             echo \"$(cat A 2>&1) | $(cat {bound}/A 2>&1) | $(cat /proc/self/fd/3 2>&1)\"; done"
        );
        let mut user = as_user(1001, "sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(user.stdout.take().unwrap()).lines();
        let mut orders = user.stdin.take().unwrap();
        let mut look = || {
            orders.write_all(b"\n").unwrap();
            said.next().unwrap().unwrap()
        };
        assert_eq!(look(), "old | old | old");
        define(&live, "v", r#"{"secrets": ["A"], "user": "1002"}"#);
        write(&live, "secrets/A", "new");
        let seen = look();
        assert!(!seen.contains("new"), "{env:?}: {seen}");
        assert_eq!(seen.matches("Permission denied").count(), 2, "{seen}");
        assert_eq!(sh_as(1002, &format!("cat {bound}/A")), "new");
        define(&live, "v", r#"{"secrets": ["A"], "user": "1001"}"#);
        assert!(look().starts_with("new | new"));
        live.sh("rm views/v.json");
        write(&live, "secrets/A", "newest");
        let seen = look();
        assert!(!seen.contains("newest"), "{seen}");
        assert_eq!(
            sh_as(1001, &format!("ls {bound}")),
            "",
            "the folder is empty"
        );
        drop(orders);
        user.wait().unwrap();
    }
}

#[test]
fn a_bound_folder_shows_new_and_removed_names_and_is_the_same_after_its_view_was_made_again() {
    if !is_root() {
        return;
    }
    for env in MODES {
        let live = start_with(Setup {
            env: env.to_vec(),
            ..Setup::default()
        });
        write(&live, "secrets/A", "a");
        define(&live, "v", r#"{"secrets": ["A", "B"]}"#);
        define(&live, "other", r#"{"secrets": ["A"]}"#);
        let bind = Bind::new(&view(&live, "v"), live.home("bind"));
        // The kernel keeps the listing.
        assert_eq!(names(&bind.0), ["A"]);
        write(&live, "secrets/B", "b");
        assert_eq!(names(&bind.0), ["A", "B"]);
        live.sh("rm secrets/A");
        assert_eq!(names(&bind.0), ["B"]);
        define(&live, "v", r#"{"files": {"x": "B"}}"#);
        assert_eq!(names(&bind.0), ["x"]);
        kill_part(&live, "server_pid");
        live.sh("rm views/v.json");
        assert_eq!(names(&bind.0), [""; 0]);
        assert!(File::open(bind.0.join("x")).is_err());
        define(&live, "v", r#"{"secrets": ["B"], "user": "1001"}"#);
        assert_eq!(names(&bind.0), ["B"]);
        assert_eq!(fs::metadata(&bind.0).unwrap().uid(), 1001);
    }
}

#[test]
fn an_ordinary_user_mounts_views_and_others_read_them_only_if_the_system_allows_it() {
    if !is_root() {
        return;
    }
    let user = User::new("nobody");
    let views = user.folder_beside("views", 0o755, user.uid());
    user.write(
        ".simpletuner/live.yaml",
        &format!("views_dir: {}\n", views.display()),
    );
    user.run(&["mount"]).done();
    user.set_secret(LIVE);
    let created = user.run(&["view", "create", "v", "--secret", "K", "--user", "1001"]);
    let said = created.err.clone();
    created.done();
    user.run(&["view", "create", "own", "--secret", "K"]).done();
    assert_eq!(user.sh(&format!("cat {}/own/K", views.display())), "v");
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let is_allowed = conf.lines().any(|line| line.trim() == "user_allow_other");
    let status: serde_json::Value =
        serde_json::from_str(&user.sh(&format!("cat {LIVE}/status"))).unwrap();
    assert_eq!(status["views"]["allow_other"], is_allowed);
    let cat = format!("cat {}/v/K", views.display());
    match is_allowed {
        true => assert_eq!(sh_as(1001, &cat), "v"),
        false => {
            denied_as(1001, &cat);
            assert!(said.contains("user_allow_other"), "{said}");
        }
    }
    // Not even root looks into an ordinary user's mount otherwise, and the owner unmounts both.
    user.run(&["umount"]).done();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&views.display().to_string()), "{table}");
}

#[test]
fn a_view_can_be_mounted_with_mapped_users() {
    if !is_root() {
        return;
    }
    let live = start();
    write(&live, "secrets/A", "a");
    define(
        &live,
        "v",
        r#"{"secrets": ["A"], "user": "1001", "group": "1001"}"#,
    );
    // A user namespace in which 1001 is 101001 of this one.
    let mut holder = ready(Command::new("unshare").args(["-U", "sh", "-c", "echo; exec cat"]));
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{map}", holder.id()), "0 100000 65536").unwrap();
    }
    let namespace = File::open(format!("/proc/{}/ns/user", holder.id())).unwrap();
    let mapped = live.home("mapped");
    fs::create_dir(&mapped).unwrap();
    let result = mount_mapped(&view(&live, "v"), &mapped, &namespace);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    match result.err().and_then(|error| error.raw_os_error()) {
        None => {}
        // Before Linux 6.12.
        Some(libc::EINVAL | libc::ENOSYS) => {
            return eprintln!("skipped: this kernel maps no users here");
        }
        other => panic!("{other:?}"),
    }
    let _unmount = Unmount(mapped.clone());
    let path = mapped.join("A");
    assert_eq!(fs::metadata(&path).unwrap().uid(), 101_001);
    assert_eq!(sh_as(101_001, &format!("cat {}", path.display())), "a");
    denied_as(1001, &format!("cat {}", path.display()));
    write(&live, "secrets/A", "new");
    assert_eq!(sh_as(101_001, &format!("cat {}", path.display())), "new");
}

#[test]
fn a_bind_mount_of_a_single_file_keeps_its_value() {
    if !is_root() {
        return;
    }
    let live = start();
    write(&live, "secrets/A", "old");
    define(&live, "v", r#"{"secrets": ["A"]}"#);
    let file = live.home("file");
    fs::write(&file, "").unwrap();
    let bound = Command::new("mount")
        .arg("--bind")
        .arg(view(&live, "v/A"))
        .arg(&file)
        .status();
    assert!(bound.unwrap().success());
    let _unmount = Unmount(file.clone());
    write(&live, "secrets/A", "new");
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// As `mount --bind -o X-mount.idmap=` of newer systems.
fn mount_mapped(from: &Path, to: &Path, namespace: &File) -> std::io::Result<()> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, from, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path and the attributes live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    move_mount(
        &tree,
        "",
        rustix::fs::CWD,
        to,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}
