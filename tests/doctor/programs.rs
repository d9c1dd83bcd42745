//! The commands of AWS's and Vault's own programs, run as they are printed: `aws` against moto, and OpenBao's program, which has Vault's
//! commands, against OpenBao.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::backends::{SECRET, as_user, aws, vault};
use super::*;
use crate::servers::moto::Moto;
use crate::servers::openbao::OpenBao;
use crate::servers::{AWS, OPENBAO, tool};

fn with_aws(moto: &Moto) -> Patient {
    let patient = aws(moto);
    symlink(tool(AWS), patient.home.path("bin/aws")).unwrap();
    patient
}

#[test]
fn a_secret_of_aws_that_is_missing_or_marked_is_made_and_restored() {
    let moto = Moto::start();
    let patient = with_aws(&moto);
    let same = |fix: &str| fix.to_owned();
    let after = patient.mends("aws", "does not exist; create it", same);
    after.is("ok", "the secret team/simpletuner has 0 secrets");
    moto.mark_for_deletion(SECRET);
    let after = patient.mends("aws", "marked for deletion", same);
    assert_eq!(after.status(), "ok", "{}", after.0);
}

#[test]
fn a_region_and_credentials_are_configured() {
    let moto = Moto::start();
    let mut patient = with_aws(&moto);
    moto.put(SECRET, &json!({"A": VALUE}).to_string());
    patient.env.retain(|(name, _)| *name != "AWS_REGION");
    let same = |fix: &str| fix.to_owned();
    let after = patient.mends("aws", "no AWS region", same);
    assert_eq!(after.status(), "ok", "{}", after.0);
    patient.env.retain(|(name, _)| !name.contains("ACCESS_KEY"));
    let after = patient.mends("aws", "no AWS credentials", |fix| {
        format!("printf 'AKIAIOSFODNN7EXAMPLE\\n{VALUE}\\n\\n\\n' | {fix} > asked")
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
}

#[test]
fn an_action_that_aws_denies_is_allowed() {
    let moto = Moto::start();
    let mut patient = with_aws(&moto);
    moto.put(SECRET, &json!({"A": VALUE}).to_string());
    let other = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["iam:PutUserPolicy", "secretsmanager:ListSecrets"], "Resource": "*"}
    ]});
    patient.env = as_user(&moto, moto.user(&other));
    // moto knows no secret as a resource.
    let after = patient.mends(
        "aws",
        "allow the caller secretsmanager:GetSecretValue",
        |fix| {
            fix.replace(
                "doctor --policy aws",
                "doctor --policy aws | sed 's/\"arn:.*\"/\"*\"/'",
            )
        },
    );
    assert_eq!(after.status(), "ok", "{}", after.0);
}

/// With an operator who has logged in, beside a weak token in `VAULT_TOKEN`.
fn with_bao(openbao: &OpenBao, token: &str) -> Patient {
    let mut patient = vault(openbao, token);
    symlink(tool(OPENBAO), patient.home.path("bin/vault")).unwrap();
    patient.home.write(".vault-token", &openbao.root_token);
    patient.sh("chmod 600 .vault-token");
    if token.is_empty() {
        patient.env.clear();
    }
    patient
}

#[test]
fn what_vault_has_not_or_denies_is_made_and_allowed_by_its_own_program() {
    let openbao = OpenBao::start();
    let patient = with_bao(&openbao, &openbao.token());
    let after = patient.mends("vault", "has no secret at secret/simpletuner", |fix| {
        assert!(fix.contains("VAULT_ADDR=http://127.0.0.1:"), "{fix}");
        format!("printf {VALUE} | {fix}")
    });
    after.is("ok", "secret/simpletuner has 1 secret");

    openbao.policy("nothing", &["secret/other"]);
    let patient = with_bao(&openbao, &openbao.token_of("nothing"));
    let (before, report) = in_one_shell(&patient, "denied the token (403)");
    before.is("failed", "denied the token (403)");
    assert_eq!(
        report.check("vault").status(),
        "ok",
        "{}",
        report.check("vault").0
    );
}

/// The check of Vault, and all checks after the command that it prints, in the shell in which it was typed.
fn in_one_shell(patient: &Patient, words: &str) -> (Found, Report) {
    let before = patient.check("vault");
    let fix = before.finding(words)["fix"].as_str().unwrap().to_owned();
    let script = format!("{{ {fix}; }} > said; simpletuner-live doctor --json");
    let report = Report::of(ran(patient.command("sh").args(["-c", &script])));
    (before, report)
}

