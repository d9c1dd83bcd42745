//! A real server, OpenBao: its engines, policies and AppRole, as users of Vault set them up.

use super::*;
use crate::servers::openbao::OpenBao;

/// A server with the secret `app` in an engine of each version, and `gone` and `destroyed` without a present version.
fn server() -> OpenBao {
    let bao = OpenBao::start();
    bao.put("app", &key("v"));
    bao.enable_kv("team/kv", 2);
    for path in ["app", "gone", "destroyed"] {
        bao.put_v2("team/kv", path, &key("v"));
    }
    bao.done("DELETE", "team/kv/data/gone", &Value::Null);
    let destroyed = "team/kv/destroy/destroyed";
    bao.done("POST", destroyed, &json!({"versions": [1]}));
    bao
}

/// A backend for this secret, with a token that may read these paths and nothing else.
fn limited(bao: &OpenBao, mount_point: &str, path: &str, may_read: &[&str]) -> VaultBackend {
    let policy = "limited";
    bao.policy(policy, may_read);
    backend(VaultOptions {
        mount_point: mount_point.to_owned(),
        path: path.to_owned(),
        ..options(bao.url(), by_token(&bao.token_of(policy)))
    })
}

#[test]
fn the_right_to_read_the_secret_alone_suffices_in_a_genuine_vault() {
    let bao = server();
    let reader = |mount_point: &str, path: &str, may_read: &[&str]| {
        limited(&bao, mount_point, path, may_read)
    };
    let v1 = reader("secret", "app", &["secret/app"]);
    assert_eq!((value(&v1), value(&v1)), ("v".into(), "v".into()));
    let v2 = reader("team/kv", "app", &["team/kv/data/app"]);
    assert_eq!((value(&v2), value(&v2)), ("v".into(), "v".into()));
    bao.put_v2("team/kv", "app", &key("rotated"));
    assert_eq!(value(&v2), "rotated");

    for (mount_point, path, may_read) in [
        ("secret", "nope", "secret/nope"),
        ("team/kv", "nope", "team/kv/data/nope"),
        ("nowhere", "app", "nowhere/*"),
    ] {
        let said = missing(&reader(mount_point, path, &[may_read]));
        assert!(said.contains("has no secret at"), "{said}");
    }
    let said = missing(&reader("team/kv", "gone", &["team/kv/data/gone"]));
    assert!(said.contains("was deleted"), "{said}");
    let said = missing(&reader("team/kv", "destroyed", &["team/kv/data/destroyed"]));
    assert!(said.contains("is destroyed"), "{said}");
}

#[test]
fn a_policy_that_is_wrong_for_a_genuine_vault_is_an_error_that_says_what_to_set() {
    let bao = server();
    let reader = |mount_point: &str, path: &str, may_read: &[&str]| {
        limited(&bao, mount_point, path, may_read)
    };
    let without_data = failed(&reader("team/kv", "app", &["team/kv/app"])).reason;
    let wanted = "let it read team/kv/data/app";
    assert!(without_data.contains(wanted), "{without_data}");
    for mount_point in ["secret", "team/kv", "nowhere"] {
        let denied = failed(&reader(mount_point, "app", &["other/*"]));
        let said = &denied.reason;
        assert!(said.contains("denied the token (403)"), "{said}");
        assert_eq!(denied.retry, Retry::No);
    }
    let data = ["team/kv/*", "team/kv/data/*"];
    let said = failed(&reader("team/kv", "data/app", &data)).reason;
    assert!(said.contains("is the data/ of the API"), "{said}");
}

/// Variables for an AppRole of this server whose secret id is good for one log-in.
fn single_use(bao: &OpenBao, role: &str, settings: Value) -> Vec<(&'static str, String)> {
    let mut all = json!({"secret_id_num_uses": 1, "token_policies": ["app"], "token_ttl": "1h"});
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let role_id = bao.approle(role, &all);
    vec![
        ("VAULT_ADDR", bao.url()),
        ("VAULT_ROLE_ID", role_id),
        ("VAULT_SECRET_ID", bao.secret_id(role)),
    ]
}

const SETTINGS: (&str, &str) = (
    ".simpletuner/live.yaml",
    "vault_mount_point: team/kv\nvault_path: app\n",
);

