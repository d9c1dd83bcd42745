//! Vault through the library: the calls, the handling of each response, and the error messages.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use simpletuner_live::error::Error;
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::backend::{
    Backend, BackendDocument, BackendOptions, BackendProvider, FetchError, Fetched, Retry,
};
use simpletuner_live::provider::vault::{VaultAuth, VaultBackend, VaultOptions, VaultTls};
use simpletuner_live::secret::{SecretName, SecretValue};
use simpletuner_live::settings::Ttl;

use super::*;
use crate::servers::proxy::Fault;
use crate::servers::tls::Authority;
use crate::servers::vault::{AppRole, ROLE_ID, SECRET_ID, VaultServer};
use crate::support::home::{BINARY, Home, ran};

const V2: &str = "secret/data/simpletuner";
const V1: &str = "secret/simpletuner";
const HOUR: Duration = Duration::from_secs(3600);

fn options(url: String, auth: VaultAuth) -> VaultOptions {
    VaultOptions {
        url,
        mount_point: "secret".to_owned(),
        path: "simpletuner".to_owned(),
        namespace: None,
        auth,
        tls: VaultTls::default(),
        proxy: None,
        connect_timeout: Duration::from_secs(10),
    }
}

fn by_token(token: &str) -> VaultAuth {
    VaultAuth::Token(SecretValue::new(token))
}

fn by_approle() -> VaultAuth {
    VaultAuth::AppRole {
        role_id: SecretValue::new(ROLE_ID),
        secret_id: SecretValue::new(SECRET_ID),
    }
}

fn backend(options: VaultOptions) -> VaultBackend {
    VaultBackend::new(options).unwrap()
}

/// A backend whose token may read these paths.
fn reader(server: &VaultServer, may_read: &[&str]) -> VaultBackend {
    backend(options(server.url(), by_token(&server.token("", may_read))))
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap())
}

fn fetch(backend: &VaultBackend) -> Result<Fetched, FetchError> {
    runtime().block_on(backend.fetch())
}

#[track_caller]
fn document(backend: &VaultBackend) -> BackendDocument {
    match fetch(backend).unwrap() {
        Fetched::Document { document, .. } => document,
        Fetched::Missing(why) | Fetched::NotConfigured(why) => panic!("{why}"),
    }
}

#[track_caller]
fn value(backend: &VaultBackend) -> String {
    let document = document(backend);
    let value = document.get(&SecretName::new("KEY").unwrap()).unwrap();
    value.as_str().to_owned()
}

/// Why there is no such document.
#[track_caller]
fn missing(backend: &VaultBackend) -> String {
    match fetch(backend).unwrap() {
        Fetched::Missing(why) => quotes_nothing(why),
        answer => panic!("{answer:?}"),
    }
}

/// Why there is no answer.
#[track_caller]
fn failed(backend: &VaultBackend) -> FetchError {
    let error = fetch(backend).unwrap_err();
    quotes_nothing(format!("{error:?}"));
    error
}

/// All tokens, ids and values of these tests have this in them.
#[track_caller]
fn quotes_nothing(said: String) -> String {
    assert!(!said.contains("hunter2"), "{said}");
    said
}

fn key(value: &str) -> Value {
    json!({ "KEY": value })
}

#[test]
fn the_version_of_the_engine_is_detected_and_remembered() {
    let server = VaultServer::start();
    let vault = reader(&server, &[V2, V1]);
    server.put_v2("", "secret", "simpletuner", &key("2"));
    assert_eq!(value(&vault), "2");
    assert_eq!(value(&vault), "2");
    assert_eq!(
        server.take_calls(),
        [format!("GET {V2}"), format!("GET {V2}")]
    );

    server.unmount("secret");
    server.put_v1("", "secret", "simpletuner", &key("1"));
    assert_eq!(value(&vault), "1");
    assert_eq!(
        server.take_calls(),
        [format!("GET {V2}"), format!("GET {V1}")]
    );
    assert_eq!(value(&vault), "1");
    assert_eq!(server.take_calls(), [format!("GET {V1}")]);

    // `vault kv enable-versioning`.
    server.unmount("secret");
    server.put_v2("", "secret", "simpletuner", &key("3"));
    assert_eq!(value(&vault), "3");
    assert_eq!(
        server.take_calls(),
        [format!("GET {V1}"), format!("GET {V2}")]
    );
    assert_eq!(value(&vault), "3");
    assert_eq!(server.take_calls(), [format!("GET {V2}")]);
}

