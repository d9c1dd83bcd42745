//! Docker Compose, with the file of docs/containers.md.

use super::docker::Engine;
use super::*;

const PAGE: &str = include_str!("../../docs/containers.md");

#[test]
fn the_compose_file_of_the_documentation_gives_its_service_the_secrets() {
    let Some(docker) = Engine::start() else {
        return;
    };
    if Command::new("docker-compose")
        .arg("--version")
        .output()
        .is_err()
    {
        return eprintln!("skipped: there is no docker-compose here");
    }
    let driver = own_name("c");
    let daemon = Daemon::for_docker(&driver);
    daemon.set("HF_TOKEN", "hf_1");
    daemon.set("WANDB_API_KEY", "w_1");
    daemon.set("OTHER", "o");

    let shown = PAGE.split("```yml\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let file = shown
        .replace("image: IMAGE", "image: bb")
        // Engines of other tests may have a volume of the same name.
        .replace("name: hf", &format!("name: {driver}"))
        .replace("driver: simpletuner-live", &format!("driver: {driver}"));
    assert_ne!(file, shown);
    let home = scratch_home();
    fs::write(home.path().join("compose.yml"), file).unwrap();
    // This engine has no network. Of two streams, the lines would come in any order.
    let rest = "services:\n  trainer:\n    network_mode: none\n    \
                command: [sh, -c, \"exec 2>&1; cd /run/secrets; ls; cat *; echo; touch x\"]\n";
    fs::write(home.path().join("rest.yml"), rest).unwrap();
    let compose = |args: &[&str]| {
        let mut compose = Command::new("docker-compose");
        compose
            .args([
                "-H",
                &docker.host(),
                "-p",
                "test",
                "-f",
                "compose.yml",
                "-f",
                "rest.yml",
            ])
            .args(args)
            .current_dir(home.path())
            .env("HOME", home.path());
        ran(&mut compose)
    };
    // The service fails, because it writes to the view.
    let said = compose(&["up", "--no-color"]);
    let lines: Vec<&str> = said
        .out
        .lines()
        .filter_map(|line| Some(line.split_once("| ")?.1))
        .collect();
    let (read, failed) = lines.split_at(lines.len().min(4));
    assert_eq!(
        read,
        [
            "HF_TOKEN",
            "WANDB_API_KEY",
            "hf_1w_1",
            "touch: x: Read-only file system"
        ],
        "{}{} {failed:?}",
        said.out,
        said.err
    );
    let views = daemon.cli(&["view", "ls", "--json"]).done();
    assert!(views.contains(&format!("\"{driver}\"")), "{views}");
    compose(&["up", "--no-color"]);
    compose(&["down", "-v"]).done();
    assert_eq!(daemon.cli(&["view", "ls", "--json"]).done().trim(), "{}");
}
