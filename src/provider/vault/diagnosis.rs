//! What `doctor` asks of Vault, one thing after the other: the address, the token, the path. Also the least policy, in Vault's own
//! language. Keeps nothing, and leaves no token of a log-in behind.

use std::fmt::Write;
use std::time::Duration;

use serde::Deserialize;
use vaultrs::api::token::requests::LookupTokenSelfRequest;

use super::address::SecretPath;
use super::client::Client;
use super::kv::Engine;
use super::token::Token;
use super::{ReadOutcome, VaultAuth, VaultBackend, VaultOptions, failure};
use crate::provider::backend::{Backend, FetchError, Fetched};
use crate::provider::diagnosis::clock_against;
use crate::provider::{Finding, Policy, set_clock};
use crate::secret::SecretValue;
use crate::text::{counted, shell_path, shell_word};

/// A token that nobody renews should live longer than this.
const SHORT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The name of the policy in the commands that are printed.
const POLICY: &str = "simpletuner-live";

/// What Vault says of a token ("Token auth method", "Lookup a token (self)"). The rest of its answer holds the token.
#[derive(Deserialize)]
struct Lookup {
    data: TokenFacts,
}

#[derive(Deserialize)]
struct TokenFacts {
    /// Seconds; 0: it never expires.
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    num_uses: u64,
    #[serde(default)]
    policies: Vec<String>,
}

pub(super) async fn diagnose(options: VaultOptions, may_log_in: bool) -> Vec<Finding> {
    let auth = options.auth.clone();
    let cli = Cli::new(&options);
    let skips_verification = options.tls.skip_verify;
    let backend = match VaultBackend::new(options) {
        Ok(backend) => backend,
        Err(error) => return vec![Finding::failed(error.to_string())],
    };
    let mut findings = Vec::new();
    if let Some(host) = &backend.address.plain_host {
        findings.push(Finding::warning(format!(
            "the token goes to {host} over plain http, where others can read it; set vault_url to its https:// address"
        )));
    }
    if skips_verification {
        findings.push(Finding::warning(
            "VAULT_SKIP_VERIFY is set, so anybody can pose as Vault and gets the token; name the authority in VAULT_CACERT instead",
        ).mended_by("unset VAULT_SKIP_VERIFY"));
    }
    match backend.client() {
        Err(error) => findings.push(failed(error, &cli)),
        Ok(client) => {
            findings.extend(ask(&backend, &client, &auth, &cli, may_log_in).await);
            let clock = clock_against("Vault", client.seconds_behind());
            findings.extend(clock);
        }
    }
    backend.close().await;
    findings
}

/// Vault's own program, as this user has to type it.
struct Cli {
    /// The address, if a shell's variables name another.
    address: Option<String>,
    /// Whether the token that is checked is that of `VAULT_TOKEN`, so that Vault's program would use it, too.
    is_token_of_variable: bool,
}

impl Cli {
    fn new(options: &VaultOptions) -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let url = options.url.trim_end_matches('/');
        let is_known = variable("VAULT_ADDR").trim_end_matches('/') == url;
        let is_of_variable = |token: &SecretValue| token.as_str() == variable("VAULT_TOKEN");
        Self {
            address: (!is_known && is_plain(url)).then(|| url.to_owned()),
            is_token_of_variable: matches!(&options.auth, VaultAuth::Token(token) if is_of_variable(token)),
        }
    }

    /// A command with the token that is checked, or without one.
    fn command(&self, words: &str) -> String {
        match &self.address {
            Some(address) => format!("VAULT_ADDR={} vault {words}", shell_word(address)),
            None => format!("vault {words}"),
        }
    }

    /// A command of an operator, with the token of the operator's own log-in.
    fn operator(&self, words: &str) -> String {
        match (self.is_token_of_variable, &self.address) {
            (false, _) => self.command(words),
            (true, None) => format!("env -u VAULT_TOKEN vault {words}"),
            (true, Some(_)) => format!("env -u VAULT_TOKEN {}", self.command(words)),
        }
    }

    /// Writes the least policy.
    fn write_policy(&self) -> String {
        let write = self.operator(&format!("policy write {POLICY} -"));
        format!("simpletuner-live doctor --policy vault | {write}")
    }

    /// Puts a new token with the least policy where the token is.
    fn new_token(&self, auth: &VaultAuth) -> String {
        let create = self.operator(&format!("token create -policy={POLICY}"));
        match auth {
            VaultAuth::Token(_) if self.is_token_of_variable => {
                format!("export VAULT_TOKEN=\"$({create} -field=token)\"")
            }
            VaultAuth::Token(_) => format!("{create}    # and put it into live.yaml"),
            VaultAuth::TokenFile(path) => {
                format!("(umask 077; {create} -field=token > {})", shell_path(path))
            }
            VaultAuth::LoginFile(_) => {
                format!(
                    "{create} -field=token | {}",
                    self.command("login -no-print -")
                )
            }
            VaultAuth::AppRole { .. } => {
                format!("{create}    # for an AppRole, give the role this policy")
            }
        }
    }
}

