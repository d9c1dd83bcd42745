"""What SimpleTuner does with its databases, by Python's own sqlite3 and hmac. STATE is its state folder."""

import hashlib
import hmac
import json
import os
import sqlite3
import sys
from datetime import datetime, timezone

STATE = os.environ["STATE"]
JOBS = os.path.join(STATE, "cloud", "jobs.db")
AUDIT = os.path.join(STATE, "audit.db")


def connect(path):
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute("PRAGMA " + pragma)
    return connection


def jobs():
    connection = connect(JOBS)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS provider_config (provider TEXT PRIMARY KEY, config TEXT NOT NULL DEFAULT '{}',"
        " updated_at TEXT NOT NULL)"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, status TEXT)")
    return connection


def now():
    return datetime.now(timezone.utc).isoformat()


def save(connection, provider, config):
    connection.execute(
        "INSERT OR REPLACE INTO provider_config (provider, config, updated_at) VALUES (?, ?, ?)",
        (provider, json.dumps(config), now()),
    )


def load(connection, provider):
    row = connection.execute("SELECT config FROM provider_config WHERE provider = ?", (provider,)).fetchone()
    return json.loads(row[0]) if row else {}


def key():
    if os.environ.get("SIMPLETUNER_AUDIT_KEY"):
        return os.environ["SIMPLETUNER_AUDIT_KEY"].encode()
    path = os.path.join(STATE, "audit.key")
    if not os.path.exists(path):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(32))
    with open(path, "rb") as file:
        return file.read()


def audit(path=AUDIT):
    connection = connect(path)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS audit_log (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT NOT NULL,"
        " event_type TEXT NOT NULL, actor_id INTEGER, actor_username TEXT, actor_ip TEXT, target_type TEXT,"
        " target_id TEXT, action TEXT NOT NULL, details TEXT NOT NULL DEFAULT '{}', previous_hash TEXT NOT NULL,"
        " entry_hash TEXT NOT NULL)"
    )
    return connection


def entry_hash(timestamp, event_type, actor_id, action, details, previous):
    data = f"{timestamp}|{event_type}|{actor_id}|{action}|{details}|{previous}"
    return hmac.new(key(), data.encode(), hashlib.sha256).hexdigest()


def append(connection, event_type, action, actor_id=None, details="{}"):
    connection.execute("BEGIN IMMEDIATE")
    last = connection.execute("SELECT entry_hash FROM audit_log ORDER BY id DESC LIMIT 1").fetchone()
    previous = last[0] if last else "genesis"
    at = now()
    connection.execute(
        "INSERT INTO audit_log (timestamp, event_type, actor_id, actor_username, action, details, previous_hash,"
        " entry_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (at, event_type, actor_id, "admin", action, details, previous,
         entry_hash(at, event_type, actor_id, action, details, previous)),
    )
    connection.execute("COMMIT")


def verify(connection):
    previous, rows = "genesis", 0
    for row in connection.execute(
        "SELECT id, timestamp, event_type, actor_id, action, details, previous_hash, entry_hash FROM audit_log"
        " ORDER BY id"
    ):
        number, *signed, previous_hash, hashed = row
        assert previous_hash == previous, f"row {number} does not follow"
        assert hashed == entry_hash(*signed, previous_hash), f"row {number} is not what was signed"
        previous, rows = hashed, rows + 1
    return rows
