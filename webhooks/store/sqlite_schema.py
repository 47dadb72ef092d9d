"""The schema of a `SQLiteStore`'s file."""

from __future__ import annotations

from rewards_core.sqlite.migrations import Schema

_MIGRATIONS = (
    """
    CREATE TABLE identity (identity BLOB PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE event (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      scope TEXT NOT NULL,
      name TEXT NOT NULL,
      identity BLOB NOT NULL,
      kind TEXT,
      uid TEXT,
      state INTEGER NOT NULL,
      received_at REAL NOT NULL,
      occurred_at TEXT,
      correlation_id TEXT,
      attempt TEXT,
      problem TEXT,
      signature TEXT,
      body BLOB NOT NULL
    );
    CREATE INDEX event_received ON event (received_at);
    CREATE INDEX event_open ON event (state, id) WHERE state > 0;
    CREATE TABLE job (
      event_id INTEGER NOT NULL,
      handler TEXT NOT NULL,
      state INTEGER NOT NULL,
      due_at REAL NOT NULL,
      attempts INTEGER NOT NULL,
      reason TEXT,
      PRIMARY KEY (event_id, handler)
    ) WITHOUT ROWID;
    CREATE INDEX job_due ON job (handler, due_at, event_id) WHERE state = 1;
    CREATE TABLE outcome (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      status TEXT NOT NULL,
      resource BLOB NOT NULL,
      via TEXT NOT NULL,
      settled_at REAL NOT NULL
    );
    CREATE UNIQUE INDEX outcome_ref ON outcome (scope, kind, uid);
    CREATE INDEX outcome_settled ON outcome (settled_at);
    CREATE TABLE conflict (
      seq INTEGER PRIMARY KEY,
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      status TEXT NOT NULL,
      resource BLOB NOT NULL,
      via TEXT NOT NULL,
      settled_at REAL NOT NULL
    );
    CREATE INDEX conflict_ref ON conflict (scope, kind, uid);
    CREATE TABLE question (
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      due_at REAL NOT NULL,
      PRIMARY KEY (scope, kind, uid)
    ) WITHOUT ROWID;
    CREATE INDEX question_due ON question (scope, due_at);
    CREATE TABLE pending (
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      added_at REAL NOT NULL,
      PRIMARY KEY (scope, kind, uid)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE outcome ADD COLUMN key TEXT;
    ALTER TABLE conflict ADD COLUMN key TEXT;
    CREATE INDEX outcome_key ON outcome (scope, kind, key) WHERE key IS NOT NULL;
    """,
    # from here on `due_at` and other times that people do not see are seconds of the host's uptime; see `meta.boot`
    """
    ALTER TABLE outcome ADD COLUMN confirmed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE conflict ADD COLUMN confirmed INTEGER NOT NULL DEFAULT 0;
    UPDATE outcome SET confirmed = 1 WHERE via = 'poll';
    CREATE INDEX identity_day ON identity (day);
    ALTER TABLE job ADD COLUMN fence TEXT;
    ALTER TABLE job ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
    UPDATE job SET due_at = 0;
    ALTER TABLE pending RENAME TO registered;
    CREATE TABLE pending (
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      added_at REAL NOT NULL,
      due_at REAL NOT NULL,
      polls INTEGER NOT NULL,
      priority INTEGER NOT NULL,
      attempt INTEGER NOT NULL,
      watched INTEGER NOT NULL,
      fence TEXT,
      missing INTEGER NOT NULL DEFAULT 0,
      missing_at REAL NOT NULL DEFAULT 0,
      PRIMARY KEY (scope, kind, uid)
    ) WITHOUT ROWID;
    INSERT INTO pending SELECT scope, kind, uid, unixepoch('subsec'), 0, 0, 0, 0, 0, NULL, 0, 0 FROM question;
    INSERT OR IGNORE INTO pending SELECT scope, kind, uid, added_at, 0, 0, 4, 0, 0, NULL, 0, 0 FROM registered;
    DROP TABLE registered;
    DROP TABLE question;
    CREATE INDEX pending_due ON pending (scope, priority, due_at);
    CREATE INDEX pending_claimed ON pending (scope, due_at) WHERE fence IS NOT NULL;
    CREATE TABLE process (
      id TEXT PRIMARY KEY,
      pid INTEGER NOT NULL,
      address TEXT,
      renewed_at REAL NOT NULL,
      alive INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE interest (
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      process TEXT NOT NULL,
      watcher TEXT NOT NULL,
      PRIMARY KEY (scope, kind, uid, process, watcher)
    ) WITHOUT ROWID;
    CREATE INDEX interest_of ON interest (process);
    CREATE TABLE subscription (
      service TEXT NOT NULL,
      handler TEXT NOT NULL,
      scope TEXT NOT NULL,
      patterns TEXT NOT NULL,
      unserved_hours INTEGER NOT NULL,
      PRIMARY KEY (service, handler, scope)
    ) WITHOUT ROWID;
    CREATE TABLE served (
      process TEXT NOT NULL,
      service TEXT NOT NULL,
      handler TEXT NOT NULL,
      scope TEXT NOT NULL,
      patterns TEXT NOT NULL,
      PRIMARY KEY (process, service, handler, scope, patterns)
    ) WITHOUT ROWID;
    CREATE TABLE budget (
      scope TEXT PRIMARY KEY,
      next_at REAL NOT NULL,
      abandoned_at REAL NOT NULL,
      further_at REAL NOT NULL,
      paused_until REAL NOT NULL,
      refusals INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE rate (
      scope TEXT NOT NULL,
      process TEXT NOT NULL,
      per_second REAL NOT NULL,
      seen_at REAL NOT NULL,
      PRIMARY KEY (scope, process, per_second)
    ) WITHOUT ROWID;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    INSERT INTO meta VALUES ('members', 0), ('upkeep_at', -1e9), ('counted_at', -1e9);
    """,
    # `also`: the operations that an event mentions besides the one in its own row
    """
    CREATE INDEX event_uid ON event (uid) WHERE uid IS NOT NULL;
    CREATE TABLE also (
      event_id INTEGER NOT NULL,
      place INTEGER NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      PRIMARY KEY (event_id, place)
    ) WITHOUT ROWID;
    CREATE INDEX also_uid ON also (uid);
    CREATE INDEX outcome_unusual ON outcome (status, seq) WHERE status <> 'done';
    ALTER TABLE job ADD COLUMN began_at REAL;
    """,
    "ALTER TABLE process ADD COLUMN report TEXT",
    # `about`: what else an operation is about, as `KIND/UID`
    """
    ALTER TABLE pending ADD COLUMN about TEXT;
    CREATE INDEX pending_about ON pending (scope, about) WHERE about IS NOT NULL;
    """,
)

SCHEMA = Schema(kind="webhook store", application_id=0x72776462, migrations=_MIGRATIONS)
