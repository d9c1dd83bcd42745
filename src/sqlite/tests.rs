//! Hostile databases: endless statements, views, huge values, folders where others can write.

use super::*;
use std::path::PathBuf;

/// Rows without an end.
const ENDLESS: &str =
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";

fn database(schema: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/x.db");
    let made = connect_or_create(&path, BUSY_TIMEOUT).unwrap();
    drop(made);
    Connection::open(&path)
        .unwrap()
        .execute_batch(schema)
        .unwrap();
    (dir, path)
}

#[test]
fn an_endless_statement_is_interrupted() {
    let (_dir, path) = database("CREATE TABLE t (x)");
    let connection = connect(&path, Mode::Read, Duration::ZERO).unwrap();
    let began = Instant::now();
    let endless = connection.query_row(ENDLESS, [], |row| row.get::<_, i64>(0));
    let said = from_sqlite(&path, &endless.unwrap_err());
    assert_eq!(said.errno(), libc::EIO);
    assert!(said.to_string().contains("took too long"), "{said}");
    assert!(began.elapsed() < 20 * READ_TIMEOUT);
    // The next statement has a limit of its own.
    let rows = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(rows.unwrap(), 0);
}

#[test]
fn only_a_table_is_a_table_and_views_and_triggers_do_not_run() {
    let (_dir, path) = database(&format!(
        "CREATE TABLE t (x); CREATE VIEW v AS {ENDLESS};
         CREATE TRIGGER endless AFTER INSERT ON t BEGIN INSERT INTO t {ENDLESS}; END"
    ));
    let connection = connect(&path, Mode::Write, BUSY_TIMEOUT).unwrap();
    let has = |name| has_table(&connection, &path, name);
    assert!(has("t").unwrap() && has("T").unwrap() && !has("nothing").unwrap());
    let said = has("v").unwrap_err().to_string();
    assert!(said.contains("must be a table, and is a view"), "{said}");
    assert!(connection.prepare("SELECT * FROM v").is_err());
    connection.execute("INSERT INTO t VALUES (1)", []).unwrap();
    let rows = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(rows.unwrap(), 1, "the trigger ran");
}

#[test]
fn a_connection_to_read_cannot_write_and_huge_values_are_refused() {
    let (_dir, path) = database("CREATE TABLE t (x, y AS (zeroblob(x)))");
    let write = connect(&path, Mode::Write, BUSY_TIMEOUT).unwrap();
    write.execute("INSERT INTO t VALUES (1)", []).unwrap();
    drop(write);
    let other = Connection::open(&path).unwrap();
    other.execute("UPDATE t SET x = 100000000", []).unwrap();
    let read = connect(&path, Mode::Read, Duration::ZERO).unwrap();
    assert!(read.execute("INSERT INTO t VALUES (1)", []).is_err());
    let huge = read.query_row("SELECT y FROM t", [], |row| row.get::<_, Vec<u8>>(0));
    let said = from_sqlite(&path, &huge.unwrap_err()).to_string();
    assert!(said.contains("over 16 MiB"), "{said}");
}

#[test]
fn a_database_where_others_can_write_beside_it_is_not_opened() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, path) = database("CREATE TABLE t (x)");
    for mode in [0o777, 0o1777] {
        let state = dir.path().join("state");
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = connect(&path, Mode::Read, Duration::ZERO).err().unwrap();
        assert_eq!(error.errno(), libc::EACCES);
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        let new = path.with_file_name("new.db");
        assert!(connect_or_create(&new, BUSY_TIMEOUT).is_err());
        assert!(!new.exists());
    }
}
