//! Documents with more than `max_keys` keys, from a backend or in the secrets file: an error that names the setting, and takes
//! no memory.

use serde_json::{Value, json};
use std::fs;

use super::servers::vault::VaultServer;
use super::support::user::{LIVE, User};
use super::users;

/// `K0` to `K{count - 1}`.
fn keys(count: usize) -> Value {
    let keys = (0..count).map(|n| (format!("K{n}"), json!("v")));
    Value::Object(keys.collect())
}

/// A mount over a Vault with this document, and these further settings.
fn vault(user: &User, document: &Value, settings: &str) -> VaultServer {
    let server = VaultServer::start();
    server.put_v2("", "secret", "app", document);
    let token = server.token("", &["secret/data/app"]);
    let settings = format!(
        "vault_url: {}\nvault_path: app\nvault_token: {token}\nttl: 1\n{settings}",
        server.url()
    );
    user.sh(&format!(
        "umask 077; cat > .simpletuner/live.yaml <<'END'\n{settings}\nEND"
    ));
    server
}

fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .split(' ')
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[test]
fn a_vault_with_too_many_keys_takes_no_memory_and_says_which_setting_allows_more() {
    for user in users() {
        let _server = vault(&user, &keys(60_000), "");
        user.run(&["mount"]).done();
        let live = LIVE;
        user.set_secret(live);
        let [_, server] = user.pids(live);
        let before = resident_mib(server);
        let said = user.sh(&format!(
            "cat {live}/secrets/K5 2>&1; ls {live}/secrets; jq -r .last_error {live}/providers/vault"
        ));
        assert!(said.contains("Input/output error"), "{said}");
        assert!(said.contains("more than 10000 keys"), "{said}");
        assert!(said.contains("max_keys"), "{said}");
        let after = resident_mib(server);
        assert!(after < before + 60, "{before} MiB became {after} MiB");
        assert_eq!(user.sh(&format!("cat {live}/secrets/K")), "v", "the file's");
        user.run(&["umount"]).done();

        let larger = vault(&user, &keys(12_000), "max_keys: 12000");
        user.run(&["mount"]).done();
        assert_eq!(user.sh(&format!("cat {live}/secrets/K11999")), "v");
        user.run(&["umount"]).done();
        drop(larger);
    }
}

#[test]
fn a_secrets_file_with_too_many_keys_says_which_setting_allows_more() {
    for user in users() {
        let live = LIVE;
        let file = user.path(".simpletuner/secrets.json");
        fs::write(&file, keys(10_000).to_string()).unwrap();
        user.scratch.sh(&format!(
            "chown -R {} home; chmod 600 home/.simpletuner/secrets.json",
            user.name
        ));
        user.run(&["mount"]).done();
        assert_eq!(
            user.sh(&format!(
                "cat {live}/secrets/K9999; ls {live}/secrets | wc -l"
            )),
            "v10000\n"
        );
        let said = user.sh(&format!(
            "echo new > {live}/secrets/K1; cat {live}/secrets/K1"
        ));
        assert_eq!(said, "new\n");
        let close = "import os; fd = os.open(\"ONE_MORE\", os.O_WRONLY | os.O_CREAT); os.write(fd, b\"v\"); os.close(fd)";
        let said = user.sh(&format!(
            "cd {live}/secrets; python3 -c '{close}' 2>&1 || true"
        ));
        assert!(said.contains("No space left on device"), "{said}");
        let log = fs::read_to_string(user.path(".simpletuner/live.log")).unwrap();
        assert!(log.contains("the setting max_keys allows 10000"), "{log}");
        user.run(&["umount"]).done();
    }
}
