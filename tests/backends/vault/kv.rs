//! The secret itself: the version of its engine, its path, its versions, its values.

use super::*;

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
    for (destroyed, expected) in [
        (false, "was deleted at 2026-01-02T03:04:05Z; undelete "),
        (true, "is destroyed; write a new one"),
    ] {
        server.put_v2("", "secret", "simpletuner", &key("v"));
        assert_eq!(value(&vault), "v");
        server.take_calls();
        server.delete_v2("secret", "simpletuner", destroyed);
        let said = missing(&vault);
        assert!(said.contains(expected), "{said}");
        // Version 1 is not asked for it.
        assert_eq!(server.take_calls(), [format!("GET {V2}")]);
    }
}

#[test]
fn the_data_of_the_api_in_the_path_is_an_error_that_says_what_to_set() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &key("hunter2"));
    let token = server.token("", &[V2]);
    for (mount_point, path, expected) in [
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
        assert!(error.reason.contains(expected), "{}", error.reason);
        assert!(error.reason.contains("data/"), "{}", error.reason);
        assert_eq!(error.retry, Retry::No);
    }
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
