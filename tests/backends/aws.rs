//! AWS Secrets Manager through the command line: the content of a secret, permissions, and error messages.
//! The SDK takes its settings from the process's environment, so each case is a process of its own.

use std::process::Command;

use super::*;
use crate::servers::moto::{ACCESS_KEY, REGION};
use crate::servers::proxy::Fault;
use crate::servers::tls::Authority;
use crate::support::home::{BINARY, CommandOutput, Home, ran};

const SECRET: &str = "team/simpletuner";

/// A home whose settings name the secret.
fn home() -> Home {
    let home = Home::new();
    home.write(
        ".simpletuner/live.yaml",
        &format!("aws_secret_name: {SECRET}\ntimeout: {{total: 10}}\n"),
    );
    home
}

fn command(home: &Home, moto: &Moto, endpoint: &str) -> Command {
    let mut command = home.command(BINARY);
    command.envs(moto.env(endpoint));
    command
}

fn run(home: &Home, moto: &Moto, args: &[&str]) -> CommandOutput {
    ran(command(home, moto, &moto.url()).args(args))
}

/// The error message of a `get` that fails.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let said = ran(command.args(["get", "KEY"])).failed();
    assert!(!said.contains("hunter2"), "{said}");
    said
}

#[test]
fn texts_numbers_and_booleans_are_served_and_other_values_are_counted() {
    let moto = Moto::start();
    let home = home();
    let big = "v".repeat(64 * 1024);
    let long = "k".repeat(300);
    let document = format!(
        r#"{{"TEXT": "a\nbä", "INT": 12345678901234567890, "FLOAT": 1.50, "YES": true, "EMPTY": "",
            "BIG": "{big}", "TOO_BIG": "{big}v", "OBJECT": {{"x": "hunter2"}}, "LIST": ["hunter2"], "NULL": null,
            "TWICE": "first", "TWICE": "second", "a/b": "odd", "..": "odd", "": "odd", "{long}": "odd"}}"#
    );
    moto.put(SECRET, &document);
    for (key, value) in [
        ("TEXT", "a\nbä"),
        ("INT", "12345678901234567890"),
        ("FLOAT", "1.50"),
        ("YES", "true"),
        ("EMPTY", ""),
        ("BIG", &big),
        ("TWICE", "second"),
    ] {
        assert_eq!(run(&home, &moto, &["get", key]).done(), value);
    }
    for key in ["TOO_BIG", "OBJECT", "LIST", "NULL", "ABSENT"] {
        let ran = run(&home, &moto, &["get", key]);
        assert_eq!((ran.code, ran.out.as_str()), (4, ""), "{key}");
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
    let listed = run(&home, &moto, &["ls"]);
    assert!(
        listed.err.contains("its value is an object or a list"),
        "{}",
        listed.err
    );
    assert!(!listed.err.contains("hunter2"), "{}", listed.err);
    assert_eq!(listed.out, "BIG\nEMPTY\nFLOAT\nINT\nTEXT\nTWICE\nYES\n");

    let mut env = moto.env(&moto.url());
    env.push(("SIMPLETUNER_AWS_SECRET_NAME", SECRET.to_owned()));
    let live = Live::start_with(Setup {
        env: env
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect(),
        ..Setup::default()
    });
    assert_eq!(done(&live, "cat secrets/TEXT"), "a\nbä");
    assert_eq!(live.json("providers/aws")["skipped_keys"], 8);
    assert_eq!(done(&live, "ls secrets"), listed.out);
}

#[test]
fn a_binary_secret_holds_the_same_document() {
    let moto = Moto::start();
    // {"KEY": "binary"}
    moto.put_binary(SECRET, "eyJLRVkiOiAiYmluYXJ5In0=");
    assert_eq!(run(&home(), &moto, &["get", "KEY"]).done(), "binary");
}

