//! `status` in words.

use super::support::home::{Home, signal};
use super::support::wait_until;

#[test]
fn status_says_at_a_glance_that_all_is_well_or_what_is_not() {
    let home = Home::new();
    home.run_with("hf_1", &["set", "HF_TOKEN"]).done();
    home.run(&["mount"]).done();
    let place = home.live("");
    let place = place.to_str().unwrap().trim_end_matches('/');
    let said = home.run(&["status"]).done();
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with(&format!("mount      {place}, up ")),
        "{said}"
    );
    for line in ["restarts   none", "views      none", "who may    this user"] {
        assert!(lines.contains(&line), "{line}: {said}");
    }
    let fields = said.split("\n\n").next().unwrap();
    assert!(
        !fields.contains("null") && !fields.contains("  -"),
        "{said}"
    );
    assert!(lines.len() < 20, "{said}");
    let server = home.server(&home.live(""));
    signal("KILL", server);
    wait_until("another server answers", || {
        home.server(&home.live("")) != server
    });
    home.sh("echo '{' > .simpletuner/live/bundle/secrets.json || true");
    let said = home.run(&["status"]).done();
    assert!(
        said.contains("1, the last at ") && said.contains("SIGKILL"),
        "{said}"
    );
    assert!(said.contains("failed write file"), "{said}");
    home.run(&["view", "create", "v", "--secret", "HF_*"])
        .done();
    wait_until("the view is mounted", || {
        home.run(&["status"]).done().contains("1 view at ")
    });
    home.run(&["umount"]).done();
    let said = home.run(&["status"]).failed();
    assert!(said.contains("nothing is mounted"), "{said}");
}
