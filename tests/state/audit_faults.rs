//! The audit trails while servers are killed, databases are locked or damaged, and the user database hangs.

use super::audit_rows::{
    READS, actions, checked_by_simpletuner, count, has_rows_of_reads, me, reads, rows,
};
use super::*;

#[test]
fn a_killed_servers_pending_rows_are_finished_by_the_next_server() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo v > secrets/A");
    let server = live.server_pid();
    live.sh("for i in {1..5}; do read -r x < secrets/A || [ $x = v ]; done");
    // Until their second is over, the rows are pending.
    wait_until("the database has the reads", || {
        has_rows_of_reads(live.home.path())
    });
    signal("KILL", server);
    wait_until("another server has started", || live.server_pid() != server);
    wait_until("the new server has finished the rows", || {
        count(&reads(live.home.path(), "A")) == 5
    });
    live.sh("cat secrets/A");
    let home = live.stop();
    assert_eq!(count(&reads(home.path(), "A")), 6);
    checked_by_simpletuner(home.path(), READS);
    checked_by_simpletuner(home.path(), "audit.db");
}

/// A library that makes the user database hang until the file `answer` exists.
const HANGING_USER_DATABASE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>
int getpwuid_r(uid_t uid, struct passwd *pwd, char *buf, size_t len, struct passwd **result) {
    static int (*next)(uid_t, struct passwd *, char *, size_t, struct passwd **);
    if (!next) next = dlsym(RTLD_NEXT, "getpwuid_r");
    while (access(getenv("FAKE_ANSWER"), F_OK)) usleep(1000);
    return next(uid, pwd, buf, len, result);
}
"#;

#[test]
fn a_user_database_that_hangs_delays_no_row() {
    let _alone = alone();
    let home = home_of_simpletuner();
    let (source, library) = (home.path().join("d.c"), home.path().join("d.so"));
    let answer = home.path().join("answer");
    fs::write(&source, HANGING_USER_DATABASE).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .args([&library, &source]);
    ran(cc.arg("-ldl")).done();
    let user = me(home.path());
    let env = vec![
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKE_ANSWER", answer.to_str().unwrap()),
    ];
    let setup = Setup {
        env,
        ..Setup::default()
    };
    let live = Live::start_in(home, setup);
    live.sh("echo v > secrets/A");
    let server = live.server_pid();
    live.sh("for i in {1..5}; do read -r x < secrets/A || [ $x = v ]; done");
    wait_until("the database has the reads", || {
        has_rows_of_reads(live.home.path())
    });
    let uid = format!("unix:{}", rustix::process::geteuid().as_raw());
    wait_until(
        "the change is in the chain, under the user's number",
        || {
            let rows = rows(live.home.path(), "audit.db");
            rows.last().unwrap()["actor_username"] == uid
        },
    );
    signal("KILL", server);
    wait_until("another server has started", || live.server_pid() != server);
    wait_until("the new server has finished the rows", || {
        count(&reads(live.home.path(), "A")) == 5
    });
    assert_eq!(reads(live.home.path(), "A")[0]["actor_username"], uid);
    fs::write(&answer, "").unwrap();
    wait_until("rows have the user's name again", || {
        live.sh("echo v > secrets/A");
        let rows = rows(live.home.path(), "audit.db");
        rows.last().unwrap()["actor_username"] == format!("unix:{user}")
    });
    live.sh("cat secrets/A");
    let home = live.stop();
    let of_a = reads(home.path(), "A");
    assert_eq!(count(&of_a), 6);
    let last = of_a.last().unwrap();
    assert_eq!(last["actor_username"], format!("unix:{user}"));
    assert_eq!(last["details"]["user"], user);
    checked_by_simpletuner(home.path(), READS);
}

#[test]
fn a_locked_trail_delays_nobody_and_gets_its_rows_later() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo v > secrets/A; cat secrets/A");
    wait_until("the first read is in the chain", || {
        !reads(live.home.path(), "A").is_empty()
    });
    let lock = "locks = [connect(AUDIT), connect(os.path.join(STATE, 'live-audit.db'))]
for lock in locks: lock.execute('BEGIN IMMEDIATE')";
    let holding = Holding::start(
        live.home.path(),
        lock,
        "for lock in locks: lock.execute('ROLLBACK')",
    );
    for n in 0..20 {
        live.sh(&format!("echo {n} > secrets/K{n}; cat secrets/K{n}"));
    }
    assert!(reads(live.home.path(), "K0").is_empty());
    holding.let_go();
    wait_until("the rows are written", || {
        let sets = actions(&rows(live.home.path(), "audit.db"));
        sets.last().unwrap() == "Secret K19 set" && count(&reads(live.home.path(), "K19")) == 1
    });
    let sets = actions(&rows(live.home.path(), "audit.db"));
    let wanted: Vec<_> = (0..20).map(|n| format!("Secret K{n} set")).collect();
    assert_eq!(sets[sets.len() - 20..], wanted);
    for n in 0..20 {
        assert_eq!(count(&reads(live.home.path(), &format!("K{n}"))), 1);
    }
    checked_by_simpletuner(live.home.path(), "audit.db");
    checked_by_simpletuner(live.home.path(), READS);
}