/// Whether an address has no password in it, which must not be shown.
fn is_plain(url: &str) -> bool {
    !url.contains('@')
}

/// With the command that mends it, if the reason names something that a command of Vault's does.
fn failed(error: FetchError, cli: &Cli) -> Finding {
    let finding = Finding::failed(error.reason);
    let said = finding.message.clone();
    match () {
        () if said.contains("is sealed") => finding.mended_by(cli.command("operator unseal")),
        () if said.contains("`vault login`") => finding.mended_by(cli.command("login")),
        () if said.contains("clock") => finding.mended_by(set_clock()),
        () => finding,
    }
}

async fn ask(
    backend: &VaultBackend,
    client: &Client,
    auth: &VaultAuth,
    cli: &Cli,
    may_log_in: bool,
) -> Vec<Finding> {
    if let Some(why) = backend.tokens.not_configured() {
        return vec![Finding::failed(why).mended_by(cli.command("login"))];
    }
    let reached = |how: &str| Finding::ok(format!("Vault at {} answers{how}", backend.address));
    if backend.tokens.logs_in() && !may_log_in {
        return vec![match look_up(client, None).await {
            Err(error) => failed(client.by_proxy(error), cli),
            Ok(_) => reached(
                "; the AppRole is not tried, because a log-in may be allowed once and the mount has logged in",
            ),
        }];
    }
    let token = match backend.tokens.current(client).await {
        Ok(token) => token,
        Err(error) => return vec![failed(client.by_proxy(error), cli)],
    };
    let mut findings = match look_up(client, Some(&token.value)).await {
        Err(error) => return vec![failed(client.by_proxy(error), cli)],
        Ok(None) => vec![
            reached(""),
            // The agent behind a socket adds its own token, and a policy may forbid the question.
            Finding::skipped("Vault does not say what the token may (auth/token/lookup-self)"),
        ],
        Ok(Some(facts)) => vec![reached(""), of_token(&facts, auth, cli)],
    };
    findings.push(of_path(backend, client, &token, auth, cli).await);
    findings
}

/// `None`: Vault answers, and does not know the token, or does not let it ask.
async fn look_up(
    client: &Client,
    token: Option<&SecretValue>,
) -> Result<Option<TokenFacts>, FetchError> {
    let endpoint = LookupTokenSelfRequest::builder().build();
    let endpoint = endpoint.map_err(|_| failure::no_request(client.address()))?;
    let response = client.send(endpoint, token).await?;
    if !response.is_from_vault() {
        return Err(failure::not_vault(client.address(), &response));
    }
    let lookup: Option<Lookup> = serde_json::from_slice(response.body.as_bytes()).ok();
    Ok(lookup.map(|lookup| lookup.data))
}

fn of_token(facts: &TokenFacts, auth: &VaultAuth, cli: &Cli) -> Finding {
    let policies = facts.policies.join(", ");
    let life = match facts.ttl {
        0 => "never expires".to_owned(),
        seconds => format!("expires in {}", in_words(seconds)),
    };
    let said = format!("the token {life}; its policies: {policies}");
    let is_renewed_by_us = matches!(auth, VaultAuth::AppRole { .. });
    if facts.policies.iter().any(|policy| policy == "root") {
        let why = "; a root token may do everything, and one secret is read";
        let create = format!("{} && {}", cli.write_policy(), cli.new_token(auth));
        return Finding::warning(format!("{said}{why}")).mended_by(create);
    }
    if facts.num_uses > 0 && !is_renewed_by_us {
        let uses = counted(facts.num_uses, "use");
        return Finding::warning(format!("{said}; it has {uses} left, and each fetch is one"))
            .mended_by(format!("{} && {}", cli.write_policy(), cli.new_token(auth)));
    }
    let is_short = facts.ttl > 0 && facts.ttl < SHORT_LIFE.as_secs();
    match (is_short, auth) {
        (true, VaultAuth::Token(_) | VaultAuth::LoginFile(_)) => {
            // As long as Vault's default allows.
            let mut renew = cli.command("token renew -increment=768h");
            if matches!(auth, VaultAuth::Token(_)) && !cli.is_token_of_variable {
                renew.push_str("    # with this token in VAULT_TOKEN");
            }
            Finding::warning(format!("{said}; nobody renews it")).mended_by(renew)
        }
        _ => Finding::ok(said),
    }
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..120 => counted(seconds, "second"),
        120..7200 => counted(seconds / 60, "minute"),
        7200..172_800 => counted(seconds / 3600, "hour"),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}

