-- The first part of the checks of a database: what psql -XAtq runs before pg_dump does. Each row of the output is one JSON object. The variable
-- lock_timeout is in milliseconds, 0 for ever, which is the default.
\set ON_ERROR_STOP on
\if :{?lock_timeout}
\else
\set lock_timeout 0
\endif
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
	WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout') \g /dev/null
SET lock_timeout = :'lock_timeout';
SET client_encoding = 'UTF8';
SET search_path = pg_catalog;
SET row_security = off;
SET quote_all_identifiers = off;
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SET lc_monetary = 'C';
SET xmloption = 'content';
-- The tables that the second part reads are locked until it has: pg_dump's own locks are gone when it ends, and what then empties, drops or rewrites a table
-- does so under every snapshot. LOCK TABLE comes ahead of all that takes the snapshot, so that a table which is in it is there. One that is dropped before it
-- is locked is no failure: the list is made anew. Whatever else goes wrong is told by the last attempt, which does not wait a second time.
SELECT $$SELECT coalesce('LOCK TABLE ' || string_agg(format('ONLY %I.%I', n.nspname, c.relname), ', ' ORDER BY c.oid) || ' IN ACCESS SHARE MODE', 'SET search_path = pg_catalog') AS locks
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'r'
		AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
		AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
		AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')$$ AS list \gset
:list \gset
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
\set ON_ERROR_STOP off
:locks;
\if :ERROR
ROLLBACK;
SELECT set_config('lock_timeout', CASE :'LAST_ERROR_SQLSTATE' WHEN '55P03' THEN '1' ELSE :'lock_timeout' END, false) \g /dev/null
:list \gset
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
:locks;
\if :ERROR
ROLLBACK;
SELECT set_config('lock_timeout', CASE :'LAST_ERROR_SQLSTATE' WHEN '55P03' THEN '1' ELSE :'lock_timeout' END, false) \g /dev/null
:list \gset
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
\set ON_ERROR_STOP on
:locks;
\endif
SET lock_timeout = :'lock_timeout';
\endif
\set ON_ERROR_STOP on
-- What was made in the meantime is in the snapshot too.
:list \gset
:locks;
-- Sequences come first, because neither pg_dump nor this sees them in a snapshot: what pg_dump finds later is not behind what is said here.
SELECT format('SELECT jsonb_build_object(''relation'', %L, ''kind'', ''sequence'', ''last_value'', last_value, ''is_called'', is_called, ''increment'', %s) FROM %s',
		name, increment, name)
	FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, s.seqincrement AS increment
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
		WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
			AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
			AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) x
	ORDER BY name COLLATE "C" \gexec
