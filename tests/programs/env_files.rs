//! `bundle/secrets.env` and `bundle/docker.env`, read by the programs they are for. `scripts/test` installs some of them; the
//! others are read where they are installed. docs/env-files.md has the same table for users.

use serde_json::{Map, Value, json};

use super::*;

/// What a value has, and the value.
const VALUES: [(&str, &str); 35] = [
    ("plain", "hf_abc/x=+,.:@%-"),
    ("empty", ""),
    ("spaces", " a  b "),
    ("tab", "a\tb"),
    ("hash", "a #b"),
    ("percent", "%s %d!"),
    ("glob", "* ~/x ; a&b|c<d>e (f)"),
    ("unicode", "ä€😀\u{a0}\u{85}\u{2028}"),
    ("control", "a\u{1}b\u{1b}c\u{c}d\u{7f}"),
    ("dollars", "pa$$w0rd"),
    ("$NAME", "x$OTHER"),
    ("${NAME}", "x${OTHER}y"),
    ("$(command)", "a$(id)b"),
    ("backtick", "a`b"),
    ("double quotes", "say \"hi\""),
    ("in double quotes", "\"quoted\""),
    ("json", "{\"a\": \"b\", \"c\": [1]}"),
    ("quote", "it's"),
    ("in quotes", "'quoted'"),
    ("quote, $", "it's $5"),
    ("quote, double quotes", "it's \"x\""),
    ("quote, backslash", "it's \\n"),
    ("quote, backtick", "it's `x`"),
    ("backslash, quote", "a\\'b"),
    ("backslash", "a\\nb C:\\x y"),
    ("backslash, $", "a\\$b"),
    ("backslash, double quotes", "a\\\"b"),
    ("two backslashes", "a\\\\b"),
    ("backslash at the end", "a\\"),
    ("lines", "l1\nPATH=/evil\n\n# l3\n"),
    ("lines, quote", "l1\nit's"),
    ("lines, $", "l1\n$OTHER x"),
    ("lines, double quotes", "l1\n\"q\""),
    ("lines, backslash", "l1\na\\b"),
    ("carriage return", "a\r\nb"),
];

const LINES: [&str; 5] = [
    "lines",
    "lines, quote",
    "lines, $",
    "lines, double quotes",
    "lines, backslash",
];

/// The kinds that a reader takes for another value, whatever the quotes around them, or that other readers need in quotes
/// which this one does not know. The shells and systemd have none.
fn misread(reader: &str) -> Vec<&'static str> {
    let mut kinds = match reader {
        "python-dotenv" => vec!["${NAME}", "quote, $"],
        "node" | "node dotenv" => vec![
            "quote, $",
            "quote, double quotes",
            "quote, backslash",
            "backslash, quote",
            "two backslashes",
            "backslash at the end",
        ],
        "ruby dotenv" => [&["quote, backslash"], &LINES[..]].concat(),
        "php dotenv" => LINES[2..].to_vec(),
        "php symfony" => vec!["quote, backslash"],
        "direnv" => [&["quote, $", "quote, backslash"], &LINES[..]].concat(),
        "go godotenv" => vec!["quote, double quotes", "backslash at the end"],
        _ => return Vec::new(),
    };
    if !["direnv", "go godotenv"].contains(&reader) {
        kinds.push("quote, backtick");
    }
    kinds.push("carriage return");
    kinds
}

