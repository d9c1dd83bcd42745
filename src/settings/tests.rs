//! Where settings come from, and the errors for wrong ones. Over 450 lines, because nearly all of it is tables of cases for one
//! loader, which share the scratch home.

mod messages;

use super::*;
use crate::provider::BACKENDS;
use crate::provider::aws::AwsOptions;
use crate::provider::vault::{VaultAuth, VaultOptions};

struct Home(tempfile::TempDir);

impl Home {
    fn new(yaml: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(home.path(".simpletuner")).unwrap();
        std::fs::write(home.path(".simpletuner/live.yaml"), yaml).unwrap();
        home
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn load_with(&self, flags: &Flags, env: &[(&str, &str)]) -> Result<Settings> {
        let home = self.0.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            "HOME" => Some(home.clone()),
            _ => env
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned()),
        };
        Settings::load_below(flags, &env, BACKENDS, self.0.path())
    }
    fn load(&self) -> Result<Settings> {
        self.load_with(&Flags::default(), &[])
    }
}

fn error_of(yaml: &str) -> String {
    Home::new(yaml).load().unwrap_err().to_string()
}

#[test]
fn an_empty_settings_file_gives_the_defaults() {
    for yaml in ["", "# nothing\n", "ttl:\nfile_path:\n"] {
        let home = Home::new(yaml);
        let s = home.load().unwrap();
        assert_eq!(s.file_path, None);
        assert_eq!(s.mount_point, home.path(".simpletuner/live"));
        assert_eq!(s.key_file, home.path(".simpletuner/credential.key"));
        assert_eq!(s.ttl, Ttl::default());
        assert_eq!(s.max_stale, Duration::from_secs(3600));
        assert_eq!(s.max_keys, 10_000);
        assert_eq!(s.timeout.total, Duration::from_secs(10));
        assert!(s.encrypt && s.audit_reads && !s.allow_root && !s.prefetch);
        assert!(s.backend::<AwsOptions>().is_none() && s.backend::<VaultOptions>().is_none());
    }
}

#[test]
fn every_setting_of_the_file_is_read() {
    let home = Home::new(
        r#"
file_path: ~/mine.json
env_prefix: SIMPLETUNER
env_keys: [WANDB_API_KEY]
aws_secret_name: simpletuner/production
aws_region: us-west-2
vault_url: https://vault.example.com:8200
vault_token_file: token
vault_role_id: role
vault_secret_id: id
vault_path: p
vault_mount_point: kv
encrypt: false
ttl: {default: 30.5, missing: 0, keys: {HF_TOKEN: 60}}
max_stale: 0
max_keys: 20000
timeout: {connect: 1, total: 2}
prefetch: true
docker: true
allow_root: true
audit_reads: false
"#,
    );
    let s = home.load().unwrap();
    assert_eq!(s.file_path, Some(home.path("mine.json")));
    assert_eq!(s.env_prefix, "SIMPLETUNER");
    assert_eq!(s.env_keys, [SecretName::new("WANDB_API_KEY").unwrap()]);
    let aws = s.backend::<AwsOptions>().unwrap();
    assert_eq!(aws.secret_name, "simpletuner/production");
    assert_eq!(aws.region.as_deref(), Some("us-west-2"));
    let vault = s.backend::<VaultOptions>().unwrap();
    assert_eq!(vault.url, "https://vault.example.com:8200");
    let token_file = home.path(".simpletuner/token");
    assert!(matches!(&vault.auth, VaultAuth::TokenFile(file) if *file == token_file));
    assert_eq!((&*vault.path, &*vault.mount_point), ("p", "kv"));
    assert_eq!(vault.connect_timeout, Duration::from_secs(1));
    assert_eq!(s.ttl.default, Duration::from_millis(30_500));
    assert_eq!(s.ttl.missing, Duration::ZERO);
    assert_eq!(
        s.ttl.keys[&SecretName::new("HF_TOKEN").unwrap()],
        Duration::from_secs(60)
    );
    assert_eq!(s.max_stale, Duration::ZERO);
    assert_eq!(s.max_keys, 20_000);
    assert_eq!(s.timeout.connect, Duration::from_secs(1));
    assert!(!s.encrypt && !s.audit_reads && s.allow_root && s.prefetch && s.docker);
    assert_eq!(
        Home::new("ttl: 7").load().unwrap().ttl.default,
        Duration::from_secs(7)
    );
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let home = Home::new(
        "vault_url: https://v\nvault_path: file\naws_secret_name: file\nfile_path: /f\nallow_root: true",
    );
    let env = [
        ("SIMPLETUNER_VAULT_PATH", "env"),
        ("SIMPLETUNER_AWS_SECRET_NAME", ""),
        ("AWS_REGION", "r"),
    ];
    let flags = Flags {
        mount_point: Some("/mnt/x".into()),
        file_path: Some("/flag".into()),
        allow_root: Some(false),
        config: None,
        content: None,
    };
    let s = home.load_with(&flags, &env).unwrap();
    assert_eq!(s.backend::<VaultOptions>().unwrap().path, "env");
    let aws = s.backend::<AwsOptions>().unwrap();
    assert_eq!(aws.secret_name, "file", "empty is unset");
    assert_eq!(aws.region.as_deref(), Some("r"));
    assert_eq!(s.file_path, Some("/flag".into()));
    assert_eq!(s.mount_point, Path::new("/mnt/x"));
    assert!(!s.allow_root);
}

