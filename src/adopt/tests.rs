//! `adopt` and `undo` in a scratch home.

use super::*;
use crate::manager::SecretsManager;
use crate::provider::BACKENDS;
use crate::provider::EnvironmentProvider;
use crate::settings::Flags;
use std::os::unix::fs::symlink;

struct Home(tempfile::TempDir);

impl Home {
    fn new(files: &[(&str, &str)]) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(home.path("")).unwrap();
        for (name, content) in files {
            std::fs::write(home.path(name), content).unwrap();
        }
        home
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(".simpletuner").join(name)
    }
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
    fn settings(&self) -> Settings {
        let home = self.0.path().to_str().unwrap().to_owned();
        let env = |name: &str| (name == "HOME").then(|| home.clone());
        Settings::load_from(&Flags::default(), &env, BACKENDS).unwrap()
    }
    fn get(&self, key: &str) -> String {
        let nothing = EnvironmentProvider::new([], "", &[]);
        let manager = SecretsManager::from_settings_with(&self.settings(), nothing).unwrap();
        manager.get(key).unwrap().as_str().to_owned()
    }
    fn is_adopted(&self) {
        let link = std::fs::read_link(self.path("secrets.json")).unwrap();
        assert_eq!(link, Path::new("live/bundle/secrets.json"));
        assert_eq!(self.settings().file_path, Some(self.path("store.json")));
    }
}

const OLD: &str = "{\n  \"A\": \"alpha\",\n  \"n\": 1.50,\n  \"B\": \"beta\"\n}\n";

#[test]
fn adopt_moves_encrypts_and_links_the_store_and_undo_restores_everything() {
    let home = Home::new(&[("secrets.json", OLD), ("live.yaml", "# mine\nttl: 60\n")]);
    let report = adopt(&home.settings()).unwrap();
    assert!(report.changed);
    assert_eq!(
        (report.values, &report.store),
        (2, &home.path("store.json"))
    );
    home.is_adopted();
    let store = home.read("store.json");
    assert!(
        !store.contains("alpha") && store.contains("\"n\": 1.50"),
        "{store}"
    );
    assert_eq!(
        (home.get("A"), home.get("B")),
        ("alpha".into(), "beta".into())
    );
    assert!(home.read("live.yaml").starts_with("# mine\nttl: 60\n"));

    let again = adopt(&home.settings()).unwrap();
    assert!(!again.changed && again.values == 0);
    assert_eq!(home.read("store.json"), store);

    let undone = undo(&home.settings()).unwrap();
    assert_eq!((undone.changed, undone.values), (true, 2));
    assert_eq!(home.read("secrets.json"), OLD);
    assert_eq!(home.read("live.yaml"), "# mine\nttl: 60\n");
    assert!(!home.path("store.json").exists());
    assert!(!undo(&home.settings()).unwrap().changed);
}

#[test]
fn a_default_file_that_simpletuner_never_reads_is_left_alone() {
    let yaml = "OLD: stale\n";
    let home = Home::new(&[("secrets.json", OLD), ("secrets.yaml", yaml)]);
    for _ in 0..2 {
        adopt(&home.settings()).unwrap();
        assert_eq!(home.read("secrets.yaml"), yaml);
        assert!(!home.read("store.json").contains("OLD"));
    }
}

#[test]
fn adopt_without_a_store_creates_an_empty_one() {
    let home = Home::new(&[]);
    assert!(adopt(&home.settings()).unwrap().changed);
    home.is_adopted();
    assert_eq!(home.read("store.json"), "{}\n");
    assert!(
        !home.path("credential.key").exists(),
        "nothing was encrypted"
    );
}

#[test]
fn a_run_that_was_interrupted_at_any_step_is_finished_by_the_next_one() {
    // After the store was written.
    let home = Home::new(&[("secrets.json", OLD)]);
    adopt(&home.settings()).unwrap();
    let store = home.read("store.json");
    std::fs::remove_file(home.path("secrets.json")).unwrap();
    std::fs::write(home.path("secrets.json"), OLD.replace("beta", "newer")).unwrap();
    std::fs::remove_file(home.path("live.yaml")).unwrap();
    assert_eq!(home.get("B"), "newer", "the old file still counts");
    adopt(&home.settings()).unwrap();
    home.is_adopted();
    assert_eq!(home.get("B"), "newer");

    // After the settings named it; SimpleTuner has written to its file since.
    std::fs::write(home.path("store.json"), &store).unwrap();
    std::fs::remove_file(home.path("secrets.json")).unwrap();
    let newer = OLD
        .replace("\"n\"", "\"C\": \"gamma\",\n  \"n\"")
        .replace("beta", "newest");
    std::fs::write(home.path("secrets.json"), newer).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let file = std::fs::File::options()
        .write(true)
        .open(home.path("secrets.json"));
    file.unwrap().set_modified(later).unwrap();
    adopt(&home.settings()).unwrap();
    home.is_adopted();
    assert_eq!(
        (home.get("A"), home.get("B")),
        ("alpha".into(), "newest".into())
    );
    assert_eq!(home.get("C"), "gamma");
}

