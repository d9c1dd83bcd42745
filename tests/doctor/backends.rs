//! AWS, Vault and programs: against moto and OpenBao, with what each of them can refuse.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::json;

use super::*;
use crate::servers::moto::Moto;
use crate::servers::openbao::OpenBao;
use crate::servers::proxy::{Fault, Proxy};

pub const SECRET: &str = "team/simpletuner";

pub fn aws(moto: &Moto) -> Patient {
    let mut patient = Patient::healthy();
    patient.env = moto.env(&moto.url());
    let settings = format!("aws_secret_name: {SECRET}\ntimeout: {{total: 20}}\n");
    patient.home.write(".simpletuner/live.yaml", &settings);
    patient
}

fn fix_of<'a>(found: &'a Found, words: &str) -> &'a str {
    found.finding(words)["fix"].as_str().unwrap()
}

#[test]
fn aws_says_who_the_caller_is_and_what_the_secret_lacks() {
    let moto = Moto::start();
    let mut patient = aws(&moto);
    let missing = patient.check("aws");
    missing.is("ok", "the region is us-west-2");
    missing.is("ok", "the caller is arn:aws:");
    let words = "does not exist; create it";
    let expected = format!(
        "aws secretsmanager create-secret --region us-west-2 --name {SECRET} --secret-string '{{}}'"
    );
    assert_eq!(fix_of(&missing, words), expected);

    moto.put(SECRET, &json!({"A": VALUE, "B": VALUE}).to_string());
    patient
        .check("aws")
        .is("ok", "the secret team/simpletuner has 2 secrets");
    moto.put(SECRET, "hunter2");
    assert_eq!(patient.check("aws").status(), "failed");
    moto.put(SECRET, &json!({"A": VALUE}).to_string());
    moto.mark_for_deletion(SECRET);
    let expected =
        format!("aws secretsmanager restore-secret --region us-west-2 --secret-id {SECRET}");
    assert_eq!(
        fix_of(&patient.check("aws"), "marked for deletion"),
        expected
    );

    patient.env.retain(|(name, _)| *name != "AWS_REGION");
    assert!(
        fix_of(&patient.check("aws"), "no AWS region").starts_with("aws configure set region ")
    );
    patient.env = moto.env(&moto.url());
    patient.env.retain(|(name, _)| !name.contains("ACCESS_KEY"));
    let bare = patient.check("aws");
    assert_eq!(fix_of(&bare, "no AWS credentials"), "aws configure");
    assert!(!bare.says("the secret"), "it is not asked for: {}", bare.0);
    patient.env = moto.env("http://127.0.0.1:1");
    patient
        .check("aws")
        .is("failed", "(aws_secret_name): AWS cannot be reached");
}

#[test]
fn the_least_policy_that_is_printed_is_enough_for_aws() {
    let moto = Moto::start();
    let mut patient = aws(&moto);
    moto.put(SECRET, &json!({"A": VALUE}).to_string());
    let printed = patient.sh("simpletuner-live doctor --policy aws");
    let policy: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        policy["Statement"][0]["Action"],
        "secretsmanager:GetSecretValue"
    );
    let all = patient.sh("simpletuner-live doctor --policy --json");
    assert_eq!(serde_json::from_str::<Value>(&all).unwrap()["aws"], policy);
    // moto checks actions, and knows no secret as a resource.
    let mut policy = policy;
    let resource = policy["Statement"][0]["Resource"].take();
    assert_eq!(
        resource,
        format!("arn:aws:secretsmanager:us-west-2:*:secret:{SECRET}-??????")
    );
    policy["Statement"][0]["Resource"] = json!("*");
    patient.env = as_user(&moto, moto.user(&policy));
    patient.check("aws").is("ok", "has 1 secret");
    patient.sh("[ $(simpletuner-live get A | wc -c) = 7 ]");
}

#[test]
fn an_action_that_aws_denies_is_named_with_the_command_that_allows_it() {
    let moto = Moto::start();
    let mut patient = aws(&moto);
    moto.put(SECRET, &json!({"A": VALUE}).to_string());
    let other = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:ListSecrets", "Resource": "*"}
    ]});
    patient.env = as_user(&moto, moto.user(&other));
    let denied = patient.check("aws");
    let finding = denied.finding("allow the caller secretsmanager:GetSecretValue");
    assert_eq!(finding["status"], "failed");
    assert_eq!(
        finding["fix"],
        "aws iam put-user-policy --region us-west-2 --user-name trainer --policy-name simpletuner-live --policy-document \
         \"$(simpletuner-live doctor --policy aws)\""
    );
}

