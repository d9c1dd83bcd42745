//! `adopt` and `adopt --undo`, beside mounts that run, and killed at any step.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use support::home::{BINARY, Home, is_root, ran};
use support::user::User;
use support::{alone, wait_until};

const PLAIN: &str = "{\n  \"A\": \"alpha\",\n  \"B\": \"beta\"\n}\n";

/// The names in `~/.simpletuner` that belong to a store or to the settings.
fn stores(home: &Home) -> BTreeSet<String> {
    let names = fs::read_dir(home.path(".simpletuner")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_store = |name: &String| {
        ["secrets", "store", "live.yaml"]
            .iter()
            .any(|part| name.contains(part))
    };
    names.filter(is_store).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn undo_takes_a_running_mount_along() {
    let _alone = alone();
    let home = Home::new();
    home.run_with("a", &["set", "A"]).done();
    home.run(&["adopt"]).done();
    home.run(&["mount"]).done();
    let open = fs::File::open(home.live("secrets/A")).unwrap();
    let undone = home.run(&["adopt", "--undo", "--yes"]);
    assert!(
        undone.out.contains("1 value in plain text now"),
        "{}",
        undone.out
    );
    assert!(undone.out.contains("uses it"), "{}", undone.out);
    undone.done();
    assert_eq!(home.sh("cat ~/.simpletuner/live/secrets/A"), "a");
    home.run_with("new", &["set", "B"]).done();
    assert_eq!(
        stores(&home),
        set(&[
            "secrets.json",
            "secrets.json.lock",
            "secrets.json.peers",
            "secrets.json.previous",
        ])
    );
    assert!(
        home.sh("cat ~/.simpletuner/secrets.json")
            .contains("\"A\": \"a\"")
    );
    assert!(!home.run(&["status"]).err.contains("newer"));
    drop(open);
    home.run(&["umount"]).done();
    assert_eq!(home.run(&["get", "B"]).done(), "new");
}

#[test]
fn adopt_takes_all_running_mounts_along() {
    let _alone = alone();
    let home = Home::new();
    home.write(".simpletuner/secrets.json", PLAIN);
    home.run(&["mount"]).done();
    home.run(&["mount", "other"]).done();
    let adopted = home.run(&["adopt"]);
    for place in [home.live(""), home.path("other")] {
        let place = place.to_str().unwrap().trim_end_matches('/');
        assert!(
            adopted
                .out
                .contains(&format!("the mount at {place} uses it")),
            "{}",
            adopted.out
        );
    }
    adopted.done();
    home.sh("echo one > ~/.simpletuner/live/secrets/C; echo two > other/secrets/D");
    assert_eq!(
        home.sh("cat other/secrets/[A-D] ~/.simpletuner/live/secrets/D"),
        "alphabetaone\ntwo\ntwo\n"
    );
    let store = home.sh("cat ~/.simpletuner/store.json");
    assert!(
        ["A", "B", "C", "D"]
            .iter()
            .all(|name| store.contains(&format!("\"{name}\""))),
        "{store}"
    );
    assert_eq!(
        stores(&home),
        set(&[
            "live.yaml",
            "secrets.json",
            "store.json",
            "store.json.lock",
            "store.json.peers",
            "store.json.previous",
        ])
    );
    // SimpleTuner, which follows the link, and writes the file in place.
    home.sh("jq '.A = \"changed\"' ~/.simpletuner/secrets.json > new && cat new > ~/.simpletuner/secrets.json");
    assert_eq!(home.sh("cat other/secrets/A"), "changed");
    home.run(&["adopt", "--undo", "--yes"]).done();
    home.sh("echo three > other/secrets/E");
    assert_eq!(
        home.sh("jq -r '[.A, .C, .D] | join(\" \")' ~/.simpletuner/secrets.json"),
        "changed one two\n"
    );
    assert_eq!(home.sh("cat ~/.simpletuner/live/secrets/E"), "three\n");
    assert_eq!(
        stores(&home),
        set(&[
            "secrets.json",
            "secrets.json.lock",
            "secrets.json.peers",
            "secrets.json.previous",
        ])
    );
}

#[test]
fn no_write_is_lost_while_the_store_moves_to_and_fro() {
    let _alone = alone();
    let home = Home::new();
    home.run_with("a", &["set", "A"]).done();
    home.run(&["mount"]).done();
    let writer = home
        .command("bash")
        .args([
            "-c",
            &format!(
                "i=0; while ! [ -e stop ]; do i=$((i+1)); \
                 python3 -c \"open('$HOME/.simpletuner/live/secrets/M$i', 'w').write('m$i')\" && echo M$i >> written; \
                 printf d$i | {BINARY} set --no-mount D$i 2>> said && echo D$i >> written; done"
            ),
        ])
        .spawn();
    for _ in 0..4 {
        home.run(&["adopt"]).done();
        home.run(&["adopt", "--undo", "--yes"]).done();
    }
    home.write("stop", "");
    writer.unwrap().wait().unwrap();
    let written = fs::read_to_string(home.path("written")).unwrap();
    assert!(written.lines().count() > 4, "{written}");
    home.run(&["umount"]).done();
    for name in written.lines() {
        let value = name.to_ascii_lowercase();
        assert_eq!(home.run(&["get", name]).done(), value, "{name}");
    }
    assert!(!home.path(".simpletuner/store.json").exists());
}

#[test]
fn values_become_plain_only_if_the_user_says_so() {
    let home = Home::new();
    home.run_with("a", &["set", "A"]).done();
    home.run(&["adopt"]).done();
    let before = stores(&home);
    let said = home.run(&["adopt", "--undo"]).failed();
    assert!(said.contains("1 encrypted secret in plain text"), "{said}");
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(stores(&home), before);
    home.run(&["adopt", "--undo", "--yes"]).done();

    // Nothing is encrypted, so nothing is asked.
    let home = Home::new();
    home.write(".simpletuner/live.yaml", "encrypt: false\n");
    home.write(".simpletuner/secrets.json", PLAIN);
    home.run(&["adopt"]).done();
    home.run(&["adopt", "--undo"]).done();
    assert_eq!(
        home.sh("cat ~/.simpletuner/secrets.json ~/.simpletuner/live.yaml"),
        format!("{PLAIN}encrypt: false\n")
    );
}

#[test]
fn a_value_whose_plain_text_would_be_taken_for_an_encrypted_one_is_named_and_nothing_changes() {
    let home = Home::new();
    home.run_with("good", &["set", "GOOD"]).done();
    let token = home.run_with("hunter2", &["encrypt"]).done();
    home.run_with(token.trim(), &["set", "NESTED"]).done();
    home.run(&["adopt"]).done();
    let files =
        || home.sh("cd ~/.simpletuner; ls; cat live.yaml store.json; readlink secrets.json");
    let before = files();
    let said = home.run(&["adopt", "--undo", "--yes"]).failed();
    assert!(
        said.contains("NESTED: its plain text") && said.contains("simpletuner-live rm NESTED"),
        "{said}"
    );
    assert_eq!(files(), before);
    assert_eq!(home.run(&["get", "NESTED"]).done(), token.trim());
    home.run(&["rm", "NESTED"]).done();
    home.run(&["adopt", "--undo", "--yes"]).done();
    assert_eq!(
        home.sh("cat ~/.simpletuner/secrets.json"),
        "{\n  \"GOOD\": \"good\"\n}\n"
    );
}

#[test]
fn a_second_run_says_that_nothing_had_to_be_done() {
    let home = Home::new();
    for _ in 0..2 {
        let said = home.run(&["adopt", "--undo"]).done();
        assert!(
            said.contains("secrets.json (nothing had to be done)"),
            "{said}"
        );
    }
    assert!(!home.path(".simpletuner").exists());
    home.run(&["adopt"]).done();
    let said = home.run(&["adopt"]).done();
    assert!(
        said.contains("store.json (nothing had to be done)"),
        "{said}"
    );
    home.run(&["adopt", "--undo"]).done();
    assert_eq!(stores(&home), set(&[]), "an empty store leaves nothing");
    home.write(".simpletuner/secrets.json", PLAIN);
    home.run(&["adopt"]).done();
    home.run(&["adopt", "--undo", "--yes"]).done();
    let said = home.run(&["adopt", "--undo"]).done();
    assert!(
        said.contains("secrets.json (nothing had to be done)"),
        "{said}"
    );
    assert_eq!(home.sh("cat ~/.simpletuner/secrets.json"), PLAIN);
    assert_eq!(stores(&home), set(&["secrets.json", "secrets.json.lock"]));
}

/// Copies this home for each step of a command, has the command killed as it makes its Nth call of a kind, for each N until it ends by
/// itself, and then runs `next` and checks what came of it.
fn killed_at_each_step(home: &Home, args: &[&str], next: &[&str], check: impl Fn(&Home, &str)) {
    let mut killed = 0;
    for call in ["rename", "unlink", "symlink"] {
        for step in 1.. {
            let copy = Home::new();
            copy.sh(&format!(
                "cp -a '{}' .",
                home.path(".simpletuner").display()
            ));
            let done = copy.killed_at(call, step).args(args).output().unwrap();
            let at = format!("{args:?}, killed at {call} {step}");
            if done.status.success() {
                break;
            }
            assert_eq!(done.status.signal(), Some(libc::SIGKILL), "{at}: {done:?}");
            killed += 1;
            let value = copy.run(&["get", "B"]).out;
            assert_eq!(value, "beta", "{at}");
            copy.run(next).done();
            check(&copy, &at);
        }
    }
    assert!(killed >= 5, "{args:?} was killed {killed} times");
}

fn plain_home() -> Home {
    let home = Home::new();
    home.write(".simpletuner/secrets.json", PLAIN);
    home.write(".simpletuner/live.yaml", "# mine\nttl: 60\n");
    home
}

fn adopted_home() -> Home {
    let home = plain_home();
    home.run(&["adopt"]).done();
    home
}

fn is_adopted(home: &Home, at: &str) {
    let wanted = ["live.yaml", "secrets.json", "store.json", "store.json.lock"];
    assert_eq!(stores(home), set(&wanted), "{at}");
    let read = |name: &str| fs::read_to_string(home.path(".simpletuner").join(name)).unwrap();
    assert!(home.path(".simpletuner/secrets.json").is_symlink(), "{at}");
    let store = read("store.json");
    assert!(
        !store.contains("alpha") && store.matches("Z0FBQUFB").count() == 2,
        "{at}: {store}"
    );
    assert!(read("live.yaml").contains("store.json"), "{at}");
}

fn is_undone(home: &Home, at: &str) {
    let left = stores(home);
    let wanted = set(&["live.yaml", "secrets.json", "secrets.json.lock"]);
    assert!(left.is_subset(&wanted), "{at}: {left:?}");
    let read = |name: &str| fs::read_to_string(home.path(".simpletuner").join(name)).unwrap();
    assert_eq!(read("secrets.json"), PLAIN, "{at}");
    assert_eq!(read("live.yaml"), "# mine\nttl: 60\n", "{at}");
}

const UNDO: [&str; 3] = ["adopt", "--undo", "--yes"];

#[test]
fn an_adopt_that_is_killed_at_any_step_is_finished_by_the_next_one() {
    killed_at_each_step(&plain_home(), &["adopt"], &["adopt"], is_adopted);
}

#[test]
fn an_adopt_that_is_killed_at_any_step_is_undone_by_an_undo() {
    killed_at_each_step(&plain_home(), &["adopt"], &UNDO, is_undone);
}

#[test]
fn an_undo_that_is_killed_at_any_step_is_finished_by_the_next_one() {
    killed_at_each_step(&adopted_home(), &UNDO, &UNDO, is_undone);
}

#[test]
fn an_undo_that_is_killed_at_any_step_is_taken_back_by_an_adopt() {
    killed_at_each_step(&adopted_home(), &UNDO, &["adopt"], is_adopted);
}

#[test]
fn without_the_mount_the_commands_say_that_simpletuner_finds_no_secrets() {
    let home = Home::new();
    home.write(".simpletuner/secrets.json", PLAIN);
    let adopted = home.run(&["adopt"]);
    assert!(
        adopted.err.contains("SimpleTuner finds no secrets"),
        "{}",
        adopted.err
    );
    assert!(
        adopted.err.contains("`simpletuner-live mount`"),
        "{}",
        adopted.err
    );
    let status = home.run(&["status"]).failed();
    assert!(
        status.contains("it finds no secrets until it is mounted"),
        "{status}"
    );
    assert_eq!(home.run(&["get", "A"]).done(), "alpha");
    let mounted = home.run(&["mount"]);
    assert_eq!((mounted.code, mounted.err.as_str()), (0, ""));
    assert!(home.sh("cat ~/.simpletuner/secrets.json").contains("\"A\""));
    assert_eq!(home.run(&["adopt"]).err, "");
    let unmounted = home.run(&["umount"]);
    assert!(
        unmounted
            .err
            .contains("it finds no secrets until it is mounted"),
        "{}",
        unmounted.err
    );
}

#[test]
fn a_mount_whose_folder_was_moved_is_not_adopted() {
    let home = Home::new();
    home.write(".simpletuner/secrets.json", PLAIN);
    home.run(&["mount"]).done();
    home.sh("mv .simpletuner moved");
    let said = home.run(&["adopt"]).failed();
    assert!(
        said.contains("is at") && said.contains("moved/live"),
        "{said}"
    );
    assert!(said.contains("simpletuner-live umount"), "{said}");
    assert!(!home.path(".simpletuner").exists());
    home.sh("mv moved .simpletuner");
    home.run(&["adopt"]).done();
    assert_eq!(home.sh("cat ~/.simpletuner/live/secrets/A"), "alpha");
}

#[test]
fn settings_that_cannot_be_changed_line_by_line_change_nothing() {
    let home = Home::new();
    home.write(".simpletuner/secrets.json", PLAIN);
    home.write(".simpletuner/live.yaml", "{ttl: 60}\n");
    let said = home.run(&["adopt"]).failed();
    assert!(said.contains("line by line"), "{said}");
    assert_eq!(home.sh("cat ~/.simpletuner/secrets.json"), PLAIN);
    assert!(!home.path(".simpletuner/store.json").exists());
    // A store that the user has chosen stays where it is.
    home.write(".simpletuner/live.yaml", "file_path: store.json\n");
    fs::rename(
        home.path(".simpletuner/secrets.json"),
        home.path(".simpletuner/store.json"),
    )
    .unwrap();
    home.run(&["adopt"]).done();
    let said = home.run(&["adopt", "--undo"]).done();
    assert!(said.contains("stays as it is"), "{said}");
    assert_eq!(home.run(&["get", "A"]).done(), "alpha");
}

#[test]
fn an_ordinary_user_adopts_and_goes_back_beside_a_mount() {
    if !is_root() {
        return;
    }
    let user = User::new("nobody");
    user.write(".simpletuner/secrets.json", PLAIN);
    user.run(&["mount"]).done();
    let said = user.run(&["adopt"]).done();
    assert!(said.contains("uses it"), "{said}");
    user.sh("echo c > .simpletuner/live/secrets/C");
    let said = user.run(&["adopt", "--undo", "--yes"]).done();
    assert!(said.contains("uses it"), "{said}");
    assert_eq!(user.sh("cat .simpletuner/live/secrets/[ABC]"), "alphabetac");
    assert!(
        user.sh("cat .simpletuner/secrets.json")
            .contains("\"C\": \"c\"")
    );
    assert!(!Path::new(&user.path(".simpletuner/store.json")).exists());
}

#[test]
fn a_mount_of_before_the_undo_follows_even_if_it_does_not_reload() {
    let _alone = alone();
    let home = Home::new();
    home.run_with("a", &["set", "A"]).done();
    home.run(&["adopt"]).done();
    // Another settings file, which `adopt --undo` does not know of.
    home.sh("cp .simpletuner/live.yaml other.yaml");
    ran(home
        .command(BINARY)
        .args(["--config", "other.yaml", "mount", "other"]))
    .done();
    home.run(&["adopt", "--undo", "--yes"]).done();
    home.sh("echo new > other/secrets/B");
    assert!(home.sh("cat ~/.simpletuner/secrets.json").contains("\"B\""));
    assert!(!home.path(".simpletuner/store.json").exists());
    home.run(&["adopt"]).done();
    wait_until("it is back", || {
        home.sh("cat other/secrets/B other/secrets/A") == "new\na"
    });
}
