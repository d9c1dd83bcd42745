//! AWS Secrets Manager and Vault behind the mount and the command line, against moto, OpenBao and a fake Vault.

mod aws;
mod aws_credentials;
mod chain;
mod command;
mod command_tools;
mod documents;
mod orphans;
mod proxies;
mod reports;
mod restart;
#[path = "../support/servers/mod.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod vault;
mod vault_access;
mod waiting;

use std::process::{Child, Output};

use serde_json::{Value, json};
use servers::moto::Moto;
use servers::openbao::OpenBao;
use servers::proxy::Proxy;
use support::home::signal;
use support::{Live, Setup, log_with, wait_until, waits_for_the_mount};

/// Both backends, each behind a proxy, with the document `simpletuner` in each.
struct World {
    moto: Moto,
    openbao: OpenBao,
    aws: Proxy,
    vault: Proxy,
}

impl World {
    fn new() -> Self {
        let (moto, openbao) = (Moto::start(), OpenBao::start());
        let world = Self {
            aws: Proxy::before(&moto.url()),
            vault: Proxy::before(&openbao.url()),
            moto,
            openbao,
        };
        world.put_in_aws(&json!({"IN_AWS": "a", "IN_BOTH": "a", "IN_ALL": "a"}));
        world.put_in_vault(&json!({"IN_VAULT": "v", "IN_BOTH": "v", "IN_ALL": "v"}));
        world
    }

    fn put_in_aws(&self, document: &Value) {
        self.moto.put("simpletuner", &document.to_string());
    }

    fn put_in_vault(&self, document: &Value) {
        self.openbao.put("simpletuner", document);
    }

    /// A mount with these further settings, whose file has `IN_FILE` and `IN_ALL`.
    fn mount(&self, settings: &str) -> Live {
        self.mount_with(settings, &[])
    }

    fn mount_with(&self, settings: &str, variables: &[(&str, &str)]) -> Live {
        let settings = format!(
            "aws_secret_name: simpletuner\nvault_url: {}\nencrypt: false\n{settings}",
            self.vault.url()
        );
        let mut env = self.moto.env(&self.aws.url());
        env.push(("VAULT_TOKEN", self.openbao.token()));
        let env = env.iter().map(|(name, value)| (*name, value.as_str()));
        Live::start_with(Setup {
            env: env.chain(variables.iter().copied()).collect(),
            files: vec![
                (".simpletuner/live.yaml", &settings),
                (
                    ".simpletuner/secrets.json",
                    r#"{"IN_FILE": "f", "IN_ALL": "f"}"#,
                ),
            ],
            ..Setup::default()
        })
    }
}

/// A program in the mount that goes on by itself.
fn spawn(live: &Live, script: &str) -> Child {
    use std::os::unix::process::CommandExt;
    use std::process::Stdio;
    live.command("bash")
        .args(["-c", script])
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// The output of a process, once it has ended.
#[track_caller]
fn ended(mut child: Child) -> Output {
    wait_until("the program ends", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

/// The output of a script in the mount that must not wait.
#[track_caller]
fn done(live: &Live, script: &str) -> String {
    let output = ended(spawn(live, script));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The error output of a script in the mount that fails.
#[track_caller]
fn refused(live: &Live, script: &str) -> String {
    let output = ended(spawn(live, script));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && printed.is_empty(),
        "{script}: {printed}"
    );
    String::from_utf8(output.stderr).unwrap()
}

/// The events so far, as `event key provider`.
fn events(live: &Live) -> Vec<String> {
    let word = |event: &Value, field: &str| match &event[field] {
        Value::String(text) => text.clone(),
        _ => "-".to_owned(),
    };
    live.read("events")
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            ["event", "key", "provider"]
                .map(|field| word(&event, field))
                .join(" ")
        })
        .collect()
}
