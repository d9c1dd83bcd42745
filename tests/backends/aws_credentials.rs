//! Where AWS's credentials come from, and the error message when there are none.

use super::*;
use crate::servers::moto::{ACCESS_KEY, REGION};
use crate::servers::proxy::Fault;
use crate::servers::tls::Authority;
use crate::support::home::{BINARY, CommandOutput, Home, has_ended, ran};

/// A home whose profile is the only source of credentials.
fn home(settings: &str, profile: &str) -> Home {
    let home = Home::new();
    home.write(
        ".simpletuner/live.yaml",
        &format!("aws_secret_name: simpletuner\n{settings}\n"),
    );
    home.write(".aws/config", profile);
    home
}

fn get(home: &Home, moto: &Moto, variables: &[(&str, &str)]) -> CommandOutput {
    let mut command = home.command(BINARY);
    command
        .env("AWS_ENDPOINT_URL", moto.url())
        .env("AWS_REGION", REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(variables.iter().copied());
    ran(command.args(["get", "KEY"]))
}

#[test]
fn credentials_that_are_renewed_in_their_file_are_read_again_at_once() {
    let moto = Moto::start();
    moto.put("simpletuner", r#"{"KEY": "1"}"#);
    let proxy = Proxy::before(&moto.url());
    let (id, key) = ACCESS_KEY;
    let credentials =
        |id: &str| format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
    let url = proxy.url();
    let live = Live::start_with(Setup {
        env: vec![
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ],
        files: vec![
            (
                ".simpletuner/live.yaml",
                "aws_secret_name: simpletuner\nttl: {default: 1, missing: 1}\nmax_stale: 0\n",
            ),
            (".aws/credentials", &credentials(id)),
        ],
        ..Setup::default()
    });
    assert_eq!(done(&live, "cat secrets/KEY"), "1");
    // The session ends, and somebody renews it.
    proxy.set(Fault::Unless(
        "AKIARENEWED",
        400,
        r#"{"__type": "ExpiredTokenException", "message": "The security token included in the request is expired"}"#,
    ));
    let file = live.home.path().join(".aws/credentials");
    std::fs::write(file, credentials("AKIARENEWED")).unwrap();
    moto.put("simpletuner", r#"{"KEY": "2"}"#);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let before = proxy.requests();
    assert_eq!(done(&live, "cat secrets/KEY"), "2");
    assert!(proxy.requests() <= before + 2);
}

#[test]
fn a_program_for_credentials_has_the_whole_time_and_runs_once_at_a_time() {
    let moto = Moto::start();
    moto.put("simpletuner", r#"{"KEY": "v"}"#);
    let (id, key) = ACCESS_KEY;
    let home = home("timeout: {total: 60, connect: 3}", "");
    let program = home.path("credentials");
    let runs = home.path("runs");
    let write = |seconds: u32| {
        let answer = json!({"Version": 1, "AccessKeyId": id, "SecretAccessKey": key});
        home.write(
            "credentials",
            &format!(
                "echo x >> {}\nsleep {seconds}\necho '{answer}'\n",
                runs.display()
            ),
        );
        home.write(
            ".aws/config",
            &format!("[default]\ncredential_process = sh {}\n", program.display()),
        );
    };
    // Longer than connecting may take.
    write(4);
    assert_eq!(get(&home, &moto, &[]).done(), "v");
    write(1000);
    home.write(
        ".simpletuner/live.yaml",
        "aws_secret_name: simpletuner\ntimeout: {total: 6, connect: 3}\n",
    );
    // Long before the program ends. On a busy machine the limit of the whole fetch, which is half a second later, may be noticed first.
    let said = loop {
        let said = get(&home, &moto, &[]).failed();
        if !said.contains("gave no answer within 6 s") {
            break said;
        }
    };
    assert!(said.contains("longer than timeout.total (6 s)"), "{said}");
    assert!(said.contains("credential_process"), "{said}");

    // A mount waits on for the one that it has started.
    write(6);
    home.write("runs", "");
    let url = moto.url();
    let settings = "aws_secret_name: simpletuner\ntimeout: {total: 3}\n";
    let config = std::fs::read_to_string(home.path(".aws/config")).unwrap();
    let live = Live::start_with(Setup {
        env: vec![
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ],
        files: vec![
            (".simpletuner/live.yaml", settings),
            (".aws/config", &config),
        ],
        ..Setup::default()
    });
    wait_until("the credentials are there", || {
        let read = std::fs::read_to_string(live.home.path().join(".simpletuner/live/secrets/KEY"));
        read.is_ok_and(|text| text == "v")
    });
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "x\n");
}

#[test]
fn a_program_for_credentials_that_hangs_is_killed() {
    let moto = Moto::start();
    moto.put("simpletuner", r#"{"KEY": "v"}"#);
    let (id, key) = ACCESS_KEY;
    let answer = json!({"Version": 1, "AccessKeyId": id, "SecretAccessKey": key}).to_string();
    // The first run hangs, with a child that ignores signals.
    let script = format!(
        "[ -e ~/pids ] && echo '{answer}' && exit\n\
         sh -c 'trap \"\" TERM; echo $$ >> ~/pids; sleep 1000; sleep 1000' & echo $$ >> ~/pids; wait\n"
    );
    let url = moto.url();
    let live = Live::start_with(Setup {
        env: vec![
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ],
        files: vec![
            (
                ".simpletuner/live.yaml",
                "aws_secret_name: simpletuner\ntimeout: {total: 0.5}\n",
            ),
            (
                ".aws/config",
                "[default]\ncredential_process = sh ~/credentials\n",
            ),
            ("credentials", &script),
        ],
        ..Setup::default()
    });
    let pids = || -> Vec<u32> {
        let pids = std::fs::read_to_string(live.home("pids")).unwrap_or_default();
        pids.lines().filter_map(|pid| pid.parse().ok()).collect()
    };
    let said = live.try_sh("cat secrets/KEY");
    assert!(!said.status.success());
    wait_until("the program runs", || pids().len() == 2);
    for pid in pids() {
        wait_until("it is killed", || has_ended(pid));
    }
    wait_until("the next run gives credentials", || {
        live.try_sh("cat secrets/KEY").stdout == b"v"
    });
}

#[test]
fn each_failure_of_a_profile_has_its_own_advice() {
    let moto = Moto::start();
    for (profile, variables, expected) in [
        (
            "[profile other]\nregion = us-east-1\n",
            &[("AWS_PROFILE", "nope")][..],
            "has no profile nope; correct AWS_PROFILE",
        ),
        (
            "[default\nregion = us-east-1\n",
            &[],
            "the AWS configuration cannot be read",
        ),
        (
            "[default]\ncredential_process = sh -c 'echo no >&2; exit 3'\n",
            &[],
            "see the program that credential_process names",
        ),
        (
            "[default]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n\
             [sso-session s]\nsso_region = us-east-1\nsso_start_url = http://127.0.0.1:9/start\n",
            &[],
            "log in again with: aws sso login",
        ),
        ("", &[], "no AWS credentials are found"),
    ] {
        let said = get(&home("", profile), &moto, variables).failed();
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_bundle_of_certificates_comes_from_aws_ca_bundle_or_the_profile() {
    let moto = Moto::start();
    moto.put("simpletuner", r#"{"KEY": "v"}"#);
    let authority = Authority::new();
    let proxy = Proxy::before(&moto.url());
    proxy.speak_tls(authority.server(&["localhost"]));
    let (id, key) = ACCESS_KEY;
    let keys = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
    let home = home("", &keys);
    home.write("ca.pem", &authority.pem());
    let url = proxy.https_url("localhost");
    let by = |variables: &[(&str, &str)]| {
        let mut all = vec![("AWS_ENDPOINT_URL", url.as_str())];
        all.extend(variables);
        get(&home, &moto, &all)
    };
    let said = by(&[]).failed();
    assert!(said.contains("AWS_CA_BUNDLE"), "{said}");
    let bundle = home.path("ca.pem");
    let bundle = bundle.to_str().unwrap();
    assert_eq!(by(&[("AWS_CA_BUNDLE", bundle)]).done(), "v");
    let said = by(&[("AWS_CA_BUNDLE", "/nowhere.pem")]).failed();
    assert!(
        said.contains("AWS_CA_BUNDLE, /nowhere.pem, does not exist"),
        "{said}"
    );
    home.write(".aws/config", &format!("{keys}ca_bundle = {bundle}\n"));
    assert_eq!(by(&[]).done(), "v");
}
