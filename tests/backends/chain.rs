//! The order of the chain, outages and their end, rotations, and when a backend is called.

use super::*;
use crate::servers::proxy::Fault;

#[test]
fn the_first_provider_that_has_a_key_wins_and_each_lists_its_keys() {
    let world = World::new();
    let live = world.mount_with("", &[("IN_ALL", "e"), ("HF_TOKEN", "e")]);
    let read = |key: &str| done(&live, &format!("cat secrets/{key}"));
    assert_eq!(read("IN_ALL"), "e");
    assert_eq!(read("IN_FILE"), "f");
    assert_eq!(read("IN_BOTH"), "a");
    assert_eq!(read("IN_AWS"), "a");
    assert_eq!(read("IN_VAULT"), "v");
    let listed = "HF_TOKEN\nIN_ALL\nIN_AWS\nIN_BOTH\nIN_FILE\nIN_VAULT\n";
    assert_eq!(done(&live, "ls secrets"), listed);
    let provider = |key: &str| {
        let script = format!("getfattr --only-values -n user.simpletuner.provider secrets/{key}");
        done(&live, &script)
    };
    for (key, name) in [
        ("IN_ALL", "environment"),
        ("IN_FILE", "file"),
        ("IN_BOTH", "aws"),
        ("IN_VAULT", "vault"),
    ] {
        assert_eq!(provider(key), name);
    }
    let bundle = live.json("bundle/secrets.json");
    let wanted = json!({
        "HF_TOKEN": "e", "IN_ALL": "e", "IN_AWS": "a", "IN_BOTH": "a", "IN_FILE": "f", "IN_VAULT": "v"
    });
    assert_eq!(bundle, wanted);

    for (name, priority, source, keys) in [
        (
            "aws",
            3,
            "simpletuner (us-west-2)".to_owned(),
            json!(["IN_ALL", "IN_AWS", "IN_BOTH"]),
        ),
        (
            "vault",
            4,
            format!("{} secret/simpletuner", world.vault.url()),
            json!(["IN_ALL", "IN_BOTH", "IN_VAULT"]),
        ),
    ] {
        let report = live.json(&format!("providers/{name}"));
        assert_eq!(report["priority"], priority);
        assert_eq!(report["configured"], true);
        assert_eq!(report["available"], true);
        assert_eq!(report["source"], source);
        assert_eq!(report["keys"], keys);
        assert_eq!(report["last_error"], Value::Null);
        assert!(report["last_success"].is_string());
        assert!(report["latency_ms"].as_f64().unwrap() > 0.0);
    }
    // All of this took one call to AWS, and to Vault one for each version of its engine.
    assert_eq!((world.aws.requests(), world.vault.requests()), (1, 2));

    // By the command line alike, with a mount and without.
    for flag in ["", "--no-mount"] {
        let mut command = live.cli();
        command.envs(world.moto.env(&world.aws.url()));
        command.env("VAULT_TOKEN", world.openbao.token());
        command.env("IN_ALL", "e").env("HF_TOKEN", "e");
        let output = command
            .arg("ls")
            .args(Some(flag).filter(|flag| !flag.is_empty()))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), listed);
    }
}

#[test]
fn writes_go_to_the_file_and_never_remove_what_only_a_backend_has() {
    let world = World::new();
    let live = world.mount("");
    assert_eq!(done(&live, "cat secrets/IN_AWS"), "a");
    done(&live, "echo mine > secrets/IN_AWS");
    assert_eq!(done(&live, "cat secrets/IN_AWS"), "mine");
    done(&live, "rm secrets/IN_AWS");
    assert_eq!(done(&live, "cat secrets/IN_AWS"), "a");
    for script in ["rm secrets/IN_AWS", "mv secrets/IN_VAULT secrets/ELSEWHERE"] {
        let said = refused(&live, script);
        assert!(said.contains("Operation not permitted"), "{said}");
    }
}

#[test]
fn an_outage_is_bridged_by_the_last_documents_until_it_ends() {
    let world = World::new();
    let live = world.mount("");
    assert_eq!(done(&live, "cat secrets/IN_BOTH secrets/IN_VAULT"), "av");
    world.aws.set(Fault::Refuse);
    world.vault.set(Fault::Refuse);
    done(&live, "echo > cache/secrets/clear");
    for _ in 0..3 {
        assert_eq!(done(&live, "cat secrets/IN_BOTH secrets/IN_VAULT"), "av");
    }
    let reported = events(&live);
    for provider in ["aws", "vault"] {
        let down = format!("provider_down - {provider}");
        assert_eq!(reported.iter().filter(|line| **line == down).count(), 1);
        let report = live.json(&format!("providers/{provider}"));
        assert_eq!(report["available"], false);
        assert_eq!(report["stale"], true);
        let said = report["last_error"].as_str().unwrap();
        assert!(
            said.contains("connect") || said.contains("reached"),
            "{said}"
        );
        assert!(report["last_error_at"].is_string());
    }
    world.put_in_aws(&json!({"IN_AWS": "a", "IN_BOTH": "a2"}));
    world.aws.set(Fault::None);
    world.vault.set(Fault::None);
    wait_until("the new value is read", || {
        done(&live, "cat secrets/IN_BOTH") == "a2"
    });
    wait_until("vault answers again", || {
        done(&live, "cat secrets/IN_VAULT; cat providers/vault").contains("\"stale\": false")
    });
    let reported = events(&live);
    for line in [
        "provider_up - aws",
        "provider_up - vault",
        "rotated IN_BOTH aws",
        "deleted IN_ALL aws",
    ] {
        assert_eq!(
            reported.iter().filter(|event| *event == line).count(),
            1,
            "{line}: {reported:?}"
        );
    }
    assert_eq!(live.json("providers/aws")["stale"], false);
}

