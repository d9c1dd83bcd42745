//! What `providers/NAME` and `status` say of each kind of provider, before it was asked, while it fails, and afterwards.

use super::command::{mount, put};
use super::servers::proxy::Fault;
use super::*;

/// The row of a provider in `status`.
fn row(live: &Live, provider: &str) -> String {
    let said = live.cli().arg("status").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let mut rows = said.lines().filter(|line| line.starts_with(provider));
    rows.next().unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[track_caller]
fn is(live: &Live, provider: &str, available: Option<bool>, words: &str) {
    let report = live.json(&format!("providers/{provider}"));
    assert_eq!(report["available"], json!(available), "{report}");
    let has_error = available == Some(false) && report["configured"] == true;
    for field in ["last_error", "last_error_at"] {
        assert_eq!(report[field].is_string(), has_error, "{field}: {report}");
    }
    let row = row(live, provider);
    assert!(row.contains(words), "{row}");
    if has_error {
        assert!(
            row.contains(report["last_error_at"].as_str().unwrap()),
            "{row}"
        );
    }
}

#[test]
fn a_provider_is_available_only_after_an_answer_and_its_errors_go_when_it_recovers() {
    let world = World::new();
    let live = world.mount("");
    is(&live, "environment", Some(true), "available");
    is(&live, "file", Some(true), "available");
    for provider in ["aws", "vault"] {
        is(&live, provider, None, "not asked yet");
    }
    world.aws.set(Fault::Refuse);
    world.vault.set(Fault::Refuse);
    refused(&live, "cat secrets/IN_VAULT");
    for provider in ["aws", "vault"] {
        is(&live, provider, Some(false), "failing");
    }
    world.aws.set(Fault::None);
    world.vault.set(Fault::None);
    wait_until("the backends are asked again", || {
        live.try_sh("cat secrets/IN_AWS secrets/IN_VAULT")
            .status
            .success()
    });
    for provider in ["aws", "vault"] {
        is(&live, provider, Some(true), "available");
    }
    // The next server knows it, too.
    signal("KILL", live.server_pid());
    for provider in ["aws", "vault"] {
        is(&live, provider, Some(true), "available");
    }
}

#[test]
fn a_program_is_available_only_after_an_answer_and_its_errors_go_when_it_recovers() {
    const SETTINGS: &str = "command:
- {name: whole, run: [./program, whole]}
- {name: single, run: [./program, '{key}'], per_key: true}
- {name: other, run: [./program, '{key}'], per_key: true}
ttl: {default: 1, missing: 1}
";
    const WORKS: &str = "case $1 in whole) echo '{\"A\": \"1\"}';; B) printf 2;; esac";
    let live = mount(SETTINGS, "echo oh no >&2; exit 1", &[]);
    for provider in ["whole", "single", "other"] {
        is(&live, provider, None, "not asked yet");
    }
    for provider in ["aws", "vault"] {
        let report = live.json(&format!("providers/{provider}"));
        assert_eq!(report["available"], false, "{report}");
        assert!(row(&live, provider).contains("not configured"));
    }
    refused(&live, "cat secrets/B");
    for provider in ["whole", "single", "other"] {
        is(&live, provider, Some(false), "failing");
    }
    put(live.home.path(), WORKS);
    wait_until("the programs are asked again", || {
        live.try_sh("cat secrets/B secrets/NONE").status.code() == Some(1)
            && live.try_sh("cat secrets/A secrets/B").status.success()
    });
    for provider in ["whole", "single"] {
        is(&live, provider, Some(true), "available");
    }
}
