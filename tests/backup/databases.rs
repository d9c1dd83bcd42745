//! SimpleTuner's database, which SimpleTuner writes meanwhile.

use std::fs;
use std::process::Stdio;

use super::support::wait_until;
use super::{back_up, full_home};

/// Moves an amount from one row to another and adds a row, in one transaction after the other, until the file `stop` is there.
const WRITER: &str = r#"
import os, sqlite3, time
db = sqlite3.connect(os.path.expanduser("~/.simpletuner/cloud/jobs.db"), isolation_level=None)
assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
db.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, text TEXT)")
db.execute("CREATE TABLE sums (name TEXT PRIMARY KEY, amount INTEGER)")
db.execute("INSERT INTO sums VALUES ('rows', 0), ('left', 0)")
while not os.path.exists("stop"):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO jobs (text) VALUES (?)", ("x" * 700,))
    db.execute("UPDATE sums SET amount = amount + 1 WHERE name = 'rows'")
    db.execute("UPDATE sums SET amount = amount - 1 WHERE name = 'left'")
    db.execute("COMMIT")
    open("writes", "a").write("x")
    # The database stays small.
    time.sleep(0.005)
"#;

const CHECK: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
rows, = db.execute("SELECT count(*) FROM jobs").fetchone()
sums = dict(db.execute("SELECT name, amount FROM sums"))
assert (sums["rows"], sums["left"]) == (rows, -rows), (rows, sums)
print(rows)
"#;

#[test]
fn each_backup_has_simpletuners_database_of_one_moment_while_it_is_written() {
    let home = full_home();
    home.write("writer.py", WRITER);
    home.write("check.py", CHECK);
    let mut writer = home.command("python3");
    writer.arg("writer.py").stdout(Stdio::null());
    let mut writer = writer.spawn().unwrap();
    let writes = || fs::metadata(home.path("writes")).map_or(0, |found| found.len());
    let mut last = 0;
    for number in 0..6 {
        let before = writes();
        wait_until("the writer goes on", || writes() > before);
        back_up(&home, &[]);
        let rows = home.sh(&format!(
            "mkdir {number}; cd {number}; age -d -i ../identity ../b.age | tar -x cloud/jobs.db; python3 ../check.py cloud/jobs.db"
        ));
        let rows: u64 = rows.trim().parse().unwrap();
        assert!(rows > last, "{rows} after {last}");
        last = rows;
    }
    home.write("stop", "");
    assert!(writer.wait().unwrap().success());
}
