//! How Vault is reached and logged in to: addresses, certificates, tokens and their end, through the command line and a
//! mount.

use super::*;
use crate::servers::tls::Authority;
use crate::servers::vault::{AppRole, ROLE_ID, SECRET_ID, VaultServer};
use crate::support::home::{BINARY, CommandOutput, Home, ran};

const PATH: &str = "secret/data/simpletuner";

fn server() -> (VaultServer, String) {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &json!({"KEY": "v"}));
    let token = server.token("", &[PATH]);
    (server, token)
}

fn get(home: &Home, variables: &[(&str, &str)]) -> CommandOutput {
    let mut command = home.command(BINARY);
    ran(command.envs(variables.iter().copied()).args(["get", "KEY"]))
}

#[test]
fn a_certificate_that_is_itself_trusted_is_accepted_for_its_names_and_its_time() {
    let (server, token) = server();
    let home = Home::new();
    let proxy = Proxy::before(&server.url());
    let by = |name: &str, more: &[(&str, &str)]| {
        let url = proxy.https_url(name);
        let mut variables = vec![("VAULT_ADDR", url.as_str()), ("VAULT_TOKEN", &token)];
        variables.extend(more);
        get(&home, &variables)
    };
    let trusted = ("VAULT_CACERT", "own.pem");
    let own = Authority::for_names(&["localhost"]);
    home.write("own.pem", &own.pem());
    proxy.speak_tls(own.itself());
    assert_eq!(by("localhost", &[trusted]).done(), "v");
    let said = by("localhost", &[]).failed();
    assert!(said.contains("set VAULT_CACERT to its PEM file"), "{said}");
    let said = by("127.0.0.1", &[trusted]).failed();
    assert!(said.contains("it is for another name"), "{said}");
    // Another one of the same names is not it.
    proxy.speak_tls(Authority::for_names(&["localhost"]).itself());
    let said = by("localhost", &[trusted]).failed();
    assert!(said.contains("is not accepted"), "{said}");
}

#[test]
fn vault_tls_server_name_is_sent_and_verified_instead_of_the_address() {
    let (server, token) = server();
    let home = Home::new();
    let proxy = Proxy::before(&server.url());
    let authority = Authority::new();
    home.write("ca.pem", &authority.pem());
    proxy.speak_tls(authority.server(&["vault.corp.example"]));
    let url = proxy.https_url("127.0.0.1");
    let by = |name: &str| {
        get(
            &home,
            &[
                ("VAULT_ADDR", url.as_str()),
                ("VAULT_TOKEN", &token),
                ("VAULT_CACERT", "ca.pem"),
                ("VAULT_TLS_SERVER_NAME", name),
            ],
        )
    };
    assert_eq!(by("vault.corp.example").done(), "v");
    assert_eq!(proxy.tls_names(), ["vault.corp.example"]);
    let said = by("other.example").failed();
    assert!(said.contains("VAULT_TLS_SERVER_NAME"), "{said}");
    let said = by("not a name").failed();
    assert!(
        said.contains("VAULT_TLS_SERVER_NAME is not the name of a server"),
        "{said}"
    );
}

#[test]
fn an_address_may_be_a_socket_and_a_wrong_one_fails_vault_alone() {
    let (server, token) = server();
    let home = Home::new();
    let socket = home.path("agent.sock");
    server.listen_at(&socket);
    let unix = format!("unix://{}", socket.display());
    let upper = format!(" {}/ ", server.url().replace("http", "HTTP"));
    for address in [unix.as_str(), &upper] {
        let variables = [("VAULT_ADDR", address), ("VAULT_TOKEN", &token)];
        assert_eq!(get(&home, &variables).done(), "v", "{address}");
    }
    // The agent behind a socket may add its own token: then none is needed here.
    let said = get(&home, &[("VAULT_ADDR", &unix)]).failed();
    assert!(said.contains("denied the token (403)"), "{said}");
    for (address, expected) in [
        ("vault.corp:8200", "must begin with https://"),
        ("vault.corp", "must begin with https://"),
        ("unix://relative", "must have an absolute path"),
        ("http://a b:8200", "contains white space"),
        ("unix:///nowhere.sock", "cannot connect to Vault"),
    ] {
        let variables = [("VAULT_ADDR", address), ("VAULT_TOKEN", token.as_str())];
        let said = get(&home, &variables).failed();
        assert!(said.contains(expected), "{address}: {said}");
        assert!(said.contains("VAULT_ADDR"), "{address}: {said}");
        // What others have is not concerned.
        let mut variables = variables.to_vec();
        variables.push(("KEY", "of the environment"));
        assert_eq!(get(&home, &variables).done(), "of the environment");
    }
}