fn read_with(live: &Live, args: &[&str]) -> Value {
    let tools = std::env::var("SIMPLETUNER_LIVE_TEST_TOOLS").unwrap_or_default();
    let mut readers = live.command("python3");
    readers
        .env("DOTENV", format!("{tools}/python-dotenv-1.2.4"))
        .env("OTHER", "other")
        .args(["-c", include_str!("env_readers.py")])
        .args(args);
    // Go keeps what it has built there.
    if let Some(home) = std::env::var_os("HOME") {
        readers.env("HOME", home);
    }
    let output = readers.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn skipped(all: &[&str], read: &Map<String, Value>) {
    let missing: Vec<&&str> = all
        .iter()
        .filter(|name| !read.contains_key(**name))
        .collect();
    if !missing.is_empty() {
        eprintln!("skipped, because they are not installed: {missing:?}");
    }
}

#[test]
fn shells_systemd_and_dotenv_readers_read_the_values_of_secrets_env() {
    let live = Live::start();
    live.write("secrets/AAA", "start");
    live.write("secrets/ZZZ", "the end");
    let folder = live.home.path();
    let mut args = vec!["quoted".to_owned()];
    for (number, (_, value)) in VALUES.iter().enumerate() {
        live.write("secrets/KEY", value);
        let file = folder.join(format!("{number}.env"));
        std::fs::write(&file, live.read("bundle/secrets.env")).unwrap();
        args.push(file.to_str().unwrap().to_owned());
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let read = read_with(&live, &args);
    let read = read.as_object().unwrap();
    let all = [
        "sh",
        "dash",
        "bash",
        "zsh",
        "ksh",
        "mksh",
        "yash",
        "posh",
        "busybox sh",
        "systemd",
        "python-dotenv",
        "node",
        "node dotenv",
        "ruby dotenv",
        "php dotenv",
        "php symfony",
        "direnv",
        "go godotenv",
    ];
    skipped(&all, read);
    let mut wrong = Vec::new();
    for (reader, results) in read {
        let misread = misread(reader);
        for ((kind, value), result) in VALUES.iter().zip(results.as_array().unwrap()) {
            if *result != json!([value, "the end"]) && !misread.contains(kind) {
                wrong.push(format!("{reader}, {kind}: {result}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(read.contains_key("sh") && read.contains_key("bash"));
}

#[test]
fn docker_and_podman_read_the_values_of_docker_env_and_no_value_becomes_a_variable_of_its_own() {
    let live = Live::start();
    // The longest line that both read, and one that makes them refuse the file.
    let (longest, longer) = ("x".repeat(65_531), "x".repeat(65_532));
    let special = [
        ("LNG", longest.as_str(), true),
        ("LNH", longer.as_str(), false),
        ("CR", "a\r", false),
        ("NUL", "a\0b", false),
        ("my-key", "hunter2", false),
    ];
    let numbered: Vec<String> = (0..VALUES.len())
        .map(|number| format!("K{number}"))
        .collect();
    let numbered = numbered.iter().zip(VALUES);
    let values: Vec<(&str, &str, bool)> = numbered
        .map(|(name, (_, value))| (name.as_str(), value, !value.contains('\n')))
        .chain(special)
        .collect();
    let document: Map<String, Value> = values
        .iter()
        .map(|(name, value, _)| ((*name).to_owned(), json!(value)))
        .collect();
    live.write("bundle/secrets.json", &Value::from(document).to_string());
    let text = live.read("bundle/docker.env");
    let mut expected = Vec::new();
    for (name, value, fits) in &values {
        if *fits {
            assert!(
                text.contains(&format!("\n{name}={value}\n"))
                    || text.starts_with(&format!("{name}={value}\n"))
            );
            expected.push((*name, *value));
        } else {
            assert!(
                text.contains(&format!("# {name}: left out, because ")),
                "{name}"
            );
        }
    }
    assert!(!text.contains("hunter2") && !text.contains("\nPATH="));
    let stat = "stat -c %a bundle/docker.env; echo x > bundle/docker.env && echo written || true";
    assert_eq!(live.sh(stat), "400\n");

    let file = live.home("docker.env");
    std::fs::write(&file, &text).unwrap();
    let read = read_with(&live, &["bare", file.to_str().unwrap()]);
    let read = read.as_object().unwrap();
    skipped(&["docker", "podman"], read);
    for (reader, variables) in read {
        let mut variables = variables.as_object().unwrap().clone();
        for (name, value) in &expected {
            assert_eq!(
                variables.remove(*name),
                Some(json!(value)),
                "{reader}: {name}"
            );
        }
        // What the container has without the file.
        variables.retain(|name, _| {
            !["PATH", "TERM", "HOME", "HOSTNAME", "container"].contains(&name.as_str())
        });
        assert!(variables.is_empty(), "{reader}: {variables:?}");
    }
}
