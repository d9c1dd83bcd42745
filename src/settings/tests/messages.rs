//! What a wrong `live.yaml` or variable makes the program say, word for word. No message has a value in it.

use super::*;

/// The message about the file, after the file's name.
fn message(yaml: &str) -> String {
    let home = Home::new(yaml);
    let error = home.load().unwrap_err().to_string();
    let file = home.path(".simpletuner/live.yaml").display().to_string();
    let message = error.strip_prefix(&format!("{file}: "));
    message
        .unwrap_or_else(|| panic!("{yaml}: {error}"))
        .to_owned()
}

#[test]
fn each_wrong_value_has_a_message_with_its_line_its_name_and_an_example() {
    for (yaml, expected) in [
        (
            "\nencrypt: hunter2",
            "line 2: encrypt must be true or false, not a text; for example: encrypt: true",
        ),
        (
            "encrypt: 'yes'",
            "line 1: encrypt must be true or false, without quotes; for example: encrypt: true",
        ),
        (
            "encrypt: 1",
            "line 1: encrypt must be true or false, not a number; for example: encrypt: true",
        ),
        (
            "# x\r\n\r\nttl: hunter2",
            "line 3: ttl must be a number of seconds, 0 or more, not a text; for example: ttl: 300",
        ),
        (
            "ttl: '60'",
            "line 1: ttl must be a number of seconds, 0 or more, without quotes; for example: ttl: 300",
        ),
        (
            "ttl: -1",
            "line 1: ttl must be a number of seconds, 0 or more; for example: ttl: 300",
        ),
        (
            "ttl: 0",
            "line 1: ttl must be a number of seconds above 0; for example: ttl: 300",
        ),
        (
            "ttl: [hunter2]",
            "line 1: ttl must be a number of seconds, 0 or more, not a list; for example: ttl: 300",
        ),
        (
            "ttl:\n  default: 1\n  missing: yes",
            "line 3: ttl.missing must be a number of seconds, 0 or more, not a boolean; for example: ttl: {missing: 10}",
        ),
        (
            "ttl:\n  keys:\n    HF_TOKEN: hunter2",
            "line 3: ttl.keys.HF_TOKEN must be a number of seconds, 0 or more, not a text; for example: ttl: {keys: {HF_TOKEN: 60}}",
        ),
        (
            "ttl: {keys: [HF_TOKEN]}",
            "line 1: ttl.keys must be keys with numbers of seconds, not a list; for example: ttl: {keys: {HF_TOKEN: 60}}",
        ),
        (
            "timeout:\n  total: 0",
            "line 2: timeout.total must be a number of seconds above 0; for example: timeout: {total: 10}",
        ),
        (
            "timeout: hunter2",
            "line 1: timeout must hold names and values, not a text; for example: timeout: {connect: 3}",
        ),
        (
            "max_keys: 1.5",
            "line 1: max_keys must be a whole number, 0 or more; for example: max_keys: 10000",
        ),
        (
            "env_keys: HF_TOKEN",
            "line 1: env_keys must be a list of keys, not a text; for example: env_keys: [HF_TOKEN, WANDB_API_KEY]",
        ),
        (
            "env_keys:\n  - A\n  - 5",
            "line 1: env_keys must be a list of texts, and one is a number; put it in quotes; for example: env_keys: [HF_TOKEN, WANDB_API_KEY]",
        ),
        (
            "vault_token: 5",
            "line 1: vault_token must be a text; put it in quotes, because YAML takes it for a number; for example: vault_token: \"...\"",
        ),
        (
            "vault_token: &hunter2",
            "line 1: vault_token must be a text; put it in quotes, because YAML takes it for an anchor (`&`); for example: vault_token: \"...\"",
        ),
        (
            "vault_token: !hunter2",
            "line 1: vault_token must be a text; put it in quotes, because YAML takes it for a value with a tag (`!`); for example: vault_token: \"...\"",
        ),
        (
            "vault_token: =",
            "line 1: vault_token must be a text; put it in quotes, because YAML takes it for a default (`=`); for example: vault_token: \"...\"",
        ),
        (
            "vault_token: [hunter2]",
            "line 1: vault_token must be a text, not a list; for example: vault_token: \"...\"",
        ),
        (
            "vault_path: 5",
            "line 1: vault_path must be a text; put it in quotes, because YAML takes it for a number; for example: vault_path: simpletuner",
        ),
        (
            "file_path: ''",
            "line 1: file_path must be a path; for example: file_path: ~/file",
        ),
        (
            "ttl: 1\nencrypt: true\nttl: 2",
            "line 3: ttl is set twice, in line 1 and here",
        ),
        (
            "timeout:\n  total: 1\n  total: 2",
            "line 3: timeout.total is set twice, in line 2 and here",
        ),
        (
            "ttl: 1\nvault_ulr: hunter2",
            "line 2: unknown setting \"vault_ulr\"; did you mean \"vault_url\"?",
        ),
        (
            "ttl: 1\nallow_other: true",
            "line 2: allow_other is gone: `allow_root: true` lets root in; for other users and containers, use a view (`simpletuner-live view create`)",
        ),
        (
            "- hunter2",
            "line 1: the file must hold names and values, not a list; for example: `ttl: 60`, with a blank behind the colon",
        ),
        (
            "ttl:hunter2",
            "line 1: the file must hold names and values, not a text; for example: `ttl: 60`, with a blank behind the colon",
        ),
        ("5: hunter2", "line 1: a name is not a text"),
        (
            "vault_token: \"hunter2",
            "line 1 (vault_token: ...): the quote that begins here has no end",
        ),
        (
            "ttl: 1\n\tencrypt: true",
            "line 2: it is indented by a tab; use spaces",
        ),
        (
            "\u{feff}ttl: 1\r\nencrypt: 5\r\n",
            "line 2: encrypt must be true or false, not a number; for example: encrypt: true",
        ),
        (
            "ttl: 1\n---\nttl: 2",
            "line 2: another document begins here, by `---` or `...`; only one may be in the file",
        ),
        (
            "command: hunter2",
            "line 1: command must be a list of names and values, not a text; for example: command: [{name: onepassword, run: [op, item, get, SimpleTuner]}]",
        ),
        (
            "command:\n  - hunter2",
            "line 1: command must be a list of names and values, not a text; for example: command: [{name: onepassword, run: [op, item, get, SimpleTuner]}]",
        ),
        (
            "command:\n  - {run: [a]}",
            "line 2: command[0].name must be set: the provider's name",
        ),
        (
            "command:\n  - name: op\n    run: op",
            "line 3: command[0].run must be a list of texts, not a text; for example: run: [op, item, get, SimpleTuner]",
        ),
        (
            "command:\n  - name: a\n    run: [a]\n  - name: b\n    run: [b]\n    timeout: soon",
            "line 6: command[1].timeout must be a number of seconds, 0 or more, not a text; for example: timeout: 60",
        ),
        (
            "command:\n  - name: a\n    run: [a]\n  - name: a\n    run: [b]",
            "line 4: command[1].name is the name of another provider; choose one of its own",
        ),
        (
            "command:\n  - name: a\n    run: [a]\n    prioriti: 2",
            "line 4: unknown setting \"command[].prioriti\"; did you mean \"command[].priority\"?",
        ),
    ] {
        let message = message(yaml);
        assert_eq!(message, expected, "{yaml:?}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_variable_of_the_wrong_type_has_the_same_words_and_is_named() {
    let home = Home::new("vault_url: https://v");
    let variable = |name: &str, value: &str| {
        let env = [(name, value), ("VAULT_ADDR", "https://w")];
        let error = home.load_with(&Flags::default(), &env).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        variable("VAULT_SKIP_VERIFY", "hunter2"),
        "the variable VAULT_SKIP_VERIFY must be true or false; for example: VAULT_SKIP_VERIFY=false"
    );
    let both = variable("VAULT_ROLE_ID", "hunter2");
    assert_eq!(
        both,
        "vault_role_id is set without vault_secret_id; set both, or neither"
    );
}
