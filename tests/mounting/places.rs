//! Places that can be mounted on, and those that cannot.

use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use support::home::is_mounted;

#[test]
fn a_place_that_cannot_be_mounted_on_is_refused_in_one_sentence_that_says_what_to_do() {
    for user in users() {
        user.sh("mkdir full sub; touch full/x file; ln -s file link; ln -s full way");
        user.folder_beside("roots", 0o755, 0);
        let home = user.path("").display().to_string();
        let home = home.trim_end_matches('/');
        let roots = user.scratch.path("roots").display().to_string();
        let mut cases = vec![
            (
                "/".to_owned(),
                "/ cannot be a mount point: a mount would hide",
            ),
            (
                home.to_owned(),
                "cannot be a mount point: a mount would hide",
            ),
            (
                "full".to_owned(),
                "full is not empty: a mount would hide what is in it; choose an empty folder",
            ),
            ("way".to_owned(), "full is not empty"),
            (
                "file".to_owned(),
                "file is not a folder; choose another folder",
            ),
            (
                "link".to_owned(),
                "file is not a folder; choose another folder",
            ),
            (
                "file/live".to_owned(),
                "file is not a folder; choose another folder",
            ),
        ];
        if !user.is_root() {
            cases.push((
                roots.clone(),
                "who may not write to it; choose a folder of your own, or type: sudo chown nobody",
            ));
            cases.push((
                format!("{roots}/new/live"),
                "is not yours to write to; choose another folder",
            ));
            let closed = user.folder_beside("closed", 0o700, 0);
            cases.push((
                closed.display().to_string(),
                "who may not look into it; choose a folder of your own, or, if it is empty, type: sudo chown nobody",
            ));
            let full = user.folder_beside("full", 0o755, 0);
            user.scratch.sh("touch full/x");
            cases.push((
                full.display().to_string(),
                "choose a folder of your own: `simpletuner-live mount DIR`",
            ));
        }
        for (place, words) in cases {
            let failed = user.run(&["mount", &place]).failed();
            let said = sentence(&failed);
            assert!(said.contains(words), "{place}: {said}");
            assert!(!said.contains("os error"), "{place}: {said}");
            assert!(mounts_below(user.scratch.0.path()).is_empty(), "{place}");
        }
        let failed = user.run(&["mount", "/proc/sub"]).failed();
        assert!(
            sentence(&failed).contains("choose another folder"),
            "{failed}"
        );
        for place in ["sub", "./new/sub", "way/../sub"] {
            user.run(&["mount", place]).done();
            user.run(&["status", place]).done();
            user.run(&["umount", place]).done();
        }
        assert!(!is_mounted_below(user.scratch.0.path()));
    }
}

#[test]
fn in_a_folder_that_was_removed_the_usual_mount_works_and_a_relative_path_says_why_it_does_not() {
    for user in users() {
        let script = |args: &str| {
            let program = user.scratch.path("program");
            format!(
                "mkdir ~/gone; cd ~/gone; rmdir ~/gone; exec '{}' {args}",
                program.display()
            )
        };
        user.mounts
            .borrow_mut()
            .push(user.path(support::user::LIVE));
        for args in ["mount", "status", "mount", "umount"] {
            user.sh(&script(args));
        }
        for command in ["mount", "status", "umount", "reload"] {
            let failed = user.try_sh(&script(&format!("{command} live"))).failed();
            assert!(
                sentence(&failed)
                    .contains("working folder, which no longer exists; give an absolute path"),
                "{failed}"
            );
        }
        assert!(!is_mounted_below(user.scratch.0.path()));
    }
}

#[test]
fn a_mount_point_may_have_any_name() {
    for user in users() {
        for name in [
            &b"a b"[..],
            b"two\nlines",
            b"tab\tquote'\"",
            b"back\\040slash",
            b"\xff\xfe",
            b"-dash",
            b"~",
        ] {
            let dir = user.path("").join(OsStr::from_bytes(name)).join("live");
            user.mounts.borrow_mut().push(dir.clone());
            let run = |args: &[&str]| {
                let mut command = user.command(user.scratch.path("program"));
                ran(command.args(args).arg("--").arg(&dir))
            };
            let mounted = run(&["mount"]);
            assert_eq!(mounted.code, 0, "{name:?}: {}", mounted.err);
            assert!(is_mounted(&dir), "{name:?}");
            for args in [
                &["mount"][..],
                &["status"],
                &["reload", "--force"],
                &["upgrade", "--force"],
            ] {
                let done = run(args);
                assert_eq!(done.code, 0, "{name:?} {args:?}: {}", done.err);
            }
            let mut command = user.command("sh");
            let script = "printf v > \"$1\"/secrets/K && cat \"$1\"/secrets/K";
            assert_eq!(
                ran(command.args(["-c", script, "sh"]).arg(&dir)).done(),
                "v"
            );
            run(&["umount"]).done();
            assert!(!is_mounted(&dir), "{name:?}");
        }
    }
}