#[test]
fn a_missing_or_deleted_secret_has_no_keys_and_says_so() {
    let moto = Moto::start();
    let home = home();
    let missing = |expected: &str| {
        let ran = run(&home, &moto, &["get", "KEY"]);
        assert_eq!((ran.code, ran.out.as_str()), (4, ""));
        assert!(ran.err.contains(expected), "{}", ran.err);
        assert!(ran.err.contains("aws_secret_name"), "{}", ran.err);
    };
    missing("does not exist");
    moto.put(SECRET, r#"{"KEY": "v"}"#);
    assert_eq!(run(&home, &moto, &["get", "KEY"]).done(), "v");
    moto.mark_for_deletion(SECRET);
    missing("is marked for deletion");
    moto.delete(SECRET);
    missing("does not exist");
}

#[test]
fn a_secret_that_is_not_a_flat_object_is_a_failure_that_says_where() {
    let moto = Moto::start();
    let home = home();
    for (text, expected) in [
        ("hunter2", "it is not JSON at line 1 column 1"),
        ("[\"hunter2\"]", "it is not an object of names and texts"),
        ("{\"KEY\": \"hunter2", "it ends too early"),
    ] {
        moto.put(SECRET, text);
        let said = refused(&mut command(&home, &moto, &moto.url()));
        assert!(said.contains(expected) && said.contains(SECRET), "{said}");
        for word in ["dispatch", "io error", "os error", "client error"] {
            assert!(!said.contains(word), "{said}");
        }
    }
}

#[test]
fn only_the_permission_to_get_the_value_is_needed() {
    let moto = Moto::start();
    let home = home();
    moto.put(SECRET, r#"{"KEY": "v"}"#);
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
    ]});
    let (id, key) = moto.user(&policy);
    let mut allowed = command(&home, &moto, &moto.url());
    allowed.env("AWS_ACCESS_KEY_ID", &id);
    allowed.env("AWS_SECRET_ACCESS_KEY", &key);
    assert_eq!(ran(allowed.args(["get", "KEY"])).done(), "v");
    // Others are not let in.
    let said = refused(&mut command(&home, &moto, &moto.url()));
    assert!(said.contains("check the credentials"), "{said}");
}

#[test]
fn a_denial_names_the_permission() {
    let moto = Moto::start();
    moto.put(SECRET, r#"{"KEY": "hunter2"}"#);
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "secretsmanager:ListSecrets", "Resource": "*"}
    ]});
    let (id, key) = moto.user(&policy);
    let home = home();
    let mut denied = command(&home, &moto, &moto.url());
    denied.env("AWS_ACCESS_KEY_ID", &id);
    denied.env("AWS_SECRET_ACCESS_KEY", &key);
    let said = refused(&mut denied);
    assert!(
        said.contains("allow the caller secretsmanager:GetSecretValue"),
        "{said}"
    );
}