#[test]
fn tokens_are_renewed_and_replaced_wherever_they_are() {
    let openbao = OpenBao::start();
    openbao.put("simpletuner", &json!({"A": VALUE}));
    openbao.policy("reader", &["secret/*"]);
    let token = |body: Value| {
        let made = openbao.done("POST", "auth/token/create", &body);
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let short = with_bao(
        &openbao,
        &token(json!({"policies": ["reader"], "ttl": "50m"})),
    );
    let after = short.mends("vault", "nobody renews it", |fix| format!("{fix} > said"));
    assert_eq!(after.status(), "ok", "{}", after.0);
    for body in [
        json!({"policies": ["root"]}),
        json!({"policies": ["reader"], "num_uses": 9}),
    ] {
        let words = if body["num_uses"] == 9 {
            "left, and each fetch is one"
        } else {
            "a root token may"
        };
        let (before, report) = in_one_shell(&with_bao(&openbao, &token(body)), words);
        before.is("warning", words);
        assert_eq!(
            report.check("vault").status(),
            "ok",
            "{}",
            report.check("vault").0
        );
    }
    // The log-in of `vault login`, which is root's here.
    let mut login = with_bao(&openbao, "");
    let after = login.mends("vault", "a root token may", |fix| {
        format!("{{ {fix}; }} > said")
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
    // A file that an agent keeps.
    let file = login.home.path("a token").display().to_string();
    login.env = vec![("VAULT_TOKEN_FILE", file)];
    login.home.write(".vault-token", &openbao.root_token);
    login.sh("(umask 077; cp .vault-token 'a token')");
    let after = login.mends("vault", "a root token may", |fix| {
        format!("{{ {fix}; }} > said")
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
}

#[test]
fn a_vault_that_is_sealed_or_has_no_token_asks_at_the_terminal() {
    let openbao = OpenBao::start();
    openbao.put("simpletuner", &json!({"A": VALUE}));
    let patient = with_bao(&openbao, "");
    openbao.seal();
    // What it asks for is typed at a terminal.
    let typed = |what: &str, fix: &str| {
        let quoted = fix.replace('\'', "'\\''");
        format!("printf '%s\\n' '{what}' | script -qec '{quoted}' /dev/null > said")
    };
    patient.mends("vault", "is sealed", |fix| typed(&openbao.unseal_key, fix));
    openbao.unseal();
    patient.sh("rm .vault-token");
    let reader = openbao.token();
    let after = patient.mends("vault", "no token", |fix| typed(&reader, fix));
    assert_eq!(after.status(), "ok", "{}", after.0);
}

#[test]
fn a_version_that_was_deleted_is_undeleted() {
    let openbao = OpenBao::start();
    openbao.enable_kv("kv", 2);
    for value in ["1", "2"] {
        openbao.put_v2("kv", "simpletuner", &json!({ "A": value }));
    }
    openbao.done("DELETE", "kv/data/simpletuner", &Value::Null);
    openbao.policy("v2", &["kv/*"]);
    let mut patient = with_bao(&openbao, &openbao.token_of("v2"));
    patient
        .env
        .push(("SIMPLETUNER_VAULT_MOUNT_POINT", "kv".to_owned()));
    let settings = format!("vault_url: {}\nvault_mount_point: kv\n", openbao.url());
    patient.home.write(".simpletuner/live.yaml", &settings);
    let after = patient.mends("vault", "was deleted", |fix| {
        assert!(fix.contains("-versions=2 "), "{fix}");
        fix.to_owned()
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
}

#[test]
fn a_source_that_failed_is_asked_again_once_it_is_mended() {
    let openbao = OpenBao::start();
    openbao.put("simpletuner", &json!({"A": VALUE}));
    let patient = with_bao(&openbao, &openbao.token());
    patient.sh("simpletuner-live mount; cat .simpletuner/live/secrets/A > said");
    openbao.seal();
    patient
        .sh("echo > .simpletuner/live/cache/clear; cat .simpletuner/live/secrets/A > said; true");
    assert!(patient.check("providers").says("vault fails"));
    openbao.unseal();
    let after = patient.mends("providers", "vault fails", str::to_owned);
    assert_eq!(after.status(), "ok", "{}", after.0);
    patient.sh("simpletuner-live umount");
}

#[test]
fn a_program_of_the_settings_is_corrected_there() {
    let patient = Patient::healthy();
    let settings = "command: [{name: mine, run: [/no/such/program]}]\n";
    patient.home.write(".simpletuner/live.yaml", settings);
    let after = patient.mends("command", "does not exist", |fix| {
        format!("EDITOR=\"sed -i s:/no/such/program:echo,'{{}}':\"; {fix}")
    });
    assert_eq!(after.status(), "ok", "{}", after.0);
}
