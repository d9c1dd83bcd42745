//! What the documents of `bundle/` show while a backend fails, and what writing one back changes then.

use super::*;
use crate::servers::proxy::Fault;

/// How often the daemon's log has this.
fn logged(live: &Live, text: &str) -> usize {
    let log = std::fs::read_to_string(live.home("daemon.log")).unwrap();
    log.matches(text).count()
}

#[test]
fn a_document_has_the_secrets_of_every_source_that_answers() {
    let world = World::new();
    // Not asked again for a minute.
    world.aws.set(Fault::TooMany(60));
    world.vault.set(Fault::Hold);
    let live = world.mount("max_stale: 0\n");
    let single = spawn(&live, "cat secrets/IN_AWS");
    wait_until("AWS has failed", || {
        live.json("providers/aws")["last_error"].is_string()
    });
    wait_until("Vault is asked", || world.vault.requests() > 0);
    // That AWS has failed does not keep a reader from waiting for Vault.
    let readers = [
        "cat bundle/secrets.json",
        "set -a; . bundle/secrets.env; echo $IN_FILE $IN_VAULT",
    ];
    let readers = readers.map(|script| spawn(&live, script));
    let cat = readers[0].id();
    wait_until("it waits", || waits_for_the_mount(cat));
    world.vault.set(Fault::None);
    let [json, env] = readers.map(|reader| ended(reader).stdout);
    let json: Value = serde_json::from_slice(&json).unwrap();
    let whole = json!({"IN_ALL": "f", "IN_BOTH": "v", "IN_FILE": "f", "IN_VAULT": "v"});
    assert_eq!(json, whole);
    assert_eq!(String::from_utf8_lossy(&env), "f v\n");
    // What may be missing is said, and a single key of it is no absent one.
    let said = String::from_utf8(ended(single).stderr).unwrap();
    assert!(said.contains("Input/output error"), "{said}");
    for name in ["secrets.json", "secrets.yaml", "secrets.env"] {
        let attribute = format!("getfattr --only-values -n user.simpletuner.missing bundle/{name}");
        assert_eq!(done(&live, &attribute), "aws");
        for _ in 0..3 {
            assert!(done(&live, &format!("cat bundle/{name}")).contains("IN_VAULT"));
        }
    }
    assert_eq!(
        logged(&live, "the bundle is without the secrets of aws: "),
        1
    );
}

#[test]
fn a_document_that_is_written_back_in_an_outage_changes_only_what_its_writer_changed() {
    let world = World::new();
    let live = world.mount("max_stale: 0\nttl: 1\ntimeout: {total: 60}\n");
    // What SimpleTuner does: one process reads all, later writes all, and so on.
    let program = r#"
import json, os, sys
path, step = 'bundle/secrets.json', open('go')
def load():
    with open(path) as f: return json.load(f)
def save(d):
    with open(path, 'w') as f: json.dump(d, f)
d = load()
print(sorted(d), flush=True)
step.readline()
del d['IN_FILE']; d['ADDED'] = '1'
save(d)
d = load()
print(sorted(d), flush=True)
d['ADDED'] = '2'
save(d)
"#;
    let script = format!(
        "mkfifo {0}/go; cd {0}; ln -s .simpletuner/live/bundle bundle; exec python3 -c \"$PROGRAM\" > out 2>&1",
        live.home.path().display()
    );
    let mut python = live.command("bash");
    let mut python = python
        .args(["-c", &script])
        .env("PROGRAM", program)
        .spawn()
        .unwrap();
    let out = || std::fs::read_to_string(live.home("out")).unwrap_or_default();
    wait_until("the pipe is there", || live.home("go").exists());
    let mut go = std::fs::OpenOptions::new()
        .write(true)
        .open(live.home("go"))
        .unwrap();
    wait_until("it has read the document", || out().ends_with('\n'));
    assert_eq!(
        out(),
        "['IN_ALL', 'IN_AWS', 'IN_BOTH', 'IN_FILE', 'IN_VAULT']\n"
    );
    world.aws.set(Fault::Refuse);
    wait_until("AWS is skipped", || {
        done(&live, "cat secrets/IN_BOTH") == "v"
    });
    std::io::Write::write_all(&mut go, b"\n").unwrap();
    wait_until("it has written", || python.try_wait().unwrap().is_some());
    let out = out();
    assert!(
        out.ends_with("\n['ADDED', 'IN_ALL', 'IN_BOTH', 'IN_VAULT']\n"),
        "{out}"
    );
    let stored = std::fs::read(live.home(".simpletuner/secrets.json")).unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored, json!({"IN_ALL": "f", "ADDED": "2"}));
    world.aws.set(Fault::None);
    wait_until("AWS answers again", || {
        live.json("bundle/secrets.json")
            == json!({"ADDED": "2", "IN_ALL": "f", "IN_AWS": "a", "IN_BOTH": "a", "IN_VAULT": "v"})
    });
    wait_until("that is logged", || {
        logged(&live, "the bundle has all secrets again") > 0
    });
}
