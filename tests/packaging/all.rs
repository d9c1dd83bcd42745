//! `upgrade --all`: which mounts it changes, and as which user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::home::{Home, is_root, ran};
use crate::support::user::User;

/// The file that the server of this process number runs.
fn program_of(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

/// A package manager puts a new file in the program's place.
fn replace(program: &Path, home: &Home) {
    let program = program.display();
    home.sh(&format!(
        "install -m 755 '{program}' new && mv new '{program}'"
    ));
}

#[test]
fn the_mounts_of_all_users_that_run_this_program_are_upgraded() {
    if !is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let user = User::new("nobody");
    let program = user.scratch.path("program");
    // Another program of the same content; a user's mount of it is theirs to upgrade.
    user.scratch.sh("install -m 755 program other");
    user.run(&["mount"]).done();
    user.set_secret("~/.simpletuner/live");
    let other = user.path("other");
    ran(user
        .command(user.scratch.path("other"))
        .args(["mount", "other"]))
    .done();
    user.mounts.borrow_mut().push(other.clone());
    let roots = user.scratch.path("roots");
    user.scratch
        .sh("mkdir root-home; HOME=$PWD/root-home ./program mount roots");

    let before = [user.pids("~/.simpletuner/live")[1], user.pids("~/other")[1]];
    let before = before.map(program_of);
    replace(&program, &user.scratch);
    let root = |args: &str| {
        user.scratch.sh(&format!(
            "HOME=$PWD/root-home ./program {args} 2>&1 || true"
        ))
    };
    // An ordinary user upgrades their own, and no other.
    // Other tests may have mounts of the same user, which need not answer.
    let said: Value = serde_json::from_str(&user.run(&["upgrade", "--all", "--json"]).out).unwrap();
    let home = user.path("");
    let is_here = |one: &&Value| Path::new(one["mount_point"].as_str().unwrap()).starts_with(&home);
    let ours = said.as_array().unwrap().iter().filter(is_here);
    let outcomes: Vec<_> = ours.map(|one| (&one["user"], &one["outcome"])).collect();
    let nobody = json!(user.uid());
    assert_eq!(
        outcomes,
        [(&nobody, &json!("upgraded")), (&nobody, &json!("left"))],
        "{said}"
    );
    assert_ne!(program_of(user.pids("~/.simpletuner/live")[1]), before[0]);

    replace(&program, &user.scratch);
    let said = root("upgrade --all");
    let (live, version) = (user.live(""), env!("CARGO_PKG_VERSION"));
    let live = live.trim_end_matches('/');
    for line in [
        format!("{live} of nobody: {version}\n"),
        format!("{} of root: {version}\n", roots.display()),
        format!(
            "{} of nobody: left as it is, because it runs {}\n",
            other.display(),
            user.scratch.path("other").display()
        ),
    ] {
        assert!(said.contains(&line), "{line}{said}");
    }
    let installed = fs::metadata(&program).unwrap().ino();
    for place in ["~/.simpletuner/live", "~/other"] {
        let is_upgraded = place != "~/other";
        let runs = program_of(user.pids(place)[1]);
        assert_eq!(runs == installed, is_upgraded, "{place}");
    }
    assert_eq!(program_of(user.pids("~/other")[1]), before[1]);
    assert_eq!(user.sh("cat ~/.simpletuner/live/secrets/K"), "v");
    // The processes are still the user's.
    let [server, keeper] = user.pids("~/.simpletuner/live");
    for pid in [server, keeper] {
        assert_eq!(
            fs::metadata(format!("/proc/{pid}")).unwrap().uid(),
            user.uid()
        );
    }
    user.scratch
        .sh("HOME=$PWD/root-home ./program umount roots");
    let said = user
        .scratch
        .sh("HOME=$PWD/root-home ./other upgrade --all 2>&1 || true");
    assert!(
        said.contains(&format!("{} of nobody: {version}\n", other.display())),
        "{said}"
    );
    assert!(
        said.contains(&format!("{live} of nobody: left as it is")),
        "{said}"
    );
}

#[test]
fn a_mount_that_does_not_answer_is_named_and_delays_no_other() {
    if !is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let user = User::new("nobody");
    user.run(&["mount"]).done();
    let pids = user.pids("~/.simpletuner/live");
    pids.iter()
        .for_each(|pid| crate::support::home::signal("STOP", *pid));
    user.scratch.sh("mkdir root-home");
    let mut command = user
        .scratch
        .command(user.scratch.path("program").to_str().unwrap());
    let said = ran(command
        .env("HOME", user.scratch.path("root-home"))
        .args(["upgrade", "--all"]));
    pids.iter()
        .for_each(|pid| crate::support::home::signal("CONT", *pid));
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    let live = user.live("");
    let expected = format!(
        "{} of nobody goes on with the old program: it does not answer",
        live.trim_end_matches('/')
    );
    assert!(said.err.contains(&expected), "{}", said.err);
}
