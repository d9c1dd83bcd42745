//! The real binary in a scratch home, without a mount. One file: the commands share the home and its checks.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_simpletuner-live");
const PEM: &str = "-----BEGIN KEY-----\nMC4CAQAw\n-----END KEY-----\n";

struct Home(TempDir);

struct CommandOutput {
    code: i32,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(".simpletuner").join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::create_dir_all(self.path("")).unwrap();
        fs::write(self.path(file), text).unwrap();
        fs::set_permissions(self.path(file), PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> CommandOutput {
        ran(self.command().args(args), b"")
    }

    fn run_with(&self, input: &[u8], args: &[&str]) -> CommandOutput {
        ran(self.command().args(args), input)
    }

    /// Runs it; it must succeed and print nothing on standard error.
    fn quiet(&self, input: &str, args: &[&str]) -> String {
        let ran = self.run_with(input.as_bytes(), args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        ran.out
    }
}

fn ran(command: &mut Command, input: &[u8]) -> CommandOutput {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The command may exit without reading it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let killed = || panic!("{}", String::from_utf8_lossy(&output.stderr));
    let ran = CommandOutput {
        code: output.status.code().unwrap_or_else(killed),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

#[test]
fn get_prints_byte_for_byte_what_was_set() {
    let home = Home::new();
    home.quiet("hf_secret\n", &["set", "HF_TOKEN"]);
    assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "hf_secret");
    home.quiet(PEM, &["set", "TLS_KEY", "-"]);
    assert_eq!(home.quiet("", &["get", "TLS_KEY"]), PEM);
    home.quiet("", &["set", "EMPTY", "--empty"]);
    assert_eq!(home.quiet("", &["get", "EMPTY"]), "");
}

#[test]
fn an_empty_input_leaves_a_secret_as_it_is() {
    let home = Home::new();
    home.quiet("hf_secret\n", &["set", "HF_TOKEN"]);
    fs::write(home.0.path().join("empty"), "").unwrap();
    let file = home.0.path().join("empty");
    let ways: [(&str, &[&str]); 5] = [
        ("", &["set", "HF_TOKEN"]),
        ("\n", &["set", "HF_TOKEN", "-"]),
        ("", &["set", "HF_TOKEN", ""]),
        (" \n", &["set", "HF_TOKEN", "--trim"]),
        ("", &["set", "HF_TOKEN", "--file", file.to_str().unwrap()]),
    ];
    for (input, args) in ways {
        let ran = home.run_with(input.as_bytes(), args);
        assert_eq!(ran.code, 1, "{args:?}");
        assert!(ran.err.contains("HF_TOKEN stays as it is"), "{}", ran.err);
        assert!(ran.err.contains("--empty"), "{}", ran.err);
        assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "hf_secret");
    }
    home.quiet("", &["set", "HF_TOKEN", "--empty"]);
    assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "");
}

#[test]
fn white_space_at_the_ends_of_a_value_is_kept_with_a_warning_unless_it_is_trimmed() {
    let home = Home::new();
    let kept = [
        ("token\r\n", "token\r", "Windows line ends"),
        (" token", " token", "begins with white space"),
        ("token \n", "token ", "ends with white space"),
        ("\ntoken\n", "\ntoken\n", "begins with an empty line"),
    ];
    for (input, value, says) in kept {
        let ran = home.run_with(input.as_bytes(), &["set", "K"]);
        assert_eq!(ran.code, 0, "{input:?}");
        assert!(
            ran.err.contains(says) && ran.err.contains("--trim"),
            "{}",
            ran.err
        );
        assert!(!ran.err.contains("token"), "{}", ran.err);
        assert_eq!(home.quiet("", &["get", "K"]), value);
        home.quiet(input, &["set", "K", "--trim"]);
        assert_eq!(home.quiet("", &["get", "K"]), "token");
    }
}

#[test]
fn a_value_can_be_read_from_a_file_or_from_a_pipe_with_a_name() {
    let home = Home::new();
    let file = home.0.path().join("key.pem");
    fs::write(&file, PEM).unwrap();
    home.quiet("", &["set", "TLS_KEY", "--file", file.to_str().unwrap()]);
    assert_eq!(home.quiet("", &["get", "TLS_KEY"]), PEM);
    let ran = home.run(["set", "TLS_KEY", "--file", "/does/not/exist"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/does/not/exist"), "{}", ran.err);
    home.quiet("hf_piped", &["set", "HF_TOKEN", "--file", "/dev/stdin"]);
    assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "hf_piped");
}

#[test]
fn set_stores_values_encrypted_in_private_files() {
    let home = Home::new();
    home.quiet("hf_secret\n", &["set", "HF_TOKEN"]);
    let store: Value = serde_json::from_str(&home.text("secrets.json")).unwrap();
    let stored = store["HF_TOKEN"].as_str().unwrap();
    assert!(stored.starts_with("Z0FBQUFB"), "{stored}");
    for file in ["secrets.json", "credential.key"] {
        let mode = fs::metadata(home.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(home.quiet(stored, &["decrypt"]), "hf_secret");
}

#[test]
fn reading_creates_no_file() {
    let home = Home::new();
    assert_eq!(home.run(["get", "HF_TOKEN"]).code, 4);
    assert_eq!(home.quiet("", &["ls"]), "");
    assert!(!home.path("credential.key").exists());
    assert!(!home.path("secrets.json").exists());
}

#[test]
fn a_missing_secret_is_exit_code_4() {
    let home = Home::new();
    for command in ["get", "rm"] {
        let ran = home.run([command, "HF_TOKEN"]);
        assert_eq!((ran.code, ran.out.as_str()), (4, ""), "{command}");
        assert!(ran.err.contains("no such secret: HF_TOKEN"), "{}", ran.err);
        assert!(ran.err.contains("simpletuner-live ls"), "{}", ran.err);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let home = Home::new();
    for args in [
        &[][..],
        &["frobnicate"],
        &["get"],
        &["get", "not a name"],
        &["get", ".hidden"],
        &["set", "A", "b", "c"],
        &["ls", "--no-such-flag"],
        &["mount", "--allow-other"],
        &["completions", "cobol"],
    ] {
        let ran = home.run(args);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (2, ""),
            "{args:?}: {}",
            ran.err
        );
    }
}

#[test]
fn a_value_on_the_command_line_is_stored_with_a_warning() {
    let home = Home::new();
    let ran = home.run(["set", "HF_TOKEN", "hf_typed"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert!(ran.err.contains("history"), "{}", ran.err);
    assert!(!ran.err.contains("hf_typed"), "{}", ran.err);
    assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "hf_typed");
}

#[test]
fn values_that_are_too_large_or_not_utf8_are_refused() {
    let home = Home::new();
    let most = "x".repeat(64 * 1024);
    home.quiet(&format!("{most}\n"), &["set", "MOST"]);
    assert_eq!(home.quiet("", &["get", "MOST"]), most);
    let more = home.run_with(format!("{most}x").as_bytes(), &["set", "MORE"]);
    assert_eq!(more.code, 1);
    assert!(more.err.contains("at most 65536 bytes"), "{}", more.err);
    let binary = home.run_with(b"\xff\xfe", &["set", "BINARY"]);
    assert_eq!(binary.code, 1);
    assert!(binary.err.contains("UTF-8"), "{}", binary.err);
    assert_eq!(home.quiet("", &["ls"]), "MOST\n");
}

#[test]
fn a_removed_secret_is_gone() {
    let home = Home::new();
    home.quiet("1", &["set", "ONE"]);
    home.quiet("2", &["set", "TWO"]);
    home.quiet("", &["rm", "ONE"]);
    assert_eq!(home.run(["get", "ONE"]).code, 4);
    assert_eq!(home.quiet("", &["ls"]), "TWO\n");
}

#[test]
fn the_environment_overrides_the_file_and_is_never_written() {
    let home = Home::new();
    let with = |args: &[&str], input: &str| {
        ran(
            home.command().env("HF_TOKEN", "from_env").args(args),
            input.as_bytes(),
        )
    };
    assert_eq!(with(&["get", "hf-token"], "").out, "from_env");
    let only_there = with(&["rm", "HF_TOKEN"], "");
    assert_eq!(only_there.code, 1);
    assert!(only_there.err.contains("environment"), "{}", only_there.err);

    let set = with(&["set", "HF_TOKEN"], "from_file");
    assert_eq!(set.code, 0, "{}", set.err);
    assert!(set.err.contains("environment"), "{}", set.err);
    assert_eq!(set.err.matches("warning").count(), 1, "{}", set.err);
    assert_eq!(with(&["get", "HF_TOKEN"], "").out, "from_env");
    assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "from_file");
}

#[test]
fn ls_shows_each_name_with_its_provider() {
    let home = Home::new();
    home.quiet("12345", &["set", "B_KEY"]);
    home.quiet("1", &["set", "A_KEY"]);
    let list = |args: &[&str]| ran(home.command().env("HF_TOKEN", "from_env").args(args), b"");
    assert_eq!(list(&["ls"]).out, "A_KEY\nB_KEY\nHF_TOKEN\n");

    let long = list(&["ls", "-l"]).out;
    let rows: Vec<Vec<&str>> = long
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["NAME", "PROVIDER", "BYTES", "CHANGED"]);
    assert_eq!(rows[2][..3], ["B_KEY", "file", "5"]);
    assert_eq!(rows[3][..3], ["HF_TOKEN", "environment", "8"]);

    let json: Value = serde_json::from_str(&list(&["ls", "-l", "--json"]).out).unwrap();
    assert_eq!(json[1]["name"], "B_KEY");
    assert_eq!(json[1]["provider"], "file");
    assert_eq!(json[1]["size"], 5);
    assert!(json[1]["changed_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(json[2]["provider"], "environment");
    let short: Value = serde_json::from_str(&list(&["ls", "--json"]).out).unwrap();
    assert_eq!(
        short.as_array().unwrap()[..2],
        json.as_array().unwrap()[..2]
    );
    assert!(!long.contains("12345") && !long.contains("from_env"));
}

#[test]
fn encrypt_and_decrypt_use_simpletuners_format() {
    let home = Home::new();
    let stored = home.quiet("r8_secret\n", &["encrypt"]);
    assert!(stored.starts_with("Z0FBQUFB") && stored.ends_with('\n'));
    assert_eq!(home.quiet(&stored, &["decrypt"]), "r8_secret");
    let pem = home.quiet(PEM, &["encrypt"]);
    assert_eq!(home.quiet(&pem, &["decrypt"]), PEM);

    let other_key = ran(
        home.command()
            .env("SIMPLETUNER_CREDENTIAL_KEY", "another key")
            .arg("decrypt"),
        stored.as_bytes(),
    );
    assert_eq!((other_key.code, other_key.out.as_str()), (1, ""));
    assert!(other_key.err.contains("decrypt"), "{}", other_key.err);
}

#[test]
fn encrypt_file_encrypts_plain_values_and_keeps_the_others() {
    let home = Home::new();
    home.write("live.yaml", "file_path: ~/.simpletuner/own.json\n");
    home.write("own.json", "{\"A\": \"plain\", \"N\": 7, \"B\": \"also\"}");
    let first = home.run(["encrypt-file"]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.err.contains("2 values"), "{}", first.err);
    let store: Value = serde_json::from_str(&home.text("own.json")).unwrap();
    assert_eq!(store["N"], 7);
    for key in ["A", "B"] {
        assert!(store[key].as_str().unwrap().starts_with("Z0FBQUFB"));
    }
    assert_eq!(home.quiet("", &["get", "A"]), "plain");
    let before = home.text("own.json");
    assert!(home.run(["encrypt-file"]).err.contains("already"));
    assert_eq!(home.text("own.json"), before);
}

#[test]
fn settings_shows_each_value_and_where_it_comes_from_and_no_credential() {
    let home = Home::new();
    let yaml = "ttl: 5\nvault_url: https://v\nvault_role_id: hunter2\nvault_secret_id: hunter3\n";
    home.write("live.yaml", yaml);
    let run = |args: &[&str]| {
        let mut command = home.command();
        command.env("VAULT_TOKEN", "hunter4").args(args);
        let ran = ran(&mut command, b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(!ran.out.contains("hunter"), "{}", ran.out);
        ran.out
    };
    let shown = run(&["settings"]);
    let file = home.path("live.yaml").display().to_string();
    for words in [
        ["ttl.default", "5", &file],
        ["timeout.total", "10", "default"],
        ["vault_role_id", "(secret)", &file],
        ["vault_token", "(secret)", "VAULT_TOKEN"],
        ["VAULT_NAMESPACE", "-", "default"],
    ] {
        let has = |line: &str| line.split_whitespace().eq(words);
        assert!(shown.lines().any(has), "{words:?}: {shown}");
    }
    let settings: Value = serde_json::from_str(&run(&["settings", "--json"])).unwrap();
    let token = |setting: &&Value| setting["name"] == "vault_token";
    let token = settings.as_array().unwrap().iter().find(token).unwrap();
    assert_eq!(token["from"], "VAULT_TOKEN");
    assert_eq!(token["value"], "(secret)");
    home.write("live.yaml", "tll: 5\n");
    let wrong = home.run(["settings"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("did you mean \"ttl\""), "{}", wrong.err);
}

#[test]
fn adopt_creates_a_link_into_the_mount_and_undo_removes_it() {
    let home = Home::new();
    home.write("secrets.json", "{\"HF_TOKEN\": \"plain\"}");
    let adopted = home.run(["adopt"]);
    assert_eq!(adopted.code, 0, "{}", adopted.err);
    let link = fs::read_link(home.path("secrets.json")).unwrap();
    assert!(link.ends_with("live/bundle/secrets.json"), "{link:?}");
    assert!(home.text("store.json").contains("Z0FBQUFB"));
    assert_eq!(home.quiet("", &["get", "HF_TOKEN"]), "plain");

    let undone = home.run(["adopt", "--undo", "--yes"]);
    assert_eq!(undone.code, 0, "{}", undone.err);
    assert!(!home.path("secrets.json").is_symlink());
    let store: Value = serde_json::from_str(&home.text("secrets.json")).unwrap();
    assert_eq!(store["HF_TOKEN"], "plain");
}

#[test]
fn the_error_for_an_unknown_setting_suggests_the_nearest_one() {
    let home = Home::new();
    home.write("live.yaml", "file_pth: ~/x.json\n");
    let ran = home.run(["ls"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("file_pth"), "{}", ran.err);
    assert!(ran.err.contains("file_path"), "{}", ran.err);

    let elsewhere = home.0.path().join("other.yaml");
    fs::write(&elsewhere, "encrypt: false\n").unwrap();
    let config = elsewhere.to_str().unwrap();
    let written = home.run_with(b"v", &["--config", config, "set", "PLAIN"]);
    assert_eq!(written.code, 0, "{}", written.err);
    let store: Value = serde_json::from_str(&home.text("secrets.json")).unwrap();
    assert_eq!(store["PLAIN"], "v");
}

#[test]
fn without_a_home_the_error_says_what_to_set() {
    let home = Home::new();
    let ran = ran(home.command().env_remove("HOME").arg("ls"), b"");
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("HOME"), "{}", ran.err);
}

#[test]
fn a_malformed_secrets_file_is_an_error_and_stays_as_it_is() {
    let home = Home::new();
    home.write("secrets.json", "{\"A\": \"hf_half");
    assert_eq!(home.run(["get", "A"]).code, 1);
    let ran = home.run_with(b"v", &["set", "B"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("secrets.json"), "{}", ran.err);
    assert!(!ran.err.contains("hf_half"), "{}", ran.err);
    assert_eq!(home.text("secrets.json"), "{\"A\": \"hf_half");
}

#[test]
fn commands_that_need_a_mount_say_so_without_one() {
    let home = Home::new();
    for args in [
        &["status"][..],
        &["metrics"],
        &["top", "--once"],
        &["umount"],
        &["cache", "stats"],
        &["cache", "clear"],
        &["cache", "invalidate", "secret:"],
    ] {
        let ran = home.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}");
        assert!(ran.err.contains("nothing is mounted"), "{}", ran.err);
    }
    let ran = home.run(["status", "--json"]);
    assert_eq!(ran.code, 1);
    let status: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(status["mounted"], false);
}

#[test]
fn the_help_of_every_command_has_examples() {
    let home = Home::new();
    let all = home.quiet("", &["--help"]);
    let commands = all
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split(' ').next().filter(|word| !word.is_empty()))
        .filter(|command| *command != "help");
    let mut seen = 0;
    for command in commands {
        let help = home.quiet("", &[command, "--help"]);
        assert!(help.contains("Examples:\n  "), "{command}");
        seen += 1;
    }
    assert!(seen >= 13, "{all}");
}
