//! Views are defined by files, by commands and by an edit; a wrong definition changes nothing and says why.

use std::fs::File;
use std::io::Write;

use super::*;
use support::home::Home;

#[test]
fn a_view_is_defined_changed_renamed_and_removed_by_files_of_the_live_mount() {
    let live = start();
    write(&live, "secrets/A", "one");
    define(&live, "trainer", r#"{"secrets": ["A"], "mode": "0440"}"#);
    assert_eq!(read(&live, "trainer/A"), "one");
    assert_eq!(live.json("views/trainer.json")["mode"], "0440");
    let text = fs::read_to_string(live.home(".simpletuner/views.json")).unwrap();
    assert!(text.contains("trainer"), "{text}");
    define(&live, "trainer", r#"{"files": {"token": "A"}}"#);
    assert_eq!(names(&view(&live, "trainer")), ["token"]);
    live.sh("mv views/trainer.json views/web.json");
    assert_eq!(read(&live, "web/token"), "one");
    assert!(!view(&live, "trainer").exists());
    live.sh("jq '.mode = \"0444\"' views/web.json > views/.new && mv views/.new views/web.json");
    assert_eq!(
        fs::metadata(view(&live, "web/token"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o444
    );
    assert_eq!(names(&live.path("views")), ["web.json"]);
    live.sh("rm views/web.json");
    assert_eq!(names(&live.path("views")), [""; 0]);
    let events = live.read("events");
    for event in [
        "\"view_set\",\"view\":\"trainer\"",
        "\"view_removed\",\"view\":\"web\"",
    ] {
        assert!(events.contains(event), "{events}");
    }
}

#[test]
fn a_wrong_definition_is_einval_at_the_close_with_its_reason_and_changes_nothing() {
    let live = start();
    write(&live, "secrets/A", "one");
    define(&live, "trainer", r#"{"secrets": ["A"]}"#);
    for (wrong, words) in [
        (r#"{"secret": ["A"]}"#, "did you mean \"secrets\"?"),
        (
            r#"{"secrets": ["A"], "mode": "0644"}"#,
            "nothing but bits to read",
        ),
        (r#"{"files": {"a": "A", "a": "B"}}"#, "\"a\" is there twice"),
        (r#"{"files": {"../a": "A"}}"#, "\"../a\""),
        ("", "must be a JSON object"),
    ] {
        let script = "import os, sys\nfile = os.open('views/trainer.json', os.O_WRONLY | os.O_TRUNC)\n\
            os.write(file, sys.argv[1].encode())\n\
            try: os.close(file)\nexcept OSError as error: print(error.errno)";
        let mut python = live.command("python3");
        let output = live.output_of(python.args(["-c", script, wrong]));
        let errno = String::from_utf8(output.stdout).unwrap();
        assert_eq!(errno.trim(), libc::EINVAL.to_string(), "{wrong}");
        log_with(&live.home("daemon.log"), words);
        let said = live.sh("getfattr --only-values -n user.simpletuner.error.trainer secrets");
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(live.json("views/trainer.json")["secrets"][0], "A");
    assert_eq!(read(&live, "trainer/A"), "one");
    for name in ["a.txt", ".json", "x~.json", "a b.json"] {
        let made = fs::write(live.path("views").join(name), r#"{"secrets": ["A"]}"#);
        // Editors' scratch files are accepted, and define nothing.
        assert!(
            made.is_err() || name.starts_with('.') || name.ends_with('~'),
            "{name}"
        );
    }
    assert_eq!(names(&view(&live, "")), ["trainer"]);
    let large = format!(r#"{{"secrets": ["A"]{}}}"#, " ".repeat(1024 * 1024));
    let mut file = File::create(live.path("views/large.json")).unwrap();
    assert!(file.write_all(large.as_bytes()).is_err());
    drop(file);
    assert!(!live.path("views/large.json").exists());
}

#[test]
fn an_edit_shows_and_while_the_file_is_malformed_the_views_stay_as_they_were_and_status_says_so() {
    let live = start();
    write(&live, "secrets/A", "one");
    let file = live.home(".simpletuner/views.json");
    fs::write(&file, r#"{"a": {"secrets": ["A"]}}"#).unwrap();
    wait_until("the view is there", || view(&live, "a/A").exists());
    fs::write(&file, r#"{"a": {"secrets": ["A"], "mod": 1}}"#).unwrap();
    wait_until("status says so", || {
        let problem = live.json("status")["views"]["problem"].to_string();
        problem.contains("the view a: there is no field") && problem.contains("did you mean")
    });
    assert_eq!(read(&live, "a/A"), "one");
    log_with(&live.home("daemon.log"), "views.json is not in force");
    // The command has the server's own reason.
    let refused = cli(&live, &["view", "create", "b", "--secret", "A"]).failed();
    assert!(refused.contains("cannot be read"), "{refused}");
    // Whatever server there is.
    kill_part(&live, "server_pid");
    assert_eq!(read(&live, "a/A"), "one");
    fs::write(&file, r#"{"b": {"secrets": ["A"]}}"#).unwrap();
    wait_until("the view is there", || view(&live, "b/A").exists());
    assert!(live.json("status")["views"]["problem"].is_null());
    assert!(!view(&live, "a").exists());
}

#[test]
fn the_commands_define_list_and_remove_views_with_and_without_a_mount() {
    let home = Home::new();
    let run = |args: &[&str]| home.run(args);
    let created = run(&[
        "view", "create", "a", "--secret", "HF_*", "--secret", "K=token", "--user", "1000:7",
    ]);
    let path = home.path(".simpletuner/views/a").display().to_string();
    assert!(
        created.err.contains("no mount is running"),
        "{}",
        created.err
    );
    assert_eq!(created.done(), format!("{path}\n"));
    assert_eq!(run(&["view", "path", "a"]).done(), format!("{path}\n"));
    let listed = run(&["view", "ls"]).done();
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    assert_eq!(rows[1], ["a", "1000", "7", "0400", "HF_*", "K=token"]);
    for command in [&["view", "rm", "b"][..], &["view", "path", "b"]] {
        assert!(run(command).failed().contains("there is no view \"b\""));
    }
    let wrong = |args: &[&str], words: &str| {
        let args: Vec<&str> = ["view", "create"].iter().chain(args).copied().collect();
        let said = run(&args).failed();
        assert!(said.contains(words), "{said}");
    };
    home.run_with("v", &["set", "K"]).done();
    home.run(&["mount"]).done();
    let ls =
        |args: &[&str]| -> serde_json::Value { serde_json::from_str(&run(args).done()).unwrap() };
    assert_eq!(ls(&["view", "ls", "--json"])["a"]["path"], path);
    let made = ls(&["view", "create", "b", "--secret", "K", "--json"]);
    assert_eq!(made["mode"], "0400");
    assert_eq!(
        home.sh("cat .simpletuner/views/b/K .simpletuner/views/a/token"),
        "vv"
    );
    let again = run(&["view", "create", "b", "--secret", "K", "--mode", "0444"]);
    assert!(
        again.err.contains("the view b is defined anew"),
        "{}",
        again.err
    );
    assert!(
        again.err.contains("other users cannot pass"),
        "{}",
        again.err
    );
    wrong(&["a/b", "--secret", "K"], "the view's name \"a/b\"");
    wrong(&["..", "--secret", "K"], "the view's name \"..\"");
    wrong(
        &["c", "--secret", "K", "--mode", "0600"],
        "nothing but bits to read",
    );
    wrong(&["c", "--secret", "a\nb"], "only letters");
    wrong(
        &["c", "--secret", "K=x", "--secret", "K=x"],
        "\"x\" is there twice",
    );
    wrong(
        &["c", "--secret", "K=secrets.env", "--document", "env"],
        "secrets.env is there twice",
    );
    assert_eq!(
        run(&["view", "create", "c"]).code,
        2,
        "--secret is required"
    );
    run(&["view", "rm", "a"]).done();
    assert!(
        run(&["view", "rm", "a"])
            .failed()
            .contains("there is no view")
    );
    assert_eq!(home.sh("ls .simpletuner/views"), "b\n");
    home.run(&["umount"]).done();
}

#[test]
fn a_user_that_does_not_exist_and_a_pattern_without_a_secret_are_warned_of() {
    let live = start();
    write(&live, "secrets/A", "one");
    define(
        &live,
        "v",
        r#"{"secrets": ["A", "B", "X_*"], "user": "no-such-user", "mode": "0444"}"#,
    );
    let says = |words: &str| log_with(&live.home("daemon.log"), words);
    says("the view v: there is no user \"no-such-user\" here");
    says("the view v: no secret matches B, X_*");
    let file = fs::metadata(view(&live, "v/A")).unwrap();
    assert_eq!(
        file.permissions().mode() & 0o777,
        0o400,
        "nobody else may read"
    );
    assert_eq!(names(&view(&live, "v")), ["A"]);
    let created = cli(
        &live,
        &[
            "view",
            "create",
            "w",
            "--secret",
            "A",
            "--user",
            "no-such-user",
        ],
    );
    assert!(
        created
            .err
            .contains("there is no user \"no-such-user\" here"),
        "{}",
        created.err
    );
    // Beside a file that is malformed.
    fs::write(live.home(".simpletuner/views.json"), "{").unwrap();
    wait_until("status says so", || {
        live.json("status")["views"]["problem"].is_string()
    });
    for command in [
        &["view", "rm", "v"][..],
        &["view", "create", "x", "--secret", "A"],
    ] {
        let refused = cli(&live, command);
        assert!(
            refused.err.contains("views.json") && refused.err.contains("EOF while parsing"),
            "{}",
            refused.err
        );
    }
}
