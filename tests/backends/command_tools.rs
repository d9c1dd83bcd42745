//! The recipes of `docs/backends.md`, with the real tools: pass, gopass and sops. A tool that is missing is skipped, with a message.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::servers::sops;
use crate::support::home::Home;

/// A home with a gpg key without a passphrase. Its agent ends with it.
struct GpgHome(Home);

impl GpgHome {
    fn new() -> Self {
        let home = Home::new();
        home.sh("mkdir -m 700 .gnupg; gpg --batch --quiet --passphrase '' --quick-generate-key me@example.com default default never");
        Self(home)
    }

    /// As the recipe of `docs/backends.md` has it.
    fn settings(&self, tool: &str) {
        let recipe = recipe(tool);
        self.0.write(".simpletuner/live.yaml", &recipe);
    }

    fn get(&self, key: &str) -> String {
        self.0.run(&["get", key]).done()
    }
}

impl Drop for GpgHome {
    fn drop(&mut self) {
        self.0.sh("gpgconf --kill all");
    }
}

/// The settings in the recipe for a tool.
fn recipe(tool: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backends.md");
    let page = std::fs::read_to_string(path).unwrap();
    let section = page
        .split("\n### ")
        .find(|section| section.starts_with(tool));
    let section = section.unwrap_or_else(|| panic!("docs/backends.md has no recipe for {tool}"));
    let mut blocks = section.split("```");
    let yaml = blocks.find_map(|block| block.strip_prefix("yaml\n"));
    yaml.unwrap().to_owned()
}

fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap();
    let there = std::env::split_paths(&path).any(|folder| folder.join(tool).exists());
    if !there {
        eprintln!("skipped: there is no {tool} here; scripts/test installs it");
    }
    there
}

#[test]
fn every_recipe_is_accepted_as_it_stands() {
    for tool in [
        "pass",
        "gopass",
        "sops",
        "1Password",
        "Bitwarden",
        "Azure Key Vault",
        "GCP Secret Manager",
    ] {
        let home = Home::new();
        home.write(".simpletuner/live.yaml", &recipe(tool));
        let shown = home.run(&["settings"]).done();
        assert!(shown.contains("command[].run"), "{shown}");
    }
}

#[test]
fn pass_gives_one_secret_at_a_time() {
    if !is_there("pass") || !is_there("gpg") {
        return;
    }
    let gpg = GpgHome::new();
    let home = &gpg.0;
    home.sh("pass init me@example.com; printf 'hf_1\\n' | pass insert -m -f SimpleTuner/HF_TOKEN");
    gpg.settings("pass");
    assert_eq!(gpg.get("HF_TOKEN"), "hf_1");
    assert_eq!(home.run(&["get", "NOPE"]).code, 4);
    // In the mount, as a newcomer has it, and after a change.
    home.run(&["mount"]).done();
    assert_eq!(home.sh("cat .simpletuner/live/secrets/HF_TOKEN"), "hf_1");
    home.sh("printf 'hf_2\\n' | pass insert -m -f SimpleTuner/HF_TOKEN");
    home.sh("echo > .simpletuner/live/cache/clear");
    assert_eq!(home.sh("cat .simpletuner/live/secrets/HF_TOKEN"), "hf_2");
    // Without the key to decrypt it, the last value.
    home.sh("gpgconf --kill all; mv .gnupg elsewhere; echo > .simpletuner/live/cache/clear");
    assert_eq!(home.sh("cat .simpletuner/live/secrets/HF_TOKEN"), "hf_2");
    let report = home.sh("jq -r .last_error .simpletuner/live/providers/pass");
    assert!(report.contains("ended with exit code"), "{report}");
    home.sh("gpgconf --kill all; rm -rf .gnupg; mv elsewhere .gnupg");
    home.run(&["umount"]).done();
}

#[test]
fn gopass_gives_one_secret_at_a_time() {
    // Debian's package of this name is another program.
    let version = Command::new("gopass").arg("version").output();
    if !version.is_ok_and(|version| version.status.success()) || !is_there("gpg") {
        eprintln!("skipped: there is no gopass of gopass.pw here");
        return;
    }
    let gpg = GpgHome::new();
    let home = &gpg.0;
    home.sh(
        "git config --global user.name me; git config --global user.email me@example.com\n\
         key=$(gpg --list-keys --with-colons | awk -F: '/^fpr/ {print $10; exit}')\n\
         gopass --yes init --nogit \"$key\" || gopass --yes init \"$key\"\n\
         printf hf_1 | gopass insert -f SimpleTuner/HF_TOKEN",
    );
    gpg.settings("gopass");
    assert_eq!(gpg.get("HF_TOKEN"), "hf_1");
    let missing = home.run(&["get", "NOPE"]);
    assert_eq!(missing.code, 4, "{}", missing.err);
}

#[test]
fn sops_decrypts_a_file_of_all_secrets() {
    let Some(sops) = sops() else {
        eprintln!("skipped: there is no sops here; scripts/test-tools makes it");
        return;
    };
    let gpg = GpgHome::new();
    let home = &gpg.0;
    home.sh("mkdir bin .simpletuner");
    let path: PathBuf = home.path("bin/sops");
    std::os::unix::fs::symlink(sops, path).unwrap();
    home.sh(
        "key=$(gpg --list-keys --with-colons | awk -F: '/^fpr/ {print $10; exit}')\n\
         echo '{\"HF_TOKEN\": \"hf_1\", \"N\": 1}' > plain.json\n\
         bin/sops encrypt --pgp \"$key\" --output .simpletuner/secrets.enc.json plain.json || exit; rm plain.json\n\
         ! grep hf_1 .simpletuner/secrets.enc.json",
    );
    gpg.settings("sops");
    let get = |key: &str| {
        let mut command = home.command(support::home::BINARY);
        let search = format!(
            "{}:{}",
            home.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        support::home::ran(command.env("PATH", search).args(["get", key]))
    };
    assert_eq!(get("HF_TOKEN").done(), "hf_1");
    assert_eq!(get("N").done(), "1");
    assert_eq!(get("NOPE").code, 4);
    home.sh("rm .simpletuner/secrets.enc.json");
    let said = get("HF_TOKEN").failed();
    assert!(said.contains("sops ended with exit code"), "{said}");
}