fn mounted(variables: &[(&str, String)]) -> Live {
    Live::start_with(Setup {
        env: variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect(),
        files: vec![SETTINGS],
        ..Setup::default()
    })
}

#[test]
fn a_secret_id_for_one_log_in_lasts_a_mount_and_its_token_ends_with_it() {
    let bao = server();
    bao.enable_approle();
    bao.policy("app", &["team/kv/data/app"]);
    let live_tokens = || {
        bao.tokens()
            .iter()
            .filter(|name| *name == "approle")
            .count()
    };
    let variables = single_use(&bao, "one", json!({}));
    let live = mounted(&variables);
    assert_eq!(done(&live, "cat secrets/KEY"), "v");
    assert_eq!(live_tokens(), 1);
    signal("KILL", live.server_pid());
    bao.put_v2("team/kv", "app", &key("rotated"));
    wait_until("the next server reads with the same token", || {
        done(&live, "echo > cache/clear; cat secrets/KEY") == "rotated"
    });
    assert_eq!(live_tokens(), 1);
    drop(live);
    wait_until("the token is revoked", || live_tokens() == 0);

    // The secret id is used up.
    let live = mounted(&variables);
    let said = refused(&live, "cat secrets/KEY");
    assert!(said.contains("Input/output error"), "{said}");
    let said = live.json("providers/vault")["last_error"].to_string();
    assert!(said.contains("refused the AppRole log-in"), "{said}");
    assert!(!said.contains(&variables[2].1), "{said}");
}

#[test]
fn a_token_that_can_be_neither_renewed_nor_revoked_is_enough() {
    let bao = server();
    bao.enable_approle();
    bao.policy("app", &["team/kv/data/app"]);
    for (role, settings) in [
        ("batch", json!({"token_type": "batch"})),
        ("bare", json!({"token_no_default_policy": true})),
    ] {
        let variables = single_use(&bao, role, settings);
        let home = Home::new();
        home.write(SETTINGS.0, SETTINGS.1);
        let mut command = home.command(BINARY);
        command.envs(
            variables
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        assert_eq!(ran(command.args(["get", "KEY"])).done(), "v", "{role}");

        let mut variables = variables;
        variables[2].1 = bao.secret_id(role);
        let live = mounted(&variables);
        for _ in 0..2 {
            assert_eq!(
                done(&live, "echo > cache/clear; cat secrets/KEY"),
                "v",
                "{role}"
            );
        }
    }
}

#[test]
fn a_path_that_is_denied_leaves_one_token_in_a_genuine_vault() {
    let bao = server();
    bao.enable_approle();
    bao.policy("app", &["team/kv/data/other"]);
    let live_tokens = || {
        bao.tokens()
            .iter()
            .filter(|name| *name == "approle")
            .count()
    };
    let live = mounted(&single_use(
        &bao,
        "denied",
        json!({"secret_id_num_uses": 0}),
    ));
    for _ in 0..5 {
        refused(&live, "echo > cache/clear; cat secrets/KEY");
    }
    assert_eq!(live_tokens(), 1);
    let said = live.json("providers/vault")["last_error"].to_string();
    assert!(said.contains("check the policies of the AppRole"), "{said}");
    // What the policy allows from now on is read with the token that is there.
    bao.policy("app", &["team/kv/data/app"]);
    wait_until("the policy allows it", || {
        live.try_sh("echo > cache/clear; cat secrets/KEY").stdout == b"v"
    });
    assert_eq!(live_tokens(), 1);
    drop(live);
    wait_until("the token is revoked", || live_tokens() == 0);
}

#[test]
fn a_secret_in_a_genuine_namespace_is_read() {
    let bao = OpenBao::start();
    bao.done("POST", "sys/namespaces/team", &json!({}));
    bao.done("POST", "team/sys/mounts/secret", &json!({"type": "kv-v2"}));
    bao.put_v2("team/secret", "simpletuner", &key("v"));
    let in_team = |namespace: Option<&str>| {
        backend(VaultOptions {
            namespace: namespace.map(str::to_owned),
            ..options(bao.url(), by_token(&bao.root_token))
        })
    };
    assert_eq!(value(&in_team(Some("team"))), "v");
    assert!(missing(&in_team(None)).contains("has no secret at"));
}
