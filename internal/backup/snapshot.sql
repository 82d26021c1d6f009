-- Begins a session for pg_dump --snapshot: prints the snapshot's name, on one line, and stays in its
-- transaction. checks.sql goes on in the same session once pg_dump has ended. Run by psql -XAtq -v ON_ERROR_STOP=1.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
-- Those of newer versions.
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
WHERE name IN ('idle_session_timeout', 'transaction_timeout')
\g /dev/null
SET search_path = pg_catalog;
BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
-- No snapshot holds sequences still: pg_dump finds them somewhere between here and the checks.
SELECT coalesce('VALUES ' || string_agg(format('(%s, (SELECT q.last_value + CASE WHEN q.is_called THEN %s ELSE 0 END FROM %I.%I q))', c.oid, s.seqincrement::numeric, n.nspname, c.relname), ', '),
	'SELECT 0, 0 WHERE false') AS sequences
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
WHERE (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
\gset
SELECT coalesce(json_object_agg(v.seq, v.next), '{}') AS sequences_before FROM (:sequences) AS v(seq, next)
\gset
SELECT pg_export_snapshot();
