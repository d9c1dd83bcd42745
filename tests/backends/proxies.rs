//! Proxies, for AWS and Vault alike. Environment variables set them, so each case is a process of its own.

use super::*;
use crate::servers::proxy::Fault;
use crate::servers::vault::VaultServer;
use crate::support::home::{BINARY, CommandOutput, Home, ran};

const PROXIES: [&str; 3] = ["HTTP_PROXY", "https_proxy", "ALL_PROXY"];

fn get(home: &Home, variables: &[(&str, &str)]) -> CommandOutput {
    let mut command = home.command(BINARY);
    ran(command.envs(variables.iter().copied()).args(["get", "KEY"]))
}

#[test]
fn vaults_token_goes_to_no_proxy_that_is_not_meant_for_it() {
    let server = VaultServer::start();
    server.put_v2("", "secret", "simpletuner", &json!({"KEY": "v"}));
    let token = server.token("", &["secret/data/simpletuner"]);
    let proxy = Proxy::before(&server.url());
    let (url, by) = (server.url(), proxy.url());
    let home = Home::new();
    let ask = |address: &str, more: &[(&str, &str)]| {
        let mut variables = vec![("VAULT_ADDR", address), ("VAULT_TOKEN", &token)];
        variables.extend(PROXIES.map(|name| (name, by.as_str())));
        variables.extend(more);
        get(&home, &variables)
    };
    // This machine is asked directly.
    assert_eq!(ask(&url, &[]).done(), "v");
    assert_eq!(proxy.requests(), 0);
    // A name that only the proxy knows goes there, and to no address that NO_PROXY has.
    let far = "http://vault.corp.invalid:8200";
    assert_eq!(ask(far, &[]).done(), "v");
    assert_eq!(
        proxy.targets()[0],
        format!("GET {far}/v1/secret/data/simpletuner?")
    );
    let before = proxy.requests();
    for no_proxy in ["*", "corp.invalid", ".invalid", "vault.corp.invalid:8200"] {
        let said = ask(far, &[("NO_PROXY", no_proxy)]).failed();
        assert!(said.contains("cannot be resolved"), "{no_proxy}: {said}");
        assert!(!said.contains("the proxy"), "{said}");
    }
    assert_eq!(proxy.requests(), before);
    // An error that went by a proxy names it, without its password.
    let with_password = by.replace("http://", "http://me:hunter2@");
    proxy.set(Fault::Status(403, "<html>blocked</html>"));
    let said = ask(far, &[("HTTP_PROXY", &with_password)]).failed();
    assert!(
        said.contains(&format!("through the proxy {by} (HTTP_PROXY)")),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
    let said = ask(far, &[("HTTP_PROXY", "socks5://p:1")]).failed();
    assert!(
        said.contains("HTTP_PROXY must begin with http://"),
        "{said}"
    );
    // Vault's own variable is for Vault alone, and for every address.
    proxy.set(Fault::None);
    let before = proxy.requests();
    assert_eq!(ask(&url, &[("VAULT_PROXY_ADDR", &by)]).done(), "v");
    assert_eq!(proxy.requests(), before + 1);
}

#[test]
fn aws_is_asked_through_the_proxies_that_its_own_tools_use() {
    let moto = Moto::start();
    moto.put("simpletuner", r#"{"KEY": "v"}"#);
    let proxy = Proxy::before(&moto.url());
    let home = Home::new();
    home.write(
        ".simpletuner/live.yaml",
        "aws_secret_name: simpletuner\ntimeout: {total: 20}\n",
    );
    let by = proxy.url();
    let ask = |endpoint: &str, more: &[(&str, &str)]| {
        let env = moto.env(endpoint);
        let mut variables: Vec<(&str, &str)> = env
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        variables.extend(PROXIES.map(|name| (name, by.as_str())));
        variables.extend(more);
        get(&home, &variables)
    };
    assert_eq!(ask(&moto.url(), &[]).done(), "v");
    assert_eq!(proxy.requests(), 0);
    let far = "http://secretsmanager.corp.invalid";
    assert_eq!(ask(far, &[]).done(), "v");
    assert_eq!(proxy.targets(), [format!("POST {far}/")]);
    let said = ask(far, &[("no_proxy", "*")]).failed();
    assert!(said.contains("AWS cannot be reached"), "{said}");
    assert_eq!(proxy.requests(), 1);
    proxy.set(Fault::Status(403, "<html>blocked</html>"));
    let said = ask(far, &[]).failed();
    assert!(
        said.contains(&format!("through the proxy {by} (HTTP_PROXY)")),
        "{said}"
    );
    // TLS goes through a tunnel.
    let said = ask("https://secretsmanager.corp.invalid", &[]).failed();
    assert!(said.contains("(https_proxy)"), "{said}");
    let asked = proxy.targets();
    let tunnel = "CONNECT secretsmanager.corp.invalid:443".to_owned();
    assert!(asked.contains(&tunnel), "{asked:?}");
}