/// The variables of this user of moto's.
pub fn as_user(moto: &Moto, (key, secret): (String, String)) -> Vec<(&'static str, String)> {
    let mut env = moto.env(&moto.url());
    env.retain(|(name, _)| !name.contains("ACCESS_KEY"));
    env.extend([
        ("AWS_ACCESS_KEY_ID", key),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ]);
    env
}

pub fn vault(openbao: &OpenBao, token: &str) -> Patient {
    let mut patient = Patient::healthy();
    patient.env.push(("VAULT_TOKEN", token.to_owned()));
    let settings = format!("vault_url: {}\ntimeout: {{total: 20}}\n", openbao.url());
    patient.home.write(".simpletuner/live.yaml", &settings);
    patient
}

#[test]
fn vault_says_what_the_token_may_and_whether_the_path_is_there() {
    let openbao = OpenBao::start();
    let mut patient = vault(&openbao, &openbao.token());
    let missing = patient.check("vault");
    missing.is("ok", "answers");
    missing.is("ok", "its policies: default, reader");
    let words = "has no secret at secret/simpletuner";
    assert!(
        fix_of(&missing, words).ends_with(" vault kv put -mount=secret simpletuner HF_TOKEN=-")
    );
    openbao.put("simpletuner", &json!({"A": VALUE}));
    patient
        .check("vault")
        .is("ok", "secret/simpletuner has 1 secret (KV version 1)");

    openbao.policy("nothing", &["secret/other"]);
    patient.env = vec![("VAULT_TOKEN", openbao.token_of("nothing"))];
    let denied = patient.check("vault");
    let words = "denied the token (403)";
    let write = format!(
        "simpletuner-live doctor --policy vault | env -u VAULT_TOKEN VAULT_ADDR={} vault policy write simpletuner-live - && ",
        openbao.url()
    );
    assert!(fix_of(&denied, words).starts_with(&write), "{}", denied.0);
    // What that command does.
    let policy = patient.sh("simpletuner-live doctor --policy vault");
    openbao.done(
        "PUT",
        "sys/policies/acl/nothing",
        &json!({ "policy": policy }),
    );
    let allowed = patient.check("vault");
    assert_eq!(allowed.status(), "ok", "{}", allowed.0);

    openbao.seal();
    let sealed = patient.check("vault");
    assert!(fix_of(&sealed, "is sealed").ends_with(" vault operator unseal"));
    openbao.unseal();
    patient.env = vec![("VAULT_TOKEN", "hvs.wrong".to_owned())];
    patient.check("vault").is("failed", words);
    patient.env.clear();
    assert!(fix_of(&patient.check("vault"), "no token").ends_with(" vault login"));
}