async fn of_path(
    backend: &VaultBackend,
    client: &Client,
    token: &Token,
    auth: &VaultAuth,
    cli: &Cli,
) -> Finding {
    let SecretPath { mount_point, path } = &backend.path;
    let allow = || format!("{} && {}", cli.write_policy(), cli.new_token(auth));
    match backend.read(client, &token.value).await {
        Err(error) if error.reason.contains("its policy must let it read") => {
            Finding::failed(error.reason).mended_by(allow())
        }
        Err(error) => failed(client.by_proxy(error), cli),
        Ok(ReadOutcome::Denied) => Finding::failed(backend.denied()).mended_by(allow()),
        Ok(ReadOutcome::Fetched(Fetched::Document { document, .. })) => {
            let version = match backend.connection.lock().engine {
                Some(Engine::V1) => "1",
                Some(Engine::V2) | None => "2",
            };
            Finding::ok(format!(
                "{} has {} (KV version {version})",
                backend.path,
                counted(document.names().count() as u64, "secret")
            ))
        }
        Ok(ReadOutcome::Fetched(Fetched::Missing(why) | Fetched::NotConfigured(why))) => {
            let at = format!("-mount={} {}", shell_word(mount_point), shell_word(path));
            let version = why
                .split_once("undelete version ")
                .and_then(|(_, rest)| rest.split(',').next());
            let command = match version {
                Some(version) => format!("kv undelete -versions={version} {at}"),
                // The value comes from standard input.
                None => format!("kv put {at} HF_TOKEN=-"),
            };
            Finding::failed(why.clone()).mended_by(cli.operator(&command))
        }
    }
}

/// The least policy: one path, of each version of the engine, because Vault tells its version only to those who may read.
pub(super) fn policy(options: &VaultOptions) -> Policy {
    let mount_point = options.mount_point.trim_matches('/');
    let path = options.path.trim_matches('/');
    let mut paths = vec![
        (
            format!("{mount_point}/data/{path}"),
            "read",
            "version 2 of the KV engine",
        ),
        (
            format!("{mount_point}/{path}"),
            "read",
            "version 1; leave out the one that the engine is not",
        ),
        ("auth/token/lookup-self".to_owned(), "read", "for doctor"),
    ];
    if matches!(options.auth, VaultAuth::AppRole { .. }) {
        paths.push((
            "auth/token/renew-self".to_owned(),
            "update",
            "for the token of the log-in",
        ));
        paths.push(("auth/token/revoke-self".to_owned(), "update", "for its end"));
    }
    let mut text = String::new();
    for (path, capability, why) in paths {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(
            text,
            "# {why}\npath \"{path}\" {{\n  capabilities = [\"{capability}\"]\n}}"
        );
    }
    Policy {
        backend: "vault",
        text,
        note: options
            .namespace
            .as_ref()
            .map(|namespace| format!("write it in the namespace {namespace}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_the_unit_that_fits() {
        for (seconds, words) in [
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7200, "2 hours"),
            (172_800, "2 days"),
        ] {
            assert_eq!(in_words(seconds), words);
        }
    }

    #[test]
    fn a_token_that_will_end_or_may_too_much_is_noted() {
        let facts = |ttl, num_uses, policy: &str| TokenFacts {
            ttl,
            num_uses,
            policies: vec![policy.to_owned()],
        };
        let token = VaultAuth::Token(SecretValue::new("t"));
        let file = VaultAuth::TokenFile("/run/token".into());
        let cli = Cli {
            address: None,
            is_token_of_variable: false,
        };
        let status = |facts: TokenFacts, auth: &VaultAuth| of_token(&facts, auth, &cli).status;
        use crate::provider::Verdict::{Ok, Warning};
        assert_eq!(status(facts(0, 0, "p"), &token), Ok);
        assert_eq!(status(facts(3600, 0, "p"), &token), Warning);
        // The Vault Agent renews what is in the file.
        assert_eq!(status(facts(3600, 0, "p"), &file), Ok);
        assert_eq!(status(facts(0, 7, "p"), &file), Warning);
        assert_eq!(status(facts(0, 0, "root"), &file), Warning);
    }
}
