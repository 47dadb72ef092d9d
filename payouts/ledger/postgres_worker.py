"""The statements of workers in PostgreSQL. The times in them are the database's; `$1` is the campaign, `$2` the worker."""

from __future__ import annotations

from payouts.ledger.entries import COLUMNS
from payouts.ledger.postgres_lock import SHARED_LOCK

_ROW = f"row_states.{COLUMNS}"  # the number, and columns that only one of the two tables has
_THESE = (
    "FROM row_contents WHERE row_contents.number = row_states.number "
    "AND row_states.number = ANY(ARRAY(SELECT picked.number FROM picked))"
)
"""An array, as no plan knows how few rows are picked: of a join it would read all rows."""
_PACE = """
worker AS MATERIALIZED (SELECT FROM workers WHERE number = $2 AND alive),
rate AS MATERIALIZED (SELECT min(rate) AS per_second FROM workers WHERE campaign = $1 AND alive),
campaign AS MATERIALIZED (SELECT condition, next_start, now_s() AS now FROM campaigns WHERE number = $1 FOR UPDATE),
pace AS MATERIALIZED (
  SELECT condition, now, CASE WHEN next_start > now + $4::double precision + coalesce(1 / per_second, 0) + 1 THEN now
    ELSE greatest(next_start, now) END AS base
  FROM campaign, rate
),
granted AS MATERIALIZED (
  SELECT CASE WHEN condition <> 'running' OR NOT EXISTS (SELECT FROM worker) THEN 0 WHEN per_second IS NULL THEN $3::bigint
    ELSE greatest(0, least($3::double precision, ceil((now + $4::double precision - base) * per_second)))::bigint END AS count
  FROM pace, rate
)
"""
"""How many of the $3 rows that are wanted may leave within the next $4 seconds.

A next start further ahead than a grant can put it comes from a wrong clock, or from a rate that is no longer given.
"""
_BUSY = "busy AS (UPDATE workers SET resting = false WHERE number = $2 AND resting AND EXISTS (SELECT FROM picked))"
"""Others wait again for a worker that had told them not to: it has new rows now, and may be lost before it tells them itself."""
_CLAIM_WHICH = """
WITH {pace}, picked AS MATERIALIZED (
  SELECT number FROM row_states WHERE campaign = $1 AND free {which} $5
  ORDER BY free LIMIT (SELECT count FROM granted) FOR UPDATE SKIP LOCKED
),
{busy},
claimed AS (
  UPDATE row_states SET state = 'sent', sent_at = (SELECT now FROM pace), worker = $2, claim = $6 {these} RETURNING {row}
),
counted AS (
  UPDATE campaigns SET generation = generation + (SELECT count(*) FROM picked),
    next_start = (SELECT base FROM pace) + coalesce((SELECT count(*) FROM picked) / (SELECT per_second FROM rate), 0)
  WHERE number = $1 AND EXISTS (SELECT FROM picked) RETURNING generation
)
SELECT condition, now, base - now, per_second, EXISTS (SELECT FROM worker), count, (SELECT generation FROM counted), claimed.*
FROM pace CROSS JOIN rate CROSS JOIN granted LEFT JOIN claimed ON true ORDER BY claimed.number
"""
CLAIM, CLAIM_ROW = (_CLAIM_WHICH.format(pace=_PACE, busy=_BUSY, row=_ROW, these=_THESE, which=which) for which in (">", "="))
PERMIT = f"""
WITH {_PACE}, counted AS (
  UPDATE campaigns SET next_start = (SELECT base FROM pace) + coalesce((SELECT count / per_second FROM granted, rate), 0)
  WHERE number = $1 AND (SELECT count FROM granted) > 0
)
SELECT condition, now, base - now, per_second, EXISTS (SELECT FROM worker), count FROM pace, rate, granted
"""
_TAKE_OVER_WHICH = f"""
WITH lost AS (
  UPDATE workers SET alive = false
  WHERE campaign = $1 AND alive AND number <> $2 AND lease_until < now_s() - $3::double precision RETURNING number
),
picked AS MATERIALIZED (
  SELECT number FROM row_states WHERE campaign = $1 AND under_way AND EXISTS (SELECT FROM workers WHERE number = $2 AND alive)
  AND NOT EXISTS (SELECT FROM workers WHERE workers.number = row_states.worker
    AND (alive OR lease_until >= now_s() - $3::double precision) AND workers.number NOT IN (SELECT lost.number FROM lost))
  AND (state <> 'unknown' OR $5) {{}}LIMIT $4 FOR UPDATE SKIP LOCKED
),
{_BUSY}
UPDATE row_states SET worker = CASE WHEN state = 'planned' THEN NULL ELSE $2::bigint END, claim = $6
{_THESE} RETURNING {_ROW}
"""
TAKE_OVER, TAKE_OVER_ROW = (_TAKE_OVER_WHICH.format(which) for which in ("", "AND number = $7 "))
BEGIN = f"""
WITH begun AS (
  INSERT INTO workers (campaign, host, process, rate, began_at, lease_until)
  SELECT $1::integer, $2::text, $3::bigint, $4::double precision, now_s(), now_s() + $5::double precision
  WHERE {SHARED_LOCK.format("$1::integer")} RETURNING number
),
ran AS (UPDATE campaigns SET run_at = now_s() WHERE number = $1::integer AND EXISTS (SELECT FROM begun))
SELECT number, now_s() FROM begun
"""
RENEW = "UPDATE workers SET lease_until = now_s() + $2::double precision WHERE number = $1 AND alive RETURNING now_s()"
END = "UPDATE workers SET alive = false, lease_until = now_s() WHERE number = $1 AND alive"
FORGET = """
DELETE FROM workers WHERE number = $2 AND NOT EXISTS (SELECT FROM row_states WHERE campaign = $1 AND worker = $2 AND under_way)
"""
RELEASE = "UPDATE row_states SET worker = NULL WHERE campaign = $1 AND worker = $2 AND under_way AND state <> 'sent'"
GIVE_BACK = (
    "UPDATE row_states SET state = 'planned', sent_at = NULL, worker = NULL WHERE campaign = $1 AND worker = $2 AND under_way "
    "AND state = 'sent' AND claim = ANY($3::bigint[])"
)
LET_GO = "UPDATE row_states SET worker = NULL WHERE campaign = $1 AND worker = $2 AND under_way AND claim = ANY($3::bigint[])"
OTHERS = """
WITH told AS (UPDATE workers SET resting = $3 WHERE number = $2 AND resting <> $3)
SELECT EXISTS (SELECT FROM row_states WHERE campaign = $1 AND free IS NOT NULL)
OR EXISTS (SELECT FROM row_states WHERE campaign = $1 AND under_way AND worker IS DISTINCT FROM $2
  AND state IN ('planned', 'sent', 'accepted')
  AND NOT EXISTS (SELECT FROM workers WHERE workers.number = row_states.worker AND resting AND lease_until > now_s()))
"""
GENERATION = "SELECT generation, now_s() FROM campaigns WHERE number = $1"
NAMES = "SELECT identity, vendor, name FROM ledger, campaigns WHERE number = $1"
STANDING = "SELECT tables = these_tables(), audited_at, generation, now_s() FROM ledger, campaigns WHERE number = $1"
