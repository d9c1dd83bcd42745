//! Failures of Vault and of the way to it: each has an error that says what to do.

use super::*;

#[test]
fn other_failures_do_not_try_the_other_version() {
    let server = VaultServer::start();
    server.put_v1("", "secret", "simpletuner", &key("hunter2"));
    let proxy = Proxy::before(&server.url());
    let token = server.token("", &[V2, V1]);
    let vault = backend(options(proxy.url(), by_token(&token)));
    for (fault, retry, expected) in [
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
        assert!(error.reason.contains(expected), "{}", error.reason);
        assert_eq!(error.retry, retry, "{}", error.reason);
        // Another version may be there behind an answer that is none of Vault's.
        let tries = match expected {
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
    for (fault, expected) in [
        (Fault::Refuse, "connection refused; is it running there"),
        (Fault::Cut, "broke before the answer was whole"),
    ] {
        proxy.set(fault);
        let error = failed(&vault);
        assert!(error.reason.contains(expected), "{}", error.reason);
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
    let fails_with = |vault: &VaultBackend, expected: &str| {
        let error = failed(vault);
        assert!(error.reason.contains(expected), "{}", error.reason);
        assert_eq!(error.retry, Retry::No, "{}", error.reason);
        assert_eq!(server.take_log(), []);
    };
    fails_with(&trusting(None, false), "must begin with http://");
    proxy.speak_tls(authority.server(&["localhost"]));
    assert_eq!(value(&trusting(Some(ca.clone()), false)), "v");
    assert_eq!(value(&trusting(None, true)), "v");
    server.take_log();
    fails_with(
        &trusting(None, false),
        "set VAULT_CACERT to the PEM file of its issuer",
    );
    let other = file("other.pem", &stranger.pem());
    fails_with(&trusting(Some(other), false), "set VAULT_CACERT");
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
        fails_with(&vault, &format!("VAULT_CACERT, {}, ", path.display()));
        fails_with(&vault, why);
    }
    proxy.speak_tls(authority.server(&["vault.example"]));
    fails_with(
        &trusting(Some(ca.clone()), false),
        "it is for another name; set vault_url",
    );
    proxy.speak_tls(authority.server_until(&["localhost"], 2020));
    fails_with(
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