#[test]
fn mount_point_and_path_may_have_several_segments_and_any_character() {
    let server = VaultServer::start();
    for (mount, path) in [("team/kv", "a/b/c"), ("kv", "a b/ä%41?#&/c+d")] {
        let data = format!("{mount}/data/{path}");
        server.put_v2("", mount, path, &key(path));
        let token = server.token("", &[&data]);
        let vault = backend(VaultOptions {
            mount_point: mount.to_owned(),
            path: format!("/{path}/"),
            ..options(server.url(), by_token(&token))
        });
        assert_eq!(value(&vault), path);
        assert_eq!(server.take_calls(), [format!("GET {data}")]);
        assert_eq!(vault.source(), format!("{} {mount}/{path}", server.url()));
    }
}

/// What the responses of both versions together mean.
#[test]
fn the_right_to_read_one_path_suffices_and_a_hidden_path_is_missing() {
    let server = VaultServer::start();
    let with = |engine: &str, may_read: &[&str]| {
        server.unmount("secret");
        match engine {
            "v1" => server.put_v1("", "secret", "simpletuner", &key("v")),
            "v2" => server.put_v2("", "secret", "simpletuner", &key("v")),
            "empty v1" => server.put_v1("", "secret", "other", &key("v")),
            "empty v2" => server.put_v2("", "secret", "other", &key("v")),
            _ => {}
        }
        reader(&server, may_read)
    };
    for (engine, may_read) in [("v1", V1), ("v2", V2)] {
        let vault = with(engine, &[may_read]);
        assert_eq!(value(&vault), "v");
        assert_eq!(value(&vault), "v");
    }
    for engine in ["empty v1", "empty v2", "nothing"] {
        for may_read in [&[V1, V2][..], &[V1], &[V2]] {
            if (engine, may_read) == ("empty v2", &[V1]) {
                continue;
            }
            let said = missing(&with(engine, may_read));
            assert!(said.contains("vault_path (simpletuner)"), "{said}");
        }
    }
    // The policy is for version 1, but the engine has version 2: the secret may be there, and the error says what to do.
    for engine in ["v2", "empty v2"] {
        let error = failed(&with(engine, &[V1]));
        let said = error.reason;
        assert!(
            said.contains("let it read secret/data/simpletuner"),
            "{said}"
        );
    }
    for engine in ["v1", "v2", "empty v1", "empty v2", "nothing"] {
        let said = failed(&with(engine, &[]));
        assert_eq!(said.retry, Retry::No);
        assert!(
            said.reason.contains("denied the token (403)"),
            "{}",
            said.reason
        );
        assert!(said.reason.contains("VAULT_TOKEN"), "{}", said.reason);
    }
    // Nothing else was ever asked.
    let asked = server.take_calls();
    let wanted = [format!("GET {V1}"), format!("GET {V2}")];
    assert!(asked.iter().all(|call| wanted.contains(call)), "{asked:?}");
}

#[test]
fn a_deleted_or_destroyed_version_is_no_such_key() {
    let server = VaultServer::start();
    let vault = reader(&server, &[V2]);
    for (destroyed, told) in [
        (false, "was deleted at 2026-01-02T03:04:05Z; undelete it"),
        (true, "is destroyed; write a new one"),
    ] {
        server.put_v2("", "secret", "simpletuner", &key("v"));
        assert_eq!(value(&vault), "v");
        server.take_calls();
        server.delete_v2("secret", "simpletuner", destroyed);
        let said = missing(&vault);
        assert!(said.contains(told), "{said}");
        // Version 1 is not asked for it.
        assert_eq!(server.take_calls(), [format!("GET {V2}")]);
    }
}