#[test]
fn a_token_that_ends_soon_or_may_everything_is_noted() {
    let openbao = OpenBao::start();
    openbao.put("simpletuner", &json!({"A": VALUE}));
    openbao.policy("reader", &["secret/*"]);
    let token = |body: Value| {
        let made = openbao.done("POST", "auth/token/create", &body);
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let check = |token: String| vault(&openbao, &token).check("vault");
    let short = check(token(json!({"policies": ["reader"], "ttl": "50m"})));
    assert!(fix_of(&short, "nobody renews it").contains("vault token renew -increment="));
    let root = check(token(json!({"policies": ["root"]})));
    assert!(fix_of(&root, "a root token").contains("vault token create -policy=simpletuner-live"));
    let few = check(token(json!({"policies": ["reader"], "num_uses": 9})));
    few.is("warning", "left, and each fetch is one");
}

#[test]
fn an_approle_logs_in_only_without_a_mount_and_leaves_no_token() {
    let openbao = OpenBao::start();
    openbao.put("simpletuner", &json!({"A": VALUE}));
    openbao.policy("reader", &["secret/*"]);
    openbao.enable_approle();
    let role = openbao.approle(
        "trainer",
        &json!({"token_policies": ["reader"], "token_ttl": "1h"}),
    );
    let mut patient = vault(&openbao, "");
    patient.env = vec![
        ("VAULT_ROLE_ID", role),
        ("VAULT_SECRET_ID", openbao.secret_id("trainer")),
    ];
    let before = openbao.tokens().len();
    patient.check("vault").is("ok", "has 1 secret");
    assert_eq!(openbao.tokens().len(), before);
    patient.sh("simpletuner-live mount && ls .simpletuner/live/secrets/A");
    let with_mount = openbao.tokens().len();
    let report = patient.doctor();
    report.check("vault").is("ok", "the AppRole is not tried");
    report.check("providers").is("ok", "vault has 1 secret");
    assert_eq!(openbao.tokens().len(), with_mount);
    patient.sh("simpletuner-live umount");
}

#[test]
fn a_backend_that_never_answers_delays_no_other_check() {
    let openbao = OpenBao::start();
    let proxy = Proxy::before(&openbao.url());
    proxy.set(Fault::Hang);
    let mut patient = vault(&openbao, "t");
    let settings = format!("vault_url: {}\ntimeout: {{total: 1}}\n", proxy.url());
    patient.home.write(".simpletuner/live.yaml", &settings);
    patient.env = vec![("VAULT_TOKEN", "t".to_owned())];
    let report = patient.doctor();
    report.check("vault").is("failed", "did not answer within");
    assert_eq!(report.check("kernel").status(), "ok");

    let moto = Moto::start();
    let proxy = Proxy::before(&moto.url());
    proxy.set(Fault::Hang);
    let mut patient = aws(&moto);
    patient.env = moto.env(&proxy.url());
    let settings = format!("aws_secret_name: {SECRET}\ntimeout: {{total: 1}}\n");
    patient.home.write(".simpletuner/live.yaml", &settings);
    let report = patient.doctor();
    report.check("aws").is("failed", "did not answer within");
    assert_eq!(report.check("kernel").status(), "ok");
}

#[test]
fn a_database_that_another_program_holds_delays_no_other_check() {
    let patient = Patient::healthy();
    patient.sh(
        "mkdir -m 700 .simpletuner/cloud; sqlite3 .simpletuner/cloud/jobs.db \
        'create table provider_configs (name text primary key, config text)'",
    );
    let mut holder = patient.command("python3");
    holder.args([
        "-c",
        "import sqlite3, sys; c = sqlite3.connect('.simpletuner/cloud/jobs.db', isolation_level=None)
c.execute('begin exclusive'); print(flush=True); sys.stdin.read()",
    ]);
    let mut holder = support::home::ready(&mut holder);
    let report = patient.doctor();
    let found = report.check("simpletuner");
    found.is("failed", "there was no answer within 10 s");
    assert_eq!(report.check("kernel").status(), "ok");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(patient.check("simpletuner").status(), "ok");
}

/// A server that answers everything with 403 and a date of long ago.
fn server_of_long_ago() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            let body = r#"{"errors": ["permission denied"]}"#;
            let answer = format!(
                "HTTP/1.1 403 Forbidden\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nconnection: close\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = reader.get_mut().write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn a_clock_that_differs_from_the_servers_is_found() {
    let url = server_of_long_ago();
    let mut patient = Patient::healthy();
    patient.env = vec![
        ("VAULT_ADDR", url.clone()),
        ("VAULT_TOKEN", "t".to_owned()),
        ("SIMPLETUNER_AWS_SECRET_NAME", SECRET.to_owned()),
        ("AWS_ENDPOINT_URL", url),
        ("AWS_REGION", "us-west-2".to_owned()),
        ("AWS_ACCESS_KEY_ID", "id".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", VALUE.to_owned()),
    ];
    let report = patient.doctor();
    for (id, server) in [("vault", "Vault"), ("aws", "AWS")] {
        let found = report.check(id);
        let words = format!("s ahead of that of {server}");
        let fix = fix_of(&found, &words);
        assert!(fix.ends_with("timedatectl set-ntp true"), "{fix}");
        assert_eq!(fix.starts_with("sudo "), !support::home::is_root());
    }
}

#[test]
fn what_the_mount_can_ask_and_this_command_cannot_is_a_warning() {
    let openbao = OpenBao::start();
    openbao.put("simpletuner", &json!({"A": VALUE}));
    let mut patient = vault(&openbao, &openbao.token());
    patient.sh("simpletuner-live mount && ls .simpletuner/live/secrets/A");
    patient.env.clear();
    patient
        .check("vault")
        .is("warning", "the mount itself is answered");
    patient.sh("simpletuner-live umount");
}

#[test]
fn a_program_that_is_missing_or_prints_nonsense_is_found() {
    let patient = Patient::healthy();
    let run = |run: &str| {
        let settings = format!("command: [{{name: mine, run: {run}}}]\n");
        patient.home.write(".simpletuner/live.yaml", &settings);
        patient.check("command")
    };
    run("[/no/such/program]").is(
        "failed",
        "mine: the program /no/such/program does not exist",
    );
    run(r#"[echo, '{"A": "hunter2"}']"#).is("ok", "mine: echo prints 1 secret");
    run("[echo, hunter2]").is("failed", "it must print one flat JSON object");
    assert!(
        patient
            .sh("! simpletuner-live doctor --policy 2>&1")
            .contains("hint: set aws_secret_name")
    );
}