#[test]
fn a_removed_setting_is_an_error_that_names_its_replacement() {
    for (yaml, setting, says) in [
        (
            "access: [{secrets: [A], users: [u]}]",
            "access",
            "use a view",
        ),
        ("allow_other: true", "allow_other", "allow_root"),
        ("allow_other: false", "allow_other", "use a view"),
        ("read_path: audited", "read_path", "is gone"),
    ] {
        let error = error_of(yaml);
        assert!(error.contains(&format!(": {setting} is gone")), "{error}");
        assert!(
            error.contains(says) && error.contains("live.yaml"),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_setting_that_resembles_none_is_an_error_without_a_guess() {
    for yaml in ["bogus: 1", "\"\": 1", "timeout: {bogus: 1}"] {
        let error = error_of(yaml);
        assert!(error.contains("unknown setting"), "{error}");
        assert!(!error.contains("did you mean"), "{error}");
        assert!(error.contains("simpletuner-live settings"), "{error}");
    }
}

#[test]
fn an_unknown_setting_is_an_error_that_suggests_the_nearest_known_one() {
    for (yaml, wrong, nearest) in [
        ("vault_ulr: x", "vault_ulr", "vault_url"),
        ("aws_secret: x", "aws_secret", "aws_secret_name"),
        ("Encrypt: true", "Encrypt", "encrypt"),
        ("ttl: {defualt: 3}", "ttl.defualt", "ttl.default"),
        ("timeout: {conect: 3}", "timeout.conect", "timeout.connect"),
    ] {
        let error = error_of(yaml);
        assert!(error.contains(&format!("{wrong:?}")), "{error}");
        assert!(
            error.contains(&format!("did you mean {nearest:?}")),
            "{error}"
        );
        assert!(error.contains("live.yaml"), "{error}");
    }
}

#[test]
fn a_name_that_no_setting_could_have_is_not_shown() {
    let long = "hunter2".repeat(100);
    for yaml in [
        "root:$6$hunter2: x",
        "'hunter2!': x",
        &format!("? {long}\n: x"),
    ] {
        let error = error_of(yaml);
        assert!(error.contains("the name is no setting"), "{error}");
        assert!(!error.contains("hunter2"));
    }
}

#[test]
fn a_wrong_value_is_an_error_that_names_the_setting_and_never_quotes_the_value() {
    for (yaml, setting) in [
        ("encrypt: hunter2", "encrypt must"),
        ("ttl: 0", "ttl must"),
        ("ttl: -1", "ttl must"),
        ("ttl: .nan", "ttl must"),
        ("ttl: 1e300", "ttl must"),
        ("ttl: [hunter2]", "ttl must"),
        ("ttl: {keys: {HF_TOKEN: hunter2}}", "ttl.keys.HF_TOKEN must"),
        ("ttl: {keys: {a/b: 3}}", "ttl.keys is wrong"),
        ("timeout: {total: 0}", "timeout.total must"),
        ("timeout: hunter2", "timeout must"),
        ("max_stale: hunter2", "max_stale must"),
        ("vault_token: 5", "vault_token must"),
        (
            "vault_role_id: hunter2",
            "vault_role_id is set without vault_secret_id",
        ),
        ("env_keys: HF_TOKEN", "env_keys must"),
        ("env_keys: [a/b]", "env_keys is wrong"),
        ("env_prefix: A-B", "env_prefix must"),
        ("file_path: ''", "file_path must"),
        ("- hunter2", "must hold names and values"),
        ("vault_token: [hunter2", "has no `]`"),
        ("vault_token: \"hunter2", "has no end"),
    ] {
        let error = error_of(yaml);
        assert!(error.contains(setting), "{yaml}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_settings_file_is_read_as_pyyaml_reads_it() {
    let file = "\u{feff}encrypt: off\r\nttl: 1.5\r\nvault_path: 5e10\r\nallow_root: 'yes'\r\n";
    assert!(error_of(file).contains("allow_root must be true or false"));
    let settings = Home::new(&file.replace("'yes'", "yes")).load().unwrap();
    assert!(!settings.encrypt && settings.allow_root);
    assert_eq!(settings.ttl.default, Duration::from_millis(1500));
    for (file, expected) in [
        ("ttl: 1\nttl: 2\n", "ttl is set twice"),
        ("ttl: 0x10\n", "ttl must be a number of seconds"),
        ("t\0t\0l\0:\0", "UTF-16"),
        ("ttl: 1\nencrypt: [hunter2", "line 2 (encrypt: ...)"),
        ("ttl: 1\n---\nttl: 2\n", "line 2: another document"),
    ] {
        let message = error_of(file);
        assert!(
            message.contains(expected) && !message.contains("hunter2"),
            "{message}"
        );
    }
}

#[test]
fn a_settings_file_that_is_not_a_regular_yaml_file_is_an_error_and_never_blocks() {
    let home = Home::new("");
    for (make, what) in [
        ("folder", "it is a folder"),
        ("fifo", "it is a named pipe"),
        ("none", "no such file"),
    ] {
        let path = home.path(make);
        match make {
            "folder" => std::fs::create_dir(&path).unwrap(),
            "fifo" => rustix::fs::mkfifoat(
                rustix::fs::CWD,
                &path,
                rustix::fs::Mode::from_raw_mode(0o600),
            )
            .unwrap(),
            _ => {}
        }
        let flags = Flags {
            config: Some(path),
            ..Flags::default()
        };
        let error = home.load_with(&flags, &[]).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn without_a_home_the_error_says_what_to_set_and_a_named_settings_file_suffices() {
    for home in [None, Some(""), Some("relative")] {
        let env = |name: &str| home.filter(|_| name == "HOME").map(ToOwned::to_owned);
        let error = Settings::load_from(&Flags::default(), &env, BACKENDS)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("set HOME") && error.contains("--config"),
            "{error}"
        );
    }
    let home = Home::new("");
    let flags = Flags {
        config: Some(home.path(".simpletuner/live.yaml")),
        ..Flags::default()
    };
    let s = Settings::load_below(&flags, &|_| None, BACKENDS, home.0.path()).unwrap();
    assert_eq!(s.mount_point, home.path(".simpletuner/live"));
    std::fs::write(home.path(".simpletuner/live.yaml"), "file_path: ~/x").unwrap();
    let error = Settings::load_below(&flags, &|_| None, BACKENDS, home.0.path()).unwrap_err();
    assert!(error.to_string().contains("HOME is not set"));
}

#[test]
fn a_file_of_this_program_that_leads_into_its_mount_is_an_error() {
    let own = |error: &Error| error.to_string().contains("would wait for itself");
    for yaml in [
        "file_path: ~/.simpletuner/live/bundle/secrets.json",
        "vault_token_file: live/secrets/T",
    ] {
        assert!(own(&Home::new(yaml).load().unwrap_err()), "{yaml}");
    }
    let home = Home::new("");
    let link = home.path(".simpletuner/secrets.json");
    std::os::unix::fs::symlink("live/bundle/secrets.json", &link).unwrap();
    assert!(own(&home.load().unwrap_err()));
    std::fs::write(home.path(".simpletuner/store.json"), "{}").unwrap();
    home.load().expect("an adopted store is beside it");

    let home = Home::new("");
    let error = home.load_with(
        &Flags::default(),
        &[("SIMPLETUNER_STATE_DIR", "~/.simpletuner/live")],
    );
    assert!(own(&error.unwrap_err()));
    let flags = Flags {
        mount_point: Some(home.path(".simpletuner")),
        ..Flags::default()
    };
    let error = home.load_with(&flags, &[]).unwrap_err().to_string();
    assert!(error.contains("a mount would hide"), "{error}");
}

#[test]
fn the_state_folder_is_the_first_candidate_that_has_a_cloud_folder() {
    let home = Home::new("");
    let state = |env: &[(&str, &str)]| home.load_with(&Flags::default(), env).unwrap().state_dir;
    // No /workspace, no /notebooks: the home folder is the first whose parent exists.
    assert_eq!(state(&[]), home.path(".simpletuner"));
    std::fs::create_dir(home.path("notebooks")).unwrap();
    assert_eq!(state(&[]), home.path("notebooks/simpletuner"));
    std::fs::create_dir(home.path(".simpletuner/cloud")).unwrap();
    assert_eq!(state(&[]), home.path(".simpletuner"));
    std::fs::create_dir_all(home.path("workspace/simpletuner/cloud")).unwrap();
    assert_eq!(state(&[]), home.path("workspace/simpletuner"));
    assert_eq!(state(&[("SIMPLETUNER_CONFIG_DIR", "/c")]), Path::new("/c"));
    assert_eq!(
        state(&[
            ("SIMPLETUNER_CONFIG_DIR", "/c"),
            ("SIMPLETUNER_STATE_DIR", "/s")
        ]),
        Path::new("/s")
    );
}

#[test]
fn printing_the_settings_shows_no_token() {
    let home = Home::new("vault_url: https://v\nvault_token: hunter2");
    let s = home
        .load_with(
            &Flags::default(),
            &[("SIMPLETUNER_CREDENTIAL_KEY", "hunter3")],
        )
        .unwrap();
    assert_eq!(s.credential_key.as_ref().unwrap().as_str(), "hunter3");
    let set = s
        .in_force
        .iter()
        .filter(|setting| setting.value == "(secret)");
    assert_eq!(set.count(), 2);
    let printed = format!("{s:?}");
    assert!(!printed.contains("hunter"), "{printed}");
}

#[test]
fn each_setting_says_where_its_value_comes_from() {
    let home = Home::new("vault_url: https://v\naws_region: r\naws_secret_name: s\nttl: 7");
    let flags = Flags {
        allow_root: Some(true),
        ..Flags::default()
    };
    let env = [("VAULT_TOKEN", "t"), ("AWS_REGION", "other")];
    let s = home.load_with(&flags, &env).unwrap();
    for (name, value, from) in [
        ("allow_root", "true", Origin::Flag),
        ("aws_region", "\"r\"", Origin::File),
        ("ttl.default", "7", Origin::File),
        ("ttl.missing", "10", Origin::Default),
        (
            "vault_token",
            "\"(secret)\"",
            Origin::Variable("VAULT_TOKEN"),
        ),
        ("vault_path", "\"simpletuner\"", Origin::Default),
    ] {
        let found = s
            .in_force
            .iter()
            .find(|setting| setting.name == name)
            .unwrap();
        assert_eq!(
            (found.value.to_string(), &found.from),
            (value.to_owned(), &from)
        );
    }
}

settings_table! {
    /// One setting of each type that no variable sets yet.
    struct Others {
        /// A time
        time: Duration = setting("time").or_variables(&["A_TIME"]).default(|| seconds(1)),
        /// A number
        number: Option<u32> = variables(&["FIRST_NUMBER", "A_NUMBER"]),
        /// Keys
        keys: Vec<SecretName> = variables(&["KEYS"]),
    }
}

#[test]
fn a_variable_can_set_a_setting_of_any_simple_type() {
    let read = |number: &'static str| {
        let env = move |name: &str| match name {
            "A_TIME" => Some("2.5".to_owned()),
            "A_NUMBER" => Some(number.to_owned()),
            "KEYS" => Some("HF_TOKEN, A.b".to_owned()),
            _ => None,
        };
        let base = base_paths::BasePaths::default();
        Others::read(&Reader::new(Flags::default(), &env, base).unwrap())
    };
    let others = read("7").unwrap();
    assert_eq!(
        (others.time, others.number),
        (Duration::from_millis(2500), Some(7))
    );
    assert_eq!(
        others.keys,
        ["HF_TOKEN", "A.b"].map(|key| SecretName::new(key).unwrap())
    );
    for wrong in ["seven", "1.5", "-1", "1e99"] {
        let said = read(wrong).unwrap_err().to_string();
        assert!(said.contains("A_NUMBER must be a whole number"), "{said}");
    }
}

#[test]
fn each_row_has_a_help_and_each_name_and_variable_belongs_to_one_row() {
    let rows = rows(BACKENDS);
    let mut words = Vec::new();
    for row in &rows {
        assert!(
            !row.help.is_empty() && !row.help.ends_with('.'),
            "{}",
            row.title()
        );
        words.extend(row.variables);
        words.extend(Some(row.name).filter(|name| !name.is_empty()));
    }
    let all = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), all);
}