#[test]
fn other_failures_do_not_try_the_other_version() {
    let server = VaultServer::start();
    server.put_v1("", "secret", "simpletuner", &key("hunter2"));
    let proxy = Proxy::before(&server.url());
    let token = server.token("", &[V2, V1]);
    let vault = backend(options(proxy.url(), by_token(&token)));
    for (fault, retry, told) in [
        (Fault::Status(500, ""), Retry::Soon, "failed (500)"),
        (Fault::Status(502, "<html>"), Retry::Soon, "failed (502)"),
        (
            Fault::Status(503, ""),
            Retry::Soon,
            "is not available (503)",
        ),
        (
            Fault::Status(429, ""),
            Retry::Soon,
            "limits its requests (429)",
        ),
        (
            Fault::TooMany(7),
            Retry::After(Duration::from_secs(7)),
            "limits its requests (429)",
        ),
        (Fault::Status(412, ""), Retry::Soon, "has not caught up"),
        (
            Fault::Status(472, ""),
            Retry::Soon,
            "disaster recovery secondary",
        ),
        (Fault::Status(473, ""), Retry::Soon, "is a standby"),
        (
            Fault::Status(400, "{}"),
            Retry::No,
            "refused the request (400)",
        ),
        (
            Fault::Status(200, "<html>"),
            Retry::No,
            "does not seem to be Vault",
        ),
        (Fault::Status(404, "<html>"), Retry::No, "a gateway"),
        (Fault::Status(404, ""), Retry::No, "a gateway"),
        (Fault::Status(204, ""), Retry::No, "a gateway"),
        (
            Fault::Status(404, r#"{"message": "no Route matched with those values"}"#),
            Retry::No,
            "a gateway",
        ),
        (
            Fault::Status(
                404,
                r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404}"#,
            ),
            Retry::No,
            "a gateway",
        ),
        (Fault::Status(403, ""), Retry::No, "a gateway"),
    ] {
        proxy.set(fault);
        let before = proxy.requests();
        let error = failed(&vault);
        assert!(error.reason.contains(told), "{}", error.reason);
        assert_eq!(error.retry, retry, "{}", error.reason);
        // Another version may be there behind an answer that is none of Vault's.
        let tries = match told {
            "a gateway" => 1..=2,
            _ => 1..=1,
        };
        let tried = proxy.requests() - before;
        assert!(tries.contains(&tried), "{tried}: {}", error.reason);
    }
    assert_eq!(server.take_log(), []);
    proxy.set(Fault::None);
    assert_eq!(value(&vault), "hunter2");
}

#[test]
fn a_failed_connection_has_an_error_that_says_why() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("hunter2"));
    let proxy = Proxy::before(&server.url());
    let token = server.token("", &[V2]);
    let vault = backend(options(proxy.url(), by_token(&token)));
    for (fault, told) in [
        (Fault::Refuse, "connection refused; is it running there"),
        (Fault::Cut, "broke before the answer was whole"),
    ] {
        proxy.set(fault);
        let error = failed(&vault);
        assert!(error.reason.contains(told), "{}", error.reason);
        assert_eq!(error.retry, Retry::Soon);
    }
    let huge = format!(
        r#"{{"data": {{"data": {{"KEY": "{}"}}}}}}"#,
        "v".repeat(2 << 20)
    );
    proxy.set(Fault::Status(200, huge.leak()));
    let error = failed(&vault);
    assert!(
        error.reason.contains("too large: over 1 MiB"),
        "{}",
        error.reason
    );
    let nowhere = "http://no-such-host.invalid:8200".to_owned();
    let error = failed(&backend(options(nowhere, by_token(&token))));
    assert!(
        error.reason.contains("is vault_url (or VAULT_ADDR) right"),
        "{}",
        error.reason
    );
}

#[test]
fn a_token_does_not_follow_a_redirect() {
    let (server, other) = (VaultServer::start(), VaultServer::start());
    let proxy = Proxy::before(&server.url());
    let vault = backend(options(proxy.url(), by_token("hvs.hunter2")));
    let elsewhere = format!("{}/v1/{V2}?token=hunter2", other.url());
    for to in [
        &elsewhere,
        "https://active.example:8200/v1/x",
        "//active.example/",
        "%",
        "",
    ] {
        proxy.set(Fault::Redirect(to.to_owned()));
        let error = failed(&vault);
        assert!(error.reason.contains("redirects to"), "{}", error.reason);
        assert!(
            error
                .reason
                .contains("set vault_url (or VAULT_ADDR) to the active node")
        );
        assert_eq!(error.retry, Retry::No);
    }
    assert_eq!(other.take_log(), []);
    assert_eq!(server.take_log(), []);
}

