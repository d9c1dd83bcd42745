//! Tokens, files of tokens and AppRole: where they come from, their renewal, and their end.

use super::*;

#[test]
fn a_token_file_is_read_at_each_fetch() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("v"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let vault = backend(options(server.url(), VaultAuth::TokenFile(path.clone())));
    let error = failed(&vault);
    assert!(
        error.reason.contains("vault_token_file"),
        "{}",
        error.reason
    );
    assert!(error.reason.contains("does not exist"), "{}", error.reason);
    for _ in 0..2 {
        let token = server.token("", &[V2]);
        std::fs::write(&path, format!("{token}\n")).unwrap();
        assert_eq!(value(&vault), "v");
        assert_eq!(server.take_log()[0].token.as_ref(), Some(&token));
        server.revoke(&token);
        let error = failed(&vault);
        assert!(
            error.reason.contains("into vault_token_file"),
            "{}",
            error.reason
        );
        server.take_log();
    }
    for (bytes, expected) in [
        (&b""[..], "holds no token"),
        (b" \n", "holds no token"),
        (b"hunter2 hunter2", "does not hold a token"),
        (b"hunter2\nhunter2", "does not hold a token"),
        ("hunter2ä".as_bytes(), "does not hold a token"),
        (b"hunter2\xff", "is not text"),
        (&[b'x'; 9000], "is over 8 KiB"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = failed(&vault);
        assert!(error.reason.contains(expected), "{}", error.reason);
        assert!(
            error.reason.contains("vault_token_file"),
            "{}",
            error.reason
        );
    }
    assert_eq!(server.take_log(), []);
}

#[test]
fn without_a_token_vault_is_not_configured_until_there_is_one() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("v"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("none");
    let vault = backend(options(server.url(), VaultAuth::LoginFile(file.clone())));
    match fetch(&vault).unwrap() {
        Fetched::NotConfigured(why) => assert!(why.contains("set VAULT_TOKEN"), "{why}"),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(server.take_calls(), [""; 0]);
    std::fs::write(&file, server.token("", &[V2])).unwrap();
    assert_eq!(value(&vault), "v");
    // A file that is replaced may be away for a moment: that is no reason to drop what is held.
    std::fs::remove_file(&file).unwrap();
    assert!(failed(&vault).reason.contains("set VAULT_TOKEN"));
}

fn approle(ttl: Duration, max_ttl: Duration, is_renewable: bool) -> AppRole {
    AppRole {
        may_read: vec![V2.to_owned()],
        ttl,
        max_ttl,
        is_renewable,
    }
}

/// A server with AppRole log-in, and a backend that uses the server's clock.
fn by_log_in(approle: AppRole) -> (VaultServer, VaultBackend) {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("v"));
    server.let_in(approle);
    let options = options(server.url(), by_approle());
    let vault = VaultBackend::with_clock(options, server.clock()).unwrap();
    (server, vault)
}

const LOG_IN: &str = "POST auth/approle/login";
const RENEW: &str = "POST auth/token/renew-self";
const REVOKE: &str = "POST auth/token/revoke-self";

/// The calls of one fetch, which must give the value.
#[track_caller]
fn calls(server: &VaultServer, vault: &VaultBackend) -> Vec<String> {
    assert_eq!(value(vault), "v");
    let read = format!("GET {V2}");
    let mut calls = server.take_calls();
    for call in &mut calls {
        if *call == read {
            *call = "read".to_owned();
        }
    }
    calls
}

#[test]
fn a_log_in_is_renewed_before_it_expires_and_replaced_if_it_cannot_be() {
    let (server, vault) = by_log_in(approle(HOUR, 3 * HOUR, true));
    assert_eq!(calls(&server, &vault), [LOG_IN, "read"]);
    assert_eq!(calls(&server, &vault), ["read"]);
    let minutes = |minutes: u64| server.wait(Duration::from_secs(60 * minutes));
    minutes(39);
    assert_eq!(calls(&server, &vault), ["read"]);
    minutes(1);
    assert_eq!(calls(&server, &vault), [RENEW, "read"]);
    minutes(40);
    assert_eq!(calls(&server, &vault), [RENEW, "read"]);
    minutes(40);
    assert_eq!(calls(&server, &vault), [RENEW, "read"]);
    // Its longest life is nearly over (at 180 minutes): a renewal gives less than before.
    minutes(40);
    assert_eq!(calls(&server, &vault), [RENEW, "read"]);
    minutes(19);
    assert_eq!(calls(&server, &vault), [LOG_IN, "read"]);
    // It expired between two fetches.
    minutes(600);
    assert_eq!(calls(&server, &vault), [LOG_IN, "read"]);
}

#[test]
fn a_token_that_cannot_be_renewed_is_replaced_before_it_expires() {
    let (server, vault) = by_log_in(approle(HOUR, HOUR, false));
    assert_eq!(calls(&server, &vault), [LOG_IN, "read"]);
    server.wait(HOUR * 2 / 3);
    assert_eq!(calls(&server, &vault), [LOG_IN, "read"]);
    assert_eq!(calls(&server, &vault), ["read"]);
    // One without an end is kept.
    let (server, vault) = by_log_in(approle(Duration::ZERO, HOUR, true));
    server.let_in(approle(100_000 * HOUR, 200_000 * HOUR, true));
    assert_eq!(calls(&server, &vault), [LOG_IN, "read"]);
    server.wait(24 * 365 * HOUR);
    assert_eq!(calls(&server, &vault), ["read"]);
}

#[test]
fn a_token_that_was_revoked_is_replaced_at_once() {
    let (server, vault) = by_log_in(approle(HOUR, HOUR, true));
    assert_eq!(value(&vault), "v");
    let token = server.take_log()[1].token.clone().unwrap();
    server.revoke(&token);
    let denied = format!("GET {V1}");
    assert_eq!(
        calls(&server, &vault),
        ["read", &denied, LOG_IN, REVOKE, "read"]
    );
    // A log-in that may not read does not go round and round.
    server.let_in(AppRole {
        may_read: vec![],
        ..approle(HOUR, HOUR, true)
    });
    server.wait(2 * HOUR);
    let error = failed(&vault);
    assert!(
        error
            .reason
            .contains("policies of the AppRole (vault_role_id)"),
        "{}",
        error.reason
    );
    let tries = server.take_calls();
    assert_eq!(tries.iter().filter(|call| *call == LOG_IN).count(), 1);
    // Nor does another fetch: until the token expires, a log-in would only make one more.
    for _ in 0..5 {
        failed(&vault);
    }
    assert!(!server.take_calls().contains(&LOG_IN.to_owned()));
    server.wait(2 * HOUR);
    failed(&vault);
    assert!(server.take_calls().contains(&LOG_IN.to_owned()));
}

/// The path was allowed, and is no longer: Vault cannot tell that from a bad token.
#[test]
fn a_path_that_is_denied_costs_one_log_in_and_leaves_one_token() {
    let (server, vault) = by_log_in(approle(HOUR, HOUR, true));
    assert_eq!(value(&vault), "v");
    server.let_in(AppRole {
        may_read: vec![],
        ..approle(HOUR, HOUR, true)
    });
    server.deny_all();
    for _ in 0..5 {
        let error = failed(&vault);
        assert!(error.reason.contains("(403)"), "{}", error.reason);
    }
    let calls = server.take_calls();
    let count = |what: &str| calls.iter().filter(|call| *call == what).count();
    assert_eq!((count(LOG_IN), count(REVOKE)), (2, 1), "{calls:?}");
    assert_eq!(server.live_tokens(), 1);
    server.allow_all(V2);
    assert_eq!(value(&vault), "v");
    assert!(!server.take_calls().contains(&LOG_IN.to_owned()));
    runtime().block_on(vault.close());
    assert_eq!(server.take_calls(), [REVOKE]);
    assert_eq!(server.live_tokens(), 0);
}

#[test]
fn a_failed_log_in_is_logged_and_the_old_token_is_used_until_it_expires() {
    let (server, vault) = by_log_in(approle(HOUR, HOUR, false));
    assert_eq!(value(&vault), "v");
    server.let_in(None);
    server.wait(HOUR * 2 / 3);
    // It still lives for twenty minutes.
    assert_eq!(value(&vault), "v");
    server.wait(HOUR);
    let error = failed(&vault);
    assert!(
        error.reason.contains("no AppRole at auth/approle"),
        "{}",
        error.reason
    );
    server.let_in(approle(HOUR, HOUR, false));
    assert_eq!(value(&vault), "v");
    let wrong = VaultAuth::AppRole {
        role_id: SecretValue::new(ROLE_ID),
        secret_id: SecretValue::new("hunter2-wrong"),
    };
    let error = failed(&backend(options(server.url(), wrong)));
    assert!(
        error.reason.contains("vault_role_id and vault_secret_id"),
        "{}",
        error.reason
    );
}

#[test]
fn concurrent_fetches_log_in_once() {
    let (server, vault) = by_log_in(approle(HOUR, HOUR, true));
    runtime().block_on(async {
        let (a, b, c) = tokio::join!(vault.fetch(), vault.fetch(), vault.fetch());
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
    });
    let calls = server.take_calls();
    assert_eq!(calls.iter().filter(|call| *call == LOG_IN).count(), 1);
    assert_eq!(calls.len(), 4);
}

#[test]
fn a_sealed_vault_says_so_and_what_to_do() {
    let (server, vault) = by_log_in(approle(HOUR, HOUR, true));
    server.seal(true);
    let error = failed(&vault);
    assert!(
        error.reason.contains("is sealed; unseal it"),
        "{}",
        error.reason
    );
    assert_eq!(error.retry, Retry::Soon);
    server.seal(false);
    assert_eq!(value(&vault), "v");
    // In the middle of a token's life, too: it is no reason to lose it.
    server.seal(true);
    server.wait(HOUR * 2 / 3);
    failed(&vault);
    server.seal(false);
    server.take_calls();
    assert_eq!(calls(&server, &vault), [RENEW, "read"]);
}

#[test]
fn vault_is_configured_by_variables_settings_or_the_file_of_a_log_in() {
    let server = VaultServer::start();
    server.put_v2("team", "team/kv", "a/b", &key("v"));
    server.put_v2("", "secret", "simpletuner", &key("by AppRole"));
    let token = server.token("team", &["team/kv/data/a/b"]);
    let authority = Authority::new();
    let proxy = Proxy::before(&server.url());
    proxy.speak_tls(authority.server(&["localhost"]));
    let url = proxy.https_url("localhost");
    let home = Home::new();
    home.write("ca.pem", &authority.pem());
    home.write(".vault-token", &token);
    home.write("token", &token);
    home.write(".simpletuner/live.yaml", "vault_mount_point: team/kv\n");
    let get = |variables: &[(&str, &str)]| {
        let mut command = home.command(BINARY);
        command
            .env("VAULT_ADDR", &url)
            .env("VAULT_NAMESPACE", "team");
        command.env("SIMPLETUNER_VAULT_PATH", "a/b");
        ran(command.envs(variables.iter().copied()).args(["get", "KEY"]))
    };
    let ca = ("VAULT_CACERT", "ca.pem");
    assert_eq!(get(&[ca]).done(), "v");
    assert_eq!(get(&[("VAULT_CAPATH", "/nowhere"), ca]).done(), "v");
    assert_eq!(get(&[("VAULT_SKIP_VERIFY", "true")]).done(), "v");
    assert_eq!(get(&[ca, ("VAULT_TOKEN", &token)]).done(), "v");
    home.write(".vault-token", "hvs.hunter2-wrong");
    let said = get(&[ca]).failed();
    assert!(said.contains("log in again"), "{said}");
    assert_eq!(get(&[ca, ("VAULT_TOKEN_FILE", "token")]).done(), "v");
    let said = get(&[ca, ("VAULT_TOKEN", "hvs.hunter2-wrong")]).failed();
    assert!(said.contains("set a valid one in VAULT_TOKEN"), "{said}");
    let said = get(&[("VAULT_CACERT", "nowhere.pem")]).failed();
    assert!(said.contains("VAULT_CACERT"), "{said}");
    let said = get(&[ca, ("VAULT_ADDR", "vault.example.com:8200")]);
    assert_eq!(said.code, 1);
    assert!(
        said.err
            .contains("vault_url (or VAULT_ADDR) must begin with https://"),
        "{}",
        said.err
    );

    server.let_in(approle(HOUR, HOUR, true));
    home.write(
        ".simpletuner/live.yaml",
        &format!(
            "vault_url: {}\nvault_role_id: {ROLE_ID}\nvault_secret_id: {SECRET_ID}\n",
            server.url()
        ),
    );
    assert_eq!(home.run(&["get", "KEY"]).done(), "by AppRole");
}