#[test]
fn a_key_that_may_exist_is_never_reported_missing() {
    let world = World::new();
    world.aws.set(Fault::Status(500, ""));
    let live = world.mount("timeout: {total: 60}\n");
    // A value behind a provider that failed is served, but not cached.
    assert_eq!(done(&live, "cat secrets/IN_BOTH"), "v");
    let expires = "getfattr --only-values -n user.simpletuner.expires_in secrets/IN_BOTH";
    assert_eq!(done(&live, expires), "0");
    for script in [
        "cat secrets/IN_AWS",
        "cat secrets/NOWHERE",
        "stat secrets/NOWHERE",
    ] {
        let said = refused(&live, script);
        assert!(said.contains("Input/output error"), "{said}");
    }
    let said = live.json("providers/aws")["last_error"].to_string();
    assert!(said.contains("AWS answers 500"), "{said}");
    // The command line passes the reason on.
    let output = live.cli().args(["get", "NOWHERE"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("AWS answers 500"), "{said}");
    // A new secret can be made meanwhile.
    done(&live, "echo new > secrets/NOWHERE");
    assert_eq!(done(&live, "cat secrets/NOWHERE"), "new");
    world.aws.set(Fault::None);
    wait_until("AWS is asked again", || {
        done(&live, "cat secrets/IN_BOTH") == "a"
    });
    let said = refused(&live, "cat secrets/NOBODYS");
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn a_document_older_than_max_stale_is_not_served() {
    let world = World::new();
    let live = world.mount("max_stale: 0\nttl: 1\ntimeout: {total: 60}\n");
    assert_eq!(done(&live, "cat secrets/IN_BOTH secrets/IN_VAULT"), "av");
    world.aws.set(Fault::Refuse);
    wait_until("AWS is skipped", || {
        done(&live, "cat secrets/IN_BOTH") == "v"
    });
    let said = refused(&live, "cat secrets/IN_AWS");
    assert!(said.contains("Input/output error"), "{said}");
    assert_eq!(live.json("providers/aws")["stale"], false);
}

#[test]
fn a_rotation_shows_within_the_time_to_live_and_is_an_event() {
    let world = World::new();
    let live = world.mount("ttl: {default: 1, missing: 1}\n");
    assert_eq!(done(&live, "cat secrets/IN_BOTH secrets/IN_VAULT"), "av");
    world.put_in_aws(&json!({"IN_AWS": "a", "IN_BOTH": "rotated", "IN_ALL": "a", "NEW": "n"}));
    world.put_in_vault(&json!({"IN_BOTH": "v", "IN_ALL": "v"}));
    wait_until("the new value is read", || {
        done(&live, "cat secrets/IN_BOTH") == "rotated"
    });
    assert_eq!(done(&live, "cat secrets/NEW"), "n");
    wait_until("what is gone is not found", || {
        let output = ended(spawn(&live, "cat secrets/IN_VAULT"));
        String::from_utf8_lossy(&output.stderr).contains("No such file")
    });
    let reported = events(&live);
    for line in [
        "rotated IN_BOTH aws",
        "set NEW aws",
        "deleted IN_VAULT vault",
    ] {
        assert_eq!(
            reported.iter().filter(|event| *event == line).count(),
            1,
            "{line}: {reported:?}"
        );
    }
    assert!(
        !live
            .read("events")
            .contains("\"rotated\",\"key\":\"IN_ALL\"")
    );
}

#[test]
fn the_next_read_after_an_invalidation_asks_again() {
    let world = World::new();
    let live = world.mount("");
    let read = || done(&live, "cat secrets/IN_AWS");
    assert_eq!(read(), "a");
    for (n, script) in [
        "echo > cache/clear",
        "echo > cache/secrets/clear",
        "echo secret:IN_AWS > cache/invalidate",
        "echo secret:IN_ > cache/secrets/invalidate",
    ]
    .into_iter()
    .enumerate()
    {
        let value = format!("a{n}");
        world.put_in_aws(&json!({ "IN_AWS": value }));
        done(&live, script);
        assert_eq!(read(), value);
        assert_eq!(read(), value);
        assert_eq!(world.aws.requests(), n + 2);
    }
    // Another cache's entries are none of the chain's.
    done(&live, "echo provider: > cache/invalidate");
    assert_eq!(read(), "a3");
    assert_eq!(world.aws.requests(), 5);
}

#[test]
fn any_number_of_missing_names_costs_one_call() {
    let world = World::new();
    let live = world.mount("");
    let begun = std::time::Instant::now();
    let said = ended(spawn(&live, "cat secrets/NOBODYS_{1..200}"));
    let said = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.matches("No such file").count(), 200);
    let windows = 1 + begun.elapsed().as_secs() as usize / 10;
    assert!(world.aws.requests() <= windows);
    assert!(world.vault.requests() <= 2 * windows);
}

#[test]
fn documents_are_fetched_at_mount_if_prefetch_is_set() {
    let world = World::new();
    let live = world.mount("prefetch: true\n");
    wait_until("both have been asked", || {
        live.read("secrets/../providers/aws").contains("IN_AWS")
            && live.read("providers/vault").contains("IN_VAULT")
    });
    let listed = "IN_ALL\nIN_AWS\nIN_BOTH\nIN_FILE\nIN_VAULT\n";
    assert_eq!(done(&live, "ls secrets"), listed);
    assert_eq!(done(&live, "cat secrets/IN_AWS secrets/IN_VAULT"), "av");
    assert_eq!((world.aws.requests(), world.vault.requests()), (1, 2));
    // And else not.
    let idle = world.mount("");
    assert_eq!(
        done(&idle, "cat secrets/IN_FILE status > /dev/null; echo ok"),
        "ok\n"
    );
    assert_eq!((world.aws.requests(), world.vault.requests()), (1, 2));
}

#[test]
fn a_sealed_vault_is_an_outage_until_it_is_unsealed() {
    let world = World::new();
    let live = world.mount("");
    assert_eq!(done(&live, "cat secrets/IN_VAULT"), "v");
    world.openbao.seal();
    done(&live, "echo > cache/clear");
    assert_eq!(done(&live, "cat secrets/IN_VAULT"), "v");
    let said = live.json("providers/vault")["last_error"].to_string();
    assert!(said.contains("sealed"), "{said}");
    world.openbao.unseal();
    wait_until("vault answers again", || {
        done(&live, "cat secrets/IN_VAULT");
        live.json("providers/vault")["available"] == true
    });
    assert!(events(&live).contains(&"provider_up - vault".to_owned()));
}

#[test]
fn no_token_key_or_value_is_ever_printed() {
    let world = World::new();
    world.put_in_aws(&json!({"IN_AWS": "hunter2-in-aws", "NESTED": {"x": "hunter2-nested"}, "a/b": "hunter2-odd"}));
    world.put_in_vault(&json!({"IN_VAULT": "hunter2-in-vault"}));
    let live = world.mount_with(
        "ttl: {default: 1, missing: 1}\n",
        &[("SIMPLETUNER_LIVE_LOG", "trace"), ("RUST_LOG", "trace")],
    );
    let token = world.openbao.root_token.clone();
    let faults = [
        Fault::None,
        Fault::Cut,
        Fault::Status(500, ""),
        Fault::TooMany(1),
        Fault::Refuse,
        Fault::None,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        world.aws.set(fault.clone());
        world.vault.set(fault);
        world.put_in_aws(&json!({"IN_AWS": format!("hunter2-{n}"), "BAD": [1]}));
        done(
            &live,
            "echo > cache/clear; cat secrets/IN_AWS secrets/IN_VAULT",
        );
    }
    world.moto.put("simpletuner", "hunter2 is no JSON");
    done(&live, "echo > cache/clear; cat secrets/IN_VAULT");
    wait_until("AWS has failed", || {
        done(&live, "cat secrets/IN_AWS > /dev/null; cat providers/aws").contains("not JSON")
    });
    let log = log_with(&live.home("daemon.log"), "not JSON");
    let mut outputs = vec![
        log,
        live.read("events"),
        live.read("status"),
        live.read("cache/stats"),
    ];
    outputs.extend(["aws", "vault"].map(|name| live.read(&format!("providers/{name}"))));
    outputs.push(std::fs::read_to_string(format!("/proc/{}/cmdline", live.server_pid())).unwrap());
    for text in outputs {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!text.contains(&token), "{text}");
    }
}

#[test]
fn a_listing_shows_the_documents_last_held_and_has_them_fetched_anew() {
    let world = World::new();
    // No key is ever read, because keys that are read are also fetched anew before they expire.
    let live = world.mount("ttl: 1\nprefetch: true\n");
    wait_until("both have answered", || {
        let has = |name: &str, key: &str| live.read(&format!("providers/{name}")).contains(key);
        has("aws", "IN_AWS") && has("vault", "IN_VAULT")
    });
    world.put_in_aws(&json!({"IN_AWS": "a", "NEW": "n"}));
    world.aws.set(Fault::Hold);
    let requests = world.aws.requests();
    let before = "IN_ALL\nIN_AWS\nIN_BOTH\nIN_FILE\nIN_VAULT\n";
    wait_until("a listing has AWS asked", || {
        assert_eq!(done(&live, "ls secrets"), before);
        world.aws.requests() > requests
    });
    assert_eq!(done(&live, "ls secrets"), before, "while AWS is silent");
    world.aws.set(Fault::None);
    wait_until("the new name is listed", || {
        done(&live, "ls secrets").contains("NEW\n")
    });
}