#[test]
fn every_request_has_the_namespace() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("of the root"));
    server.put_v2("team/a", "secret", "simpletuner", &key("of team a"));
    let token = server.token("team/a", &[V2]);
    let in_namespace = VaultOptions {
        namespace: Some("team/a".to_owned()),
        ..options(server.url(), by_token(&token))
    };
    assert_eq!(value(&backend(in_namespace.clone())), "of team a");
    assert_eq!(server.take_log()[0].namespace, "team/a");
    failed(&backend(options(server.url(), by_token(&token))));
    let odd = VaultOptions {
        namespace: Some("a\nb".to_owned()),
        ..in_namespace
    };
    let error = VaultBackend::new(odd).err().unwrap();
    assert!(matches!(error, Error::Settings(_)));
    assert!(error.to_string().contains("VAULT_NAMESPACE"));
}

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
    for (bytes, told) in [
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
        assert!(error.reason.contains(told), "{}", error.reason);
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

#[test]
fn the_data_of_the_api_in_the_path_is_an_error_that_says_what_to_set() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("hunter2"));
    let token = server.token("", &[V2]);
    for (mount_point, path, told) in [
        (
            "secret",
            "data/simpletuner",
            "set vault_path to simpletuner",
        ),
        (
            "secret/data",
            "simpletuner",
            "set vault_mount_point to secret",
        ),
    ] {
        let vault = backend(VaultOptions {
            mount_point: mount_point.to_owned(),
            path: path.to_owned(),
            ..options(server.url(), by_token(&token))
        });
        let error = failed(&vault);
        assert!(error.reason.contains(told), "{}", error.reason);
        assert!(error.reason.contains("data/"), "{}", error.reason);
        assert_eq!(error.retry, Retry::No);
    }
}

#[test]
fn a_token_that_is_not_a_valid_header_is_refused_with_a_reason() {
    for token in [
        "",
        "  ",
        "hunter2\nx",
        "hunter2 x",
        "hunter2ä",
        "hunter2\u{0}",
    ] {
        let vault = backend(options("http://127.0.0.1:1".to_owned(), by_token(token)));
        let error = failed(&vault);
        assert!(
            error.reason.contains("vault_token (or VAULT_TOKEN)"),
            "{}",
            error.reason
        );
    }
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
fn an_address_without_a_scheme_or_with_a_password_is_refused_without_quoting_it() {
    for url in [
        "vault.example.com:8200",
        "hunter2",
        "https://u:hunter2@vault:8200",
    ] {
        let error = VaultBackend::new(options(url.to_owned(), by_token("hunter2")));
        let error = error.err().unwrap();
        assert!(matches!(error, Error::Settings(_)));
        let said = quotes_nothing(error.to_string());
        assert!(said.contains("vault_url (or VAULT_ADDR)"), "{said}");
    }
    let options = options("http://127.0.0.1:8200".to_owned(), by_approle());
    quotes_nothing(format!("{options:?}"));
    quotes_nothing(format!("{:?}", by_token("hunter2")));
}

#[test]
fn numbers_and_booleans_are_served_and_objects_are_not() {
    let server = VaultServer::start();
    let vault = reader(&server, &[V2]);
    let long = "k".repeat(300);
    let big = "v".repeat(64 * 1024 + 1);
    server.put_v2(
        "",
        "secret",
        "simpletuner",
        &json!({
            "KEY": "v", "INT": 7, "YES": true, "NULL": null, "OBJECT": {"x": "hunter2"}, "BIG": big,
            "a/b": "odd", "..": "odd", "": "odd", &long: "odd",
        }),
    );
    match fetch(&vault).unwrap() {
        Fetched::Document {
            document,
            changed_at,
        } => {
            let names: Vec<&str> = document.names().map(SecretName::as_str).collect();
            assert_eq!(names, ["INT", "KEY", "YES"]);
            assert_eq!(document.skipped(), 7);
            for (key, value) in [
                ("INT", "7"),
                ("YES", "true"),
                ("a/b", "odd"),
                ("", "odd"),
                (&long, "odd"),
            ] {
                assert_eq!(document.get_by_key(key).unwrap().as_str(), value);
            }
            let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_250);
            assert_eq!(changed_at, Some(created));
        }
        Fetched::Missing(why) | Fetched::NotConfigured(why) => panic!("{why}"),
    }
    server.unmount("secret");
    server.put_v1("", "secret", "simpletuner", &json!(["hunter2"]));
    let error = failed(&reader(&server, &[V1]));
    assert!(
        error
            .reason
            .contains("it is not an object of names and texts"),
        "{}",
        error.reason
    );
}

