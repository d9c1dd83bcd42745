//! What the program says to the person at the terminal when a settings file, a secrets file or a provider is wrong.

mod support;

use serde_json::{Value, json};
use support::home::{BINARY, Home, ran};

const SETTINGS: &str = ".simpletuner/live.yaml";
/// Providers that fail without a network.
const TWO_FAIL: &str = "command:\n  \
    - {name: one, run: [sh, -c, 'echo no route >&2; exit 3']}\n  \
    - {name: two, run: [sh, -c, 'echo locked >&2; exit 4']}\n";
const ONE_SAYS: &str = "sh ended with exit code 3, and said: no route";
const TWO_SAYS: &str = "sh ended with exit code 4, and said: locked";

#[test]
fn a_mistake_in_the_settings_is_one_line_with_the_file_the_line_and_an_example() {
    for (yaml, expected) in [
        (
            "# mine\nencrypt: hunter2\n",
            "line 2: encrypt must be true or false, not a text; for example: encrypt: true",
        ),
        (
            "ttl: 1\nvault_token: *hunter2\n",
            "line 2 (vault_token: ...): `*` repeats a value that `&` marks, and none has this mark; put a value that begins with `*` in quotes",
        ),
        (
            "ttl: 1\r\n\tencrypt: true\r\n",
            "line 2: it is indented by a tab; use spaces",
        ),
    ] {
        let home = Home::new();
        home.write(SETTINGS, yaml);
        let file = home.path(SETTINGS).display().to_string();
        for args in [&["settings"][..], &["ls"], &["get", "K"], &["mount"]] {
            let said = home.run(args).failed();
            assert_eq!(said, format!("error: {file}: {expected}\n"), "{args:?}");
        }
    }
    let home = Home::new();
    let mut command = home.command(BINARY);
    command.args(["settings"]).env("VAULT_ADDR", "https://v");
    let said = ran(command.env("VAULT_SKIP_VERIFY", "hunter2")).failed();
    let must = "must be true or false; for example: VAULT_SKIP_VERIFY=false";
    assert_eq!(
        said,
        format!("error: the variable VAULT_SKIP_VERIFY {must}\n")
    );
}

#[test]
fn a_mistake_in_the_secrets_file_is_named_by_its_line_wherever_it_is_seen_and_never_shows_a_value()
{
    for (yaml, expected) in [
        (
            "HF_TOKEN: hf_hunter2\nWANDB: \"hunter2\n",
            "line 2 (WANDB: ...): the quote that begins here has no end",
        ),
        (
            "HF_TOKEN: hf_hunter2\nPASSWORD: @hunter2\n",
            "line 2 (PASSWORD: ...): put a value that begins with `@` in quotes",
        ),
        (
            "HF_TOKEN: hf_hunter2\n  OTHER: hunter2\n",
            "line 2: this is indented deeper than the line above, which has a value already",
        ),
    ] {
        let home = Home::new();
        home.write(".simpletuner/secrets.yaml", yaml);
        home.sh("chmod 600 ~/.simpletuner/secrets.yaml");
        let file = home.path(".simpletuner/secrets.yaml").display().to_string();
        let expected = format!("the secrets file {file} is malformed: {expected}");
        let direct = home.run(&["get", "HF_TOKEN"]).failed();
        home.run(&["mount"]).done();
        let mounted = home.run(&["get", "HF_TOKEN"]).failed();
        let report = home.sh("cat ~/.simpletuner/live/providers/file");
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["last_error"], expected);
        for said in [direct, mounted] {
            let line = format!("error: the file provider failed for HF_TOKEN: {expected}\n");
            assert_eq!(said, line);
        }
        let log = home.sh("cat ~/.simpletuner/live.log");
        assert!(log.contains(&expected) && !log.contains("hunter2"), "{log}");
    }
}

#[test]
fn ls_names_each_provider_whose_names_it_lacks_and_fails() {
    let home = Home::new();
    home.write(SETTINGS, TWO_FAIL);
    home.run_with("v", &["set", "--no-mount", "K"]).done();
    let errors = [("one", ONE_SAYS), ("two", TWO_SAYS)];
    let lines = errors.map(|(provider, said)| {
        format!("error: the names of the {provider} provider are missing: {said}\n")
    });
    for is_mounted in [false, true] {
        if is_mounted {
            home.run(&["mount"]).done();
        }
        let names = home.run(&["ls"]);
        assert_eq!((names.code, &*names.out), (1, "K\n"), "{}", names.err);
        assert_eq!(names.err, lines.concat());
        let long = home.run(&["ls", "-l"]);
        assert_eq!((long.code, long.err), (1, lines.concat()));
        let listed = home.run(&["ls", "--json"]);
        assert_eq!(listed.code, 1);
        let listed: Value = serde_json::from_str(&listed.out).unwrap();
        assert_eq!(listed[0]["name"], "K");
        let error =
            |n: usize| json!({ "name": null, "provider": errors[n].0, "error": errors[n].1 });
        assert_eq!(listed[1], error(0));
        assert_eq!(listed[2], error(1));
    }
}

#[test]
fn a_key_that_may_be_at_a_failing_provider_is_a_failure_that_names_all_of_them_once() {
    let home = Home::new();
    home.write(SETTINGS, TWO_FAIL);
    home.run_with("v", &["set", "--no-mount", "K"]).done();
    let said = format!(
        "error: the providers one and two failed for MISSING: one: {ONE_SAYS}; two: {TWO_SAYS}\n"
    );
    for is_mounted in [false, true] {
        if is_mounted {
            home.run(&["mount"]).done();
        }
        let missing = home.run(&["get", "MISSING"]);
        assert_eq!((missing.code, missing.err), (1, said.clone()));
        assert_eq!(home.run(&["get", "K"]).done(), "v");
    }
    home.write(SETTINGS, "");
    home.run(&["reload"]).done();
    assert_eq!(home.run(&["get", "MISSING"]).code, 4, "none has it");
}

#[test]
fn what_one_provider_cannot_decrypt_is_not_blamed_on_another_that_fails() {
    let home = Home::new();
    // A key's name that is a word of the other failure.
    home.run_with("v", &["set", "route"]).done();
    home.sh("head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\\n' > ~/.simpletuner/credential.key");
    home.write(SETTINGS, TWO_FAIL);
    let direct = home.run(&["get", "route"]).failed();
    home.run(&["mount"]).done();
    home.sh("! cat ~/.simpletuner/live/secrets/OTHER 2>/dev/null");
    let mounted = home.run(&["get", "route"]).failed();
    assert!(
        direct.starts_with("error: route cannot be decrypted: "),
        "{direct}"
    );
    assert_eq!(mounted, direct);
    home.sh("! cat ~/.simpletuner/live/secrets/OTHER 2>/dev/null");
    let attribute =
        "getfattr --only-values -n user.simpletuner.error.route ~/.simpletuner/live/secrets";
    assert!(
        home.sh(attribute)
            .starts_with("route cannot be decrypted: ")
    );
}