#[test]
fn region_keys_and_role_come_from_a_profile() {
    let moto = Moto::start();
    moto.put(SECRET, r#"{"KEY": "v"}"#);
    let home = home();
    let (id, key) = ACCESS_KEY;
    home.write(
        ".aws/config",
        &format!(
            "[profile trainer]\nregion = {REGION}\nrole_arn = arn:aws:iam::123456789012:role/trainer\n\
             source_profile = base\n[profile elsewhere]\nregion = eu-west-1\nsource_profile = base\n"
        ),
    );
    home.write(
        ".aws/credentials",
        &format!(
            "[base]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n\
             [elsewhere]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n"
        ),
    );
    let by_profile = |profile: &str| {
        let mut command = home.command(BINARY);
        command.env("AWS_ENDPOINT_URL", moto.url());
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_PROFILE", profile);
        ran(command.args(["get", "KEY"]))
    };
    assert_eq!(by_profile("trainer").done(), "v");
    // Another region has no such secret.
    assert_eq!(by_profile("elsewhere").code, 4);
    // The settings' region comes first.
    home.write(
        ".simpletuner/live.yaml",
        &format!("aws_secret_name: {SECRET}\naws_region: {REGION}\n"),
    );
    assert_eq!(by_profile("elsewhere").done(), "v");
}

#[test]
fn an_error_names_the_missing_setting() {
    let moto = Moto::start();
    let home = home();
    let without = |names: &[&str]| {
        let mut command = command(&home, &moto, &moto.url());
        for name in names {
            command.env_remove(name);
        }
        refused(&mut command)
    };
    let said = without(&["AWS_REGION"]);
    assert!(said.contains("set aws_region"), "{said}");
    let said = without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    let advice = "no AWS credentials are found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and";
    assert!(said.contains(advice), "{said}");
    for (region, advice) in [
        ("", "no AWS region is set; set aws_region"),
        ("us west", "is not a valid name; correct aws_region"),
    ] {
        let mut command = command(&home, &moto, &moto.url());
        let said = refused(command.env("AWS_REGION", region));
        assert!(said.contains(advice), "{said}");
    }
}

#[test]
fn a_failed_network_has_an_error_that_says_why() {
    let moto = Moto::start();
    moto.put(SECRET, r#"{"KEY": "hunter2"}"#);
    let proxy = Proxy::before(&moto.url());
    let home = home();
    for (fault, expected) in [
        (
            Fault::Refuse,
            "AWS cannot be reached: connection refused; check AWS_ENDPOINT_URL",
        ),
        (
            Fault::Status(404, ""),
            "what answers (404) does not seem to be AWS; is AWS_ENDPOINT_URL right?",
        ),
        (Fault::Status(500, ""), "AWS answers 500"),
        (Fault::TooMany(3), "AWS answers 429"),
        (Fault::Cut, "the response cannot be read"),
        (
            Fault::Long(2 << 20),
            "the response is too large, over 1 MiB",
        ),
        (Fault::Hang, "within 10 s (setting timeout.total)"),
    ] {
        proxy.set(fault);
        let said = refused(&mut command(&home, &moto, &proxy.url()));
        assert!(said.contains(expected) && said.contains(SECRET), "{said}");
    }
}

/// The answers of AWS itself that moto does not give.
#[test]
fn an_error_of_aws_says_what_to_do() {
    let moto = Moto::start();
    let proxy = Proxy::before(&moto.url());
    let home = home();
    for (body, expected) in [
        (
            r#"{"__type": "AccessDeniedException", "Message": "User: arn:aws:iam::1:user/u is not authorized"}"#,
            "allow the caller secretsmanager:GetSecretValue on it (AccessDeniedException: User:",
        ),
        (
            r#"{"__type": "ExpiredTokenException", "message": "The security token included in the request is expired"}"#,
            "AWS does not accept the credentials; renew them",
        ),
        (
            r#"{"__type": "com.amazon.coral.service#UnrecognizedClientException", "message": "The security token is invalid."}"#,
            "AWS does not accept the credentials; renew them",
        ),
        (
            r#"{"__type": "DecryptionFailure", "Message": "no"}"#,
            "allow the caller kms:Decrypt on its key",
        ),
        (
            r#"{"__type": "ThrottlingException", "message": "Rate exceeded"}"#,
            "AWS answers 400 (ThrottlingException: Rate exceeded)",
        ),
        (
            r#"{"__type": "AccessDeniedException", "Message": "Access to KMS is not allowed"}"#,
            "allow the caller kms:Decrypt on the KMS key",
        ),
        (
            r#"{"__type": "KMSInvalidStateException", "Message": "the key is disabled"}"#,
            "its KMS key cannot be used; enable the key",
        ),
        (
            r#"{"__type": "InvalidSignatureException", "message": "Signature expired: 20260101T000000Z is now earlier than 20260101T010000Z"}"#,
            "this machine's clock differs from AWS's",
        ),
        (
            r#"{"__type": "RequestTimeTooSkewed", "message": "The difference is too large."}"#,
            "this machine's clock differs from AWS's",
        ),
        (
            r#"{"__type": "ValidationException", "message": "a\u001b[31mred\nline\u202e"}"#,
            r"a\u{1b}[31mred\nline\u{202e}",
        ),
        (
            r#"{"__type": "InvalidRequestException", "Message": "it was marked for deletion."}"#,
            "is marked for deletion; restore it",
        ),
    ] {
        proxy.set(Fault::Status(400, body));
        let ran = ran(command(&home, &moto, &proxy.url()).args(["get", "KEY"]));
        assert!(ran.code != 0 && ran.err.contains(expected), "{}", ran.err);
    }
}

#[test]
fn a_certificate_is_checked_against_the_systems_authorities_or_the_configured_ones() {
    let moto = Moto::start();
    moto.put(SECRET, r#"{"KEY": "v"}"#);
    let home = home();
    let authority = Authority::new();
    home.write("ca.pem", &authority.pem());
    let proxy = Proxy::before(&moto.url());
    proxy.speak_tls(authority.server(&["localhost"]));
    let url = proxy.https_url("localhost");
    let said = refused(&mut command(&home, &moto, &url));
    assert!(said.contains("certificate is not accepted"), "{said}");
    assert!(said.contains("SSL_CERT_FILE"), "{said}");
    let by_authority = || {
        let mut command = command(&home, &moto, &url);
        command.env("SSL_CERT_FILE", home.path("ca.pem"));
        command
    };
    assert_eq!(ran(by_authority().args(["get", "KEY"])).done(), "v");
    proxy.speak_tls(authority.server(&["elsewhere.example"]));
    let said = refused(&mut by_authority());
    assert!(said.contains("certificate is not accepted"), "{said}");
    proxy.speak_tls(authority.server_until(&["localhost"], 2020));
    let said = refused(&mut by_authority());
    assert!(said.contains("certificate is not accepted"), "{said}");
    assert!(said.contains("expired"), "{said}");
}