#[test]
fn a_wrong_certificate_is_refused_with_a_reason_and_advice() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("v"));
    let token = server.token("", &[V2]);
    let proxy = Proxy::before(&server.url());
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.pem", &authority.pem());
    let trusting = |ca_file: Option<PathBuf>, skip_verify| {
        backend(VaultOptions {
            tls: VaultTls {
                ca_file,
                skip_verify,
                ..VaultTls::default()
            },
            ..options(proxy.https_url("localhost"), by_token(&token))
        })
    };
    let told = |vault: &VaultBackend, told: &str| {
        let error = failed(vault);
        assert!(error.reason.contains(told), "{}", error.reason);
        assert_eq!(error.retry, Retry::No, "{}", error.reason);
        assert_eq!(server.take_log(), []);
    };
    told(&trusting(None, false), "must begin with http://");
    proxy.speak_tls(authority.server(&["localhost"]));
    assert_eq!(value(&trusting(Some(ca.clone()), false)), "v");
    assert_eq!(value(&trusting(None, true)), "v");
    server.take_log();
    told(
        &trusting(None, false),
        "set VAULT_CACERT to the PEM file of its issuer",
    );
    let other = file("other.pem", &stranger.pem());
    told(&trusting(Some(other), false), "set VAULT_CACERT");
    for (name, text, why) in [
        ("missing", None, "does not exist"),
        ("empty.pem", Some(""), "holds no PEM certificate"),
        (
            "odd.pem",
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "cannot be read",
        ),
    ] {
        let path = text.map_or_else(|| dir.path().join(name), |text| file(name, text));
        let vault = trusting(Some(path.clone()), false);
        told(&vault, &format!("VAULT_CACERT, {}, ", path.display()));
        told(&vault, why);
    }
    proxy.speak_tls(authority.server(&["vault.example"]));
    told(
        &trusting(Some(ca.clone()), false),
        "it is for another name; set vault_url",
    );
    proxy.speak_tls(authority.server_until(&["localhost"], 2020));
    told(
        &trusting(Some(ca.clone()), false),
        "it has expired; renew it",
    );
    let plain = options(proxy.url(), by_token(&token));
    let error = failed(&backend(plain));
    assert!(
        error.reason.contains("must begin with https://"),
        "{}",
        error.reason
    );
    // The next fetch uses the fixed files.
    let vault = trusting(Some(ca), false);
    failed(&vault);
    proxy.speak_tls(authority.server(&["localhost"]));
    assert_eq!(value(&vault), "v");
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

#[test]
fn a_key_that_is_not_a_file_name_is_found_by_the_library() {
    let server = VaultServer::start();
    server.put_v2(
        "",
        "secret",
        "simpletuner",
        &json!({"a/b": "odd", "KEY": "v"}),
    );
    let backend = reader(&server, &[V2]);
    let options = BackendOptions {
        ttl: Ttl::default(),
        max_stale: HOUR,
        max_keys: 10_000,
        timeout: Duration::from_secs(10),
    };
    let provider = Arc::new(BackendProvider::new(backend, options).unwrap());
    let manager = SecretsManager::builder().with_provider(provider).build();
    assert_eq!(manager.get("a/b").unwrap().as_str(), "odd");
    assert_eq!(manager.get("KEY").unwrap().as_str(), "v");
    assert!(matches!(manager.get("a/c"), Err(Error::InvalidName { .. })));
    assert_eq!(manager.reports()[0].skipped_keys, 1);
    assert_eq!(server.take_calls().len(), 1);
}