#[test]
fn without_a_token_vault_is_left_out_and_bundles_are_whole() {
    let (server, token) = server();
    let url = server.url();
    let live = Live::start_with(Setup {
        env: vec![("VAULT_ADDR", url.as_str())],
        files: vec![
            (".simpletuner/secrets.json", r#"{"IN_FILE": "f"}"#),
            (
                ".simpletuner/live.yaml",
                "encrypt: false\nttl: {default: 1, missing: 1}\n",
            ),
        ],
        ..Setup::default()
    });
    let said = refused(&live, "cat secrets/ABSENT");
    assert!(said.contains("No such file"), "{said}");
    let report = live.json("providers/vault");
    assert_eq!(report["configured"], false, "{report}");
    let error = report["last_error"].as_str().unwrap();
    assert!(error.contains("there is no token for Vault"), "{error}");
    let bundle =
        "cat bundle/secrets.json; getfattr -n user.simpletuner.missing bundle/secrets.json 2>&1";
    let output = ended(spawn(&live, bundle));
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(listed.contains("IN_FILE"), "{listed}");
    assert!(!listed.contains("vault"), "{listed}");
    let listed = ran(live.cli().arg("ls"));
    assert!(!listed.err.contains("vault"), "{}", listed.err);
    assert!(!live.read("events").contains("provider_down"));
    assert_eq!(server.take_calls(), [""; 0]);
    // `vault login` is noticed.
    std::fs::write(live.home.path().join(".vault-token"), token).unwrap();
    wait_until("Vault is asked", || {
        ended(spawn(&live, "cat secrets/KEY")).status.success()
    });
    assert_eq!(live.json("providers/vault")["configured"], true);
}

#[test]
fn the_token_of_a_log_in_is_revoked_at_the_end_of_a_mount_and_of_a_command() {
    let (server, _) = server();
    let hour = std::time::Duration::from_secs(3600);
    server.let_in(AppRole {
        may_read: vec![PATH.to_owned()],
        ttl: hour,
        max_ttl: hour,
        is_renewable: true,
    });
    let others = server.live_tokens();
    let url = server.url();
    let variables = [
        ("VAULT_ADDR", url.as_str()),
        ("VAULT_ROLE_ID", ROLE_ID),
        ("VAULT_SECRET_ID", SECRET_ID),
    ];
    assert_eq!(get(&Home::new(), &variables).done(), "v");
    assert_eq!(server.live_tokens(), others);
    assert!(
        server
            .take_calls()
            .contains(&"POST auth/token/revoke-self".to_owned())
    );
    let live = Live::start_with(Setup {
        env: variables.to_vec(),
        ..Setup::default()
    });
    assert_eq!(done(&live, "cat secrets/KEY"), "v");
    assert_eq!(server.live_tokens(), others + 1);
    // A server that is killed revokes nothing: the next one goes on with the token.
    signal("KILL", live.server_pid());
    wait_until("another server answers", || {
        done(&live, "cat secrets/KEY") == "v"
    });
    assert_eq!(server.live_tokens(), others + 1);
    drop(live);
    wait_until("the token is revoked", || server.live_tokens() == others);
}

#[test]
fn a_second_mount_with_other_variables_says_that_the_first_ones_are_in_force() {
    let (server, token) = server();
    let url = server.url();
    let live = Live::start_with(Setup {
        env: vec![("VAULT_ADDR", url.as_str()), ("VAULT_TOKEN", &token)],
        ..Setup::default()
    });
    let again = |variables: &[(&str, &str)]| {
        let mut command = live.command(BINARY);
        command.env_clear().env("HOME", live.home.path());
        let ran = ran(command.envs(variables.iter().copied()).arg("mount"));
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.err
    };
    let same = [("VAULT_ADDR", url.as_str()), ("VAULT_TOKEN", &token)];
    let said = again(&same);
    assert!(said.contains("mounted already"), "{said}");
    assert!(!said.contains("started with"), "{said}");
    let said = again(&[("VAULT_TOKEN", "hunter2"), ("AWS_PROFILE", "hunter2")]);
    assert!(
        said.contains("changed since: AWS_PROFILE, VAULT_TOKEN; `simpletuner-live reload --env`"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_address_with_a_password_is_not_shown() {
    let home = Home::new();
    let mut command = home.command(BINARY);
    command
        .env("VAULT_ADDR", "https://me:hunter2@vault")
        .env("VAULT_PROXY_ADDR", "http://me:hunter2@proxy:3128");
    let shown = ran(command.args(["settings", "--json"])).done();
    assert!(shown.contains("(not an address)"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