#[test]
fn unmounting_waits_for_the_last_rows_of_a_locked_trail() {
    let _alone = alone();
    let live = mounted(home_of_simpletuner());
    live.sh("echo v > secrets/A; echo v > secrets/B; cat secrets/A");
    wait_until("the first read is in the chain", || {
        !reads(live.home.path(), "A").is_empty()
    });
    let lock = "lock = connect(os.path.join(STATE, 'live-audit.db'))
lock.execute('BEGIN IMMEDIATE')";
    let holding = Holding::start(live.home.path(), lock, "lock.execute('ROLLBACK')");
    live.sh("cat secrets/B");
    let (server, log) = (live.server_pid(), live.home("daemon.log"));
    let home = std::thread::scope(|scope| {
        let ending = scope.spawn(|| live.stop());
        wait_until("the server is unmounting", || {
            fs::read_to_string(&log).unwrap().contains("unmounting")
        });
        // Longer than one attempt to write takes.
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(2500) {
            assert!(!support::home::has_ended(server), "the server has given up");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        holding.let_go();
        ending.join().unwrap()
    });
    assert_eq!(count(&reads(home.path(), "B")), 1);
    checked_by_simpletuner(home.path(), READS);
}

#[test]
fn a_broken_chain_is_found_by_verify_logged_once_and_still_appended_to() {
    let _alone = alone();
    let home = home_of_simpletuner();
    let tamper = "a = audit()
for n in range(4): append(a, 'config.changed', f'Change {n}', 1)
a.execute(\"UPDATE audit_log SET details = '{\\\"x\\\": 1}' WHERE id = 3\")";
    simpletuner(home.path(), tamper);
    let mut home = Home(home);
    let verified = home.run(&["audit", "verify"]);
    assert_eq!(verified.code, 1);
    assert!(
        verified
            .out
            .contains("audit.db: 5 rows, broken at row 3: it was changed"),
        "{}",
        verified.out
    );
    assert!(
        verified.err.contains("is broken at row 3"),
        "{}",
        verified.err
    );
    let live = mounted(std::mem::replace(&mut home.0, support::scratch_home()));
    live.sh("echo v > secrets/A");
    let log = || fs::read_to_string(live.home("daemon.log")).unwrap();
    wait_until("the log has the broken row", || {
        log().contains("is broken at row 3")
    });
    live.sh("for i in {1..5}; do echo $i > secrets/A; done");
    wait_until("rows are still appended", || {
        let sets = actions(&rows(live.home.path(), "audit.db"));
        sets.iter()
            .filter(|action| *action == "Secret A set")
            .count()
            == 6
    });
    assert_eq!(log().matches("is broken at row").count(), 1, "{}", log());
    let json = ran(live.cli().args(["audit", "verify", "--json"]));
    let found: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(found[0]["broken"]["id"], 3);
    assert_eq!(found[1]["broken"], Value::Null);
}

#[test]
fn a_damaged_trail_delays_nobody_and_stays_as_it_is() {
    let _alone = alone();
    let home = support::scratch_home();
    let folder = home.path().join(".simpletuner");
    fs::create_dir(&folder).unwrap();
    let garbage = "no database at all, but of some length ".repeat(100);
    for file in ["audit.db", READS] {
        fs::write(folder.join(file), &garbage).unwrap();
    }
    let live = mounted(home);
    live.sh("for i in {1..5}; do echo $i > secrets/A; cat secrets/A; done");
    let log = || fs::read_to_string(live.home("daemon.log")).unwrap();
    wait_until("the log has the reason", || {
        log().matches("it is not an SQLite database").count() >= 2
    });
    assert_eq!(
        log()
            .matches("cannot be written, and is tried again")
            .count(),
        2,
        "{}",
        log()
    );
    // Once the damaged files are gone, all kept rows are written.
    for file in ["audit.db", READS] {
        fs::remove_file(live.home(".simpletuner").join(file)).unwrap();
    }
    wait_until("the rows are written", || {
        rows(live.home.path(), "audit.db").len() == 5 && count(&reads(live.home.path(), "A")) == 5
    });
    checked_by_simpletuner(live.home.path(), "audit.db");
}
