//! Reads the rows of the audit trails as SimpleTuner's own code would, for the tests of the trails.

use super::*;

pub(super) const READS: &str = "live-audit.db";

/// The rows of a trail, with their details parsed; not those about the other trail.
pub(super) fn rows(home: &Path, file: &str) -> Vec<Value> {
    let program = format!(
        "path = os.path.join(STATE, '{file}')
if os.path.exists(path):
    c = sqlite3.connect(path, timeout=30)
    c.row_factory = sqlite3.Row
    for row in c.execute('SELECT * FROM audit_log ORDER BY id') if c.execute(
        \"SELECT 1 FROM sqlite_master WHERE name = 'audit_log'\").fetchone() else []:
        row = dict(row)
        row['details'] = json.loads(row['details'])
        if 'anchor' not in row['details']: print(json.dumps(row))"
    );
    let text = simpletuner(home, &program);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The rows of reads of a key.
pub(super) fn reads(home: &Path, key: &str) -> Vec<Value> {
    let mut rows = rows(home, READS);
    rows.retain(|row| row["target_id"] == key);
    rows
}

/// Whether the database has rows of reads, in the chain or pending.
pub(super) fn has_rows_of_reads(home: &Path) -> bool {
    let pending = "path = os.path.join(STATE, 'live-audit.db')
c = sqlite3.connect(path, timeout=30) if os.path.exists(path) else None
there = c and c.execute(\"SELECT count(*) FROM sqlite_master WHERE name IN ('pending', 'audit_log')\").fetchone()[0] == 2
print(sum(c.execute('SELECT count(*) FROM ' + t).fetchone()[0] for t in ('pending', 'audit_log')) if there else 0)";
    simpletuner(home, pending).trim() != "0"
}

pub(super) fn count(rows: &[Value]) -> u64 {
    rows.iter()
        .map(|row| row["details"]["count"].as_u64().unwrap())
        .sum()
}

pub(super) fn actions(rows: &[Value]) -> Vec<String> {
    let action = |row: &Value| row["action"].as_str().unwrap().to_owned();
    rows.iter().map(action).collect()
}

/// Verifies a trail as SimpleTuner does; returns the number of rows.
pub(super) fn checked_by_simpletuner(home: &Path, file: &str) -> String {
    let check = format!("print(verify(audit(os.path.join(STATE, '{file}'))))");
    simpletuner(home, &check).trim().to_owned()
}

pub(super) fn me(home: &Path) -> String {
    ran(
        python_in(home, "import pwd; print(pwd.getpwuid(os.getuid()).pw_name)")
            .stdin(Stdio::null()),
    )
    .done()
    .trim()
    .to_owned()
}