#[test]
fn an_undo_that_was_interrupted_at_any_step_is_finished_by_the_next_one() {
    for steps in 1..=2 {
        let home = Home::new(&[("secrets.json", OLD)]);
        adopt(&home.settings()).unwrap();
        std::fs::remove_file(home.path("secrets.json")).unwrap();
        std::fs::write(home.path("secrets.json"), OLD).unwrap();
        if steps == 2 {
            Change::prepare(&home.settings(), None)
                .unwrap()
                .apply()
                .unwrap();
        }
        assert!(undo(&home.settings()).unwrap().changed, "{steps}");
        assert_eq!(home.read("secrets.json"), OLD);
        assert!(!home.path("store.json").exists());
        assert_eq!(home.settings().file_path, None);
    }
}

#[test]
fn a_store_with_other_keys_is_not_overwritten() {
    let home = Home::new(&[("secrets.json", OLD), ("store.json", "{\"OTHER\": \"x\"}")]);
    assert!(matches!(adopt(&home.settings()), Err(Error::Settings(_))));
    assert_eq!(home.read("secrets.json"), OLD);
    assert_eq!(home.read("store.json"), "{\"OTHER\": \"x\"}");
}

#[test]
fn a_malformed_store_or_an_unusable_key_changes_nothing() {
    let home = Home::new(&[("secrets.json", "{\"A\": ")]);
    assert!(matches!(
        adopt(&home.settings()),
        Err(Error::MalformedStore { .. })
    ));
    assert_eq!(home.read("secrets.json"), "{\"A\": ");
    let home = Home::new(&[("secrets.json", OLD), ("credential.key", "")]);
    assert!(matches!(
        adopt(&home.settings()),
        Err(Error::KeyUnusable { .. })
    ));
    assert_eq!(home.read("secrets.json"), OLD);
    assert!(!home.path("store.json").exists());

    let home = Home::new(&[("secrets.json", OLD)]);
    adopt(&home.settings()).unwrap();
    std::fs::write(home.path("credential.key"), "another").unwrap();
    assert!(matches!(
        undo(&home.settings()),
        Err(Error::CannotDecrypt { .. })
    ));
    home.is_adopted();
}

#[test]
fn a_yaml_store_and_a_linked_one_are_adopted_too() {
    let home = Home::new(&[("secrets.yaml", "A: alpha\nlist: [1, two]\n")]);
    adopt(&home.settings()).unwrap();
    assert_eq!(home.settings().file_path, Some(home.path("store.yaml")));
    assert!(!home.path("secrets.yaml").exists());
    assert_eq!(home.get("A"), "alpha");
    undo(&home.settings()).unwrap();
    assert_eq!(home.get("A"), "alpha");
    assert!(home.read("secrets.yaml").contains("alpha"));
    assert!(std::fs::symlink_metadata(home.path("secrets.json")).is_err());

    let home = Home::new(&[("dotfile.json", OLD)]);
    symlink("dotfile.json", home.path("secrets.json")).unwrap();
    let report = adopt(&home.settings()).unwrap();
    home.is_adopted();
    assert_eq!(home.get("A"), "alpha");
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("dotfile.json"))
    );
}

#[test]
fn a_mount_that_runs_on_the_default_file_continues_with_the_adopted_store() {
    let home = Home::new(&[("secrets.json", OLD)]);
    let nothing = EnvironmentProvider::new([], "", &[]);
    let running = SecretsManager::from_settings_with(&home.settings(), nothing).unwrap();
    assert_eq!(running.get("A").unwrap().as_str(), "alpha");
    adopt(&home.settings()).unwrap();
    assert_eq!(running.get("A").unwrap().as_str(), "alpha");
    running.set("A", "again").unwrap();
    assert_eq!(home.get("A"), "again");
    home.is_adopted();
}
