//! Documents and log-ins of backends survive the process that fetched them. Most tests use two managers, as the two
//! servers of one mount, before and after a restart.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::json;
use simpletuner_live::manager::{Lookup, SecretsManager};
use simpletuner_live::provider::backend::{BackendOptions, BackendProvider};
use simpletuner_live::provider::vault::{VaultAuth, VaultBackend, VaultOptions, VaultTls};
use simpletuner_live::secret::{SecretName, SecretValue};
use simpletuner_live::settings::Ttl;

use crate::World;
use crate::servers::proxy::Fault;
use crate::servers::vault::{AppRole, ROLE_ID, SECRET_ID, VaultServer};
use crate::support::home::signal;
use crate::support::wait_until;

const V2: &str = "secret/data/simpletuner";
const HOUR: Duration = Duration::from_secs(3600);
const LOG_IN: &str = "POST auth/approle/login";

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

/// A server with AppRole log-in and the key `K`.
fn vault() -> VaultServer {
    let server = VaultServer::start();
    server.put_v2(
        "",
        "secret",
        "simpletuner",
        &json!({"K": "v", "odd/key": "o"}),
    );
    server.let_in(AppRole {
        may_read: vec![V2.to_owned()],
        ttl: HOUR,
        max_ttl: HOUR,
        is_renewable: true,
    });
    server
}

fn manager(url: &str, ttl: Duration, max_stale: Duration, role: &str) -> Arc<SecretsManager> {
    let options = VaultOptions {
        url: url.to_owned(),
        mount_point: "secret".to_owned(),
        path: "simpletuner".to_owned(),
        namespace: None,
        auth: VaultAuth::AppRole {
            role_id: SecretValue::new(role),
            secret_id: SecretValue::new(SECRET_ID),
        },
        tls: VaultTls::default(),
        proxy: None,
        connect_timeout: Duration::from_secs(10),
    };
    let kept = BackendOptions {
        ttl: Ttl {
            default: ttl,
            ..Ttl::default()
        },
        max_stale,
        max_keys: 10_000,
        timeout: Duration::from_secs(20),
    };
    let provider = BackendProvider::new(VaultBackend::new(options).unwrap(), kept).unwrap();
    SecretsManager::builder()
        .with_provider(Arc::new(provider))
        .ttl(ttl, Duration::from_secs(10), [])
        .max_stale(max_stale)
        .build()
}

fn ask(manager: &SecretsManager) -> Result<String, String> {
    let (answer, answered) = mpsc::channel();
    manager.find_async(
        &name("K"),
        Box::new(move |lookup| answer.send(lookup).unwrap()),
    );
    match answered.recv_timeout(Duration::from_secs(60)).unwrap() {
        Lookup::Fresh(version, _) => Ok(version.value().as_str().to_owned()),
        Lookup::Failed(error) => Err(error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_next_process_reuses_the_document_and_the_log_in() {
    let server = vault();
    let first = manager(&server.url(), HOUR, HOUR, ROLE_ID);
    let unsaved = Arc::new(AtomicUsize::new(0));
    let count = unsaved.clone();
    first.on_backends_changed(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(ask(&first).unwrap(), "v");
    assert_eq!(
        unsaved.load(Ordering::SeqCst),
        2,
        "after the log-in, and after the call"
    );
    let saved = first.save_backends();
    let Lookup::Fresh(before, _) = first.snapshot().find(&name("K")) else {
        panic!("it was read");
    };
    drop(first);
    server.take_calls();

    let second = manager(&server.url(), HOUR, HOUR, ROLE_ID);
    second.restore_backends(&saved);
    let Lookup::Fresh(after, left) = second.snapshot().find(&name("K")) else {
        panic!("it was restored");
    };
    assert_eq!(after.value().as_str(), "v");
    assert_eq!(after.changed_at, before.changed_at);
    assert!(left < HOUR, "its time goes on");
    assert_eq!(second.get("odd/key").unwrap().as_str(), "o");
    assert!(server.take_calls().is_empty());
    // When it must be fetched again, the token of the other process does: a log-in would be refused.
    server.let_in(None);
    second.clear_cache();
    assert_eq!(ask(&second).unwrap(), "v");
    assert_eq!(server.take_calls(), [format!("GET {V2}")]);
}

#[test]
fn a_server_restarted_in_an_outage_serves_the_last_document_until_max_stale() {
    let server = vault();
    let url = server.url();
    let first = manager(&url, Duration::ZERO, HOUR, ROLE_ID);
    assert_eq!(ask(&first).unwrap(), "v");
    let saved = first.save_backends();
    drop((first, server));

    let second = manager(&url, Duration::ZERO, HOUR, ROLE_ID);
    second.restore_backends(&saved);
    assert_eq!(ask(&second).unwrap(), "v");
    // Saved while it fails, too.
    let third = manager(&url, Duration::ZERO, HOUR, ROLE_ID);
    third.restore_backends(&second.save_backends());
    assert_eq!(ask(&third).unwrap(), "v");
    assert_eq!(
        third.snapshot().report("vault").unwrap().available,
        Some(false)
    );

    // A document past `max_stale` is not served, although this process restored it only just now.
    let strict = manager(&url, Duration::ZERO, Duration::from_millis(1), ROLE_ID);
    strict.restore_backends(&saved);
    ask(&strict).unwrap_err();
}

#[test]
fn a_record_of_another_source_or_role_is_not_restored() {
    let (server, other) = (vault(), vault());
    let first = manager(&server.url(), HOUR, HOUR, ROLE_ID);
    assert_eq!(ask(&first).unwrap(), "v");
    let saved = first.save_backends();

    let elsewhere = manager(&other.url(), HOUR, HOUR, ROLE_ID);
    elsewhere.restore_backends(&saved);
    assert!(matches!(
        elsewhere.snapshot().find(&name("K")),
        Lookup::Unknown
    ));
    assert_eq!(ask(&elsewhere).unwrap(), "v");
    assert!(other.take_calls().contains(&LOG_IN.to_owned()));

    let another_role = manager(&server.url(), HOUR, HOUR, "another-role");
    another_role.restore_backends(&saved);
    another_role.clear_cache();
    server.take_calls();
    assert_eq!(
        ask(&another_role).unwrap(),
        "v",
        "the document may be served"
    );
    assert!(
        server.take_calls().contains(&LOG_IN.to_owned()),
        "the lease of another role is none"
    );

    // A damaged record is ignored.
    for damaged in [&b""[..], b"\x01", &saved[..saved.len() / 2]] {
        let manager = manager(&server.url(), HOUR, HOUR, ROLE_ID);
        manager.restore_backends(damaged);
        assert_eq!(ask(&manager).unwrap(), "v");
    }
}

#[test]
fn servers_killed_in_an_outage_lose_no_value_of_a_backend() {
    let world = World::new();
    let live = world.mount("");
    let both = ["secrets/IN_AWS", "secrets/IN_VAULT"];
    assert_eq!(both.map(|path| live.read(path)), ["a", "v"]);
    world.aws.set(Fault::Refuse);
    world
        .vault
        .set(Fault::Status(503, "{\"errors\": [\"Vault is sealed\"]}"));
    for end in ["KILL", "ABRT"] {
        let server = live.server_pid();
        signal(end, server);
        wait_until("another one answers", || live.server_pid() != server);
        assert_eq!(both.map(|path| live.read(path)), ["a", "v"]);
    }
    assert!(live.sh("ls secrets").contains("IN_VAULT"));
}
